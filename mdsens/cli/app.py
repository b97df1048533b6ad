"""What can be asked for on the command line. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import enum
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import InvalidInput, MdsensError

app = typer.Typer(
    name="mdsens",
    help="How a particle system at rest responds to its parameters, from ∇E = 0.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class PotentialName(enum.StrEnum):
    soft_sphere = "soft-sphere"
    lennard_jones = "lennard-jones"
    morse = "morse"
    yukawa = "yukawa"
    stillinger_weber = "stillinger-weber"


class MinimizerName(enum.StrEnum):
    fire = "fire"
    gradient_descent = "gradient-descent"


class Precision(enum.StrEnum):
    double = "double"
    single = "single"


class Device(enum.StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class LinearSolver(enum.StrEnum):
    auto = "auto"
    dense = "dense"
    minres = "minres"
    cholesky = "cholesky"
    cg = "cg"
    bicgstab = "bicgstab"
    gmres = "gmres"


@dataclass(frozen=True)
class Options:
    """What every command that relaxes is told."""

    potential: PotentialName = PotentialName.soft_sphere
    settings: tuple[str, ...] = ()
    minimizer: MinimizerName = MinimizerName.fire
    tolerance: float = 1e-10
    max_steps: int = 100_000
    linear_solver: LinearSolver = LinearSolver.auto
    precision: Precision = Precision.double
    device: Device = Device.auto
    diameters: tuple[float, ...] | None = None
    dim: int | None = None
    one_sided: bool = False
    thorough: bool = False
    pressure: float | None = None


Input = Annotated[
    Path, typer.Argument(metavar="IN", help="The packing: extended XYZ, LAMMPS data, any file ASE reads.")
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The folder for the results.")]
OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="The relaxed packing, e.g. out.extxyz.")
]
PotentialOption = Annotated[PotentialName, typer.Option("--potential", help="The potential.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the potential: epsilon=1.0; a matrix per pair of species as [[1,2],[2,1]]; repeatable.",
    ),
]
EpsilonOption = Annotated[float | None, typer.Option("--epsilon", help="Short for --set epsilon=…")]
AlphaOption = Annotated[float | None, typer.Option("--alpha", help="Short for --set alpha=…")]
MinimizerOption = Annotated[MinimizerName, typer.Option("--minimizer", help="The way downhill.")]
ToleranceOption = Annotated[float, typer.Option("--tolerance", help="Largest force component allowed at rest.")]
StepsOption = Annotated[int, typer.Option("--max-steps", help="When to give up.")]
SolverOption = Annotated[LinearSolver, typer.Option("--linear-solver", help="The solver behind the response.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Of all arithmetic.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where it is computed.")]
DiametersOption = Annotated[
    str | None,
    typer.Option(
        "--diameters", metavar="D,D,…", help="One per species, where the file holds none, or instead of its own."
    ),
]
DimOption = Annotated[int | None, typer.Option("--dim", min=2, max=3, help="2 or 3, where the file does not tell.")]
OneSidedOption = Annotated[
    bool, typer.Option("--one-sided", help="Respond also where two particles just touch, as if that stayed so.")
]
ThoroughOption = Annotated[
    bool, typer.Option("--thorough", help="Solve for the distance to the minimum and the softest curvature too.")
]
PressureOption = Annotated[
    float | None, typer.Option("--pressure", help="Relax the cell too, at this pressure (energy per volume).")
]
UnknownsOption = Annotated[
    list[str],
    typer.Option(
        "--wrt", metavar="NAME", help="What may change: diameters, species-diameter:K, epsilon …; repeatable."
    ),
]
BoundOption = Annotated[
    list[str] | None, typer.Option("--bound", metavar="NAME=LOW,HIGH", help="The range of a parameter; repeatable.")
]
WrtOption = Annotated[
    str,
    typer.Option("--wrt", metavar="NAME", help="diameters, species-diameter:K, box, epsilon, alpha …"),
]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show:
        typer.echo(f"mdsens {__version__}")
        raise typer.Exit


@app.command()
def demo(
    output: OutputFolder,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial positions.")] = 0,
    device: DeviceOption = Device.auto,
) -> None:
    """The experiment of Blondel et al. (2021): 128 soft spheres in two dimensions, half of diameter 1, half of
    diameter θ = 0.6, at packing fraction 0.98, relaxed with FIRE. How does every particle move as θ grows?
    """
    from . import work

    work.demo(output, seed, Options(device=device))


@app.command()
def relax(
    input: Input,
    output: OutputFile,
    potential: PotentialOption = PotentialName.soft_sphere,
    set_: SetOption = None,
    epsilon: EpsilonOption = None,
    alpha: AlphaOption = None,
    minimizer: MinimizerOption = MinimizerName.fire,
    tolerance: ToleranceOption = 1e-10,
    max_steps: StepsOption = 100_000,
    precision: PrecisionOption = Precision.double,
    device: DeviceOption = Device.auto,
    diameters: DiametersOption = None,
    dim: DimOption = None,
    pressure: PressureOption = None,
    thorough: ThoroughOption = False,
) -> None:
    """Relax a packing and write it, in the format that OUT's ending says."""
    from . import work

    work.relax(
        input,
        output,
        Options(
            potential=potential,
            settings=_settings(set_, epsilon, alpha),
            minimizer=minimizer,
            tolerance=tolerance,
            max_steps=max_steps,
            precision=precision,
            device=device,
            diameters=_lengths(diameters),
            dim=dim,
            pressure=pressure,
            thorough=thorough,
        ),
    )


