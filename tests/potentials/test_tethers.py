"""Tethers: springs to points in space, to the nearest image of these in a periodic cell."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import TRICLINIC, check_derivatives, nearest

RNG = np.random.default_rng(7)
CORNERS = mdsens.System([[0.0, 0.0], [1.0, 0.2], [0.3, 1.0]])


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "triclinic"])
def test_energy_forces_and_hessian_are_those_of_springs_to_points(dim, periodic):
    box = TRICLINIC[dim] if periodic else None
    anchors = RNG.uniform(0.0, 1.0, (5, dim)) @ TRICLINIC[dim]
    shifts = RNG.integers(-2, 3, (5, dim)) @ TRICLINIC[dim] * periodic
    system = mdsens.System(anchors + RNG.uniform(-0.5, 0.5, (5, dim)) + shifts, box)
    stiffness = RNG.uniform(0.5, 2.0, 5)

    def energy(x):
        away = nearest(x - anchors, None if box is None else 2 * box)  # two cells wide, then one
        return jnp.sum(0.5 * stiffness * jnp.sum(nearest(away, box) ** 2, axis=1))

    check_derivatives(mdsens.Tethers(anchors, stiffness), system, energy)


def test_some_particles_are_tied():
    anchors = np.array([[0.5, 0.5], [0.0, 1.0]])
    tethers = mdsens.Tethers(anchors, [1.0, 3.0], [2, 0])
    check_derivatives(
        tethers,
        CORNERS,
        lambda x: 0.5 * jnp.sum((x[2] - anchors[0]) ** 2) + 1.5 * jnp.sum((x[0] - anchors[1]) ** 2),
    )
    np.testing.assert_array_equal(tethers.supports(CORNERS, tethers.local_terms(CORNERS), 1e-10), [3, 0, 3])
    assert tethers.parameter_names() == ["anchors", "stiffness"]


def test_derivatives_by_anchors_and_stiffness_across_a_face():
    """∂E/∂a = -k (x - a) and ∂E/∂k = ½ |x - a|², to the nearest image."""
    system = mdsens.System([[0.1, 0.2], [3.9, 2.0]], 4.0)
    tethers = mdsens.Tethers([[3.8, 0.1], [0.2, 2.1]], [2.0, 3.0])
    away = np.array([[0.3, 0.1], [-0.3, -0.1]])
    slope = eqx.filter_grad(lambda tethers: tethers.energy(system))(tethers)
    np.testing.assert_allclose(slope.anchors, -np.array([[2.0], [3.0]]) * away, atol=1e-13)
    np.testing.assert_allclose(slope.stiffness, 0.5 * np.sum(away**2, axis=1), atol=1e-13)


@pytest.mark.parametrize("box", [None, 4.0], ids=["open", "periodic"])
def test_tied_particles_come_to_rest_at_their_anchors_and_follow_them(box):
    anchors = np.array([[0.1, 0.2], [1.2, 0.1], [0.4, 1.3]])
    start = CORNERS.replace(positions=CORNERS.positions + (np.array([4.0, -4.0]) if box else 0.0), box=box)
    relax = mdsens.Relaxation(tolerance=1e-12)

    def positions(anchors):
        return relax(mdsens.Tethers(anchors, [1.0, 2.0, 3.0]), start).positions

    expected = anchors + (np.array([4.0, -4.0]) if box else 0.0)
    np.testing.assert_allclose(positions(anchors), expected, atol=1e-11)
    response = jax.jacrev(positions)(jnp.asarray(anchors)).reshape(6, 6)
    np.testing.assert_allclose(response, np.eye(6), atol=1e-11)
    certificate = relax(mdsens.Tethers(anchors), start).certificate
    assert certificate.converged and certificate.zero_modes == 0


def test_under_jit_and_vmap():
    anchors = jnp.asarray(RNG.normal(size=(4, 3, 2)))
    many = jax.jit(jax.vmap(lambda anchors: mdsens.Tethers(anchors, 2.0).energy(CORNERS)))(anchors)
    np.testing.assert_allclose(many, jnp.sum((CORNERS.positions - anchors) ** 2, axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (([0.0, 1.0],), r"anchors must be a point for each particle, \[m, d\], not \[2\]"),
        ((np.ones((2, 2)),), r"anchors must be a point for each particle, \[3, 2\], not \[2, 2\]; say which particles"),
        ((np.ones((3, 3)),), r"anchors must be a point for each particle, \[3, 2\], not \[3, 3\]"),
        ((np.ones((2, 2)), 1.0, [0, 5]), "Tethers names particle 5, and there are 3"),
        ((np.ones((2, 2)), 1.0, [0.0, 1.0]), r"must be integers \[m\], such as \[0, 5\]"),
        ((np.ones((2, 2)), 1.0, [0, 1, 2]), "anchors of Tethers must be one for all terms or one for each of the 3"),
        ((np.ones((3, 2)), [1.0, 2.0]), "stiffness of Tethers must be one for all terms or one for each of the 3"),
        ((np.ones((3, 2)), -1.0), "stiffness of Tethers must not be negative"),
    ],
)
def test_tethers_that_make_no_sense_are_refused(arguments, why):
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(mdsens.Tethers(*arguments), CORNERS)


def test_a_tether_whose_nearest_image_is_ambiguous_is_refused():
    system = mdsens.System([[0.0, 0.0]], 4.0)
    with pytest.raises(mdsens.InvalidInput, match=r"the tether of particle 0 is 2\.687 long, and half of the cell"):
        mdsens.Relaxation()(mdsens.Tethers([[1.9, 1.9]]), system)
