"""What `scaling.py` compares with: jax-md with the published recipe, differences, the unrolled loop, LAMMPS, ASE."""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

RESIDUAL, IN_LOOP, TOLERANCE = 1e-8, 10, 1e-10


def timed(function, repeats):
    """The result of the first call, its seconds, and the median of the calls after it."""
    import jax

    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - begin)
    return result, seconds[0], statistics.median(seconds[1:] or seconds)


def in_a_loop(function, x, repeats):
    """Seconds for one call of x -> [n, d] within a compiled loop."""
    import jax

    def again(x):
        return jax.lax.fori_loop(0, IN_LOOP, lambda _, x: x + 1e-12 * function(x), x)

    run = jax.jit(again)
    _, first, seconds = timed(lambda: run(x), repeats)
    return {"first": first, "seconds": seconds / IN_LOOP}


class Peer:
    def __init__(self, case, system):
        self.case, self.system = case, system

    def weights(self):
        """Those of the positions in the loss whose gradient is measured."""
        import jax.numpy as jnp

        return jnp.asarray(np.random.default_rng(0).normal(size=self.system.positions.shape))


class JaxMD(Peer):
    def __init__(self, case, system):
        import jax
        import jax.numpy as jnp
        from jax_md import energy, partition, smap, space

        super().__init__(case, system)
        box = jnp.diag(system.box)
        displacement, self.shift = space.periodic(box)
        largest = float(jnp.max(system.diameters))
        self.lists = partition.neighbor_list(
            displacement, box, largest, 0.2 * largest, format=partition.OrderedSparse, capacity_multiplier=1.5
        )
        self.x = jnp.mod(system.positions, box)
        self.list = self.lists.allocate(self.x)
        self.diameters = system.diameters

        metric = space.canonicalize_displacement_or_metric(displacement)

        def total(x, neighbor, diameters):
            pairs = smap.pair_neighbor_list(
                energy.soft_sphere, metric, sigma=(lambda a, b: 0.5 * (a + b), diameters), alpha=2, epsilon=1.0
            )
            return pairs(x, neighbor)

        self.total, self.slope = total, jax.grad(total)

    def force(self):
        return in_a_loop(lambda x: -self.slope(x, self.list, self.diameters), self.x, self.case.repeats)

    def hessian_product(self, v):
        import jax

        return jax.jvp(lambda x: self.slope(x, self.list, self.diameters), (self.x,), (v,))[1]

    def product(self):
        return in_a_loop(self.hessian_product, self.x, self.case.repeats)

    def list_(self):
        import jax

        def update(x):  # moved so far that it has to be made anew
            made = jax.lax.cond(True, lambda: self.list.update(x + 1.0), lambda: self.list)
            return (made.idx[0, 0] + made.idx[1, 0]) * (0.0 * x + 1.0)

        return in_a_loop(update, self.x, self.case.repeats)

    def relax(self):
        import jax
        import jax.numpy as jnp
        from jax_md import minimize

        init, apply = minimize.fire_descent(lambda x, neighbor: -self.slope(x, neighbor, self.diameters), self.shift)

        @jax.jit
        def leg(state, neighbor):
            def step(_, carry):
                state, neighbor = carry
                state = apply(state, neighbor=neighbor)
                return state, neighbor.update(state.position)

            state, neighbor = jax.lax.fori_loop(0, 100, step, (state, neighbor))
            return state, neighbor, jnp.max(jnp.abs(state.force))

        def run(most=100_000):
            neighbor = self.lists.allocate(self.x)
            state, steps, largest = init(self.x, neighbor=neighbor), 0, np.inf
            while largest > TOLERANCE and steps < most:
                after, made, largest = leg(state, neighbor)
                if made.did_buffer_overflow:
                    neighbor = self.lists.allocate(state.position)
                    largest = np.inf
                    continue
                state, neighbor, steps = after, made, steps + 100
            return state.position, steps, float(largest)

        timed(lambda: run(100)[0], 0)
        begin = time.perf_counter()
        _, steps, largest = run()
        return {"first": None, "seconds": time.perf_counter() - begin, "steps": steps, "max_force": largest}

    def gradient(self):
        import jax
        import jax.numpy as jnp

        import mdsens
        from mdsens.landscape.configuration import Configuration
        from mdsens.landscape.contacts import find_rattlers
        from mdsens.landscape.zero_modes import known_zero_modes
        from mdsens.neighbors import allocate, automatic

        potential = mdsens.SoftSphere().prepared_for(self.system)
        list_ = allocate(automatic(potential, self.system), potential, self.system)
        here = Configuration(potential, self.system, list_)
        rattlers = find_rattlers(here)
        modes = known_zero_modes(here.without(rattlers), rattlers)
        weights = modes.project(self.weights())

        def product(v):
            return modes.project(self.hessian_product(modes.project(v)))

        @jax.jit
        def gradient():
            v, _ = jax.scipy.sparse.linalg.bicgstab(product, weights, tol=RESIDUAL, maxiter=100_000)
            _, pull = jax.vjp(lambda diameters: self.slope(self.x, self.list, diameters), self.diameters)
            return -pull(v)[0], jnp.linalg.norm(product(v) - weights) / jnp.linalg.norm(weights)

        (whole, residual), first, seconds = timed(gradient, self.case.repeats)
        facts = {"residual": float(residual), "checksum": float(jnp.linalg.norm(whole))}
        return {"first": first, "seconds": seconds, "solver": "BiCGSTAB", **facts}

    gradient_kept = gradient