@app.command()
def properties(
    input: Input,
    potential: PotentialOption = PotentialName.soft_sphere,
    set_: SetOption = None,
    epsilon: EpsilonOption = None,
    alpha: AlphaOption = None,
    minimizer: MinimizerOption = MinimizerName.fire,
    tolerance: ToleranceOption = 1e-10,
    max_steps: StepsOption = 100_000,
    precision: PrecisionOption = Precision.double,
    device: DeviceOption = Device.auto,
    diameters: DiametersOption = None,
    dim: DimOption = None,
    pressure: PressureOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Relax a packing and print its energy, pressure, contacts, moduli and Poisson's ratio."""
    from . import inverse

    inverse.properties(
        input,
        as_json,
        Options(
            potential=potential,
            settings=_settings(set_, epsilon, alpha),
            minimizer=minimizer,
            tolerance=tolerance,
            max_steps=max_steps,
            precision=precision,
            device=device,
            diameters=_lengths(diameters),
            dim=dim,
            pressure=pressure,
        ),
    )


@app.command()
def fit(
    targets: Annotated[
        list[Path], typer.Argument(metavar="TARGET…", help="Files with measured positions of packings at rest.")
    ],
    wrt: UnknownsOption,
    output: OutputFolder,
    start: Annotated[
        list[str] | None, typer.Option("--start", metavar="NAME=VALUE", help="Where a parameter starts; repeatable.")
    ] = None,
    bound: BoundOption = None,
    measured: Annotated[
        list[str] | None,
        typer.Option("--measured", metavar="NAME=VALUE", help="Of every target: pressure=0.1, energy=…; repeatable."),
    ] = None,
    uncertainty: Annotated[
        list[str] | None,
        typer.Option("--uncertainty", metavar="NAME=VALUE", help="Standard deviation of positions, pressure …"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Go down on so many targets at a time (Adam), for many targets; then see --epochs."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="With --batch-size: passes through all targets.")] = 20,
    potential: PotentialOption = PotentialName.soft_sphere,
    set_: SetOption = None,
    epsilon: EpsilonOption = None,
    alpha: AlphaOption = None,
    tolerance: ToleranceOption = 1e-12,
    device: DeviceOption = Device.auto,
    diameters: DiametersOption = None,
    dim: DimOption = None,
) -> None:
    """Find the parameters with which relaxed packings are closest to measured ones. OUT keeps the state after every
    step, and the same command goes on from there.
    """
    from . import inverse

    inverse.fit(
        targets,
        tuple(wrt),
        output,
        inverse.Given(
            _pairs("--start", start),
            _ranges(bound),
            _pairs("--measured", measured),
            None if batch_size is None else (batch_size, epochs),
        ),
        _pairs("--uncertainty", uncertainty),
        Options(
            potential=potential,
            settings=_settings(set_, epsilon, alpha),
            tolerance=tolerance,
            device=device,
            diameters=_lengths(diameters),
            dim=dim,
        ),
    )


@app.command()
def design(
    input: Input,
    target: Annotated[
        list[str],
        typer.Option(
            "--target", metavar="NAME=VALUE", help="A property and its wanted value, or max or min; repeatable."
        ),
    ],
    wrt: UnknownsOption,
    output: OutputFolder,
    hold: Annotated[
        list[str] | None, typer.Option("--hold", metavar="NAME", help="A property to stay as it is; repeatable.")
    ] = None,
    bound: BoundOption = None,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Relaxations at most.")] = 300,
    potential: PotentialOption = PotentialName.soft_sphere,
    set_: SetOption = None,
    epsilon: EpsilonOption = None,
    alpha: AlphaOption = None,
    tolerance: ToleranceOption = 1e-10,
    device: DeviceOption = Device.auto,
    diameters: DiametersOption = None,
    dim: DimOption = None,
    pressure: PressureOption = None,
) -> None:
    """Change parameters until a packing has the properties wanted, or as far as it goes."""
    from . import inverse

    inverse.design(
        input,
        _goals(target),
        tuple(wrt),
        output,
        tuple(hold or ()),
        _ranges(bound),
        max_steps,
        Options(
            potential=potential,
            settings=_settings(set_, epsilon, alpha),
            tolerance=tolerance,
            device=device,
            diameters=_lengths(diameters),
            dim=dim,
            pressure=pressure,
        ),
    )


@app.command()
def sensitivity(
    input: Input,
    wrt: WrtOption,
    output: OutputFolder,
    potential: PotentialOption = PotentialName.soft_sphere,
    set_: SetOption = None,
    epsilon: EpsilonOption = None,
    alpha: AlphaOption = None,
    minimizer: MinimizerOption = MinimizerName.fire,
    tolerance: ToleranceOption = 1e-10,
    max_steps: StepsOption = 100_000,
    linear_solver: SolverOption = LinearSolver.auto,
    precision: PrecisionOption = Precision.double,
    device: DeviceOption = Device.auto,
    diameters: DiametersOption = None,
    dim: DimOption = None,
    one_sided: OneSidedOption = False,
    thorough: ThoroughOption = False,
) -> None:
    """Relax a packing and compute how it responds to the parameter NAME: numbers, arrays and a picture in OUT."""
    from . import work

    work.sensitivity(
        input,
        wrt,
        output,
        Options(
            potential=potential,
            settings=_settings(set_, epsilon, alpha),
            minimizer=minimizer,
            tolerance=tolerance,
            max_steps=max_steps,
            linear_solver=linear_solver,
            precision=precision,
            device=device,
            diameters=_lengths(diameters),
            dim=dim,
            one_sided=one_sided,
            thorough=thorough,
        ),
    )


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="A study file; mdsens init writes one.")]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study, as mdsens run left it.")]
PictureOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT.png", help="The picture; in DIR if left out.")
]


