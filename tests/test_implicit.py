import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import RELAX, jammed, jammed_with_rattlers, marginal, reference_of, where_contacts_stay
from mdsens import linear_solvers
from reference import central_difference, same_contacts

SPHERES = mdsens.SoftSphere()


def at_diameters(system, relax=RELAX, potential=SPHERES):
    return lambda D: relax(potential, system.replace(diameters=D)).positions


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(b)


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
    """The cotangent has a part along translations and rattlers: where the published recipe diverges."""
    rest = jammed_with_rattlers(packing_fraction)
    relax = mdsens.Relaxation(tolerance=1e-12, linear_solver=getattr(linear_solvers, solver)())
    weights = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape)) + 1.0

    def loss(D):
        return jnp.sum(weights * at_diameters(rest.system, relax)(D))

    expected = np.einsum("nd,ndk->k", weights, reference_of(rest).response_to_diameters())
    reverse = jax.grad(loss)(rest.system.diameters)
    exact = solver == "dense"  # an iteration stops at a residual of 1e-11, and soft modes magnify what is left
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
        rest = RELAX(potential, mdsens.random_packing(64, packing_fraction=0.98, seed=seed))
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
        rest = jammed(seed=seed, n=64, dim=dim, packing_fraction=packing_fraction)
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
    system = mdsens.random_packing(64, packing_fraction=0.98, seed=6)
    skewed = system.deform(system.box @ jnp.array([[1.0, 0.0], [0.4, 1.0]]))
    rest = RELAX(SPHERES, skewed)
    jacobian = jax.jacfwd(at_diameters(rest.system))(rest.system.diameters)
    assert relative(jacobian, reference_of(rest).response_to_diameters()) < 1e-8


def test_first_and_second_derivatives_of_the_relaxed_energy():
    def check(seed):
        rest = jammed(seed=seed, n=64)
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


def test_translations_and_rattlers_do_not_move():
    rest = jammed_with_rattlers(0.86)
    ids = list(rest.certificate.rattlers)
    jacobian = np.asarray(jax.jacfwd(at_diameters(rest.system))(rest.system.diameters))
    np.testing.assert_array_equal(jacobian[ids], 0.0)
    np.testing.assert_allclose(jacobian.sum(axis=0), 0.0, atol=1e-11)


def test_an_open_cluster_neither_drifts_nor_turns():
    cluster = mdsens.System(np.random.default_rng(3).uniform(0, 2.2, size=(8, 2)), None, 1.0)
    rest = RELAX(mdsens.LennardJones(), cluster)
    growth = jax.jacfwd(lambda s: RELAX(mdsens.LennardJones(), rest.system.replace(diameters=s)).positions)
    jacobian = np.asarray(growth(rest.system.diameters))
    arm = np.asarray(rest.positions) - np.mean(rest.positions, axis=0)
    turning = np.einsum("n,nk->k", arm[:, 0], jacobian[:, 1]) - np.einsum("n,nk->k", arm[:, 1], jacobian[:, 0])
    np.testing.assert_allclose(jacobian.sum(axis=0), 0.0, atol=1e-10)
    np.testing.assert_allclose(turning, 0.0, atol=1e-9)
    # all σ growing alike scales the cluster about its center
    np.testing.assert_allclose(jacobian.sum(axis=-1), arm, atol=1e-8)


