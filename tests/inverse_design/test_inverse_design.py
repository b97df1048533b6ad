"""Designs that reach given properties, and the limits of designs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import properties
from samples import jammed, reference_of

SIZES = ("species-diameter:0", "species-diameter:1")
STEP = 1e-6


class Sticky(mdsens.PairPotential):
    """Harmonic spheres with an attractive tail, as a user may write them."""

    depth: jax.Array

    def pair_energy(self, r, sigma):
        u = r / sigma
        tail = -self.depth * mdsens.potentials.smooth_switch(u, 1.0, 1.25)
        return 0.5 * (1.0 - u) ** 2 * (u < 1.0) + tail

    def cutoff(self, sigma):
        return 1.25 * sigma


@functools.cache
def start(seed=0):
    return jammed(seed, 32, packing_fraction=1.0)


def by_finite_differences(rest):
    """Poisson's ratio in 2D, from K and the averaged G, by the stress of strained packings in NumPy."""
    at_rest = reference_of(rest).backbone().relaxed()

    def change(strain):
        ahead, behind = (at_rest.strained(sign * STEP * strain).stress() for sign in (1, -1))
        return (ahead - behind) / (2 * STEP)

    bulk = np.trace(change(np.eye(2))) / 4
    shear = change(np.array([[0.0, 0.5], [0.5, 0.0]]))[0, 1]
    pure = change(np.diag([0.5, -0.5]))
    modulus = 0.5 * (shear + 0.5 * (pure[0, 0] - pure[1, 1]))
    return (bulk - modulus) / (bulk + modulus)


def test_a_raised_poisson_ratio_is_confirmed_by_finite_differences():
    before = float(properties.poisson_ratio(start()))
    found = mdsens.design(start(), {"poisson_ratio": before + 0.1}, SIZES)
    assert found.reached, str(found)
    np.testing.assert_allclose(found.properties["poisson_ratio"], before + 0.1, atol=1e-6)
    np.testing.assert_allclose(properties.poisson_ratio(found.equilibrium), before + 0.1, atol=1e-6)
    np.testing.assert_allclose(by_finite_differences(found.equilibrium), before + 0.1, rtol=1e-3)
    assert found.trail.shape[1] == len(found.columns) == 3


def test_pressure_is_designed_at_constant_packing_fraction():
    epsilon = mdsens.SoftSphere(epsilon=np.ones((2, 2)))
    rest = mdsens.Relaxation(tolerance=1e-11)(epsilon, start().system)
    p = 1.2 * float(properties.pressure(rest))
    found = mdsens.design(rest, {"pressure": p}, [*SIZES, "epsilon"], keep=["packing_fraction"])
    assert found.reached, str(found)
    np.testing.assert_allclose(found.properties["pressure"], p, rtol=1e-6)
    np.testing.assert_allclose(found.equilibrium.system.packing_fraction, 1.0, rtol=1e-6)


def test_an_active_bound_is_named():
    bounds = {"epsilon": (0.5, 1.5)}
    found = mdsens.design(start(), {"pressure": "max"}, "epsilon", bounds=bounds)
    assert found.binding == ("epsilon",) and "bound" in found.message
    np.testing.assert_allclose(found.parameters["epsilon"], 1.5)
    far = mdsens.design(start(), {"pressure": 10.0}, "epsilon", bounds=bounds, max_steps=40)
    assert not far.reached and far.binding == ("epsilon",)


def test_the_lowest_poisson_ratio_is_that_of_a_stable_packing():
    found = mdsens.design(start(), {"poisson_ratio": "min"}, SIZES, max_steps=40)
    moduli = properties.isotropic_moduli(found.equilibrium)
    assert float(moduli["bulk_modulus"]) > 0.0 and float(moduli["shear_modulus"]) > 0.0
    assert found.properties["poisson_ratio"] < found.before["poisson_ratio"]


def test_a_user_defined_potential_is_designed():
    sticky = mdsens.Relaxation(tolerance=1e-10)(Sticky(jnp.asarray(0.02)), start().system)
    bulk = 0.9 * float(properties.bulk_modulus(sticky))
    found = mdsens.design(sticky, {"bulk_modulus": bulk}, [*SIZES, "depth"])
    assert found.reached, str(found)
    np.testing.assert_allclose(found.properties["bulk_modulus"], bulk, rtol=1e-6)


def test_dependent_properties_are_recognized():
    names = ("pressure", "bulk_modulus", "shear_modulus", "poisson_ratio")
    rest = mdsens.Relaxation(tolerance=1e-11)(mdsens.SoftSphere(epsilon=np.ones((2, 2))), start().system)
    found = mdsens.independence(rest, names, [*SIZES, "epsilon"])
    assert found.singular_values[-1] < 1e-9 * found.singular_values[0]  # ν follows from K and G
    assert np.all(found.alone[1:] < 1e-6) and found.alone[0] > 0.01
    np.testing.assert_allclose(found.matrix @ found.directions[0], [1.0, 0.0, 0.0, 0.0], atol=1e-9)
    moved = mdsens.independence(rest, ["pressure"], "epsilon").matrix
    np.testing.assert_allclose(moved.sum(), 1.0, rtol=1e-6)  # a common factor of all stiffnesses only sets the scale
    assert "singular values" in str(found)


def test_the_state_is_saved_and_reported(tmp_path):
    reports = []
    file = tmp_path / "state.json"
    goal = {"pressure": 1.05 * float(properties.pressure(start()))}
    found = mdsens.design(start(), goal, "epsilon", checkpoint=file, progress=lambda k, now: reports.append(now))
    state = json.loads(file.read_text())
    np.testing.assert_allclose(state["values"], [found.parameters["epsilon"]])
    assert reports[-1]["pressure"] == pytest.approx(found.properties["pressure"])


@pytest.mark.parametrize(
    ("goals", "options", "message"),
    [
        ({}, {}, "one or more"),
        ({"hardness": 1.0}, {}, "no property"),
        ({"pressure": "max", "energy": 1.0}, {}, "one property alone"),
        ({"pressure": np.inf}, {}, "cannot be designed"),
        ({"pressure": 1.0}, {"keep": ["pressure"]}, "to keep"),
        ({"pressure": 1.0}, {"bounds": {"epsilon": (2.0, 3.0)}}, "outside its bounds"),
    ],
)
def test_invalid_goals_are_refused(goals, options, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.design(start(), goals, "epsilon", **options)
