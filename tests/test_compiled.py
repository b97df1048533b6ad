"""A long session with many shapes does not run into the system's limit."""

import jax
import numpy as np

from conftest import RELAX, jammed
from mdsens import compiled


def test_what_is_compiled_is_let_go_when_there_is_too_much_of_it(monkeypatch, compilations):
    rest = jammed(n=32)
    again = RELAX(rest.potential, rest.system)
    with compilations as none:
        RELAX(rest.potential, rest.system)
    assert none.count == 0
    monkeypatch.setattr(compiled, "MAPS_AT_MOST", 0)
    monkeypatch.setattr(compiled, "_next_look", 0.0)
    with compilations as some:
        anew = RELAX(rest.potential, rest.system)
    assert some.count > 0
    np.testing.assert_array_equal(anew.positions, again.positions)


def test_it_is_not_looked_at_all_the_time(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(compiled, "MAPS_AT_MOST", 0)
    monkeypatch.setattr(compiled, "_next_look", 0.0)
    for _ in range(5):
        compiled.make_room()
    assert len(cleared) == 1
