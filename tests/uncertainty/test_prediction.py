"""Predictions at other parameters, against relaxing again."""

import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.response.nearby import at_value, network
from mdsens.uncertainty import predict, propagate
from samples import hertzian, silicon, vacancy

NAME = "species-diameter:1"


RELAX_SILICON = mdsens.Relaxation(tolerance=1e-11)


def errors(rest, fractions):
    """Errors of positions to first and second order, then of energies, at fractions of the way to a contact change."""
    edge = min(mdsens.validity(rest, NAME).above.step, 0.05)
    found = []
    for fraction in fractions:
        value = 0.6 + fraction * edge
        guesses = [predict(rest, NAME, order)([value]) for order in (1, 2)]
        true = at_value(rest, NAME, jnp.asarray(value), guess=guesses[1].positions)
        assert network(true).contacts == network(rest).contacts and guesses[0].valid
        errors = [np.abs(guess.positions - np.asarray(true.positions)).max() for guess in guesses]
        found.append([*errors, *(abs(float(guess.energy) - float(true.energy)) for guess in guesses)])
    return np.array(found)


def test_errors_of_predictions_fall_with_the_expected_order():
    """Positions to first and second order; the energy of the first to third (2n + 1). The median over packings."""
    found = np.array([errors(hertzian(seed), (0.1, 0.05)) for seed in range(5, 12)])
    with np.errstate(divide="ignore"):  # an energy may be exact
        orders = np.log2(found[:, 0] / found[:, 1])
    assert np.median(orders[:, 0]) == pytest.approx(2.0, abs=0.15)
    assert np.median(orders[:, 1]) == pytest.approx(3.0, abs=0.15)
    assert np.median(orders[found[:, 1, 2] > 1e-14, 2]) == pytest.approx(4.0, abs=0.15)


def test_a_prediction_estimates_its_own_error():
    rest = hertzian(9)
    edge = mdsens.validity(rest, NAME).above.step
    value = 0.6 + 0.05 * edge
    guess = predict(rest, NAME)([value])
    true = at_value(rest, NAME, jnp.asarray(value), guess=guess.positions)
    error = np.linalg.norm(guess.positions - np.asarray(true.positions), axis=1).max()
    assert guess.position_error == pytest.approx(error, rel=0.3)
    assert guess.energy_error == pytest.approx(float(guess.energy) - float(true.energy), rel=0.3)


def test_a_prediction_beyond_a_contact_change_is_not_valid():
    rest = hertzian()
    model, interval = predict(rest, NAME), mdsens.validity(rest, NAME)
    inside, beyond = model([[0.6 + 0.9 * interval.above.step], [0.6 + 3.0 * interval.above.step]]).valid
    assert inside and not beyond


def test_a_prediction_with_negative_stiffness_is_not_valid():
    stable, unstable = predict(hertzian(), "epsilon")([[1.2], [-1.2]]).valid
    assert stable and not unstable


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


def test_with_second_order_positions_properties_are_right_to_second_order():
    """Errors of pressure and shear modulus fall as the third power of the step; the median over packings."""
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


def test_the_predicted_contact_number_is_constant():
    rest = hertzian(6)
    for order in (1, 2):
        model = predict(rest, NAME, order, ["contact_number", "volume"])
        edge = mdsens.validity(rest, NAME).above.step
        there = model([0.6 + 0.1 * edge]).properties
        assert there["contact_number"] == float(mdsens.properties.contact_number(rest))
        assert there["volume"] == pytest.approx(float(rest.system.volume))


def test_a_silicon_vacancy_with_other_parameters_is_predicted_without_relaxing():
    """A potential of pairs and angles, without contacts, against relaxing again."""
    rest = RELAX_SILICON(mdsens.StillingerWeber(), vacancy(silicon()))
    names, errors = ["lam", "gamma"], []
    models = [predict(rest, names, order, ["pressure"]) for order in (1, 2)]
    for change in (0.04, 0.02):
        wanted = [21.0 * (1 + change), 1.2 * (1 + change)]
        true = RELAX_SILICON(*models[0].parameters.apply(jnp.asarray(wanted), rest.potential, rest.system))
        guesses = [model(wanted) for model in models]
        assert all(guess.valid and guess.contact_changes == 0 for guess in guesses)
        off = [float(np.abs(guess.positions - true.positions).max()) for guess in guesses]
        errors.append([*off, *(abs(float(guess.energy - true.energy)) for guess in guesses)])
        pressure = float(mdsens.properties.pressure(true))
        assert float(guesses[1].properties["pressure"]) == pytest.approx(pressure, rel=1e-3)
    orders = np.log2(np.divide(*np.array(errors)))
    np.testing.assert_allclose(orders[:3], [2.0, 3.0, 4.0], atol=0.3)
    assert not models[0]([30.0, 1.2]).valid or models[0]([30.0, 1.2]).position_error < 0.1
