"""Fits to a few packings at a time."""

import functools

import numpy as np
import pytest

import mdsens
from mdsens import properties
from mdsens.fitting import minibatches
from mdsens.fitting.problem import Comparison, Problem
from mdsens.parameters import ParameterVector
from samples import jammed

SOFT = mdsens.SoftSphere()
N, WRT = 32, ("species-diameter:1", "epsilon")


@functools.cache
def target(seed):
    rest = jammed(seed, N)
    return mdsens.Target(rest.frozen.system, properties={"pressure": float(properties.pressure(rest))})


def test_the_slope_in_reverse_mode_is_that_of_the_jacobian():
    targets = [target(0), target(1)]
    problem = Problem(
        SOFT.prepared_for(targets[0].system),
        targets,
        ParameterVector.from_names(WRT, SOFT, targets[0].system),
        mdsens.Relaxation(tolerance=1e-12),
    )
    vector = np.array([0.605, 1.1])
    comparison, jacobian = problem.compare(vector), problem.jacobian(vector)
    weights = comparison.factors * problem.weights
    by_hand = (jacobian * weights[:, None]).T @ (comparison.differences * weights)
    assert np.abs(by_hand).min() > 1e-3
    np.testing.assert_allclose(problem.gradient(vector), by_hand, rtol=1e-8)


def test_parameters_of_many_packings_are_found_in_minibatches(tmp_path):
    targets, losses = [target(seed) for seed in range(8)], []
    found = mdsens.fit(
        SOFT,
        targets,
        WRT,
        start={"species-diameter:1": 0.62, "epsilon": 0.9},
        batches=mdsens.Minibatches(size=3, epochs=25, rate=0.02),
        checkpoint=tmp_path / "state.json",
        progress=lambda step, loss: losses.append(loss),
    )
    np.testing.assert_allclose(found.parameters["species-diameter:1"], 0.6, atol=1e-3)
    np.testing.assert_allclose(found.parameters["epsilon"], 1.0, atol=2e-2)
    assert len(losses) == 25 and found.loss < 1e-3 * found.history[0][0] and found.iterations == 75
    assert found.rearrangements is None and "another minimum" not in str(found)
    assert 200 <= found.relaxations <= 220  # eight targets, 25 times, and once before and after
    exact = mdsens.fit(SOFT, targets, WRT, start=found.parameters)  # the last digits take a step or two
    np.testing.assert_allclose([exact.parameters[name] for name in WRT], [0.6, 1.0], atol=1e-7)
    continued = mdsens.fit(
        SOFT, targets, WRT, batches=mdsens.Minibatches(8, 1, 1e-9), checkpoint=tmp_path / "state.json"
    )
    np.testing.assert_allclose(continued.history[0][1], found.history[-1][1])


def test_bounds_priors_and_any_optimizer_of_optax():
    optax = pytest.importorskip("optax")
    batches = mdsens.Minibatches(size=2, epochs=4, optimizer=optax.sgd(1e-2))
    found = mdsens.fit(
        SOFT,
        [target(0), target(1)],
        "species-diameter:1",
        start={"species-diameter:1": 0.63},
        bounds={"species-diameter:1": (0.62, 0.7)},
        priors={"species-diameter:1": (0.63, 0.05)},
        batches=batches,
    )
    assert all(0.62 <= vector[0] <= 0.7 for _, vector in found.history)
    assert found.loss < found.history[0][0]


def test_a_step_without_an_equilibrium_is_halved():
    """A parabola that is undefined beyond 0.5."""

    class Parabola:
        def compare(self, vector):
            return None if vector[0] > 0.5 else Comparison((None,), vector - 0.4, np.ones(1))

        def residuals(self, comparison):
            return comparison.differences

        def gradient(self, vector):
            return vector - 0.4

    losses = []
    end = minibatches.descend(
        mdsens.Minibatches(size=1, epochs=200, rate=0.3),
        [Parabola()],
        np.array([0.0]),
        np.ones(1),
        (np.array([-1.0]), np.array([1.0])),
        np.full((1, 2), np.nan),
        lambda look: None,
        lambda loss, vector: losses.append(loss),
    )
    assert np.inf in losses  # a step went too far, and was taken back
    assert end.vector[0] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("numbers", [{"size": 0}, {"epochs": 0}, {"rate": -1.0}, {"rate": np.nan}])
def test_invalid_numbers_are_refused(numbers):
    with pytest.raises(mdsens.InvalidInput, match="must be positive"):
        mdsens.Minibatches(**numbers)


def test_a_fit_from_below_jamming_is_refused():
    loose = mdsens.Target(mdsens.random_packing(N, packing_fraction=0.4))
    with pytest.raises(mdsens.NotRigid, match="no fit from the starting values"):
        mdsens.fit(SOFT, [loose], "species-diameter:1", batches=mdsens.Minibatches())
