"""Which pairs a list has."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsens
from local_terms import energy_and_gradient
from mdsens.neighbors import AllPairs, NeighborList, allocate, automatic, lists
from samples import built, listed, pairs_within, silicon

CELLS = {
    "square": np.eye(2) * 9.0,
    "one cell": np.eye(2) * 2.65,
    "two by four": np.diag([3.0, 5.0]),
    "four by two": np.diag([5.0, 3.0]),
    "two by two, oblique": np.array([[3.0, 0.0], [0.5, 3.2]]),
    "one by one by four": np.diag([2.65, 2.65, 5.5]),
    "two by two by two": np.eye(3) * 2.9,
    "oblique": np.array([[9.0, 0.0], [4.0, 8.0]]),
    "narrow": np.array([[24.0, 0.0], [0.0, 2.5]]),
    "cube": np.eye(3) * 5.0,
    "triclinic": np.array([[5.0, 0.0, 0.0], [2.0, 5.0, 0.0], [-1.0, 1.5, 6.0]]),
    "channel": (np.array([[9.0, 0.0], [0.0, 0.0]]), (True, False), 8.0),
    "narrow channel": (np.array([[0.0, 1.0], [0.5, 2.7]]), (False, True), 30.0),
    "flat channel": (np.array([[30.0, 2.0], [1.0, 1.0]]), (True, False), 0.0),
    "slab": (np.array([[5.0, 0.0, 0.0], [2.0, 5.0, 0.0], [0.0, 0.0, 1.0]]), (True, True, False), 6.0),
    "oblique slab": (np.array([[5.0, 1.0, 0.5], [1e9, 0.0, np.nan], [-1.0, 1.5, 6.0]]), (True, False, True), 5.0),
    "flat slab": (np.array([[0.0, 0.0, 0.0], [9.0, 1.0, 0.0], [0.0, 3.0, 8.0]]), (False, True, True), 0.0),
    "tube": (np.array([[2.0, 1.0, 6.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), (True, False, False), 5.0),
    "line": (np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 60.0]]), (False, False, True), 0.0),
    "open 2D": None,
    "open 3D": None,
}


@pytest.fixture(params=["by cells", "by comparing all"])
def kernel(request, monkeypatch):
    """Both ways in which a list is made, whatever the number of particles."""
    monkeypatch.setattr(lists, "COMPARE_ALL_UP_TO", 0 if request.param == "by cells" else 10_000)
    return request.param


"""Boxes; where they are periodic along some directions only, with these, and how far particles extend along the others.
"""


def sample(name, n, rng, sizes=(1.0, 0.6)):
    cell, periodic, extent = CELLS[name] if isinstance(CELLS[name], tuple) else (CELLS[name], None, 0.0)
    d = int(name[-2]) if cell is None else len(cell)
    scale = 8.0 * np.eye(d) if cell is None else cell
    if periodic is not None:
        along = np.linalg.svd(cell[list(periodic)])[2][sum(periodic) :]  # normal to the lattice vectors
        scale = np.concatenate([cell[list(periodic)], extent * along])
    points = rng.uniform(-0.5, 1.5, size=(n, d)) @ scale
    return mdsens.System(points, cell, rng.choice(sizes, size=n), periodic=periodic)


@pytest.mark.parametrize("name", CELLS)
def test_the_list_holds_exactly_the_pairs_within_cutoff_and_skin(name, kernel):
    system = sample(name, 120, np.random.default_rng(0))
    finder = NeighborList(skin=0.1, pairs_per_particle=60, per_row=120)
    neighbors = built(finder, mdsens.SoftSphere(), system)
    assert not bool(neighbors.overflow)
    d = np.asarray(system.diameters)
    assert listed(neighbors) == pairs_within(system, lambda i, j: 0.5 * (d[i] + d[j]) + 0.1 * d.max())


@pytest.mark.parametrize("name", ["oblique", "triclinic"])
def test_the_list_of_a_strongly_polydisperse_mixture_is_exact(name):
    """Diameters of 1 : 10: hundreds of small particles share a row with a few large ones."""
    system = sample(name, 600, np.random.default_rng(2), (2.0, 0.3, 0.2, 0.2, 0.2))
    finder = NeighborList(skin=0.05, pairs_per_particle=40, per_row=400)
    neighbors = built(finder, mdsens.SoftSphere(), system)
    assert not bool(neighbors.overflow) and int(neighbors.longest_row) > 64
    d = np.asarray(system.diameters)
    assert listed(neighbors) == pairs_within(system, lambda i, j: 0.5 * (d[i] + d[j]) + 0.05 * d.max())
    assert int(neighbors.found) == len(listed(neighbors)), "each pair once"


def test_a_list_filled_to_its_last_slot_is_complete_and_one_slot_less_overflows(kernel):
    system = sample("square", 120, np.random.default_rng(0))
    ample = built(NeighborList(skin=0.1, pairs_per_particle=30, per_row=60), mdsens.SoftSphere(), system)
    for spare in (0, -1):
        finder = NeighborList(skin=0.1, pairs_per_particle=(int(ample.found) + spare) / 120 - 1e-9, per_row=60)
        neighbors = built(finder, mdsens.SoftSphere(), system)
        assert bool(neighbors.overflow) is (spare < 0)
        assert (listed(neighbors) == listed(ample)) is (spare == 0)
    if kernel == "by comparing all":
        return  # there are no rows
    short = NeighborList(skin=0.1, pairs_per_particle=30, per_row=int(ample.longest_row))
    assert listed(built(short, mdsens.SoftSphere(), system)) == listed(ample)
    short = dataclasses.replace(short, per_row=int(ample.longest_row) - 1)
    assert bool(built(short, mdsens.SoftSphere(), system).overflow)


def test_the_lists_of_an_ensemble_are_those_of_its_members(kernel):
    systems = [sample("oblique", 60, np.random.default_rng(seed)) for seed in range(3)]
    finder = NeighborList(skin=0.1, pairs_per_particle=30, per_row=60)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *systems)
    together = jax.jit(jax.vmap(lambda system: finder.build(mdsens.SoftSphere(), system)))(batch)
    one = jax.jit(lambda system: finder.build(mdsens.SoftSphere(), system))
    for k, system in enumerate(systems):
        member = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert listed(member) == listed(one(system))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(CELLS)), small=st.floats(0.2, 1.0))
def test_energy_by_list_is_energy_by_all_pairs(seed, name, small):
    system = sample(name, 60, np.random.default_rng(seed), (1.0, small))
    potential = mdsens.SoftSphere()
    finders = AllPairs(), NeighborList(pairs_per_particle=60, per_row=100)
    by_all, by_list = (float(energy_of(finder, potential, system)) for finder in finders)
    assert by_all == pytest.approx(by_list, rel=1e-12)
    assert by_all == pytest.approx(float(energy_by_cells(finders[1], potential, system)), rel=1e-12)


@eqx.filter_jit
def energy_of(finder, potential, system):
    neighbors = finder.build(potential, system)
    return jnp.where(neighbors.overflow, jnp.nan, potential.energy(system, neighbors))


@eqx.filter_jit
def energy_by_cells(finder, potential, system):
    with pytest.MonkeyPatch.context() as patch:  # while it is traced
        patch.setattr(lists, "COMPARE_ALL_UP_TO", 0)
        neighbors = finder.build(potential, system)
    return jnp.where(neighbors.overflow, jnp.nan, potential.energy(system, neighbors))


def test_a_list_is_valid_until_a_particle_has_moved_half_the_skin():
    system = sample("square", 50, np.random.default_rng(1))
    neighbors = NeighborList(skin=0.2, per_row=20).build(mdsens.SoftSphere(), system)
    step = 0.5 * 0.2 * float(jnp.max(system.diameters))
    assert not bool(neighbors.out_of_date(system.positions.at[7, 1].add(0.99 * step)))
    assert bool(neighbors.out_of_date(system.positions.at[7, 1].add(1.01 * step)))


def test_the_cell_must_be_twice_the_cutoff():
    system = mdsens.System(np.zeros((1, 2)), [[3.0, 0.0], [1.0, 2.0]], 1.0)
    assert bool(AllPairs().fits(mdsens.SoftSphere(), system))
    assert not bool(NeighborList(skin=0.1).fits(mdsens.SoftSphere(), system))
    assert not bool(AllPairs().fits(mdsens.LennardJones(), system))


def test_no_pair_is_missed_in_a_cell_too_narrow_for_the_skin():
    """Three particles in a skewed cell whose nearest images the rounding of fractions does not find."""
    system = mdsens.System([[0.0, 0.0], [0.0, 1.02], [0.0, -0.93]], [[2.6, 0.0], [1.3, 2.02]], 1.0)
    by_list, by_all = (
        mdsens.Relaxation(tolerance=1e-11, neighbors=finder)(mdsens.SoftSphere(), system)
        for finder in (NeighborList(), AllPairs())
    )
    np.testing.assert_allclose(by_list.positions, by_all.positions, atol=1e-9)
    inside = jax.jit(mdsens.Relaxation(neighbors=NeighborList()))(mdsens.SoftSphere(), system)
    assert not bool(inside.converged)


def test_a_particle_far_away_from_all_others():
    grid = np.stack(np.meshgrid(np.arange(16.0), np.arange(16.0)), -1).reshape(-1, 2) * 2
    rest = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.System(np.concatenate([grid, [[1e6, 0.0]]]), None, 1.0))
    assert float(rest.energy) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("potential", "edge", "dim"),
    [(mdsens.SoftSphere(alpha=2.5), 1.05, 3), (mdsens.LennardJones(), 2.4, 2)],
)
def test_a_cell_one_cutoff_wide_is_the_same_as_the_cell_repeated(potential, edge, dim):
    """Energy, forces and the response to the diameters of two particles that interact with their own images."""
    x = np.random.default_rng(dim).uniform(size=(2, dim)) * edge
    cell = edge * (np.eye(dim) + 0.1 * np.eye(dim, k=-1))
    small = mdsens.System(x, cell, [1.0, 0.8], [0, 1])
    repeats = 5 if isinstance(potential, mdsens.LennardJones) else 3
    shifts = np.array(list(itertools.product(range(repeats), repeat=dim))) @ cell

    def repeated(positions):
        images = (shifts[:, None] + np.asarray(positions)).reshape(-1, dim)
        return mdsens.System(images, repeats * cell, np.tile([1.0, 0.8], len(shifts)), np.tile([0, 1], len(shifts)))

    with_images = AllPairs(images=True)
    assert bool(with_images.fits(potential, small)) and not bool(AllPairs().fits(potential, small))
    one, many = (
        float(energy_of(*pair)) for pair in ((with_images, potential, small), (AllPairs(), potential, repeated(x)))
    )
    assert many == pytest.approx(len(shifts) * one, rel=1e-12)
    rest = mdsens.Relaxation(tolerance=1e-11, throw=False)(potential, small)
    assert rest.pair_finder == with_images and bool(rest.converged)
    large = mdsens.Relaxation(tolerance=1e-10, escape=False, throw=False)(potential, repeated(rest.positions))
    assert int(large.steps) == 0, "the forces are the same"
    if rest.certificate.rattlers or large.certificate.floppy:
        return  # the response of what is not constrained is a matter of convention
    name = "species-diameter:1"
    moved = mdsens.sensitivity(large, name).response.reshape(len(shifts), 2, dim)
    expected = np.broadcast_to(mdsens.sensitivity(rest, name).response, moved.shape)
    np.testing.assert_allclose(moved, expected, atol=1e-7)


def test_a_neighbor_list_for_a_potential_of_pairs_and_angles():
    crystal, potential = silicon(3), mdsens.StillingerWeber()
    shaken = crystal.replace(positions=crystal.positions + 0.2 * jnp.sin(jnp.arange(648.0)).reshape(216, 3))
    finder = automatic(potential, shaken)
    by_list, by_all = allocate(finder, potential, shaken), AllPairs().build(potential, shaken)
    assert isinstance(finder, NeighborList) and by_list.i.size < 0.3 * by_all.i.size
    (energy, gradient), (expected, by_all_pairs) = (
        energy_and_gradient(mdsens.Configuration(potential, shaken, pairs)) for pairs in (by_list, by_all)
    )
    np.testing.assert_allclose(gradient, by_all_pairs, atol=1e-12)
    assert float(energy) == pytest.approx(float(expected), rel=1e-14)
