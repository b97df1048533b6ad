"""Prediction at other parameters, and uncertainty carried forward, against relaxing anew."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import RELAX, silicon, vacancy
from mdsens.nearby import at_value, network
from mdsens.studies import derivative_measures, influence, predict, propagate, sample, sobol

NAME = "species-diameter:1"
RELAX_SILICON = mdsens.Relaxation(tolerance=1e-11)


@functools.cache
def hertzian(seed=8, n=16):
    system = mdsens.random_packing(n, packing_fraction=1.1, seed=seed)
    return mdsens.Relaxation(tolerance=1e-13)(mdsens.SoftSphere(alpha=2.5), system)


def errors(rest, fractions):
    """Of predictions of first and second order, and of their energies, at fractions of the way to a contact change."""
    edge = min(mdsens.validity(rest, NAME).above.step, 0.05)
    found = []
    for fraction in fractions:
        value = 0.6 + fraction * edge
        guesses = [predict(rest, NAME, order)([value]) for order in (1, 2)]
        true = at_value(rest, NAME, jnp.asarray(value), guess=guesses[1].positions)
        assert network(true).contacts == network(rest).contacts and guesses[0].holds
        off = [np.abs(guess.positions - np.asarray(true.positions)).max() for guess in guesses]
        found.append([*off, *(abs(float(guess.energy) - float(true.energy)) for guess in guesses)])
    return np.array(found)


def test_errors_fall_with_the_order_that_theory_says():
    """Positions to first and second order; the energy of the first to third (2n+1). The median over packings."""
    found = np.array([errors(hertzian(seed), (0.1, 0.05)) for seed in range(5, 12)])
    orders = np.log2(found[:, 0] / found[:, 1])
    assert np.median(orders[:, 0]) == pytest.approx(2.0, abs=0.15)
    assert np.median(orders[:, 1]) == pytest.approx(3.0, abs=0.15)
    assert np.median(orders[found[:, 1, 2] > 1e-14, 2]) == pytest.approx(4.0, abs=0.15)


def test_a_prediction_says_how_far_it_is_off():
    rest = hertzian(9)
    edge = mdsens.validity(rest, NAME).above.step
    value = 0.6 + 0.05 * edge
    guess = predict(rest, NAME)([value])
    true = at_value(rest, NAME, jnp.asarray(value), guess=guess.positions)
    off = np.linalg.norm(guess.positions - np.asarray(true.positions), axis=1).max()
    assert guess.position_error == pytest.approx(off, rel=0.3)
    assert guess.energy_error == pytest.approx(float(guess.energy) - float(true.energy), rel=0.3)


def test_beyond_a_contact_change_a_prediction_does_not_hold():
    rest = hertzian()
    model, interval = predict(rest, NAME), mdsens.validity(rest, NAME)
    inside, beyond = model([[0.6 + 0.9 * interval.above.step], [0.6 + 3.0 * interval.above.step]]).holds
    assert inside and not beyond


def test_a_prediction_does_not_hold_where_particles_give_way():
    held, turned = predict(hertzian(), "epsilon")([[1.2], [-1.2]]).holds
    assert held and not turned


def test_derivatives_of_the_energy_are_those_of_the_relaxed_system():
    rest = hertzian()
    model = predict(rest, ["epsilon", NAME], properties=["pressure"])
    step = 1e-6
    for k, (name, value) in enumerate((("epsilon", 1.0), (NAME, 0.6))):
        ahead, behind = (at_value(rest, name, jnp.asarray(value + sign * step)) for sign in (1, -1))
        energy, pressure = (
            (float(f(ahead)) - float(f(behind))) / (2 * step) for f in (lambda r: r.energy, mdsens.properties.pressure)
        )
        assert model.slope[k] == pytest.approx(energy, rel=1e-7)
        assert model.property_slopes[0, k] == pytest.approx(pressure, rel=1e-6)
    near = model({"epsilon": 1.01}).properties
    assert near["pressure"] == pytest.approx(1.01 * model.properties["pressure"], rel=1e-9)  # p is linear in ε


def test_names_and_numbers_are_checked():
    model = predict(hertzian(), ["epsilon", NAME])
    np.testing.assert_allclose(model({NAME: 0.6001}).values, [1.0, 0.6001])
    for bad in ([0.6], {"alpha": 2.0}, np.zeros((2, 3))):
        with pytest.raises(mdsens.InvalidInput):
            model(bad)
    for bad in ([0.1], [0.1, -0.1], -np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]])):
        with pytest.raises(mdsens.InvalidInput):
            propagate(model, bad)
    with pytest.raises(mdsens.InvalidInput, match="order"):
        predict(hertzian(), NAME, order=3)


@pytest.mark.slow
def test_uncertainty_of_diameters_and_stiffness_agrees_with_relaxing_every_member():
    """Mean and spread of the energy within two in a hundred; positions, too, by their linear spread."""
    rest = hertzian(10)
    model = predict(rest, ["epsilon", NAME], properties=["pressure"])
    interval = mdsens.validity(rest, NAME)
    spread = {"epsilon": 0.02, NAME: 0.1 * min(interval.above.step, -interval.below.step)}
    drawn, linear = sample(model, spread, members=60, seed=1), propagate(model, spread)
    members = [model.unknowns.put(values, rest.potential, rest.system) for values in drawn.predicted.values]
    anew = [RELAX(potential, system) for potential, system in members]
    energies = np.array([float(each.energy) for each in anew])
    assert drawn.beyond <= 0.05
    assert drawn.energy_mean == pytest.approx(energies.mean(), rel=0.02)
    assert drawn.energy_std == pytest.approx(energies.std(ddof=1), rel=0.02)
    assert linear.energy_std == pytest.approx(energies.std(ddof=1), rel=0.3)  # of 60
    positions = np.std([np.asarray(each.positions) for each in anew], axis=0, ddof=1)
    np.testing.assert_allclose(drawn.positions_std, positions, rtol=0.1, atol=1e-5)
    assert set(linear.shares) == {"epsilon", NAME} and sum(linear.shares.values()) == pytest.approx(1.0)
    assert drawn.properties_std["pressure"] == pytest.approx(linear.properties_std["pressure"], rel=0.3)


def test_samples_beyond_contact_changes_are_told():
    model = predict(hertzian(), NAME)
    with pytest.warns(UserWarning, match="beyond a contact change"):
        assert sample(model, [0.02], members=50).beyond > 0.05


def test_with_second_order_positions_properties_are_right_to_second_order():
    """Errors of pressure and shear modulus fall as the third power of the step, in the median over packings."""
    names, orders = ["pressure", "shear_modulus"], []
    for seed in range(5, 10):
        rest = hertzian(seed)
        model, edge = predict(rest, NAME, 2, names), min(mdsens.validity(rest, NAME).above.step, 0.05)
        errors = []
        for fraction in (0.2, 0.1):
            value = 0.6 + fraction * edge
            guess = model([value])
            true = at_value(rest, NAME, jnp.asarray(value), guess=guess.positions)
            right = dict(zip(names, mdsens.properties.measured(true, names).tolist(), strict=True))
            errors.append([abs(float(guess.properties[name]) - right[name]) for name in names])
        orders.append(np.log2(np.divide(*errors)))
    np.testing.assert_allclose(np.median(orders, axis=0), 3.0, atol=0.3)


def test_the_contact_number_is_predicted_to_stay():
    rest = hertzian(6)
    for order in (1, 2):
        model = predict(rest, NAME, order, ["contact_number", "volume"])
        edge = mdsens.validity(rest, NAME).above.step
        there = model([0.6 + 0.1 * edge]).properties
        assert there["contact_number"] == float(mdsens.properties.contact_number(rest))
        assert there["volume"] == pytest.approx(float(rest.system.volume))


def test_a_silicon_vacancy_with_other_parameters_is_predicted_without_relaxing():
    """A potential of pairs and angles, which knows no contacts: against relaxing anew."""
    rest = RELAX_SILICON(mdsens.StillingerWeber(), vacancy(silicon()))
    names, errors = ["lam", "gamma"], []
    models = [predict(rest, names, order, ["pressure"]) for order in (1, 2)]
    for change in (0.04, 0.02):
        wanted = [21.0 * (1 + change), 1.2 * (1 + change)]
        true = RELAX_SILICON(*models[0].unknowns.put(jnp.asarray(wanted), rest.potential, rest.system))
        guesses = [model(wanted) for model in models]
        assert all(guess.holds and guess.contact_changes == 0 for guess in guesses)
        off = [float(np.abs(guess.positions - true.positions).max()) for guess in guesses]
        errors.append([*off, *(abs(float(guess.energy - true.energy)) for guess in guesses)])
        pressure = float(mdsens.properties.pressure(true))
        assert float(guesses[1].properties["pressure"]) == pytest.approx(pressure, rel=1e-3)
    orders = np.log2(np.divide(*np.array(errors)))
    np.testing.assert_allclose(orders[:3], [2.0, 3.0, 4.0], atol=0.3)
    assert not models[0]([30.0, 1.2]).holds or models[0]([30.0, 1.2]).position_error < 0.1


def test_what_a_prediction_does_not_hold_for_is_relaxed():
    rest = hertzian()
    model, relax = predict(rest, NAME, properties=["pressure"]), mdsens.Relaxation(tolerance=1e-11)
    drawn = sample(model, [0.02], members=12, relax=relax)
    assert 0 < drawn.relaxed == round(12 * drawn.beyond)
    for k in np.flatnonzero(~np.asarray(drawn.predicted.holds))[:3]:
        potential, system = model.unknowns.put(drawn.predicted.values[k], rest.potential, rest.system)
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
    bounds = derivative_measures(model, ranges, of="pressure", samples=64)  # of a linear one 12/π² of the shares
    for name, share in zip(model.labels, shares / shares.sum(), strict=True):
        assert bounds.loc[name, "bound"] == pytest.approx(12 / np.pi**2 * share, rel=0.25)
        slope = model.property_slopes[0, model.labels.index(name)]
        assert bounds.loc[name, "mean_square_slope"] == pytest.approx(slope**2, rel=1e-4)
    for bad in ({"ranges": {NAME: (0.6, 0.61)}}, {"ranges": ranges, "samples": 100}):
        with pytest.raises(mdsens.InvalidInput):
            sobol(model, **bad)
