import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.geometry import minimum_image, reciprocal
from mdsens.parameters import parameter_value, with_parameter

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


OBLIQUE_SLAB = mdsens.System(
    np.random.default_rng(0).uniform(-9, 9, (40, 3)),
    TRICLINIC,
    1.0,
    periodic=(True, False, True),
    fixed=np.arange(40) < 3,
)


def test_the_pseudo_inverse_of_lattice_vectors_is_in_closed_form():
    for lattice in (TRICLINIC[:1], TRICLINIC[1:], TRICLINIC[:1, :2], TRICLINIC[1:2] + 0.3):
        np.testing.assert_allclose(reciprocal(jnp.asarray(lattice)), np.linalg.pinv(lattice), atol=1e-14)


def test_images_of_a_slab_are_those_along_its_periodic_vectors():
    lattice = TRICLINIC[[0, 2]]
    heights = 1 / np.linalg.norm(np.linalg.pinv(lattice), axis=0)
    np.testing.assert_allclose(OBLIQUE_SLAB.heights, heights, rtol=1e-13)
    images, found = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 2), -1).reshape(-1, 2) @ lattice, 0
    for separation in np.random.default_rng(1).uniform(-6, 6, size=(300, 3)):
        nearest = min(separation + images, key=np.linalg.norm)
        across = nearest - nearest @ np.linalg.pinv(lattice) @ lattice
        if np.linalg.norm(nearest - across) < 0.5 * heights.min():  # however far apart across the slab
            found += 1
            np.testing.assert_allclose(
                minimum_image(jnp.asarray(separation), OBLIQUE_SLAB.lattice), nearest, atol=1e-12
            )
    assert found > 50
    moved = OBLIQUE_SLAB.wrapped() - OBLIQUE_SLAB.positions
    steps = np.asarray(moved) @ np.linalg.pinv(lattice)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-12)
    np.testing.assert_allclose(moved, np.round(steps) @ lattice, atol=1e-12)
    fractions = np.asarray(OBLIQUE_SLAB.wrapped()) @ np.linalg.pinv(lattice)
    assert fractions.min() > -1e-12 and fractions.max() < 1 + 1e-12 and np.abs(steps).max() >= 2


def test_a_slab_deforms_in_its_plane_and_repeats_along_its_vectors():
    lattice, normal = TRICLINIC[[0, 2]], np.cross(TRICLINIC[0], TRICLINIC[2])
    wider = OBLIQUE_SLAB.deform(OBLIQUE_SLAB.box * jnp.array([[2.0], [7.0], [1.5]]))
    before, after = (np.asarray(each.positions) for each in (OBLIQUE_SLAB, wider))
    np.testing.assert_allclose(after @ normal, before @ normal, rtol=1e-12)
    old, new = before @ np.linalg.pinv(lattice), after @ np.linalg.pinv(lattice * [[2.0], [1.5]])
    np.testing.assert_allclose(new, old, atol=1e-12)
    large = OBLIQUE_SLAB.repeat(2)
    assert large.n == 160 and large.periodic == (True, False, True) and large.fixed.sum() == 12
    np.testing.assert_allclose(large.box, TRICLINIC * [[2.0], [1.0], [2.0]])
    np.testing.assert_array_equal(large.positions, OBLIQUE_SLAB.repeat(2, 1, 2).positions)
    with pytest.raises(mdsens.InvalidInput, match="along its periodic vectors"):
        OBLIQUE_SLAB.repeat(1, 2, 1)


@pytest.mark.parametrize(
    "periodic", [(True, False, True), (False, False, True), (True, True, False), (False, True, False)]
)
def test_a_box_around_a_slab_holds_every_particle_and_is_right_handed(periodic):
    for box in (TRICLINIC, -TRICLINIC, np.roll(TRICLINIC, 1, axis=0)):
        slab = OBLIQUE_SLAB.replace(box=box, periodic=periodic)
        corner, around = (np.asarray(each) for each in slab.enclosing_box(0.5))
        assert np.linalg.det(around) > 0.0
        np.testing.assert_array_equal(around[list(periodic)], slab.lattice)
        for k in np.flatnonzero(~np.array(periodic)):
            np.testing.assert_allclose(np.delete(around, k, axis=0) @ around[k], 0.0, atol=1e-12)
            heights = (np.asarray(slab.positions) - corner) @ around[k] / np.linalg.norm(around[k])
            np.testing.assert_allclose([heights.min(), heights.max()], [0.25, np.linalg.norm(around[k]) - 0.25])


def test_a_system_is_periodic_along_the_vectors_of_its_box_unless_it_is_said_otherwise():
    x = np.zeros((2, 3))
    assert mdsens.System(x).periodic == (False,) * 3 and mdsens.System(x, 2.0).periodic == (True,) * 3
    slab = mdsens.System(x, 2.0, periodic=[True, True, False])
    assert slab.replace(positions=x + 1.0).periodic == slab.repeat(1).periodic == (True, True, False)
    assert (
        slab.replace(box=None).periodic == (False,) * 3
        and slab.replace(box=None).replace(box=3.0).periodic == (True,) * 3
    )
    assert slab.replace(periodic=(False,) * 3).box is None
    batch = jax.tree.map(lambda *a: jnp.stack(a), slab, slab)
    assert batch.replace(box=2.0 * batch.box).lattice.shape == (2, 2, 3)
    with pytest.raises(mdsens.InvalidInput, match="change its members first"):
        batch.replace(periodic=(True, False, False))
    for given in ((True, False), True, (1, 0, 1), "TTF"):
        with pytest.raises(mdsens.InvalidInput, match="for each of 3 lattice vectors"):
            mdsens.System(x, 2.0, periodic=given)
    with pytest.raises(mdsens.InvalidInput, match="give its box"):
        mdsens.System(x, periodic=(True, False, False))


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


def test_a_system_that_is_known_may_be_used_within_a_compiled_function():
    """NumPy computes for known systems, and its numbers must mix with traced ones."""
    system = mdsens.random_packing(32, 2, (1.0, 0.6), 0.98, seed=0).replace(fixed=np.arange(32) < 4)
    wrt, potential = "species-diameter:1", mdsens.SoftSphere()

    @jax.jit
    def measures(one):
        grown = with_parameter(wrt, jnp.asarray(0.65), potential, system)[1]
        moved = system.with_relaxed(one + system.positions)
        moved = moved + one * (system.with_relaxed(system.positions) - system.positions)
        mean = parameter_value(wrt, potential, system)
        return one * system.packing_fraction, one * system.volume, one * mean, grown.diameters, moved

    fraction, volume, mean, diameters, moved = measures(1.0)
    np.testing.assert_allclose([fraction, volume, mean], [0.98, np.linalg.det(system.box), 0.6], rtol=1e-14)
    np.testing.assert_allclose(np.unique(diameters), [0.65, 1.0], rtol=1e-14)
    np.testing.assert_array_equal(moved - system.positions > 0.5, np.arange(32)[:, None] >= np.full((1, 2), 4))


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
