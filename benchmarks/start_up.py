"""How long a newcomer waits, from a cold process: wall time of imports, of commands, and of a first gradient.

    python benchmarks/start_up.py [--repeats 3] [-o FOLDER]

Needs ".[bench]". Every figure is the median over fresh processes without any cache of compiled programs, unless it
says "again": then the programs of the run before are kept. The first gradient is that of a loss on the positions of
256 disks at rest with respect to all diameters, in reverse mode, relaxation and imports included. Beside it the
published recipe does the same in the same run: jax-md's FIRE and neighbor list, jaxopt's `custom_root` with BiCGSTAB.
Writes start-up.json and .md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKING = """
import numpy as np
def packing(n=256, phi=0.98, seed=0):
    diameters = np.where(np.arange(n) < n // 2, 1.0, 0.6)
    edge = np.sqrt(np.pi / 4 * np.sum(diameters**2) / phi)
    return edge * np.random.default_rng(seed).uniform(size=(n, 2)), edge, diameters
"""

OURS = (
    PACKING
    + """
import jax
jax.config.update("jax_enable_x64", True)
import mdsens
positions, edge, diameters = packing()
system = mdsens.System(positions, edge, diameters)
relax = mdsens.Relaxation(tolerance=1e-10)
weights = np.random.default_rng(1).normal(size=positions.shape)
loss = lambda D: (weights * relax(mdsens.SoftSphere(), system.replace(diameters=D)).positions).sum()
print(float(abs(jax.grad(loss)(system.diameters)).max()))
"""
)

RECIPE = (
    PACKING
    + """
import functools
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import jaxopt
from jax_md import energy, minimize, partition, smap, space
positions, edge, diameters = packing()
displacement, shift = space.periodic(edge)
lists = partition.neighbor_list(displacement, edge, 1.0, 0.25, format=partition.OrderedSparse)
metric = space.canonicalize_displacement_or_metric(displacement)

def total(x, neighbor, D):
    pairs = smap.pair_neighbor_list(
        energy.soft_sphere, metric, sigma=(lambda a, b: 0.5 * (a + b), D), alpha=2, epsilon=1.0
    )
    return pairs(x, neighbor)

slope = jax.grad(total)

@jax.jit
def leg(state, neighbor, D):
    init, apply = minimize.fire_descent(lambda x, **kwargs: -slope(x, neighbor, D), shift)
    def step(_, carry):
        state, neighbor = carry
        _, apply = minimize.fire_descent(lambda x, **kwargs: -slope(x, neighbor, D), shift)
        state = apply(state)
        return state, neighbor.update(state.position)
    state, neighbor = jax.lax.fori_loop(0, 100, step, (state, neighbor))
    return state, neighbor, jnp.max(jnp.abs(state.force))

def relaxed(_, D):
    neighbor = lists.allocate(jnp.asarray(positions), extra_capacity=2)
    init, _ = minimize.fire_descent(lambda x, **kwargs: -slope(x, neighbor, D), shift)
    state, largest = init(jnp.asarray(positions)), np.inf
    while largest > 1e-10:
        after, updated, largest = leg(state, neighbor, D)
        if updated.did_buffer_overflow:
            neighbor, largest = lists.allocate(state.position, extra_capacity=2), np.inf
            continue
        state, neighbor = after, updated
    relaxed.neighbor = neighbor
    return state.position

def condition(x, D):
    return slope(x, relaxed.neighbor, D)

solve = functools.partial(jaxopt.linear_solve.solve_bicgstab, tol=1e-8, maxiter=2000)
rule = jaxopt.implicit_diff.custom_root(condition, solve=solve)(relaxed)
weights = np.random.default_rng(1).normal(size=positions.shape)
print(float(abs(jax.grad(lambda D: (weights * rule(None, D)).sum())(jnp.asarray(diameters))).max()))
"""
)


def seconds(command, environment):
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{command[-1][-300:]}\nfailed: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def environment(home):
    """Without a cache of compiled programs, or with one that begins empty in `home`; with bytecode, as packages have it
    that pip installs.
    """
    left = "JAX_", "PYTHONDONTWRITEBYTECODE"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    return kept | {"XDG_CACHE_HOME": str(home), "HOME": str(home)}


def measured(repeats):
    """Medians; one after the other in each repeat, since the speed of a shared machine changes within minutes."""
    python, command = [sys.executable, "-c"], [sys.executable, "-m", "mdsens"]
    names = "import mdsens; mdsens.System, mdsens.Relaxation, mdsens.SoftSphere, mdsens.random_packing"
    commands = {
        "python": [*python, ""],
        "import jax": [*python, "import jax"],
        "import mdsens": [*python, "import mdsens"],
        "import mdsens and use its names": [*python, names],
        "mdsens --help": [*command, "--help"],
        "first gradient, mdsens": [*python, OURS],
        "first gradient, jax-md and jaxopt": [*python, RECIPE],
        "mdsens demo": [*command, "demo", "-o"],
        "mdsens demo again": [*command, "demo", "-o"],
    }
    rows = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(repeats):
            home = Path(folder, f"home-{k}")
            home.mkdir()
            for name, given in commands.items():
                pictures = [str(home / name)] if "demo" in name else []
                rows[name].append(seconds([*given, *pictures], environment(home)))
                print(f"{k + 1}/{repeats} {name:<44} {rows[name][-1]:6.2f} s", flush=True)
    return {name: statistics.median(each) for name, each in rows.items()}


def table(facts):
    rows = facts["seconds"]
    ratio = rows["first gradient, mdsens"] / rows["first gradient, jax-md and jaxopt"]
    lines = [f"Medians over {facts['repeats']} fresh processes, Python {facts['python']}, JAX {facts['jax']}, "
             f"{facts['cores']} cores of {facts['processor']}.", "", "| | seconds |", "|---|---:|"]  # fmt: skip
    lines += [f"| {name} | {value:.2f} |" for name, value in rows.items()]
    return "\n".join([*lines, "", f"A first gradient takes {ratio:.2f} of the recipe's time."]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    import jax

    from scaling import processor

    facts = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "processor": processor(),
        "cores": os.cpu_count(),
        "repeats": options.repeats,
        "seconds": measured(options.repeats),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "start-up.json").write_text(json.dumps(facts, indent=1) + "\n")
    (options.output / "start-up.md").write_text(table(facts))
    print(table(facts))


if __name__ == "__main__":
    main()