@pytest.mark.parametrize("case", ["one particle", "two apart", "unjammed"])
def test_where_nothing_is_held_the_response_is_refused_and_that_of_the_energy_is_zero(case):
    system = {
        "one particle": mdsens.System([[0.3, 0.2]], 5.0, 1.0),
        "two apart": mdsens.System([[0.3, 0.2], [2.5, 0.2]], 5.0, 1.0),
        "unjammed": mdsens.random_packing(24, packing_fraction=0.4),
    }[case]
    rest = RELAX(SPHERES, system)
    assert float(rest.energy) == 0.0
    assert rest.certificate.kind == "flat" and "nothing is held" in str(rest.certificate)
    at = at_diameters(rest.system)
    for jacobian in (jax.jacfwd(at), jax.jacrev(at)):
        with pytest.raises(mdsens.NotRigid, match=r"nothing holds the particles.*Compress"):
            jacobian(rest.system.diameters)
        assert np.isnan(jax.jit(jacobian)(rest.system.diameters)).any()
    as_it_is = mdsens.Relaxation(tolerance=1e-12, throw=False)
    np.testing.assert_array_equal(jax.jacrev(at_diameters(rest.system, as_it_is))(rest.system.diameters), 0.0)
    slope = jax.grad(lambda p: RELAX(p, rest.system).energy)(SPHERES)
    assert float(slope.epsilon) == float(slope.alpha) == 0.0


def test_forces_left_that_hide_what_holds_a_packing_are_not_taken_for_a_flat_energy():
    start = jammed(n=32).system
    shaken = start.replace(positions=start.positions + 2e-2 * jnp.cos(jnp.arange(64.0)).reshape(32, 2))
    rest = mdsens.Relaxation(tolerance=1e-1)(SPHERES, shaken)
    assert bool(rest.converged) and len(rest.certificate.rattlers) == 32
    assert rest.certificate.kind == "unknown" and "smaller tolerance" in str(rest.certificate)
    as_found = dataclasses.replace(rest, rule=dataclasses.replace(rest.rule, one_sided=True))
    for ask in (mdsens.properties.bulk_modulus, lambda eq: mdsens.sensitivity(eq, "species-diameter:1")):
        for equilibrium in (rest, as_found):
            with pytest.raises(mdsens.NotDifferentiable, match=r"hide what holds 32 of 32 .*smaller tol"):
                ask(equilibrium)
    at = at_diameters(rest.system, mdsens.Relaxation(tolerance=1e-1, one_sided=True))
    assert np.isnan(jax.jit(jax.jacfwd(at))(rest.system.diameters)).all()


