"""Loads and gravity: energies and forces, no second derivatives, and what is said of a load alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import TRICLINIC, check_derivatives

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("dim", [2, 3])
def test_dead_loads_are_the_given_forces_in_a_periodic_cell_too(dim):
    forces = RNG.normal(size=(4, dim))
    system = mdsens.System(RNG.uniform(-5.0, 9.0, (4, dim)), TRICLINIC[dim])
    check_derivatives(mdsens.Load(forces), system, lambda x: -jnp.sum(forces * x))


@pytest.mark.parametrize("masses", [1.5, [1.0, 2.0, 0.0, 3.0]])
@pytest.mark.parametrize("acceleration", [9.8, [1.0, -2.0, 0.5]])
def test_gravity_pulls_in_proportion_to_the_masses(acceleration, masses):
    """One number means downward along the last axis."""
    system = mdsens.System(RNG.normal(size=(4, 3)))
    down = np.array([0.0, 0.0, -9.8]) if np.ndim(acceleration) == 0 else np.array(acceleration)
    each = np.broadcast_to(masses, 4)[:, None]
    check_derivatives(mdsens.Gravity(acceleration, masses), system, lambda x: -jnp.sum(each * down * x))


def test_derivatives_by_loads_masses_and_acceleration():
    system = mdsens.System(RNG.normal(size=(4, 2)))
    slope = eqx.filter_grad(lambda load: load.energy(system))
    np.testing.assert_allclose(slope(mdsens.Load(np.ones((4, 2)))).forces, -system.positions, atol=1e-14)
    of_gravity = slope(mdsens.Gravity(2.0, [1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(of_gravity.masses, 2.0 * system.positions[:, 1], atol=1e-14)
    height = np.sum([1.0, 2.0, 3.0, 4.0] * np.asarray(system.positions[:, 1]))
    assert float(of_gravity.acceleration) == pytest.approx(height, rel=1e-13)


def test_a_load_resists_nothing_and_supports_the_particles_that_it_pushes():
    system = mdsens.System(RNG.normal(size=(3, 2)))
    load = mdsens.Load([[0.0, 1.0], [0.0, 0.0], [1e-12, 0.0]])
    assert float(load.typical_stiffness(system)) == 0.0
    np.testing.assert_array_equal(load.supports(system, load.local_terms(system), 1e-10), [3, 0, 0])
    assert load.parameter_names() == ["forces"]
    assert mdsens.Gravity().parameter_names() == ["acceleration", "masses"]


def test_under_jit_and_vmap():
    system = mdsens.System(RNG.normal(size=(3, 2)))
    forces = jnp.asarray(RNG.normal(size=(5, 3, 2)))
    energies = jax.jit(jax.vmap(lambda forces: mdsens.Load(forces).energy(system)))(forces)
    np.testing.assert_allclose(energies, -jnp.einsum("bnd,nd->b", forces, system.positions), atol=1e-13)


def test_a_net_load_alone_is_refused_in_a_sentence():
    system = mdsens.System(RNG.normal(size=(3, 2)))
    with pytest.raises(mdsens.NotConverged, match=r"a net force of 9\.8 on each particle pulls all of them"):
        mdsens.Relaxation()(mdsens.Gravity(9.8), system)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: mdsens.Load([1.0, 2.0]), r"forces must be a force for each particle, \[n, d\], not \[2\]"),
        (lambda: mdsens.Load(np.ones((4, 2))), r"forces must be a force for each particle, \[3, 2\], not \[4, 2\]"),
        (lambda: mdsens.Load("up"), "a parameter is a number"),
        (lambda: mdsens.Gravity([0.0, 0.0, -1.0]), r"acceleration is one number.* or a vector \[2\], not \[3\]"),
        (lambda: mdsens.Gravity(np.ones((3, 2))), r"acceleration is one number or a vector \[d\]"),
        (
            lambda: mdsens.Gravity(1.0, [1.0, 2.0]),
            "masses of Gravity must be one for all terms or one for each",
        ),
        (lambda: mdsens.Gravity(1.0, [1.0, -2.0, 1.0]), "masses of Gravity must not be negative, and is -2"),
    ],
)
def test_loads_that_make_no_sense_are_refused(make, why):
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(make(), mdsens.System(np.eye(3)[:, :2]))
