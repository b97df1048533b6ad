import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import jammed, jammed_with_rattlers, reference_of
from mdsens.hessian import GeneralHessian, hessian, known_zero_modes, rattlers


@pytest.mark.parametrize(("dim", "packing_fraction", "alpha"), [(2, 0.98, 2.0), (2, 0.9, 2.5), (3, 0.75, 2.0)])
def test_the_hessian_is_the_one_written_by_hand(dim, packing_fraction, alpha):
    rest = jammed(dim=dim, packing_fraction=packing_fraction, alpha=alpha)
    by_hand = reference_of(rest).hessian()
    ours = hessian(rest.potential, rest.system, rest.neighbors)
    size = rest.positions.size
    np.testing.assert_allclose(ours.dense().reshape(size, size), by_hand, atol=1e-12)
    u = np.random.default_rng(0).normal(size=rest.positions.shape)
    np.testing.assert_allclose(ours.product(jnp.asarray(u)).ravel(), by_hand @ u.ravel(), atol=1e-12)


@pytest.mark.parametrize("potential", [mdsens.LennardJones(), mdsens.Yukawa()], ids=["LennardJones", "Yukawa"])
def test_blocks_of_pairs_equal_differentiating_the_gradient(potential):
    system = mdsens.random_packing(60, 3, packing_fraction=0.12, seed=2)
    rest = mdsens.Relaxation(tolerance=1e-9)(potential, system)
    blocks = hessian(rest.potential, rest.system, rest.neighbors)
    general = GeneralHessian(rest.potential, rest.system, rest.neighbors)
    np.testing.assert_allclose(blocks.dense(), general.dense(), atol=1e-10)


def by_peeling(contacts, n, needed):
    """Rattlers, one at a time, by the definition."""
    held = set(range(n))
    while True:
        degree = {k: sum(1 for pair in contacts if k in pair and set(pair) <= held) for k in held}
        loose = [k for k in held if degree[k] < needed]
        if not loose:
            return set(range(n)) - held
        held -= set(loose)


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.86), (2, 0.9), (3, 0.68)])
def test_rattlers_are_those_found_by_peeling(dim, packing_fraction):
    packings = [jammed(seed=seed, dim=dim, packing_fraction=packing_fraction, n=96) for seed in range(2)]
    for rest in [*packings, jammed_with_rattlers(packing_fraction, dim=dim, n=96)]:
        loose = set(np.flatnonzero(rattlers(rest.potential, rest.system, rest.neighbors)).tolist())
        assert loose == by_peeling(reference_of(rest).network, 96, dim + 1)


def test_a_jammed_packing_has_no_zero_modes_but_the_known_ones():
    for seed in range(3):
        rest = jammed(seed=seed, packing_fraction=0.9)
        eigenvalues = np.linalg.eigvalsh(reference_of(rest).hessian())
        assert rest.certificate.zero_modes == np.sum(np.abs(eigenvalues) < 1e-9)
        modes = known_zero_modes(rest.system, rattlers(rest.potential, rest.system, rest.neighbors))
        assert int(modes.count) == rest.certificate.zero_modes


@pytest.mark.parametrize(("dim", "count"), [(2, 3), (3, 6)])
def test_an_open_cluster_translates_and_turns_freely(dim, count):
    cluster = mdsens.System(np.random.default_rng(1).uniform(0, 2.2, size=(9, dim)), None, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-11)(mdsens.LennardJones(), cluster)
    modes = known_zero_modes(rest.system, jnp.zeros(9, bool))
    assert int(modes.count) == count == rest.certificate.zero_modes
    matrix = hessian(rest.potential, rest.system, rest.neighbors)
    assert all(float(jnp.max(jnp.abs(matrix.product(mode)))) < 1e-8 for mode in modes.rigid)
    np.testing.assert_allclose(jnp.tensordot(modes.rigid, modes.rigid, ((1, 2), (1, 2))), np.eye(count), atol=1e-12)


def test_a_dimer_in_space_has_five_rigid_motions():
    dimer = mdsens.System([[0.0, 0.0, 0.0], [0.7, 0.7, 0.7]], None, 1.0)
    modes = known_zero_modes(dimer, jnp.zeros(2, bool))
    assert int(modes.count) == 5
    u = jax.random.normal(jax.random.key(0), (2, 3))
    stretch = modes.project(u)
    np.testing.assert_allclose(np.cross(stretch[0], dimer.positions[1]), 0.0, atol=1e-12)
