"""The sections of a study file, checked as they are read. JAX is imported only to check names and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .names import BONDS_ALONE, faults_of_name, of_bonds, of_pairs

if TYPE_CHECKING:
    from ..potentials import Potential

MOST_TASKS = 1_000_000
"""In one study. A study with more tasks is more likely a mistake."""

MOST_PARTICLES = 1_000_000

LARGEST_PACKING_FRACTION = 2.0
"""Of spheres that overlap; a larger one is more likely a mistake."""

Positive = Annotated[FiniteFloat, Field(gt=0)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]


def pair_potentials() -> dict[str, type[Potential]]:
    """The potentials that a study file may name: those that are sums over pairs."""
    from ..potentials import REGISTRY

    return {name: potential for name, potential in REGISTRY.items() if potential.is_pairwise}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SystemSection(Section):
    """Random packings, or packings from files."""

    files: Annotated[list[str], Field(min_length=1)] | None = None
    n: Annotated[StrictInt, Field(ge=2, le=MOST_PARTICLES)] = 128
    dim: Literal[2, 3] = 2
    diameters: Annotated[list[Positive], Field(min_length=1, max_length=1000)] | None = None
    packing_fraction: Annotated[FiniteFloat, Field(gt=0, le=LARGEST_PACKING_FRACTION)] = 0.98
    polydispersity: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0
    fixed: list[str] = []

    @property
    def sizes(self) -> list[float]:
        return self.diameters or [1.0, 0.6]

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: list[str] | None) -> list[str] | None:
        for name in files or ():
            if Path(name).is_absolute() or ".." in Path(name).parts or not name.strip():
                raise ValueError(f"paths are relative to the folder of the study, or of --data, and stay in it: {name}")
        return files

    @model_validator(mode="after")
    def _one_source(self) -> SystemSection:
        given = sorted(self.model_fields_set & {"n", "packing_fraction", "polydispersity"})
        if self.files is not None and given:
            raise ValueError(f"packings from files have their own {', '.join(given)}: leave that out")
        if self.files is None and self.n < len(self.sizes):
            raise ValueError(f"{self.n} particles cannot have {len(self.sizes)} different diameters")
        return self


class PotentialSection(BaseModel):
    """A pair potential by name, and its parameters: numbers, or a matrix with one entry per pair of species.

    Bonds and angles in files are added, with parameters such as `bonds.stiffness`; the name `bonds` stands for these
    alone.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, FiniteFloat | list[list[FiniteFloat]]] = Field(init=False)
    name: str = "soft-sphere"

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)

    @property
    def own(self) -> dict[str, Any]:
        """The parameters of the pair potential, without those of bonds and angles."""
        return of_pairs(self.parameters)

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        _raise(faults_of_name(name, [*pair_potentials(), BONDS_ALONE], "potential"))
        return name

    @model_validator(mode="after")
    def _known_parameters(self) -> PotentialSection:
        from ..potentials.topology import PARAMETERS

        what = f"parameter of {self.name}"
        known = [*([] if self.name == BONDS_ALONE else pair_potentials()[self.name]().number_names()), *PARAMETERS]
        _raise([fault for name in self.parameters for fault in faults_of_name(name, known, what)])
        _raise(self.faults_with())
        return self

    def faults_with(self, **changed: float) -> list[str]:
        """What is wrong with the potential, some of its parameters changed."""
        if self.name == BONDS_ALONE:
            return []
        given = self.own | of_pairs(changed)
        try:
            potential = pair_potentials()[self.name](**given)
            potential.check()
            potential.check_values()
        except (TypeError, ValueError) as error:
            return [f"that makes no {self.name}: {str(error).splitlines()[0]}"]
        return []

    @property
    def differentiable(self) -> list[str]:
        """The parameters of the pair potential that can vary, and that a response can be taken to."""
        return [] if self.name == BONDS_ALONE else pair_potentials()[self.name]().parameter_names()


class RelaxationSection(Section):
    minimizer: str = "fire"
    tolerance: Positive | None = None
    relative_tolerance: Annotated[Positive, Field(le=1e-2)] = 1e-10
    max_steps: Annotated[StrictInt, Field(ge=1, le=10**9)] = 100_000
    one_sided: StrictBool = False
    pressure: FiniteFloat | None = None

    @field_validator("minimizer")
    @classmethod
    def _known_minimizer(cls, name: str) -> str:
        from ..minimizers import REGISTRY

        _raise(faults_of_name(name, REGISTRY, "minimizer"))
        return name


