"""The folder of a study: complete, damaged and unfinished files, and its lock."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from mdsens.studies.kinds import response
from mdsens.studies.results import StudyResults
from mdsens.studies.run import plan, resumed
from mdsens.studies.store import DiskFull, FolderInUse, Result, Store
from mdsens.studies.study import Study
from mdsens.studies.tasks import batch_of, tasks_of


def study(**sections):
    return Study.model_validate(sections)


def saved(folder, seed=0):
    tasks = tasks_of(study(system={"n": 8}, seeds=[seed]), Path())
    rows = [response.row_of(task, response.Found(energy=1.0 + seed)) for task in tasks]
    arrays = [response.arrays_of(task, response.Found(reason="lost")) for task in tasks]
    stacked = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
    result = Result(rows, stacked, {"device": "none"})
    store = Store(folder)
    store.prepare()
    return store, store.save(batch_of(tasks, 1).id, result), result


def test_a_file_holds_what_was_written_bit_for_bit(tmp_path):
    store, path, result = saved(tmp_path)
    ((again, read),) = store.results()
    assert again == path and list(read.rows[0]) == list(result.rows[0]) and read.origin["device"] == "none"
    for name, value in result.rows[0].items():
        assert read.rows[0][name] == value or np.isnan(value)
    assert {name: a.shape for name, a in read.arrays.items()} == {name: a.shape for name, a in result.arrays.items()}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "renamed"])
def test_a_damaged_file_is_not_read_and_is_set_aside(damage, tmp_path):
    store, path, _ = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "renamed":
        path.rename(path.with_name("0123456789abcdef.h5"))
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-100], "flipped": bytes(content), "empty": b""}[damage])
    assert not list(store.results()) and not store.rows()
    assert len(store.set_aside_broken()) == 1 and not store.files()
    assert len(list((tmp_path / "broken").iterdir())) == 1


def test_half_written_files_are_removed_and_not_counted(tmp_path):
    store, path, _ = saved(tmp_path)
    host = socket.gethostname().partition(".")[0]
    gone, alive = (store.batches / f".aaaa-{host}-{pid}.h5" for pid in (2**22 + 1, os.getpid()))
    for half in (gone, alive):
        half.write_bytes(path.read_bytes()[:100])
    (tmp_path / ".pre-commit-config.yaml").write_text("of the user")
    assert len(store.files()) == 1
    store.clean()
    assert {each.name for each in store.batches.iterdir()} == {path.name, alive.name}
    assert (tmp_path / ".pre-commit-config.yaml").exists()


def test_a_folder_is_locked_by_one_run_and_a_crashed_run_is_recognized(tmp_path):
    store = Store(tmp_path)
    with store.lock() as stale:
        assert stale is None and store.is_locked()
        with pytest.raises(FolderInUse, match="process"), store.lock():
            pass
    assert not store.is_locked()
    (tmp_path / "lock").write_text("process 1 on elsewhere")  # as a run that was killed leaves it
    assert not store.is_locked()
    with store.lock() as stale:
        assert stale == "process 1 on elsewhere"


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdsens.studies.store.os.fsync", full)
    with pytest.raises(DiskFull, match="make room"):
        saved(tmp_path)
    assert not list((tmp_path / "batches").iterdir())


def test_the_rest_of_a_partly_known_batch_is_computed_in_its_shape(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("seeds = 5\n[system]\nn = 8")
    whole = plan(path)
    store = Store(tmp_path / "out")
    store.prepare()
    known = whole.tasks[:2]
    rows = [response.row_of(task, response.Found(energy=1.0)) for task in known]
    store.save(batch_of(known, 2).id, Result(rows, {}, {}))
    rest = resumed(whole, store)
    assert [task.id for task in rest.batches[0].tasks] == [task.id for task in whole.tasks[2:]]
    assert rest.batches[0].shape == whole.batches[0].shape and len(rest.known) == 2


def test_retrying_a_failed_task_keeps_the_others_of_its_file(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    tasks = tasks_of(study(system={"n": 8}, seeds=2), Path())
    bad, good = response.Found(reason="WorkerDied", message="gone"), response.Found(energy=2.0)
    rows = [response.row_of(task, each) for task, each in zip(tasks, (bad, good), strict=True)]
    store.save(batch_of(tasks, 2).id, Result(rows, {"positions": np.arange(4.0).reshape(2, 2)}, {}))
    store.write_json("plan.json", {"tasks": {task.id: {"alpha": 2.0} for task in tasks}})
    assert list(StudyResults(tmp_path, tasks[0].study).table["status"]) == ["failed", "done"]
    store.forget_failed()
    table = StudyResults(tmp_path, tasks[0].study).table
    assert list(table["task"]) == [tasks[1].id] and list(table["energy"]) == [2.0] and list(table["alpha"]) == [2.0]
    np.testing.assert_array_equal(StudyResults(tmp_path, tasks[0].study).arrays(tasks[1].id)["positions"], [2.0, 3.0])
