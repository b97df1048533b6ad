import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import neighbors
from mdsens.long_waves import LONG, REACH, amplifier
from mdsens.newton import Newton, finish

SPHERES = mdsens.SoftSphere()
SQUARE = np.eye(2) * 60.0
SKEWED = np.array([[80.0, 0.0], [30.0, 45.0]])


def scattered(box):
    """A square lattice in the cell, so that waves are sums over a mesh, shuffled."""
    fractions = (np.stack(np.meshgrid(*[np.arange(LONG)] * len(box)), axis=-1).reshape(-1, len(box)) + 0.5) / LONG
    np.random.default_rng(0).shuffle(fractions)
    return mdsens.System(positions=fractions @ box, diameters=np.ones(len(fractions)), box=box)


@pytest.mark.parametrize("box", [SQUARE, SKEWED, np.eye(3) * 60.0], ids=["square", "skewed", "cube"])
def test_a_long_wave_is_multiplied_by_what_its_length_says(box):
    system = scattered(box)
    spacing = float((system.volume / system.n) ** (1 / system.dim))
    wave = np.array([0, 1, 0][: system.dim])
    k = 2 * np.pi * np.linalg.inv(box) @ wave
    u = np.cos(np.asarray(system.positions) @ k)[:, None] * np.arange(1.0, system.dim + 1)
    wanted = 1 + (REACH / spacing / np.linalg.norm(k)) ** 2
    share = np.sum(u * np.asarray(amplifier(system)(jnp.asarray(u)))) / np.sum(u**2)
    assert share == pytest.approx(wanted, rel=0.1) and wanted > 5  # cells of the mesh are steps in the wave


def test_it_is_symmetric_positive_and_leaves_the_mean_alone():
    system = scattered(SKEWED)
    amplify = amplifier(system)
    u, v = (jnp.asarray(np.random.default_rng(seed).normal(size=(system.n, 2))) for seed in (1, 2))
    assert float(jnp.sum(u * amplify(v))) == pytest.approx(float(jnp.sum(v * amplify(u))), rel=1e-4)
    assert float(jnp.sum(u * amplify(u))) > float(jnp.sum(u * u))
    np.testing.assert_allclose(jnp.mean(amplify(u), axis=0), jnp.mean(u, axis=0), atol=1e-7)


@pytest.mark.parametrize("length", [2.0**-150, 1.0, 2.0**150])
def test_units_in_which_single_precision_ends_are_not_felt(length):
    system = scattered(SQUARE)
    system = system.replace(positions=system.positions * length, box=system.box * length)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(system.n, 2)))
    once = amplifier(scattered(SQUARE))(u)
    for unit in (2.0**-200, 2.0**200):
        np.testing.assert_allclose(amplifier(system)(u * unit) / unit, once, rtol=1e-6)
    none, moved = jax.jvp(amplifier(system), (jnp.zeros_like(u),), (u,))
    assert not np.any(none)
    np.testing.assert_allclose(moved, once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "system",
    [mdsens.random_packing(100), mdsens.System(positions=np.random.default_rng(0).normal(size=(LONG**2, 2)))],
    ids=["few", "open boundaries"],
)
def test_few_particles_and_open_boundaries_have_none(system):
    assert amplifier(system)(system.positions) is system.positions


def shaken(amplitude):
    """A hexagonal crystal of disks with every particle pushed, so that there are waves of all lengths."""
    columns, rows = 64, 74
    x = np.array([[i + 0.5 * (j % 2), j * 3**0.5 / 2] for j in range(rows) for i in range(columns)])
    box = np.diag([columns * 1.0, rows * 3**0.5 / 2])
    push = amplitude * np.random.default_rng(0).normal(size=x.shape)
    at_rest = x + push.mean(axis=0)
    return mdsens.System(positions=x + push, diameters=np.full(len(x), 1.1), box=box), at_rest


def test_a_crystal_comes_to_rest_in_half_the_steps():
    start, at_rest = shaken(1e-2)
    steps = []
    for long_waves in (True, False):
        relax = mdsens.Relaxation(mdsens.FIRE(long_waves=long_waves), newton=None, tolerance=1e-9)
        rest = relax(SPHERES, start)
        np.testing.assert_allclose(rest.positions, at_rest, atol=1e-6)
        steps.append(int(rest.steps))
    assert steps[0] < 0.55 * steps[1], steps


def test_newtons_steps_take_a_third_of_the_products():
    start, at_rest = shaken(1e-3)
    potential = SPHERES.in_precision_of(start)
    list_ = neighbors.sized(neighbors.automatic(SPHERES, start), potential, start)
    limits = [jnp.asarray(value) for value in (1.0, 1e-13, 0.07)]
    products = []
    for long_waves in (True, False):
        end = finish(Newton(long_waves=long_waves), potential, start, list_, *limits)
        assert float(end.max_force) < 1e-13
        moved = end.positions - at_rest
        np.testing.assert_allclose(moved - moved.mean(axis=0), 0.0, atol=1e-9)
        products.append(int(end.products))
    assert products[0] < products[1] / 3, products
