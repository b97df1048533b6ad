"""Packings of thousand.py in three systems of units: the same verdicts in each, and none wrong.

    python benchmarks/units.py -o benchmarks/results [--count 200] [--jobs 2]

Lengths of 1e-10 with energies of 1e-21, as of atoms in m and J; of 1 with 1; and of 1e3 with 1e-9. Everything that
mdsens is given is in these units; its answers are compared without them.

Writes units.json and units.md after every group of packings of one shape.
"""

import argparse
import collections
import multiprocessing
import sys
import time
from pathlib import Path

import jax

import report
import thousand
from mdsens import linear_solvers

UNITS = ((1.0, 1.0), (1e-10, 1e-21), (1e3, 1e-9))
"""Of length and of energy."""

SOLVERS = {name: getattr(linear_solvers, name)() for name in ("dense", "minres")}


def work(numbers):
    """The packings of one shape in all systems of units."""
    jax.config.update("jax_enable_x64", True)
    return [examined(k, units) for units in UNITS for k in numbers]


def examined(k, units):
    result = thousand.examine(k, recipes=False, solvers=SOLVERS, units=units)
    return {"units": units, **{name: result[name] for name in ("k", "n", "dim", "kind", "verdicts")}}


def outcome(verdict):
    return verdict.split(":")[0]


def table(results):
    lines = [
        "| length | energy | right | refused | wrong | verdicts other than in units of 1 |",
        "|---|---|---|---|---|---|",
    ]
    at_one = {r["k"]: r["verdicts"] for r in results if tuple(r["units"]) == UNITS[0]}
    for units in UNITS:
        these = [r for r in results if tuple(r["units"]) == units]
        counts = collections.Counter(outcome(v) for r in these for v in r["verdicts"].values())
        others = sum(outcome(v) != outcome(at_one[r["k"]][name]) for r in these for name, v in r["verdicts"].items())
        row = (*(f"{unit:g}" for unit in units), *(counts[word] for word in ("right", "refused", "wrong")), others)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    begin, results = time.time(), []
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=4) as pool:
        for group in pool.imap_unordered(work, thousand.groups(range(options.count)), chunksize=1):
            results += group
            wrong = [r for r in group if any(outcome(v) == "wrong" for v in r["verdicts"].values())]
            print(f"{len(results)}/{len(UNITS) * options.count}, {time.time() - begin:.0f} s", *wrong, flush=True)
            results.sort(key=lambda r: (r["k"], r["units"]))
            if options.output:
                count, solvers = len(results) // len(UNITS), " and ".join(SOLVERS)
                about = f"{count} packings, {solvers}, forward and reverse; {time.time() - begin:.0f} s."
                text = f"# Three systems of units\n\n{table(results)}\n{about}\n"
                report.write(options.output, "units", results, text)
    print(table(results))
    sys.exit(any(outcome(v) == "wrong" for r in results for v in r["verdicts"].values()))


if __name__ == "__main__":
    main()
