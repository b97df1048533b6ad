"""Pairs with images in thin cells, by a list of the cell repeated, against a sum over images in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import energy_and_gradient
from mdsens.neighbors import AllPairs, NeighborList, allocate
from mdsens.neighbors.repeated import repeats


def thin(n, dim, heights, seed=0, skew=0.2):
    """Particles anywhere, also outside an oblique cell of so many cutoffs along each direction."""
    rng = np.random.default_rng(seed)
    box = np.diag(np.array(heights, float)) + skew * np.tril(rng.uniform(-1.0, 1.0, (dim, dim)), -1)
    return mdsens.System(rng.uniform(-1.5, 1.5, (n, dim)) @ box, box, rng.uniform(0.8, 1.0, n))


class Smooth(mdsens.PairPotential):
    """An energy of a longer range than the particles' diameters, that vanishes smoothly."""

    epsilon: jax.Array

    def pair_energy(self, r, sigma):
        return self.epsilon * (1.0 - r / (2.0 * sigma)) ** 4

    def cutoff(self, sigma):
        return 2.0 * sigma


def energy_over_images(system):
    """The sum over all pairs and images in NumPy, of a function of positions and cell that JAX can differentiate."""
    x, box, sizes = (jnp.asarray(a) for a in (system.positions, system.box, system.diameters))
    reach = 2.0 * float(sizes.max())
    most = [int(np.ceil(reach / h)) + 4 for h in np.asarray(system.heights)]
    images = np.array(list(itertools.product(*(range(-m, m + 1) for m in most))))
    i, j = (k.ravel() for k in np.indices((system.n, system.n)))
    sigma = 0.5 * (sizes[i] + sizes[j])

    def energy(x, box):
        apart = (x[j] - x[i])[:, None] + images @ box
        squared = jnp.sum(apart**2, axis=-1)
        itself = (i == j)[:, None] & ~images.any(axis=1)
        near = ~itself & (squared < (2.0 * sigma[:, None]) ** 2)
        r = jnp.sqrt(jnp.where(near, squared, 1.0))
        return 0.5 * jnp.sum(jnp.where(near, (1.0 - r / (2.0 * sigma[:, None])) ** 4, 0.0))

    return energy, x, box


@pytest.mark.parametrize(
    ("n", "heights"),
    [
        (40, (5.2, 1.1)),
        (40, (1.5, 6.0)),
        (50, (0.9, 1.2)),
        (60, (4.4, 4.4, 1.3)),
        (40, (1.4, 3.0, 1.6)),
        (3, (0.7, 0.5)),
    ],
)
def test_energy_and_forces_are_those_of_a_sum_over_all_images(n, heights):
    system = thin(n, len(heights), heights)
    neighbors = allocate(NeighborList(), Smooth(1.0), system)
    assert neighbors.finder.repeat is not None and not bool(neighbors.overflow)
    energy, x, box = energy_over_images(system)
    expected, expected_gradient = jax.jit(jax.value_and_grad(energy))(x, box)
    found, gradient = energy_and_gradient(mdsens.Configuration(Smooth(1.0), system, neighbors))
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12)


def test_images_stay_those_that_were_meant_while_particles_move():
    """Within half the skin of the list, though another image becomes the nearest on the way."""
    system = thin(40, 2, (5.2, 1.1))
    neighbors = allocate(NeighborList(skin=0.5), Smooth(1.0), system)
    energy, x, box = energy_over_images(system)
    away = 0.2 * np.random.default_rng(1).uniform(-1.0, 1.0, x.shape)
    moved = system.replace(positions=x + away)
    assert not bool(neighbors.out_of_date(moved.positions))
    assert float(Smooth(1.0).energy(moved, neighbors)) == pytest.approx(float(energy(x + away, box)), rel=1e-12)


def test_derivatives_in_a_thin_cell_are_those_in_the_cell_repeated():
    """Every copy moves alike as all diameters, or the cell, change alike."""
    system = thin(40, 2, (6.0, 1.3), skew=0.0).replace(species=np.arange(40) % 2)
    relax, repeated = mdsens.Relaxation(tolerance=1e-12), system.repeat(1, 4)
    rest = relax(Smooth(1.0), system)
    assert rest.neighbors.shift is not None
    copies = jnp.concatenate([rest.positions + k * system.box[1] for k in range(4)])
    wide = relax(Smooth(1.0), repeated.replace(positions=copies))
    assert float(wide.energy) == pytest.approx(4.0 * float(rest.energy), rel=1e-10)
    for wrt in ("species-diameter:1", "epsilon"):
        small, large = (mdsens.sensitivity(each, wrt).response for each in (rest, wide))
        np.testing.assert_allclose(large.reshape(4, 40, 2), np.broadcast_to(small, (4, 40, 2)), atol=1e-8)
    moduli = [float(mdsens.properties.bulk_modulus(each)) for each in (rest, wide)]
    assert moduli[0] == pytest.approx(moduli[1], rel=1e-8)


def test_a_frozen_list_with_images_does_not_follow_the_nearest_image():
    """At a distance of just half the cell rounding decides which image is the nearest."""
    system = mdsens.System([[0.0, 0.0], [0.75, 0.1]], 1.5)
    rest = mdsens.at_rest(Smooth(1.0), system, throw=False)
    assert rest.neighbors.finder == AllPairs(images=True)
    for side in (-1e-7, 1e-7):
        moved = system.replace(positions=system.positions + np.array([[0.0, 0.0], [side, 0.0]]))
        energy, x, box = energy_over_images(moved)
        assert float(Smooth(1.0).energy(moved, rest.neighbors)) == pytest.approx(float(energy(x, box)), rel=1e-12)


def test_memory_grows_as_the_number_of_particles_in_a_thin_cell():
    slots = []
    for length in (8.0, 32.0):
        system = thin(int(5 * length), 3, (length, 1.4, 1.4), skew=0.0)
        slots.append(allocate(NeighborList(), Smooth(1.0), system).i.size / system.n)
    assert slots[1] < 1.3 * slots[0]


def test_how_often_a_cell_is_repeated():
    assert repeats(np.array([5.0, 2.5, 1.0]), 2.5) == (1, 1, 3)
