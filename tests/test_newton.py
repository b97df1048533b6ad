import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import reference_of, settled
from mdsens import neighbors, newton
from mdsens.hessian import gradient
from mdsens.neighbors import NeighborList
from mdsens.newton import Newton, finish

SPHERES = mdsens.SoftSphere()
BY_FIRE_ALONE = mdsens.Relaxation(tolerance=1e-5, newton=None, throw=False)


@functools.cache
def nearly_at_rest(packing_fraction=0.95, n=300):
    return BY_FIRE_ALONE(SPHERES, settled(n=n, packing_fraction=packing_fraction)).system


def list_of(system, kind=None):
    return neighbors.sized(kind or neighbors.automatic(SPHERES, system), SPHERES.in_precision_of(system), system)


def finished(system, list_=None, method=None, tolerance=1e-13, highest=1.0):
    list_ = list_of(system) if list_ is None else list_
    limits = [jnp.asarray(value) for value in (highest, tolerance, 0.07)]
    return finish(method or Newton(), SPHERES.in_precision_of(system), system, list_, *limits)


def test_a_few_steps_go_from_five_digits_to_thirteen():
    start = nearly_at_rest()
    end = finished(start)
    by_hand = reference_of(BY_FIRE_ALONE(SPHERES, start)).changed(positions=end.positions)
    assert np.abs(by_hand.gradient()).max() < 2e-13
    assert int(end.steps) <= 8 and int(end.products) <= 600 and int(end.forces) <= 3 * int(end.steps)
    np.testing.assert_allclose(end.positions, start.positions, atol=0.02)


def test_it_ends_where_the_minimizer_would_have():
    start = nearly_at_rest()
    by_fire = mdsens.Relaxation(tolerance=1e-12, newton=None)(SPHERES, start)
    both = mdsens.Relaxation(tolerance=1e-12)(SPHERES, start)
    assert int(both.steps) < int(by_fire.steps) / 5
    assert float(both.energy) == pytest.approx(float(by_fire.energy), rel=1e-12)
    np.testing.assert_allclose(both.forces, 0.0, atol=1e-12)


@pytest.mark.slow
def test_near_jamming_it_saves_a_fifth_of_the_steps():
    relax, taken = mdsens.Relaxation(tolerance=1e-12), []
    for seed in range(3):
        start = settled(seed=seed, n=300, packing_fraction=0.86)
        both, by_fire = relax(SPHERES, start), dataclasses.replace(relax, newton=None)(SPHERES, start)
        assert np.abs(reference_of(both).gradient()).max() < 2e-12
        assert float(both.energy) == pytest.approx(float(by_fire.energy), rel=1e-12)
        taken.append((int(both.steps), int(by_fire.steps)))
    assert sum(both for both, _ in taken) < 0.8 * sum(alone for _, alone in taken)


def test_a_second_relaxation_of_that_size_compiles_nothing(compilations):
    relax = mdsens.Relaxation(tolerance=1e-12)
    relax(SPHERES, nearly_at_rest())
    shaken = nearly_at_rest().positions + 1e-6 * jnp.sin(jnp.arange(600.0)).reshape(300, 2)
    with compilations as counted:
        assert bool(relax(SPHERES, nearly_at_rest().replace(positions=shaken)).converged)
    assert counted.names == []


def test_inside_jit_it_gives_the_same():
    relax, start = mdsens.Relaxation(tolerance=1e-12), nearly_at_rest()
    outside, inside = relax(SPHERES, start), jax.jit(relax.sized_for(SPHERES, start))(SPHERES, start)
    assert int(inside.steps) == int(outside.steps)
    np.testing.assert_allclose(inside.positions, outside.positions, atol=1e-11)


def test_it_is_not_tried_where_forces_are_large_or_nobody_asks():
    start = nearly_at_rest()
    largest = float(jnp.max(jnp.abs(gradient(SPHERES, start, list_of(start)))))
    assert int(finished(start, highest=0.9 * largest).steps) == 0
    np.testing.assert_array_equal(finished(start, highest=0.9 * largest).positions, start.positions)


def test_it_stops_before_its_list_is_stale():
    start = nearly_at_rest()
    list_ = list_of(start)
    away = start.positions + jnp.asarray([0.47 * list_.skin, 0.0])
    end = finished(start.replace(positions=away), list_)
    assert bool(end.outgrown) and int(end.steps) == 0
    tight = eqx.tree_at(lambda nb: nb.skin, list_, jnp.asarray(1e-4))
    shaken = start.positions + 1e-5 * jnp.cos(jnp.arange(600.0)).reshape(300, 2)
    short = finished(start.replace(positions=shaken), tight)
    assert float(jnp.max(jnp.linalg.norm(short.positions - tight.reference, axis=1))) <= 0.5e-4 * (1 + 1e-9)


def test_it_gives_up_where_it_gains_nothing():
    start = nearly_at_rest()
    method = Newton(residual=(0.9, 0.9), patience=2)  # steps that are hardly solved for
    end = finished(start, method=method)
    assert 2 <= int(end.steps) < method.max_steps and float(end.max_force) > 1e-13


def test_it_never_climbs_and_leaves_the_neighborhood_of_a_saddle_downhill():
    """A row under pressure, hardly bent: the curvature across is negative."""
    grid = np.stack(np.meshgrid(0.9 * np.arange(20), 1.4 * np.arange(12)), -1).reshape(-1, 2)
    bent = grid + 1e-3 * np.random.default_rng(0).normal(size=grid.shape)
    system = mdsens.System(bent, [18.0, 16.8], 1.0)
    list_ = list_of(system, NeighborList(skin=0.3, pairs_per_particle=8.0, per_row=40))
    before = float(SPHERES.energy(system, list_))
    end = finished(system, list_, Newton(max_steps=5, patience=9))
    after = float(SPHERES.energy(system.replace(positions=end.positions), list_))
    assert int(end.steps) >= 1 and after < before


@pytest.mark.parametrize("steepness", [0.5, 1.0, 4.0, 300.0])
def test_the_line_search_ends_where_the_slope_is_small_or_the_way_ends(steepness):
    """On a parabola with its floor at 1/steepness of the way."""
    x, move = jnp.zeros((1, 2)), jnp.asarray([[1.0, 0.0]])
    slope_at = lambda x: steepness * x - jnp.asarray([[1.0, 0.0]])  # noqa: E731
    there, slope, forces = newton._line_search(slope_at, x, move, slope_at(x))
    np.testing.assert_allclose(slope, slope_at(there), atol=1e-13)
    assert abs(float(slope[0, 0])) <= 0.3 or float(there[0, 0]) == 1.0
    assert int(forces) <= 4
