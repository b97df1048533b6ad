"""Certificates, against the NumPy reference."""

import json

import numpy as np
import pytest

import mdsens
from samples import jammed, jammed_with_rattlers, reference_of, settled

SPHERES = mdsens.SoftSphere()


def test_the_certificate_reports_and_exports_its_facts():
    rest = jammed(seed=5, packing_fraction=0.9)
    by_hand = reference_of(rest)
    certificate = rest.certificate
    eigenvalues = np.linalg.eigvalsh(by_hand.hessian())
    assert certificate.softest == pytest.approx(eigenvalues[eigenvalues > 1e-9].min(), rel=1e-6)
    assert certificate.minimum and certificate.converged
    constrained = rest.system.n - len(certificate.rattlers)
    assert certificate.contact_number == pytest.approx(2 * len(by_hand.network) / constrained)
    assert certificate.as_dict()["zero_modes"] == certificate.zero_modes
    text = str(certificate)
    assert "a minimum" in text and f"rattlers          {len(certificate.rattlers)}" in text
    assert certificate.stiffest == pytest.approx(eigenvalues.max(), rel=1e-9)
    assert certificate.condition == pytest.approx(certificate.stiffest / certificate.softest)
    assert json.loads(certificate.to_json())["kind"] == "minimum"


def test_the_certificate_counts_and_measures_the_contacts():
    rest = jammed_with_rattlers(0.86)
    by_hand, certificate = reference_of(rest), rest.certificate
    backbone = np.setdiff1d(np.arange(128), certificate.rattlers)
    among = np.isin(by_hand.i, backbone) & np.isin(by_hand.j, backbone)
    assert certificate.smallest_overlap == pytest.approx(by_hand.overlap[among].min(), rel=1e-6)
    assert certificate.force_scale == pytest.approx(np.mean(by_hand.overlap[among] / by_hand.sigma[among]), rel=1e-9)
    contacts = len(backbone) * certificate.isostatic / 2
    assert contacts == pytest.approx(2 * len(backbone) - 1)  # degrees of freedom, less translations, and one more
    x = by_hand.x[backbone]
    apart = x[:, None] - x[None]
    apart -= np.round(apart @ np.linalg.inv(by_hand.box)) @ by_hand.box
    D = by_hand.diameters[backbone]
    gap = np.linalg.norm(apart, axis=-1) / (0.5 * (D[:, None] + D[None])) - 1 + np.eye(len(backbone))
    assert certificate.smallest_gap == pytest.approx(gap[gap > 0].min(), rel=1e-6)


def test_a_thorough_certificate_knows_the_distance_to_the_minimum():
    sharp = jammed(seed=0)
    rough = mdsens.Relaxation(tolerance=1e-6)(SPHERES, sharp.system.replace(positions=sharp.positions + 1e-4))
    rough = rough if int(rough.steps) else mdsens.Relaxation(tolerance=1e-6)(SPHERES, settled(seed=0, n=128))
    certificate = rough.certify(thorough=True)
    truth = reference_of(rough).relaxed().x - np.asarray(rough.positions)
    assert certificate.distance == pytest.approx(np.linalg.norm(truth, axis=1).max(), rel=1e-2)
    assert certificate.solve_residual < 1e-9
    assert rough.certificate.distance is None


@pytest.mark.slow
def test_the_certificate_of_a_large_system_bounds_its_curvatures_and_a_thorough_one_computes_them():
    rest = mdsens.Relaxation(tolerance=1e-10)(SPHERES, mdsens.random_packing(700, packing_fraction=0.95, seed=1))
    quick, thorough = rest.certificate, rest.certify(thorough=True)
    backbone = ~np.isin(np.arange(700), quick.rattlers)  # a rattler may touch its cage
    eigenvalues = np.linalg.eigvalsh(reference_of(rest).changed(keep=backbone).hessian())
    softest = eigenvalues[eigenvalues > 1e-9].min()
    assert not quick.exact and softest < quick.softest < 3 * softest
    assert thorough.exact and thorough.softest == pytest.approx(softest, rel=1e-2)
    assert quick.stiffest == pytest.approx(eigenvalues.max(), rel=1e-6)
    assert quick.zero_modes == np.sum(np.abs(eigenvalues) < 1e-9)


def test_the_certificate_of_a_large_system_is_that_of_its_backbone():
    """However large the residual forces: rattlers are removed once, not those of the remaining network again."""
    rest = mdsens.Relaxation(tolerance=1e-4)(SPHERES, mdsens.random_packing(700, packing_fraction=1.0, seed=3))
    found = rest.certificate
    backbone = ~np.isin(np.arange(700), found.rattlers)
    eigenvalues = np.linalg.eigvalsh(reference_of(rest).changed(keep=backbone).hessian())
    assert found.stiffest == pytest.approx(eigenvalues.max(), rel=1e-6)
    assert eigenvalues[eigenvalues > 1e-9].min() < found.softest


@pytest.mark.parametrize("tolerance", [1e-10, 1e-5])
def test_the_softest_curvature_of_a_cluster_is_not_that_of_a_rotation(tolerance):
    cluster = mdsens.System(np.random.default_rng(1).uniform(0, 2.2, size=(9, 3)), None, 1.0)
    rest = mdsens.Relaxation(tolerance=tolerance)(mdsens.LennardJones(), cluster)
    assert rest.certificate.softest == pytest.approx(13.2, rel=1e-2)