class ComputeSection(Section):
    """What to compute of every packing."""

    response: list[str] = []
    properties: list[str] = ["energy", "pressure", "contact_number"]
    certificate: StrictBool = True

    @field_validator("properties")
    @classmethod
    def _known_properties(cls, names: list[str]) -> list[str]:
        from ..properties import REGISTRY

        _raise([fault for name in names for fault in faults_of_name(name, REGISTRY, "property")])
        return distinct(names)

    @field_validator("response")
    @classmethod
    def _distinct_names(cls, names: list[str]) -> list[str]:
        return distinct(names)

    @property
    def parameters(self) -> list[str]:
        """The parameters that are needed by name."""
        return self.response

    @property
    def needs_cell(self) -> list[str]:
        """What cannot be computed of a packing with open boundaries; but the box, of one open along some directions."""
        from ..properties import REGISTRY

        properties = [name for name in self.properties if REGISTRY[name].needs_cell]
        return properties + [name for name in self.response if name == "box"]

    def bytes_of(self, n: int, dim: int) -> float:
        """The memory for the results of one packing beside those of its relaxation."""
        return 32.0 * n * dim * n if "diameters" in self.response else 0.0


class KeepSection(Section):
    """What is written besides the numbers of the table."""

    positions: StrictBool = True
    response: StrictBool = True


class ExecutionSection(Section):
    batch_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None


class Range(Section):
    """An interval of values; a grid takes `count` of them."""

    low: FiniteFloat
    high: FiniteFloat
    count: Annotated[StrictInt, Field(ge=1, le=MOST_TASKS)] | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, and {self.low:g} is not below {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above zero, not at {self.low:g}")
        return self

    def at(self, fraction: float) -> float:
        if self.scale == "log":
            return float(math.exp((1 - fraction) * math.log(self.low) + fraction * math.log(self.high)))
        return float((1 - fraction) * self.low + fraction * self.high)


Values = Annotated[list[FiniteFloat], Field(min_length=1, max_length=MOST_TASKS)]
Varied = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Values, Tag("values")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "values"),
]


Method = Literal["grid", "random", "sobol"]
METHODS: tuple[str, ...] = get_args(Method)


class SweepSection(Section):
    """The parameters that vary: every combination of their values, or samples."""

    method: Method = "grid"
    samples: Annotated[StrictInt, Field(ge=1, le=MOST_TASKS)] | None = None
    seed: Seed = 0
    parameters: dict[str, Varied] = {}

    @model_validator(mode="after")
    def _fits_method(self) -> SweepSection:
        for name, varied in self.parameters.items():
            if self.method == "grid" and isinstance(varied, Range) and varied.count is None:
                raise ValueError(f"{name} needs a count of values: {{low = …, high = …, count = …}}")
            if self.method != "grid" and not isinstance(varied, Range):
                raise ValueError(f"{name} is sampled, and so needs a range: {{low = …, high = …}}")
        if self.method != "grid" and self.samples is None:
            raise ValueError(f"{self.method} sampling needs a number of samples")
        if self.method == "grid" and self.samples is not None:
            raise ValueError("a grid has no samples: leave that out, or take method = 'random' or 'sobol'")
        return self

    @property
    def points(self) -> int:
        """The number of combinations."""
        if self.method != "grid":
            return self.samples or 0
        return math.prod(v.count or 0 if isinstance(v, Range) else len(v) for v in self.parameters.values())


