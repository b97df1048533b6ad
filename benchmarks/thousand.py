"""The thousand: derivatives of a thousand packings, each right, or refused.

    python benchmarks/thousand.py -o benchmarks/results [--count 1000] [--jobs 2]

Packings of 2 to 512 particles in 2D and 3D, at packing fractions from 0.5 to 1.2, harmonic and Hertzian
soft spheres, Lennard-Jones clusters and, at half these fractions, fluids; bidisperse (1 : 0.6 and 1 : 0.2) and
polydisperse. Each is relaxed, and three losses (a weighted sum of raw positions, one coordinate, a periodic
function) are differentiated with respect to all diameters, forward and in reverse, with every linear
solver that mdsens offers. An answer is right within 1e-6 of the dense pseudo-inverse of tests/reference.py
(NumPy, by hand, all periodic images), which in turn is compared with central differences of its own
relaxations along which no contact changes. Everything else is a refusal, by its exception, or wrong. The
published recipe (jaxopt's `custom_root` over conjugate gradients, BiCGSTAB, or its default, the normal
equations) is asked for the same reverse-mode gradients.

Writes thousand.json and thousand.md. After a change that touches some packings, `--again FILE` (their numbers, as JSON)
runs these and keeps the others' verdicts.
"""

import argparse
import collections
import functools
import json
import multiprocessing
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import mdsens
from mdsens import linear_solvers
from reference import ContactChanged, LennardJonesSpheres, SoftSpheres, same_contacts

SOLVERS = {
    "dense": linear_solvers.dense(),
    "minres": linear_solvers.minres(),
    "cg": linear_solvers.cg(),
    "bicgstab": linear_solvers.bicgstab(),
    "gmres": linear_solvers.gmres(),
}
RECIPES = {"cg": "solve_cg", "bicgstab": "solve_bicgstab", "normal cg (default)": "solve_normal_cg"}
SIZES = (2, 5, 12, 32, 64, 128, 256, 512)
WEIGHTS = (8, 8, 14, 26, 26, 14, 3, 1)
RIGHT = 1e-6
DIFFERENCES_UP_TO = 400
"""Degrees of freedom up to which finite differences are taken."""
RECIPE_UP_TO = 128
"""Particles up to which the recipe is asked."""


def case(k):
    """The k-th packing: its potential, its system before relaxing, and what to call it."""
    rng = np.random.default_rng([2024, k])
    n = int(rng.choice(SIZES, p=np.array(WEIGHTS) / sum(WEIGHTS)))
    dim = int(rng.integers(2, 4))
    kind = ("soft", "soft", "soft", "soft", "lennard-jones")[int(rng.integers(5))]
    mixture = ("1 : 0.6", "1 : 0.2", "polydisperse")[int(rng.integers(3))]
    fraction = float(rng.uniform(0.5, 1.2))
    alpha = (2.0, 2.5)[int(rng.integers(2))]
    diameters = {"1 : 0.6": (1.0, 0.6), "1 : 0.2": (1.0, 0.2)}.get(mixture)
    if diameters is None:
        diameters = tuple(rng.uniform(0.7, 1.4, size=n))
    system = mdsens.random_packing(n, dim, diameters, fraction, seed=int(rng.integers(2**31)))
    system = system.replace(species=np.zeros(n, np.int32))
    potential = mdsens.SoftSphere(alpha=alpha)
    if kind == "lennard-jones":
        system = system.replace(box=2.0 ** (1 / dim) * system.box, positions=2.0 ** (1 / dim) * system.positions)
        n_open = min(n, 32)
        spread = system.positions[:n_open]
        system = system.replace(diameters=0.8 + 0.2 * system.diameters)
        if n < 256:  # clusters: a cell would be narrower than the cutoff
            system = mdsens.System(spread, None, system.diameters[:n_open])
        potential = mdsens.LennardJones()
    facts = {"k": k, "n": system.n, "dim": dim, "kind": kind, "mixture": mixture, "fraction": fraction, "alpha": alpha}
    facts["jammed"] = kind == "soft" and fraction >= (0.9 if dim == 2 else 0.7)
    return potential, system, facts


def weights_of(n, dim, seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, dim)) + 1.0), jnp.asarray(rng.normal(size=dim))


def losses(x, weights):
    """Three numbers made of positions: raw sums among them."""
    sums, waves = weights
    return jnp.stack([jnp.sum(sums * x), x[0, 0], jnp.sum(jnp.sin(x @ waves))])


def in_units(potential, system, length, energy):
    """The same potential and system where the unit of length is `length`, and that of energy `energy`."""
    box = None if system.box is None else length * system.box
    scaled = system.replace(positions=length * system.positions, box=box, diameters=length * system.diameters)
    return potential.with_parameter("epsilon", energy * potential.epsilon), scaled


