"""Results of batches, and how batches are retried."""

import dataclasses
import json
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import mdsens
from mdsens.studies.kinds import KINDS, Kind, response
from mdsens.studies.record import compute_and_save
from mdsens.studies.results import load_study
from mdsens.studies.run import plan
from mdsens.studies.sections import Section
from mdsens.studies.sources import pair_potential
from mdsens.studies.store import Store
from mdsens.studies.study import Study
from mdsens.studies.tasks import batch_of, tasks_of
from mdsens.studies.workers import DEATHS_BEFORE_HALVING, Outcome, Stop, _flow
from samples import RELAX, jammed


def study(**sections):
    return Study.model_validate(sections)


WANTED = {
    "response": ["species-diameter:1", "diameters"],
    "properties": ["pressure", "bulk_modulus", "shear_modulus"],
}


@pytest.fixture(scope="module")
def batch():
    """A batch of packings, one of them below jamming, and its results."""
    chosen = study(system={"n": 16}, compute=WANTED, seeds=3, sweep={"parameters": {"packing_fraction": [0.6, 0.98]}})
    tasks = [task for task in tasks_of(chosen, Path()) if task.system["packing_fraction"] > 0.9 or task.seed == 0]
    whole = batch_of(tasks, 6, tasks[-1])
    return whole, response.compute(whole)


