"""Systems, parameters, options and results that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens

SPHERES = mdsens.SoftSphere()


def nan_position(system):
    return system.replace(positions=system.positions.at[3, 1].set(jnp.nan))


def coincident(system):
    return system.replace(positions=system.positions.at[5].set(system.positions[2]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_position, "position of particle 3 is not finite"),
        (coincident, "particles 2 and 5 are on the same point"),
        (lambda s: s.replace(box=0.5), "cell is too small for the cutoff"),
        (lambda s: s.replace(box=jnp.ones((2, 2))), "not the cell of a lattice"),
        (lambda s: s.replace(diameters=s.diameters.at[0].set(0.0)), "diameter of particle 0"),
        (lambda s: s.replace(diameters=s.diameters.at[:2].set(jnp.inf)), "diameter of particles 0, 1"),
    ],
)
def test_systems_that_cannot_be_relaxed_are_refused(spoil, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.Relaxation()(SPHERES, spoil(mdsens.random_packing(32)))


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (mdsens.SoftSphere(epsilon=jnp.ones((1, 1)), alpha=jnp.ones((2, 2))), "same size"),
        (mdsens.SoftSphere(sigma=-1.0), "sigma must be"),
        (mdsens.SoftSphere(epsilon=[1.0, 2.0]), "one number"),
        (mdsens.SoftSphere(alpha=float("nan")), "not all finite"),
    ],
)
def test_invalid_parameters_are_refused(potential, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.Relaxation()(potential, mdsens.random_packing(32))


def test_species_beyond_the_matrices_are_refused_and_nan_under_jit():
    system, potential = (
        mdsens.random_packing(32, diameters=(1.0, 0.8, 0.6)),
        mdsens.SoftSphere(epsilon=jnp.ones((2, 2))),
    )
    with pytest.raises(mdsens.InvalidInput, match="species reach from 0 to 2"):
        mdsens.Relaxation()(potential, system)
    assert np.isnan(jax.jit(mdsens.Relaxation())(potential, system).energy)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"max_steps": 0}])
def test_invalid_options_are_refused(options):
    with pytest.raises(mdsens.InvalidInput):
        mdsens.Relaxation(**options)


def test_a_tolerance_that_single_precision_cannot_reach_is_refused():
    with jax.enable_x64(False):
        system = mdsens.random_packing(128)
        with pytest.raises(mdsens.InvalidInput, match=r"cannot be reached in float32.*jax_enable_x64"):
            mdsens.Relaxation(tolerance=1e-10)(SPHERES, system)
        assert bool(mdsens.Relaxation(tolerance=2e-5)(SPHERES, system).converged)


def test_an_unfinished_result_of_jit_is_refused_by_name():
    rest = jax.jit(mdsens.Relaxation(max_steps=20))(SPHERES, mdsens.random_packing(32))
    for ask in (mdsens.sensitivity, mdsens.validity):
        with pytest.raises(mdsens.NotConverged, match="after 20 steps"):
            ask(rest, "diameters")
    unfinished = mdsens.Relaxation(max_steps=20, throw=False)(SPHERES, mdsens.random_packing(32))
    assert unfinished.certificate.kind == "unknown" and "not at rest" in str(unfinished.certificate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mdsens.Relaxation()(mdsens.random_packing(8), mdsens.SoftSphere()), "not System, SoftSphere"),
        (lambda: mdsens.Relaxation()(mdsens.SoftSphere, mdsens.random_packing(8)), "not SoftSphere, System"),
        (lambda: mdsens.Relaxation(minimizer=mdsens.FIRE), "minimizer must be one"),
        (lambda: mdsens.Relaxation(linear_solver="dense"), r"linear_solvers\.dense\(\)"),
        (lambda: mdsens.Relaxation(tolerance="1e-10"), "tolerance"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(make, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        make()
