"""The onset of jamming, and packings above it."""

import numpy as np
import pytest

import mdsens
from mdsens import properties

SOFT = mdsens.SoftSphere()


def start(packing_fraction, seed=0):
    return mdsens.random_packing(32, packing_fraction=packing_fraction, seed=seed)


@pytest.mark.parametrize("packing_fraction", [0.75, 0.95])
def test_the_onset_lies_between_jammed_and_loose_and_is_isostatic(packing_fraction):
    found = mdsens.jam(SOFT, start(packing_fraction), distance=1e-4, accuracy=1e-5)
    assert 0.78 < found.packing_fraction < 0.9
    phi, pressure = found.trail.T
    near = np.abs(phi - found.packing_fraction) < 2e-5
    assert np.any(pressure[near] > 0.0) and np.any(pressure[near] == 0.0)
    np.testing.assert_allclose(found.distance, 1e-4, rtol=1e-6)
    certificate = found.equilibrium.certificate
    assert certificate.minimum and certificate.contact_number == pytest.approx(certificate.isostatic, abs=0.3)
    assert "jams at" in str(found)


def test_a_search_compiles_its_descent_once(compilations):
    """Neighbor lists keep their capacity from one packing fraction to the next."""
    with compilations as counted:
        mdsens.jam(SOFT, mdsens.random_packing(40, packing_fraction=0.95, seed=0), accuracy=1e-3)
    assert counted.names.count("jit(advance_to)") == 1


def test_a_packing_is_made_at_a_given_pressure():
    found = mdsens.jam(SOFT, start(0.9), pressure=1e-3, accuracy=1e-4)
    np.testing.assert_allclose(properties.pressure(found.equilibrium), 1e-3, rtol=1e-7)


@pytest.mark.parametrize(
    ("potential", "system", "options", "message"),
    [
        (mdsens.LennardJones(), start(0.9), {}, "does not jam"),
        (SOFT, mdsens.System(np.zeros((1, 2))), {}, "open boundaries"),
        (SOFT, start(0.9), {"distance": 1e-3, "pressure": 1e-3}, "not both"),
        (SOFT, start(0.9), {"distance": -1e-3}, "positive"),
        (SOFT, start(0.9), {"accuracy": 0.1}, "smaller"),
    ],
)
def test_systems_and_options_that_cannot_jam_are_refused(potential, system, options, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.jam(potential, system, **options)


def test_a_precision_that_does_not_reach_the_tolerance_is_refused_at_the_first_jammed_packing():
    reports = []
    system = mdsens.random_packing(32, packing_fraction=0.95)
    system = mdsens.System(*(np.asarray(a, np.float32) for a in (system.positions, system.box, system.diameters)))
    with pytest.raises(mdsens.InvalidInput, match="float32"):
        mdsens.jam(mdsens.SoftSphere(), system, progress=lambda phi, step: reports.append(phi))
    assert not reports
