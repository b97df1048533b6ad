"""Time and memory against size: forces, Hessian products, lists, relaxation and gradients, ours and others'.

    python benchmarks/scaling.py [--quick] [-n 100 1000 10000] [--dim 2] [--packing-fraction 0.95] [--only relax]
        [-o FOLDER]

Needs ".[test,bench]". Every measurement is a process of its own, so that its peak memory is its own; a measurement and
its peers run one after the other on the same packing, in double precision. `seconds` is the median over repeats after
the first call, `first` the first call with all it compiles. Writes scaling-2d.json, .md and, of several sizes, .png;
what was measured earlier under the same conditions, and is not now, stays in them.

- force, product, list: of a packing at rest, in a compiled loop, as a minimizer or an iterative solver uses them;
  jax-md's products are the jvp of its gradient.
- hessian: the sparse matrix, beside matscipy's.
- relax: from a random start; ours to 1e-12, jax-md's FIRE (a jitted loop with its neighbor list), LAMMPS' FIRE and
  ASE's (with matscipy's forces) to 1e-10. Minimizers fall into different minima, and the number of steps varies by a
  factor of two between starts: all numbers are medians over five (beyond 50000 of one, compiling included; beyond
  200000 on a GPU only).
- gradient: of a sum of all positions with random weights with respect to all diameters, at rest, in reverse mode.
  The published recipe is BiCGSTAB on jvp products, to a relative residual of 1e-8, with the cotangent projected off
  the zero modes, without which it diverges. Ours iterates to an error below that. (Where rattlers touch their cage the
  recipe's number differs by some percent, since it takes their contacts, which bear no force, for springs.) Central
  differences are one, from relaxations by ours that begin at rest, times the number of diameters. The unrolled loop
  is jax-md's FIRE with as many steps as it needs, in reverse, and includes the relaxation.
- gradient, kept: the gradient of another loss at an equilibrium that was just found, whose linearization is known: it
  costs solves with the kept factors. The recipe keeps nothing, and takes as long as for the first.

Beyond 200000 particles what starts at rest is a packing of a hundredth (in 3D a thousandth) of them, side by side.

On a machine with a GPU the same line measures that, sizes as given:

    python benchmarks/scaling.py -n 1000 10000 100000 1000000 -o OUT
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import peers
from peers import IN_LOOP, in_a_loop, timed

QUANTITIES = {
    "force": ["mdsens", "jax-md"],
    "product": ["mdsens", "jax-md"],
    "list": ["mdsens", "jax-md"],
    "hessian": ["mdsens", "ASE"],
    "relax": ["mdsens", "jax-md", "LAMMPS", "ASE"],
    "gradient": ["mdsens", "jax-md", "differences", "unrolled"],
    "gradient, kept": ["mdsens", "jax-md"],
}
PEERS = {
    "mdsens": None,
    "jax-md": peers.JaxMD,
    "LAMMPS": peers.LAMMPS,
    "ASE": peers.ASE,
    "differences": peers.FiniteDifferences,
    "unrolled": peers.Unrolled,
}
LARGEST = {  # beyond, it takes more than ten minutes, or more memory than there is
    ("LAMMPS", "relax"): 20_000,
    ("ASE", "relax"): 1000,
    ("ASE", "hessian"): 100_000,
    ("jax-md", "gradient"): 100_000,
    ("jax-md", "gradient, kept"): 100_000,
    ("differences", "gradient"): 10_000,
    ("unrolled", "gradient"): 1000,
}
LARGEST_RELAXED = 200_000
STARTS = 5
MOST_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Case:
    n: int
    dim: int
    packing_fraction: float
    repeats: int
    seed: int = 0

    def start(self):
        import mdsens

        return mdsens.random_packing(self.n, self.dim, (1.0, 0.6), self.packing_fraction, seed=self.seed)

    @property
    def times(self):
        """How often along each vector a cell is repeated, where relaxing all of it would take hours."""
        return 1 if self.n <= LARGEST_RELAXED else 10

    @property
    def cell(self):
        return dataclasses.replace(self, n=self.n // self.times**self.dim)


def bytes_of_a_product(matrix):
    """Blocks and indices read once; for every pair two displacements read and two changes read and written."""
    pairs, d, _ = matrix.blocks.shape
    word = matrix.blocks.dtype.itemsize
    return pairs * (d * d * word + 2 * 4 + 2 * d * word + 4 * d * word) + 2 * matrix.n * d * word


def copy_speed(size=2**24):
    """Bytes per second of a loop that reads and writes a long array: the limit of the memory."""
    import jax
    import jax.numpy as jnp

    run = jax.jit(lambda x: jax.lax.fori_loop(0, IN_LOOP, lambda _, x: 1.0 - x, x))
    x = jnp.ones(size)
    _, _, seconds = timed(lambda: run(x), 3)
    return 2 * IN_LOOP * x.nbytes / seconds


class Ours:
    def __init__(self, case, system):
        import mdsens
        from mdsens.landscape.configuration import Configuration
        from mdsens.neighbors import allocate, automatic
        from mdsens.neighbors.allocation import survey
        from mdsens.runtime.tracing import as_array

        self.case, self.potential = case, mdsens.SoftSphere().prepared_for(system)
        self.order = survey(self.potential, system, mdsens.NeighborList().skin, as_array(1.0)).order
        self.system = system.in_order(self.order)
        list_ = allocate(automatic(self.potential, self.system), self.potential, self.system)
        self.configuration = Configuration(self.potential, self.system, list_)

    def force(self):
        return in_a_loop(lambda x: -self.configuration.at(x).gradient(), self.system.positions, self.case.repeats)

    def product(self):
        import equinox as eqx

        hessian = eqx.filter_jit(lambda here: here.hessian())(self.configuration)
        found = in_a_loop(hessian.product, self.system.positions, self.case.repeats)
        return {**found, "bytes_per_second": bytes_of_a_product(hessian) / found["seconds"], "copy": copy_speed()}

    def hessian(self):
        import equinox as eqx

        blocks = eqx.filter_jit(lambda here: here.hessian().blocks)
        _, first, seconds = timed(lambda: blocks(self.configuration), self.case.repeats)
        return {"first": first, "seconds": seconds}

    def list_(self):
        finder = self.configuration.neighbors.finder

        def build(x):
            made = finder.build(self.potential, self.system.replace(positions=x))
            return (made.i[0] + made.j[0] + made.found) * (0.0 * x + 1.0)

        return in_a_loop(build, self.system.positions, self.case.repeats)

    def relax(self):
        import mdsens

        def run():
            return mdsens.Relaxation(tolerance=1e-12)(self.potential, self.case.start())

        rest, first, seconds = timed(run, self.case.repeats if self.case.n < 50_000 else 0)
        facts = {"steps": int(rest.steps), "max_force": float(rest.max_force), "energy": float(rest.energy)}
        return {"first": first, "seconds": seconds, **facts}

    def gradient(self):
        """Everything after the relaxation: the linearization, its factors, and one solve."""
        import equinox as eqx

        rest = self.at_rest()

        @eqx.filter_jit
        def gradient(rest, diameters, weights):
            return self.pulled(rest, diameters, weights, None)

        # a little different every time, so that nothing is reused that belongs to the values
        changes, weights = itertools.count(), self.weights(0)
        diameters = rest.system.diameters
        return self.timed_gradient(rest, lambda: gradient(rest, diameters * (1.0 + 1e-14 * next(changes)), weights))

    def gradient_kept(self):
        """What a further gradient at the same equilibrium takes: a solve with the factors that it has kept."""
        import equinox as eqx

        rest = self.at_rest()
        linearization = rest.linearization

        @eqx.filter_jit
        def gradient(rest, linearization, weights):
            return self.pulled(rest, rest.system.diameters, weights, linearization)

        losses = itertools.count()
        return self.timed_gradient(rest, lambda: gradient(rest, linearization, self.weights(next(losses))))

    def at_rest(self):
        import mdsens

        return mdsens.Relaxation(tolerance=1e-11)(self.potential, self.system).frozen

    def weights(self, seed):
        """Of the positions in the loss; another loss for every seed."""
        import jax.numpy as jnp

        return jnp.asarray(np.random.default_rng(seed).normal(size=self.system.positions.shape))[self.order]

    def pulled(self, rest, diameters, weights, linearization):
        import jax
        import jax.numpy as jnp

        from mdsens.relaxation.cell import relaxed_system

        def loss(diameters):
            moved = rest.system.replace(diameters=diameters)
            return jnp.sum(weights * relaxed_system(rest.at_rest(moved, linearization=linearization)).positions)

        return jax.grad(loss)(diameters)

    def timed_gradient(self, rest, gradient):
        whole, first, seconds = timed(gradient, self.case.repeats)
        solver = type(rest.rule.solver).__name__
        return {"first": first, "seconds": seconds, "solver": solver, "checksum": float(np.linalg.norm(whole))}


METHODS = {"list": "list_", "gradient, kept": "gradient_kept"}
"""The method that measures a quantity, where it has another name."""


def one(peer, quantity, case, at_rest):
    """One measurement, in this process; None for one that is not made here."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    if quantity == "relax" and case.n > LARGEST_RELAXED and jax.default_backend() == "cpu":
        return None
    if quantity == "relax":
        system = case.start()
    else:
        system = case.cell.start().replace(positions=jnp.asarray(np.load(at_rest))).repeat(case.times)
    kind = PEERS[peer] or Ours
    found = getattr(kind(case, system), METHODS.get(quantity, quantity))()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return {"peer": peer, "quantity": quantity, **dataclasses.asdict(case), **found, "peak_mb": peak}


