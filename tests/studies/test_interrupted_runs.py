"""Runs that are interrupted, killed, or run out of disk space."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import crashes
from commands import call
from mdsens.studies.store import Store
from small_study import STUDY, in_a_process


def begun(study, folder, *arguments, **options):
    """A run that has finished its first batch."""
    run = subprocess.Popen(
        crashes.command("run", study, "-o", folder, *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not Store(folder).files() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return run


@pytest.fixture(scope="module")
def long_study(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "study.toml"
    path.write_text(STUDY.replace("seeds = 4", "seeds = 2000"))
    return path


def test_a_second_run_is_refused_and_sigterm_saves_finished_tasks(long_study, tmp_path):
    run = begun(long_study, tmp_path / "out")
    code, _, said = call("run", long_study, "-o", tmp_path / "out")
    assert code == 1 and f"process {run.pid}" in said
    status = json.loads(call("status", tmp_path / "out", "--json")[1])
    assert status["running"] > 0 and str(run.pid) in status["locked_by"] and status["left"] > 0
    asked = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=30)
    assert time.monotonic() - asked < 10.0  # as promised
    assert run.returncode == 143 and "the same command goes on" in said
    assert not list((tmp_path / "out/batches").glob(".*"))
    assert json.loads(call("status", tmp_path / "out", "--json")[1])["done"] > 0


def test_workers_end_when_their_run_is_killed(long_study, tmp_path):
    run = begun(long_study, tmp_path / "out")
    workers = crashes._children(run.pid)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.slow
def test_a_study_killed_at_random_moments_comes_to_the_same_table(tmp_path):
    tally = crashes.survive(6, tmp_path, seed=1)
    assert tally.same and tally.rewritten == 0


def test_a_full_disk_ends_a_run_and_finished_results_are_safe(long_study, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no file system of a given size can be made here")
    try:
        cache = {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))}
        code, _, said = in_a_process("run", long_study, "-o", disk / "out", env=os.environ | cache)
        assert code == 1 and "No space left" in said and "make room" in said
        store = Store(disk / "out")
        assert store.rows() and len(list(store.results())) == len(store.files())
        assert not list(store.batches.glob(".*"))
    finally:
        subprocess.run(["umount", disk], check=True)
