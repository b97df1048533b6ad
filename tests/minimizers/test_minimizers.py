import dataclasses

import jax
import numpy as np
import pytest

import mdsens
from samples import jammed, settled


@pytest.mark.parametrize(
    "minimizer",
    [mdsens.FIRE(), mdsens.FIRE(dt_max=0.2), mdsens.GradientDescent(step_size=0.1)],
    ids=["FIRE", "FIRE with short steps", "gradient descent"],
)
def test_each_minimizer_returns_to_the_minimum_it_is_pushed_out_of(minimizer):
    rest = jammed(seed=0, n=32)
    push = 1e-3 * np.random.default_rng(0).normal(size=rest.positions.shape)
    pushed = rest.system.replace(positions=rest.positions + push - push.mean(axis=0))
    relax = mdsens.Relaxation(minimizer=minimizer, tolerance=1e-11)
    again = relax(mdsens.SoftSphere(), pushed)
    assert float(again.energy) == pytest.approx(float(rest.energy), rel=1e-12)
    np.testing.assert_allclose(again.positions, rest.positions, atol=1e-8)


def test_a_minimizer_of_jax_md_through_the_adapter():
    from jax_md.minimize import fire_descent

    system = settled(diameters=(1.0,))  # with stiffness 1, for which the time steps of both agree
    ours, theirs = (
        mdsens.Relaxation(minimizer=minimizer)(mdsens.SoftSphere(), system)
        for minimizer in (mdsens.FIRE(dt_max=0.3), mdsens.JaxMDMinimizer(fire_descent, dt_max=0.3))
    )
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8)


def test_fire_takes_the_steps_of_jax_md_where_forces_are_above_its_floor():
    from jax_md.minimize import fire_descent

    system, stiffness = settled(diameters=(1.0,)), 1e6  # jax-md takes no force to be below 1e-3
    ours, theirs = (
        mdsens.Relaxation(minimizer=minimizer, max_steps=20, throw=False, newton=None)(
            mdsens.SoftSphere(epsilon=stiffness), system
        )
        for minimizer in (mdsens.FIRE(), mdsens.JaxMDMinimizer(fire_descent, dt_start=1e-4, dt_max=5e-4))
    )
    moved = np.abs(ours.positions - system.positions).max()
    assert moved > 1e-3
    np.testing.assert_allclose(
        ours.positions, theirs.positions, atol=1e-2 * moved
    )  # the constants of jax-md are float16


def test_the_minimizer_does_not_depend_on_the_unit_of_energy():
    system = mdsens.random_packing(32, seed=3)
    soft, hard = (
        mdsens.Relaxation(tolerance=1e-6 * epsilon, newton=None)(mdsens.SoftSphere(epsilon=epsilon), system)
        for epsilon in (2.0**-20, 2.0**20)
    )
    assert int(soft.steps) == int(hard.steps)
    np.testing.assert_allclose(soft.positions, hard.positions, rtol=1e-9)


@pytest.mark.parametrize("potential", [mdsens.LennardJones(), mdsens.Morse()], ids=["lennard-jones", "morse"])
def test_packings_far_stiffer_than_the_typical_stiffness_come_to_rest_under_jit_too(potential):
    systems = [mdsens.random_packing(n=32, seed=seed) for seed in range(3)]
    relax = mdsens.Relaxation(tolerance=1e-10, max_steps=5000)
    together = mdsens.relax_ensemble(relax, potential, systems)
    assert bool(np.all(together.minimum)) and float(np.max(together.max_force)) <= 1e-10
    with_images = dataclasses.replace(relax, neighbors=mdsens.AllPairs(images=True))
    alone = jax.jit(lambda system: with_images(potential, system))(systems[0])
    assert bool(alone.minimum)
    for system in systems:
        assert bool(relax(potential, system).minimum)


@pytest.mark.parametrize("dim", [2, 3])
def test_strongly_bidisperse_packings_come_to_rest_as_fast_as_others(dim):
    """The contacts of the small particles are 25 times as stiff as those of the large ones."""
    for seed in range(6):
        system = mdsens.random_packing(32, dim, (1.0, 0.2), packing_fraction=1.15, seed=seed)
        rest = mdsens.Relaxation(tolerance=1e-11, max_steps=10_000)(mdsens.SoftSphere(), system)
        assert bool(rest.minimum)


def test_a_start_with_huge_forces_does_not_blow_up():
    system = mdsens.random_packing(32, packing_fraction=0.6, diameters=(1.0,), seed=5)
    rest = mdsens.Relaxation(tolerance=1e-8)(mdsens.LennardJones(), system)
    assert bool(rest.converged)
    assert float(rest.energy) < -system.n
