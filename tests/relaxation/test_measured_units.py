"""A potential of somebody else's that does not say how stiff it is relaxes alike in every unit of energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens


class ChainInATrap(mdsens.Potential):
    """Springs along a line of particles, and a harmonic trap, all of them proportional to ε."""

    epsilon: jax.Array
    center: jax.Array

    def energy(self, system, neighbors):
        x = system.positions
        lengths = jnp.linalg.norm(x[1:] - x[:-1], axis=1)
        return self.epsilon * (0.5 * jnp.sum((lengths - 1.0) ** 2) + 0.05 * jnp.sum((x - self.center) ** 2))


class WithAnInit(ChainInATrap):
    """With a constructor of its own."""

    def __init__(self, epsilon, center):
        self.epsilon, self.center = epsilon, center


START = mdsens.System(np.array([[0.0, 0.1], [1.1, 0.0], [2.0, 0.2], [3.1, -0.1]]))
CENTER = jnp.array([1.5, 0.2])


def at_rest(epsilon, center=CENTER, potential=ChainInATrap, **options):
    return mdsens.Relaxation(**options)(potential(jnp.asarray(epsilon), center), START)


@pytest.mark.parametrize("potential", [ChainInATrap, WithAnInit])
@pytest.mark.parametrize("epsilon", [1e-12, 1e12])
def test_an_energy_in_any_unit_relaxes_in_as_many_steps_to_the_same_place(epsilon, potential):
    """A trap carries what is in it: the mean position is its center, and moves with it."""
    one, other = at_rest(1.0), at_rest(epsilon, potential=potential)
    assert abs(int(one.steps) - int(other.steps)) <= 10  # tolerances are rounded to powers of ten
    np.testing.assert_allclose(other.positions, one.positions, atol=1e-8)
    np.testing.assert_allclose(np.mean(other.positions, axis=0), CENTER, atol=1e-8)
    assert 0.01 < float(other.tolerance) / (epsilon * float(one.tolerance)) < 100.0

    def positions(center):
        return at_rest(epsilon, center, potential).positions

    for derivative in (jax.jacfwd, jax.jacrev):
        moved = derivative(positions)(CENTER)
        np.testing.assert_allclose(moved.mean(axis=0), np.eye(2), atol=1e-7)


def test_positions_at_rest_do_not_depend_on_the_unit():
    for derivative in (jax.jacfwd, jax.jacrev):
        slope = derivative(lambda epsilon: at_rest(epsilon).positions)(1e12)
        np.testing.assert_allclose(1e12 * slope, 0.0, atol=1e-7)


def test_under_jit_the_stiffness_is_measured_too():
    inside = jax.jit(lambda epsilon: at_rest(epsilon).tolerance)(1e-12)
    assert float(inside) == pytest.approx(float(at_rest(1e-12).tolerance), rel=1e-9)


def test_what_is_measured_is_no_parameter():
    potential = ChainInATrap(jnp.asarray(1.0), CENTER)
    ready = potential.prepared_for(START)
    assert potential.parameter_names() == ready.parameter_names() == ["epsilon", "center"]
    assert "measured" not in repr(ready)


class LennardJones(mdsens.Potential):
    """4 ε (r^-12 - r^-6) of all pairs, as somebody would write it."""

    epsilon: float

    def energy(self, system, neighbors):
        squared = jnp.sum(neighbors.separations(system.positions, system.lattice) ** 2, axis=-1)
        sixth = squared**-3
        return 4.0 * self.epsilon * jnp.sum(sixth**2 - sixth)


@pytest.mark.parametrize("box", [None, 6.0])
def test_the_stiffness_measured_is_not_that_of_the_closest_pair(box):
    """At a random start it would be 1e16, and every force would be small."""
    for seed in range(3):
        start = mdsens.System(6.0 * np.random.default_rng(seed).uniform(size=(32, 2)), box)
        assert 50.0 < float(LennardJones(1.0).prepared_for(start).typical_stiffness(start)) < 3e4
