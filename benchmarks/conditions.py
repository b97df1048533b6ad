"""Two hundred systems that are fixed, bonded, walled or loaded: each derivative right, or refused.

    python benchmarks/conditions.py -o benchmarks/results [--count 200] [--jobs 2]

Soft spheres in 2D and 3D, between loose and dense, with up to half of the particles fixed, or single components of
them, and with bonds, tethers, gravity on a floor, and dead loads; and networks of bonds alone, down to
under-constrained ones. A weighted sum of the relaxed positions is differentiated, forward and in reverse, with every
linear solver, by all diameters, by the positions of what is fixed, and by the rest lengths of the bonds. An answer is
right within 1e-6 of a pseudo-inverse of a Hessian that is written here in NumPy, on the degrees of freedom that relax.
Everything else is a refusal, by its exception, or wrong.

Writes conditions.json and conditions.md after every system.
"""

import argparse
import collections
import multiprocessing
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import mdsens
import report
from mdsens import linear_solvers
from reference import SoftSpheres

SOLVERS = {name: getattr(linear_solvers, name)() for name in ("dense", "minres", "cholesky", "cg")}
KINDS = ("fixed", "components", "bonded", "tethered", "heap", "loaded", "network", "thin network")
RIGHT = 1e-6
FLOOR, WEIGHT, STIFFNESS, TIE = 3.0, 0.01, 0.4, 0.2


def case(k):
    """The k-th system and potential, and what to call it."""
    rng = np.random.default_rng([2026, k])
    kind, dim = KINDS[k % len(KINDS)], int(rng.integers(2, 4))
    n = 32
    fraction = float(rng.uniform(0.82, 1.1) if dim == 2 else rng.uniform(0.64, 0.9))
    if kind == "heap":
        fraction = 0.5
    start = mdsens.random_packing(n, dim, (1.0, 0.7), fraction, seed=int(rng.integers(2**31)))
    spheres = mdsens.SoftSphere()
    system = mdsens.Relaxation(throw=False)(spheres, start).system if kind != "heap" else start
    share = float(rng.uniform(0.03, 0.5))
    if kind == "heap":
        box = np.diag(np.where(np.arange(dim) == dim - 1, 5.0, 1.0)) * np.asarray(start.box)
        system = start.replace(box=box)
        level = np.zeros(dim)
        potential = spheres + mdsens.Gravity(WEIGHT) + mdsens.PlanarWall(level, np.eye(dim)[-1], FLOOR)
    elif kind in ("fixed", "components"):
        fixed = rng.random((n, dim) if kind == "components" else n) < share
        fixed.flat[int(rng.integers(fixed.size))] = True
        moved = system.positions + 0.01 * rng.normal(size=system.positions.shape)
        system, potential = system.replace(fixed=fixed, positions=moved), spheres
    elif kind in ("bonded", "network", "thin network"):
        system, potential = bonded(kind, system, rng, spheres)
    elif kind == "tethered":
        ties = rng.choice(n, 12, replace=False)
        anchors = np.asarray(system.positions)[ties] + 0.05 * rng.normal(size=(12, dim))
        potential = spheres + mdsens.Tethers(anchors, TIE, ties)
    else:
        system = system.replace(fixed=np.arange(n) < 3)
        potential = spheres + mdsens.Load(1e-4 * rng.normal(size=(n, dim)))
    return potential, system, {"k": k, "kind": kind, "dim": dim, "fraction": fraction}


def bonded(kind, system, rng, spheres):
    """Contacts of a packing as bonds, of which `thin network` keeps fewer than there are degrees of freedom."""
    x, box = np.asarray(system.positions), np.asarray(system.box)
    i, j = np.triu_indices(system.n, 1)
    apart = x[j] - x[i]
    apart -= np.round(apart @ np.linalg.inv(box)) @ box
    r = np.linalg.norm(apart, axis=1)
    order = np.argsort(r)
    count = {"bonded": 12, "network": int(1.3 * x.size), "thin network": int(0.8 * x.size)}[kind]
    limit = 0.45 * float(np.min(system.heights))
    chosen = order[: int(1.6 * x.size)] if kind == "bonded" else order[:count]
    chosen = rng.permutation(chosen)[:count] if kind == "bonded" else chosen
    chosen = chosen[r[chosen] < limit]
    pairs = np.stack([i[chosen], j[chosen]], axis=1)
    lengths = r[chosen] * (rng.uniform(0.9, 1.1, len(chosen)) if kind != "thin network" else 1.0)
    bonds = mdsens.Bonds(pairs, STIFFNESS * rng.uniform(0.5, 2.0, len(chosen)), lengths)
    return system, spheres + bonds if kind == "bonded" else bonds


