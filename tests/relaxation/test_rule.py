"""Derivatives of positions and energy at rest, against the NumPy reference and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from mdsens.linearization import Linearization
from reference import central_difference, same_contacts
from samples import (
    RELAX,
    at_diameters,
    jammed,
    jammed_with_rattlers,
    reference_of,
    relative,
    where_contacts_stay,
)

SPHERES = mdsens.SoftSphere()


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (2, 0.90), (3, 0.75)])
def test_the_full_jacobian_is_that_of_the_pseudo_inverse_forward_and_reverse(dim, packing_fraction):
    for seed in range(8):
        rest = jammed(seed=seed, dim=dim, packing_fraction=packing_fraction)
        expected = reference_of(rest).response_to_diameters()
        forward = jax.jacfwd(at_diameters(rest.system))(rest.system.diameters)
        assert relative(forward, expected) < 1e-8
        if seed < 2:
            reverse = jax.jacrev(at_diameters(rest.system))(rest.system.diameters)
            assert relative(reverse, forward) < 1e-9


@pytest.mark.parametrize("solver", ["dense", "minres", "cholesky", "cg", "bicgstab", "gmres"])
@pytest.mark.parametrize("packing_fraction", [0.98, 0.86])
def test_a_loss_on_raw_positions_has_the_right_gradient_with_every_solver(solver, packing_fraction):
    """The cotangent has a part along translations and rattlers, where the published recipe diverges."""
    rest = jammed_with_rattlers(packing_fraction)
    relax = mdsens.Relaxation(tolerance=1e-12, linear_solver=getattr(linear_solvers, solver)())
    weights = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape)) + 1.0

    def loss(D):
        return jnp.sum(weights * at_diameters(rest.system, relax)(D))

    expected = np.einsum("nd,ndk->k", weights, reference_of(rest).backbone().response_to_diameters())
    reverse = jax.grad(loss)(rest.system.diameters)
    exact = solver == "dense"  # an iteration stops at a residual of 1e-11, which soft modes magnify
    assert relative(reverse, expected) < (1e-8 if exact else 1e-6)
    direction = jnp.cos(jnp.arange(128.0))
    _, forward = jax.jvp(loss, (rest.system.diameters,), (direction,))
    size = float(jnp.linalg.norm(reverse) * jnp.linalg.norm(direction))
    assert abs(float(forward) - float(reverse @ direction)) < (1e-10 if exact else 1e-7) * size


def test_jit_and_vmap_give_the_same_derivatives():
    rest = jammed(seed=0, n=32)

    def loss(D):
        return jnp.sum(jnp.sin(at_diameters(rest.system)(D)))

    outside = jax.grad(loss)(rest.system.diameters)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(rest.system.diameters), outside, atol=1e-9)
    batch = rest.system.diameters * jnp.array([1.0, 1.0005, 0.9995])[:, None]
    together = jax.vmap(jax.grad(loss))(batch)
    one_by_one = [jax.grad(loss)(D) for D in batch]
    np.testing.assert_allclose(together, one_by_one, atol=1e-8)
    jacobian = jax.jit(jax.jacfwd(at_diameters(rest.system)))(rest.system.diameters)
    np.testing.assert_allclose(jacobian, reference_of(rest).response_to_diameters(), atol=1e-9)


def test_the_response_to_epsilon_and_alpha_is_a_finite_difference():
    alpha = 2.2
    potential = mdsens.SoftSphere([[1.0, 1.4], [1.4, 0.8]], alpha)

    def check(seed):
        rest = RELAX(potential, mdsens.random_packing(32, packing_fraction=0.98, seed=seed))
        by_hand, species = reference_of(rest), np.asarray(rest.system.species)
        response = jax.jacfwd(lambda p: RELAX(p, rest.system).positions)(rest.potential)
        for s, t in ((0, 0), (0, 1), (1, 1)):
            entry = np.zeros((2, 2))
            entry[s, t] += 0.5  # the symmetric part counts
            entry[t, s] += 0.5
            pairwise = entry[np.ix_(species, species)]
            difference = central_difference(by_hand, lambda h, p=pairwise: {"epsilon": by_hand.epsilon + h * p}, 1e-5)
            assert relative(response.epsilon[:, :, s, t], difference) < 1e-5
        difference = central_difference(by_hand, lambda h: {"alpha": alpha + h}, 1e-5)
        assert relative(response.alpha, difference) < 1e-5

    where_contacts_stay(check)


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (3, 0.75)])
def test_the_response_to_the_box_is_affine_motion_and_relaxation(dim, packing_fraction):
    def check(seed):
        rest = jammed(seed=seed, n=32, dim=dim, packing_fraction=packing_fraction)
        by_hand = reference_of(rest)
        response = jax.jacfwd(lambda box: RELAX(SPHERES, rest.system.replace(box=box)).positions)(rest.system.box)
        for a, b in ((0, 0), (1, 0), (0, 1)):

            def strained(h, a=a, b=b):
                box = by_hand.box.copy()
                box[a, b] += h
                return {"box": box, "positions": by_hand.x @ np.linalg.inv(by_hand.box) @ box}

            assert relative(response[:, :, a, b], central_difference(by_hand, strained, 1e-6)) < 1e-5

    where_contacts_stay(check)


def test_a_triclinic_cell_responds_as_its_reference_does():
    system = mdsens.random_packing(32, packing_fraction=0.98, seed=6)
    skewed = system.deform(system.box @ jnp.array([[1.0, 0.0], [0.4, 1.0]]))
    rest = RELAX(SPHERES, skewed)
    jacobian = jax.jacfwd(at_diameters(rest.system))(rest.system.diameters)
    assert relative(jacobian, reference_of(rest).response_to_diameters()) < 1e-8


def test_first_and_second_derivatives_of_the_relaxed_energy():
    def check(seed):
        rest = jammed(seed=seed, n=32)
        by_hand, small = reference_of(rest), np.asarray(rest.system.species) == 1

        def energy(theta, alpha):
            D = rest.system.diameters + jnp.where(small, theta, 0.0)
            return RELAX(mdsens.SoftSphere(1.0, alpha), rest.system.replace(diameters=D)).energy

        def f(theta, alpha):
            moved = by_hand.changed(diameters=by_hand.diameters + theta * small, alpha=2.0 + alpha).relaxed()
            same_contacts(by_hand, moved)
            return moved.energy()

        h = 1e-4
        first = [(f(h, 0) - f(-h, 0)) / (2 * h), (f(0, h) - f(0, -h)) / (2 * h)]
        second = [(f(h, 0) - 2 * f(0, 0) + f(-h, 0)) / h**2, (f(0, h) - 2 * f(0, 0) + f(0, -h)) / h**2]
        mixed = (f(h, h) - f(h, -h) - f(-h, h) + f(-h, -h)) / (4 * h**2)
        np.testing.assert_allclose(jax.grad(energy, (0, 1))(0.0, 2.0), first, rtol=1e-6)
        (hxx, hxy), (hyx, hyy) = jax.hessian(energy, (0, 1))(0.0, 2.0)
        np.testing.assert_allclose([hxx, hyy, hxy, hyx], [*second, mixed, mixed], rtol=1e-5)

    where_contacts_stay(check)


def test_the_second_derivative_of_positions_is_the_difference_of_first_ones():
    relax = mdsens.Relaxation(tolerance=1e-12, linear_solver=linear_solvers.cg())

    def check(seed):
        rest = jammed(seed=seed, n=32)
        by_hand, small = reference_of(rest), np.asarray(rest.system.species) == 1

        def positions(theta):
            D = rest.system.diameters + jnp.where(small, theta, 0.0)
            return relax(SPHERES, rest.system.replace(diameters=D)).positions

        def first(theta):
            moved = by_hand.changed(diameters=by_hand.diameters + theta * small).relaxed()
            same_contacts(by_hand, moved)
            return moved.response_to_diameters() @ small

        difference = (first(1e-5) - first(-1e-5)) / 2e-5
        assert relative(jax.jacfwd(jax.jacfwd(positions))(0.0), difference) < 1e-5

        def loss(theta):
            return jnp.sum(jnp.sin(positions(theta)))

        backwards, forwards = jax.grad(jax.grad(loss))(0.0), jax.jacfwd(jax.jacfwd(loss))(0.0)
        assert float(backwards) == pytest.approx(float(forwards), rel=1e-8)

    where_contacts_stay(check)


def test_a_particle_far_outside_the_cell_follows_its_image():
    rest = jammed(seed=0, n=32)
    away = rest.system.replace(positions=rest.positions.at[3].add(7 * rest.system.box[0]))
    assert int(RELAX(SPHERES, away).steps) == 0
    here, there = (
        jax.jacfwd(lambda box, s=s: RELAX(SPHERES, s.replace(box=box)).positions)(rest.system.box)
        for s in (rest.system, away)
    )
    shift = np.zeros((32, 2, 2, 2))
    shift[3, 0, 0, 0] = shift[3, 1, 0, 1] = 7.0
    np.testing.assert_allclose(there - here, shift, atol=1e-9)


def test_the_derivative_by_initial_positions_is_zero():
    rest = jammed(seed=0, n=32)
    slope = jax.grad(lambda x: jnp.sum(RELAX(SPHERES, rest.system.replace(positions=x)).positions ** 2))
    np.testing.assert_array_equal(slope(rest.positions), 0.0)


def test_a_loop_of_gradients_compiles_once(compilations):
    rest = jammed(seed=0, n=32)

    def loss(theta):
        D = jnp.where(rest.system.species == 1, theta, rest.system.diameters)
        return jnp.sum(at_diameters(rest.system)(D)[:8] ** 2)

    for theta in (0.599, 0.601):
        jax.grad(loss)(np.float64(theta))
    with compilations as counted:
        values = [float(jax.grad(loss)(theta)) for theta in np.linspace(0.599, 0.601, 20)]
    assert counted.count == 0, counted.names
    assert len(set(values)) == 20


@pytest.mark.parametrize(("derivative", "n"), [(jax.jacfwd, 33), (jax.jacrev, 34)])
def test_the_first_jacobian_reuses_the_programs_of_the_relaxation(compilations, derivative, n):
    """In sizes that no other test compiles for."""
    shared = {"advance_to", "linearize", "survey"}
    start = mdsens.random_packing(n, packing_fraction=0.98)
    with compilations as counted:
        rest = RELAX(SPHERES, start)
        mdsens.sensitivity(rest, "diameters")
    assert shared <= counted.functions
    with compilations as counted:
        derivative(at_diameters(rest.system))(rest.system.diameters)
    assert not shared & counted.functions


def test_the_gradient_of_the_energy_needs_no_linear_solve(monkeypatch):
    rest, solve, found = jammed(seed=0, n=32), Linearization.solve, []
    monkeypatch.setattr(Linearization, "solve", lambda self, b: found.append(b) or solve(self, b))

    def solves(loss):
        found.clear()
        jax.jit(jax.grad(lambda p: loss(RELAX(p, rest.system)))).lower(rest.potential)
        return len(found)

    assert solves(lambda eq: eq.energy) == 0
    assert solves(lambda eq: eq.positions[0, 0]) > 0


def test_the_response_in_single_precision():
    with jax.enable_x64(False):
        system = mdsens.random_packing(32, packing_fraction=0.98, seed=4)
        relax = mdsens.Relaxation(tolerance=2e-5, one_sided=True)
        single = jax.jacfwd(lambda D: relax(SPHERES, system.replace(diameters=D)).positions)(system.diameters)
        assert single.dtype == jnp.float32
        rest = relax(SPHERES, system)
    assert relative(single, reference_of(rest).response_to_diameters()) < 1e-2


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev, lambda f: lambda s: jax.jvp(f, (s,), (1.0,))[1]])
def test_a_response_that_cannot_be_trusted_is_never_nan_without_a_word(derivative):
    """A network that is held at one particle turns about it at no cost but that of the residual forces."""
    first, second = np.triu_indices(4, 1)
    x = np.array([[0.0, 0.0], [1.0, 0.05], [1.1, 1.0], [0.05, 0.95]])
    bonds = mdsens.Bonds(np.stack([first, second], 1), 1.0, np.array([1.0, 1.45, 1.1, 0.9, 1.3, 1.05]))
    one, refused = np.array([2], np.int32), 0

    def held(shift, stiffness):
        anchor = jnp.asarray(x[one]) + shift * jnp.array([[1.0, 0.0]])
        tether = mdsens.Tethers(anchor, stiffness, one)
        return mdsens.Relaxation()(bonds + tether, mdsens.System(x)).positions[2, 0]

    for stiffness in (3.2, 1.3, 0.5, 0.2, 0.08, 0.03, 0.013, 0.005):
        try:
            assert float(derivative(lambda s, k=stiffness: held(s, k))(0.0)) == pytest.approx(1.0, abs=1e-5)
        except mdsens.SolveFailed:
            refused += 1
    assert refused < 8
