import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsens
from conftest import jammed, settled, silicon
from mdsens import neighbors as neighbors_module
from mdsens.hessian import gradient
from mdsens.neighbors import AllPairs, NeighborList, automatic

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
    "open 2D": None,
    "open 3D": None,
}


def sample(name, n, rng, sizes=(1.0, 0.6)):
    cell = CELLS[name]
    d = int(name[-2]) if cell is None else len(cell)
    scale = 8.0 * np.eye(d) if cell is None else cell
    points = rng.uniform(-0.5, 1.5, size=(n, d)) @ scale
    return mdsens.System(points, cell, rng.choice(sizes, size=n))


def listed(neighbors):
    valid = np.asarray(neighbors.valid)
    return set(zip(np.asarray(neighbors.i)[valid].tolist(), np.asarray(neighbors.j)[valid].tolist(), strict=True))


def close_pairs(system, reach_of):
    """Brute force over all pairs and all images nearby."""
    x = np.asarray(system.positions)
    i, j = np.triu_indices(system.n, 1)
    separation = x[j] - x[i]
    if system.box is not None:
        box = np.asarray(system.box)
        separation -= np.round(separation @ np.linalg.inv(box)) @ box
        shifts = np.stack(np.meshgrid(*[np.arange(-1, 2)] * system.dim), -1).reshape(-1, system.dim) @ box
    else:
        shifts = np.zeros((1, system.dim))
    distance = np.linalg.norm(separation[:, None] + shifts, axis=-1).min(axis=1)
    near = distance < reach_of(i, j)
    return set(zip(i[near].tolist(), j[near].tolist(), strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_the_list_holds_exactly_the_pairs_within_cutoff_and_skin(name):
    system = sample(name, 120, np.random.default_rng(0))
    kind = NeighborList(skin=0.1, pairs_per_particle=60, per_row=120)
    neighbors = kind.build(mdsens.SoftSphere(), system)
    assert not bool(neighbors.overflow)
    d = np.asarray(system.diameters)
    assert listed(neighbors) == close_pairs(system, lambda i, j: 0.5 * (d[i] + d[j]) + 0.1 * d.max())


@pytest.mark.parametrize("name", ["oblique", "triclinic"])
def test_strongly_polydisperse_mixtures_lose_no_pair_and_take_none_too_many(name):
    """1 : 10, so that hundreds of small ones share a row with a few large ones."""
    system = sample(name, 600, np.random.default_rng(2), (2.0, 0.3, 0.2, 0.2, 0.2))
    neighbors = NeighborList(skin=0.05, pairs_per_particle=40, per_row=400).build(mdsens.SoftSphere(), system)
    assert not bool(neighbors.overflow) and int(neighbors.longest_row) > 64
    d = np.asarray(system.diameters)
    assert listed(neighbors) == close_pairs(system, lambda i, j: 0.5 * (d[i] + d[j]) + 0.05 * d.max())
    assert int(neighbors.found) == len(listed(neighbors)), "each pair once"


def test_a_list_that_is_full_to_the_last_place_is_whole_and_one_place_less_an_overflow():
    system = sample("square", 120, np.random.default_rng(0))
    roomy = NeighborList(skin=0.1, pairs_per_particle=30, per_row=60).build(mdsens.SoftSphere(), system)
    for spare in (0, -1):
        kind = NeighborList(skin=0.1, pairs_per_particle=(int(roomy.found) + spare) / 120 - 1e-9, per_row=60)
        made = kind.build(mdsens.SoftSphere(), system)
        assert bool(made.overflow) is (spare < 0)
        assert (listed(made) == listed(roomy)) is (spare == 0)
    short = NeighborList(skin=0.1, pairs_per_particle=30, per_row=int(roomy.longest_row))
    assert listed(short.build(mdsens.SoftSphere(), system)) == listed(roomy)
    short = dataclasses.replace(short, per_row=int(roomy.longest_row) - 1)
    assert bool(short.build(mdsens.SoftSphere(), system).overflow)


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.86), (2, 1.1), (3, 0.68)])
def test_the_room_chosen_beforehand_suffices_at_the_start_and_at_rest(dim, packing_fraction):
    system = mdsens.random_packing(1200, dim, packing_fraction=packing_fraction)
    kind = automatic(mdsens.SoftSphere(), system)
    rest = mdsens.Relaxation(tolerance=1e-4, escape=False, throw=False)(mdsens.SoftSphere(), system)
    assert bool(rest.converged) and rest.kind == kind, "it did not have to grow"
    assert int(rest.neighbors.found) > 0.5 * rest.neighbors.i.size, "and is not much too large"