def parts_in_numpy(rest):
    """The Hessian [k, k] at rest, its derivatives of the gradient by diameters [k, n] and by rest lengths [k, m]."""
    system, rattlers = rest.system, list(rest.certificate.rattlers)
    x, box, diameters = (np.asarray(a) for a in (system.positions, system.box, system.diameters))
    keep = np.ones(system.n, bool)
    keep[rattlers] = False
    hessian, by_diameter, by_length = np.zeros((x.size, x.size)), np.zeros((x.size, system.n)), None
    for part in rest.potential.parts():
        kind = type(part).__name__
        if kind == "SoftSphere":
            spheres = SoftSpheres(x, box, diameters, keep=keep)
            hessian += spheres.hessian()
            by_diameter += spheres.gradient_by_diameter()
        elif kind == "Bonds":
            blocks, by_length = bonds_in_numpy(part, x, box)
            hessian += blocks
        elif kind == "Tethers":
            ties = np.asarray(part.particles)
            for a in range(x.shape[1]):
                hessian[ties * x.shape[1] + a, ties * x.shape[1] + a] += TIE
        elif kind == "PlanarWall":
            radius, d = 0.5 * diameters, x.shape[1]
            touching = np.flatnonzero((x[:, -1] < radius) & keep)
            last = touching * d + d - 1
            hessian[last, last] += FLOOR / radius[touching] ** 2
            # the force up is ε/R (1 - h/R), and R = D/2
            slope = -FLOOR * (-1 / radius**2 + 2 * x[:, -1] / radius**3) * 0.5
            by_diameter[last, touching] += slope[touching]
    free = np.repeat(keep, x.shape[1])
    if system.movable is not None:
        free &= np.asarray(system.movable).ravel()
    return hessian, by_diameter, by_length, np.flatnonzero(free)


def bonds_in_numpy(bonds, x, box):
    pairs, k, length = (np.asarray(a) for a in (bonds.pairs, bonds.stiffness, bonds.rest_length))
    n, d = x.shape
    apart = x[pairs[:, 1]] - x[pairs[:, 0]]
    apart -= np.round(apart @ np.linalg.inv(box)) @ box
    r = np.linalg.norm(apart, axis=1)
    normal = apart / r[:, None]
    hessian, by_length = np.zeros((n, d, n, d)), np.zeros((n, d, len(k)))
    for b, (i, j) in enumerate(pairs):
        along = np.outer(normal[b], normal[b])
        block = k[b] * along + k[b] * (r[b] - length[b]) / r[b] * (np.eye(d) - along)
        for p, q, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            hessian[p, :, q, :] += sign * block
        by_length[j, :, b] -= k[b] * normal[b]
        by_length[i, :, b] += k[b] * normal[b]
    return hessian.reshape(n * d, n * d), by_length.reshape(n * d, len(k))


def expected(rest, weights):
    """The derivatives of Σ w x by what may be differentiated, by name."""
    hessian, by_diameter, by_length, free = parts_in_numpy(rest)
    w = np.asarray(weights).ravel()
    inverse = np.linalg.pinv(hessian[np.ix_(free, free)], rcond=1e-9, hermitian=True)
    adjoint = inverse @ w[free]
    found = {"diameters": -adjoint @ by_diameter[free]}
    if by_length is not None:
        found["rest lengths"] = -adjoint @ by_length[free]
    if rest.system.fixed is not None:
        held = np.flatnonzero(~np.asarray(rest.system.movable).ravel())
        whole = np.zeros(len(w))
        whole[held] = w[held] - adjoint @ hessian[np.ix_(free, held)]
        found["fixed positions"] = whole
    return found


