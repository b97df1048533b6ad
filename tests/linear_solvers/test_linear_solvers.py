import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from mdsens import linear_solvers
from mdsens.landscape.hessian import PairHessian
from mdsens.landscape.zero_modes import ZeroModes
from mdsens.linear_solvers.cholesky import Cholesky
from mdsens.linear_solvers.solve import factorize, solve, unit_of
from samples import jammed, jammed_with_rattlers, reference_of

SOLVERS = {
    "dense": linear_solvers.dense(),
    "MINRES": linear_solvers.minres(),
    "sparse Cholesky": linear_solvers.cholesky(),
    "sparse Cholesky, regular": Cholesky(regular=True),
    "CG": linear_solvers.cg(),
    "BiCGSTAB": linear_solvers.bicgstab(),
    "GMRES": linear_solvers.gmres(),
    "lineax's own Cholesky": lx.Cholesky(),
}


def hessian_and_modes(rest):
    """The Hessian without the contacts of rattlers, and the known zero modes."""
    return rest.linearization.hessian, rest.linearization.modes


def pseudo_inverse(hessian, modes, b, solver):
    """H⁺ b."""
    factors, unit = factorize(solver, hessian, modes), unit_of(hessian)
    return modes.project(solve(solver, factors, hessian, modes, unit, modes.project(b)))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("packing_fraction", [0.98, 0.86])
