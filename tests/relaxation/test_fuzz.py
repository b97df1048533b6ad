"""Arbitrary systems, some 800 cases: each relaxes, or is refused with an error of mdsens."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mdsens


def many(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def is_finite(system):
    arrays = [system.positions, system.diameters, *([] if system.box is None else [system.box])]
    return all(np.isfinite(a).all() for a in arrays)


shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


arrays = hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64, np.bool_]), shapes)


anything = st.one_of(
    arrays, st.none(), st.text(max_size=4), st.floats(), st.integers(), st.lists(st.floats(), max_size=3)
)


@many(500)
@given(anything, anything, anything, anything)
def test_a_system_is_made_or_refused(positions, box, diameters, species):
    with contextlib.suppress(mdsens.MdsensError):
        system = mdsens.System(positions, box, diameters, species)
        n, d = system.positions.shape
        assert system.diameters.shape == system.species.shape == (n,) and d in (2, 3)
        assert system.box is None or system.box.shape == (d, d)


numbers = st.one_of(st.floats(), st.floats(0.1, 3.0), st.sampled_from([0.0, -1.0, 1e-300, 1e300, np.nan, np.inf]))


@many(300)
@given(
    hnp.arrays(np.float64, (4, 2), elements=st.one_of(st.floats(0, 3), numbers)),
    hnp.arrays(np.float64, (2, 2), elements=st.one_of(st.floats(2, 4), numbers)),
    hnp.arrays(np.float64, (4,), elements=st.one_of(st.floats(0.5, 1.2), numbers)),
    numbers,
    numbers,
)
def test_a_relaxation_ends_at_rest_or_is_refused(positions, box, diameters, epsilon, alpha):
    system = mdsens.System(positions, np.diag(np.diag(box)), diameters)
    with contextlib.suppress(mdsens.MdsensError):
        rest = mdsens.Relaxation(tolerance=1e-8, max_steps=500)(mdsens.SoftSphere(epsilon, alpha), system)
        assert is_finite(rest.system) and np.isfinite(rest.energy) and float(rest.max_force) <= 1e-8
        with contextlib.suppress(mdsens.MdsensError):
            response = mdsens.sensitivity(rest, "diameters").response
            assert np.isfinite(response).all()
