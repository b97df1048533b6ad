import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from samples import RELAX, jammed, reference_of

SPHERES = mdsens.SoftSphere()


def test_the_sensitivity_by_name_is_that_of_jax_transformations():
    rest = jammed(seed=0, n=32)
    by_hand = reference_of(rest).response_to_diameters()
    each = mdsens.sensitivity(rest, "diameters")
    np.testing.assert_allclose(each.response, by_hand, atol=1e-9)
    assert each.residual < 1e-10
    species = mdsens.sensitivity(rest, "species-diameter:1")
    np.testing.assert_allclose(species.response, by_hand[:, :, 16:].sum(axis=-1), atol=1e-9)
    assert float(species.value) == 0.6
    assert species.l1 == pytest.approx(np.abs(by_hand[:, :, 16:].sum(axis=-1)).sum())
    box = jax.jacfwd(lambda box: RELAX(SPHERES, rest.system.replace(box=box)).positions)(rest.system.box)
    np.testing.assert_allclose(mdsens.sensitivity(rest, "box").response, box, atol=1e-9)
    alpha = jax.jacfwd(lambda p: RELAX(p, rest.system).positions)(rest.potential).alpha
    np.testing.assert_allclose(mdsens.sensitivity(rest, "alpha").response, alpha, atol=1e-9)


def test_more_columns_than_are_solved_at_once(monkeypatch):
    monkeypatch.setattr(importlib.import_module("mdsens.response.sensitivity"), "COLUMNS_AT_ONCE", 12)
    rest, reports = jammed(seed=0, n=32), []
    each = mdsens.sensitivity(rest, "diameters", progress=lambda done, of: reports.append((done, of)))
    np.testing.assert_allclose(each.response, reference_of(rest).response_to_diameters(), atol=1e-9)
    assert reports == [(12, 32), (24, 32), (32, 32)]


def test_a_matrix_of_parameters():
    potential = mdsens.SoftSphere(epsilon=jnp.ones((2, 2)))
    rest = RELAX(potential, jammed(seed=0, n=32).system)
    response = mdsens.sensitivity(rest, "epsilon").response
    assert response.shape == (32, 2, 2, 2)
    np.testing.assert_allclose(response.sum(axis=(2, 3)), 0.0, atol=1e-9)  # a common factor of all ε moves nothing


def test_a_loop_over_packings_compiles_once(compilations):
    packings = [jammed(seed=s, n=32) for s in range(3)]
    mdsens.sensitivity(packings[0], "species-diameter:1")
    with compilations as counted:
        for rest in packings[1:]:
            mdsens.sensitivity(rest, "species-diameter:1")
    assert counted.count == 0


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        mdsens.InvalidInput, match="diameters, species-diameter:0, species-diameter:1, box, epsilon, alpha"
    ):
        mdsens.sensitivity(jammed(seed=0, n=32), "gamma")
    open_system = RELAX(mdsens.LennardJones(), mdsens.System([[0.0, 0.0], [1.1, 0.0]], None, 1.0))
    with pytest.raises(mdsens.InvalidInput, match="no parameter 'box'"):
        mdsens.sensitivity(open_system, "box")


def test_a_static_field_of_a_potential_is_not_a_parameter():
    atoms = mdsens.System([[0.0, 0.0], [1.1, 0.0]])
    rest = mdsens.Relaxation()(mdsens.LennardJones(), atoms)
    with pytest.raises(mdsens.InvalidInput, match="there is no parameter 'onset'"):
        mdsens.sensitivity(rest, "onset")


def test_a_solve_that_fails_is_an_error_and_not_a_number():
    solver = linear_solvers.cg(max_steps=2)
    rest = mdsens.Relaxation(tolerance=1e-10, linear_solver=solver)(SPHERES, jammed(seed=0, n=32).system)
    with pytest.raises(mdsens.SolveFailed, match="dense"):
        mdsens.sensitivity(rest, "species-diameter:1")
