"""Responses as fields of displacements, against closed forms."""

import numpy as np
import pytest

import mdsens
from mdsens import response_field
from samples import jammed


def field_of(displacements):
    """Displacements of a relaxed packing, taken for its response to one parameter."""
    rest = jammed(seed=3)
    u = displacements(np.asarray(rest.positions), np.asarray(rest.system.box))
    return rest, response_field(rest, mdsens.Sensitivity("epsilon", np.asarray(1.0), u, 0.0, 0.0), modes=0)


def test_the_participation_ratio_of_a_response():
    assert field_of(lambda x, box: np.ones_like(x))[1].participation_ratio == pytest.approx(1.0)
    rest, one = field_of(lambda x, box: np.eye(*x.shape))
    assert one.participation_ratio == pytest.approx(2 / rest.system.n)


def test_a_wave_is_correlated_over_a_quarter_of_its_length():
    _, field = field_of(lambda x, box: np.stack([np.cos(2 * np.pi * x[:, 1] / box[1, 1]), 0 * x[:, 0]], axis=1))
    length = float(jammed(seed=3).system.box[1, 1])
    # about a circle of radius r: ⟨cos(k r sin φ)⟩ = J₀(k r), whose first zero is at 2.4048
    assert field.correlation_length == pytest.approx(2.4048 * length / (2 * np.pi), rel=0.05)


def test_local_nonaffinity_is_the_residual_of_the_best_affine_fit():
    rest, field = field_of(lambda x, box: np.random.default_rng(0).normal(size=x.shape))
    x, box, u = (np.asarray(a) for a in (rest.positions, rest.system.box, field.displacements))
    reach = 1.5 * float(rest.system.diameters.mean())
    for i in range(0, 128, 16):
        apart = x - x[i]
        apart -= np.round(apart @ np.linalg.inv(box)) @ box
        around = (np.linalg.norm(apart, axis=1) < reach) & (np.arange(128) != i)
        left = np.linalg.lstsq(apart[around], u[around] - u[i])[1]
        assert field.local_nonaffinity[i] == pytest.approx(left.sum() / around.sum())
    _, swirl = field_of(lambda x, box: np.stack([np.sin(2 * np.pi * x[:, 1] / box[1, 1]), 0 * x[:, 1]], axis=1))
    assert np.all(swirl.local_nonaffinity < 0.05)  # nearly affine: it curves over the whole cell


def test_a_response_to_the_box_is_split_into_affine_and_nonaffine_parts_and_modes():
    rest = jammed(seed=3)
    field = response_field(rest, mdsens.sensitivity(rest, "box"), modes=1000)
    np.testing.assert_allclose(field.gradient, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(field.affine + field.nonaffine, field.displacements)
    assert field.overlaps.sum() == pytest.approx(1.0)
    shear = response_field(
        rest, mdsens.sensitivity(rest, "box"), direction=np.asarray(rest.system.box) @ [[0, 1], [0, 0]]
    )
    np.testing.assert_allclose(shear.gradient, [[0, 1], [0, 0]], atol=1e-12)
    soft, stiff = shear.overlaps[:10].sum(), 10 / (2 * rest.system.n)
    assert soft > 3 * stiff  # a response prefers soft modes
    with pytest.raises(mdsens.InvalidInput, match="another system"):
        response_field(jammed(seed=3, n=32), mdsens.sensitivity(rest, "epsilon"))


def test_the_length_of_a_direction_does_not_matter():
    rest = jammed(n=32)
    found, along = mdsens.sensitivity(rest, "diameters"), np.eye(32)[3]
    one, other = (response_field(rest, found, size * along, modes=0) for size in (1.0, 1e-12))
    assert one.participation_ratio == pytest.approx(other.participation_ratio)


def test_a_response_that_is_only_rounding_is_refused():
    rest = jammed(n=32)
    with pytest.raises(mdsens.InvalidInput, match="nothing moves with epsilon"):
        response_field(rest, mdsens.sensitivity(rest, "epsilon"))
