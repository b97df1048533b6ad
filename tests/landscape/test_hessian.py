import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.landscape.hessian import GeneralHessian
from samples import jammed, reference_of


@pytest.mark.parametrize(("dim", "packing_fraction", "alpha"), [(2, 0.98, 2.0), (2, 0.9, 2.5), (3, 0.75, 2.0)])
def test_the_hessian_is_the_one_written_by_hand(dim, packing_fraction, alpha):
    rest = jammed(dim=dim, packing_fraction=packing_fraction, alpha=alpha)
    by_hand = reference_of(rest).hessian()
    ours = rest.configuration.hessian()
    size = rest.positions.size
    np.testing.assert_allclose(ours.dense().reshape(size, size), by_hand, atol=1e-12)
    u = np.random.default_rng(0).normal(size=rest.positions.shape)
    np.testing.assert_allclose(ours.product(jnp.asarray(u)).ravel(), by_hand @ u.ravel(), atol=1e-12)


@pytest.mark.parametrize("potential", [mdsens.LennardJones(), mdsens.Yukawa()], ids=["LennardJones", "Yukawa"])
def test_blocks_of_pairs_equal_differentiating_the_gradient(potential):
    system = mdsens.random_packing(60, 3, packing_fraction=0.12, seed=2)  # the cell is two cutoffs wide
    here = mdsens.Relaxation(tolerance=1e-9)(potential, system).configuration
    blocks = here.hessian()
    general = GeneralHessian(here.potential, here.system, here.neighbors)
    np.testing.assert_allclose(blocks.dense(), general.dense(), atol=1e-10)
