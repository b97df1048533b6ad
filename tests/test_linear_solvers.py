import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from conftest import jammed, jammed_with_rattlers, reference_of
from mdsens import implicit, linear_solvers
from mdsens.cholesky import Cholesky
from mdsens.hessian import PairHessian, hessian
from mdsens.zero_modes import ZeroModes, known_zero_modes, rattlers

SOLVERS = {
    "dense": linear_solvers.dense(),
    "MINRES": linear_solvers.minres(),
    "sparse Cholesky": linear_solvers.cholesky(),
    "CG": linear_solvers.cg(),
    "BiCGSTAB": linear_solvers.bicgstab(),
    "GMRES": linear_solvers.gmres(),
    "lineax's own Cholesky": lx.Cholesky(),
}


def held(rest):
    """The Hessian and the known zero modes."""
    loose = rattlers(rest.potential, rest.system, rest.neighbors)
    backbone = rest.neighbors.only(~loose)
    modes = known_zero_modes(rest.potential, rest.system, backbone, loose)
    return hessian(rest.potential, rest.system, backbone), modes


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("packing_fraction", [0.98, 0.86])
def test_every_solver_gives_the_pseudo_inverse(solver, packing_fraction):
    rest = jammed_with_rattlers(packing_fraction)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    u = implicit.solve(*held(rest), b, solver)
    expected = (reference_of(rest).inverse() @ b.ravel()).reshape(b.shape)
    np.testing.assert_allclose(u, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def nobody(n):
    """No zero mode is known."""
    return ZeroModes(jnp.zeros(n, bool), jnp.zeros(n, jnp.int32), jnp.zeros((1, n, 2)))


def chain(n, stiffness):
    """Particles on a line in the plane, joined by springs: free to move sideways."""
    along = jnp.zeros((n - 1, 2, 2)).at[:, 0, 0].set(stiffness)
    no_modes = nobody(n)
    return PairHessian(jnp.arange(n - 1), jnp.arange(1, n), along, n), no_modes


KNOWS_NO_NULL_SPACE = {name: solver for name, solver in SOLVERS.items() if name != "lineax's own Cholesky"}


@pytest.mark.parametrize("solver", KNOWS_NO_NULL_SPACE.values(), ids=KNOWS_NO_NULL_SPACE)
def test_zero_modes_that_nobody_named_are_found(solver):
    matrix, no_modes = chain(6, 2.0)
    b = jnp.ones((6, 2)).at[0].set(3.0).at[2, 0].set(-1.5)
    expected = np.linalg.pinv(np.asarray(matrix.dense()).reshape(12, 12)) @ b.ravel()
    u = implicit.solve(matrix, no_modes, b, solver)
    if solver != SOLVERS["GMRES"]:
        atol = 1e-8 if isinstance(solver, Cholesky) else 1e-12  # the factors are of H and a little more
        np.testing.assert_allclose(u.ravel(), expected, atol=atol)
    elif np.isfinite(u).all():  # it may break down, and then says so
        np.testing.assert_allclose(u.ravel(), expected, atol=1e-9)


def test_with_rattlers_and_translations_unknown_the_answer_is_the_same():
    rest = jammed_with_rattlers(0.86)
    matrix, modes = held(rest)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    known, found = (implicit.solve(matrix, zero, b, linear_solvers.minres()) for zero in (modes, nobody(rest.system.n)))
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-8 * float(jnp.abs(known).max()))


def test_minres_needs_few_products_and_none_for_a_part_that_is_not_there():
    """Half the products a conjugate gradient would do; a second round only for what the first one left."""
    rest = jammed(seed=0)
    matrix, modes = held(rest)
    b = modes.project(jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape)))
    operator = lx.FunctionLinearOperator(
        lambda v: modes.project(matrix.product(modes.project(v.reshape(b.shape)))).ravel(),
        jax.ShapeDtypeStruct((b.size,), b.dtype),
        lx.symmetric_tag,
    )
    solution = lx.linear_solve(operator, b.ravel(), linear_solvers.minres())
    assert int(solution.stats["num_steps"]) < b.size
    assert float(jnp.linalg.norm(operator.mv(solution.value) - b.ravel())) < 1e-7 * float(jnp.linalg.norm(b))
    nothing = lx.linear_solve(operator, jnp.zeros(b.size), linear_solvers.minres())
    assert int(nothing.stats["num_steps"]) == 0


def test_minres_solves_an_indefinite_system():
    matrix = np.diag([3.0, -2.0, 1.0, -0.01, 5.0])
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix), lx.symmetric_tag)
    u = lx.linear_solve(operator, jnp.ones(5), linear_solvers.minres(1e-12)).value
    np.testing.assert_allclose(matrix @ u, 1.0, atol=1e-10)


def test_a_sloppy_solver_of_ones_own_gives_no_number():
    rest = jammed_with_rattlers(0.9)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    u = implicit.solve(*held(rest), b, lx.Normal(lx.CG(1e-2, 1e-2, max_steps=3)))
    assert np.isnan(np.delete(u, rest.certificate.rattlers, axis=0)).all()


def test_an_eigenvalue_that_may_be_zero_or_not_gives_no_number():
    matrix, _ = chain(6, 2.0)
    weak = PairHessian(matrix.i, matrix.j, matrix.blocks.at[0].multiply(5e-11), matrix.n)
    assert np.isnan(implicit.solve(weak, nobody(6), jnp.ones((6, 2)).at[0, 0].set(3.0), linear_solvers.dense())).all()


@pytest.mark.parametrize("stiffness", [1e-20, 1.0, 1e14])
@pytest.mark.parametrize("solver", [linear_solvers.minres(), linear_solvers.cg()], ids=["MINRES", "CG"])
def test_the_unit_of_energy_is_no_matter_to_an_iteration(stiffness, solver):
    rest = jammed_with_rattlers(0.9)
    matrix, modes = held(rest)
    scaled = PairHessian(matrix.i, matrix.j, stiffness * matrix.blocks, matrix.n)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    expected = implicit.solve(matrix, modes, b, linear_solvers.dense())
    u = implicit.solve(scaled, modes, stiffness * b, solver)
    np.testing.assert_allclose(u, expected, rtol=0, atol=1e-9 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("solver", [linear_solvers.minres(max_steps=5), linear_solvers.cg(max_steps=5)])
def test_an_iteration_cut_short_is_no_number_whatever_the_unit(solver):
    rest = jammed_with_rattlers(0.9)
    matrix, modes = held(rest)
    scaled = PairHessian(matrix.i, matrix.j, 1e-20 * matrix.blocks, matrix.n)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    assert np.isnan(np.delete(implicit.solve(scaled, modes, b, solver), rest.certificate.rattlers, axis=0)).all()
