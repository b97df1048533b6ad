"""Propagation of uncertainty and ranking of parameters, against relaxing again."""

import numpy as np
import pytest

import mdsens
from mdsens.uncertainty import derivative_measures, influence, predict, propagate, sample, sobol
from samples import RELAX, hertzian

NAME = "species-diameter:1"


@pytest.mark.slow
def test_uncertainty_of_diameters_and_stiffness_agrees_with_relaxing_every_member():
    """Mean and standard deviation of the energy within 2 %; positions by their linear propagation."""
    rest = hertzian(10)
    model = predict(rest, ["epsilon", NAME], properties=["pressure"])
    interval = mdsens.validity(rest, NAME)
    spread = {"epsilon": 0.02, NAME: 0.1 * min(interval.above.step, -interval.below.step)}
    drawn, linear = sample(model, spread, members=60, seed=1), propagate(model, spread)
    members = [model.parameters.apply(values, rest.potential, rest.system) for values in drawn.predicted.values]
    relaxed = [RELAX(potential, system) for potential, system in members]
    energies = np.array([float(each.energy) for each in relaxed])
    assert drawn.beyond <= 0.05
    assert drawn.energy_mean == pytest.approx(energies.mean(), rel=0.02)
    assert drawn.energy_std == pytest.approx(energies.std(ddof=1), rel=0.02)
    assert linear.energy_std == pytest.approx(energies.std(ddof=1), rel=0.3)  # of 60
    positions = np.std([np.asarray(each.positions) for each in relaxed], axis=0, ddof=1)
    np.testing.assert_allclose(drawn.positions_std, positions, rtol=0.1, atol=1e-5)
    assert set(linear.shares) == {"epsilon", NAME} and sum(linear.shares.values()) == pytest.approx(1.0)
    assert drawn.properties_std["pressure"] == pytest.approx(linear.properties_std["pressure"], rel=0.3)


def test_samples_beyond_contact_changes_are_reported():
    model = predict(hertzian(), NAME)
    with pytest.warns(UserWarning, match="beyond a contact change"):
        assert sample(model, [0.02], members=50).beyond > 0.05


def test_samples_beyond_the_validity_of_the_prediction_are_relaxed():
    rest = hertzian()
    model, relax = predict(rest, NAME, properties=["pressure"]), mdsens.Relaxation(tolerance=1e-11)
    drawn = sample(model, [0.02], members=12, relax=relax)
    assert 0 < drawn.relaxed == round(12 * drawn.beyond)
    for k in np.flatnonzero(~np.asarray(drawn.predicted.valid))[:3]:
        potential, system = model.parameters.apply(drawn.predicted.values[k], rest.potential, rest.system)
        true = RELAX(potential, system.replace(positions=drawn.predicted.positions[k]))
        assert float(drawn.predicted.energy[k]) == pytest.approx(float(true.energy), rel=1e-9)
        pressure = float(mdsens.properties.pressure(true))
        assert float(drawn.predicted.properties["pressure"][k]) == pytest.approx(pressure, rel=1e-8)


def test_influence_is_slope_times_spread_over_an_ensemble():
    models = [predict(hertzian(seed), ["epsilon", NAME], properties=["pressure"]) for seed in (5, 6, 7)]
    table = influence(models, {"epsilon": 0.1}, of="pressure")
    pressures = np.array([model.properties["pressure"] for model in models])  # linear in ε, which is 1
    assert table.index[0] == "epsilon" and table.loc[NAME, "mean_abs"] == 0.0
    assert table.loc["epsilon", "mean"] == pytest.approx(0.1 * pressures.mean())
    assert table.loc["epsilon", "std"] == pytest.approx(0.1 * pressures.std(ddof=1))
    for bad, options in (({"epsilon": -0.1}, {}), ({"epsilon": 0.1}, {"of": "volume"})):
        with pytest.raises(mdsens.InvalidInput):
            influence(models, bad, **options)


def test_sobol_indices_of_a_nearly_linear_property_are_its_shares_of_the_variance():
    rest = hertzian(6)
    model, interval = predict(rest, ["epsilon", NAME], properties=["pressure"]), mdsens.validity(rest, NAME)
    width = 0.3 * min(interval.above.step, -interval.below.step)
    half = np.array([0.3 * width * abs(model.property_slopes[0, 1] / model.property_slopes[0, 0]), width])
    ranges = {name: (v - h, v + h) for name, v, h in zip(model.labels, model.values, half, strict=True)}
    table = sobol(model, ranges, of="pressure", samples=256)
    shares = (model.property_slopes[0] * half) ** 2
    for name, share in zip(model.labels, shares / shares.sum(), strict=True):
        assert table.loc[name, "first"] == pytest.approx(share, abs=0.02)
        assert table.loc[name, "total"] == pytest.approx(share, abs=0.02)
    bounds = derivative_measures(model, ranges, of="pressure", samples=64)  # 12/π² of the shares for a linear property
    for name, share in zip(model.labels, shares / shares.sum(), strict=True):
        assert bounds.loc[name, "bound"] == pytest.approx(12 / np.pi**2 * share, rel=0.25)
        slope = model.property_slopes[0, model.labels.index(name)]
        assert bounds.loc[name, "mean_square_slope"] == pytest.approx(slope**2, rel=1e-4)
    for bad in ({"ranges": {NAME: (0.6, 0.61)}}, {"ranges": ranges, "samples": 100}):
        with pytest.raises(mdsens.InvalidInput):
            sobol(model, **bad)
