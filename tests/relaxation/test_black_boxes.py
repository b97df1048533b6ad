"""Solvers that are no JAX code behind `implicit.root`: their derivatives are those of `Relaxation`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mdsens
from samples import jammed

POTENTIAL, RELAX = mdsens.SoftSphere(), mdsens.Relaxation(tolerance=1e-12)


@pytest.fixture(scope="module")
def held():
    """A packing at rest, a quarter of whose particles are fixed a little off their places."""
    rng = np.random.default_rng(5)
    system = jammed(seed=3, n=32).system
    moved = system.positions + 0.01 * rng.normal(size=(32, 2))
    return RELAX(POTENTIAL, system.replace(positions=moved, fixed=np.arange(32) % 4 == 0)).system


def everywhere(system, free, where):
    fixed = np.asarray(system.fixed)
    return jnp.zeros(system.positions.shape).at[~fixed].set(free).at[fixed].set(where)


def by_ase(system):
    """ASE's BFGS, with `FixAtoms`."""
    from ase.optimize import BFGS

    def minimize(free, where):
        placed = system.replace(positions=np.asarray(everywhere(system, free, where)))
        atoms = mdsens.to_ase(placed)
        assert [type(each).__name__ for each in atoms.constraints] == ["FixAtoms"]
        atoms.calc = mdsens.calculator(POTENTIAL)
        assert BFGS(atoms, logfile=None).run(fmax=1e-12, steps=2000)
        return atoms.positions[~np.asarray(system.fixed), :2]

    return minimize


def by_scipy(system):
    """SciPy's `root` on the forces, which is told no derivative."""
    pairs = mdsens.AllPairs().build(POTENTIAL, system)

    @jax.jit
    def force(free, where):
        x = everywhere(system, free.reshape(-1, 2), where)
        return POTENTIAL.gradient(system.replace(positions=x), pairs)[~np.asarray(system.fixed)].ravel()

    def solve(free, where):
        found = scipy.optimize.root(force, np.asarray(free).ravel(), args=(where,), tol=1e-14)
        assert np.abs(found.fun).max() < 1e-12
        return found.x.reshape(-1, 2)

    return solve


@pytest.mark.parametrize("solver", [by_ase, by_scipy])
@pytest.mark.parametrize("in_jit", [False, True])
def test_what_ase_and_scipy_find_is_differentiated_as_our_own(held, solver, in_jit):
    fixed, pairs = np.asarray(held.fixed), mdsens.AllPairs().build(POTENTIAL, held)

    def net_force(free, where):
        return POTENTIAL.gradient(held.replace(positions=everywhere(held, free, where)), pairs)[~fixed]

    def ours(where):
        placed = held.replace(positions=everywhere(held, held.positions[~fixed], where))
        return RELAX(POTENTIAL, placed).positions[~fixed]

    free, where = held.positions[~fixed], held.positions[fixed]
    theirs = mdsens.implicit.root(net_force, symmetric=True, callback=in_jit)(solver(held))
    jacobian = jax.jacrev(lambda w: theirs(free, w))
    found = (jax.jit(jacobian) if in_jit else jacobian)(where)
    assert np.abs(found - jax.jacfwd(ours)(where)).max() < 1e-8
