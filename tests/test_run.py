"""`mdsens run` as its user meets it: other processes, signals, disks, devices, clusters."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas
import pytest

import mdsens
import slurm
from mdsens.sweeps.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import crashes

README = Path(__file__).parent.parent / "README.md"

STUDY = """
name = "small"
seeds = 4
[system]
n = 16
[sweep.parameters]
packing_fraction = [0.6, 0.95]
alpha = [2.0, 2.5]
[compute]
response = ["species-diameter:1"]
properties = ["pressure"]
certificate = false
[execution]
batch_size = 4
"""


def mdsens_command(*arguments, timeout=300, **options):
    done = subprocess.run(
        crashes.command(*arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def finished(study):
    """A study that was run to its end, with what the command said."""
    folder = study.parent / "out"
    return folder, mdsens_command("run", study, "-o", folder)


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in Store(folder).files()}


def test_a_run_computes_every_task_and_its_exit_code_says_that_some_failed(finished):
    folder, (code, out, _) = finished
    assert code == 1 and "NotRigid" in out and "16" in out
    status = json.loads(mdsens_command("status", folder, "--json")[1])
    assert {key: status[key] for key in ("total", "done", "failed", "running", "left")} == {
        "total": 16, "done": 8, "failed": 8, "running": 0, "left": 0,
    }  # fmt: skip
    assert status["reasons"] == {"NotRigid": 8} and status["held_by"] is None
    assert len(status["failures"]) == 8 and "hold" in status["failures"][0]["message"]


def test_the_same_command_again_computes_nothing(finished, study):
    folder, _ = finished
    before = files(folder)
    code, out, _ = mdsens_command("run", study, "-o", folder)
    assert code == 1 and "16 were known" in out and "computed" not in out
    assert files(folder) == before


def test_results_are_one_table_and_load_with_one_call(finished):
    folder, _ = finished
    code, out, _ = mdsens_command("collect", folder)
    assert code == 0 and "16 tasks" in out
    results = mdsens.load_study(folder)
    tables = [pandas.read_csv(folder / "table.csv"), pandas.read_parquet(folder / "table.parquet"), results.table]
    for table in tables:
        assert len(table) == 16 and list(table["alpha"][:8:4]) == [2.0, 2.5]
        np.testing.assert_array_equal(table["energy"], tables[0]["energy"])
    data = results.to_xarray()
    assert data["positions"].dims == ("task", "particle", "axis")
    assert data["response_species-diameter:1"].sizes == {"task": 16, "particle": 16, "axis": 2}
    done = results.table[results.table["status"] == "done"].iloc[0]
    system = results.system(done["task"])
    rest = mdsens.Relaxation()(mdsens.SoftSphere(alpha=done["alpha"]), system)
    assert rest.energy == pytest.approx(done["energy"], rel=1e-12)
    l1 = np.abs(data["response_species-diameter:1"].sel(task=done["task"])).sum()
    assert float(l1) == pytest.approx(done["response_l1[species-diameter:1]"])


def test_what_readme_says_of_results_runs(finished, monkeypatch):
    folder, _ = finished
    (code,) = re.findall(r"^```python of a study\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    table = mdsens.load_study(folder).table
    monkeypatch.chdir(folder.parent)
    (folder.parent / "OUT").symlink_to(folder)
    exec(code.replace("n=128", "n=16"), {"mdsens": mdsens, "task": table[table["status"] == "done"]["task"].iloc[0]})


def test_pictures_of_a_study_and_of_a_task_are_drawn(finished):
    folder, _ = finished
    assert mdsens_command("plot", folder)[0] == 0
    results = mdsens.load_study(folder)
    assert mdsens.plotting.draw_study(results)._repr_png_()[:4] == b"\x89PNG"  # in a notebook
    task = results.table[results.table["status"] == "done"]["task"].iloc[0]
    code, out, _ = mdsens_command("show", folder, task[:8])
    assert code == 0 and task in out and "response_l1" in out
    for name in ("study.png", f"{task}.png"):
        pixels = matplotlib.image.imread(folder / name)
        assert pixels.shape[0] > 400 and pixels[..., :3].std() > 0.05
    code, _, said = mdsens_command("show", folder, "zzz")
    assert code == 2 and "no finished task" in said


def test_a_dry_run_says_how_much_there_is_to_do(study, tmp_path):
    code, out, _ = mdsens_command("run", study, "--dry-run", cwd=tmp_path)
    assert code == 0 and not list(tmp_path.iterdir())
    assert all(
        word in out for word in ("tasks             16", "16 of 16 particles in 2D", "batches           4", "MB")
    )


def test_what_was_fixed_and_now_varies_is_known_and_has_its_value_in_the_table(finished, study, tmp_path):
    """A task may belong to several studies."""
    narrow = tmp_path / "narrow.toml"
    narrow.write_text(
        STUDY.replace("packing_fraction = [0.6, 0.95]\n", "").replace("n = 16", "n = 16\npacking_fraction = 0.95")
    )
    folder, _ = finished
    code, out, _ = mdsens_command("run", narrow, "-o", folder)
    assert code == 0 and "8, of which 8 were known" in out
    assert "packing_fraction" not in mdsens.load_study(folder).table
    assert mdsens_command("plot", folder)[0] == 0
    mdsens_command("run", study, "-o", folder)
    assert set(mdsens.load_study(folder).table["packing_fraction"]) == {0.6, 0.95}


def test_a_study_that_changed_computes_only_what_changed(finished, study):
    folder, _ = finished
    before = files(folder)
    changed = study.parent / "changed.toml"
    changed.write_text(STUDY.replace("seeds = 4", "seeds = 5"))
    _, out, _ = mdsens_command("run", changed, "-o", folder)
    assert "20, of which 16 were known" in out and "computed          4 " in out
    assert before.items() <= files(folder).items()
    mdsens_command("run", study, "-o", folder)


def test_damaged_results_are_told_and_computed_anew(finished, study):
    folder, _ = finished
    mdsens_command("collect", folder)
    table, own = (folder / "table.csv").read_bytes(), set(Store(folder).read_json("plan.json")["tasks"])
    victim, other = [path for path, result in Store(folder).results() if result.rows[0]["task"] in own][:2]
    victim.write_bytes(victim.read_bytes()[:-50])
    other.write_bytes(b"")
    code, out, said = mdsens_command("run", study, "-o", folder)
    assert code == 1 and said.count("damaged") == 2 and "computed          8 " in out
    mdsens_command("collect", folder)
    assert (folder / "table.csv").read_bytes() == table


def test_failed_tasks_are_tried_again_when_that_is_asked_for(finished, study):
    folder, _ = finished
    before = files(folder)
    code, out, _ = mdsens_command("run", study, "-o", folder, "--retry-failed")
    assert code == 1 and "16, of which 8 were known" in out and "computed          8 " in out
    assert len(set(before.items()) & set(files(folder).items())) >= 2  # what was done stays as it was
    assert len(list((folder / "retried").iterdir())) >= 2


def begun(study, folder, *arguments, **options):
    """A run under way, once it has finished something."""
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


def test_one_run_at_a_time_and_on_sigterm_what_is_finished_is_saved(long_study, tmp_path):
    run = begun(long_study, tmp_path / "out")
    code, _, said = mdsens_command("run", long_study, "-o", tmp_path / "out")
    assert code == 1 and f"process {run.pid}" in said
    status = json.loads(mdsens_command("status", tmp_path / "out", "--json")[1])
    assert status["running"] > 0 and str(run.pid) in status["held_by"] and status["left"] > 0
    asked = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=30)
    assert time.monotonic() - asked < 10.0  # what is promised
    assert run.returncode == 143 and "the same command goes on" in said
    assert not list((tmp_path / "out/batches").glob(".*"))
    assert json.loads(mdsens_command("status", tmp_path / "out", "--json")[1])["done"] > 0


def test_workers_end_with_a_run_that_is_killed(long_study, tmp_path):
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


def test_a_full_disk_ends_a_run_with_what_is_finished_safe(long_study, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no file system of a given size can be made here")
    try:
        cache = {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))}
        code, _, said = mdsens_command("run", long_study, "-o", disk / "out", env=os.environ | cache)
        assert code == 1 and "No space left" in said and "make room" in said
        store = Store(disk / "out")
        assert store.rows() and len(list(store.results())) == len(store.files())
        assert not list(store.batches.glob(".*"))
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("where", ["/proc/mdsens", "study.toml"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(where, study):
    code, _, said = mdsens_command("run", study, "-o", study.parent / where)
    assert code == 2 and ("cannot be written" in said or "is a file" in said)


def test_a_gpu_that_is_not_there_is_said_at_once(study, tmp_path):
    code, _, said = mdsens_command("run", study, "-o", tmp_path / "out", "--device", "gpu")
    if code in (0, 1):
        pytest.skip("there is a GPU here")
    assert code == 2 and "no GPU" in said and not (tmp_path / "out").exists()


def test_every_device_gets_work(study, tmp_path):
    devices = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    mdsens_command("run", study, "-o", tmp_path / "out", "--workers", "3", env=devices)
    used = {result.origin["device"] for _, result in Store(tmp_path / "out").results(arrays=False)}
    assert {name.split()[-1] for name in used} == {"0", "1", "2"}


def test_a_cluster_of_dask_does_the_work(study, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        code, out, said = mdsens_command(
            "run", study, "-o", tmp_path / "out", "--executor", "dask", "--scheduler", address
        )
        assert code == 1 and "computed          16 " in out, said
    assert len(Store(tmp_path / "out").rows()) == 16


def test_options_that_do_not_belong_together_are_refused(study, tmp_path):
    code, _, said = mdsens_command("run", study, "-o", tmp_path / "out", "--partition", "main")
    assert code == 2 and "--executor slurm" in said
    code, _, said = mdsens_command("run", study, "-o", tmp_path / "out", "--executor", "dask")
    assert code == 2 and "--scheduler" in said
    code, _, said = mdsens_command("run", study, "-o", tmp_path / "out", "--executor", "slurm", "--time", "soon")
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
    assert len(arrays) >= 2  # what was cancelled was submitted again


def _start_at_once(environment, job):
    """SLURM lets a job that was requeued wait for two minutes."""
    for _ in range(60):
        ask = ["squeue", "-h", "--array", "-o", "%T", "--jobs", job]
        if "PENDING" in subprocess.run(ask, env=environment, capture_output=True, text=True, check=False).stdout:
            break
        time.sleep(0.5)
    now = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    subprocess.run(now, env=environment, check=True)


def _disturb(environment, run):
    """Cancels one job that runs, and requeues another."""
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
