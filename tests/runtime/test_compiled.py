"""Compiled programs are released before they are too many, and kept on disk."""

import os

import jax
import numpy as np

import mdsens
from mdsens.runtime import compiled
from samples import RELAX, jammed


def test_compiled_programs_are_released_when_there_are_too_many(monkeypatch, compilations):
    rest = jammed(n=32)
    again = RELAX(rest.potential, rest.system)
    with compilations as none:
        RELAX(rest.potential, rest.system)
    assert none.count == 0
    monkeypatch.setattr(compiled, "MOST_MAPS", 0)
    monkeypatch.setattr(compiled, "_next_check", 0.0)
    with compilations as some:
        anew = RELAX(rest.potential, rest.system)
    assert some.count > 0
    np.testing.assert_array_equal(anew.positions, again.positions)


def test_numbers_on_the_host_are_computed_without_compiling(compilations):
    """NumPy computes what is no program of its own, where JAX would compile one for each operation and shape."""
    rest, small = jammed(n=32), "species-diameter:1"
    own = {"survey", "_prepare", "advance_to", "_finish", "linearize", "_columns", "_build", "_rates", "_gaps"}
    own |= {"newton_step", "_elastic_tensors", "_virial", "_with_and_without_pressure", "_contact_number", "_modes"}
    own |= {"_heights", "_distances", "_wrapped", "participation_ratio"}
    jax.clear_caches()
    with compilations as counted:
        response = mdsens.sensitivity(rest, small)
        mdsens.validity(rest, small)
        mdsens.properties.table(rest)
        mdsens.response_field(rest, response)
        rest.forces  # noqa: B018
    assert counted.functions <= own, counted.functions - own
    assert len(counted.names) == len(counted.functions)


def test_the_least_recently_used_programs_on_disk_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "MOST_BYTES", 250)
    (tmp_path / "kind").mkdir()
    for age in range(4):
        file = tmp_path / "kind" / f"{age}"
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    compiled._remove_least_recently_used(tmp_path)
    assert sorted(file.name for file in (tmp_path / "kind").iterdir()) == ["0", "1"]


def test_programs_are_not_kept_where_nothing_can_be_written(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    compiled.keep_compiled_in(tmp_path / "file")
    assert jax.config.jax_compilation_cache_dir == before


def test_memory_maps_are_counted_at_most_once_a_second(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(compiled, "MOST_MAPS", 0)
    monkeypatch.setattr(compiled, "_next_check", 0.0)
    monkeypatch.setattr(compiled, "SECONDS_BETWEEN_CHECKS", 1000.0)
    for _ in range(5):
        compiled.release_when_full()
    assert len(cleared) == 1
