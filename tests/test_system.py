import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.geometry import minimum_image, reciprocal

TRICLINIC = np.array([[4.0, 0.0, 0.0], [1.3, 3.5, 0.0], [-0.7, 0.9, 5.0]])


def test_a_box_may_be_given_as_a_length_lengths_or_a_matrix():
    x = np.zeros((2, 3))
    for box in (2.0, [2.0, 2.0, 2.0], 2.0 * np.eye(3)):
        np.testing.assert_array_equal(mdsens.System(x, box).box, 2.0 * np.eye(3))
    assert mdsens.System(x).box is None


def test_the_inverse_in_closed_form_is_the_inverse():
    for box in (TRICLINIC, TRICLINIC[:2, :2]):
        np.testing.assert_allclose(reciprocal(jnp.asarray(box)) @ box, np.eye(len(box)), atol=1e-14)


def test_minimum_image_is_the_nearest_of_all_images_within_half_the_smallest_height():
    rng = np.random.default_rng(0)
    system = mdsens.System(np.zeros((1, 3)), TRICLINIC)
    reach = 0.5 * float(jnp.min(system.heights))
    images = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3) @ TRICLINIC
    found = 0
    for separation in rng.uniform(-6, 6, size=(300, 3)):
        nearest = min(separation + images, key=np.linalg.norm)
        if np.linalg.norm(nearest) < reach:
            found += 1
            np.testing.assert_allclose(minimum_image(jnp.asarray(separation), system.box), nearest, atol=1e-12)
    assert found > 50


def test_deform_carries_the_particles_along():
    system = mdsens.random_packing(16, 3, seed=1)
    larger = system.deform(2.0 * system.box)
    np.testing.assert_allclose(larger.positions, 2.0 * system.positions)
    np.testing.assert_allclose(larger.packing_fraction, system.packing_fraction / 8)


def test_replace_changes_only_the_given_fields():
    system = mdsens.random_packing(8)
    moved = system.replace(positions=system.positions + 1.0)
    assert moved.diameters is not None
    np.testing.assert_array_equal(moved.diameters, system.diameters)
    with pytest.raises(mdsens.InvalidInput, match="no radius"):
        system.replace(radius=1.0)


def test_a_system_is_a_pytree_under_every_transformation():
    system = mdsens.random_packing(8)
    moved = jax.jit(lambda s: s.replace(positions=2.0 * s.positions))(system)
    np.testing.assert_array_equal(moved.positions, 2.0 * system.positions)
    batch = jax.vmap(lambda scale: system.replace(diameters=scale * system.diameters))(jnp.arange(1.0, 4.0))
    assert batch.diameters.shape == (3, 8)


def test_single_precision_stays_single_and_integers_become_floats():
    assert mdsens.System(np.zeros((2, 2), np.float32), 1.0, np.ones(2, np.float32)).diameters.dtype == jnp.float32
    assert mdsens.System([[0, 0], [1, 1]], 2, 1).positions.dtype == jnp.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": np.zeros((3, 4))}, "positions must have shape"),
        ({"positions": np.zeros((0, 2))}, "positions must have shape"),
        ({"positions": np.zeros((3, 2)), "diameters": [1.0, 1.0]}, "one per particle"),
        ({"positions": np.zeros((3, 2)), "species": [0.5, 1.0, 2.0]}, "integers"),
        ({"positions": np.zeros((3, 2)), "box": np.eye(3)}, "box must be"),
    ],
)
def test_inconsistent_shapes_are_refused(arguments, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.System(**arguments)


def test_a_field_of_a_batch_can_be_replaced():
    batch = jax.tree.map(lambda *a: jnp.stack(a), *(mdsens.random_packing(n=8, seed=seed) for seed in (0, 1)))
    grown = batch.replace(diameters=2.0 * batch.diameters)
    np.testing.assert_array_equal(grown.diameters, 2.0 * batch.diameters)
    np.testing.assert_array_equal(grown.positions, batch.positions)


def test_a_cell_repeated_has_the_same_energy_for_each_copy():
    system = mdsens.random_packing(16, packing_fraction=0.95, seed=3)
    system = system.deform(system.box @ jnp.array([[1.0, 0.1], [0.0, 1.0]]))
    large = system.repeat(3, 2)

    def energy(system):
        pairs = mdsens.AllPairs().build(mdsens.SoftSphere(), system)
        return float(mdsens.SoftSphere().energy(system, pairs))

    assert large.n == 96 and float(large.packing_fraction) == pytest.approx(float(system.packing_fraction))
    np.testing.assert_allclose(large.box, np.array([[3], [2]]) * system.box)
    assert energy(system) > 0.0 and energy(large) == pytest.approx(6 * energy(system))
    assert system.repeat(2).n == 64 and np.array_equal(large.species[16:32], system.species)


@pytest.mark.parametrize("times", [(0,), (1, 2, 3), (1.5,), (2, -1)])
def test_a_cell_is_repeated_whole_times(times):
    with pytest.raises(mdsens.InvalidInput, match="positive integer"):
        mdsens.random_packing(4).repeat(*times)


def test_an_open_system_cannot_be_repeated():
    with pytest.raises(mdsens.InvalidInput, match="no cell to repeat"):
        mdsens.System([[0.0, 0.0]]).repeat(2)


def test_a_system_used_as_an_equilibrium_is_refused_with_advice():
    with pytest.raises(AttributeError, match="relax the system first"):
        mdsens.properties.pressure(mdsens.random_packing(4))
