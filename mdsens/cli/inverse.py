"""The inverse commands: find parameters from measured packings, or for wanted properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import mdsens

from ..errors import InvalidInput
from ..runtime.files import replacing
from .options import (
    BoundOption,
    FitOptions,
    Input,
    OutputFolder,
    PackingOptions,
    ParametersOption,
    PressureOption,
    check_folder,
    numbers_by_name,
    ranges_by_name,
    with_options,
)


@with_options
def fit(
    targets: Annotated[
        list[Path], typer.Argument(metavar="TARGET…", help="Files with measured positions of packings at rest.")
    ],
    wrt: ParametersOption,
    output: OutputFolder,
    options: FitOptions,
    start: Annotated[
        list[str] | None,
        typer.Option("--start", metavar="NAME=VALUE", help="The first guess for a parameter; repeatable."),
    ] = None,
    bound: BoundOption = None,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured",
            metavar="NAME=VALUE",
            help="A measured property of all targets: pressure=0.1, energy=…; repeatable.",
        ),
    ] = None,
    uncertainty: Annotated[
        list[str] | None,
        typer.Option(
            "--uncertainty",
            metavar="NAME=VALUE",
            help="The standard deviation of positions, or of a measured property; repeatable.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Take steps on so many targets at a time (Adam), for many targets; see --epochs."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="With --batch-size: the number of passes through all targets.")] = 20,
) -> None:
    """Find the parameters with which relaxed packings are closest to measured ones. OUT keeps the state after every
    step, and the same command continues from there.
    """
    import jax

    options.configure()
    check_folder(output)
    first_guess, bounds = numbers_by_name("--start", start), ranges_by_name(bound)
    values = numbers_by_name("--measured", measured)
    uncertainties = numbers_by_name("--uncertainty", uncertainty)
    potential, systems = options.load_all(targets)
    packings = [mdsens.Target(system, properties=values, uncertainties=uncertainties) for system in systems]
    output.mkdir(parents=True, exist_ok=True)
    found = mdsens.fit(
        potential,
        packings,
        wrt,
        start=first_guess,
        bounds=bounds,
        relax=options.make_relaxation(),
        batches=None if batch_size is None else mdsens.Minibatches(batch_size, epochs),
        checkpoint=output / "checkpoint.json",
    )
    summary = {
        **found.as_dict(),
        "targets": [str(target) for target in targets],
        "potential": options.potential,
        "units": "reduced: lengths, energies and forces in the units of the input",
        "versions": {"mdsens": mdsens.__version__, "jax": jax.__version__},
    }
    with replacing(output / "summary.json") as text, replacing(output / "fit.png") as picture:
        text.write_text(json.dumps(summary, indent=2) + "\n")
        mdsens.plotting.draw_fit(found, packings).savefig(picture, dpi=160, facecolor="white")
    print(found)
    print(f"{'written':<17} {output}/summary.json, fit.png, checkpoint.json")


@with_options
def design(
    input: Input,
    target: Annotated[
        list[str],
        typer.Option(
            "--target", metavar="NAME=VALUE", help="A property and its wanted value, or max or min; repeatable."
        ),
    ],
    wrt: ParametersOption,
    output: OutputFolder,
    options: PackingOptions,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="NAME", help="A property that must not change; repeatable.")
    ] = None,
    bound: BoundOption = None,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="The largest number of relaxations.")] = 300,
    pressure: PressureOption = None,
) -> None:
    """Change parameters until a packing has the properties wanted, or is as close to them as it gets."""
    import jax

    options.configure()
    check_folder(output)
    goals, bounds = _goals(target), ranges_by_name(bound)
    potential, system = options.load(input)
    if not all(system.periodic):
        raise InvalidInput(f"{input} has open boundaries: it has no moduli or pressure to design")
    equilibrium = options.make_relaxation(pressure=pressure)(potential, system)
    output.mkdir(parents=True, exist_ok=True)
    found = mdsens.design(
        equilibrium,
        goals,
        wrt,
        bounds=bounds,
        keep=tuple(keep or ()),
        max_steps=max_steps,
        checkpoint=output / "checkpoint.json",
    )
    summary: dict[str, Any] = {
        **found.as_dict(),
        "input": str(input),
        "potential": options.potential,
        "all_properties": mdsens.properties.table(found.equilibrium),
        "versions": {"mdsens": mdsens.__version__, "jax": jax.__version__},
    }
    with (
        replacing(output / "summary.json") as text,
        replacing(output / "designed.extxyz") as packing,
        replacing(output / "design.png") as picture,
    ):
        text.write_text(json.dumps(summary, indent=2) + "\n")
        mdsens.write(packing, found.equilibrium, format="extxyz")
        mdsens.plotting.draw_design(found).savefig(picture, dpi=160, facecolor="white")
    print(found)
    print(f"{'written':<17} {output}/summary.json, designed.extxyz, design.png, checkpoint.json")


def _goals(given: list[str]) -> dict[str, str | float]:
    """The values of --target: numbers, `max` or `min`."""
    extremes = {name: text for name, _, text in (each.rpartition("=") for each in given) if text in ("max", "min")}
    values = numbers_by_name("--target", [each for each in given if each.rpartition("=")[0] not in extremes])
    return {**extremes, **values}
