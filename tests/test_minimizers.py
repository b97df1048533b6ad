import numpy as np
import pytest

import mdsens
from conftest import jammed, settled


@pytest.mark.parametrize(
    "minimizer",
    [mdsens.FIRE(), mdsens.FIRE(dt_max=0.2), mdsens.GradientDescent(step_size=0.1)],
    ids=["FIRE", "FIRE with short steps", "gradient descent"],
)
def test_each_minimizer_falls_back_into_the_minimum_it_is_pushed_out_of(minimizer):
    rest = jammed(seed=0, n=32)
    push = 1e-3 * np.random.default_rng(0).normal(size=rest.positions.shape)
    pushed = rest.system.replace(positions=rest.positions + push - push.mean(axis=0))
    relax = mdsens.Relaxation(minimizer=minimizer, tolerance=1e-11)
    again = relax(mdsens.SoftSphere(), pushed)
    assert float(again.energy) == pytest.approx(float(rest.energy), rel=1e-12)
    np.testing.assert_allclose(again.positions, rest.positions, atol=1e-8)


def test_any_minimizer_of_jax_md_by_the_adapter():
    from jax_md.minimize import fire_descent

    system = settled(diameters=(1.0,))  # of stiffness 1, so that units agree
    ours, theirs = (
        mdsens.Relaxation(minimizer=minimizer)(mdsens.SoftSphere(), system)
        for minimizer in (mdsens.FIRE(dt_max=0.3), mdsens.JaxMDMinimizer(fire_descent, dt_max=0.3))
    )
    assert int(ours.steps) == pytest.approx(int(theirs.steps), abs=2)
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8)


@pytest.mark.parametrize("dim", [2, 3])
def test_strongly_bidisperse_packings_come_to_rest_as_fast_as_others(dim):
    """The contacts of the small particles are 25 times as stiff as those of the large ones."""
    for seed in range(6):
        system = mdsens.random_packing(32, dim, (1.0, 0.2), packing_fraction=1.15, seed=seed)
        rest = mdsens.Relaxation(tolerance=1e-11, max_steps=10_000)(mdsens.SoftSphere(), system)
        assert bool(rest.minimum)


def test_a_start_with_huge_forces_does_not_blow_up():
    system = mdsens.random_packing(40, packing_fraction=0.6, diameters=(1.0,), seed=5)
    rest = mdsens.Relaxation(tolerance=1e-8)(mdsens.LennardJones(), system)
    assert bool(rest.converged)
    assert float(rest.energy) < -40
