"""Moduli at low and high pressure against jax-md and against strained packings.

    python benchmarks/properties.py [--packings 10] [--out benchmarks/results/properties.md]

Needs ".[test]" for the NumPy reference in tests/. Prints a table and writes it.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

import mdsens
from mdsens import properties

HERE = Path(__file__).parent

STEP = 1e-6
KINDS = ((2, 64, 0.86), (2, 64, 1.1), (3, 128, 0.66), (3, 128, 0.9))


def of_jax_md(rest):
    """C by `elasticity.athermal_moduli`, and whether its solver converged."""
    from jax_md import elasticity, energy, space

    D = rest.system.diameters
    displacement, _ = space.periodic_general(rest.system.box, fractional_coordinates=False)
    function = energy.soft_sphere_pair(displacement, sigma=0.5 * (D[:, None] + D[None]), epsilon=1.0, alpha=2)
    emt = elasticity.athermal_moduli(function, tether_strength=1e-12, cg_tol=1e-11, check_convergence=True)
    tensor, converged = emt(rest.positions, rest.system.box)
    return np.asarray(tensor), bool(converged)


def by_strain(rest):
    """K and G in the plane xy, from the stress of strained packings; None where a contact changes."""
    from reference import ContactChanged, SoftSpheres, same_contacts

    system = rest.system
    at_rest = SoftSpheres(system.positions, system.box, system.diameters).backbone().relaxed()
    shear = np.zeros((system.dim, system.dim))
    shear[0, 1] = shear[1, 0] = 0.5
    found = []
    for strain in (np.eye(system.dim), shear):
        ahead, behind = (at_rest.strained(sign * STEP * strain) for sign in (1, -1))
        try:
            same_contacts(at_rest, ahead, behind)
        except ContactChanged:
            return None
        found.append((ahead.stress() - behind.stress()) / (2 * STEP))
    return np.trace(found[0]) / system.dim**2, found[1][0, 1]


def moduli(count):
    relax = mdsens.Relaxation(tolerance=1e-13)
    lines = [
        "| packings | pressure | C off jax-md's | K off dp/dV | G off dσ/dγ | differences taken |",
        "|---|---|---|---|---|---|",
    ]
    for dim, n, phi in KINDS:
        off, pressures, taken = [], [], 0
        for seed in range(count):
            rest = relax(mdsens.SoftSphere(), mdsens.random_packing(n, dim, packing_fraction=phi, seed=seed))
            tensor, (theirs, converged) = np.asarray(properties.elastic_tensor(rest)), of_jax_md(rest)
            pressures.append(float(properties.pressure(rest)))
            line = [np.abs(tensor - theirs).max() / np.abs(theirs).max() if converged else np.nan, np.nan, np.nan]
            strained = by_strain(rest)
            if strained is not None:
                taken += 1
                line[1] = abs(float(properties.bulk_modulus(rest)) / strained[0] - 1)
                line[2] = abs(float(properties.shear_modulus(rest, (0, 1))) / strained[1] - 1)
            off.append(line)
        worst = [f"{np.nanmax(column):.1e}" for column in np.array(off).T]
        between = f"{min(pressures):.2g} to {max(pressures):.2g}"
        lines.append(f"| {count}, {dim}D, N = {n}, φ = {phi} | {between} | {' | '.join(worst)} | {taken} |")
        print(lines[-1], flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packings", type=int, default=10, help="of each kind")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "properties.md")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sys.path.insert(0, str(HERE.parent / "tests"))
    lines = moduli(options.packings)
    options.out.write_text(
        "\n".join([*lines, "", f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, float64"]) + "\n"
    )


if __name__ == "__main__":
    main()
