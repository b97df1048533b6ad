"""The options that several commands share, each declared once, and what they stand for.

Nothing that imports JAX is imported here, so that `mdsens --help` is immediate. The names of potentials, minimizers and
solvers are those of the registries, which are imported when a command runs, or when its help is printed.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

import mdsens

from ..errors import InvalidInput
from ..runtime.files import check_target
from ..studies.names import BONDS_ALONE, look_up, of_bonds, of_pairs

if TYPE_CHECKING:
    from ..potentials import Potential
    from ..relaxation.relaxation import Relaxation
    from ..system import System


class Precision(enum.StrEnum):
    double = "double"
    single = "single"


class Device(enum.StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


AUTOMATIC = "auto"
"""The name that leaves the choice of the linear solver to mdsens."""

Input = Annotated[
    Path, typer.Argument(metavar="IN", help="The packing: extended XYZ, LAMMPS data, or any file that ASE reads.")
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The folder for the results.")]
PotentialOption = Annotated[
    str,
    typer.Option(
        "--potential",
        help=f"The potential: {{potentials.REGISTRY}}; or {BONDS_ALONE}, those of a LAMMPS data file alone. Otherwise "
        "its bonds and angles are added.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the potential: epsilon=1.0; a matrix per pair of species as [[1,2],[2,1]]; of bonds in "
        "the file bonds.stiffness=1.0; repeatable.",
    ),
]
EpsilonOption = Annotated[float | None, typer.Option("--epsilon", help="Short for --set epsilon=…")]
AlphaOption = Annotated[float | None, typer.Option("--alpha", help="Short for --set alpha=…")]
MinimizerOption = Annotated[str, typer.Option("--minimizer", help="The minimizer: {minimizers.REGISTRY}.")]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="The largest force component allowed at rest; by default a small part of the potential's own.",
    ),
]
StepsOption = Annotated[int, typer.Option("--max-steps", help="The largest number of steps of the minimizer.")]
SolverOption = Annotated[
    str,
    typer.Option(
        "--linear-solver", help=f"The linear solver for the response: {AUTOMATIC}, {{linear_solvers.REGISTRY}}."
    ),
]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="The precision of all arithmetic.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="The device to compute on.")]
DiametersOption = Annotated[
    str | None,
    typer.Option(
        "--diameters",
        metavar="D,D,…",
        help="One diameter per species or element (Si=2.35,C=1.7), for files without, or instead of the file's.",
    ),
]
DimOption = Annotated[
    int | None, typer.Option("--dim", min=2, max=3, help="The dimension, 2 or 3, where the file does not show it.")
]
OneSidedOption = Annotated[
    bool,
    typer.Option("--one-sided", help="Compute a response even if two particles just touch, as if they kept touching."),
]
ThoroughOption = Annotated[
    bool, typer.Option("--thorough", help="Also solve for the distance to the minimum and the softest curvature.")
]
PressureOption = Annotated[
    float | None, typer.Option("--pressure", help="Relax the cell too, at this pressure (energy per volume).")
]
ParametersOption = Annotated[
    list[str],
    typer.Option(
        "--wrt",
        metavar="NAME",
        help="A parameter that may change: diameters, species-diameter:K, epsilon …; repeatable.",
    ),
]
BoundOption = Annotated[
    list[str] | None, typer.Option("--bound", metavar="NAME=LOW,HIGH", help="The range of a parameter; repeatable.")
]
AtomStyleOption = Annotated[
    str | None, typer.Option("--atom-style", help="Of a LAMMPS data file that does not name it: sphere, charge …")
]
RepeatOption = Annotated[
    str | None,
    typer.Option(
        "--repeat", metavar="M,M,…", help="Repeat the cell so often along each of its vectors, or all of them."
    ),
]
FixedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fixed",
        metavar="WHO",
        help="Particles that do not move, besides those fixed in the file: 0-31,40, species=1, Si, or, by component, "
        "0-31:y; repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@dataclass(frozen=True)
class PackingOptions:
    """The options of every command that reads and relaxes a packing."""

    potential: PotentialOption = "soft-sphere"
    set_: SetOption = None
    epsilon: EpsilonOption = None
    alpha: AlphaOption = None
    tolerance: ToleranceOption = None
    device: DeviceOption = Device.auto
    diameters: DiametersOption = None
    dim: DimOption = None
    atom_style: AtomStyleOption = None
    repeat: RepeatOption = None
    fixed: FixedOption = None

    def configure(self) -> None:
        configure(self.device)

    def load(self, path: Path) -> tuple[Potential, System]:
        """The potential, with the bonds and angles of the file, and the system."""
        from ..potentials.topology import read_with_bonds

        potential = None if self.potential == BONDS_ALONE else self.make_potential()
        whole, system = read_with_bonds(path, potential, of_bonds(self._settings()), **self._reading())
        if whole is not potential and self.repeat is not None:
            raise InvalidInput(f"--repeat repeats particles alone, and {path} has bonds or angles")
        return whole, self._with_fixed(self._repeated(system))

    def load_all(self, paths: Sequence[Path]) -> tuple[Potential, list[System]]:
        """The systems of some files, and the potential of all of them; **raises** `InvalidInput` where it differs."""
        import equinox as eqx

        (potential, first), *others = (self.load(path) for path in paths)
        for path, (other, _) in zip(paths[1:], others, strict=True):
            if not eqx.tree_equal(other, potential):
                raise InvalidInput(
                    f"{path} has other bonds or angles than {paths[0]}: these are a part of the potential, of which "
                    "there is one for all files"
                )
        return potential, [first, *(system for _, system in others)]

    def _reading(self) -> dict[str, Any]:
        return {"diameters": _lengths(self.diameters), "dim": self.dim, "atom_style": self.atom_style}

    def _repeated(self, system: System) -> System:
        if self.repeat is None:
            return system
        try:
            times = [int(part) for part in self.repeat.split(",")]
        except ValueError:
            raise InvalidInput(f"--repeat takes whole numbers separated by commas, not {self.repeat!r}") from None
        return system.repeat(*times)

    def _with_fixed(self, system: System) -> System:
        from ..io.selection import with_fixed

        return with_fixed(system, self.fixed) if self.fixed else system

    def make_potential(self) -> Potential:
        """**Raises** `InvalidInput` for an unknown potential, or for parameters that it does not have."""
        parameters = of_pairs(self._settings())
        potential = look_up(self.potential, mdsens.potentials.REGISTRY, "potential")
        try:
            return potential(**parameters)
        except TypeError:
            known = ", ".join(potential().number_names())
            raise InvalidInput(f"{self.potential} has no parameter {', '.join(parameters)}; it has {known}") from None

    def _settings(self) -> dict[str, Any]:
        short = (("epsilon", self.epsilon), ("alpha", self.alpha))
        given = [f"{name}={value}" for name, value in short if value is not None]
        return _parameters([*(self.set_ or ()), *given])

    def make_relaxation(self, **more: Any) -> Relaxation:
        """The relaxation, with more of its arguments."""
        return mdsens.Relaxation(tolerance=self.tolerance, **more)


@dataclass(frozen=True)
class RelaxationOptions(PackingOptions):
    """The options of commands that relax one packing and report on it."""

    minimizer: MinimizerOption = "fire"
    max_steps: StepsOption = 100_000
    precision: PrecisionOption = Precision.double

    def configure(self) -> None:
        configure(self.device, self.precision)

    def make_relaxation(self, **more: Any) -> Relaxation:
        """**Raises** `InvalidInput` for an unknown minimizer."""
        minimizer = look_up(self.minimizer, mdsens.minimizers.REGISTRY, "minimizer")()
        return mdsens.Relaxation(minimizer=minimizer, tolerance=self.tolerance, max_steps=self.max_steps, **more)


@dataclass(frozen=True)
class CertificateOptions(PackingOptions):
    """The options of `certify`, which relaxes nothing."""

    precision: PrecisionOption = Precision.double

    def configure(self) -> None:
        configure(self.device, self.precision)


@dataclass(frozen=True)
class FitOptions(PackingOptions):
    """The options of `fit`, whose packings are relaxed further."""

    def make_relaxation(self, **more: Any) -> Relaxation:
        return super().make_relaxation(relative_tolerance=1e-12, **more)


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the argument `options` of a command, a dataclass of options, into one option for each of its fields."""
    types = get_type_hints(command, include_extras=True)
    kind = types["options"]
    fields = get_type_hints(kind, include_extras=True)
    own = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=types[each.name])
        for each in inspect.signature(command).parameters.values()
        if each.name != "options"
    ]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=fields[field.name]
        )
        for field in dataclasses.fields(kind)
    ]

    @functools.wraps(command)
    def call(**given: Any) -> Any:
        options = kind(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        return command(**given, options=options)

    call.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return call


class Command(TyperCommand):
    """A command whose help lists the names in registries."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            parameter.help = with_names(parameter.help or "")  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def with_names(text: str) -> str:
    """A text with the names in a registry for each of its marks, such as {potentials.REGISTRY}."""

    def names(mark: re.Match[str]) -> str:
        module = importlib.import_module(f"mdsens.{mark[1]}")
        return ", ".join(getattr(module, mark[2]))

    return re.sub(r"\{([a-z_.]+)\.([A-Z]+)\}", names, text)


def configure(device: Device, precision: Precision = Precision.double) -> None:
    """Choose the precision and the device before anything is computed, and keep compiled programs for the next command.

    **Raises** `InvalidInput` if a GPU was asked for and there is none.
    """
    import jax

    from ..runtime.compiled import keep_compiled

    jax.config.update("jax_enable_x64", precision is Precision.double)
    keep_compiled()
    if device is Device.auto:
        return
    jax.config.update("jax_platforms", {Device.cpu: "cpu", Device.gpu: "cuda"}[device])
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError where JAX has no GPU support at all
        raise InvalidInput(
            "there is no GPU that JAX can use here; leave --device out, or install mdsens[cuda] where there is one"
        ) from error


def check_folder(output: Path) -> None:
    """**Raises** `InvalidInput` if results cannot be written to a folder; called before a long computation."""
    if output.exists() and not output.is_dir():
        raise InvalidInput(f"{output} is a file; name a folder for the results")
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    check_target(nearest / "summary.json")


def numbers_by_name(option: str, given: list[str] | None) -> dict[str, float]:
    """The values of an option NAME=VALUE that can be repeated."""
    found = {}
    for text in given or ():
        name, equals, value = text.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise InvalidInput(f"{option} takes NAME=VALUE with a number, not {text!r}")
    return found


def ranges_by_name(given: list[str] | None) -> dict[str, tuple[float, float]]:
    """The values of --bound."""
    found = {}
    for text in given or ():
        name, _, ends = text.rpartition("=")
        try:
            low, high = (float(end) for end in ends.split(","))
        except ValueError:
            raise InvalidInput(f"--bound takes NAME=LOW,HIGH with two numbers, not {text!r}") from None
        found[name.strip()] = (low, high)
    return found


def _parameters(settings: list[str]) -> dict[str, Any]:
    import numpy as np

    parameters: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            parameters[name.strip()] = np.array(json.loads(value) if value.startswith("[") else value, dtype=float)
        except ValueError:
            raise InvalidInput(f"--set takes NAME=VALUE with a number or a matrix, not {setting!r}") from None
    return parameters


def _lengths(text: str | None) -> tuple[float, ...] | dict[str, float] | None:
    if text is None:
        return None
    try:
        if "=" in text:
            pairs = (part.partition("=") for part in text.split(","))
            return {symbol.strip(): float(length) for symbol, _, length in pairs}
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(
            f"--diameters takes lengths separated by commas (1.0,0.6 or Si=2.35,C=1.7), not {text!r}"
        ) from None
