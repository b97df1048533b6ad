import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import neighbors
from mdsens.landscape.configuration import Configuration
from mdsens.linear_solvers.fourier_preconditioner import DOUBLING_WAVE_NUMBER, LEAST_LENGTH, fourier_preconditioner
from mdsens.minimizers.newton import Newton, newton_descent

SPHERES = mdsens.SoftSphere()
SQUARE = np.eye(2) * 60.0
SKEWED = np.array([[80.0, 0.0], [30.0, 45.0]])


def scattered(box):
    """A lattice of particles in the cell, shuffled, so that sums over particles are sums over a mesh."""
    fractions = (
        np.stack(np.meshgrid(*[np.arange(LEAST_LENGTH)] * len(box)), axis=-1).reshape(-1, len(box)) + 0.5
    ) / LEAST_LENGTH
    np.random.default_rng(0).shuffle(fractions)
    return mdsens.System(positions=fractions @ box, diameters=np.ones(len(fractions)), box=box)


@pytest.mark.parametrize("box", [SQUARE, SKEWED, np.eye(3) * 60.0], ids=["square", "skewed", "cube"])
def test_a_long_wave_is_multiplied_according_to_its_length(box):
    system = scattered(box)
    spacing = float((system.volume / system.n) ** (1 / system.dim))
    wave = np.array([0, 1, 0][: system.dim])
    k = 2 * np.pi * np.linalg.inv(box) @ wave
    u = np.cos(np.asarray(system.positions) @ k)[:, None] * np.arange(1.0, system.dim + 1)
    wanted = 1 + (DOUBLING_WAVE_NUMBER / spacing / np.linalg.norm(k)) ** 2
    share = np.sum(u * np.asarray(fourier_preconditioner(system)(jnp.asarray(u)))) / np.sum(u**2)
    assert share == pytest.approx(wanted, rel=0.1) and wanted > 5  # cells of the mesh are steps in the wave


def test_it_is_symmetric_positive_and_leaves_the_mean_alone():
    system = scattered(SKEWED)
    precondition = fourier_preconditioner(system)
    u, v = (jnp.asarray(np.random.default_rng(seed).normal(size=(system.n, 2))) for seed in (1, 2))
    assert float(jnp.sum(u * precondition(v))) == pytest.approx(float(jnp.sum(v * precondition(u))), rel=1e-4)
    assert float(jnp.sum(u * precondition(u))) > float(jnp.sum(u * u))
    np.testing.assert_allclose(jnp.mean(precondition(u), axis=0), jnp.mean(u, axis=0), atol=1e-7)


@pytest.mark.parametrize("length", [2.0**-150, 1.0, 2.0**150])
def test_units_beyond_single_precision_do_not_matter(length):
    system = scattered(SQUARE)
    system = system.replace(positions=system.positions * length, box=system.box * length)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(system.n, 2)))
    once = fourier_preconditioner(scattered(SQUARE))(u)
    for unit in (2.0**-200, 2.0**200):
        np.testing.assert_allclose(fourier_preconditioner(system)(u * unit) / unit, once, rtol=1e-6)
    none, moved = jax.jvp(fourier_preconditioner(system), (jnp.zeros_like(u),), (u,))
    assert not np.any(none)
    np.testing.assert_allclose(moved, once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "system",
    [mdsens.random_packing(100), mdsens.System(positions=np.random.default_rng(0).normal(size=(LEAST_LENGTH**2, 2)))],
    ids=["few", "open boundaries"],
)
def test_few_particles_and_open_boundaries_are_not_preconditioned(system):
    assert fourier_preconditioner(system)(system.positions) is system.positions


def shaken(amplitude):
    """A hexagonal crystal of disks with every particle displaced at random, by waves of all lengths; and its sites."""
    columns, rows = 64, 74
    x = np.array([[i + 0.5 * (j % 2), j * 3**0.5 / 2] for j in range(rows) for i in range(columns)])
    box = np.diag([columns * 1.0, rows * 3**0.5 / 2])
    push = amplitude * np.random.default_rng(0).normal(size=x.shape)
    at_rest = x + push.mean(axis=0)
    return mdsens.System(positions=x + push, diameters=np.full(len(x), 1.1), box=box), at_rest


def test_a_preconditioned_crystal_comes_to_rest_in_half_the_steps():
    start, at_rest = shaken(1e-2)
    steps = []
    for precondition in (True, False):
        relax = mdsens.Relaxation(mdsens.FIRE(precondition=precondition), newton=None, tolerance=1e-9)
        rest = relax(SPHERES, start)
        np.testing.assert_allclose(rest.positions, at_rest, atol=1e-6)
        steps.append(int(rest.steps))
    assert steps[0] < 0.55 * steps[1], steps


def test_preconditioned_newton_steps_take_a_third_of_the_products():
    start, at_rest = shaken(1e-3)
    potential = SPHERES.prepared_for(start)
    pairs = neighbors.allocate(neighbors.automatic(SPHERES, start), potential, start)
    here, limits = Configuration(potential, start, pairs), (jnp.asarray(1e-13), jnp.asarray(0.07))
    products = []
    for precondition in (True, False):
        end = newton_descent(Newton(precondition=precondition), here, here.gradient(), *limits)
        assert float(end.max_force) < 1e-13
        moved = end.positions - at_rest
        np.testing.assert_allclose(moved - moved.mean(axis=0), 0.0, atol=1e-9)
        products.append(int(end.products))
    assert products[0] < products[1] / 3, products
