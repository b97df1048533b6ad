"""What holds a network leaves some combinations of its rigid motions free: against NumPy's pseudo-inverse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens

RELAX = mdsens.Relaxation(tolerance=1e-13)
OBLIQUE = {2: np.array([0.6, 0.8]), 3: np.array([2.0, -1.0, 2.0]) / 3.0}
"""Normals of walls."""


def network(dim, n=6, seed=0):
    """Points in a cube, bonds between all of them, and their rest lengths, which do not fit together."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 2.0, (n, dim))
    pairs = np.stack(np.triu_indices(n, 1), 1)
    lengths = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1) * rng.uniform(0.95, 1.05, len(pairs))
    return x, pairs, lengths


def energy_of_bonds(x, pairs, lengths):
    return 0.5 * jnp.sum((jnp.linalg.norm(x[pairs[:, 1]] - x[pairs[:, 0]], axis=1) - lengths) ** 2)


def check(potential, energy, start, at, count):
    """The zero modes (translations and rotations) and the Jacobian of positions by every parameter, both modes of
    differentiation, against an energy written independently and NumPy's pseudo-inverse.
    """
    rest = RELAX(potential(*at), start)
    certificate, x = rest.certificate, rest.positions
    derivatives = jax.jit(jax.jacfwd(jax.grad(energy), tuple(range(1 + len(at)))))(x, *at)
    hessian, *mixed = (np.asarray(each).reshape(x.size, -1) for each in derivatives)
    assert np.sum(np.abs(np.linalg.eigvalsh(hessian)) < 1e-9) == sum(count) == certificate.zero_modes
    assert (certificate.translations, certificate.rotations) == count
    inverse = np.linalg.pinv(hessian, rcond=1e-9, hermitian=True)
    every = tuple(range(len(at)))
    for derivative in (jax.jacfwd, jax.jacrev):
        found = derivative(lambda *at: RELAX(potential(*at), rest.system).positions, every)(*at)
        for each, push in zip(found, mixed, strict=True):
            np.testing.assert_allclose(np.asarray(each).reshape(x.size, -1), -inverse @ push, atol=1e-8)


HELD = {(2, 1): (0, 1), (3, 1): (0, 3), (2, 2): (0, 0), (3, 2): (0, 1), (3, 3): (0, 0)}
"""The free translations and rotations of a network in d dimensions that springs hold at some of its particles."""


@pytest.mark.parametrize(("dim", "held"), HELD)
def test_a_network_on_springs_turns_about_what_they_hold(dim, held):
    x, pairs, lengths = network(dim)
    particles = np.array([4, 1, 2], np.int32)[:held]
    anchors = x[particles] + 0.1 * np.random.default_rng(1).normal(size=(held, dim))

    def potential(lengths, anchors, stiffness):
        return mdsens.Bonds(pairs, 1.0, lengths) + mdsens.Tethers(anchors, stiffness, particles)

    def energy(x, lengths, anchors, stiffness):
        return energy_of_bonds(x, pairs, lengths) + 0.5 * stiffness * jnp.sum((x[particles] - anchors) ** 2)

    check(potential, energy, mdsens.System(x), (lengths, anchors, jnp.asarray(0.3)), HELD[dim, held])


def walls_and_load(x, normals, levels, push):
    """The energy of particles of diameter 1 on walls, under a load along the mean of their normals."""
    heights = jnp.einsum("wd,nd->wn", normals, x) - levels[:, None]
    pressed = jnp.maximum(1.0 - heights / 0.5, 0.0) ** 2
    return 0.5 * jnp.sum(pressed) + push * jnp.sum(x @ normals.sum(0))


ON_WALLS = {(2, 1): (1, 0), (3, 1): (2, 1), (2, 2): (0, 0), (3, 2): (1, 0)}
"""The free translations and rotations of a network that is pressed on inclined walls."""


