import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from mdsens.linear_solvers import automatic
from mdsens.linear_solvers.cholesky import Cholesky, solve
from samples import jammed, reference_of

sparsax = pytest.importorskip("sparsax")


def at_diameters(rest, solver=None):
    relax = mdsens.Relaxation(tolerance=1e-10, linear_solver=solver)
    return lambda D: relax(rest.potential, rest.system.replace(diameters=D)).positions


def test_the_entries_are_those_of_the_hessian():
    rest = jammed(seed=0, n=32)
    matrix = rest.configuration.hessian()
    rows, columns, values = (np.asarray(a) for a in matrix.entries(jnp.asarray(0.5)))
    assert np.all(rows <= columns)
    upper = np.zeros((64, 64))
    np.add.at(upper, (rows, columns), values)
    expected = reference_of(rest).hessian() + 0.5 * np.eye(64)
    np.testing.assert_allclose(upper + np.triu(upper, 1).T, expected, atol=1e-13)


def test_a_vmap_over_matrices_of_different_patterns_solves_each():
    rng = np.random.default_rng(0)
    rows = jnp.asarray([[0, 1, 2, 0], [0, 1, 2, 1]], jnp.int32)
    columns = jnp.asarray([[0, 1, 2, 1], [0, 1, 2, 2]], jnp.int32)
    values = jnp.asarray(np.concatenate([rng.uniform(2, 3, (2, 3)), rng.uniform(-1, 1, (2, 1))], axis=1))
    b = jnp.asarray(rng.normal(size=(2, 3, 4)))
    for k, x in enumerate(jax.jit(jax.vmap(solve))(rows, columns, values, b)):
        full = np.zeros((3, 3))
        full[rows[k], columns[k]] = values[k]
        full[columns[k], rows[k]] = values[k]
        np.testing.assert_allclose(full @ x, b[k], atol=1e-13)


def test_a_full_jacobian_is_one_factorization_forward_and_in_reverse():
    rest = jammed(seed=0)
    move = at_diameters(rest, linear_solvers.cholesky())
    relax = mdsens.Relaxation(tolerance=1e-10, linear_solver=linear_solvers.cholesky())
    expected = reference_of(rest).response_to_diameters()
    for respond in (
        lambda: jax.jacfwd(move)(rest.system.diameters),
        lambda: jax.jacrev(move)(rest.system.diameters),
        lambda: mdsens.sensitivity(relax(rest.potential, rest.system), "diameters").response,
    ):
        before = sparsax.factorization_count()
        found = respond()
        assert sparsax.factorization_count() - before <= 1
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_under_vmap_each_packing_has_its_own_response():
    rests = [jammed(seed=seed, n=32) for seed in range(3)]
    x = jnp.stack([rest.positions for rest in rests])

    def gradient(x, solver):
        relax = mdsens.Relaxation(tolerance=1e-10, linear_solver=solver)
        system = rests[0].system.replace(positions=x)
        return jax.grad(lambda D: relax(rests[0].potential, system.replace(diameters=D)).positions[0, 0])(
            system.diameters
        )

    factored, exact = (
        jax.jit(jax.vmap(lambda x, s=s: gradient(x, s)))(x) for s in (linear_solvers.cholesky(), linear_solvers.dense())
    )
    np.testing.assert_allclose(factored, exact, atol=1e-8 * float(jnp.abs(exact).max()))


def test_cholesky_is_chosen_where_it_is_fastest(monkeypatch):
    def chosen(n, dim=2, **options):
        system = mdsens.random_packing(n, dim, packing_fraction=0.95, seed=0)
        return isinstance(automatic(mdsens.SoftSphere(), system, **options), Cholesky)

    monkeypatch.setattr(linear_solvers, "_fast_cholmod", lambda: False)
    assert chosen(256) and chosen(20_000)
    assert not chosen(128) and not chosen(256, minimum_only=False)
    assert chosen(400, dim=3) and not chosen(1000, dim=3)
    monkeypatch.setattr(linear_solvers, "_fast_cholmod", lambda: True)
    assert chosen(1000, dim=3) and not chosen(20_000, dim=3)


def test_cholesky_agrees_with_minres():
    rest = jammed(seed=0, n=300, packing_fraction=0.95)
    assert isinstance(automatic(rest.potential, rest.system), Cholesky)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape))
    chosen, other = (
        jax.grad(lambda D, s=s: jnp.sum(weights * at_diameters(rest, s)(D)))(rest.system.diameters)
        for s in (None, linear_solvers.minres())
    )
    np.testing.assert_allclose(chosen, other, atol=1e-7 * float(jnp.abs(other).max()))


def test_a_saddle_is_refused():
    row = mdsens.System([[0.0, 0.0], [0.9, 0.0], [1.8, 0.0]], [2.7, 3.0], 1.0)  # under pressure it buckles
    relax = mdsens.Relaxation(
        tolerance=1e-10, linear_solver=linear_solvers.cholesky(), escape=False, throw=False, one_sided=True
    )
    saddle = relax(mdsens.SoftSphere(), row)
    assert bool(saddle.converged) and not bool(saddle.minimum)
    with pytest.raises(mdsens.SolveFailed, match="saddle"):
        mdsens.sensitivity(saddle, "diameters")


def test_potentials_that_are_not_sums_over_pairs_are_refused():
    trap = mdsens.System(np.zeros((1, 2)), None, 1.0)

    class Trap(mdsens.Potential):
        def energy(self, system, neighbors):
            return jnp.sum(system.positions**2)

    relax = mdsens.Relaxation(linear_solver=linear_solvers.cholesky())
    with pytest.raises(mdsens.InvalidInput, match="sums over pairs"):
        jax.grad(lambda D: relax(Trap(), trap.replace(diameters=D)).positions[0, 0])(trap.diameters)
