"""Sums of several sums over pairs: each keeps its own cutoffs and contacts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import configuration, dense_hessian, energy_and_gradient
from mdsens import linear_solvers
from mdsens.response.nearby import network
from samples import jammed, pairs_within, relative

RELAX = mdsens.Relaxation(tolerance=1e-12)
OUTER = 1.25
TWO_CUTOFFS = mdsens.SoftSphere() + mdsens.SoftSphere(0.2, sigma=OUTER)


@functools.cache
def two_cutoffs(n=32):
    return RELAX(TWO_CUTOFFS, jammed(0, n).system)


def energy(x, box, D):
    """The energy of `TWO_CUTOFFS`, written for this test."""
    i, j = np.triu_indices(len(D), 1)
    apart = x[j] - x[i]
    apart = apart - jnp.round(apart / jnp.diag(box)) * jnp.diag(box)
    r = jnp.sqrt(jnp.sum(apart**2, -1))

    def spheres(epsilon, sigma):
        return 0.5 * epsilon * jnp.sum(jnp.maximum(1.0 - r / sigma, 0.0) ** 2)

    return spheres(1.0, 0.5 * (D[i] + D[j])) + spheres(0.2, OUTER)


def networks(rest):
    """The pairs within the inner and within the outer cutoff, by brute force."""
    D = np.asarray(rest.system.diameters)
    return [pairs_within(rest.system, reach) for reach in (lambda i, j: 0.5 * (D[i] + D[j]), lambda i, j: OUTER)]


def test_energy_forces_and_hessian_are_those_of_both():
    rest = two_cutoffs()
    shaken = rest.system.replace(
        positions=rest.positions + 0.02 * np.random.default_rng(0).normal(size=rest.positions.shape)
    )
    here, at = configuration(TWO_CUTOFFS, shaken), (shaken.box, shaken.diameters)
    value, slope, curvature = (jax.jit(f(energy))(shaken.positions, *at) for f in (lambda f: f, jax.grad, jax.hessian))
    found, force = energy_and_gradient(here)
    np.testing.assert_allclose(found, value, rtol=1e-12)
    np.testing.assert_allclose(force, slope, atol=1e-12)
    np.testing.assert_allclose(dense_hessian(here), curvature, atol=1e-11)


@pytest.mark.parametrize("solver", ["dense", "minres", "cholesky"])
def test_the_jacobian_is_that_of_the_pseudo_inverse(solver):
    rest = two_cutoffs()
    at = (rest.positions, rest.system.box, rest.system.diameters)
    assert rest.certificate.rattlers == ()
    hessian = np.asarray(jax.jit(jax.hessian(energy))(*at)).reshape(64, 64)
    mixed = np.asarray(jax.jit(jax.jacfwd(jax.grad(energy), 2))(*at)).reshape(64, 32)
    expected = -np.linalg.pinv(hessian, rcond=1e-9, hermitian=True) @ mixed
    relax = dataclasses.replace(RELAX, linear_solver=getattr(linear_solvers, solver)())
    found = jax.jacfwd(lambda D: relax(TWO_CUTOFFS, rest.system.replace(diameters=D)).positions)(at[2])
    assert relative(found.reshape(64, 32), expected) < 1e-8


def test_elastic_moduli_are_those_of_finite_strains():
    rest, h = two_cutoffs(), 1e-5

    def pressure(strain):
        scaled = rest.system.replace(box=(1 + strain) * rest.system.box, positions=(1 + strain) * rest.positions)
        return float(mdsens.properties.pressure(RELAX(TWO_CUTOFFS, scaled)))

    expected = -(pressure(h) - pressure(-h)) / (4 * h)
    assert float(mdsens.properties.bulk_modulus(rest)) == pytest.approx(expected, rel=1e-6)


def test_halves_of_a_potential_are_the_whole():
    whole = jammed(0, 32)
    halves = RELAX(mdsens.SoftSphere(0.5) + mdsens.SoftSphere(0.5), whole.system)
    np.testing.assert_allclose(halves.positions, whole.positions, atol=1e-10)
    one, two = whole.certificate, halves.certificate
    assert one.rattlers == two.rattlers and one.zero_modes == two.zero_modes
    assert one.contact_number == two.contact_number
    assert mdsens.properties.maxwell_count(halves) == mdsens.properties.maxwell_count(whole)
    first, second = mdsens.network(whole), mdsens.network(halves)
    np.testing.assert_array_equal(first.pairs, second.pairs)
    np.testing.assert_allclose(second.stiffness, first.stiffness, rtol=1e-9)
    interval, same = (mdsens.validity(rest, "diameters") for rest in (whole, halves))
    assert same.above.pair == interval.above.pair and same.upper == pytest.approx(interval.upper, rel=1e-6)


@pytest.mark.parametrize("name", ["soft_sphere.sigma", "soft_sphere_2.sigma"])
def test_the_range_of_validity_ends_where_a_pair_crosses_one_of_the_cutoffs(name):
    potential = mdsens.SoftSphere(sigma=1.0) + mdsens.SoftSphere(0.2, sigma=OUTER)
    rest = RELAX(potential, jammed(0, 32).system)
    found = mdsens.validity(rest, name)

    def at(step):
        moved = potential.with_parameter(name, potential.get_parameter(name) + step)
        there = RELAX(moved, rest.system).system
        reaches = (float(moved.get_parameter(each)) for each in ("soft_sphere.sigma", "soft_sphere_2.sigma"))
        return [pairs_within(there, lambda i, j, reach=reach: reach + 0.0 * i) for reach in reaches]

    here = at(0.0)
    for change in (found.below, found.above):
        inside, beyond = at(0.95 * change.step), at(1.05 * change.step)
        assert inside == here
        assert change.pair in (beyond[0] ^ here[0]) | (beyond[1] ^ here[1])


def test_contacts_of_both_cutoffs_are_in_the_network():
    rest = two_cutoffs()
    inner, outer = networks(rest)
    contacts = network(rest).contacts
    assert {contact[:2] for contact in contacts} == outer
    assert {contact[:2] for contact in contacts if len(contact) == 3} == inner


def test_a_path_meets_the_changes_at_both_cutoffs():
    rest, goal, steps = two_cutoffs(), 1.28, 200
    path = mdsens.follow(rest, "soft_sphere_2.sigma", goal)
    expected, there, seen = [], rest, network(rest).contacts
    for k in range(1, steps + 1):
        sigma = jnp.asarray(OUTER + (goal - OUTER) * k / steps)
        there = RELAX(TWO_CUTOFFS.with_parameter("soft_sphere_2.sigma", sigma), there.system)
        now = network(there).contacts
        expected += [(k / steps, contact) for contact in sorted(now ^ seen)]
        seen = now
    ours = [(event.fraction, contact) for event in path.events for contact in sorted((*event.opened, *event.closed))]
    assert path.ended is None and len(ours) >= 3
    assert sorted(contact for _, contact in ours) == sorted(contact for _, contact in expected)
    np.testing.assert_allclose(path.positions[-1], there.positions, atol=1e-8)


def test_spheres_with_screened_charges_have_the_contacts_of_the_spheres():
    """A switch takes the charges smoothly to zero: only spheres touch, and only a lonely particle is a rattler."""
    potential = mdsens.SoftSphere(alpha=2.5) + mdsens.Yukawa(0.01, 3.0)
    rest = RELAX(potential, jammed(0, 32).system)
    D = np.asarray(rest.system.diameters)
    touching = pairs_within(rest.system, lambda i, j: 0.5 * (D[i] + D[j]))
    assert network(rest).contacts == touching and rest.certificate.rattlers == ()
    assert rest.certificate.contact_number == pytest.approx(2 * len(touching) / 32)
    found = jax.grad(lambda D: jnp.sum(RELAX(potential, rest.system.replace(diameters=D)).positions ** 2))(D)
    k, h = 3, 1e-5
    up, down = (
        RELAX(potential, rest.system.replace(diameters=D + sign * h * np.eye(32)[k])).positions for sign in (1, -1)
    )
    slope = (up - down) / (2 * h)
    slope = slope - slope.mean(axis=0)
    assert float(found[k]) == pytest.approx(float(jnp.sum(2 * rest.positions * slope)), rel=1e-5)