class LAMMPS(Peer):
    def relax(self):
        tests = Path(__file__).resolve().parents[1] / "tests"
        sys.path[:0] = [str(tests), str(tests / "potentials")]
        from test_lammps import Run, load_lammps

        run = Run(load_lammps(), self.case.start())
        run.command("min_style fire", "run 0")
        begin = time.perf_counter()
        run.command(f"minimize 0.0 {TOLERANCE} 100000 1000000")
        seconds = time.perf_counter() - begin
        largest = float(np.abs(run.gather("f")).max())
        return {
            "first": None,
            "seconds": seconds,
            "steps": int(run.lmp.extract_global("ntimestep")),
            "max_force": largest,
        }


class Unrolled(Peer):
    """Reverse mode through the loop of jax-md's FIRE, as many steps as it takes: the relaxation is part of it."""

    def gradient(self):
        import jax
        import jax.numpy as jnp
        from jax_md import minimize

        import mdsens

        facts = JaxMD(self.case, self.case.start()).relax()
        fire = mdsens.JaxMDMinimizer(minimize.fire_descent)
        relax = mdsens.Unrolled(facts["steps"], fire)
        start, potential = self.case.start(), mdsens.SoftSphere()
        weights = self.weights()

        @jax.jit
        @jax.grad
        def gradient(diameters):
            return jnp.sum(weights * relax(potential, start.replace(diameters=diameters)).positions)

        whole, first, seconds = timed(lambda: gradient(start.diameters), self.case.repeats)
        return {"first": first, "seconds": seconds, "steps": facts["steps"], "checksum": float(jnp.linalg.norm(whole))}


class FiniteDifferences(Peer):
    """Central ones, relaxed by ours from rest: one is measured, and counted as often as there are diameters."""

    def gradient(self):
        import jax.numpy as jnp

        import mdsens

        relax, potential = mdsens.Relaxation(tolerance=1e-11), mdsens.SoftSphere()
        weights = self.weights()

        def loss(step):
            changed = self.system.diameters.at[0].add(step)
            return jnp.sum(weights * relax(potential, self.system.replace(diameters=changed)).positions)

        _, first, seconds = timed(lambda: (loss(1e-6) - loss(-1e-6)) / 2e-6, self.case.repeats)
        return {"first": first, "seconds": self.system.n * seconds}


class ASE(Peer):
    """ASE's FIRE with matscipy's pair potentials and neighbor lists; matscipy's Hessian."""

    def atoms(self, system):
        from matscipy.calculators.pair_potential import PairPotential
        from matscipy.calculators.pair_potential.calculator import CutoffInteraction

        from mdsens import to_ase

        class Harmonic(CutoffInteraction):
            def __call__(self, r, *_):
                return 0.5 * (1.0 - r / self.cutoff) ** 2

            def first_derivative(self, r, *_):
                return -(1.0 - r / self.cutoff) / self.cutoff

            def second_derivative(self, r, *_):
                return np.full_like(r, 1.0 / self.cutoff**2)

        atoms, sizes = to_ase(system), {}
        for number, diameter in zip(atoms.numbers, np.asarray(system.diameters), strict=True):
            sizes[int(number)] = float(diameter)
        pairs = [(a, b) for a in sizes for b in sizes if a <= b]
        atoms.calc = PairPotential({(a, b): Harmonic(0.5 * (sizes[a] + sizes[b])) for a, b in pairs})
        return atoms

    def relax(self):
        from ase.optimize import FIRE

        atoms = self.atoms(self.case.start())
        begin = time.perf_counter()
        fire = FIRE(atoms, logfile=None)
        fire.run(fmax=TOLERANCE, steps=100_000)
        seconds = time.perf_counter() - begin
        largest = float(np.abs(atoms.get_forces()).max())
        return {"first": None, "seconds": seconds, "steps": fire.get_number_of_steps(), "max_force": largest}

    def hessian(self):
        atoms = self.atoms(self.system)
        _, first, seconds = timed(lambda: atoms.calc.get_hessian(atoms, "sparse").data, self.case.repeats)
        return {"first": first, "seconds": seconds}
