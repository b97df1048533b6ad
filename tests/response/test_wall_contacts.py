"""Contacts with walls open and close like those between particles: ranges of validity and paths."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.response.nearby import network

RELAX = mdsens.Relaxation(relative_tolerance=1e-13)
UP, DOWN = [0.0, 1.0], [0.0, -1.0]


def test_a_bead_leaves_the_floor_when_its_spring_bears_its_weight():
    """A spring k from the height a bears the weight w alone where k (a - h) = w, with h = R: the floor is then left."""
    k, w, radius = 0.5, 0.2, 0.5
    anchors = [[0.0, 0.6]]
    potential = mdsens.PlanarWall([0.0, 0.0], UP, 1.0) + mdsens.Gravity(w) + mdsens.Tethers(anchors, k, particles=[0])
    rest = RELAX(potential, mdsens.System([[0.0, 0.45]]))
    found = mdsens.validity(rest, "gravity.acceleration")
    assert found.below.pair == (0, -1) and found.below.opens and found.above is None
    assert w + found.lower == pytest.approx(k * (0.6 - radius), abs=1e-9)
    assert "0-wall opens" in str(found)
    path = mdsens.follow(rest, "gravity.acceleration", 0.01)
    assert [event.opened for event in path.events] == [((0, -1),)]
    assert 0.2 - 0.19 * path.events[0].fraction == pytest.approx(0.05, abs=1e-6)
    assert str(path.events[0]) == "0-wall opens"
    assert path.positions[-1, 0, 1] == pytest.approx(0.6 - 0.01 / k, abs=1e-10)


@functools.cache
def slit(n=16):
    """Disks between two walls, periodic along them."""
    gas = mdsens.random_packing(n, packing_fraction=0.95, seed=2)
    edge = float(gas.box[0, 0])
    system = mdsens.System(gas.positions, np.diag([edge, edge]), gas.diameters, gas.species, periodic=(True, False))
    potential = (
        mdsens.SoftSphere()
        + mdsens.PlanarWall([0.0, 0.0], UP, 1.0)
        + mdsens.PlanarWall(jnp.asarray([0.0, edge]), DOWN, 1.0)
    )
    return RELAX(potential, system)


def touching(rest):
    """The contacts between disks and with both walls, in NumPy, without rattlers."""
    x, D = np.asarray(rest.positions), np.asarray(rest.system.diameters)
    walls = rest.potential.planar_wall, rest.potential.planar_wall_2
    edge, (bottom, top) = float(rest.system.box[0, 0]), (float(wall.position[1]) for wall in walls)
    i, j = np.triu_indices(len(D), 1)
    apart = x[j] - x[i]
    apart[:, 0] -= np.round(apart[:, 0] / edge) * edge
    near = np.linalg.norm(apart, axis=1) < 0.5 * (D[i] + D[j])
    found = set(zip(i[near].tolist(), j[near].tolist(), strict=True))
    found |= {(k, -1) for k in np.flatnonzero(x[:, 1] - bottom < 0.5 * D).tolist()}
    found |= {(k, -2) for k in np.flatnonzero(top - x[:, 1] < 0.5 * D).tolist()}
    rattlers = set(rest.certificate.rattlers)
    return {pair for pair in found if not rattlers & set(pair)}


def test_the_network_holds_contacts_with_walls():
    rest = slit()
    assert network(rest).contacts == touching(rest)
    assert {j for _, j in touching(rest)} > {-1, -2}


@pytest.mark.parametrize("name", ["planar_wall_2.position", "planar_wall.position", "diameters"])
def test_the_range_of_validity_is_where_the_first_contact_changes(name):
    rest = slit()
    along = jnp.asarray(UP) if name.endswith("position") else jnp.ones(16)
    found = mdsens.validity(rest, name, along)

    def at(step):
        if name == "diameters":
            return touching(RELAX(rest.potential, rest.system.replace(diameters=rest.system.diameters + step)))
        value = rest.potential.get_parameter(name) + step * along
        return touching(RELAX(rest.potential.with_parameter(name, value), rest.system))

    for change in (found.below, found.above):
        assert at(0.95 * change.step) == touching(rest)
        assert change.pair in (touching(rest) ^ at(1.05 * change.step))


def test_a_contact_that_a_growing_stiffness_never_opens_ends_no_range():
    """The overlap with a wall is inversely proportional to its stiffness."""
    rest = slit()
    found = mdsens.validity(rest, "planar_wall.epsilon")
    assert found.above is None and found.upper == np.inf
    hard = RELAX(rest.potential.with_parameter("planar_wall.epsilon", jnp.asarray(1e3)), rest.system)
    assert touching(hard) == touching(rest)


def test_a_path_of_a_wall_has_the_changes_that_small_steps_have():
    rest, steps, depth = slit(), 100, 0.12
    start = np.asarray(rest.potential.planar_wall_2.position)
    goal = start - [0.0, depth]
    path = mdsens.follow(rest, "planar_wall_2.position", goal)
    there, seen, expected = rest, touching(rest), []
    for k in range(1, steps + 1):
        moved = rest.potential.with_parameter("planar_wall_2.position", jnp.asarray(start + (goal - start) * k / steps))
        there = RELAX(moved, there.system)
        expected += [(k / steps, contact) for contact in sorted(touching(there) ^ seen)]
        seen = touching(there)
    ours = [(event.fraction, contact) for event in path.events for contact in sorted((*event.opened, *event.closed))]
    assert path.ended is None and not any(event.rearrangement for event in path.events)
    assert {contact[1] for _, contact in ours} & {-1, -2} and len(ours) >= 3
    assert sorted(contact for _, contact in ours) == sorted(contact for _, contact in expected)
    np.testing.assert_allclose(path.positions[-1], there.positions, atol=1e-8)


def test_a_network_without_contacts_is_followed_to_where_a_relaxation_leads():
    rng = np.random.default_rng(0)
    x = np.array([[0.0, 0.0], [1.0, 0.1], [0.9, 1.0], [0.1, 1.1]]) + 0.02 * rng.normal(size=(4, 2))
    bonds = mdsens.Bonds([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]], 1.0, [1.0, 1.0, 1.0, 1.0, 1.5])
    rest = RELAX(bonds, mdsens.System(x))
    goal = jnp.asarray([1.0, 1.1, 0.9, 1.0, 1.3])
    path = mdsens.follow(rest, "rest_length", goal)
    assert path.ended is None and path.events == ()
    there = RELAX(bonds.with_parameter("rest_length", goal), rest.system)
    apart = [
        np.linalg.norm(at[:, None] - at[None], axis=-1) for at in (path.positions[-1], np.asarray(there.positions))
    ]
    np.testing.assert_allclose(*apart, atol=1e-9)


def test_terms_that_do_not_say_where_they_set_in_are_refused():
    class Strings(mdsens.Bonds):
        contact = True

        def bond_energy(self, r):
            return jnp.where(r > self.rest_length, 0.5 * self.stiffness * (r - self.rest_length) ** 2, 0.0)

    rest = RELAX(Strings([[0, 1]], 1.0, 0.9) + mdsens.Tethers([[1.5, 0.0]], 1.0, particles=[1]),
                 mdsens.System([[0.0, 0.0], [1.2, 0.0]], fixed=[True, False]))  # fmt: skip
    for ask in (mdsens.validity, lambda rest, name: mdsens.follow(rest, name, 2.0)):
        with pytest.raises(mdsens.InvalidInput, match="where the terms of Strings set in is not followed"):
            ask(rest, "tethers.stiffness")
    free = mdsens.System([[0.0, 0.0], [1.2, 0.0]], fixed=[True, False])
    bond = RELAX(mdsens.Bonds([[0, 1]], 1.0, 0.9) + mdsens.Tethers([[1.5, 0.0]], 1.0, particles=[1]), free)
    with pytest.raises(mdsens.InvalidInput, match="has no walls: it has no contacts"):
        mdsens.validity(bond, "bonds.stiffness")