@pytest.mark.parametrize("n", [128, 300])
def test_what_a_response_looks_at_are_the_pairs_near_touching(n):
    rest = jammed(n=n, packing_fraction=0.95)
    few = neighbors_module.near_touching(rest.neighbors, rest.potential, rest.system)
    d = np.asarray(rest.system.diameters)
    assert listed(few) == close_pairs(rest.system, lambda i, j: 1.05 * 0.5 * (d[i] + d[j]))
    assert few.i.size <= 4 * n and not bool(few.overflow)


def test_particles_keep_their_names_though_they_are_put_in_another_order():
    system, order = settled(n=300, packing_fraction=0.95), np.random.default_rng(0).permutation(300)
    relax = mdsens.Relaxation(tolerance=1e-11)
    one, other = (relax(mdsens.SoftSphere(), s) for s in (system, system.in_order(jnp.asarray(order))))
    np.testing.assert_allclose(other.positions, np.asarray(one.positions)[order], atol=1e-8)
    by_place = np.asarray(neighbors_module.by_place(NeighborList(), mdsens.SoftSphere(), system))
    assert sorted(by_place.tolist()) == list(range(300))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(CELLS)), small=st.floats(0.2, 1.0))
def test_energy_by_list_is_energy_by_all_pairs(seed, name, small):
    system = sample(name, 60, np.random.default_rng(seed), (1.0, small))
    potential = mdsens.SoftSphere()
    kind = NeighborList(pairs_per_particle=60, per_row=100)
    energies = [float(energy_of(k, potential, system)) for k in (AllPairs(), kind)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)


@jax.tree_util.Partial
def _energy(kind, potential, system):
    neighbors = kind.build(potential, system)
    return jnp.where(neighbors.overflow, jnp.nan, potential.energy(system, neighbors))


energy_of = jax.jit(_energy.func, static_argnums=0)


def test_a_list_serves_until_a_particle_has_moved_half_the_skin():
    system = sample("square", 50, np.random.default_rng(1))
    neighbors = NeighborList(skin=0.2, per_row=20).build(mdsens.SoftSphere(), system)
    step = 0.5 * 0.2 * float(jnp.max(system.diameters))
    assert not bool(neighbors.stale(system.positions.at[7, 1].add(0.99 * step)))
    assert bool(neighbors.stale(system.positions.at[7, 1].add(1.01 * step)))


def test_an_overflow_is_seen_and_cured_outside_jit():
    system = mdsens.random_packing(300, packing_fraction=0.95)
    tight = NeighborList(pairs_per_particle=0.5, per_row=1)
    assert bool(tight.build(mdsens.SoftSphere(), system).overflow)
    cured = mdsens.Relaxation(tolerance=1e-9, neighbors=tight)(mdsens.SoftSphere(), system)
    all_pairs = mdsens.Relaxation(tolerance=1e-9, neighbors=AllPairs())
    assert bool(cured.converged) and not bool(cured.overflow)
    again = all_pairs(mdsens.SoftSphere(), cured.system)
    assert float(cured.energy) == pytest.approx(float(again.energy), rel=1e-9)
    assert int(again.steps) == 0


def test_an_overflow_inside_jit_is_in_the_result_and_no_number_is():
    system = mdsens.random_packing(300, packing_fraction=0.95)
    relax = mdsens.Relaxation(tolerance=1e-9, neighbors=NeighborList(pairs_per_particle=0.5, per_row=1))
    result = jax.jit(relax)(mdsens.SoftSphere(), system)
    assert bool(result.overflow) and not bool(result.converged)
    assert np.isnan(result.positions).all() and np.isnan(result.energy)
    response = jax.jit(jax.grad(lambda D: relax(mdsens.SoftSphere(), system.replace(diameters=D)).positions[0, 0]))
    slope = jax.jit(jax.grad(lambda D: relax(mdsens.SoftSphere(), system.replace(diameters=D)).energy))
    assert not np.isfinite(response(system.diameters)).any()
    assert not np.isfinite(slope(system.diameters)).any()


def test_a_list_sized_beforehand_works_inside_jit():
    potential, system = mdsens.SoftSphere(), settled(n=300, packing_fraction=0.95)
    relax = mdsens.Relaxation(tolerance=1e-9, neighbors=NeighborList(pairs_per_particle=0.5, per_row=1))
    inside = jax.jit(relax.sized_for(potential, system))(potential, system)
    outside = relax(potential, system)
    assert bool(inside.converged)
    np.testing.assert_allclose(inside.positions, outside.positions, atol=1e-7)


