"""What the checks of a relaxation cost, at N = 10⁴ disks: beside the relaxation itself, both warm.

    python benchmarks/checks.py -o benchmarks/results [-n 10000] [--repeats 5]

Potentials that are not mdsens' own are probed where they have come to rest: forces against the energy, Hessian products
against forces (docs/checks.md). `Copied` is such a potential, with the same energy as `SoftSphere`.

Writes checks.json and checks.md.
"""

import argparse
from pathlib import Path

import jax

import mdsens
import report
from mdsens import neighbors
from mdsens.landscape.configuration import Configuration
from mdsens.landscape.consistency import first_probe
from mdsens.relaxation import validation
from mdsens.runtime.compiled import compile_once
from peers import timed
from scaling import processor


class Copied(mdsens.PairPotential):
    """The soft sphere with alpha = 2, as somebody would write it."""

    epsilon: jax.Array

    def pair_energy(self, r, sigma):
        return 0.5 * self.epsilon * (1.0 - r / sigma) ** 2

    def cutoff(self, sigma):
        return sigma


def measure(potential, system, repeats):
    relax = mdsens.Relaxation()
    rest = relax(potential, system)
    prepared = potential.prepared_for(system)
    pairs = neighbors.allocate(neighbors.automatic(prepared, rest.system), prepared, rest.system)
    here = Configuration(prepared, rest.system, pairs)
    start, probe = validation.surveyed, compile_once(first_probe)

    def look():
        validation.check_derivatives(here, first=None if prepared.is_verified else probe(here))

    return {
        "potential": type(potential).__name__,
        "steps": int(rest.steps),
        "relaxation": timed(lambda: relax(potential, system).energy, repeats)[2],
        "survey at the start": timed(lambda: start(prepared, system, relax.skin).reach, repeats)[2],
        "probe at the end": timed(look, repeats)[2],
    }


def table(rows, n):
    names = [name for name in rows[0] if name not in ("potential", "steps")]
    lines = [f"| {n} disks | steps | " + " | ".join(f"{name}, s" for name in names) + " | probe / relaxation |"]
    lines.append("|" + "---|" * (len(names) + 3))
    for row in rows:
        share = row["probe at the end"] / row["relaxation"]
        values = " | ".join(f"{row[name]:.4f}" for name in names)
        lines.append(f"| {row['potential']} | {row['steps']} | {values} | {share:.2%} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    system = mdsens.random_packing(options.n, 2, (1.0, 0.7), 0.95, seed=1)
    rows = [measure(each, system, options.repeats) for each in (mdsens.SoftSphere(), Copied(1.0))]
    text = table(rows, options.n)
    print(text)
    if options.output:
        facts = {"processor": processor(), "n": options.n, "repeats": options.repeats, "rows": rows}
        report.write(options.output, "checks", facts, f"# What checks cost\n\n{processor()}\n\n{text}")


if __name__ == "__main__":
    main()