def reference_of(rest, length=1.0):
    """The same configuration in NumPy, where the unit of length is 1."""
    of_system = (rest.positions, rest.system.diameters, rest.system.box)
    x, D, box = (None if a is None else np.asarray(a) / length for a in of_system)
    if isinstance(rest.potential, mdsens.LennardJones):
        return LennardJonesSpheres(x, box, D)
    return SoftSpheres(x, box, D, alpha=float(rest.potential.alpha))


def confirmed(backbone, weights, direction, expected, scale):
    """Whether differences say the same as the pseudo-inverse; None where they are noise or cross a contact change."""
    if backbone.x.size > DIFFERENCES_UP_TO:
        return None
    for h in (3e-5, 3e-6, 3e-7):
        try:
            ends = [
                backbone.changed(diameters=backbone.diameters + s * h * direction).relaxed() for s in (2, 1, -1, -2)
            ]
            same_contacts(backbone, *ends)
        except (ContactChanged, AssertionError):
            continue
        two, one, minus_one, minus_two = (np.asarray(losses(aligned(end, backbone), weights)) for end in ends)
        coarse, fine = (two - minus_two) / (4 * h), (one - minus_one) / (2 * h)
        best = (4 * fine - coarse) / 3
        if np.all(np.abs(best - expected) <= RIGHT * scale):
            return True
        if np.all(np.abs(fine - coarse) < 1e-7 * scale):
            return False
    return None


def aligned(end, start):
    """The positions of `end`; with open boundaries every cluster turned back to how it lay (Kabsch 1976)."""
    if start.box is not None:
        return end.x
    x = end.x.copy()
    _, cluster = connected_components(coo_array((np.ones(len(start.i)), (start.i, start.j)), (start.n, start.n)))
    for k in np.unique(cluster):
        members = cluster == k
        here, there = start.x[members], x[members]
        center, goal = there.mean(0), here.mean(0)
        left, _, right = np.linalg.svd((there - center).T @ (here - goal))
        left[:, -1] *= np.sign(np.linalg.det(left @ right))
        x[members] = (there - center) @ left @ right + goal
    return x


def examine(k, recipes=True, solvers=SOLVERS, units=(1.0, 1.0)):
    """The verdicts on one packing: {(solver, mode): "right" | "refused: …" | "wrong: …"}, and what is known of it.

    `units` are those of length and energy in which mdsens is given the packing; all numbers here are without units.
    """
    (potential, system, facts), (length, energy) = case(k), units
    potential, system = in_units(potential, system, length, energy)
    tolerance, verdicts = 1e-12 * energy / length, {}
    try:
        rest = mdsens.Relaxation(tolerance=tolerance)(potential, system)
    except mdsens.MdsensError as error:
        return facts | {
            "verdicts": {
                f"{s} {m}": f"refused: {type(error).__name__}" for s in solvers for m in ("forward", "reverse")
            }
        }
    weights = weights_of(rest.system.n, rest.system.dim, k)
    direction = np.random.default_rng([7, k]).normal(size=rest.system.n)
    backbone = reference_of(rest, length).backbone()
    slopes = np.asarray(jax.jacrev(losses)(rest.positions / length, weights)).reshape(3, -1)
    rigid = len(backbone.r) > 0
    inverse = backbone.inverse()
    expected = -(slopes @ (inverse @ backbone.gradient_by_diameter()))
    scale = np.maximum(np.linalg.norm(expected, axis=1), 1e-4 * np.linalg.norm(slopes, axis=1))
    facts |= {"escapes": int(rest.escapes), "rigid": rigid, "confirmed": None}
    if rigid:
        facts["confirmed"] = confirmed(backbone, weights, direction, expected @ direction, scale)
    for name, solver in solvers.items():
        relax, diameters = mdsens.Relaxation(tolerance=tolerance, linear_solver=solver), rest.system.diameters / length

        def at(D, relax=relax):
            return losses(relax(potential, rest.system.replace(diameters=length * D)).positions / length, weights)

        for mode in ("forward", "reverse"):
            try:
                if mode == "forward":
                    value, wanted = (
                        jax.jvp(at, (diameters,), (jnp.asarray(direction),))[1],
                        expected @ direction,
                    )
                    size = scale * np.linalg.norm(direction)
                else:
                    value, wanted = jax.jacrev(at)(diameters), expected
                    size = scale
                verdicts[f"{name} {mode}"] = judge(np.asarray(value), wanted, size)
            except mdsens.MdsensError as error:
                verdicts[f"{name} {mode}"] = f"refused: {type(error).__name__}"
    facts["verdicts"] = verdicts
    if recipes and rest.system.n <= RECIPE_UP_TO:
        naive = reference_of(rest)
        also = -(slopes @ (naive.inverse() @ naive.gradient_by_diameter()))
        answers = (expected, also)
        facts["recipe"] = {name: recipe(solve, rest, weights, answers, scale) for name, solve in RECIPES.items()}
    return facts


def judge(value, wanted, scale):
    """`scale` is the size of the answer for each loss, or of what it could be, where by symmetry it is zero."""
    if not np.isfinite(value).all():
        return "refused: not a number"
    error = np.abs(value - wanted).reshape(len(scale), -1).max(axis=1)
    worst = float(np.max(error / scale))
    return "right" if worst <= RIGHT else f"wrong: {worst:.1e}"


