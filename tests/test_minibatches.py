"""Fits on a few packings at a time."""

import functools

import numpy as np
import pytest

import mdsens
from conftest import jammed
from mdsens import fitting, properties
from mdsens.fitting import minibatches
from mdsens.fitting.problem import Problem
from mdsens.unknowns import Unknowns

SOFT = mdsens.SoftSphere()
N, WRT = 32, ("species-diameter:1", "epsilon")


@functools.cache
def target(seed):
    rest = jammed(seed, N)
    return mdsens.Target(rest.frozen.system, properties={"pressure": float(properties.pressure(rest))})


def test_the_slope_in_reverse_mode_is_that_of_the_jacobian():
    targets = [target(0), target(1)]
    problem = Problem(
        SOFT.in_precision_of(targets[0].system),
        targets,
        Unknowns.of(WRT, SOFT, targets[0].system),
        mdsens.Relaxation(tolerance=1e-12),
    )
    vector = np.array([0.605, 1.1])
    look, jacobian = problem.look(vector), problem.jacobian(vector)
    weights = look.share * problem.weights
    by_hand = (jacobian * weights[:, None]).T @ (look.rows * weights)
    assert np.abs(by_hand).min() > 1e-3
    np.testing.assert_allclose(problem.pulled(vector), by_hand, rtol=1e-8)


def test_parameters_of_many_packings_are_found_batch_by_batch(tmp_path):
    targets, seen = [target(seed) for seed in range(8)], []
    found = mdsens.fit(
        SOFT,
        targets,
        WRT,
        start={"species-diameter:1": 0.62, "epsilon": 0.9},
        batches=mdsens.Minibatches(size=3, epochs=25, rate=0.02),
        checkpoint=tmp_path / "state.json",
        progress=lambda step, loss: seen.append(loss),
    )
    np.testing.assert_allclose(found.parameters["species-diameter:1"], 0.6, atol=1e-3)
    np.testing.assert_allclose(found.parameters["epsilon"], 1.0, atol=2e-2)
    assert len(seen) == 25 and found.loss < 1e-3 * found.history[0][0] and found.iterations == 75
    assert found.rearrangements is None and "another minimum" not in str(found)
    assert 200 <= found.relaxations <= 220  # eight targets, 25 times, and a look before and after
    exact = mdsens.fit(SOFT, targets, WRT, start=found.parameters)  # from there the last digits are a step or two
    np.testing.assert_allclose([exact.parameters[name] for name in WRT], [0.6, 1.0], atol=1e-7)
    gone_on = mdsens.fit(SOFT, targets, WRT, batches=mdsens.Minibatches(8, 1, 1e-9), checkpoint=tmp_path / "state.json")
    np.testing.assert_allclose(gone_on.history[0][1], found.history[-1][1])


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


def test_where_a_batch_has_no_equilibrium_half_the_step_is_taken_back():
    """A problem that is a parabola, with nothing beyond 0.5."""

    class Parabola:
        def look(self, vector):
            return None if vector[0] > 0.5 else fitting.problem.Look((None,), vector - 0.4, np.ones(1))

        def weighted(self, look):
            return look.rows

        def pulled(self, vector):
            return vector - 0.4

    noted = []
    end = minibatches.descend(
        mdsens.Minibatches(size=1, epochs=200, rate=0.3),
        [Parabola()],
        np.array([0.0]),
        np.ones(1),
        (np.array([-1.0]), np.array([1.0])),
        np.full((1, 2), np.nan),
        lambda look: None,
        lambda loss, vector: noted.append(loss),
    )
    assert np.inf in noted  # it went too far, and came back
    assert end.vector[0] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("numbers", [{"size": 0}, {"epochs": 0}, {"rate": -1.0}, {"rate": np.nan}])
def test_numbers_that_cannot_be_meant(numbers):
    with pytest.raises(mdsens.InvalidInput, match="must be positive"):
        mdsens.Minibatches(**numbers)


def test_no_fit_from_below_jamming():
    loose = mdsens.Target(mdsens.random_packing(N, packing_fraction=0.4))
    with pytest.raises(mdsens.NotRigid, match="no fit from the starting values"):
        mdsens.fit(SOFT, [loose], "species-diameter:1", batches=mdsens.Minibatches())
