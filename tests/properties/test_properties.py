"""Properties of an equilibrium: vibrations, tables, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import properties
from samples import jammed, reference_of

STEP = 1e-6


def stressed(seed, dim, packing_fraction):
    return jammed(seed, 32, dim, packing_fraction)


def test_a_potential_that_is_no_sum_over_pairs_has_the_same_moduli():
    from jax_md import energy

    rest = jammed(0, 16, 2, 1.3)
    sigma = lambda system: {"sigma": 0.5 * (system.diameters[:, None] + system.diameters[None])}  # noqa: E731
    soft = mdsens.JaxMD(lambda displacement, sigma: energy.soft_sphere_pair(displacement, sigma=sigma), sigma)
    general = mdsens.Relaxation(tolerance=1e-11)(soft, rest.system)
    np.testing.assert_allclose(properties.elastic_tensor(general), properties.elastic_tensor(rest), rtol=1e-6)
    np.testing.assert_allclose(properties.stress(general), properties.stress(rest), rtol=1e-8)
    with pytest.raises(mdsens.InvalidInput, match="no contacts"):
        properties.contact_number(general)
    assert "contact_number" not in properties.table(general)


def test_vibrations_are_the_spectrum_of_the_hessian():
    rest = jammed(0, 32, 2, 0.9)
    modes = properties.vibrational_modes(rest)
    expected = np.sort(np.linalg.eigvalsh(reference_of(rest).backbone().hessian()))
    found = np.asarray(modes.frequencies)
    zero = int(modes.zero_modes)
    assert zero == rest.certificate.zero_modes
    np.testing.assert_allclose(found[zero:] ** 2, expected[zero:], rtol=1e-8)
    assert np.all(found[:zero] == 0.0)
    ratios = np.asarray(modes.participation_ratios)
    assert np.all((ratios > 1 / 33) & (ratios <= 1.0 + 1e-12))
    density, edges = properties.density_of_states(modes)
    np.testing.assert_allclose(np.sum(density * np.diff(edges)), 1.0)

    def lowest(scale):
        system = rest.system.replace(box=rest.system.box * scale)
        return properties.vibrational_modes(mdsens.Relaxation(tolerance=1e-12)(rest.potential, system)).frequencies[
            zero
        ]

    difference = (lowest(1 + STEP) - lowest(1 - STEP)) / (2 * STEP)
    np.testing.assert_allclose(jax.grad(lowest)(1.0), difference, rtol=1e-4)


def test_below_jamming_all_moduli_vanish():
    loose = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.random_packing(32, packing_fraction=0.4))
    assert np.all(np.asarray(properties.elastic_tensor(loose)) == 0.0)
    assert float(properties.pressure(loose)) == 0.0


def test_open_boundaries_have_no_moduli():
    cluster = mdsens.System(np.array([[0.0, 0.0], [1.1, 0.0], [0.5, 1.0]]), None, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-8)(mdsens.LennardJones(), cluster)
    for of in (properties.stress, properties.elastic_tensor, properties.bulk_modulus):
        with pytest.raises(mdsens.InvalidInput, match="open boundaries"):
            of(rest)
    assert set(properties.table(rest)) == {"energy", "contact_number"}


def test_properties_under_jit_and_vmap():
    rest = stressed(0, 2, 1.1)
    relax = mdsens.Relaxation(tolerance=1e-11)

    def bulk(epsilon):
        return properties.bulk_modulus(relax(mdsens.SoftSphere(epsilon), rest.system))

    np.testing.assert_allclose(jax.jit(bulk)(1.0), properties.bulk_modulus(rest), rtol=1e-8)
    np.testing.assert_allclose(
        jax.vmap(bulk)(jnp.array([1.0, 2.0])), np.array([1.0, 2.0]) * float(bulk(1.0)), rtol=1e-6
    )


def test_names_are_checked():
    with pytest.raises(mdsens.InvalidInput, match="there are energy"):
        properties.measured(stressed(0, 2, 1.1), ["stifness"])
    with pytest.raises(mdsens.InvalidInput, match="two different axes"):
        properties.shear_modulus(stressed(0, 2, 1.1), (0, 2))


def test_below_jamming_there_is_no_poisson_ratio():
    loose = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.random_packing(n=32, packing_fraction=0.5))
    moduli = mdsens.properties.isotropic_moduli(loose)
    assert float(moduli["bulk_modulus"]) == float(moduli["shear_modulus"]) == 0.0
    assert np.isnan(moduli["poisson_ratio"])
