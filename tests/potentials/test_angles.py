"""Angles: energies, forces and second derivatives, at straight, right and folded angles, too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import TRICLINIC, check_derivatives, configuration, dense_hessian, energy_and_gradient, nearest

BENT = mdsens.System([[1.0, 0.0], [0.0, 0.0], [0.3, 0.9]])


def at_angle(theta, arms=(1.0, 1.3), dim=2):
    """Three particles at an angle, turned out of the axes."""
    x = np.zeros((3, dim))
    x[0, 0] = arms[0]
    x[2, :2] = arms[1] * np.cos(theta), arms[1] * np.sin(theta)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(dim, dim)))[0]
    return mdsens.System(x @ turn + 0.3)


def of_angles(system, triples, stiffness, rest_angle):
    """By the arccosine, away from straight angles."""

    def energy(x):
        a, b = (nearest(x[triples[:, k]] - x[triples[:, 1]], system.box) for k in (0, 2))
        cosine = jnp.sum(a * b, axis=1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))
        return jnp.sum(0.5 * stiffness * (jnp.arccos(cosine) - rest_angle) ** 2)

    return energy


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "triclinic"])
def test_energy_forces_and_hessian_are_those_of_the_angle(dim, periodic):
    rng = np.random.default_rng(2)
    step = rng.normal(size=(6, dim))
    walk = np.cumsum(step / np.linalg.norm(step, axis=1, keepdims=True), axis=0)
    walk -= walk.mean(axis=0)  # a chain about a corner of the cell
    box = TRICLINIC[dim] if periodic else None
    system = mdsens.System(walk, box)
    if periodic:
        system = system.replace(positions=system.wrapped())
        assert not np.allclose(np.diff(system.positions, axis=0), np.diff(walk, axis=0))
    triples = np.stack([np.arange(4), np.arange(1, 5), np.arange(2, 6)], axis=1)
    stiffness, rest = rng.uniform(0.5, 2.0, 4), rng.uniform(0.5, 3.0, 4)
    check_derivatives(
        mdsens.Angles(triples, stiffness, rest), system, of_angles(system, triples, stiffness, rest), 1e-9
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_energy_of_one_angle_in_closed_form(dim):
    """Right angles, and both sides of where the series begins."""
    thetas = np.array([0.5 * np.pi, 0.09, 0.11, np.pi - 0.09, np.pi - 0.11, 0.3, 2.0])
    xs = jnp.stack([at_angle(theta, dim=dim).positions for theta in thetas])
    system, triple = at_angle(1.0, dim=dim), np.array([[0, 1, 2]])

    def ours(x, rest):
        moved, angle = system.replace(positions=x), mdsens.Angles(triple, 1.7, rest)
        return angle.energy(moved), angle.gradient(moved, None), angle.blocks(moved)[0]

    def arccosine(x, rest):
        energy = of_angles(system, triple, 1.7, rest)
        return energy(x), jax.grad(energy)(x), jax.hessian(energy)(x)

    for rest in (0.0, 1.0, np.pi):
        found, expected = (jax.jit(jax.vmap(f, (0, None)))(xs, rest) for f in (ours, arccosine))
        np.testing.assert_allclose(found[0], 0.5 * 1.7 * (thetas - rest) ** 2, rtol=1e-12, atol=1e-14)
        for one, other, atol in zip(found, expected, (1e-12, 1e-11, 1e-9), strict=True):
            np.testing.assert_allclose(one, other, atol=atol)


def test_an_exactly_right_angle_on_the_axes():
    system = mdsens.System([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    here = configuration(mdsens.Angles([[0, 1, 2]], 2.0, 1.0), system)
    torque = 2.0 * (0.5 * np.pi - 1.0)
    np.testing.assert_allclose(here.gradient(), torque * np.array([[0, -1], [1, 1], [-1, 0]]), atol=1e-14)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("end", [0.0, np.pi], ids=["folded", "straight"])
def test_straight_and_folded_angles_at_rest_there_are_smooth(end, dim):
    """At the end θ₀ the angle's deviation is |u_⊥|, u_⊥ the sideways displacement of the arms against each other."""
    a, b, k = 1.0, 1.3, 1.7
    x = np.zeros((3, dim))
    x[0, 0], x[2, 0] = a, b * np.cos(end)
    angle, system = mdsens.Angles([[0, 1, 2]], k, end), mdsens.System(x)
    here = configuration(angle, system)
    energy, gradient = energy_and_gradient(here)
    assert float(energy) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, dim)))
    sign = np.cos(end)
    lever = np.array([1 / a, -1 / a + sign / b, -sign / b])  # the turn of the first arm against the second
    expected = np.zeros((3, dim, 3, dim))
    for side in range(1, dim):
        expected[:, side, :, side] = k * lever[:, None] * lever[None]
    hessian = dense_hessian(here)
    np.testing.assert_allclose(hessian, expected, atol=1e-12)
    h = 1e-4
    u = np.random.default_rng(0).normal(size=x.shape)
    forces = [energy_and_gradient(here.at(jnp.asarray(x + s * h * u)))[1] for s in (1.0, -1.0)]
    difference = (forces[0] - forces[1]) / (2 * h)
    np.testing.assert_allclose(difference, np.tensordot(hessian, u, 2), atol=1e-6)
    third = jax.jit(lambda x: jax.jvp(lambda x: here.at(x).hessian().dense(), (x,), (u,))[1])(jnp.asarray(x))
    assert np.isfinite(third).all()


