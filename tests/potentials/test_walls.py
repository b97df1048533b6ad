"""Walls: particles touch them as they touch each other; in front, behind, flat, round, in two and three dimensions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import TRICLINIC, check_derivatives, configuration, energy_and_gradient
from mdsens.potentials import Wall
from mdsens.potentials.base import parameter

RNG = np.random.default_rng(6)


def contact(height, diameters, epsilon, alpha):
    overlap = jnp.maximum(1.0 - height / (0.5 * diameters), 0.0)
    return jnp.sum(epsilon / alpha * overlap**alpha)


@pytest.mark.parametrize("alpha", [2.0, 2.5])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_flat_wall_pushes_back_what_overlaps_it(dim, alpha):
    """Particles apart from it, in touch, with their center behind it, and far behind it; also in a periodic cell."""
    position, normal = RNG.normal(size=dim), RNG.normal(size=dim)
    unit = normal / np.linalg.norm(normal)
    heights, diameters = np.array([0.9, 0.3, 0.1, -0.2, -3.0]), np.array([1.0, 1.0, 0.4, 0.7, 1.0])
    sideways = RNG.normal(size=(5, dim))
    x = position + heights[:, None] * unit + sideways - (sideways @ unit)[:, None] * unit
    system = mdsens.System(x, TRICLINIC[dim], diameters)

    def energy(x):
        return contact((x - position) @ unit, diameters, 1.3, alpha)

    check_derivatives(mdsens.PlanarWall(position, normal, 1.3, alpha), system, energy, 1e-9)
    forces = -configuration(mdsens.PlanarWall(position, normal, 1.3, alpha), system).gradient()
    np.testing.assert_array_equal(np.asarray(forces @ unit) > 0.0, [False, True, True, True, True])


def test_a_wall_is_half_of_a_contact_with_a_mirrored_sphere():
    """h is half of the distance of a sphere from its mirror image, D/2 half of the σ of the two."""
    wall, height = mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0]), 0.4
    one = mdsens.System([[0.0, height]])
    two = mdsens.System([[0.0, height], [0.0, -height]])
    mirrored = configuration(mdsens.SoftSphere(), two).energy()
    assert float(wall.energy(one)) == pytest.approx(float(mirrored), rel=1e-13)


@pytest.mark.parametrize("center", [None, [0.3, -0.2, 0.5]])
@pytest.mark.parametrize("axis", [None, [1.0, 2.0, -2.0]])
def test_a_cylinder_keeps_particles_inside(axis, center):
    along = np.array([0.0, 0.0, 1.0]) if axis is None else np.array(axis) / 3.0
    middle = np.zeros(3) if center is None else np.array(center)
    across = np.linalg.svd(along[None])[2][1:]
    radii, turn = np.array([0.0, 0.8, 1.6, 1.9, 2.4]), np.arange(5.0)
    x = middle + radii[:, None] * (np.cos(turn)[:, None] * across[0] + np.sin(turn)[:, None] * across[1])
    x += RNG.normal(size=(5, 1)) * along
    diameters = np.array([1.0, 1.0, 1.2, 1.0, 0.5])

    def energy(x):
        away = (x - middle) - ((x - middle) @ along)[:, None] * along
        squared = jnp.sum(away**2, axis=1)
        inner = squared < 1e-20
        return contact(2.0 - jnp.sqrt(jnp.where(inner, 1.0, squared)) * ~inner, diameters, 1.3, 2.0)

    check_derivatives(mdsens.CylindricalWall(2.0, axis, center, 1.3), mdsens.System(x, None, diameters), energy, 1e-9)


def test_a_circle_keeps_disks_inside():
    x = np.array([[0.5, 0.5], [2.1, 0.5], [0.5, -1.3], [0.6, 0.5]])

    def energy(x):
        return contact(2.0 - jnp.linalg.norm(x - np.array([0.5, 0.4]), axis=1), 1.0, 1.0, 2.0)

    check_derivatives(mdsens.CylindricalWall(2.0, center=[0.5, 0.4]), mdsens.System(x), energy)


def test_a_particle_in_the_middle_of_a_container_feels_nothing():
    here = configuration(mdsens.CylindricalWall(2.0), mdsens.System([[0.0, 0.0]]))
    energy, gradient = energy_and_gradient(here)
    assert float(energy) == 0.0 and not np.any(gradient)


def test_place_direction_and_radius_are_differentiable():
    """∂E/∂p = f n·n̂, with f the force on the wall; turning the normal moves the wall with the lever of the particle."""
    system = mdsens.System([[0.7, 0.3]])
    slope = eqx.filter_grad(lambda wall: wall.energy(system))(mdsens.PlanarWall([0.0, 0.0], [0.0, 2.0], 1.5))
    push = 1.5 * (1 - 0.3 / 0.5) / 0.5
    np.testing.assert_allclose(slope.position, [0.0, push], atol=1e-14)
    np.testing.assert_allclose(slope.normal, [-push * 0.7 / 2.0, 0.0], atol=1e-14)
    container = eqx.filter_grad(lambda wall: wall.energy(mdsens.System([[1.7, 0.0]])))(mdsens.CylindricalWall(2.0))
    assert float(container.radius) == pytest.approx(-(1 - 0.3 / 0.5) / 0.5, rel=1e-13)
    assert container.parameter_names() == ["radius", "epsilon", "alpha"]


def test_a_wall_with_another_stiffness_for_each_particle():
    system = mdsens.System([[0.0, 0.3], [1.0, 0.2]])
    wall = mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0], [1.0, 3.0])
    assert float(wall.energy(system)) == pytest.approx(0.5 * 0.4**2 + 1.5 * 0.6**2)
    np.testing.assert_allclose(
        eqx.filter_grad(lambda wall: wall.energy(system))(wall).epsilon, [0.5 * 0.4**2, 0.5 * 0.6**2], atol=1e-14
    )


def test_a_wall_counts_as_one_contact_of_what_it_pushes_and_as_enough_where_that_is_certain():
    system = mdsens.System([[0.0, 0.3], [1.0, 0.6], [2.0, 0.5 - 1e-14]])
    wall = mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0])
    np.testing.assert_array_equal(wall.supports(system, wall.local_terms(system), 0.2), [1, 0, 0])  # the force is 0.8
    np.testing.assert_array_equal(wall.supports(system, wall.local_terms(system), 1e-10), [3, 0, 0])
    assert float(wall.typical_stiffness(system)) == pytest.approx(4.0)


def test_a_wall_of_another_shape():
    class Sphere(Wall):
        """A spherical container."""

        radius: jax.Array = parameter()
        epsilon: jax.Array = parameter(default=1.0)
        alpha: jax.Array = parameter(default=2.0)

        def height(self, x):
            return self.radius - jnp.linalg.norm(x)

    x = np.array([[0.0, 1.7, 0.1], [0.5, 0.0, 0.0]])
    check_derivatives(Sphere(2.0), mdsens.System(x), lambda x: contact(2.0 - jnp.linalg.norm(x, axis=1), 1.0, 1.0, 2.0))


def test_a_particle_between_pushed_into_a_container_relaxes_out_of_its_wall():
    rest = mdsens.Relaxation()(mdsens.CylindricalWall(2.0), mdsens.System([[1.9, 0.0], [0.0, 2.2]]))
    assert float(rest.energy) < 1e-18
    assert np.all(np.linalg.norm(rest.positions, axis=1) < 1.5 + 1e-6)


def test_under_jit_and_vmap():
    system = mdsens.System([[0.0, 0.3], [1.0, 0.2]])
    heights = jnp.asarray([0.0, 0.1, 0.2])

    def energy(height):
        return mdsens.PlanarWall(jnp.stack([0.0, height]), [0.0, 1.0]).energy(system)

    many = jax.jit(jax.vmap(energy))(heights)
    np.testing.assert_allclose(many, [contact(np.array([0.3, 0.2]) - h, 1.0, 1.0, 2.0) for h in heights], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: mdsens.PlanarWall([0.0], [0.0, 1.0]), r"position of PlanarWall must be a vector \[2\], not \[1\]"),
        (lambda: mdsens.PlanarWall(0.0, 1.0), r"position of PlanarWall must be a vector \[2\], not \[\]"),
        (lambda: mdsens.PlanarWall([0.0, 0.0], [0.0, 0.0, 1.0]), r"normal of PlanarWall must be a vector \[2\]"),
        (lambda: mdsens.PlanarWall([0.0, 0.0], [0.0, 0.0]), "the normal of a PlanarWall is zero"),
        (lambda: mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0], -1.0), "epsilon of PlanarWall must not be negative"),
        (lambda: mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0], [1.0, 1.0]), "epsilon of PlanarWall must be one for all"),
        (lambda: mdsens.CylindricalWall(2.0, axis=[0.0, 0.0, 1.0]), "has no axis in two dimensions"),
        (lambda: mdsens.CylindricalWall([2.0, 1.0]), r"radius of CylindricalWall must be one number, not \[2\]"),
        (lambda: mdsens.CylindricalWall(2.0, center=[0.0]), r"center of CylindricalWall must be a vector \[2\]"),
        (lambda: mdsens.CylindricalWall(0.5), "leaves no room for particles 0, 1, 2"),
    ],
)
def test_walls_that_make_no_sense_are_refused(make, why):
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(make(), mdsens.System(np.eye(3)[:, :2]))


def test_an_axis_without_direction_is_refused():
    with pytest.raises(mdsens.InvalidInput, match="the axis of a CylindricalWall is zero"):
        mdsens.Relaxation()(mdsens.CylindricalWall(2.0, [0.0, 0.0, 0.0]), mdsens.System(np.eye(3)))


@pytest.mark.parametrize(
    ("wall", "who"),
    [
        (mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0]), "particle 2 would be"),
        (mdsens.PlanarWall([0.0, 2.0], [0.0, 1.0]), "particles 1, 2 would be"),
        (mdsens.PlanarWall([0.0, 9.0], [0.0, 1.0]), "all particles are"),
        (mdsens.CylindricalWall(2.0), "particles 0, 2 would be"),
    ],
)
def test_a_wall_that_cuts_particles_off_is_refused(wall, who):
    """A center behind a wall is pushed back; a particle wholly behind it belongs to its other side."""
    system = mdsens.System([[0.0, 3.0], [0.0, -0.4], [0.0, -2.6]])
    with pytest.raises(mdsens.InvalidInput, match=f"{type(wall).__name__} cuts particles off: {who} wholly behind it"):
        mdsens.Relaxation()(wall, system)
