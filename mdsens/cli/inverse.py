"""The commands about properties: to measure, to fit, to design."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

import mdsens
from mdsens import plotting
from mdsens.errors import InvalidInput
from mdsens.files import replacing

from .app import Options
from .work import check_folder, configure, potential_of, read, relaxed


@dataclass(frozen=True)
class Given:
    """What a fit is told: starting values, bounds, measured properties, and the size and epochs of batches."""

    start: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]
    measured: Mapping[str, float]
    batches: tuple[int, int] | None


def properties(input: Path, as_json: bool, options: Options) -> None:
    configure(options)
    potential = potential_of(options)
    equilibrium = relaxed(potential, read(input, options), options)
    values = mdsens.properties.table(equilibrium)
    if as_json:
        facts = {"n": equilibrium.system.n, "dim": equilibrium.system.dim, "potential": options.potential.value}
        print(json.dumps({**facts, **values}, indent=2))
        return
    print(equilibrium.certificate)
    print()
    print(f"{'potential':<17} {potential!r}")
    for name, value in values.items():
        print(f"{name:<17} {value:<22.12g} {mdsens.properties.UNITS.get(name, '')}".rstrip())


def fit(
    targets: list[Path],
    wrt: tuple[str, ...],
    output: Path,
    given: Given,
    uncertainties: Mapping[str, float],
    options: Options,
) -> None:
    configure(options)
    check_folder(output)
    potential = potential_of(options)
    measured = [
        mdsens.Target(read(target, options), properties=given.measured, uncertainties=uncertainties)
        for target in targets
    ]
    output.mkdir(parents=True, exist_ok=True)
    found = mdsens.fit(
        potential,
        measured,
        wrt,
        start=given.start,
        bounds=given.bounds,
        relax=mdsens.Relaxation(tolerance=options.tolerance),
        batches=None if given.batches is None else mdsens.Minibatches(*given.batches),
        checkpoint=output / "checkpoint.json",
    )
    summary = {
        **found.as_dict(),
        "targets": [str(target) for target in targets],
        "potential": options.potential.value,
        "units": "reduced: lengths, energies and forces in the units of the input",
        "versions": {"mdsens": mdsens.__version__, "jax": jax.__version__},
    }
    with replacing(output / "summary.json") as text, replacing(output / "fit.png") as picture:
        text.write_text(json.dumps(summary, indent=2) + "\n")
        plotting.draw_fit(found, measured).savefig(picture, dpi=160, facecolor="white")
    print(found)
    print(f"{'written':<17} {output}/summary.json, fit.png, checkpoint.json")


def design(
    input: Path,
    goals: dict[str, str | float],
    wrt: tuple[str, ...],
    output: Path,
    hold: tuple[str, ...],
    bounds: Mapping[str, tuple[float, float]],
    max_steps: int,
    options: Options,
) -> None:
    configure(options)
    check_folder(output)
    equilibrium = relaxed(potential_of(options), read(input, options), options)
    if not equilibrium.system.periodic:
        raise InvalidInput(f"{input} has open boundaries: it has no moduli or pressure to design")
    output.mkdir(parents=True, exist_ok=True)
    found = mdsens.design(
        equilibrium,
        goals,
        wrt,
        bounds=bounds,
        hold=hold,
        max_steps=max_steps,
        checkpoint=output / "checkpoint.json",
    )
    summary = {
        **found.as_dict(),
        "input": str(input),
        "potential": options.potential.value,
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
        plotting.draw_design(found).savefig(picture, dpi=160, facecolor="white")
    print(found)
    print(f"{'written':<17} {output}/summary.json, designed.extxyz, design.png, checkpoint.json")
