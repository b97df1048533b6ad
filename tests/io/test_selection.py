"""Particles that a text chooses to be fixed."""

import numpy as np
import pytest

import mdsens
from mdsens.io.selection import with_fixed

SYSTEM = mdsens.System(np.arange(12.0).reshape(6, 2), 20.0, species=[0, 1, 0, 1, 1, 0], numbers=[14, 6, 14, 6, 6, 14])


@pytest.mark.parametrize(
    ("chosen", "fixed"),
    [
        (["0-2"], [1, 1, 1, 0, 0, 0]),
        (["0, 4-5"], [1, 0, 0, 0, 1, 1]),
        (["species=1"], [0, 1, 0, 1, 1, 0]),
        (["Si"], [1, 0, 1, 0, 0, 1]),
        (["0", "species = 1"], [1, 1, 0, 1, 1, 0]),
        (["3:x", "3:y"], [0, 0, 0, 1, 0, 0]),
    ],
)
def test_particles_are_chosen_by_number_species_or_element(chosen, fixed):
    np.testing.assert_array_equal(with_fixed(SYSTEM, chosen).fixed, np.array(fixed, bool))


def test_components_are_fixed_besides_what_is_fixed_already():
    found = with_fixed(SYSTEM.replace(fixed=np.arange(6) == 5), ["0-1:y"]).fixed
    np.testing.assert_array_equal(found, [[0, 1], [0, 1], [0, 0], [0, 0], [0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("6", "numbered from 0 to 5"),
        ("3-1", "numbered from 0 to 5"),
        ("species=7", "there are no particles species=7"),
        ("Ge", "there are no particles Ge"),
        ("the left ones", "are given as numbers"),
        ("0:z", "components to fix are x, y"),
        ("0:xx", "components to fix are x, y"),
    ],
)
def test_a_choice_that_is_not_understood_or_empty_is_refused(chosen, reason):
    with pytest.raises(mdsens.InvalidInput, match=reason):
        with_fixed(SYSTEM, [chosen])
