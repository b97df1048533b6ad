"""Parameters recovered from packings that were made with them, and parameters that data do not determine."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import properties
from reference import SoftSpheres
from samples import RELAX, jammed

SOFT = mdsens.SoftSphere()
N = 32


@functools.cache
def packing(seed=0, alpha=2.0):
    return jammed(seed, N, alpha=alpha).frozen.system


def noisy(system, seed, size=1e-3):
    rng = np.random.default_rng(seed)
    return system.replace(positions=system.positions + size * rng.normal(size=system.positions.shape))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_diameter_is_found_from_positions(seed):
    found = mdsens.fit(SOFT, packing(seed), "species-diameter:1", start={"species-diameter:1": 0.7})
    assert found.converged and not found.undetermined
    np.testing.assert_allclose(found.parameters["species-diameter:1"], 0.6, atol=1e-6)


def test_an_exponent_is_found_from_positions():
    found = mdsens.fit(SOFT, packing(0, alpha=2.5), "alpha", start={"alpha": 2.0})
    np.testing.assert_allclose(found.parameters["alpha"], 2.5, atol=1e-6)


def test_all_diameters_are_found_from_positions_forces_and_pressure():
    rng = np.random.default_rng(0)
    D = rng.uniform(0.8, 1.2, N)
    start = mdsens.random_packing(N, 2, (1.0,), packing_fraction=1.0, seed=3).replace(diameters=jnp.asarray(D))
    rest = mdsens.Relaxation(tolerance=1e-12)(SOFT, start)
    at = np.asarray(rest.positions) + 0.05 * rng.normal(size=(N, 2))
    forces = -SoftSpheres(at, start.box, D).gradient()
    unknown = rest.frozen.system.replace(diameters=1.0)
    pressure = {"pressure": float(properties.pressure(rest))}
    found = mdsens.fit(SOFT, mdsens.Target(unknown, properties=pressure, forces=(at, forces)), "diameters")
    np.testing.assert_allclose(found.parameters["diameters"], D, atol=1e-6)
    assert set(found.residuals[0]) == {"positions", "forces", "pressure"}


def test_one_parameter_of_several_packings_and_their_contacts():
    rests = [jammed(seed, N) for seed in (0, 1)]
    targets = []
    for rest in rests:
        pairs = rest.potential.pair_terms(rest.system, rest.neighbors)
        touching = np.stack([pairs.i, pairs.j], axis=1)[np.asarray(pairs.interacts)]
        targets.append(mdsens.Target(rest.frozen.system, contacts=touching))
    found = mdsens.fit(SOFT, targets, "species-diameter:1", start={"species-diameter:1": 0.62})
    np.testing.assert_allclose(found.parameters["species-diameter:1"], 0.6, atol=1e-6)
    assert np.all(found.residuals[1]["contacts"] < 1e-8)


def test_standard_errors_are_those_of_repeated_noise():
    """One estimate for each of 100 samples of noise; no contact changes."""
    system, errors, estimates = packing(0), [], []
    for seed in range(100):
        found = mdsens.fit(SOFT, noisy(system, seed), "species-diameter:1")
        estimates.append(found.parameters["species-diameter:1"])
        errors.append(found.standard_errors["species-diameter:1"])
    away = np.abs(np.array(estimates) - 0.6) / errors
    assert np.sum(away < 3.0) >= 95
    np.testing.assert_allclose(np.std(estimates), np.mean(errors), rtol=0.3)


def test_given_uncertainties_are_used():
    target = mdsens.Target(noisy(packing(0), 1), uncertainties={"positions": 1e-3})
    found, wide = (mdsens.fit(SOFT, t, "species-diameter:1") for t in (target, target.system))
    np.testing.assert_allclose(
        found.standard_errors["species-diameter:1"], wide.standard_errors["species-diameter:1"], rtol=0.2
    )
    assert not found.warnings
    doubtful = mdsens.Target(target.system, uncertainties={"positions": 1e-5})
    assert "standard deviations" in mdsens.fit(SOFT, doubtful, "species-diameter:1").warnings[0]


def test_undetermined_parameters_are_nan():
    alone = mdsens.fit(SOFT, packing(0), "epsilon")
    assert [str(c) for c in alone.undetermined] == ["epsilon"] and np.isnan(alone.parameters["epsilon"])
    assert any("none of these" in warning for warning in alone.warnings)
    assert "not determined" in str(alone) and alone.as_dict()["parameters"]["epsilon"] is None
    both = mdsens.fit(SOFT, packing(0), ["species-diameter:1", "epsilon"], start={"species-diameter:1": 0.62})
    np.testing.assert_allclose(both.parameters["species-diameter:1"], 0.6, atol=1e-6)
    assert np.isnan(both.parameters["epsilon"])
    energy = {"energy": float(jammed(0, N).energy)}
    known = mdsens.fit(SOFT, mdsens.Target(packing(0), properties=energy), "epsilon", start={"epsilon": 3.0})
    np.testing.assert_allclose(known.parameters["epsilon"], 1.0, atol=1e-6)


def test_stiffnesses_of_pairs_are_determined_up_to_a_factor():
    stiff = mdsens.SoftSphere(epsilon=[[1.0, 1.5], [1.5, 0.8]])
    target = mdsens.Relaxation(tolerance=1e-12)(stiff, packing(0)).frozen.system
    found = mdsens.fit(mdsens.SoftSphere(epsilon=np.ones((2, 2))), target, "epsilon")
    (combination,) = found.undetermined
    assert combination.labels == ("epsilon[0,0]", "epsilon[0,1]", "epsilon[1,1]")
    ratios = np.asarray(found.potential.epsilon) / float(found.potential.epsilon[0, 0])
    np.testing.assert_allclose(ratios, stiff.epsilon, rtol=1e-6)


def test_priors_and_bounds():
    prior = mdsens.fit(SOFT, packing(0), "epsilon", priors={"epsilon": (2.0, 0.1)})
    np.testing.assert_allclose(prior.parameters["epsilon"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(prior.standard_errors["epsilon"], 0.1, rtol=1e-6)
    name = "species-diameter:1"
    bound = mdsens.fit(SOFT, packing(0), name, start={name: 0.605}, bounds={name: (0.602, 0.61)})
    assert bound.at_bounds == (name,)
    with pytest.raises(mdsens.InvalidInput, match="outside its bounds"):
        mdsens.fit(SOFT, packing(0), name, bounds={name: (0.7, 0.8)})


def test_invalid_data_are_refused():
    with pytest.raises(mdsens.InvalidInput, match="particle 3 is not finite"):
        mdsens.Target(packing(0).replace(positions=packing(0).positions.at[3, 0].set(np.nan)))
    with pytest.raises(mdsens.InvalidInput, match="cannot share"):
        mdsens.fit(SOFT, [packing(0), jammed(0, 128).frozen.system], "diameters")
    with pytest.raises(mdsens.InvalidInput, match="no property"):
        mdsens.Target(packing(0), properties={"hardness": 1.0})
    with pytest.raises(mdsens.InvalidInput, match="no data"):
        mdsens.Target(packing(0), positions=False)
    with pytest.raises(mdsens.InvalidInput, match="shape"):
        mdsens.Target(packing(0), forces=(np.zeros((3, 2)), np.zeros((3, 2))))
    with pytest.raises(mdsens.NotRigid, match="starting values"):
        mdsens.fit(SOFT, packing(0).replace(diameters=0.3), "diameters", start={"diameters": 0.2})


def test_a_fit_to_positions_of_no_equilibrium_names_the_worst_particles():
    random = mdsens.random_packing(N, packing_fraction=0.98, seed=5)
    found = mdsens.fit(SOFT, random, "species-diameter:1", max_steps=30)
    assert any("farthest particles" in warning for warning in found.warnings)


def test_a_fit_continues_from_its_checkpoint(tmp_path):
    file, steps = tmp_path / "state.json", []
    options = {"start": {"alpha": 2.0}, "checkpoint": file}
    first = mdsens.fit(SOFT, packing(0, alpha=2.5), "alpha", progress=lambda k, loss: steps.append(loss), **options)
    assert steps[-1] == first.loss and json.loads(file.read_text())["values"] == [first.parameters["alpha"]]
    again = mdsens.fit(SOFT, packing(0, alpha=2.5), "alpha", **options)
    assert again.iterations == 0
    with pytest.raises(mdsens.InvalidInput, match="another fit"):
        mdsens.fit(SOFT, packing(0), "epsilon", checkpoint=file)
    file.write_text("{")
    with pytest.raises(mdsens.InvalidInput, match="no checkpoint"):
        mdsens.fit(SOFT, packing(0), "alpha", checkpoint=file)


def test_the_second_fit_of_a_shape_compiles_nothing(compilations):
    fits = [lambda seed=seed: mdsens.fit(SOFT, packing(seed), "alpha", start={"alpha": 2.1}) for seed in (0, 1)]
    fits[0]()
    packing(1)
    with compilations:
        fits[1]()
    assert compilations.count == 0, compilations.names


@pytest.mark.slow
def test_a_fit_of_a_wrong_model_ends_with_a_warning():
    """The fit meets contact changes, where responses are one-sided, and packings that relax slowly."""
    hertzian, noise = mdsens.SoftSphere(alpha=2.5), np.random.default_rng(0).normal(size=(64, 2))
    for seed in range(3):
        start = mdsens.random_packing(n=64, diameters=(1.0, 0.62), packing_fraction=0.98, seed=seed)
        measured = RELAX(hertzian, start).frozen.system
        measured = measured.replace(
            positions=measured.positions + 0.002 * noise, diameters=jnp.where(measured.species == 1, 0.6, 1.0)
        )
        target = mdsens.Target(measured, uncertainties={"positions": 0.002})
        found = mdsens.fit(mdsens.SoftSphere(), target, "species-diameter:1")
        assert found.warnings and found.loss > 500.0
        losses = [loss for loss, _ in found.history]
        assert losses[-1] == pytest.approx(found.loss) and losses[1:] == sorted(losses[1:], reverse=True)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda rest: mdsens.fit(SOFT, rest, "alpha"), "of an equilibrium take rest.system"),
        (lambda rest: mdsens.Target("packing.extxyz"), "not str"),
        (lambda rest: mdsens.Target(rest.system, uncertainties=0.1), "by name"),
        (lambda rest: mdsens.fit(SOFT, rest.system, "alpha", bounds=(1.0, 3.0)), "bounds are given by the name"),
        (lambda rest: mdsens.fit(SOFT, rest.system, "alpha", bounds={"alpha": 2.0}), "2 numbers"),
        (lambda rest: mdsens.fit(SOFT, rest.system, "alpha", priors={"alpha": 2.0}), "2 numbers"),
        (lambda rest: mdsens.fit(SOFT, rest.system, "alpha", start=[2.0]), "starting values are given by the name"),
        (lambda rest: mdsens.fit(SOFT, rest.system, "alpha", start={"alpha": "two"}), "a number"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(ask, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        ask(jammed(0, N))
