"""The two findings of Blondel et al. (arXiv 2105.15183, molecular dynamics), measured again.

    python benchmarks/paper.py -o benchmarks/results

128 soft spheres in 2D, half of diameter 1, half of diameter θ = 0.6, relaxed with FIRE from 40
random starts. The L1 norm of ∂x/∂θ after k steps, by differentiating the loop (forward mode
through all k steps) and by the implicit rule at the same positions. Writes a figure, a table in
Markdown, and the numbers as JSON.
"""

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax_md.minimize import fire_descent

import mdsens
from mdsens import linear_solvers
from mdsens.landscape.configuration import Configuration
from mdsens.minimizers import position_of
from mdsens.relaxation.descent import stepper
from mdsens.relaxation.rule import AtRest, LinearizationCache, Rule, positions_at_rest

FIRE = mdsens.JaxMDMinimizer(fire_descent)  # with its own settings
THETA = 0.6
RULE = Rule(linear_solvers.dense(), refuse=False)


def with_theta(system, theta):
    return system.replace(diameters=jnp.where(system.species == 1, theta, system.diameters))


def trajectory(potential, system, checkpoints, steps_each, theta):
    """Positions [checkpoints, n, 2] along FIRE."""
    system = with_theta(system, theta)
    here = Configuration(potential, system, mdsens.AllPairs().build(potential, system))
    init, apply = stepper(FIRE, here)(jnp.inf)

    def leg(state, _):
        state = jax.lax.fori_loop(0, steps_each, lambda _, state: apply(state), state)
        return state, position_of(state)

    return jax.lax.scan(leg, init(system.positions), None, length=checkpoints)[1]


@functools.partial(jax.jit, static_argnums=(2, 3))
def unrolled_response(potential, system, checkpoints, steps_each):
    """Positions along FIRE and their derivative through all the steps so far."""
    run = functools.partial(trajectory, potential, system, checkpoints, steps_each)
    return jax.jvp(run, (THETA,), (1.0,))


@jax.jit
def implicit_norm(potential, system, x):
    """The L1 norm of the implicit response at positions x, and the largest force there."""
    pairs = mdsens.AllPairs().build(potential, system)

    one, here = jnp.asarray(1.0), Configuration(potential, with_theta(system, THETA).replace(positions=x), pairs)

    def at_rest(theta):
        moved = with_theta(system, theta).replace(positions=x)
        return positions_at_rest(AtRest(moved, potential, pairs, one, one, None, RULE, LinearizationCache()))

    force = jnp.max(jnp.abs(here.gradient()))
    return jnp.sum(jnp.abs(jax.jvp(at_rest, (THETA,), (1.0,))[1])), force


def measure(starts, packing_fraction, checkpoints, steps_each):
    """Norms of the unrolled and the implicit response and largest forces, each [starts, checkpoints]."""
    unrolled, implied, forces = [], [], []
    potential = mdsens.SoftSphere()
    for seed in range(starts):
        system = mdsens.random_packing(128, 2, (1.0, THETA), packing_fraction, seed)
        x, dx = unrolled_response(potential, system, checkpoints, steps_each)
        unrolled.append(np.sum(np.abs(dx), axis=(1, 2)))
        norm, force = zip(*(map(float, implicit_norm(potential, system, there)) for there in x), strict=True)
        implied.append(norm)
        forces.append(force)
        ends = f"implicit {norm[-1]:.4g}, unrolled {unrolled[-1][-1]:.4g}, largest force {force[-1]:.1e}"
        print(f"start {seed}: {ends}", flush=True)
    return np.array(unrolled), np.array(implied), np.array(forces)


def settled_after(norms, steps):
    """For each start, the steps after which its norm stays within 1 % of the last; infinite if only near the end."""
    away = np.abs(norms / norms[:, -1:] - 1) > 0.01
    first_settled = np.where(away.any(axis=1), away.shape[1] - np.argmax(away[:, ::-1], axis=1), 0)
    return np.where(first_settled < 0.9 * len(steps), steps[np.minimum(first_settled, len(steps) - 1)], np.inf)


def table(steps, unrolled, implied, forces):
    rows = [
        "| after FIRE steps | unrolled: median (10–90 %) | implicit: median (10–90 %) | largest force, median |",
        "|---|---|---|---|",
    ]
    for k in np.unique(np.linspace(0, len(steps) - 1, 6).astype(int)):
        spread = [np.quantile(norms[:, k], (0.5, 0.1, 0.9)) for norms in (unrolled, implied)]
        cells = [f"{m:.3g} ({low:.3g}–{high:.3g})" for m, low, high in spread]
        rows.append(f"| {steps[k]} | {cells[0]} | {cells[1]} | {np.median(forces[:, k]):.1e} |")
    rows.append("")
    for name, norms in (("unrolled", unrolled), ("implicit", implied)):
        after, peak = settled_after(norms, steps), np.max(norms / norms[:, -1:], axis=1)
        rows.append(
            f"- {name}: settled for good, within 1 % of the last value, in {np.isfinite(after).sum()} of {len(norms)} "
            f"starts, after {np.median(after):.0f} steps in the median and {np.max(after):.0f} at most; "
            f"more than twice too large on the way in {np.sum(peak > 2)} starts, {np.max(peak):.2g} times at most"
        )
    ratio = unrolled[:, -1] / implied[:, -1]
    rows.append(
        f"- at the end both agree within 1 % in {np.sum(np.abs(ratio - 1) < 0.01)} of {len(ratio)} starts; "
        f"in the others the unrolled norm is up to {np.max(ratio):.3g} times the implicit one"
    )
    return "\n".join(rows)


def figure(path, steps, unrolled, implied):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, constrained_layout=True)
    for ax, norms, name in zip(axes, (unrolled, implied), ("unrolled", "implicit"), strict=True):
        for row in norms:
            ax.plot(steps, row, linewidth=0.7, color="#3b6ea5" if name == "implicit" else "#b5542c", alpha=0.55)
        ax.set(title=f"{name}, {len(norms)} random starts", xlabel="FIRE steps", yscale="log", xlim=(0, steps[-1]))
        ax.grid(alpha=0.25)
    axes[0].set(ylabel="L1 norm of ∂x/∂θ", ylim=(10, None))
    fig.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--packing-fraction", type=float, default=0.98)
    parser.add_argument("--precision", choices=("double", "single"), default="double")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", arguments.precision == "double")
    checkpoints = min(100, arguments.steps)
    each = arguments.steps // checkpoints
    steps = each * np.arange(1, checkpoints + 1)
    results = measure(arguments.starts, arguments.packing_fraction, checkpoints, each)
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure(arguments.output / "paper.png", steps, *results[:2])
    text = table(steps, *results)
    print(text)
    (arguments.output / "paper.md").write_text(text + "\n")
    facts = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "precision": arguments.precision,
        "packing_fraction": arguments.packing_fraction,
        "steps": steps.tolist(),
    }
    numbers = dict(zip(("unrolled", "implicit", "max_force"), (r.tolist() for r in results), strict=True))
    (arguments.output / "paper.json").write_text(json.dumps(facts | numbers) + "\n")


if __name__ == "__main__":
    main()