def test_a_bend_near_straight_keeps_all_digits():
    for bend in (1e-3, 1e-7, 1e-12):
        system = mdsens.System([[-1.0, 0.0], [0.0, 0.0], [1.0, bend]])
        here = configuration(mdsens.Angles([[0, 1, 2]], 2.0), system)
        energy, gradient = energy_and_gradient(here)
        assert float(energy) == pytest.approx(np.arctan(bend) ** 2, rel=1e-12)
        assert float(gradient[2, 1]) == pytest.approx(2 * np.arctan(bend) / (1 + bend**2), rel=1e-12)


def test_a_chain_of_straight_angles_under_a_bend_has_the_derivative_by_the_rest_angle():
    """∂E/∂θ₀ = -k (θ - θ₀), also at θ₀ = π where the angle is bent."""
    system, theta = at_angle(2.9), 2.9
    slope = eqx.filter_grad(lambda angle: angle.energy(system))(mdsens.Angles([[0, 1, 2]], [1.7], [np.pi]))
    assert float(slope.rest_angle[0]) == pytest.approx(-1.7 * (theta - np.pi), rel=1e-11)
    assert float(slope.stiffness[0]) == pytest.approx(0.5 * (theta - np.pi) ** 2, rel=1e-11)
    mixed = eqx.filter_jacfwd(lambda angle: angle.gradient(system, None))(mdsens.Angles([[0, 1, 2]], [1.7], [np.pi]))
    by_angle = jax.grad(lambda x: of_angles(system, np.array([[0, 1, 2]]), 1.0, 0.0)(x) ** 0.5 * 2**0.5)
    np.testing.assert_allclose(mixed.rest_angle[..., 0], -1.7 * by_angle(system.positions), atol=1e-10)


@pytest.mark.parametrize("x", [[[-1, 0], [0, 0], [1, 0]], [[1, 0], [0, 0], [2, 0]]], ids=["straight", "folded"])
def test_an_angle_at_a_cusp_is_refused(x):
    angle, system = mdsens.Angles([[0, 1, 2]], 1.0, 2.0), mdsens.System(np.array(x, float))
    assert np.isnan(angle.gradient(system, None)).any()
    with pytest.raises(mdsens.InvalidInput, match=r"the angle \[0, 1, 2\] is (straight|folded), and its rest angle 2 "):
        mdsens.Relaxation()(angle, system)


@pytest.mark.parametrize("precision", [jnp.float32, jnp.float64])
def test_straight_angles_in_both_precisions(precision):
    x = jnp.asarray([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], precision)
    system = mdsens.System(x, None, jnp.ones(3, precision))
    here = configuration(mdsens.Angles([[0, 1, 2]]), system)
    hessian = dense_hessian(here)
    assert hessian.dtype == precision and np.isfinite(hessian).all()
    assert float(energy_and_gradient(here)[0]) == 0.0


def test_an_angle_relaxes_to_its_rest_angle():
    """A soft mode less than there are coordinates: the energy is all that is determined."""
    relax = mdsens.Relaxation(tolerance=1e-10)
    rest = relax(mdsens.Angles([[0, 1, 2]], 2.0, 2.0), BENT)
    a, b = rest.positions[0] - rest.positions[1], rest.positions[2] - rest.positions[1]
    assert float(jnp.arccos(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))) == pytest.approx(2.0, abs=1e-9)


def test_under_jit_and_vmap():
    thetas = np.array([0.5, 1.5, np.pi])
    xs = jnp.stack([at_angle(theta).positions for theta in thetas])
    energies = jax.jit(jax.vmap(lambda x, k: mdsens.Angles([[0, 1, 2]], k).energy(BENT.replace(positions=x))))(
        xs, jnp.asarray([1.0, 2.0, 3.0])
    )
    np.testing.assert_allclose(energies, 0.5 * np.array([1.0, 2.0, 3.0]) * (thetas - np.pi) ** 2, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (([[0, 1, 3]],), "Angles names particle 3"),
        (([[0, 1, 0]],), r"the angle \[0, 1, 0\] joins a particle to itself"),
        (([[0, 1]],), r"must be integers \[m, 3\].*not int.*\[1, 2\]"),
        (([[0.0, 1.0, 2.0]],), r"must be integers \[m, 3\]"),
        (([[0, 1, 2]], [1.0, 2.0]), "stiffness of Angles must be one for all terms"),
        (([[0, 1, 2]], -1.0), "stiffness of Angles must not be negative"),
        (([[0, 1, 2]], 1.0, 120.0), "rest_angle of Angles is in radians, from 0 to π, and is 120"),
        (([[0, 1, 2]], 1.0, [-0.1]), "rest_angle of Angles is in radians, from 0 to π, and is -0.1"),
    ],
)
def test_angles_that_make_no_sense_are_refused(arguments, why):
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(mdsens.Angles(*arguments), BENT)


def test_an_arm_whose_nearest_image_is_ambiguous_is_refused():
    system = mdsens.System([[2.0, 1.9], [0.0, 0.0], [0.3, 0.9]], 4.0)
    with pytest.raises(mdsens.InvalidInput, match=r"an arm of the angle \[0, 1, 2\] is 2.759 long, and half"):
        mdsens.Relaxation()(mdsens.Angles([[0, 1, 2]]), system)
