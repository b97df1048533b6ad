"""A study file: what is to be computed, read from TOML and checked before anything starts."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..errors import InvalidInput

MOST_TASKS = 1_000_000
"""In one study; beyond, it is more likely a slip."""

LARGEST_FILE = 1_000_000
"""Bytes of a study file."""

Positive = Annotated[FiniteFloat, Field(gt=0)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]


def _not_one_of(name: str, offered: Iterable[str], what: str) -> list[str]:
    """What is wrong with a name, if anything."""
    offered = list(offered)
    if name in offered:
        return []
    shown = ", ".join([each for each in offered if not each.startswith("species-diameter:")] or offered)
    kinds = [each for each in offered if each.startswith("species-diameter:")]
    more = "" if not kinds else f", {kinds[0]} …" if len(kinds) > 1 else f", {kinds[0]}"
    return [f"there is no {what} {name!r}{_nearest(name, offered)}; there are {shown}{more}"]


def _raise(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))


def _nearest(name: str, offered: list[str]) -> str:
    near = difflib.get_close_matches(name, offered, 1)
    return f" (did you mean {near[0]}?)" if near else ""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SystemSection(Section):
    """Packings made at random, or those in files."""

    files: Annotated[list[str], Field(min_length=1)] | None = None
    n: Annotated[StrictInt, Field(ge=2, le=1_000_000)] = 128
    dim: Literal[2, 3] = 2
    diameters: Annotated[list[Positive], Field(min_length=1, max_length=1000)] | None = None
    packing_fraction: Annotated[FiniteFloat, Field(gt=0, le=10)] = 0.98
    polydispersity: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0

    @property
    def sizes(self) -> list[float]:
        return self.diameters or [1.0, 0.6]

    @field_validator("files")
    @classmethod
    def _below(cls, files: list[str] | None) -> list[str] | None:
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
    """A pair potential by name, and its parameters: numbers, or a matrix for pairs of species."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, FiniteFloat | list[list[FiniteFloat]]] = Field(init=False)
    name: str = "soft-sphere"

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from .. import potentials

        _raise(_not_one_of(name, potentials.PAIRWISE, "potential"))
        return name

    @model_validator(mode="after")
    def _parameters(self) -> PotentialSection:
        from .. import potentials
        from ..parameters import settings_of
        from ..validation import check_potential

        what, known = f"parameter of {self.name}", settings_of(potentials.PAIRWISE[self.name]())
        _raise([fault for name in self.parameters for fault in _not_one_of(name, known, what)])
        try:
            check_potential(potentials.PAIRWISE[self.name](**self.parameters))
        except (TypeError, ValueError) as error:
            raise ValueError(f"that makes no {self.name}: {str(error).splitlines()[0]}") from error
        return self

    @property
    def offered(self) -> list[str]:
        """The parameters that may vary, or be responded to."""
        from .. import potentials
        from ..parameters import parameters_of

        return parameters_of(potentials.PAIRWISE[self.name]())


class RelaxationSection(Section):
    minimizer: Literal["fire", "gradient-descent"] = "fire"
    tolerance: Positive = 1e-10
    max_steps: Annotated[StrictInt, Field(ge=1, le=10**9)] = 100_000
    one_sided: StrictBool = False
    pressure: FiniteFloat | None = None


class ComputeSection(Section):
    """What is wanted of every packing."""

    response: list[str] = []
    properties: list[str] = ["energy", "pressure", "contact_number"]
    certificate: StrictBool = True

    @field_validator("properties")
    @classmethod
    def _named(cls, names: list[str]) -> list[str]:
        from ..properties import NAMED

        _raise([fault for name in names for fault in _not_one_of(name, NAMED, "property")])
        return _distinct(names)

    @field_validator("response")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        return _distinct(names)


class KeepSection(Section):
    """What is written besides the numbers."""

    positions: StrictBool = True
    response: StrictBool = True


class ExecutionSection(Section):
    batch_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None


class Range(Section):
    """Between two values; a grid takes `count` of them."""

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


class SweepSection(Section):
    """The parameters that vary: every combination, or samples."""

    method: Literal["grid", "random", "sobol"] = "grid"
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
        """How many combinations there are."""
        if self.method != "grid":
            return self.samples or 0
        return math.prod(v.count or 0 if isinstance(v, Range) else len(v) for v in self.parameters.values())


