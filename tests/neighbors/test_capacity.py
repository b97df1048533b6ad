"""Lists of fixed capacity in relaxations: allocated, overflowing, enlarged; under `jit` and in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.neighbors import AllPairs, NeighborList, automatic
from mdsens.neighbors.allocation import survey
from samples import built, jammed, listed, pairs_within, settled

SORTED = 400
"""A number of particles for which lists are made by cells, and particles are put into their order."""


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.86), (2, 1.1), (3, 0.68)])
def test_the_allocated_capacity_suffices_at_the_start_and_at_rest(dim, packing_fraction):
    system = mdsens.random_packing(1200, dim, packing_fraction=packing_fraction)
    finder = automatic(mdsens.SoftSphere(), system)
    rest = mdsens.Relaxation(tolerance=1e-4, escape=False, throw=False)(mdsens.SoftSphere(), system)
    assert bool(rest.converged) and rest.pair_finder == finder, "it was not enlarged"
    assert int(rest.all_neighbors.found) > 0.5 * rest.all_neighbors.i.size, "and is not much too large"


@pytest.mark.parametrize("n", [32, 300, SORTED])
def test_an_equilibrium_keeps_the_pairs_nearly_in_contact(n):
    rest = jammed(n=n, packing_fraction=0.95)
    d = np.asarray(rest.system.diameters)
    near = pairs_within(rest.system, lambda i, j: 1.05 * 0.5 * (d[i] + d[j]))
    assert listed(rest.neighbors) >= near
    assert listed(rest.neighbors) == near or n == 300  # there a shorter list would have as many slots
    assert rest.neighbors.i.size <= 4 * n and not bool(rest.neighbors.overflow)


def test_a_list_that_overflows_is_enlarged_outside_jit():
    system = mdsens.random_packing(SORTED, packing_fraction=0.95)
    tight = NeighborList(pairs_per_particle=0.5, per_row=1)
    assert bool(built(tight, mdsens.SoftSphere(), system).overflow)
    cured = mdsens.Relaxation(tolerance=1e-9, neighbors=tight)(mdsens.SoftSphere(), system)
    all_pairs = mdsens.Relaxation(tolerance=1e-9, neighbors=AllPairs())
    assert bool(cured.converged) and not bool(cured.overflow)
    again = all_pairs(mdsens.SoftSphere(), cured.system)
    assert float(cured.energy) == pytest.approx(float(again.energy), rel=1e-9)
    assert int(again.steps) == 0


def test_an_overflow_under_jit_is_flagged_and_the_result_is_nan():
    system = mdsens.random_packing(SORTED, packing_fraction=0.95)
    relax = mdsens.Relaxation(tolerance=1e-9, neighbors=NeighborList(pairs_per_particle=0.5, per_row=1))
    result = jax.jit(relax)(mdsens.SoftSphere(), system)
    assert bool(result.overflow) and not bool(result.converged)
    assert np.isnan(result.positions).all() and np.isnan(result.energy)
    response = jax.jit(jax.grad(lambda D: relax(mdsens.SoftSphere(), system.replace(diameters=D)).positions[0, 0]))
    slope = jax.jit(jax.grad(lambda D: relax(mdsens.SoftSphere(), system.replace(diameters=D)).energy))
    assert not np.isfinite(response(system.diameters)).any()
    assert not np.isfinite(slope(system.diameters)).any()


def test_a_list_allocated_beforehand_works_under_jit():
    potential, system = mdsens.SoftSphere(), settled(n=SORTED, packing_fraction=0.95)
    relax = mdsens.Relaxation(tolerance=1e-9, neighbors=NeighborList(pairs_per_particle=0.5, per_row=1))
    inside = jax.jit(relax.allocated_for(potential, system))(potential, system)
    outside = relax(potential, system)
    assert bool(inside.converged)
    np.testing.assert_allclose(inside.positions, outside.positions, atol=1e-7)


def test_a_loop_over_systems_of_one_shape_compiles_its_list_once(compilations):
    """To a tolerance where all of them use Newton's method, which the first one compiles."""
    potential, relax = mdsens.SoftSphere(), mdsens.Relaxation(tolerance=1e-10)
    systems = [mdsens.random_packing(300, packing_fraction=0.95, seed=s) for s in range(4)]
    relax(potential, systems[0])
    with compilations as counted:
        for system in systems[1:]:
            assert bool(relax(potential, system).converged)
    assert counted.names == []


def test_positions_without_significant_digits_raise_an_error():
    with jax.enable_x64(False):
        system = mdsens.random_packing(300)
        away = system.replace(positions=system.positions + 1e6)
        with pytest.raises(mdsens.MdsensError):
            mdsens.Relaxation(tolerance=1e-4)(mdsens.SoftSphere(), away)


@pytest.mark.parametrize("options", [{"skin": -0.3}, {"skin": 0.0}, {"pairs_per_particle": 0.0}, {"per_row": 0}])
def test_invalid_lists_are_refused(options):
    with pytest.raises(mdsens.InvalidInput):
        NeighborList(**options)


def test_the_order_of_the_particles_does_not_matter():
    system, order = settled(n=SORTED, packing_fraction=0.95), np.random.default_rng(0).permutation(SORTED)
    relax = mdsens.Relaxation(tolerance=1e-11)
    one, other = (relax(mdsens.SoftSphere(), s) for s in (system, system.in_order(jnp.asarray(order))))
    np.testing.assert_allclose(other.positions, np.asarray(one.positions)[order], atol=1e-8)
    by_cells = survey(mdsens.SoftSphere(), system, jnp.asarray(0.1), jnp.asarray(1.0)).order
    assert sorted(by_cells.tolist()) == list(range(SORTED)) != by_cells.tolist()
