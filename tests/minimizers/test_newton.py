import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import neighbors
from mdsens.landscape.configuration import Configuration
from mdsens.minimizers import newton
from mdsens.minimizers.newton import Newton, newton_descent
from mdsens.neighbors import NeighborList
from mdsens.relaxation.descent import Limits, Method, advance, begin
from samples import reference_of, settled

SPHERES = mdsens.SoftSphere()
BY_FIRE_ALONE = mdsens.Relaxation(tolerance=1e-5, newton=None, throw=False)


@functools.cache
def nearly_at_rest(packing_fraction=0.95, n=300):
    return BY_FIRE_ALONE(SPHERES, settled(n=n, packing_fraction=packing_fraction)).system


def list_of(system, finder=None):
    return neighbors.allocate(finder or neighbors.automatic(SPHERES, system), SPHERES.prepared_for(system), system)


def by_newton(system, pairs=None, method=None, tolerance=1e-13):
    here = Configuration(SPHERES.prepared_for(system), system, list_of(system) if pairs is None else pairs)
    return newton_descent(method or Newton(), here, here.gradient(), jnp.asarray(tolerance), jnp.asarray(0.07))


def test_a_few_steps_go_from_five_digits_to_thirteen():
    start = nearly_at_rest()
    end = by_newton(start)
    by_hand = reference_of(BY_FIRE_ALONE(SPHERES, start)).changed(positions=end.positions)
    assert np.abs(by_hand.gradient()).max() < 2e-13
    assert int(end.steps) <= 8 and int(end.products) <= 600 and int(end.forces) <= 3 * int(end.steps)
    np.testing.assert_allclose(end.positions, start.positions, atol=0.02)


def test_newtons_method_finds_the_minimum_of_the_minimizer():
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


def test_a_second_relaxation_of_the_same_size_compiles_nothing(compilations):
    relax = mdsens.Relaxation(tolerance=1e-12)
    relax(SPHERES, nearly_at_rest())
    shaken = nearly_at_rest().positions + 1e-6 * jnp.sin(jnp.arange(600.0)).reshape(300, 2)
    with compilations as counted:
        assert bool(relax(SPHERES, nearly_at_rest().replace(positions=shaken)).converged)
    assert counted.names == []


def test_inside_jit_it_gives_the_same():
    relax, start = mdsens.Relaxation(tolerance=1e-12), nearly_at_rest()
    outside, inside = relax(SPHERES, start), jax.jit(relax.allocated_for(SPHERES, start))(SPHERES, start)
    assert int(inside.steps) == int(outside.steps)
    np.testing.assert_allclose(inside.positions, outside.positions, atol=1e-11)


def test_newtons_method_begins_below_its_largest_force():
    """One step of the minimizer, then Newton's method if the forces are small enough for it."""
    start, potential = nearly_at_rest(), SPHERES.prepared_for(nearly_at_rest())
    limits = Limits(jnp.asarray(1e-12), jnp.int32(100_000))
    for begin_at, attempted in ((1e-30, False), (1.0, True)):
        method = Method(mdsens.FIRE(), Newton(begin=begin_at), list_of(start).finder)
        run = begin(method, potential, start, jnp.int32(0))
        one_step = Limits(limits.tolerance, jnp.int32(1)) if not attempted else limits
        run = advance(method, potential, start, run, one_step)
        assert (float(run.max_force) <= 1e-12) == attempted


def test_newtons_method_stops_before_the_neighbor_list_is_out_of_date():
    start = nearly_at_rest()
    pairs = list_of(start)
    away = start.positions + jnp.asarray([0.47 * pairs.skin, 0.0])
    end = by_newton(start.replace(positions=away), pairs)
    assert bool(end.needs_rebuild) and int(end.steps) == 0
    tight = eqx.tree_at(lambda pairs: pairs.skin, pairs, jnp.asarray(1e-4))
    shaken = start.positions + 1e-5 * jnp.cos(jnp.arange(600.0)).reshape(300, 2)
    short = by_newton(start.replace(positions=shaken), tight)
    assert float(jnp.max(jnp.linalg.norm(short.positions - tight.reference, axis=1))) <= 0.5e-4 * (1 + 1e-9)


def test_newtons_method_gives_up_where_it_gains_nothing():
    start = nearly_at_rest()
    method = Newton(tightest=0.9, loosest=0.9, patience=2)  # linear systems are hardly solved
    end = by_newton(start, method=method)
    assert 2 <= int(end.steps) < float(method.max_steps) and float(end.max_force) > 1e-13


def test_newtons_method_leaves_the_neighborhood_of_a_saddle_downhill():
    """Rows under pressure, slightly bent: the transverse curvature is negative."""
    grid = np.stack(np.meshgrid(0.9 * np.arange(20), 1.4 * np.arange(12)), -1).reshape(-1, 2)
    bent = grid + 1e-3 * np.random.default_rng(0).normal(size=grid.shape)
    system = mdsens.System(bent, [18.0, 16.8], 1.0)
    pairs = list_of(system, NeighborList(skin=0.3, pairs_per_particle=8.0, per_row=40))
    before = float(SPHERES.energy(system, pairs))
    end = by_newton(system, pairs, Newton(max_steps=5, patience=9))
    after = float(SPHERES.energy(system.replace(positions=end.positions), pairs))
    assert int(end.steps) >= 1 and after < before


@pytest.mark.parametrize("steepness", [0.5, 1.0, 4.0, 300.0])
def test_the_line_search_ends_where_the_slope_is_small_or_at_the_full_step(steepness):
    """On a parabola with its minimum at 1/steepness of the step."""
    x, move = jnp.zeros((1, 2)), jnp.asarray([[1.0, 0.0]])
    slope_at = lambda x: steepness * x - jnp.asarray([[1.0, 0.0]])  # noqa: E731
    there, slope, forces = newton._line_search(slope_at, x, move, slope_at(x))
    np.testing.assert_allclose(slope, slope_at(there), atol=1e-13)
    assert abs(float(slope[0, 0])) <= 0.3 or float(there[0, 0]) == 1.0
    assert int(forces) <= 4
