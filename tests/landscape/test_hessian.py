import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import summed
from mdsens.landscape.hessian import BlockHessian, GeneralHessian
from mdsens.linear_solvers import cholesky, dense
from samples import dense_of, hessian_of, jammed, reference_of


@pytest.mark.parametrize(("dim", "packing_fraction", "alpha"), [(2, 0.98, 2.0), (2, 0.9, 2.5), (3, 0.75, 2.0)])
def test_the_hessian_is_the_one_written_by_hand(dim, packing_fraction, alpha):
    rest = jammed(dim=dim, packing_fraction=packing_fraction, alpha=alpha)
    by_hand = reference_of(rest).hessian()
    ours = hessian_of(rest.configuration)
    np.testing.assert_allclose(dense_of(ours), by_hand, atol=1e-12)
    u = np.random.default_rng(0).normal(size=rest.positions.shape)
    np.testing.assert_allclose(ours.product(jnp.asarray(u)).ravel(), by_hand @ u.ravel(), atol=1e-12)


@pytest.mark.parametrize("potential", [mdsens.LennardJones(), mdsens.Yukawa()], ids=["LennardJones", "Yukawa"])
def test_blocks_of_pairs_equal_differentiating_the_gradient(potential):
    system = mdsens.random_packing(60, 3, packing_fraction=0.12, seed=2)  # the cell is two cutoffs wide
    here = mdsens.Relaxation(tolerance=1e-9)(potential, system).configuration
    general = GeneralHessian(here.potential, here.system, here.neighbors)
    np.testing.assert_allclose(dense_of(hessian_of(here)), dense_of(general), atol=1e-10)


def test_blocks_of_groups_are_summed_where_particles_meet():
    """Random blocks over groups that share particles, in any order, one of them with a particle twice."""
    rng, n, d = np.random.default_rng(0), 5, 2
    groups = np.array([[0, 1, 2], [4, 2, 0], [3, 3, 1], [2, 1, 0]])
    blocks = rng.normal(size=(4, 3, d, 3, d))
    blocks = blocks + blocks.transpose(0, 3, 4, 1, 2)
    blocks[0, :, :, 1] = blocks[0, 1] = 0.0  # no second derivatives by the second particle
    expected = np.zeros((n, d, n, d))
    for group, block in zip(groups, blocks, strict=True):
        for a, p in enumerate(group):
            for b, q in enumerate(group):
                expected[p, :, q] += block[a, :, b]
    ours = BlockHessian(jnp.asarray(groups), jnp.asarray(blocks), n)
    flat, size = expected.reshape(n * d, n * d), n * d
    np.testing.assert_allclose(ours.dense(), expected, atol=1e-13)
    u = rng.normal(size=(n, d))
    np.testing.assert_allclose(ours.product(jnp.asarray(u)).ravel(), flat @ u.ravel(), atol=1e-12)
    rows, columns, values = ours.entries(jnp.asarray(0.5))
    assert rows.dtype == columns.dtype == jnp.int32
    np.testing.assert_allclose(summed(rows, columns, values, size), flat + 0.5 * np.eye(size), atol=1e-13)
    unused = (np.asarray(rows) == 0) & (np.asarray(columns) == 0) & (np.asarray(values) == 0.0)
    assert np.count_nonzero(unused) == 3 * d * d  # two pairs without second derivatives, a particle with itself
    np.testing.assert_allclose(ours.site_stiffness(), np.diag(flat).reshape(n, d).mean(axis=1), atol=1e-13)


def test_sparse_factors_of_blocks_give_the_response_of_dense_ones():
    """A pinned network, differentiated by the sparse direct solver."""
    rng, n = np.random.default_rng(1), 12
    system = mdsens.System(rng.normal(size=(n, 2)))
    relax = [mdsens.Relaxation(linear_solver=solver()) for solver in (dense, cholesky)]

    def positions(relax, anchors):
        return relax(mdsens.Tethers(anchors, np.linspace(1.0, 2.0, n)), system).positions

    anchors, direction = jnp.asarray(rng.normal(size=(2, n, 2)))
    slopes = [jax.jvp(lambda a, r=r: positions(r, a), (anchors,), (direction,))[1] for r in relax]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-10)
    np.testing.assert_allclose(slopes[1], direction, atol=1e-10)