def test_a_loop_over_systems_of_one_shape_compiles_its_list_once(compilations):
    """Down to where each of them wants Newton's steps: one more program, which only the first that does may compile."""
    potential, relax = mdsens.SoftSphere(), mdsens.Relaxation(tolerance=1e-10)
    systems = [mdsens.random_packing(300, packing_fraction=0.95, seed=s) for s in range(4)]
    relax(potential, systems[0])
    with compilations as counted:
        for system in systems[1:]:
            assert bool(relax(potential, system).converged)
    assert counted.names == []


def test_the_cell_must_be_twice_the_cutoff():
    system = mdsens.System(np.zeros((1, 2)), [[3.0, 0.0], [1.0, 2.0]], 1.0)
    assert bool(AllPairs().fits(mdsens.SoftSphere(), system))
    assert not bool(NeighborList(skin=0.1).fits(mdsens.SoftSphere(), system))
    assert not bool(AllPairs().fits(mdsens.LennardJones(), system))


def test_in_a_cell_too_narrow_for_the_skin_no_pair_is_missed():
    """Three particles in a skewed cell whose nearest images the rounding of fractions does not find."""
    system = mdsens.System([[0.0, 0.0], [0.0, 1.02], [0.0, -0.93]], [[2.6, 0.0], [1.3, 2.02]], 1.0)
    by_list, by_all = (
        mdsens.Relaxation(tolerance=1e-11, neighbors=kind)(mdsens.SoftSphere(), system)
        for kind in (NeighborList(), AllPairs())
    )
    np.testing.assert_allclose(by_list.positions, by_all.positions, atol=1e-9)
    inside = jax.jit(mdsens.Relaxation(neighbors=NeighborList()))(mdsens.SoftSphere(), system)
    assert not bool(inside.converged)


def test_a_particle_far_away_from_all_others_is_no_trouble():
    grid = np.stack(np.meshgrid(np.arange(16.0), np.arange(16.0)), -1).reshape(-1, 2) * 2
    rest = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.System(np.concatenate([grid, [[1e6, 0.0]]]), None, 1.0))
    assert float(rest.energy) == 0.0


def test_positions_that_leave_no_digits_end_in_an_error_and_not_in_a_loop():
    with jax.enable_x64(False):
        system = mdsens.random_packing(300)
        away = system.replace(positions=system.positions + 1e6)
        with pytest.raises(mdsens.MdsensError):
            mdsens.Relaxation(tolerance=1e-4)(mdsens.SoftSphere(), away)


@pytest.mark.parametrize("options", [{"skin": -0.3}, {"skin": 0.0}, {"pairs_per_particle": 0.0}, {"per_row": 0}])
def test_lists_without_sense_are_refused(options):
    with pytest.raises(mdsens.InvalidInput):
        NeighborList(**options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("potential", "edge", "dim"),
    [(mdsens.SoftSphere(alpha=2.5), 1.05, 3), (mdsens.LennardJones(), 2.4, 2)],
)
def test_a_cell_one_cutoff_wide_is_the_same_as_the_cell_repeated(potential, edge, dim):
    """Energy, forces and the response to the diameters, of two particles that meet their own images."""
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
    one, many = (float(energy_of(kind, potential, s)) for kind, s in ((with_images, small), (AllPairs(), repeated(x))))
    assert many == pytest.approx(len(shifts) * one, rel=1e-12)
    rest = mdsens.Relaxation(tolerance=1e-11, throw=False)(potential, small)
    assert rest.kind == with_images and bool(rest.converged)
    large = mdsens.Relaxation(tolerance=1e-10, escape=False, throw=False)(potential, repeated(rest.positions))
    assert int(large.steps) == 0, "the forces are the same"
    if rest.certificate.rattlers or large.certificate.floppy:
        return  # nothing, or not everything, is held: the response is a matter of convention
    name = "species-diameter:1"
    moved = mdsens.sensitivity(large, name).response.reshape(len(shifts), 2, dim)
    expected = np.broadcast_to(mdsens.sensitivity(rest, name).response, moved.shape)
    np.testing.assert_allclose(moved, expected, atol=1e-7)


def test_a_potential_of_pairs_and_angles_has_a_list_too():
    crystal, potential = silicon(3), mdsens.StillingerWeber()
    shaken = crystal.replace(positions=crystal.positions + 0.2 * jnp.sin(jnp.arange(648.0)).reshape(216, 3))
    kind = automatic(potential, shaken)
    listed, every = neighbors_module.sized(kind, potential, shaken), mdsens.AllPairs().build(potential, shaken)
    assert isinstance(kind, mdsens.NeighborList) and listed.i.size < 0.3 * every.i.size
    np.testing.assert_allclose(gradient(potential, shaken, listed), gradient(potential, shaken, every), atol=1e-12)
    assert float(potential.energy(shaken, listed)) == pytest.approx(float(potential.energy(shaken, every)), rel=1e-14)