def test_every_solver_gives_the_pseudo_inverse(solver, packing_fraction):
    rest = jammed_with_rattlers(packing_fraction)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    u = pseudo_inverse(*hessian_and_modes(rest), b, solver)
    expected = (reference_of(rest).backbone().inverse() @ b.ravel()).reshape(b.shape)
    np.testing.assert_allclose(u, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def no_modes_known(n):
    """No zero mode is known."""
    return ZeroModes(jnp.zeros(n, bool), jnp.zeros(n, jnp.int32), jnp.zeros((1, n, 2)), jnp.asarray(False))


def chain(n, stiffness):
    """Particles on a line in the plane, joined by springs: free to move sideways."""
    along = jnp.zeros((n - 1, 2, 2)).at[:, 0, 0].set(stiffness)
    no_modes = no_modes_known(n)
    return PairHessian(jnp.arange(n - 1), jnp.arange(1, n), along, n), no_modes


REGULAR = ("lineax's own Cholesky", "sparse Cholesky, regular")
KNOWS_NO_NULL_SPACE = {name: solver for name, solver in SOLVERS.items() if name not in REGULAR}


@pytest.mark.parametrize("sideways", 10.0 ** np.arange(-14, 1, 2.0))
def test_where_no_null_space_is_expected_a_part_in_one_gives_nan_or_no_error(sideways):
    """A chain along x that is free to move sideways, which is not among the modes that are known."""
    matrix, modes = chain(8, 2.0)
    along = np.random.default_rng(0).normal(size=8)
    b = np.stack([along - along.mean(), sideways * np.cos(np.arange(8.0))], axis=1)
    u = pseudo_inverse(matrix, modes, jnp.asarray(b), Cholesky(regular=True))
    if sideways >= 1e-6:
        assert np.isnan(u).all()
    else:
        assert np.isfinite(u).all() or sideways > 1e-13
    if np.isfinite(u).all():
        expected = (np.linalg.pinv(np.asarray(matrix.dense()).reshape(16, 16)) @ b.ravel()).reshape(8, 2)
        np.testing.assert_allclose(u, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("solver", KNOWS_NO_NULL_SPACE.values(), ids=KNOWS_NO_NULL_SPACE)
def test_unknown_zero_modes_are_found(solver):
    matrix, no_modes = chain(6, 2.0)
    b = jnp.ones((6, 2)).at[0].set(3.0).at[2, 0].set(-1.5)
    expected = np.linalg.pinv(np.asarray(matrix.dense()).reshape(12, 12)) @ b.ravel()
    u = pseudo_inverse(matrix, no_modes, b, solver)
    if solver != SOLVERS["GMRES"]:
        atol = 1e-8 if isinstance(solver, Cholesky) else 1e-12  # the factors are of H and a little more
        np.testing.assert_allclose(u.ravel(), expected, atol=atol)
    elif np.isfinite(u).all():  # it may break down, which gives NaN
        np.testing.assert_allclose(u.ravel(), expected, atol=1e-9)


def test_minres_finds_unknown_rattlers_and_translations():
    rest = jammed_with_rattlers(0.86)
    matrix, modes = hessian_and_modes(rest)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    known, found = (
        pseudo_inverse(matrix, zero, b, linear_solvers.minres()) for zero in (modes, no_modes_known(rest.system.n))
    )
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-8 * float(jnp.abs(known).max()))


def test_minres_needs_few_products_and_none_for_a_zero_right_hand_side():
    """Half the products that conjugate gradients would need; a second round only reduces the residual of the first."""
    rest = jammed(seed=0)
    matrix, modes = hessian_and_modes(rest)
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


def test_an_inaccurate_user_defined_solver_gives_nan():
    rest = jammed_with_rattlers(0.9)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    u = pseudo_inverse(*hessian_and_modes(rest), b, lx.Normal(lx.CG(1e-2, 1e-2, max_steps=3)))
    assert np.isnan(np.delete(u, rest.certificate.rattlers, axis=0)).all()


def test_an_uncertain_eigenvalue_gives_nan():
    matrix, _ = chain(6, 2.0)
    weak = PairHessian(matrix.i, matrix.j, matrix.blocks.at[0].multiply(5e-11), matrix.n)
    assert np.isnan(
        pseudo_inverse(weak, no_modes_known(6), jnp.ones((6, 2)).at[0, 0].set(3.0), linear_solvers.dense())
    ).all()


@pytest.mark.parametrize("stiffness", [1e-20, 1.0, 1e14])
@pytest.mark.parametrize("solver", [linear_solvers.minres(), linear_solvers.cg()], ids=["MINRES", "CG"])
def test_iterative_solvers_do_not_depend_on_the_unit_of_energy(stiffness, solver):
    rest = jammed_with_rattlers(0.9)
    matrix, modes = hessian_and_modes(rest)
    scaled = PairHessian(matrix.i, matrix.j, stiffness * matrix.blocks, matrix.n)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    expected = pseudo_inverse(matrix, modes, b, linear_solvers.dense())
    u = pseudo_inverse(scaled, modes, stiffness * b, solver)
    np.testing.assert_allclose(u, expected, rtol=0, atol=1e-9 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("solver", [linear_solvers.minres(max_steps=5), linear_solvers.cg(max_steps=5)])
def test_an_iteration_cut_short_gives_nan_in_any_unit(solver):
    rest = jammed_with_rattlers(0.9)
    matrix, modes = hessian_and_modes(rest)
    scaled = PairHessian(matrix.i, matrix.j, 1e-20 * matrix.blocks, matrix.n)
    b = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    assert np.isnan(np.delete(pseudo_inverse(scaled, modes, b, solver), rest.certificate.rattlers, axis=0)).all()


def test_solvers_report_success_and_failure_as_lineax_does():
    """For callers of `lineax.linear_solve`."""
    matrix = lx.MatrixLinearOperator(jnp.diag(jnp.arange(1.0, 41.0)), (lx.symmetric_tag, lx.positive_semidefinite_tag))
    b = jnp.ones(40)
    for solver in (linear_solvers.dense(), linear_solvers.minres(1e-12), linear_solvers.cholesky()):
        found = lx.linear_solve(matrix, b, solver, throw=False)
        assert found.result == lx.RESULTS.successful
        np.testing.assert_allclose(found.value, 1.0 / jnp.arange(1.0, 41.0), rtol=1e-10)
    short = lx.linear_solve(matrix, b, linear_solvers.minres(1e-12, max_steps=3), throw=False)
    assert short.result == lx.RESULTS.max_steps_reached
    uncertain = lx.MatrixLinearOperator(jnp.diag(jnp.array([1.0, 5e-11])), lx.symmetric_tag)
    found = lx.linear_solve(uncertain, jnp.ones(2), linear_solvers.dense(), throw=False)
    assert found.result == lx.RESULTS.singular and np.isnan(found.value).all()


def weakly_joined(weak, n=60):
    """Two halves of a chain joined by a weak spring; translations are a known zero mode. And H⁺ by NumPy."""
    matrix = PairHessian(jnp.arange(n - 1), jnp.arange(1, n), jnp.ones((n - 1, 1, 1)).at[n // 2].set(weak), n)
    rigid = jnp.full((1, n, 1), n**-0.5)
    modes = ZeroModes(jnp.zeros(n, bool), jnp.zeros(n, jnp.int32), rigid, jnp.asarray(False))
    return matrix, modes, np.linalg.pinv(np.asarray(matrix.dense()).reshape(n, n), rcond=1e-14)


@pytest.mark.parametrize("weak", [1e-3, 1e-4, 1e-5])
def test_factors_solve_along_soft_modes(weak):
    """Conditions of 6e4 to 6e6: the residual of a round falls slowly along them, and is no part in a null space."""
    matrix, modes, inverse = weakly_joined(weak)
    b = np.random.default_rng(0).normal(size=(60, 1))
    u = pseudo_inverse(matrix, modes, jnp.asarray(b), linear_solvers.cholesky())
    expected = inverse @ b
    np.testing.assert_allclose(u, expected, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("small", [True, False], ids=["dense", "MINRES"])
def test_the_automatic_choice_falls_back_where_factors_fail(small, monkeypatch):
    """A condition of 6e7, where what is added to the diagonal is no longer small against the softest mode."""
    matrix, modes, inverse = weakly_joined(1e-6)
    b = np.random.default_rng(0).normal(size=(3, 60, 1))
    monkeypatch.setattr("mdsens.linear_solvers.solve.DENSE_UP_TO", 1200 if small else 0)
    alone = pseudo_inverse(matrix, modes, jnp.asarray(b[0]), linear_solvers.cholesky())
    assert np.isnan(alone).all()

    def solved(b):
        return pseudo_inverse(matrix, modes, b, Cholesky(falls_back=True))

    expected = np.einsum("ij,kjd->kid", inverse, b)
    for found in (jnp.stack(list(map(solved, jnp.asarray(b)))), jax.jit(jax.vmap(solved))(jnp.asarray(b))):
        np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())


def test_under_vmap_each_matrix_falls_back_by_itself():
    systems = [weakly_joined(weak) for weak in (1.0, 1e-6, 1e-7)]
    matrices = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(matrix for matrix, _, _ in systems))
    b = jnp.asarray(np.random.default_rng(0).normal(size=(60, 1)))
    found = jax.vmap(lambda matrix: pseudo_inverse(matrix, systems[0][1], b, Cholesky(falls_back=True)))(matrices)
    for u, (_, _, inverse) in zip(found, systems, strict=True):
        np.testing.assert_allclose(u, inverse @ b, atol=1e-7 * np.abs(inverse @ b).max())


@pytest.mark.parametrize("solver", [linear_solvers.cholesky(), linear_solvers.minres()], ids=["factors", "MINRES"])
@pytest.mark.parametrize("weak", [1e-3, 1e-4, 1e-5])
def test_a_soft_mode_is_not_taken_for_part_of_an_unknown_null_space(solver, weak):
    matrix, _, inverse = weakly_joined(weak)
    unknown = ZeroModes(jnp.zeros(60, bool), jnp.zeros(60, jnp.int32), jnp.zeros((1, 60, 1)), jnp.asarray(False))
    b = np.random.default_rng(0).normal(size=(60, 1))
    u = pseudo_inverse(matrix, unknown, jnp.asarray(b), solver)
    if np.isfinite(u).all():
        expected = inverse @ b
        np.testing.assert_allclose(u, expected, atol=1e-5 * np.abs(expected).max())
