"""Prediction at other parameters, and uncertainty carried forward, against relaxing anew."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import RELAX
from mdsens.nearby import at_value, network
from mdsens.studies import predict, propagate, sample

NAME = "species-diameter:1"


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
    near = {name: values.tolist() for name, values in model.property_values({"epsilon": 1.01}).items()}
    assert near["pressure"] == pytest.approx(1.01 * model.properties["pressure"], rel=1e-9)  # p is linear in ε


def test_names_and_numbers_are_checked():
    model = predict(hertzian(), ["epsilon", NAME])
    np.testing.assert_allclose(model({NAME: 0.6001}).values, [1.0, 0.6001])
    for bad in ([0.6], {"alpha": 2.0}, np.zeros((2, 3))):
        with pytest.raises(mdsens.InvalidInput):
            model(bad)
    for bad in ([0.1], -np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]])):
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
