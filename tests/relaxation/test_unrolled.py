import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.neighbors import NeighborList
from samples import jammed, settled

SPHERES = mdsens.SoftSphere()
pytestmark = pytest.mark.optimized  # XLA's older emitters without optimizations have given NaN derivatives of this loop


def test_it_takes_the_steps_of_the_relaxation():
    system = settled()
    by_loop = mdsens.Unrolled(steps=100)(SPHERES, system)
    relaxed = mdsens.Relaxation(tolerance=1e-30, max_steps=100, throw=False)(SPHERES, system)
    np.testing.assert_allclose(by_loop.positions, relaxed.positions, atol=1e-9)
    assert float(by_loop.energy) == pytest.approx(float(relaxed.energy), rel=1e-10)


def test_forward_and_reverse_agree_with_each_other_and_with_a_finite_difference_of_the_loop():
    system = mdsens.random_packing(32)
    loop = mdsens.Unrolled(steps=30)

    def loss(scale):
        return jnp.sum(jnp.sin(loop(SPHERES, system.replace(diameters=scale * system.diameters)).positions))

    _, forward = jax.jvp(loss, (1.0,), (1.0,))
    assert float(jax.grad(loss)(1.0)) == pytest.approx(float(forward), rel=1e-10)
    assert float(forward) == pytest.approx(float(loss(1 + 1e-6) - loss(1 - 1e-6)) / 2e-6, rel=1e-5)


def test_long_loops_near_the_minimum_agree_with_the_implicit_rule():
    """Started at rest, without rattlers, gradient descent forgets its start."""
    packings = (jammed(seed=seed, n=16, packing_fraction=1.1) for seed in range(20))
    rest = next(p for p in packings if not p.certificate.rattlers and p.certificate.softest > 0.05)
    loop = mdsens.Unrolled(steps=8000, minimizer=mdsens.GradientDescent())

    def at(run):
        return lambda D: run(SPHERES, rest.system.replace(diameters=D)).positions

    growth = jnp.cos(jnp.arange(16.0))
    _, unrolled = jax.jvp(at(loop), (rest.system.diameters,), (growth,))
    _, implicit = jax.jvp(at(mdsens.Relaxation(tolerance=1e-12)), (rest.system.diameters,), (growth,))
    np.testing.assert_allclose(unrolled, implicit, atol=1e-5)


def test_a_list_is_renewed_within_the_loop():
    system = mdsens.random_packing(32, packing_fraction=0.9)
    finder = NeighborList(skin=0.4, pairs_per_particle=12, per_row=30)
    by_list, by_all = (
        mdsens.Unrolled(steps=40, neighbors=each)(SPHERES, system) for each in (finder, mdsens.AllPairs())
    )
    assert not bool(by_list.overflow)
    moved = np.linalg.norm(by_all.positions - system.positions, axis=1).max()
    assert moved > 0.2  # half the skin: an outdated list would miss pairs
    np.testing.assert_allclose(by_list.positions, by_all.positions, atol=1e-8)
    tight = mdsens.Unrolled(steps=5, neighbors=NeighborList(skin=0.4, pairs_per_particle=0.2, per_row=1))
    assert not bool(tight(SPHERES, system).overflow)
    inside = jax.jit(tight)(SPHERES, system)
    assert bool(inside.overflow) and np.isnan(inside.positions).all()


def test_a_traced_number_of_steps_shares_one_program_and_gives_the_same_derivative():
    system = mdsens.random_packing(32)

    def response(steps):
        def positions(scale):
            return mdsens.Unrolled(steps=steps)(SPHERES, system.replace(diameters=scale * system.diameters)).positions

        return jax.jvp(positions, (1.0,), (1.0,))

    together = jax.jit(response)
    for steps in (7, 30):
        for shared, alone in zip(together(steps), response(steps), strict=True):
            np.testing.assert_allclose(shared, alone, atol=1e-9)
    assert together._cache_size() == 1
