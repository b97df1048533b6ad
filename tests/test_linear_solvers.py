import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from conftest import jammed_with_rattlers, reference_of
from mdsens import implicit, linear_solvers
from mdsens.hessian import PairHessian, ZeroModes, hessian, known_zero_modes, rattlers

SOLVERS = {
    "dense": linear_solvers.dense(),
    "CG": linear_solvers.cg(),
    "BiCGSTAB": linear_solvers.bicgstab(),
    "GMRES": linear_solvers.gmres(),
    "lineax's own Cholesky": lx.Cholesky(),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("packing_fraction", [0.98, 0.86])
def test_every_solver_gives_the_pseudo_inverse(solver, packing_fraction):
    rest = jammed_with_rattlers(packing_fraction)
    loose = rattlers(rest.potential, rest.system, rest.neighbors)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    u = implicit.solve(
        hessian(rest.potential, rest.system, rest.neighbors), known_zero_modes(rest.system, loose), b, solver
    )
    expected = (reference_of(rest).inverse() @ b.ravel()).reshape(b.shape)
    exact = not linear_solvers.is_iterative(solver)
    np.testing.assert_allclose(u, expected, rtol=0, atol=(1e-9 if exact else 1e-7) * np.abs(expected).max())


def chain(n, stiffness):
    """Particles on a line in the plane, joined by springs: free to move sideways."""
    along = jnp.zeros((n - 1, 2, 2)).at[:, 0, 0].set(stiffness)
    no_modes = ZeroModes(jnp.zeros(n, bool), jnp.zeros((1, n, 2)))
    return PairHessian(jnp.arange(n - 1), jnp.arange(1, n), along, n), no_modes


def test_dense_finds_zero_modes_that_nobody_named():
    matrix, no_modes = chain(6, 2.0)
    b = jnp.ones((6, 2)).at[0].set(3.0)
    u = implicit.solve(matrix, no_modes, b, linear_solvers.dense())
    flat = np.asarray(matrix.dense()).reshape(12, 12)
    np.testing.assert_allclose(u.ravel(), np.linalg.pinv(flat) @ b.ravel(), atol=1e-12)


def test_a_sloppy_solver_of_ones_own_gives_no_number():
    rest = jammed_with_rattlers(0.9)
    loose = rattlers(rest.potential, rest.system, rest.neighbors)
    arguments = hessian(rest.potential, rest.system, rest.neighbors), known_zero_modes(rest.system, loose)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    assert np.isnan(implicit.solve(*arguments, b, lx.Normal(lx.CG(1e-2, 1e-2, max_steps=3)))).all()


@pytest.mark.parametrize("name", ["CG", "BiCGSTAB", "GMRES"])
def test_an_iteration_that_cannot_succeed_gives_no_number(name):
    matrix, no_modes = chain(6, 2.0)
    u = implicit.solve(matrix, no_modes, jnp.ones((6, 2)).at[0].set(3.0), SOLVERS[name])
    assert np.isnan(u).all()