def recipe(solve, rest, weights, answers, scale):
    """jaxopt's implicit differentiation as published, from the same point at rest."""
    value = np.asarray(_recipe(solve, rest.pair_finder, rest.potential, rest.system, weights))
    if not np.isfinite(value).all():
        return "not a number"
    verdicts = [judge(value, wanted, scale) for wanted in answers]
    return "right" if "right" in verdicts else verdicts[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _recipe(solve, kind, potential, system, weights):
    import jaxopt

    pairs = kind.build(potential, system)

    def energy(x, D):
        return potential.energy(system.replace(positions=x, diameters=D), pairs)

    root = jaxopt.implicit_diff.custom_root(jax.grad(energy), solve=getattr(jaxopt.linear_solve, solve))
    at_rest = root(lambda _start, _D: system.positions)
    return jax.jacrev(lambda D: losses(at_rest(None, D), weights))(system.diameters)


def _work(numbers):
    """The packings of one shape, which share what is compiled."""
    jax.config.update("jax_enable_x64", True)
    done = []
    for k in numbers:
        begin = time.time()
        try:
            result = examine(k)
        except Exception as error:  # an error that is no refusal counts as wrong
            result = case(k)[2] | {"verdicts": {"dense reverse": f"wrong: {type(error).__name__}: {error}"}}
        done.append(result | {"seconds": round(time.time() - begin, 2)})
    jax.clear_caches()
    return done


def groups(numbers):
    """The packings by shape, the smallest first."""
    by_shape = collections.defaultdict(list)
    for k in numbers:
        facts = case(k)[2]
        by_shape[facts["n"], facts["dim"], facts["kind"]].append(k)
    return [by_shape[shape] for shape in sorted(by_shape)]


def table(results):
    lines = ["| | right | refused | wrong |", "|---|---|---|---|"]
    for name in [f"{s} {m}" for s in SOLVERS for m in ("forward", "reverse")]:
        found = collections.Counter(r["verdicts"].get(name, "wrong: absent").split(":")[0] for r in results)
        lines.append(f"| mdsens, {name} | {found['right']} | {found['refused']} | {found['wrong']} |")
    asked = [r["recipe"] for r in results if "recipe" in r]
    for name in RECIPES:
        found = collections.Counter(a[name].split(":")[0] for a in asked)
        lines.append(
            f"| jaxopt, {name}, reverse | {found['right']} | {found['not a number']} (NaN) | {found['wrong']} |"
        )
    reasons = collections.Counter(v for r in results for v in set(r["verdicts"].values()) if v.startswith("refused"))
    jammed = [r for r in results if r["jammed"]]
    refused = sum(r["verdicts"]["dense reverse"].startswith("refused") for r in jammed)
    checks = collections.Counter(str(r.get("confirmed")) for r in results if r.get("rigid"))
    why = "; ".join(f"{reason[9:]} {count}" for reason, count in reasons.most_common())
    lines += [
        "",
        f"{len(results)} packings; the recipe was asked on the {len(asked)} of up to {RECIPE_UP_TO} particles at rest. "
        f"Refusals by reason (packings): {why or 'none'}.",
        f"Soft spheres above jamming (φ ≥ 0.9 in 2D, 0.7 in 3D): {refused} of {len(jammed)} refused.",
        f"The pseudo-inverse itself: confirmed by finite differences in {checks['True']} packings, contradicted in "
        f"{checks['False']}; in {checks['None']} the differences are noise, cross a contact change, or were not taken.",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", type=Path, help="a file of packings' numbers: these anew, the others as they were")
    options = parser.parse_args()
    begin, results, numbers = time.time(), [], range(options.first, options.first + options.count)
    if options.again:
        numbers = json.loads(options.again.read_text())
        before = json.loads((options.output / "thousand.json").read_text())
        results = [result for result in before if result["k"] not in numbers]
    shapes = groups(numbers)
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=4) as pool:
        for group in pool.imap_unordered(_work, shapes, chunksize=1):
            results += group
            for result in group:
                wrong = [f"{name} {verdict}" for name, verdict in result["verdicts"].items() if "wrong" in verdict]
                if wrong or result.get("confirmed") is False:
                    print(result, flush=True)
            print(f"{len(results)}, {time.time() - begin:.0f} s", flush=True)
    results.sort(key=lambda r: r["k"])
    summary = table(results)
    print(summary)
    options.output.mkdir(parents=True, exist_ok=True)
    where = f"JAX {jax.__version__}, {jax.devices()[0].device_kind}"
    anew = f"the {len(numbers)} packings done last took " if options.again else ""
    text = f"{summary}\n\n{where}; {anew}{time.time() - begin:.0f} s with {options.jobs} processes.\n"
    (options.output / "thousand.md").write_text(text)
    (options.output / "thousand.json").write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
