"""Motions without a response, and responses that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from mdsens.landscape.configuration import Configuration
from mdsens.linearization import linearize
from samples import (
    RELAX,
    at_diameters,
    jacobians_under_jit,
    jammed,
    jammed_with_rattlers,
    just_touching,
    reference_of,
)

SPHERES = mdsens.SoftSphere()


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
    # a common factor of all σ scales the cluster about its center
    np.testing.assert_allclose(jacobian.sum(axis=-1), arm, atol=1e-8)


@pytest.mark.parametrize("case", ["one particle", "two apart", "unjammed"])
def test_below_jamming_the_response_is_refused_and_the_energy_gradient_is_zero(case):
    system = {
        "one particle": mdsens.System([[0.3, 0.2]], 5.0, 1.0),
        "two apart": mdsens.System([[0.3, 0.2], [2.5, 0.2]], 5.0, 1.0),
        "unjammed": mdsens.random_packing(32, packing_fraction=0.4),
    }[case]
    rest = RELAX(SPHERES, system)
    assert float(rest.energy) == 0.0
    assert rest.certificate.kind == "flat" and "no contacts constrain" in str(rest.certificate)
    at = at_diameters(rest.system)
    for jacobian in (jax.jacfwd(at), jax.jacrev(at)):
        with pytest.raises(mdsens.NotRigid, match=r"no contacts constrain the particles.*Compress"):
            jacobian(rest.system.diameters)
    forward, reverse = jacobians_under_jit(at)(rest.system.diameters)
    assert np.isnan(forward).all() and np.isnan(reverse).all()
    unchecked = mdsens.Relaxation(tolerance=1e-12, throw=False)
    np.testing.assert_array_equal(jax.jacrev(at_diameters(rest.system, unchecked))(rest.system.diameters), 0.0)
    slope = jax.grad(lambda p: RELAX(p, rest.system).energy)(SPHERES)
    assert float(slope.epsilon) == float(slope.alpha) == 0.0


def test_residual_forces_that_hide_the_backbone_are_not_taken_for_a_flat_energy():
    start = jammed(n=32).system
    shaken = start.replace(positions=start.positions + 2e-2 * jnp.cos(jnp.arange(64.0)).reshape(32, 2))
    rest = mdsens.Relaxation(tolerance=1e-2)(SPHERES, shaken)
    assert bool(rest.converged) and len(rest.certificate.rattlers) == 32
    assert rest.certificate.kind == "unknown" and "smaller tolerance" in str(rest.certificate)
    one_sided = dataclasses.replace(rest, rule=dataclasses.replace(rest.rule, one_sided=True))
    for ask in (mdsens.properties.bulk_modulus, lambda eq: mdsens.sensitivity(eq, "species-diameter:1")):
        for equilibrium in (rest, one_sided):
            with pytest.raises(mdsens.NotDifferentiable, match=r"hide which contacts constrain 32 of 32 .*smaller tol"):
                ask(equilibrium)
    at = at_diameters(rest.system, mdsens.Relaxation(tolerance=1e-2, one_sided=True))
    assert np.isnan(jax.jit(jax.jacfwd(at))(rest.system.diameters)).all()


def test_contacts_with_less_than_the_residual_force_are_unresolved():
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


def test_soft_particles_with_contacts_below_the_residual_force_are_unresolved():
    """The large particles are jammed by themselves; forces of 1e-10 constrain the others between them."""
    potential = mdsens.SoftSphere(epsilon=[[1.0, 1e-9], [1e-9, 1e-9]])
    rest = mdsens.Relaxation(tolerance=1e-9)(potential, mdsens.random_packing(32, packing_fraction=1.3))
    assert rest.certificate.unresolved and "UNRESOLVED" in str(rest.certificate) and rest.certificate.kind == "unknown"
    with pytest.raises(mdsens.NotDifferentiable, match="hide which contacts constrain"):
        mdsens.sensitivity(rest, "species-diameter:0")


def test_an_indeterminate_contact_is_refused_by_name_unless_one_side_is_requested():
    rest, (i, j) = just_touching()
    assert rest.certificate.indeterminate == ((i, j),) and "INDETERMINATE" in str(rest.certificate)

    def at(alpha, relax=RELAX):
        return relax(mdsens.SoftSphere(alpha=alpha, sigma=rest.potential.sigma), rest.system).positions

    with pytest.raises(mdsens.NotDifferentiable, match=f"particles {i} and {j} touch to within"):
        jax.jacfwd(at)(2.0)
    forward, reverse = jacobians_under_jit(at)(jnp.asarray(2.0))
    assert np.isnan(forward).all() and np.isnan(reverse).all()
    one_sided = jax.jacfwd(lambda a: at(a, mdsens.Relaxation(tolerance=1e-12, one_sided=True)))(2.0)
    by_hand = reference_of(rest)
    np.testing.assert_allclose(one_sided.ravel(), -by_hand.inverse() @ by_hand.gradient_by_alpha(), atol=1e-9)


def test_a_touching_pair_is_not_indeterminate_where_the_stiffness_is_continuous():
    rest, _ = just_touching(alpha=2.5)
    assert rest.certificate.indeterminate == ()
    response = jax.jacfwd(lambda p: RELAX(p, rest.system).positions)(rest.potential)
    assert np.isfinite(response.alpha).all()


class _Counted(mdsens.PairPotential):
    """Springs that count how often a program evaluates them."""

    evaluations = 0

    def pair_energy(self, r, sigma):
        type(self).evaluations += 1
        return 0.5 * (1.0 - r / sigma) ** 2

    def cutoff(self, sigma):
        return sigma

    def pair_stiffness(self, sigma):
        return 1.0 / sigma**2


class _CountedTethers(mdsens.LocalPotential):
    evaluations = 0

    def groups(self, system):
        return jnp.arange(system.n)[:, None]

    def term_energy(self, x, diameters):
        type(self).evaluations += 1
        return 0.005 * jnp.sum(x**2)


def test_a_linearization_evaluates_each_term_once_for_all_that_need_it():
    rest = jammed(n=32, packing_fraction=0.95)
    potential = _Counted() + _CountedTethers()
    here = Configuration(potential, rest.system, rest.all_neighbors)
    _Counted.evaluations = _CountedTethers.evaluations = 0
    jax.eval_shape(lambda here: linearize(here, linear_solvers.cholesky()).hessian.scale(), here)
    # φ' and φ'' together, and φ'' at the cutoff where contacts may be lost
    assert _Counted.evaluations <= 2
    # the typical stiffness, first and second derivatives, the force on all particles, and φ'' a little beside
    assert _CountedTethers.evaluations <= 5


def test_what_a_configuration_knows_is_what_it_computes():
    rest = jammed(n=32, packing_fraction=0.95)
    potential = mdsens.SoftSphere() + mdsens.Tethers(rest.positions + 0.1, 0.01)
    here = Configuration(potential, rest.system, rest.all_neighbors)
    loose = jnp.arange(32) < 3

    @jax.jit
    def found(here):
        with_all, backbone = here.pairs, here.without(loose)
        of_pairs = (with_all.slope, with_all.curvature, with_all.gap, with_all.stiffness_at_cutoff)
        of_pairs += (backbone.pairs.slope, backbone.pairs.blocks())
        return of_pairs, here.gradient(), backbone.gradient(), here.stiffness, here.length, backbone.hessian().dense()

    known, computed = found(jax.jit(Configuration.evaluated)(here)), found(here)
    for one, other in zip(jax.tree.leaves(known), jax.tree.leaves(computed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
