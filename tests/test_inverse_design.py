"""Wanted properties reached, and said how far they go."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import jammed, reference_of
from mdsens import properties

SIZES = ("species-diameter:0", "species-diameter:1")
STEP = 1e-6


class Sticky(mdsens.PairPotential):
    """Harmonic spheres with an attractive tail, as a user would write it."""

    depth: jax.Array

    def pair_energy(self, r, sigma):
        u = r / sigma
        tail = -self.depth * mdsens.potentials.smooth_switch(u, 1.0, 1.25)
        return 0.5 * (1.0 - u) ** 2 * (u < 1.0) + tail

    def cutoff(self, sigma):
        return 1.25 * sigma


@functools.cache
def start(seed=0):
    return jammed(seed, 64, packing_fraction=1.0)


def by_finite_differences(rest):
    """K and G averaged, from the stress of strained NumPy packings: ν in 2D."""
    at_rest = reference_of(rest).backbone().relaxed()

    def change(strain):
        ahead, behind = (at_rest.strained(sign * STEP * strain).stress() for sign in (1, -1))
        return (ahead - behind) / (2 * STEP)

    bulk = np.trace(change(np.eye(2))) / 4
    shear = change(np.array([[0.0, 0.5], [0.5, 0.0]]))[0, 1]
    pure = change(np.diag([0.5, -0.5]))
    modulus = 0.5 * (shear + 0.5 * (pure[0, 0] - pure[1, 1]))
    return (bulk - modulus) / (bulk + modulus)


def test_poissons_ratio_is_raised_and_that_is_measured():
    before = float(properties.poisson_ratio(start()))
    found = mdsens.design(start(), {"poisson_ratio": before + 0.1}, SIZES)
    assert found.reached, str(found)
    np.testing.assert_allclose(found.properties["poisson_ratio"], before + 0.1, atol=1e-6)
    np.testing.assert_allclose(properties.poisson_ratio(found.equilibrium), before + 0.1, atol=1e-6)
    np.testing.assert_allclose(by_finite_differences(found.equilibrium), before + 0.1, rtol=1e-3)
    assert found.trail.shape[1] == len(found.columns) == 3


def test_pressure_is_designed_while_the_packing_fraction_is_held():
    epsilon = mdsens.SoftSphere(epsilon=np.ones((2, 2)))
    rest = mdsens.Relaxation(tolerance=1e-11)(epsilon, start().system)
    p = 1.2 * float(properties.pressure(rest))
    found = mdsens.design(rest, {"pressure": p}, [*SIZES, "epsilon"], hold=["packing_fraction"])
    assert found.reached, str(found)
    np.testing.assert_allclose(found.properties["pressure"], p, rtol=1e-6)
    np.testing.assert_allclose(found.equilibrium.system.packing_fraction, 1.0, rtol=1e-6)


def test_a_bound_that_binds_is_named():
    bounds = {"epsilon": (0.5, 1.5)}
    found = mdsens.design(start(), {"pressure": "max"}, "epsilon", bounds=bounds)
    assert found.binding == ("epsilon",) and "bound" in found.message
    np.testing.assert_allclose(found.parameters["epsilon"], 1.5)
    far = mdsens.design(start(), {"pressure": 10.0}, "epsilon", bounds=bounds, max_steps=40)
    assert not far.reached and far.binding == ("epsilon",)


def test_the_lowest_poissons_ratio_is_that_of_a_packing_that_resists_strains():
    found = mdsens.design(start(), {"poisson_ratio": "min"}, SIZES, max_steps=40)
    moduli = properties.isotropic_moduli(found.equilibrium)
    assert float(moduli["bulk_modulus"]) > 0.0 and float(moduli["shear_modulus"]) > 0.0
    assert found.properties["poisson_ratio"] < found.before["poisson_ratio"]


def test_a_potential_of_ones_own():
    sticky = mdsens.Relaxation(tolerance=1e-10)(Sticky(jnp.asarray(0.02)), start().system)
    bulk = 0.9 * float(properties.bulk_modulus(sticky))
    found = mdsens.design(sticky, {"bulk_modulus": bulk}, [*SIZES, "depth"])
    assert found.reached, str(found)
    np.testing.assert_allclose(found.properties["bulk_modulus"], bulk, rtol=1e-6)


def test_which_properties_are_independent():
    names = ("pressure", "bulk_modulus", "shear_modulus", "poisson_ratio")
    rest = mdsens.Relaxation(tolerance=1e-11)(mdsens.SoftSphere(epsilon=np.ones((2, 2))), start().system)
    found = mdsens.independence(rest, names, [*SIZES, "epsilon"])
    assert found.singular_values[-1] < 1e-9 * found.singular_values[0]  # ν follows from K and G
    assert np.all(found.alone[1:] < 1e-6) and found.alone[0] > 0.01
    np.testing.assert_allclose(found.matrix @ found.directions[0], [1.0, 0.0, 0.0, 0.0], atol=1e-9)
    moved = mdsens.independence(rest, ["pressure"], "epsilon").matrix
    np.testing.assert_allclose(moved.sum(), 1.0, rtol=1e-6)  # all stiffnesses alike only set the scale
    assert "singular values" in str(found)


def test_the_state_is_kept_and_told(tmp_path):
    told = []
    file = tmp_path / "state.json"
    goal = {"pressure": 1.05 * float(properties.pressure(start()))}
    found = mdsens.design(start(), goal, "epsilon", checkpoint=file, progress=lambda k, now: told.append(now))
    state = json.loads(file.read_text())
    np.testing.assert_allclose(state["values"], [found.parameters["epsilon"]])
    assert told[-1]["pressure"] == pytest.approx(found.properties["pressure"])


@pytest.mark.parametrize(
    ("goals", "options", "message"),
    [
        ({}, {}, "one or more"),
        ({"hardness": 1.0}, {}, "no property"),
        ({"pressure": "max", "energy": 1.0}, {}, "one property alone"),
        ({"pressure": np.inf}, {}, "cannot be designed"),
        ({"pressure": 1.0}, {"hold": ["pressure"]}, "to hold"),
        ({"pressure": 1.0}, {"bounds": {"epsilon": (2.0, 3.0)}}, "outside its bounds"),
    ],
)
def test_goals_that_cannot_be_meant(goals, options, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.design(start(), goals, "epsilon", **options)
