"""Study files, the tasks and batches that they make, and what a batch comes to."""

import dataclasses
import os
import socket
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import mdsens
from conftest import RELAX, jammed
from mdsens.sweeps import compute
from mdsens.sweeps.results import StudyResults
from mdsens.sweeps.run import plan, resumed
from mdsens.sweeps.store import DiskFull, Held, Result, Store
from mdsens.sweeps.study import Study, read_study
from mdsens.sweeps.tasks import batch_of, batches_of, tasks_of
from mdsens.sweeps.workers import DEATHS, Outcome, Stop, _flow

TEMPLATE = Path(mdsens.__file__).parent / "cli/study.toml"

MISTAKES = """
name = "../../etc/passwd"
seeds = -3
[system]
n = 1
dim = 4
diameters = [1.0, -0.6]
packing_fraction = inf
colour = "red"
[potential]
name = "soft-spere"
[sweep]
method = "gird"
[sweep.parameters]
packing_fraction = [0.9, "much"]
[relaxation]
tolerance = 0
minimizer = "fires"
[compute]
responce = ["x"]
properties = ["presure"]
"""


def study(**sections):
    return Study.model_validate(sections)


def faults(text, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(mdsens.InvalidInput) as refused:
        read_study(path)
    return str(refused.value).splitlines()


def test_every_mistake_of_a_file_is_told_at_once_with_its_line_and_what_was_meant(tmp_path):
    told = faults(MISTAKES, tmp_path)[1:]
    lines = MISTAKES.splitlines()
    wrong = [k for k, line in enumerate(lines, 1) if "=" in line and line != "name = "]
    assert len(told) == len(wrong) == 14
    assert sorted(int(line.split(":")[1]) for line in told) == wrong
    for hint in ("did you mean soft-sphere?", "did you mean response?", "did you mean pressure?", "greater than 0",
                 "'grid', 'random' or 'sobol'", "2 or 3"):  # fmt: skip
        assert any(hint in line for line in told), hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('seeds=1000\n[sweep.parameters]\nalpha={low=1,high=2,count=1000}\nepsilon={low=1,high=2,count=1000}',
         "1000000000 tasks"),
        ('[system]\nfiles=["../../*.xyz"]', "stay in it"),
        ('[system]\nfiles=["/etc/passwd"]', "stay in it"),
        ("[sweep.parameters]\nalpha=[inf]", "finite"),
        ("[sweep.parameters]\nalpha=[nan]", "finite"),
        ("[potential]\nepsilon=inf", "finite"),
        ("seeds=[1,", "is no TOML"),
        ("x=" + "[" * 5000, "is no TOML"),
        ("#" * 2_000_000, "too large"),
        ("[sweep.parameters]\nbeta=[1]\ngamma=[2]", "'gamma'"),
        ("[sweep]\nmethod='sobol'\nsamples=8\n[sweep.parameters]\nalpha=[2.0]", "needs a range"),
        ("[sweep.parameters]\nn=[10.5]", "whole numbers"),
        ("[sweep.parameters]\nn=[1e15]", "whole numbers"),
        ("[sweep.parameters]\nn=[2, 3]\n[system]\ndiameters=[1.0, 0.8, 0.6]", "2 particles cannot"),
        ("seeds=" + "9" * 5000, "is no TOML"),
        ('seeds=3\n[system]\nfiles=["a.xyz"]', "no seeds"),
        ("[potential]\nepsilon=[[1.0, 2.0], [2.0]]", "makes no soft-sphere"),
        ("[potential]\nname='lennard-jones'\n[sweep.parameters]\nrange=[2.5]", "'range'"),
        ("[compute]\nresponse=['species-diameter:7']", "'species-diameter:7'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_starts(text, said, tmp_path):
    assert said in "\n".join(faults(text, tmp_path))


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    mdsens.write(tmp_path / "out.extxyz", mdsens.random_packing(8))
    (tmp_path / "in/link.extxyz").symlink_to(tmp_path / "out.extxyz")
    with pytest.raises(mdsens.InvalidInput, match="leads out"):
        tasks_of(study(system={"files": ["*.extxyz"]}), tmp_path / "in")


def test_the_file_to_begin_with_is_valid_and_shows_the_defaults():
    begun, defaults = read_study(TEMPLATE), Study()
    for section in ("system", "relaxation", "keep", "execution"):
        given = getattr(begun, section).model_dump()
        assert given | {"diameters": None} == getattr(defaults, section).model_dump() | {"diameters": None}, section
    assert begun.potential.name == "soft-sphere" and begun.system.sizes == defaults.system.sizes


def test_the_same_study_has_the_same_tasks_and_a_changed_one_only_new_ones_where_it_changed(tmp_path):
    sweep = {"parameters": {"alpha": [2.0, 2.5], "n": [8, 16]}}
    tasks = tasks_of(study(seeds=3, sweep=sweep), tmp_path)
    assert [task.id for task in tasks] == [task.id for task in tasks_of(study(seeds=3, sweep=sweep), tmp_path)]
    assert len({task.id for task in tasks}) == 12
    assert [(t.varied["alpha"], t.varied["n"], t.seed) for t in tasks[:4]] == [
        (2.0, 8, 0),
        (2.0, 8, 1),
        (2.0, 8, 2),
        (2.0, 16, 0),
    ]
    more = tasks_of(study(seeds=4, name="other", sweep=sweep, execution={"batch_size": 3}), tmp_path)
    assert {task.id for task in tasks} < {task.id for task in more} and len(more) == 16
    tighter = tasks_of(study(seeds=3, sweep=sweep, relaxation={"tolerance": 1e-9}), tmp_path)
    assert not {task.id for task in tasks} & {task.id for task in tighter}


def test_samples_fill_their_ranges_evenly_on_their_scale(tmp_path):
    parameters = {"epsilon": {"low": 0.01, "high": 100.0, "scale": "log"}, "alpha": {"low": 2.0, "high": 3.0}}
    for method in ("random", "sobol"):
        sweep = {"method": method, "samples": 256, "seed": 1, "parameters": parameters}
        values = np.array([list(task.varied.values()) for task in tasks_of(study(sweep=sweep), tmp_path)])
        unit = np.column_stack([np.log10(values[:, 0]) / 4 + 0.5, values[:, 1] - 2.0])
        assert unit.min() >= 0 and unit.max() <= 1
        counts = np.histogram2d(*unit.T, bins=4, range=[[0, 1], [0, 1]])[0]
        assert (counts == 16).all() if method == "sobol" else counts.std() > 0.5


def test_batches_hold_every_task_once_and_tasks_of_one_shape(tmp_path):
    parameters = {"n": [8, 32], "packing_fraction": [0.5, 0.9, 0.95], "alpha": [2.0, 2.5]}
    tasks = tasks_of(study(seeds=25, sweep={"parameters": parameters}), tmp_path)
    batches = batches_of(tasks, "cpu")
    assert sorted(task.id for batch in batches for task in batch.tasks) == sorted(task.id for task in tasks)
    for batch in batches:
        fractions = [task.system["packing_fraction"] for task in batch.tasks]
        assert len({(task.shape, task.varied["alpha"]) for task in batch.tasks}) == 1
        assert batch.size - 1 <= len(batch.tasks) <= batch.size <= 64
        assert max(fractions) <= batch.fullest.system["packing_fraction"] <= 1.2 * min(fractions)
    assert len({batch.shape for batch in batches}) == 4  # two sizes, two densities: so much is compiled


WANTED = {
    "response": ["species-diameter:1", "diameters"],
    "properties": ["pressure", "bulk_modulus", "shear_modulus"],
}


@pytest.fixture(scope="module")
def batch():
    """A batch of packings, one of them below jamming, and what it came to."""
    chosen = study(system={"n": 16}, compute=WANTED, seeds=3, sweep={"parameters": {"packing_fraction": [0.6, 0.98]}})
    tasks = [task for task in tasks_of(chosen, Path()) if task.system["packing_fraction"] > 0.9 or task.seed == 0]
    whole = batch_of(tasks, 6, tasks[-1])
    return whole, compute.compute(whole)


def test_a_batch_says_the_same_of_a_packing_as_the_functions_that_take_one(batch):
    tasks, found = batch[0].tasks[1:], batch[1][1:]
    for task, each in zip(tasks, found, strict=True):
        assert not each.reason
        rest = mdsens.Relaxation(tolerance=1e-10)(compute.potential_of(task), each.system)
        np.testing.assert_allclose(rest.positions, each.system.positions, rtol=0, atol=1e-12)  # it was at rest
        values = mdsens.properties.measured(rest, WANTED["properties"])
        np.testing.assert_allclose(list(each.properties.values()), values, rtol=1e-9)
        for name in WANTED["response"]:
            alone = mdsens.sensitivity(rest, name)
            np.testing.assert_allclose(each.responses[name].response, alone.response, rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(each.responses[name].value, alone.value)
        ours, its = each.certificate.as_dict(), rest.certificate.as_dict()
        for fact in ("rattlers", "zero_modes", "floppy", "translations", "minimum", "contact_number", "marginal"):
            assert ours[fact] == its[fact], fact
        assert ours["softest"] == pytest.approx(its["softest"], rel=1e-8)


def test_a_task_that_has_no_response_is_a_row_with_its_reason_and_what_is_known(batch):
    task, found = batch[0].tasks[0], batch[1][0]
    row, arrays = compute.row_of(task, found), compute.arrays_of(task, found)
    assert (row["status"], row["reason"], row["energy"]) == ("failed", "NotRigid", 0.0)
    assert np.isnan(row["response_l1[diameters]"]) and np.isnan(arrays["response/diameters"]).all()
    assert np.isfinite(arrays["positions"]).all() and row["rattlers"] == 16


def test_all_rows_and_arrays_of_a_study_have_the_same_shape(batch):
    rows = [compute.row_of(task, found) for task, found in zip(batch[0].tasks, batch[1], strict=True)]
    arrays = [compute.arrays_of(task, found) for task, found in zip(batch[0].tasks, batch[1], strict=True)]
    lost = compute.Found(reason="WorkerDied")
    rows.append(compute.row_of(batch[0].tasks[0], lost))
    arrays.append(compute.arrays_of(batch[0].tasks[0], lost))
    assert len({tuple(row) for row in rows}) == 1
    assert len({tuple((name, a.shape) for name, a in each.items()) for each in arrays}) == 1


def test_one_bad_system_does_not_spoil_a_batch(tmp_path):
    """A cell too small for the cutoff is refused by itself."""
    for k, n in enumerate((16, 16)):
        mdsens.write(tmp_path / f"{k}.extxyz", mdsens.random_packing(n, seed=k))
    bad = mdsens.random_packing(16, seed=3)
    mdsens.write(tmp_path / "2.extxyz", bad.replace(box=0.1 * bad.box))
    tasks = tasks_of(study(system={"files": ["*.extxyz"]}, compute={"certificate": False}), tmp_path)
    found = compute.compute(batch_of(tasks, 3))
    assert [each.reason for each in found] == ["", "", "InvalidInput"]
    assert "too small" in found[2].message and found[0].energy > 0


def test_what_open_boundaries_do_not_have_is_refused_with_the_file(tmp_path):
    mdsens.write(tmp_path / "open.extxyz", mdsens.System(np.random.default_rng(0).uniform(0, 2, (8, 2))))
    for asked in ({"properties": ["pressure"]}, {"properties": [], "response": ["box"]}):
        with pytest.raises(mdsens.InvalidInput, match="open boundaries"):
            tasks_of(study(system={"files": ["*.extxyz"]}, compute=asked), tmp_path)
    chosen = study(system={"files": ["*.extxyz"]}, compute={"properties": ["energy"]})
    tasks = tasks_of(chosen, tmp_path)
    assert tasks[0].shape[2] is False
    (tmp_path / "open.extxyz").write_text("something else")
    (found,) = compute.compute(batch_of(tasks, 1))
    assert found.reason == "InvalidInput" and "when the study was planned" in found.message


def test_polydispersity_may_vary_and_a_species_grows_as_a_whole():
    wanted = {"properties": ["pressure", "packing_fraction"], "response": ["species-diameter:1"]}
    chosen = study(system={"n": 16}, compute=wanted, sweep={"parameters": {"polydispersity": [0.0, 0.1]}})
    tasks = tasks_of(chosen, Path())
    plain, spread = compute.compute(batch_of(tasks, 2))
    assert not plain.reason and not spread.reason
    assert len(set(np.asarray(plain.system.diameters))) == 2 and len(set(np.asarray(spread.system.diameters))) == 16
    assert spread.properties["packing_fraction"] == pytest.approx(0.98)
    start = mdsens.random_packing(16, polydispersity=0.1)
    np.testing.assert_array_equal(spread.system.diameters, start.diameters)
    alone = RELAX(mdsens.SoftSphere(), spread.system)
    response = mdsens.sensitivity(alone, "species-diameter:1").response
    given = compute.arrays_of(tasks[1], spread)["response/species-diameter:1"]
    np.testing.assert_allclose(given, response, atol=1e-6 * np.abs(response).max())


def test_too_few_steps_are_a_reason(tmp_path):
    tasks = tasks_of(study(system={"n": 16}, relaxation={"max_steps": 3}, seeds=2), tmp_path)
    found = compute.compute(batch_of(tasks, 2))
    assert {each.reason for each in found} == {"NotConverged"} and "after 3 steps" in found[0].message
    assert np.isnan(compute.arrays_of(tasks[0], found[0])["positions"]).all()


def test_packings_from_files_take_the_diameters_and_the_pressure_that_the_study_gives(tmp_path):
    rest = jammed(n=16)
    mdsens.write(tmp_path / "a.extxyz", rest)
    chosen = study(
        system={"files": ["*.extxyz"]},
        compute={"properties": ["pressure", "packing_fraction"], "certificate": False},
        sweep={"parameters": {"species-diameter:1": [0.6, 0.62], "pressure": [0.05]}},
    )
    tasks = tasks_of(chosen, tmp_path)
    found = compute.compute(batch_of(tasks, 2))
    for task, each in zip(tasks, found, strict=True):
        assert each.properties["pressure"] == pytest.approx(0.05, abs=1e-9)
        small = np.asarray(each.system.species) == 1
        np.testing.assert_allclose(np.asarray(each.system.diameters)[small], task.varied["species-diameter:1"])


# Files, locks, and what becomes of batches


def saved(folder, seed=0):
    tasks = tasks_of(study(system={"n": 8}, seeds=[seed]), Path())
    rows = [compute.row_of(task, compute.Found(energy=1.0 + seed)) for task in tasks]
    arrays = [compute.arrays_of(task, compute.Found(reason="lost")) for task in tasks]
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
def test_a_damaged_file_is_never_read_and_is_set_aside(damage, tmp_path):
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


def test_what_was_half_written_is_removed_and_never_counted(tmp_path):
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


def test_a_folder_is_for_one_run_at_a_time_and_a_crashed_one_is_recognised(tmp_path):
    store = Store(tmp_path)
    with store.lock() as stale:
        assert stale is None and store.is_held()
        with pytest.raises(Held, match="process"), store.lock():
            pass
    assert not store.is_held()
    (tmp_path / "lock").write_text("process 1 on elsewhere")  # as a run that was killed leaves it
    assert not store.is_held()
    with store.lock() as stale:
        assert stale == "process 1 on elsewhere"


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdsens.sweeps.store.os.fsync", full)
    with pytest.raises(DiskFull, match="make room"):
        saved(tmp_path)
    assert not list((tmp_path / "batches").iterdir())


class Crew:
    """Workers that do as they are told: `fate(batch)` is what becomes of a batch."""

    def __init__(self, fate):
        self.fate, self.idle, self.flying, self.sent = fate, [0], {}, []

    def send(self, waiting):
        batch = waiting.popleft()
        self.idle.pop()
        self.flying[batch.id] = (0, batch)
        self.sent.append(len(batch.tasks))

    def landed(self, timeout):
        _, batch = self.flying.popitem()[1]
        self.idle.append(0)
        return [self.fate(batch, self.sent)]

    def given_up(self, outcome):
        return dataclasses.replace(outcome, failed=1, trouble="")


def flown(fate, size=4):
    tasks = tasks_of(study(system={"n": 8}, seeds=size), Path())
    crew = Crew(fate)
    outcomes = list(_flow(crew, deque([batch_of(tasks, size)]), Stop(), lambda _: None))
    return crew.sent, outcomes


def test_a_batch_is_halved_until_it_fits_into_memory():
    def fate(batch, sent):
        return Outcome(batch, len(batch.tasks)) if len(batch.tasks) <= 1 else Outcome(batch, trouble="memory")

    sent, outcomes = flown(fate)
    assert sent == [4, 2, 1, 1, 2, 1, 1] and sum(each.done for each in outcomes) == 4


def test_a_batch_whose_worker_was_killed_is_tried_whole_again():
    def fate(batch, sent):
        return Outcome(batch, len(batch.tasks)) if len(sent) >= DEATHS else Outcome(batch, trouble="death")

    sent, outcomes = flown(fate)
    assert sent == [4] * DEATHS and [each.done for each in outcomes] == [4]


def test_a_task_that_always_kills_its_worker_is_found_and_given_up():
    def fate(batch, sent):
        lethal = any(task.seed == 2 for task in batch.tasks)
        return Outcome(batch, trouble="death") if lethal else Outcome(batch, len(batch.tasks))

    _, outcomes = flown(fate)
    assert sum(each.done for each in outcomes) == 3 and sum(each.failed for each in outcomes) == 1


def test_a_run_ends_when_the_disk_is_full():
    sent, outcomes = flown(lambda batch, sent: Outcome(batch, trouble="disk", message="full"))
    assert sent == [4] and outcomes[0].message == "full"


def test_of_a_batch_that_is_partly_known_the_rest_is_computed_in_its_shape(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("seeds = 5\n[system]\nn = 8")
    whole = plan(path)
    store = Store(tmp_path / "out")
    store.prepare()
    known = whole.tasks[:2]
    rows = [compute.row_of(task, compute.Found(energy=1.0)) for task in known]
    store.save(batch_of(known, 2).id, Result(rows, {}, {}))
    rest = resumed(whole, store)
    assert [task.id for task in rest.batches[0].tasks] == [task.id for task in whole.tasks[2:]]
    assert rest.batches[0].shape == whole.batches[0].shape and len(rest.known) == 2


def test_a_failed_task_that_is_tried_again_is_taken_out_and_the_others_of_its_file_stay(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    tasks = tasks_of(study(system={"n": 8}, seeds=2), Path())
    bad, good = compute.Found(reason="WorkerDied", message="gone"), compute.Found(energy=2.0)
    rows = [compute.row_of(task, each) for task, each in zip(tasks, (bad, good), strict=True)]
    store.save(batch_of(tasks, 2).id, Result(rows, {"positions": np.arange(4.0).reshape(2, 2)}, {}))
    store.write_json("plan.json", {"tasks": {task.id: {"alpha": 2.0} for task in tasks}})
    assert list(StudyResults(tmp_path, tasks[0].study).table["status"]) == ["failed", "done"]
    store.forget_failed()
    table = StudyResults(tmp_path, tasks[0].study).table
    assert list(table["task"]) == [tasks[1].id] and list(table["energy"]) == [2.0] and list(table["alpha"]) == [2.0]
    np.testing.assert_array_equal(StudyResults(tmp_path, tasks[0].study).arrays(tasks[1].id)["positions"], [2.0, 3.0])