def examine(k):
    """The verdicts on one system: {(solver, parameter, mode): "right" | "refused: …" | "wrong: …"}."""
    potential, system, facts = case(k)
    try:
        rest = mdsens.Relaxation(relative_tolerance=1e-12)(potential, system)
    except mdsens.MdsensError as error:
        return facts | {"verdicts": {"relaxation": f"refused: {type(error).__name__}"}}
    rng = np.random.default_rng([7, k])
    weights, verdicts = jnp.asarray(rng.normal(size=rest.positions.shape)), {}
    wanted = expected(rest, weights)
    scale = max(float(np.linalg.norm(value)) for value in wanted.values())
    name = "bonds.rest_length" if isinstance(potential, mdsens.Sum) else "rest_length"
    given = {
        "diameters": (rest.system.diameters, lambda v: (potential, rest.system.replace(diameters=v))),
        "rest lengths": (None, lambda v: (potential.with_parameter(name, v), rest.system)),
        "fixed positions": (rest.positions, lambda v: (potential, rest.system.replace(positions=v))),
    }
    for solver, chosen in SOLVERS.items():
        relax = mdsens.Relaxation(relative_tolerance=1e-12, linear_solver=chosen)
        for parameter, answer in wanted.items():
            value, changed = given[parameter]
            value = potential.get_parameter(name) if value is None else value

            def loss(v, changed=changed, relax=relax):
                return jnp.sum(weights * relax(*changed(v)).positions)

            direction = jnp.asarray(rng.normal(size=value.shape))
            for mode in ("reverse", "forward"):
                try:
                    if mode == "reverse":
                        error = np.abs(np.asarray(jax.grad(loss)(value)).ravel() - answer).max() / scale
                    else:
                        slope = float(jax.jvp(loss, (value,), (direction,))[1])
                        error = abs(slope - answer @ np.asarray(direction).ravel()) / scale / len(answer) ** 0.5
                    verdict = "right" if error <= RIGHT else f"wrong: {error:.1e}"
                    verdict = verdict if np.isfinite(error) else "refused: not a number"
                except mdsens.MdsensError as error:
                    verdict = f"refused: {type(error).__name__}"
                verdicts[f"{solver} {parameter} {mode}"] = verdict
    return facts | {"rattlers": len(rest.certificate.rattlers), "verdicts": verdicts}


def table(results):
    lines = ["| systems | number | verdicts | right | refused | wrong |", "|---|---|---|---|---|---|"]
    for kind in KINDS:
        these = [r for r in results if r["kind"] == kind]
        counts = collections.Counter(v.split(":")[0] for r in these for v in r["verdicts"].values())
        row = [kind, len(these), sum(counts.values()), *(counts[word] for word in ("right", "refused", "wrong"))]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    reasons = collections.Counter(v for r in results for v in r["verdicts"].values() if not v.startswith("right"))
    return "\n".join([*lines, "", *(f"- {reason}: {count}" for reason, count in reasons.most_common())]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    started, results = time.monotonic(), []
    numbers = range(options.first, options.first + options.count)
    with multiprocessing.get_context("spawn").Pool(options.jobs, initializer=_prepare) as pool:
        for result in pool.imap_unordered(examine, numbers, chunksize=1):
            results.append(result)
            wrong = [f"{name} {v}" for name, v in result["verdicts"].items() if v.startswith("wrong")]
            print(f"{len(results)}/{options.count}", result["k"], result["kind"], wrong or "", flush=True)
            results.sort(key=lambda r: r["k"])
            if options.output:
                about = f"{len(results)} systems, JAX {jax.__version__}, {time.monotonic() - started:.0f} s."
                text = f"# Fixed, bonded, walled and loaded systems\n\n{table(results)}\n{about}\n"
                report.write(options.output, "conditions", results, text)
    print(table(results))
    sys.exit(any(v.startswith("wrong") for r in results for v in r["verdicts"].values()))


def _prepare():
    jax.config.update("jax_enable_x64", True)


if __name__ == "__main__":
    main()