class Study(Section):
    """A whole study file. Fields are checked in this order, and validators can use the fields before them.

    A kind of study with other results is a subclass with another section `compute`, which has the properties
    `parameters` and `needs_cell` and the method `bytes_of`, too.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "study"
    kind: str = "response"
    system: SystemSection = Field(default_factory=SystemSection)
    potential: PotentialSection = Field(default_factory=PotentialSection)
    relaxation: RelaxationSection = Field(default_factory=RelaxationSection)
    seeds: Annotated[StrictInt, Field(ge=1, le=MOST_TASKS)] | Annotated[list[Seed], Field(min_length=1)] = 1
    sweep: SweepSection = Field(default_factory=SweepSection)
    compute: ComputeSection = Field(default_factory=ComputeSection)
    keep: KeepSection = Field(default_factory=KeepSection)
    execution: ExecutionSection = Field(default_factory=ExecutionSection)

    @property
    def every_seed(self) -> list[int]:
        """The seeds of the random positions; packings from files have none."""
        if self.system.files is not None:
            return []
        return list(range(self.seeds)) if isinstance(self.seeds, int) else distinct(self.seeds)

    @field_validator("potential")
    @classmethod
    def _has_bonds(cls, potential: PotentialSection, info: ValidationInfo) -> PotentialSection:
        system = info.data.get("system")
        if system is not None and system.files is None:
            of_files = [*of_bonds(potential.parameters)]
            if potential.name == BONDS_ALONE:
                of_files.append(BONDS_ALONE)
            _raise([f"random packings have no bonds: leave {name} out, or name files" for name in of_files])
        return potential

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str, info: ValidationInfo) -> str:
        if info.context is not None:
            _raise(faults_of_name(kind, info.context["kinds"], "kind of study"))
        return kind

    @field_validator("seeds")
    @classmethod
    def _only_of_random_packings(cls, seeds: Any, info: ValidationInfo) -> Any:
        system = info.data.get("system")
        if system is not None and system.files is not None:
            raise ValueError("packings from files have no seeds: leave that out")
        return seeds

    @field_validator("sweep")
    @classmethod
    def _can_vary(cls, sweep: SweepSection, info: ValidationInfo) -> SweepSection:
        offered, faults = list(_variable(info.data)), []
        for name, varied in sweep.parameters.items():
            if "potential" in info.data or name in OF_THE_PREPARATION:
                faults += faults_of_name(name, offered, "parameter to vary")
            values = [varied.low, varied.high] if isinstance(varied, Range) else varied
            if name == "n":
                faults += _faults_of_n(varied, info.data.get("system"))
            if (name == "packing_fraction" or name.startswith("species-diameter:")) and min(values) <= 0:
                faults.append(f"{name} must be positive, and {min(values):g} is not")
            if name == "packing_fraction" and max(values) > LARGEST_PACKING_FRACTION:
                faults.append(f"packing_fraction must be at most {LARGEST_PACKING_FRACTION:g}, not {max(values):g}")
            if "potential" in info.data and name in info.data["potential"].differentiable:
                faults += info.data["potential"].faults_with(**{name: min(values)})
            if name == "polydispersity" and not 0 <= min(values) <= max(values) <= 1:
                faults.append("polydispersity must lie between 0 and 1")
        seeds = info.data.get("seeds", 1)
        tasks = sweep.points * (seeds if isinstance(seeds, int) else len(seeds))
        if tasks > MOST_TASKS:
            faults.append(f"that makes {tasks} tasks, and {MOST_TASKS} are the most: take fewer values or seeds")
        _raise(faults)
        return sweep

    @field_validator("compute")
    @classmethod
    def _known_parameters(cls, compute: ComputeSection, info: ValidationInfo) -> ComputeSection:
        if "potential" in info.data and info.data.get("system") is not None:
            differentiable = [name for name in _variable(info.data) if name not in OF_THE_PREPARATION]
            offered = ["diameters", "box", *differentiable]
            _raise([fault for name in compute.parameters for fault in faults_of_name(name, offered, "parameter")])
        return compute


OF_THE_PREPARATION = ("n", "packing_fraction", "polydispersity", "pressure")
"""These can vary, but a response cannot be taken to them."""


def distinct(items: list[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _faults_of_n(varied: Range | list[float], system: SystemSection | None) -> list[str]:
    if isinstance(varied, Range) or any(v != round(v) or not 2 <= v <= MOST_PARTICLES for v in varied):
        return [f"n varies over a list of whole numbers, from 2 to {MOST_PARTICLES}"]
    if system is not None and min(varied) < len(system.sizes):
        return [f"{min(varied):g} particles cannot have {len(system.sizes)} different diameters"]
    return []


def _variable(known: Mapping[str, Any]) -> Iterator[str]:
    """The parameters that can vary, given the sections that are already checked."""
    system, potential = known.get("system"), known.get("potential")
    if system is None or system.files is None:
        yield from ("n", "packing_fraction", "polydispersity")
    kinds = 100 if system is None or system.files is not None else len(system.sizes)
    yield from (f"species-diameter:{k}" for k in range(kinds))
    yield "pressure"
    if potential is not None:
        yield from potential.differentiable
    if system is None or system.files is not None:
        from ..potentials.topology import PARAMETERS

        yield from PARAMETERS


def _raise(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))
