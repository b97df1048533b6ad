"""Saddles: recognized, refused, and left."""

import jax
import numpy as np
import pytest

import mdsens
from samples import jammed, reference_of

SPHERES = mdsens.SoftSphere()


CHAIN = mdsens.System([[0.0, 1.0], [0.95, 1.0], [1.9, 1.0]], [2.85, 5.0], 1.0)
"""Three disks in a row across the cell, pressed together: two contacts each, all with a force."""


SQUARE = mdsens.System([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], None, 1.0)
"""By symmetry four particles stay on the corners of a square, although a rhombus has a lower energy."""


def test_a_chain_that_can_buckle_is_a_saddle_and_not_a_set_of_rattlers():
    without_escape = mdsens.Relaxation(escape=False, throw=False)
    rest = without_escape(SPHERES, CHAIN)
    assert float(rest.energy) == pytest.approx(3 * 0.5 * 0.05**2)
    assert rest.certificate.rattlers == () and rest.certificate.kind == "saddle" and not bool(rest.minimum)
    by_hand = np.linalg.eigvalsh(reference_of(rest).hessian())
    assert float(rest.curvature) == pytest.approx(by_hand.min(), rel=1e-9) == rest.certificate.negative
    moved = jax.jacfwd(lambda D: without_escape(SPHERES, CHAIN.replace(diameters=D)).positions)(CHAIN.diameters)
    # each contact has stiffness 1/σ², and the middle one of three equal springs in series yields
    assert np.abs(moved).max() > 0.1


def test_a_saddle_is_refused_without_escape():
    without_escape = mdsens.Relaxation(escape=False)
    with pytest.raises(mdsens.NotAMinimum, match=r"curvature is -0\.1.*throw=False"):
        without_escape(SPHERES, CHAIN)
    inside = jax.jit(without_escape)(SPHERES, CHAIN)
    assert not bool(inside.minimum) and bool(inside.converged) and np.isnan(inside.positions).all()


def test_a_saddle_is_left_along_its_soft_direction_inside_jit_as_outside():
    potential, relax = mdsens.Morse(alpha=3.0), mdsens.Relaxation(tolerance=1e-10)
    outside, inside = relax(potential, SQUARE), jax.jit(relax)(potential, SQUARE)
    for rest in (outside, inside):
        assert int(rest.escapes) == 1 and bool(rest.minimum)
        sides = np.linalg.norm(rest.positions[:, None] - rest.positions[None], axis=-1)[np.triu_indices(4, 1)]
        assert np.sort(sides)[:5] == pytest.approx(1.0, abs=0.05)  # a rhombus has five short distances
        assert rest.certificate.kind == "minimum" and "after leaving 1 saddle" in str(rest.certificate)
    assert int(outside.steps) == int(inside.steps)
    assert float(outside.energy) == pytest.approx(float(inside.energy), rel=1e-12)


def test_a_minimum_is_not_left():
    assert int(jammed(seed=0).escapes) == 0 and bool(jammed(seed=0).minimum)