class ExecutorName(enum.StrEnum):
    local = "local"
    slurm = "slurm"
    dask = "dask"


@app.command()
def init(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The file to write.")] = Path("study.toml"),
) -> None:
    """Write a study file to begin with, with comments."""
    from . import study as work

    work.init(study)


@app.command()
def run(
    study: StudyFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="For the results.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much there is to do.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute anew what failed, too.")] = False,
    device: DeviceOption = Device.auto,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes; one for each GPU or core if left out.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the study's files are.")] = None,
    executor: Annotated[ExecutorName, typer.Option(help="Who does the work.")] = ExecutorName.local,
    jobs: Annotated[int, typer.Option(min=1, max=10_000, help="SLURM: jobs in an array, at most.")] = 16,
    partition: Annotated[str | None, typer.Option(help="SLURM: the partition.")] = None,
    gres: Annotated[str | None, typer.Option(help="SLURM: resources of each job, such as gpu:1.")] = None,
    time: Annotated[str | None, typer.Option(help="SLURM: time for each job, minutes or HH:MM:SS.")] = None,
    account: Annotated[str | None, typer.Option(help="SLURM: who pays.")] = None,
    qos: Annotated[str | None, typer.Option(help="SLURM: quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="SLURM: which nodes.")] = None,
    mem: Annotated[str | None, typer.Option(help="SLURM: memory of each job, such as 8G.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="SLURM: cores, and workers, of each job.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask: its scheduler, tcp://…")] = None,
) -> None:
    """Run a study; the same command on the same DIR goes on with what is missing. Exit code 1 if any task failed."""
    from . import study as work

    execution = work.execution_of(
        {
            "executor": executor.value, "device": device.value, "workers": workers, "scheduler": scheduler,
            "jobs": jobs, "partition": partition, "gres": gres, "time": time, "account": account, "qos": qos,
            "constraint": constraint, "mem": mem, "cpus_per_task": cpus_per_task,
        }
    )  # fmt: skip
    raise typer.Exit(work.run(study, output, data, dry_run, retry_failed, execution))


@app.command()
def status(
    folder: StudyFolder,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """How many tasks of a study are done, failed and running, and why they failed."""
    from . import study as work

    work.status(folder, as_json)


@app.command()
def collect(folder: StudyFolder) -> None:
    """Gather a study's results in DIR: table.csv, table.parquet, results.h5."""
    from . import study as work

    work.collect(folder)


@app.command()
def plot(folder: StudyFolder, output: PictureOption = None) -> None:
    """Draw what a study measured against what it varied, with the spread over seeds."""
    from . import study as work

    work.plot(folder, output)


@app.command()
def show(
    folder: StudyFolder,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task's id, or its beginning.")],
    output: PictureOption = None,
) -> None:
    """All that is known of one task, and a picture of its packing."""
    from . import study as work

    work.show(folder, task, output)


def _settings(given: list[str] | None, epsilon: float | None, alpha: float | None) -> tuple[str, ...]:
    short = [f"{name}={value}" for name, value in (("epsilon", epsilon), ("alpha", alpha)) if value is not None]
    return (*(given or ()), *short)


def _pairs(option: str, given: list[str] | None) -> dict[str, float]:
    """NAME=VALUE, any number of times."""
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


def _goals(given: list[str]) -> dict[str, str | float]:
    extremes = {name: text for name, _, text in (each.rpartition("=") for each in given) if text in ("max", "min")}
    values = _pairs("--target", [each for each in given if each.rpartition("=")[0] not in extremes])
    return {**extremes, **values}


def _ranges(given: list[str] | None) -> dict[str, tuple[float, float]]:
    found = {}
    for text in given or ():
        name, _, ends = text.rpartition("=")
        try:
            low, high = (float(end) for end in ends.split(","))
        except ValueError:
            raise InvalidInput(f"--bound takes NAME=LOW,HIGH with two numbers, not {text!r}") from None
        found[name.strip()] = (low, high)
    return found


def _lengths(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--diameters takes lengths separated by commas, not {text!r}") from None


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 the computation failed, 2 the input cannot be meant."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA warns of its own settings in what it has compiled before
    try:
        app()
    except (InvalidInput, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        _fail(error, 2)
    except (MdsensError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written", 130)


def _fail(error: object, code: int) -> None:
    print(f"mdsens: {error}", file=sys.stderr)
    sys.exit(code)