def test_soft_contacts_that_bear_less_than_the_forces_left_are_not_taken_for_none():
    """A crystal of quartic disks, each squeezed by 3e-4: forces of 3e-11."""
    spacing, k = 1.0 - 3e-4, np.arange(16)
    row = np.array([0.0, np.sqrt(0.75)])
    x = spacing * (np.stack([k % 4 + 0.5 * (k // 4 % 2), 0.0 * k], axis=1) + (k // 4)[:, None] * row)
    crystal = mdsens.System(
        x + 1e-6 * np.sin(np.arange(32.0)).reshape(16, 2), spacing * np.diag([4.0, np.sqrt(12)]), 1.0
    )
    rest = mdsens.Relaxation(tolerance=1e-10)(mdsens.SoftSphere(alpha=4.0), crystal)
    assert len(rest.certificate.rattlers) == 16 and rest.certificate.kind == "unknown"
    with pytest.raises(mdsens.NotDifferentiable):
        mdsens.properties.bulk_modulus(rest)
    finer = mdsens.Relaxation(tolerance=1e-16)(mdsens.SoftSphere(alpha=4.0), crystal)
    # E = (3/4)(1 - a)⁴ for each, ρ = 2/(√3 a²): K = ρ a²/4 d²E/da², a → 1
    assert float(mdsens.properties.bulk_modulus(finer)) == pytest.approx(9 * 9e-8 / (2 * np.sqrt(3)), rel=1e-2)


def test_soft_particles_whose_contacts_are_hidden_by_the_forces_left_are_not_taken_for_rattlers():
    """The large ones are jammed by themselves; forces of 1e-10 hold the others between them."""
    potential = mdsens.SoftSphere(epsilon=[[1.0, 1e-9], [1e-9, 1e-9]])
    rest = mdsens.Relaxation(tolerance=1e-9)(potential, mdsens.random_packing(32, packing_fraction=1.3))
    assert rest.certificate.hidden and "HIDDEN" in str(rest.certificate) and rest.certificate.kind == "unknown"
    with pytest.raises(mdsens.NotDifferentiable, match="hide what holds"):
        mdsens.sensitivity(rest, "species-diameter:0")


def test_a_contact_within_rounding_of_touching_is_refused_by_name_unless_one_side_is_asked_for():
    rest, (i, j) = marginal()
    assert rest.certificate.marginal == ((i, j),) and "MARGINAL" in str(rest.certificate)

    def at(alpha, relax=RELAX):
        return relax(mdsens.SoftSphere(alpha=alpha, sigma=rest.potential.sigma), rest.system).positions

    with pytest.raises(mdsens.NotDifferentiable, match=f"particles {i} and {j} touch to within"):
        jax.jacfwd(at)(2.0)
    assert np.isnan(jax.jit(jax.jacfwd(at))(2.0)).all()
    assert np.isnan(jax.jit(jax.grad(lambda a: at(a)[0, 0]))(2.0))
    as_found = jax.jacfwd(lambda a: at(a, mdsens.Relaxation(tolerance=1e-12, one_sided=True)))(2.0)
    by_hand = reference_of(rest)
    np.testing.assert_allclose(as_found.ravel(), -by_hand.inverse() @ by_hand.gradient_by_alpha(), atol=1e-9)


def test_where_the_stiffness_does_not_jump_touching_is_no_matter():
    rest, _ = marginal(alpha=2.5)
    assert rest.certificate.marginal == ()
    response = jax.jacfwd(lambda p: RELAX(p, rest.system).positions)(rest.potential)
    assert np.isfinite(response.alpha).all()


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


def test_initial_positions_and_species_have_no_part_in_the_derivative():
    rest = jammed(seed=0, n=32)
    slope = jax.grad(lambda x: jnp.sum(RELAX(SPHERES, rest.system.replace(positions=x)).positions ** 2))
    np.testing.assert_array_equal(slope(rest.positions), 0.0)


def test_a_loop_of_gradients_compiles_once(compilations):
    rest = jammed(seed=0, n=64)

    def loss(theta):
        D = jnp.where(rest.system.species == 1, theta, rest.system.diameters)
        return jnp.sum(at_diameters(rest.system)(D)[:8] ** 2)

    for theta in (0.599, 0.601):
        jax.grad(loss)(np.float64(theta))
    with compilations as counted:
        values = [float(jax.grad(loss)(theta)) for theta in np.linspace(0.599, 0.601, 20)]
    assert counted.count == 0, counted.names
    assert len(set(values)) == 20


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])
def test_what_a_relaxation_has_compiled_its_first_jacobian_finds(compilations, derivative):
    rest = jammed(seed=0, n=33)  # of a size of its own
    mdsens.sensitivity(rest, "diameters")
    with compilations as counted:
        derivative(at_diameters(rest.system))(rest.system.diameters)
    compiled = {name.removeprefix("jit(").removesuffix(")") for name in counted.names}
    assert compiled & {"descend", "lowest_curvature", "start_at", "build", "hold", "by_place"} == set()


def test_the_gradient_of_the_energy_solves_nothing():
    rest = jammed(seed=0, n=32)

    def solves(loss):
        program = jax.make_jaxpr(jax.grad(lambda p: loss(RELAX(p, rest.system))))(rest.potential)
        return str(program).count("custom_linear_solve")

    assert solves(lambda eq: eq.energy) == 0
    assert solves(lambda eq: eq.positions[0, 0]) > 0


def test_it_works_in_single_precision():
    with jax.enable_x64(False):
        system = mdsens.random_packing(64, packing_fraction=0.98, seed=4)
        relax = mdsens.Relaxation(tolerance=2e-5, one_sided=True)
        single = jax.jacfwd(lambda D: relax(SPHERES, system.replace(diameters=D)).positions)(system.diameters)
        assert single.dtype == jnp.float32
        rest = relax(SPHERES, system)
    assert relative(single, reference_of(rest).response_to_diameters()) < 1e-2
