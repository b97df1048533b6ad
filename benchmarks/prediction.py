"""Prediction at other parameters against relaxing anew: orders of the errors, and an ensemble of parameters.

    python benchmarks/prediction.py          # some three minutes; writes results/prediction.md

50 packings (16 Hertzian disks, φ = 1.1): the slopes of the errors against the change of a diameter, from a fiftieth of
the way to the first contact change up to two fifths. Then 1000 sets of parameters around one packing of 128, predicted,
and relaxed anew from the unperturbed positions: together by `relax_ensemble`, and 50 of them one by one.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import mdsens
from mdsens.response.nearby import at_value, network
from mdsens.uncertainty import predict, sample

NAME = "species-diameter:1"
FRACTIONS = np.array([0.02, 0.05, 0.1, 0.2, 0.4])
RESULTS = Path(__file__).parent / "results/prediction.md"


def slopes(seed: int) -> list[float] | None:
    """Of the errors of first- and second-order positions and their energies; None where contacts change on the way."""
    system = mdsens.random_packing(16, packing_fraction=1.1, seed=seed)
    rest = mdsens.Relaxation(tolerance=1e-13)(mdsens.SoftSphere(alpha=2.5), system)
    changes = FRACTIONS * min(mdsens.validity(rest, NAME).above.step, 0.05)
    models, rows = [predict(rest, NAME, order) for order in (1, 2)], []
    for change in changes:
        guesses = [model([0.6 + change]) for model in models]
        true = at_value(rest, NAME, jnp.asarray(0.6 + change), guess=guesses[1].positions)
        if network(true).contacts != network(rest).contacts:
            return None
        off = [np.abs(guess.positions - np.asarray(true.positions)).max() for guess in guesses]
        rows.append([*off, *(abs(float(guess.energy) - float(true.energy)) for guess in guesses)])
    found = []
    for errors, floor in zip(np.array(rows).T, (1e-12, 1e-12, 1e-14, 1e-14), strict=True):
        known = errors > floor
        found.append(np.polyfit(np.log(changes[known]), np.log(errors[known]), 1)[0] if known.sum() > 2 else np.nan)
    return found


def ensemble() -> list[str]:
    system = mdsens.random_packing(128, packing_fraction=0.98, seed=0)
    relax = mdsens.Relaxation(tolerance=1e-10)
    rest = relax(mdsens.SoftSphere(), system)
    interval = mdsens.validity(rest, NAME)
    spread = {"epsilon": 0.05, NAME: 0.25 * min(interval.above.step, -interval.below.step)}
    model = predict(rest, ["epsilon", NAME])
    sample(model, spread)  # compiles
    start = time.perf_counter()
    drawn = sample(model, spread)
    predicting = time.perf_counter() - start
    members = [model.parameters.apply(values, rest.potential, rest.system) for values in drawn.predicted.values]
    potentials, systems = ([member[i] for member in members] for i in (0, 1))
    mdsens.relax_ensemble(relax, potentials, systems)  # compiles
    start = time.perf_counter()
    anew = jax.block_until_ready(mdsens.relax_ensemble(relax, potentials, systems).energy)
    together = time.perf_counter() - start
    relax(*members[0])
    start = time.perf_counter()
    for member in members[:50]:
        relax(*member)
    alone = 20 * (time.perf_counter() - start)
    energies = np.asarray(anew)
    return [
        f"1000 sets of ε (± 5 %) and the small diameter (± {spread[NAME]:.2g}) of 128 disks, {drawn.beyond:.1%} of "
        "them beyond a contact change:",
        "",
        "| | time | times as long | mean energy | standard deviation |",
        "|---|---:|---:|---:|---:|",
        f"| predicted | {predicting:.3g} s | 1 | {drawn.energy_mean:.8g} | {drawn.energy_std:.6g} |",
        f"| relaxed together | {together:.3g} s | {together / predicting:.0f} | {energies.mean():.8g} | "
        f"{energies.std(ddof=1):.6g} |",
        f"| relaxed one by one | {alone:.3g} s | {alone / predicting:.0f} | | |",
    ]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    found = [each for each in (slopes(seed) for seed in range(50)) if each is not None]
    orders = np.array(found)
    names = ("positions, order 1", "positions, order 2", "energy, order 3", "energy, order 5")
    lines = [
        f"JAX {jax.__version__}, Python {platform.python_version()}, double precision, {jax.devices()[0].device_kind}.",
        "",
        f"Slopes of the errors in {len(found)} of 50 packings (in the others contacts change on the way):",
        "",
        "| | theory | median | 10 to 90 % | within 0.15 |",
        "|---|---:|---:|---:|---:|",
    ]
    for i, (name, theory) in enumerate(zip(names, (2, 3, 4, 6), strict=True)):
        known = orders[np.isfinite(orders[:, i]), i]
        low, middle, high = np.quantile(known, [0.1, 0.5, 0.9])
        near = int(np.sum(np.abs(known - theory) <= 0.15))
        lines.append(f"| {name} | {theory} | {middle:.2f} | {low:.2f} to {high:.2f} | {near} of {len(known)} |")
    lines += ["", *ensemble()]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
