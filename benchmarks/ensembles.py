"""Forty packings relaxed, and their responses, together and one after another.

    python benchmarks/ensembles.py [--members 40] [-n 128] [--repeats 5] [--out benchmarks/results/ensembles.md]

2D, φ = 0.95, diameters 1 and 0.6 (the size of the ensembles of Blondel et al., arXiv:2105.15183), forces to 1e-10 and
the response of all positions to the small diameter. Medians after a first call that compiles; together also on two
simulated devices, one for each of two cores.
"""

import argparse
from pathlib import Path

import jax

import mdsens
from scaling import timed

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)

HERE = Path(__file__).parent
WRT = "species-diameter:1"
RELAX, SPHERES = mdsens.Relaxation(tolerance=1e-10), mdsens.SoftSphere()


def responses(potential, systems, devices=None):
    """Of all positions to the small diameter, forward through the ensemble."""

    def positions(diameter):
        changed = [s.replace(diameters=s.diameters + diameter * (s.species == 1)) for s in systems]
        return mdsens.relax_ensemble(RELAX, potential, changed, devices=devices).positions

    return jax.jvp(positions, (0.0,), (1.0,))


def one_by_one(systems):
    found = []
    for system in systems:
        rest = RELAX(SPHERES, system)
        found.append((rest.positions, mdsens.sensitivity(rest, WRT).response))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=40)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ensembles.md")
    options = parser.parse_args()
    systems = [
        mdsens.random_packing(options.n, 2, (1.0, 0.6), packing_fraction=0.95, seed=seed)
        for seed in range(options.members)
    ]
    relaxed = lambda devices=None: mdsens.relax_ensemble(RELAX, SPHERES, systems, devices=devices).frozen  # noqa: E731
    cases = {
        "relaxed": (
            lambda: [RELAX(SPHERES, system).frozen.positions for system in systems],
            lambda: relaxed().positions,
            lambda: relaxed(jax.devices()).positions,
        ),
        "relaxed, and their response": (
            lambda: one_by_one(systems),
            lambda: responses(SPHERES, systems),
            lambda: responses(SPHERES, systems, jax.devices()),
        ),
    }
    where = f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, float64"
    lines = [
        f"{where}; {options.members} packings of {options.n} disks",
        "",
        "| | one after another | together | on two devices |",
        "|---|---:|---:|---:|",
    ]
    for name, ways in cases.items():
        alone, together, shared = (timed(way, options.repeats)[-1] for way in ways)
        faster = [f"{t:.2f} s ({alone / t:.1f} ×)" for t in (together, shared)]
        lines.append(f"| {name} | {alone:.2f} s | {faster[0]} | {faster[1]} |")
        print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
