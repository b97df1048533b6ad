"""What bounds the steps of a fit: a trust region, or the interval in which no contact changes.

    python benchmarks/fits.py [--packings 10] [--out benchmarks/results/fits.md]

The diameter 0.6 of half of 128 disks at φ = 0.98 is found again from their positions, from a start at 0.7: by
`mdsens.fit`; by the same without its look for where forces balance, so that all is left to the trust region; and by
Gauss and Newton's steps that end where the first contact is predicted to change. Relaxations that predict that are not
counted, and there are at most 100 others. Prints a table and writes it.
"""

import argparse
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

import mdsens
from mdsens.geometry import minimum_image
from mdsens.parameters import with_parameter

HERE = Path(__file__).parent
WRT, TRUTH, START = "species-diameter:1", 0.6, 0.7
RELAX = mdsens.Relaxation(tolerance=1e-12, one_sided=True)
MOST = 100


def by_fit(target):
    found = mdsens.fit(mdsens.SoftSphere(), target, WRT, start={WRT: START})
    return found.parameters[WRT], found.relaxations


def by_trust_region(target):
    with mock.patch("mdsens.fitting.least_squares.balance_forces", return_value=None):
        return by_fit(target)


def between_contact_changes(target):
    """Least squares in one unknown, no step longer than to just beyond the first change."""
    theta, relaxations, step = START, 0, np.inf
    while abs(step) > 1e-10 and relaxations < MOST:
        rest, relaxations = RELAX(*with_parameter(WRT, theta, mdsens.SoftSphere(), target)), relaxations + 1
        slope = np.asarray(mdsens.sensitivity(rest, WRT).response)
        off = np.asarray(minimum_image(rest.positions - target.positions, target.box))
        step = -np.sum(slope * (off - off.mean(0))) / np.sum(slope**2)
        holds = mdsens.validity(rest, WRT)
        theta += np.clip(step, 1.001 * holds.lower - 1e-9, 1.001 * holds.upper + 1e-9)
    return theta, relaxations


WAYS = {
    "`mdsens.fit`": by_fit,
    "trust region from 0.7": by_trust_region,
    "bounded by the next contact change": between_contact_changes,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packings", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fits.md")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    lines = [
        f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, float64\n",
        "| steps | found to 1e-6 | relaxations, median | at most | seconds, median |",
        "|---|---|---|---|---|",
    ]
    targets = [
        RELAX(mdsens.SoftSphere(), mdsens.random_packing(128, 2, (1.0, TRUTH), 0.98, seed=seed)).system
        for seed in range(options.packings)
    ]
    for name, way in WAYS.items():
        runs = []
        for target in targets:
            begun = time.perf_counter()
            theta, relaxations = way(target)
            runs.append((abs(theta - TRUTH) < 1e-6, relaxations, time.perf_counter() - begun))
            print(name, theta, *runs[-1], flush=True)
        found, relaxations, seconds = np.array(runs, float).T
        lines.append(
            f"| {name} | {int(found.sum())} of {len(targets)} | {np.median(relaxations):.0f} | {relaxations.max():.0f} "
            f"| {np.median(seconds):.2f} |"
        )
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
