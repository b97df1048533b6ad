"""A long session with many shapes does not run into the system's limit."""

import os

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


def test_the_oldest_of_what_is_kept_is_let_go(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "KEPT", 250)
    (tmp_path / "kind").mkdir()
    for age in range(4):
        file = tmp_path / "kind" / f"{age}"
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    compiled._let_go_of_the_oldest(tmp_path)
    assert sorted(file.name for file in (tmp_path / "kind").iterdir()) == ["0", "1"]


def test_where_nothing_can_be_written_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    compiled.remember(tmp_path / "file")
    assert jax.config.jax_compilation_cache_dir == before


def test_it_is_not_looked_at_all_the_time(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(compiled, "MAPS_AT_MOST", 0)
    monkeypatch.setattr(compiled, "_next_look", 0.0)
    for _ in range(5):
        compiled.make_room()
    assert len(cleared) == 1
