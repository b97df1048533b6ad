"""Stress and elastic moduli, against jax-md, NumPy and finite differences of relaxed packings."""

import equinox as eqx
import jax
import numpy as np
import pytest

import mdsens
from mdsens import properties
from mdsens.parameters import ParameterVector, as_function
from reference import same_contacts
from samples import jammed, reference_of, silicon, where_contacts_stay

STEP = 1e-6


MODULI = ("pressure", "bulk_modulus", "shear_modulus", "poisson_ratio")


def stressed(seed, dim, packing_fraction):
    return jammed(seed, 32, dim, packing_fraction)


def by_strain(equilibrium, strain):
    """dσ/dγ along a strain, by NumPy; no contact may change."""
    at_rest = reference_of(equilibrium).backbone().relaxed()
    ahead, behind = (at_rest.strained(sign * STEP * strain) for sign in (1, -1))
    same_contacts(at_rest, ahead, behind)
    return (ahead.stress() - behind.stress()) / (2 * STEP)


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.87), (2, 1.1), (3, 0.67), (3, 0.9)])
def test_the_elastic_tensor_is_that_of_jax_md(dim, packing_fraction):
    from jax_md import elasticity, energy, space

    rest = stressed(0, dim, packing_fraction)
    D = rest.system.diameters
    displacement, _ = space.periodic_general(rest.system.box, fractional_coordinates=False)
    sigma = 0.5 * (D[:, None] + D[None])
    function = energy.soft_sphere_pair(displacement, sigma=sigma, epsilon=1.0, alpha=2)
    emt = elasticity.athermal_moduli(function, tether_strength=1e-12, cg_tol=1e-12)
    expected = emt(rest.positions, rest.system.box)
    np.testing.assert_allclose(properties.elastic_tensor(rest), expected, atol=1e-6 * np.abs(expected).max())
    theirs, ours = elasticity.extract_isotropic_moduli(expected), properties.table(rest)
    for name, symbol in (
        ("bulk_modulus", "B"),
        ("shear_modulus", "G"),
        ("young_modulus", "E"),
        ("poisson_ratio", "nu"),
    ):
        assert ours[f"{name}_without_pressure"] == pytest.approx(float(theirs[symbol]), rel=1e-4)
        assert ours[name] != pytest.approx(float(theirs[symbol]), rel=1e-4)  # these packings are under pressure


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.9), (2, 1.1), (3, 0.7), (3, 0.9)])
def test_moduli_are_what_a_strained_packing_shows(dim, packing_fraction):
    def check(seed):
        rest = stressed(seed, dim, packing_fraction)
        dilation = by_strain(rest, np.eye(dim))
        np.testing.assert_allclose(properties.bulk_modulus(rest), np.trace(dilation) / dim**2, rtol=1e-5)
        shear = np.zeros((dim, dim))
        shear[0, 1] = shear[1, 0] = 0.5
        np.testing.assert_allclose(properties.shear_modulus(rest, (0, 1)), by_strain(rest, shear)[0, 1], rtol=1e-5)

    where_contacts_stay(check)


@pytest.mark.parametrize("dim", [2, 3])
def test_moduli_averaged_over_orientations(dim):
    """In 3D over the planes of many random axes, in 2D over evenly spaced angles."""
    rest = stressed(1, dim, 1.0)
    rng, tensor, tension = np.random.default_rng(0), properties.elastic_tensor(rest), properties.stress(rest)
    angles = [np.linalg.qr(rng.normal(size=(dim, dim)))[0] for _ in range(4000)]
    if dim == 2:
        angles = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in np.pi * np.arange(8) / 8]
    planes = np.array(angles)[:, :2]
    a, b = planes[:, 0], planes[:, 1]
    along = np.einsum("ka,kb,kc,kd,abcd->k", a, b, a, b, tensor)
    along += 0.25 * (np.einsum("ka,kb,ab->k", a, a, tension) + np.einsum("ka,kb,ab->k", b, b, tension))
    np.testing.assert_allclose(properties.shear_modulus(rest), along.mean(), rtol=1e-12 if dim == 2 else 0.01)


def test_stress_is_that_of_numpy():
    rest = stressed(0, 3, 0.9)
    np.testing.assert_allclose(properties.stress(rest), reference_of(rest).stress(), atol=1e-13)
    np.testing.assert_allclose(properties.pressure(rest), -np.trace(reference_of(rest).stress()) / 3, rtol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_derivatives_of_moduli_are_finite_differences(dim):
    epsilon = ((1.0, 1.2), (1.2, 0.9))
    relax = mdsens.Relaxation(tolerance=1e-13)

    def check(seed):
        start = mdsens.random_packing(32, dim, packing_fraction=0.95 if dim == 2 else 0.8, seed=seed)
        rest = relax(mdsens.SoftSphere(epsilon), start)
        parameters = ParameterVector.from_names(["species-diameter:1", "epsilon"], rest.potential, rest.system)
        value = parameters.vector(rest.potential, rest.system)

        def measure(value, rest=rest):
            return properties.measured(as_function(rest, parameters, value), MODULI)

        forward = eqx.filter_jit(jax.jacfwd(measure))(value)
        reverse = eqx.filter_jit(jax.jacrev(measure))(value)
        np.testing.assert_allclose(forward, reverse, atol=1e-9 * np.abs(forward).max())
        for k in range(value.size):
            ahead, behind = (
                relax(*parameters.apply(value.at[k].add(h), rest.potential, rest.system)) for h in (STEP, -STEP)
            )
            same_contacts(*map(reference_of, (rest, ahead, behind)))
            difference = (properties.measured(ahead, MODULI) - properties.measured(behind, MODULI)) / (2 * STEP)
            np.testing.assert_allclose(forward[:, k], difference, atol=1e-4 * np.abs(difference).max(), rtol=1e-3)

    where_contacts_stay(check)


def test_elastic_constants_of_silicon_are_those_published():
    """C11, C12, C44, relaxed, in GPa: 151, 76, 56 (Balamane, Halicioglu and Tiller, Phys. Rev. B 46, 2250 (1992))."""
    rest = mdsens.Relaxation(tolerance=1e-9)(mdsens.StillingerWeber(), silicon())
    tensor = 160.21766 * np.asarray(mdsens.properties.elastic_tensor(rest))  # eV/Å³
    assert [float(tensor[i]) for i in ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 0, 1))] == pytest.approx(
        [151, 76, 56], abs=1.0
    )


def test_moduli_before_relaxing_are_those_of_the_affine_tensor():
    rest = jammed(seed=2, n=32)
    affine, p = np.asarray(mdsens.properties.affine_elastic_tensor(rest)), float(mdsens.properties.pressure(rest))
    found = mdsens.properties.affine_moduli(rest)
    bulk = (np.einsum("aabb->", affine) + 2 * p) / 4
    shear = (np.einsum("abab->", affine) - np.einsum("aabb->", affine) / 2) / 4 - p / 2
    assert float(found["bulk_modulus"]) == pytest.approx(bulk) and float(found["shear_modulus"]) == pytest.approx(shear)
    assert float(found["poisson_ratio"]) == pytest.approx((bulk - shear) / (bulk + shear))
    assert bulk > float(mdsens.properties.bulk_modulus(rest))