class Study(Section):
    """All of a study file. Fields are checked in this order, and know those before them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "study"
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
        """Of the initial positions; packings from files have none."""
        if self.system.files is not None:
            return []
        return list(range(self.seeds)) if isinstance(self.seeds, int) else _distinct(self.seeds)

    @field_validator("seeds")
    @classmethod
    def _of_random_packings(cls, seeds: Any, info: ValidationInfo) -> Any:
        system = info.data.get("system")
        if system is not None and system.files is not None:
            raise ValueError("packings from files have no seeds: leave that out")
        return seeds

    @field_validator("sweep")
    @classmethod
    def _can_vary(cls, sweep: SweepSection, info: ValidationInfo) -> SweepSection:
        offered, faults = list(_variable(info.data)), []
        for name, varied in sweep.parameters.items():
            if "potential" in info.data or name in STARTS:
                faults += _not_one_of(name, offered, "parameter to vary")
            values = [varied.low, varied.high] if isinstance(varied, Range) else varied
            if name == "n":
                faults += _faults_of_sizes(varied, info.data.get("system"))
            if (name == "packing_fraction" or name.startswith("species-diameter:")) and min(values) <= 0:
                faults.append(f"{name} must be positive, and {min(values):g} is not")
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
    def _can_respond(cls, compute: ComputeSection, info: ValidationInfo) -> ComputeSection:
        system: SystemSection | None = info.data.get("system")
        offered = ["diameters", "box"] + [name for name in _variable(info.data) if name not in STARTS]
        known = "potential" in info.data and system is not None
        _raise([fault for name in compute.response if known for fault in _not_one_of(name, offered, "parameter")])
        return compute


STARTS = ("n", "packing_fraction", "polydispersity", "pressure")
"""What can vary, but is no parameter to respond to."""


def _faults_of_sizes(varied: Range | list[float], system: SystemSection | None) -> list[str]:
    if isinstance(varied, Range) or any(value != round(value) or not 2 <= value <= 1_000_000 for value in varied):
        return ["n varies over a list of whole numbers, from 2 to 1000000"]
    if system is not None and min(varied) < len(system.sizes):
        return [f"{min(varied):g} particles cannot have {len(system.sizes)} different diameters"]
    return []


def _variable(known: Mapping[str, Any]) -> Iterator[str]:
    """The parameters that can be varied, as far as the sections before are right."""
    system, potential = known.get("system"), known.get("potential")
    if system is None or system.files is None:
        yield from ("n", "packing_fraction", "polydispersity")
    kinds = 100 if system is None or system.files is not None else len(system.sizes)
    yield from (f"species-diameter:{k}" for k in range(kinds))
    yield "pressure"
    if potential is not None:
        yield from potential.offered


def read_study(path: Path) -> Study:
    """A study from its file.

    **Raises** `FileNotFoundError`; `InvalidInput` with a line for every fault of the file, where it is, and what was
    expected there.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no study file {path}; mdsens init {path} writes one to begin with")
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name a study file (mdsens init writes one)")
    if path.stat().st_size > LARGEST_FILE:
        raise InvalidInput(f"{path} is too large for a study file ({path.stat().st_size} bytes)")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or numbers beyond all bounds
        raise InvalidInput(f"{path} is no TOML: {error}") from error
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        faults = list(_faults(error, text, path))
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise InvalidInput("\n  ".join([f"{path} has {count}, and nothing was started:", *faults])) from error


def _faults(error: ValidationError, text: str, path: Path) -> Iterator[str]:
    told = set()
    for fault in error.errors():
        place = [str(part) for part in fault["loc"] if part not in ("range", "values") and not _is_type(part)]
        message, kind = fault["msg"].removeprefix("Value error, "), fault["type"]
        if tuple(place) in told and kind != "value_error":
            continue  # one for each value, however many types it may have
        told.add(tuple(place))
        if kind == "extra_forbidden":
            message = f"is unknown here{_nearest(place[-1], _names_at(place[:-1]))}"
        elif kind != "value_error":
            message = f"{message[0].lower()}{message[1:]}, not {str(fault['input'])[:60]!r}"
        line = _line_of(place, text)
        for each in message.splitlines():
            yield f"{path.name}{f':{line}' if line else ''}: {'.'.join(place)}: {each}"


def _is_type(part: object) -> bool:
    """Pydantic's name for one of several types that a value may have."""
    return isinstance(part, str) and bool(re.match(r"(constrained-)?(int|float|list|finite-float|function)\b", part))


def _names_at(place: list[str]) -> list[str]:
    model: Any = Study
    for part in place:
        model = getattr(model.model_fields.get(part), "annotation", None) if hasattr(model, "model_fields") else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def _line_of(place: list[str], text: str) -> int | None:
    """The line on which a key stands, as far as that can be told without parsing: its table, then the key."""
    wanted, best, table = ".".join(place), None, ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = stripped.partition("#")[0].strip("[] ").replace('"', "")
            if f"{wanted}.".startswith(f"{table}.") or (best is None and table.startswith(f"{wanted}.")):
                best = number
            continue
        key = stripped.partition("=")[0].strip().strip("\"'")
        whole = f"{table}.{key}" if table else key
        if key and wanted == whole:
            return number
        if key and wanted.startswith(f"{whole}."):
            best = number
    return best


def _distinct(items: list[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