@pytest.mark.parametrize(("dim", "walls"), ON_WALLS)
def test_a_network_pressed_on_inclined_walls_slides_along_them(dim, walls):
    x, pairs, lengths = network(dim)
    normal = OBLIQUE[dim]
    across = np.cross(normal, [0.3, 0.1, 1.0]) if dim == 3 else np.array([-normal[1], normal[0]])
    across = across / np.linalg.norm(across)
    normals = np.stack([normal] if walls == 1 else [0.6 * normal + 0.8 * across, 0.8 * normal - 0.6 * across])
    levels = np.min(normals @ x.T, axis=1) - 0.4

    def potential(lengths, levels, push):
        sides = [mdsens.PlanarWall(level * side, side) for level, side in zip(levels, normals, strict=True)]
        return sum(sides, mdsens.Bonds(pairs, 1.0, lengths)) + mdsens.Load(
            jnp.broadcast_to(-push * normals.sum(0), x.shape)
        )

    def energy(x, lengths, levels, push):
        return energy_of_bonds(x, pairs, lengths) + walls_and_load(x, normals, levels, push)

    check(potential, energy, mdsens.System(x), (lengths, jnp.asarray(levels), jnp.asarray(0.05)), ON_WALLS[dim, walls])


def test_each_network_has_what_its_own_springs_leave_free():
    """One on a spring and one that is free: the second translates, too."""
    x, pairs, lengths = network(2)
    both, every = np.concatenate([x, x + 20.0]), np.concatenate([pairs, pairs + 6])
    particle = np.array([4], np.int32)

    def potential(lengths, anchors):
        return mdsens.Bonds(every, 1.0, lengths) + mdsens.Tethers(anchors, 0.3, particle)

    def energy(x, lengths, anchors):
        return energy_of_bonds(x, every, lengths) + 0.15 * jnp.sum((x[particle] - anchors) ** 2)

    at = (np.concatenate([lengths, lengths[::-1]]), x[particle])
    check(potential, energy, mdsens.System(both), at, (2, 2))


@pytest.mark.parametrize("stiffness", [1e-3, 1e-6, 1e-9])
def test_a_weak_spring_beside_an_inclined_wall_is_found_or_refused(stiffness):
    """Each translation by itself is resisted strongly; the one along the wall by the spring alone."""
    x, pairs, lengths = network(2)
    normal = OBLIQUE[2]
    along = np.array([-normal[1], normal[0]])
    level = float(np.min(x @ normal)) - 0.4

    def slid(anchor):
        rest = mdsens.Relaxation(tolerance=1e-14)(
            mdsens.Bonds(pairs, 1.0, lengths)
            + mdsens.PlanarWall(level * normal, normal)
            + mdsens.Load(np.broadcast_to(-0.05 * normal, x.shape))
            + mdsens.Tethers(anchor * along + x @ np.outer(normal, normal), stiffness),
            mdsens.System(x),
        )
        return rest.positions @ along

    start = float(np.mean(x @ along))
    if stiffness < 1e-8:
        with pytest.raises(mdsens.NotRigid, match="resists a rigid motion"):
            jax.jacfwd(slid)(start)
    else:
        np.testing.assert_allclose(jnp.mean(jax.jacfwd(slid)(start)), 1.0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_second_derivatives_follow_the_free_motion_as_a_wall_turns(angle):
    """A particle at the height h above a wall with the normal n, s along it: x′ = s n, x″ = h n - s t."""
    start = mdsens.System([[0.7, 0.4]])

    def rest(angle, system=start):
        normal = jnp.stack([-jnp.sin(angle), jnp.cos(angle)])
        return RELAX(mdsens.PlanarWall(jnp.zeros(2), normal) + mdsens.Load(-0.2 * normal[None]), system)

    here = rest(angle)
    assert (here.certificate.translations, here.certificate.rotations) == (1, 0)
    place = functools.partial(rest, system=here.system)
    x = np.asarray(here.positions[0])
    along, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    height, s = x @ normal, x @ along
    np.testing.assert_allclose(height, 0.45, atol=1e-12)  # (1 - h/R) / R = 0.2
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(derivative(lambda a: place(a).positions[0])(angle), s * normal, atol=1e-10)
        second = jax.jacfwd(derivative(lambda a: place(a).positions[0]))(angle)
        np.testing.assert_allclose(second, height * normal - s * along, atol=1e-9)
