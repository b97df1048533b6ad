"""Poisson's ratio of packings designed: how often a goal is reached, how far it goes, and what a step costs.

    python benchmarks/designs.py [--only costs reached limits] [--starts 10] [--out benchmarks/results/designs.md]

2D, N = 256, φ = 0.98; free are the diameters of both species and the stiffnesses of their pairs. Needs ".[bench]" for
the way of jax-md and jaxopt. Prints a table for each part and writes them; parts left out stay as they are in the file.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import mdsens
from mdsens import properties
from mdsens.inverse_design.design import responses
from mdsens.parameters import ParameterVector
from mdsens.properties.elasticity import _moduli_of

HERE = Path(__file__).parent
WRT = ["species-diameter:0", "species-diameter:1", "epsilon"]
BOUNDS = {"epsilon": (0.01, 100.0)}
RELAX = mdsens.Relaxation(tolerance=1e-11)
STRAIN = 1e-6


class Sticky(mdsens.PairPotential):
    """Harmonic spheres with an attractive tail, as a user would write it."""

    epsilon: jax.Array
    depth: jax.Array

    def pair_energy(self, r, sigma):
        u = r / sigma
        tail = -self.depth * mdsens.potentials.smooth_switch(u, 1.0, 1.25)
        return self.epsilon * (0.5 * (1.0 - u) ** 2 * (u < 1.0) + tail)

    def cutoff(self, sigma):
        return 1.25 * sigma


POTENTIALS = {
    "soft spheres": mdsens.SoftSphere(epsilon=jnp.ones((2, 2))),
    "with an attractive tail": Sticky(jnp.ones((2, 2)), jnp.full((2, 2), 0.01)),
}


def start(potential, seed):
    return RELAX(potential, mdsens.random_packing(256, packing_fraction=0.98, seed=seed))


def by_straining(rest):
    """ν from the stress of the packing in strained cells, relaxed anew."""
    judge = mdsens.Relaxation(tolerance=1e-12)

    def change(strain):
        ahead, behind = (
            properties.stress(
                judge(rest.potential, rest.frozen.system.deform(rest.system.box @ (np.eye(2) + sign * strain)))
            )
            for sign in (STRAIN, -STRAIN)
        )
        return np.asarray(ahead - behind) / (2 * STRAIN)

    bulk = np.trace(change(np.eye(2))) / 4
    pure = change(np.diag([0.5, -0.5]))
    shear = 0.5 * (change(np.array([[0.0, 0.5], [0.5, 0.0]]))[0, 1] + 0.5 * (pure[0, 0] - pure[1, 1]))
    return (bulk - shear) / (bulk + shear)


def reached(starts):
    """ν raised and lowered by 0.1."""
    lines = [
        "| | ν | reached | relaxations, median | at most | seconds, median | ν off by straining, median | at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, potential in POTENTIALS.items():
        for change in (0.1, -0.1):
            runs = []
            for seed in range(starts):
                rest, begun = start(potential, seed), time.perf_counter()
                goal = float(properties.poisson_ratio(rest)) + change
                found = mdsens.design(rest, {"poisson_ratio": goal}, WRT, bounds=BOUNDS)
                seconds = time.perf_counter() - begun
                off = abs(by_straining(found.equilibrium) - found.properties["poisson_ratio"])
                runs.append((found.reached, found.relaxations, seconds, off))
                print(name, seed, change, found.message, runs[-1], flush=True)
            done, relaxations, seconds, off = np.array(runs, float).T
            lines.append(
                f"| {name} | {change:+.1f} | {int(done.sum())} of {starts} | {np.median(relaxations):.0f} | "
                f"{relaxations.max():.0f} | {np.median(seconds):.1f} | {np.median(off):.0e} | {off.max():.0e} |"
            )
    return lines


def limits(starts):
    """As far as it goes, diameters within a fifth and stiffnesses within a factor of ten; the tail from one start."""
    lines = ["| | start | ν | | relaxations | seconds | what binds |", "|---|---|---|---|---|---|---|"]
    bounds = {"epsilon": (0.1, 10.0), "species-diameter:0": (0.8, 1.2), "species-diameter:1": (0.48, 0.72)}
    for name, potential in POTENTIALS.items():
        for seed in range(min(3 if name == "soft spheres" else 1, starts)):
            rest = start(potential, seed)
            for end in ("min", "max"):
                begun = time.perf_counter()
                found = mdsens.design(rest, {"poisson_ratio": end}, WRT, bounds=bounds, max_steps=2000)
                seconds, nu = time.perf_counter() - begun, found.properties["poisson_ratio"]
                lines.append(
                    f"| {name} | {seed} | {found.before['poisson_ratio']:.3f} | {end} {nu:.3f} | {found.relaxations} "
                    f"| {seconds:.0f} | {found.message} |"
                )
                print(lines[-1], flush=True)
    return lines


def costs(_):
    """One gradient of ν in all five parameters: by the responses, by finite differences, by jax-md and jaxopt."""
    rest = start(POTENTIALS["soft spheres"], 0).frozen
    unknowns = ParameterVector.from_names(WRT, rest.potential, rest.system)
    vector = np.asarray(unknowns.vector(rest.potential, rest.system))

    def ours():
        return responses(rest, unknowns, ("poisson_ratio",))[1][0]

    def by_differences(step=1e-6):
        def at(values):
            potential, system = unknowns.apply(jnp.asarray(values), rest.potential, rest.system)
            return float(properties.poisson_ratio(RELAX(potential, system)))

        moves = step * np.eye(len(vector))
        return np.array([(at(vector + move) - at(vector - move)) / (2 * step) for move in moves])

    theirs = of_jax_md_and_jaxopt(rest, unknowns)
    exact, lines = ours(), ["| one gradient of ν | seconds | times as long | off ours |", "|---|---|---|---|"]
    times = {}
    for name, way in (
        ("mdsens", ours),
        ("central differences, 10 relaxations", by_differences),
        ("jax-md + jaxopt", theirs),
    ):
        value, seconds = way(), []
        for _ in range(5):
            begun = time.perf_counter()
            value = np.asarray(way())
            seconds.append(time.perf_counter() - begun)
        times[name] = np.median(seconds)
        off = np.abs(value - exact).max() / np.abs(exact).max()
        lines.append(f"| {name} | {times[name]:.3g} | {times[name] / times['mdsens']:.1f} | {off:.0e} |")
        print(lines[-1], flush=True)
    return lines


def of_jax_md_and_jaxopt(rest, unknowns):
    """The way of Zu and Goodrich: jax-md's moduli at positions that jaxopt's `custom_root` differentiates."""
    import jaxopt
    from jax_md import elasticity, energy, space

    kinds, box = rest.system.species, rest.system.box
    displacement, _ = space.periodic_general(box, fractional_coordinates=False)

    def function(theta):
        D = theta[:2][kinds]
        epsilon = jnp.array([[theta[2], theta[3]], [theta[3], theta[4]]])[kinds[:, None], kinds[None]]
        return energy.soft_sphere_pair(displacement, sigma=0.5 * (D[:, None] + D[None]), epsilon=epsilon, alpha=2)

    at_rest = jaxopt.implicit_diff.custom_root(lambda x, theta: jax.grad(function(theta))(x))(
        lambda _, theta: jax.lax.stop_gradient(rest.positions)
    )

    @jax.jit
    @jax.grad
    def gradient(theta):
        x, here = at_rest(None, theta), function(theta)
        tensor = elasticity.athermal_moduli(here, tether_strength=1e-12, cg_tol=1e-11)(x, box)

        def stretched(scale):
            wide, _ = space.periodic_general(scale * box, fractional_coordinates=False)
            D = theta[:2][kinds]
            epsilon = jnp.array([[theta[2], theta[3]], [theta[3], theta[4]]])[kinds[:, None], kinds[None]]
            return energy.soft_sphere_pair(wide, sigma=0.5 * (D[:, None] + D[None]), epsilon=epsilon, alpha=2)(
                scale * x
            )

        pressure = -jax.grad(stretched)(1.0) / (2 * rest.system.volume)
        return _moduli_of(tensor, pressure)["poisson_ratio"]

    theta = jnp.asarray(unknowns.vector(rest.potential, rest.system))
    return lambda: jax.block_until_ready(gradient(theta))


PARTS = {"costs": costs, "reached": reached, "limits": limits}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "designs.md")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    before = options.out.read_text().strip().split("\n\n")[1:] if options.out.exists() else []
    tables = dict.fromkeys(PARTS, "Not measured.") | dict(zip(PARTS, before, strict=False))
    for name in options.only:
        tables[name] = "\n".join(PARTS[name](options.starts))
        told = f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, float64"
        options.out.write_text("\n\n".join([told, *tables.values()]) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