def test_a_batch_agrees_with_the_functions_for_single_packings(batch):
    tasks, found = batch[0].tasks[1:], batch[1][1:]
    for task, each in zip(tasks, found, strict=True):
        assert not each.reason
        rest = mdsens.Relaxation(tolerance=1e-10)(pair_potential(task.potential), each.system)
        np.testing.assert_allclose(rest.positions, each.system.positions, rtol=0, atol=1e-12)  # it was at rest already
        values = mdsens.properties.measured(rest, WANTED["properties"])
        np.testing.assert_allclose(list(each.properties.values()), values, rtol=1e-9)
        for name in WANTED["response"]:
            alone = mdsens.sensitivity(rest, name)
            np.testing.assert_allclose(each.responses[name].response, alone.response, rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(each.responses[name].value, alone.value)
        ours, its = each.certificate.as_dict(), rest.certificate.as_dict()
        for fact in ("rattlers", "zero_modes", "floppy", "translations", "minimum", "contact_number", "indeterminate"):
            assert ours[fact] == its[fact], fact
        assert ours["softest"] == pytest.approx(its["softest"], rel=1e-8)


def test_a_task_without_a_response_is_a_row_with_its_reason_and_known_values(batch):
    task, found = batch[0].tasks[0], batch[1][0]
    row, arrays = response.row_of(task, found), response.arrays_of(task, found)
    assert (row["status"], row["reason"], row["energy"]) == ("failed", "NotRigid", 0.0)
    assert np.isnan(row["response_l1[diameters]"]) and np.isnan(arrays["response/diameters"]).all()
    assert np.isfinite(arrays["positions"]).all() and row["rattlers"] == 16


def test_all_rows_and_arrays_of_a_study_have_the_same_shape(batch):
    rows = [response.row_of(task, found) for task, found in zip(batch[0].tasks, batch[1], strict=True)]
    arrays = [response.arrays_of(task, found) for task, found in zip(batch[0].tasks, batch[1], strict=True)]
    lost = response.Found(reason="WorkerDied")
    rows.append(response.row_of(batch[0].tasks[0], lost))
    arrays.append(response.arrays_of(batch[0].tasks[0], lost))
    assert len({tuple(row) for row in rows}) == 1
    assert len({tuple((name, a.shape) for name, a in each.items()) for each in arrays}) == 1


def test_one_bad_system_does_not_spoil_a_batch(tmp_path):
    """Only the task whose cell is too small for the cutoff is refused."""
    for k, n in enumerate((16, 16)):
        mdsens.write(tmp_path / f"{k}.extxyz", mdsens.random_packing(n, seed=k))
    bad = mdsens.random_packing(16, seed=3)
    mdsens.write(tmp_path / "2.extxyz", bad.replace(box=0.1 * bad.box))
    tasks = tasks_of(study(system={"files": ["*.extxyz"]}, compute={"certificate": False}), tmp_path)
    found = response.compute(batch_of(tasks, 3))
    assert [each.reason for each in found] == ["", "", "InvalidInput"]
    assert "too small" in found[2].message and found[0].energy > 0


def test_properties_undefined_for_open_boundaries_are_refused_with_the_file(tmp_path):
    mdsens.write(tmp_path / "open.extxyz", mdsens.System(np.random.default_rng(0).uniform(0, 2, (8, 2))))
    for asked in ({"properties": ["pressure"]}, {"properties": [], "response": ["box"]}):
        with pytest.raises(mdsens.InvalidInput, match="open boundaries"):
            tasks_of(study(system={"files": ["*.extxyz"]}, compute=asked), tmp_path)
    chosen = study(system={"files": ["*.extxyz"]}, compute={"properties": ["energy"]})
    tasks = tasks_of(chosen, tmp_path)
    assert tasks[0].shape[2] == (False, False)
    (tmp_path / "open.extxyz").write_text("something else")
    (found,) = response.compute(batch_of(tasks, 1))
    assert found.reason == "InvalidInput" and "when the study was planned" in found.message


def test_films_are_studied_in_their_cells(tmp_path):
    """Two strips of a crystal, open above and below, in one batch; a property that needs a volume is refused."""
    x = np.stack(np.meshgrid(np.arange(6), np.arange(3)), -1).reshape(-1, 2) * [1.1, 0.97] + [0.55, 0.0] * (
        np.repeat(np.arange(3), 6)[:, None] % 2
    )
    for k, edge in enumerate((6.6, 6.7)):
        film = mdsens.System(x * [edge / 6.6, 1.0], [edge, 0.0], 1.0, periodic=(True, False))
        mdsens.write(tmp_path / f"{k}.extxyz", film)
    chosen = {"system": {"files": ["*.extxyz"]}, "potential": {"name": "lennard-jones"}}
    with pytest.raises(mdsens.InvalidInput, match="open boundaries along some directions, and so no pressure"):
        tasks_of(study(**chosen, compute={"properties": ["pressure"]}), tmp_path)
    tasks = tasks_of(study(**chosen, compute={"properties": ["energy"], "response": ["box"]}), tmp_path)
    found = response.compute(batch_of(tasks, 2))
    for k, (task, each) in enumerate(zip(tasks, found, strict=True)):
        assert not each.reason and each.system.periodic == (True, False)
        arrays = response.arrays_of(task, each)
        assert arrays["periodic"].tolist() == [1, 0] and arrays["response/box"].shape == (18, 2, 2, 2)
        lost = response.arrays_of(task, response.Found(reason="WorkerDied"))
        assert {name: a.shape for name, a in lost.items()} == {name: a.shape for name, a in arrays.items()}
        alone = RELAX(mdsens.LennardJones(), mdsens.read(tmp_path / f"{k}.extxyz"))
        expected = mdsens.sensitivity(alone, "box").response
        np.testing.assert_allclose(arrays["response/box"], expected, atol=1e-6)


def test_polydispersity_varies_and_all_diameters_of_a_species_respond_together():
    wanted = {"properties": ["pressure", "packing_fraction"], "response": ["species-diameter:1"]}
    chosen = study(system={"n": 16}, compute=wanted, sweep={"parameters": {"polydispersity": [0.0, 0.1]}})
    tasks = tasks_of(chosen, Path())
    plain, spread = response.compute(batch_of(tasks, 2))
    assert not plain.reason and not spread.reason
    assert len(set(np.asarray(plain.system.diameters))) == 2 and len(set(np.asarray(spread.system.diameters))) == 16
    assert spread.properties["packing_fraction"] == pytest.approx(0.98)
    start = mdsens.random_packing(16, polydispersity=0.1)
    np.testing.assert_array_equal(spread.system.diameters, start.diameters)
    alone = RELAX(mdsens.SoftSphere(), spread.system)
    expected = mdsens.sensitivity(alone, "species-diameter:1").response
    given = response.arrays_of(tasks[1], spread)["response/species-diameter:1"]
    np.testing.assert_allclose(given, expected, atol=1e-6 * np.abs(expected).max())


def test_too_few_steps_are_a_reason(tmp_path):
    tasks = tasks_of(study(system={"n": 16}, relaxation={"max_steps": 3}, seeds=2), tmp_path)
    found = response.compute(batch_of(tasks, 2))
    assert {each.reason for each in found} == {"NotConverged"} and "after 3 steps" in found[0].message
    assert np.isnan(response.arrays_of(tasks[0], found[0])["positions"]).all()


def test_packings_from_files_take_diameters_and_pressure_from_the_study(tmp_path):
    rest = jammed(n=16)
    mdsens.write(tmp_path / "a.extxyz", rest)
    chosen = study(
        system={"files": ["*.extxyz"]},
        compute={"properties": ["pressure", "packing_fraction"], "certificate": False},
        sweep={"parameters": {"species-diameter:1": [0.6, 0.62], "pressure": [0.05]}},
    )
    tasks = tasks_of(chosen, tmp_path)
    found = response.compute(batch_of(tasks, 2))
    for task, each in zip(tasks, found, strict=True):
        assert each.properties["pressure"] == pytest.approx(0.05, abs=1e-9)
        small = np.asarray(each.system.species) == 1
        np.testing.assert_allclose(np.asarray(each.system.diameters)[small], task.varied["species-diameter:1"])


class Crew:
    """Workers whose outcomes are given: `fate(batch, sent)` is that of a batch."""

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
        return (
            Outcome(batch, len(batch.tasks)) if len(sent) >= DEATHS_BEFORE_HALVING else Outcome(batch, trouble="death")
        )

    sent, outcomes = flown(fate)
    assert sent == [4] * DEATHS_BEFORE_HALVING and [each.done for each in outcomes] == [4]


def test_a_task_that_always_kills_its_worker_is_isolated_and_given_up():
    def fate(batch, sent):
        lethal = any(task.seed == 2 for task in batch.tasks)
        return Outcome(batch, trouble="death") if lethal else Outcome(batch, len(batch.tasks))

    _, outcomes = flown(fate)
    assert sum(each.done for each in outcomes) == 3 and sum(each.failed for each in outcomes) == 1


def test_a_run_ends_when_the_disk_is_full():
    sent, outcomes = flown(lambda batch, sent: Outcome(batch, trouble="disk", message="full"))
    assert sent == [4] and outcomes[0].message == "full"


class Count(Section):
    squared: bool = False
    parameters: tuple[str, ...] = ()

    @property
    def needs_cell(self):
        return []

    def bytes_of(self, n, dim):
        return 0.0


class CountStudy(Study):
    """A study that counts particles."""

    kind: str = "count"
    compute: Count = Count()


def row_of_count(task, result):
    failed = isinstance(result, str)
    facts = {"status": "failed" if failed else "done", "reason": result if failed else "", "message": ""}
    about = {"seed": task.seed, "n": task.shape[0], "dim": task.shape[1], "varied": json.dumps(task.varied)}
    return {"task": task.id, **facts, **about, "count": np.nan if failed else float(result)}


COUNT = Kind(
    study=CountStudy,
    plan=tasks_of,
    compute=lambda batch: [task.shape[0] ** (1 + task.study.compute.squared) for task in batch.tasks],
    lost=lambda reason, message: reason,
    row=row_of_count,
    arrays=lambda task, result: {"nothing": np.zeros(2)},
    measured=lambda study: ["count"],
)


def test_another_kind_of_study_is_planned_computed_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "count", COUNT)
    path = tmp_path / "study.toml"
    path.write_text(
        "kind='count'\nseeds=2\n[system]\nn=8\n[compute]\nsquared=true\n[sweep.parameters]\nalpha=[2.0, 3.0]\n"
    )
    planned, store = plan(path), Store(tmp_path / "out")
    assert isinstance(planned.study, CountStudy) and len(planned.tasks) == 4
    store.prepare()
    store.write_json("plan.json", {"tasks": {task.id: task.varied for task in planned.tasks}})
    (store.folder / "study.toml").write_text(path.read_text())
    assert compute_and_save(store.folder, planned.batches[0]).done == 4
    results = load_study(store.folder)
    assert list(results.table["count"]) == [64.0] * 4 and results.measured == ["count"]
    assert results.to_xarray()["nothing"].shape == (4, 2)
    path.write_text("kind='counts'")
    with pytest.raises(mdsens.InvalidInput, match=r"no kind of study 'counts' .did you mean count.*response, count"):
        plan(path)