def relaxed(case, path):
    """Writes the positions of a packing at rest, the same for all that starts from one."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import mdsens

    np.save(path, np.asarray(mdsens.Relaxation(tolerance=1e-11)(mdsens.SoftSphere(), case.cell.start()).positions))


def measured(peer, quantity, case, at_rest):
    """One measurement, in a process of its own; None if it fails or takes too long."""
    command = [sys.executable, __file__, "--one", peer, quantity, json.dumps(dataclasses.asdict(case)), str(at_rest)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        print(f"{peer:8s} {quantity:9s} {case.n:8d}  more than {MOST_SECONDS:.0f} s", flush=True)
        return None
    except subprocess.CalledProcessError as error:
        print(f"{peer:8s} {quantity:9s} {case.n:8d}  failed: {error.stderr[-2000:]}", flush=True)
        return None
    row = json.loads(done.stdout.splitlines()[-1])
    if row is None:
        return None
    print(
        f"{peer:8s} {quantity:9s} {case.n:8d} {row['seconds']:12.5f} s  {row['peak_mb']:8.0f} MB"
        + (f"  {row['steps']} steps to {row['max_force']:.0e}" if quantity == "relax" else ""),
        flush=True,
    )
    return row


def over_starts(peer, quantity, case, at_rest):
    """One measurement; of relaxations of up to 50000 particles the medians over `STARTS` starts of seconds, steps and
    memory, and the largest force that is left. None if one fails.
    """
    many = STARTS if quantity == "relax" and case.n < 50_000 else 1
    cases = (dataclasses.replace(case, seed=case.seed + k) for k in range(many))
    rows = list(itertools.takewhile(bool, (measured(peer, quantity, case, at_rest) for case in cases)))
    if len(rows) < many:
        return None
    if many == 1:
        return rows[0]
    middle = {key: statistics.median(row[key] for row in rows) for key in ("seconds", "steps", "peak_mb")}
    return rows[0] | middle | {"max_force": max(row["max_force"] for row in rows), "starts": many}


def processor():
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def kept(path, facts):
    """What an earlier run under the same conditions measured, and this one did not: of no size in part."""
    before = json.loads(path.read_text()) if path.exists() else {"rows": []}
    same = all(before.get(name) == value for name, value in facts.items() if name not in ("rows", "mdsens"))
    again = {(row["quantity"], row["n"]) for row in facts["rows"]}
    rows = before["rows"] if same else []
    return [row for row in rows if (row["quantity"], row["n"]) not in again]


def table(rows):
    """Markdown: seconds, and how many times longer each peer takes."""
    shown = [peer for peer in PEERS if any(row["peer"] == peer for row in rows)]
    lines = [f"| | N | {' | '.join(shown)} | peak memory, ours |", f"|---|{'---:|' * (len(shown) + 2)}"]
    keys = sorted({(list(QUANTITIES).index(row["quantity"]), row["n"]) for row in rows})
    for k, n in keys:
        quantity = list(QUANTITIES)[k]
        found = {row["peer"]: row for row in rows if (row["quantity"], row["n"]) == (quantity, n)}
        ours = found.get("mdsens")
        cells = [quantity, f"{n}"]
        for peer in shown:
            if peer not in found:
                cells.append("")
                continue
            seconds = found[peer]["seconds"]
            times = "" if ours is None or peer == "mdsens" else f" ({seconds / ours['seconds']:.1f} ×)"
            cells.append((f"{1e3 * seconds:.3g} ms" if seconds < 1.0 else f"{seconds:.1f} s") + times)
        cells.append("" if ours is None else f"{ours['peak_mb']:.0f} MB")
        lines.append("| " + " | ".join(cells) + " |")
    speeds = [(row["n"], row["bytes_per_second"] / row["copy"]) for row in rows if "copy" in row]
    if speeds:
        each = ", ".join(f"{speed:.0%} (N = {n})" for n, speed in speeds)
        lines += ["", f"Of the speed at which memory is copied, our products reach {each}."]
    return "\n".join(lines) + "\n"


def figure(rows, path):
    import matplotlib.pyplot as plt

    quantities = [quantity for quantity in QUANTITIES if any(row["quantity"] == quantity for row in rows)]
    panels = len(quantities) + ("relax" in quantities)
    figure, axes = plt.subplots(1, panels, figsize=(3.2 * panels, 3.2), layout="constrained", squeeze=False)
    colors = {peer: f"C{k}" for k, peer in enumerate(PEERS)}

    def line(axis, quantity, peer, key):
        chosen = sorted((row["n"], row[key]) for row in rows if (row["quantity"], row["peer"]) == (quantity, peer))
        if chosen:
            axis.loglog(*zip(*chosen, strict=True), "o-", color=colors[peer], label=peer, markersize=4)

    for axis, quantity in zip(axes[0], quantities, strict=False):
        for peer in QUANTITIES[quantity]:
            line(axis, quantity, peer, "seconds")
        axis.set(title=quantity, xlabel="particles N", ylabel="seconds")
        axis.legend(frameon=False, fontsize=8)
    if "relax" in quantities:
        for peer in QUANTITIES["relax"]:
            line(axes[0, -1], "relax", peer, "peak_mb")
        axes[0, -1].set(title="peak memory, relax", xlabel="particles N", ylabel="MB")
    figure.savefig(path, dpi=150)


def main():
    if sys.argv[1:2] == ["--one"]:
        peer, quantity, case, at_rest = sys.argv[2:]
        print(json.dumps(one(peer, quantity, Case(**json.loads(case)), at_rest)))
        return
    if sys.argv[1:2] == ["--rest"]:
        relaxed(Case(**json.loads(sys.argv[2])), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--dim", type=int, default=2)
    parser.add_argument("--packing-fraction", type=float, default=0.95)
    parser.add_argument("--only", nargs="+", choices=list(QUANTITIES), default=list(QUANTITIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="up to a thousand particles, one repeat")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    sizes, repeats = ([100, 1000], 1) if options.quick else (options.n, options.repeats)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            case = Case(n, options.dim, options.packing_fraction, repeats if n < 50_000 else 1)
            at_rest = Path(folder) / f"{n}.npy"
            if options.only != ["relax"]:
                subprocess.run(
                    [sys.executable, __file__, "--rest", json.dumps(dataclasses.asdict(case)), at_rest], check=True
                )
            for quantity in options.only:
                chosen = [peer for peer in QUANTITIES[quantity] if n <= LARGEST.get((peer, quantity), n)]
                rows += [row for peer in chosen if (row := over_starts(peer, quantity, case, at_rest))]
    import jax
    import jax_md

    import mdsens

    facts = {
        "mdsens": mdsens.__version__,
        "jax": jax.__version__,
        "jax_md": getattr(jax_md, "__version__", None),
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "cores": os.cpu_count(),
        "packing_fraction": options.packing_fraction,
        "dim": options.dim,
        "rows": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.output / f"scaling-{options.dim}d"
    facts["rows"] = rows = kept(stem.with_suffix(".json"), facts) + rows
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows))
    if len({row["n"] for row in rows}) > 1:
        figure(rows, stem.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
