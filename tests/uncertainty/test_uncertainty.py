"""Propagation of uncertainty and ranking of parameters, against relaxing again."""

import jax
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


def two_kinds():
    system = mdsens.random_packing(32, 2, diameters=(1.0, 0.7), packing_fraction=0.95, seed=3)
    return RELAX(mdsens.SoftSphere(epsilon=[[1.0, 1.3], [1.3, 0.8]]), system)


def test_a_spread_of_a_matrix_is_a_matrix_and_the_effect_of_a_pair_that_of_both_entries():
    rest = two_kinds()
    model, spread = predict(rest, "epsilon"), np.array([[0.01, 0.02], [0.02, 0.03]])
    whole = influence(model, {"epsilon": spread})
    same_tables(whole, influence(model, {"epsilon": [0.01, 0.02, 0.03]}))
    by_entry = jax.grad(lambda potential: RELAX(potential, rest.system).energy)(rest.potential).epsilon
    assert whole.loc["epsilon[0,1]", "mean"] == pytest.approx(0.02 * float(by_entry[0, 1] + by_entry[1, 0]))
    step = 1e-4
    there, back = (
        float(RELAX(mdsens.SoftSphere(epsilon=[[1.0, e], [e, 0.8]]), rest.system).energy)
        for e in (1.3 + step, 1.3 - step)
    )
    assert whole.loc["epsilon[0,1]", "mean"] == pytest.approx(0.02 * (there - back) / (2 * step), rel=1e-6)
    assert float(model({"epsilon": rest.potential.epsilon}).energy) == pytest.approx(float(rest.energy))
    with pytest.raises(mdsens.InvalidInput, match="symmetric matrix"):
        influence(model, {"epsilon": [[0.01, 0.02], [0.03, 0.03]]})


def test_ranges_of_a_matrix_are_a_pair_of_matrices():
    rest = two_kinds()
    model, matrix = predict(rest, "epsilon"), np.asarray(rest.potential.epsilon)
    ours = derivative_measures(model, {"epsilon": (0.999 * matrix, 1.001 * matrix)}, samples=8)
    by_component = {
        f"epsilon[{i},{j}]": (0.999 * matrix[i, j], 1.001 * matrix[i, j]) for i, j in ((0, 0), (0, 1), (1, 1))
    }
    same_tables(ours, derivative_measures(model, by_component, samples=8))


def same_tables(one, other):
    assert list(one.index) == list(other.index)
    known = [name for name in one.columns if not name.endswith("_error")]  # SALib resamples for these
    np.testing.assert_allclose(one[known].to_numpy(), other[known].to_numpy(), rtol=1e-12)
