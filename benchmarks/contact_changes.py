"""How well the first change of contacts is predicted, on a hundred jammed packings.

    python benchmarks/contact_changes.py [--count 100] [-n 128]

For each packing of soft spheres at φ = 0.98 `mdsens.validity` predicts, for the small species growing and
shrinking, which contact opens or closes first, and when. The packing is then relaxed anew at 95 % and at
105 % of that step: a prediction is right if before nothing has changed, and beyond the pair named has.
"""

import argparse
import collections

import jax
import numpy as np

import mdsens
from mdsens.response.nearby import network

NAME = "species-diameter:1"


def verdict(relax, rest, change):
    """What relaxing anew on either side of the predicted change says."""
    small = np.asarray(rest.system.species) == 1

    def contacts(step):
        grown = rest.system.replace(diameters=rest.system.diameters + step * small)
        return network(relax(rest.potential, grown)).contacts

    here, inside, beyond = network(rest).contacts, contacts(0.95 * change.step), contacts(1.05 * change.step)
    if inside != here:
        return "too late"
    return "right" if change.pair in here ^ beyond else "another pair, or later"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("-n", type=int, default=128)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    relax, found = (
        mdsens.Relaxation(tolerance=1e-12),
        {"growing": collections.Counter(), "shrinking": collections.Counter()},
    )
    for seed in range(options.count):
        rest = relax(mdsens.SoftSphere(), mdsens.random_packing(options.n, packing_fraction=0.98, seed=seed))
        interval = mdsens.validity(rest, NAME)
        for way, change in (("growing", interval.above), ("shrinking", interval.below)):
            found[way]["none predicted" if change is None else verdict(relax, rest, change)] += 1
    for way, verdicts in found.items():
        print(
            f"{options.count} packings of {options.n}, {way}: "
            + ", ".join(f"{k} {v}" for k, v in verdicts.most_common())
        )


if __name__ == "__main__":
    main()
