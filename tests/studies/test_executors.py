"""Runs on several devices, on Dask and on SLURM."""

import contextlib
import json
import os
import subprocess
import time

import pytest

import crashes
import slurm
from commands import call
from mdsens.studies.store import Store
from small_study import in_a_process


def test_a_missing_gpu_is_reported_at_once(study, tmp_path):
    code, _, said = call("run", study, "-o", tmp_path / "out", "--device", "gpu")
    if code in (0, 1):
        pytest.skip("there is a GPU here")
    assert code == 2 and "no GPU" in said and not (tmp_path / "out").exists()


def test_every_device_gets_work(study, tmp_path):
    devices = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"}
    in_a_process("run", study, "-o", tmp_path / "out", "--workers", "3", env=devices)
    used = {result.origin["device"] for _, result in Store(tmp_path / "out").results(arrays=False)}
    assert {name.split()[-1] for name in used} == {"0", "1", "2"}


def test_a_dask_cluster_computes_a_study(study, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        code, out, said = call("run", study, "-o", tmp_path / "out", "--executor", "dask", "--scheduler", address)
        assert code == 1 and "computed          16 " in out, said
    assert len(Store(tmp_path / "out").rows()) == 16


def test_incompatible_options_are_refused(study, tmp_path):
    code, _, said = call("run", study, "-o", tmp_path / "out", "--partition", "main")
    assert code == 2 and "--executor slurm" in said
    code, _, said = call("run", study, "-o", tmp_path / "out", "--executor", "dask")
    assert code == 2 and "--scheduler" in said
    code, _, said = call("run", study, "-o", tmp_path / "out", "--executor", "slurm", "--time", "soon")
    assert code == 2 and "HH:MM:SS" in said


@pytest.mark.slow
def test_slurm_computes_a_study_though_jobs_are_cancelled_and_requeued(study, tmp_path):
    reason = slurm.why_not()
    if reason and not os.environ.get("MDSENS_REQUIRE_SLURM"):
        pytest.skip(reason)
    with slurm.cluster() as environment:
        options = "--executor", "slurm", "--jobs", "3", "--time", "10", "--partition", "main", "--device", "cpu"
        run = subprocess.Popen(
            crashes.command("run", study, "-o", tmp_path / "out", *options),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        cancelled, requeued = _disturb(environment, run)
        out, said = run.communicate(timeout=300)
    assert cancelled and requeued, said
    assert run.returncode == 1 and "16, of which 0 were known" in out, said
    results = [result for _, result in Store(tmp_path / "out").results(arrays=False)]
    assert sorted(row["task"] for result in results for row in result.rows) == sorted(Store(tmp_path / "out").rows())
    assert len(Store(tmp_path / "out").rows()) == 16
    arrays = {job.partition("_")[0] for job in json.loads((tmp_path / "out/slurm/jobs.json").read_text())}
    assert len(arrays) >= 2  # cancelled jobs were submitted again


def _start_at_once(environment, job):
    """Start a job that was requeued, which SLURM would let wait for two minutes."""
    for _ in range(60):
        ask = ["squeue", "-h", "--array", "-o", "%T", "--jobs", job]
        if "PENDING" in subprocess.run(ask, env=environment, capture_output=True, text=True, check=False).stdout:
            break
        time.sleep(0.5)
    now = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    subprocess.run(now, env=environment, check=True)


def _disturb(environment, run):
    """Cancel one running job, and requeue another."""
    cancelled = requeued = None
    deadline = time.monotonic() + 90
    while not (cancelled and requeued) and run.poll() is None and time.monotonic() < deadline:
        ask = ["squeue", "-h", "--array", "-t", "R", "-o", "%i"]
        running = subprocess.run(ask, env=environment, capture_output=True, text=True, check=False).stdout.split()
        with contextlib.suppress(IndexError):
            if not cancelled:
                subprocess.run(["scancel", running[0]], env=environment, check=True)
                cancelled = running[0]
            elif running[-1] != cancelled:
                subprocess.run(["scontrol", "requeue", running[-1]], env=environment, check=True)
                requeued = running[-1]
                _start_at_once(environment, requeued)
        time.sleep(0.5)
    return cancelled, requeued
