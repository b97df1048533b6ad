"""A problem has the same answer in every system of units, and a tolerance that means nothing is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.spatial

import mdsens
from mdsens.potentials import JaxMD

UNITS = [(1.0, 1.0), (3.4e-10, 1.65e-21), (3.4e-8, 1.65e-14), (1e3, 1e5)]
"""σ and ε of argon in reduced units, in m and J, in cm and erg; and large ones."""


def bond(positions):
    return jnp.linalg.norm(positions[1] - positions[0])


@pytest.mark.parametrize("diameters", ["their own", "not given"])
@pytest.mark.parametrize(("sigma", "epsilon"), UNITS)
def test_a_dimer_is_as_long_as_the_potential_says(sigma, epsilon, diameters):
    """r = 2^(1/6) σ, whatever the unit: a fixed tolerance of 1e-10 is above every force in m and J."""
    size = sigma if diameters == "their own" else 1.0
    start = mdsens.System(sigma * np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0]]), diameters=size)

    def rest(s):
        return mdsens.Relaxation()(mdsens.LennardJones(epsilon, sigma=s, range=np.inf), start)

    assert float(bond(rest(sigma).positions)) == pytest.approx(2 ** (1 / 6) * sigma, rel=1e-9)
    for derivative in (jax.grad, jax.jacfwd):
        assert float(derivative(lambda s: bond(rest(s).positions))(sigma)) == pytest.approx(2 ** (1 / 6), rel=1e-8)
    assert int(rest(sigma).steps) == int(rest(sigma).steps) > 50


def test_a_tolerance_is_the_same_part_of_the_forces_in_every_unit():
    potential, packing = mdsens.SoftSphere(), mdsens.random_packing(32, packing_fraction=0.98)
    found = []
    for length, energy in UNITS:
        system = packing.replace(
            positions=length * packing.positions, box=length * packing.box, diameters=length * packing.diameters
        )
        found.append(mdsens.Relaxation()(mdsens.SoftSphere(epsilon=energy), system))
        assert float(found[-1].energy) / energy == pytest.approx(float(found[0].energy), rel=1e-9)
        assert (
            0.1 < float(found[-1].tolerance) / (1e-10 * float(potential.force_scale(packing)) * energy / length) <= 1.0
        )
    assert float(found[0].tolerance) == 1e-10
    steps = {int(each.steps) for each in found}
    assert max(steps) - min(steps) <= 40  # the tolerances are rounded to powers of ten


def test_a_tolerance_above_every_force_is_refused():
    sigma, epsilon = UNITS[1]
    dimer = mdsens.System(sigma * np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0]]), diameters=sigma)
    with pytest.raises(mdsens.InvalidInput, match="the tolerance 1e-10 is no small force here"):
        mdsens.Relaxation(tolerance=1e-10)(mdsens.LennardJones(epsilon), dimer)
    for wrong in ({"tolerance": 0.0}, {"tolerance": float("nan")}, {"relative_tolerance": 1.0}):
        with pytest.raises(mdsens.InvalidInput, match="tolerance must be"):
            mdsens.Relaxation(**wrong)


def test_inside_jit_the_tolerance_is_the_same():
    packing = mdsens.random_packing(32, packing_fraction=0.98)
    relax = mdsens.Relaxation()
    for epsilon in (1.0, 1e-21):
        outside = relax(mdsens.SoftSphere(epsilon), packing)
        inside = jax.jit(lambda e: relax(mdsens.SoftSphere(e), packing).tolerance)(epsilon)
        assert float(inside) == pytest.approx(float(outside.tolerance), rel=1e-12)


def test_each_member_of_an_ensemble_has_its_own_tolerance():
    systems = [mdsens.random_packing(32, packing_fraction=0.98, seed=k) for k in range(2)]
    potentials = [mdsens.SoftSphere(1.0), mdsens.SoftSphere(1e-6)]
    rest = mdsens.relax_ensemble(mdsens.Relaxation(), potentials, systems)
    np.testing.assert_allclose(rest.tolerance, [1e-10, 1e-16], rtol=1e-12)
    assert np.asarray(rest.minimum).all()


def test_the_stiffness_measured_is_not_that_of_the_closest_pair():
    """At a random start it would be 1e16, and every force would be small."""
    from jax_md import energy

    potential = JaxMD(energy.lennard_jones_pair, epsilon=1.0, sigma=1.0)
    for seed in range(3):
        start = mdsens.System(6.0 * np.random.default_rng(seed).uniform(size=(32, 2)), 6.0)
        assert 50.0 < float(potential.prepared_for(start).typical_stiffness(start)) < 3e4


def test_under_vmap_over_positions_the_tolerance_may_be_a_number_already():
    packing = mdsens.random_packing(16, packing_fraction=0.98)
    many = jnp.stack([packing.positions, packing.positions + 0.01 * jnp.sin(jnp.arange(32.0)).reshape(16, 2)])
    found = jax.vmap(lambda x: mdsens.Relaxation()(mdsens.SoftSphere(), packing.replace(positions=x)).max_force)(many)
    assert np.asarray(found <= 1e-10).all()


@pytest.mark.parametrize("epsilon", [1.0, 1e-9])
def test_the_stiffness_of_an_energy_of_jax_md_is_measured(epsilon):
    """With a stiffness taken as 1 a well 1e-9 deep needs a million steps."""
    from jax_md import energy

    x = np.array([[0.0, 0.0], [1.1, 0.05], [0.5, 0.9], [1.6, 0.95]])
    potential = JaxMD(energy.lennard_jones_pair, epsilon=epsilon, sigma=1.0, r_onset=8.0, r_cutoff=10.0)
    rest = mdsens.Relaxation()(potential, mdsens.System(x))
    assert bool(rest.minimum) and int(rest.steps) < 400

    def by_scipy(flat):
        sixth = scipy.spatial.distance.pdist(flat.reshape(4, 2)) ** -6.0
        return np.sum(4.0 * (sixth**2 - sixth))

    lowest = scipy.optimize.minimize(by_scipy, x.ravel(), tol=1e-10).fun
    assert float(rest.energy) / epsilon == pytest.approx(lowest, rel=1e-6)  # jax-md's switch at 8 σ


@pytest.mark.parametrize("apart", [36.0, 1.2e2, 1.2e4])
def test_two_particles_that_feel_nothing_of_each_other_have_no_response(apart):
    """As where positions are in a wrong unit: every force is below the tolerance, and so is what resists a motion."""
    start = mdsens.System(np.array([[0.0, 0.0, 0.0], [apart, 0.0, 0.0]]))

    def length(s):
        return bond(mdsens.Relaxation()(mdsens.LennardJones(sigma=s, range=np.inf), start).positions)

    assert float(length(1.0)) == pytest.approx(apart, rel=1e-6)
    for derivative in (jax.grad, jax.jacfwd):
        with pytest.raises(mdsens.NotRigid, match="no contacts constrain the particles") as caught:
            derivative(length)(1.0)
        assert caught.value.status is mdsens.errors.Status.NOT_RIGID
