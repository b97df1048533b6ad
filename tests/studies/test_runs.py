"""`mdsens run` and the commands that look at its results."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas
import pytest

import mdsens
from commands import call
from mdsens.studies.store import Store
from small_study import STUDY, in_a_process

STUDY_GUIDE = Path(__file__).parents[2] / "docs/study_guide.md"


@pytest.fixture(scope="module")
def finished(study):
    """The folder of a finished study, and what its command returned and printed."""
    folder = study.parent / "out"
    return folder, in_a_process("run", study, "-o", folder)


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in Store(folder).files()}


def test_a_run_computes_every_task_and_its_exit_code_reports_failures(finished):
    folder, (code, out, _) = finished
    assert code == 1 and "NotRigid" in out and "16" in out
    status = json.loads(call("status", folder, "--json")[1])
    assert {key: status[key] for key in ("total", "done", "failed", "running", "left")} == {
        "total": 16, "done": 8, "failed": 8, "running": 0, "left": 0,
    }  # fmt: skip
    assert status["reasons"] == {"NotRigid": 8} and status["locked_by"] is None
    assert len(status["failures"]) == 8 and "constrain" in status["failures"][0]["message"]


def test_the_same_command_again_computes_nothing(finished, study):
    folder, _ = finished
    before = files(folder)
    code, out, _ = call("run", study, "-o", folder)
    assert code == 1 and "16 were known" in out and "computed" not in out
    assert files(folder) == before


def test_results_are_one_table_and_load_with_one_call(finished):
    folder, _ = finished
    code, out, _ = call("collect", folder)
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


def test_the_example_of_the_study_guide_for_results_runs(finished, monkeypatch):
    folder, _ = finished
    (code,) = re.findall(r"^```python of a study\n(.*?)^```$", STUDY_GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    table = mdsens.load_study(folder).table
    monkeypatch.chdir(folder.parent)
    (folder.parent / "OUT").symlink_to(folder)
    exec(code.replace("n=128", "n=16"), {"mdsens": mdsens, "task": table[table["status"] == "done"]["task"].iloc[0]})


def test_pictures_of_a_study_and_of_a_task_are_drawn(finished):
    folder, _ = finished
    assert call("plot", folder)[0] == 0
    results = mdsens.load_study(folder)
    assert mdsens.plotting.draw_study(results)._repr_png_()[:4] == b"\x89PNG"  # in a notebook
    task = results.table[results.table["status"] == "done"]["task"].iloc[0]
    code, out, _ = call("show", folder, task[:8])
    assert code == 0 and task in out and "response_l1" in out
    for name in ("study.png", f"{task}.png"):
        pixels = matplotlib.image.imread(folder / name)
        assert pixels.shape[0] > 400 and pixels[..., :3].std() > 0.05
    code, _, said = call("show", folder, "zzz")
    assert code == 2 and "no finished task" in said


def test_a_dry_run_estimates_the_work(study, tmp_path):
    code, out, _ = call("run", study, "--dry-run", folder=tmp_path)
    assert code == 0 and not list(tmp_path.iterdir())
    assert all(
        word in out for word in ("tasks             16", "16 of 16 particles in 2D", "batches           4", "MB")
    )


def test_results_are_reused_where_a_fixed_parameter_now_varies(finished, study, tmp_path):
    narrow = tmp_path / "narrow.toml"
    narrow.write_text(
        STUDY.replace("packing_fraction = [0.6, 0.95]\n", "").replace("n = 16", "n = 16\npacking_fraction = 0.95")
    )
    folder, _ = finished
    code, out, _ = call("run", narrow, "-o", folder)
    assert code == 0 and "8, of which 8 were known" in out
    assert "packing_fraction" not in mdsens.load_study(folder).table
    assert call("plot", folder)[0] == 0
    call("run", study, "-o", folder)
    assert set(mdsens.load_study(folder).table["packing_fraction"]) == {0.6, 0.95}


def test_a_study_that_changed_computes_only_what_changed(finished, study):
    folder, _ = finished
    before = files(folder)
    changed = study.parent / "changed.toml"
    changed.write_text(STUDY.replace("seeds = 4", "seeds = 5"))
    _, out, _ = call("run", changed, "-o", folder)
    assert "20, of which 16 were known" in out and "computed          4 " in out
    assert before.items() <= files(folder).items()
    call("run", study, "-o", folder)


def test_damaged_results_are_reported_and_computed_again(finished, study):
    folder, _ = finished
    call("collect", folder)
    table, own = (folder / "table.csv").read_bytes(), set(Store(folder).read_json("plan.json")["tasks"])
    victim, other = [path for path, result in Store(folder).results() if result.rows[0]["task"] in own][:2]
    victim.write_bytes(victim.read_bytes()[:-50])
    other.write_bytes(b"")
    code, out, said = call("run", study, "-o", folder)
    assert code == 1 and said.count("damaged") == 2 and "computed          8 " in out
    call("collect", folder)
    assert (folder / "table.csv").read_bytes() == table


def test_failed_tasks_are_tried_again_on_request(finished, study):
    folder, _ = finished
    before = files(folder)
    code, out, _ = call("run", study, "-o", folder, "--retry-failed")
    assert code == 1 and "16, of which 8 were known" in out and "computed          8 " in out
    assert len(set(before.items()) & set(files(folder).items())) >= 2  # finished tasks are unchanged
    assert len(list((folder / "retried").iterdir())) >= 2


@pytest.mark.parametrize("where", ["/proc/mdsens", "study.toml"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(where, study):
    code, _, said = call("run", study, "-o", study.parent / where)
    assert code == 2 and ("cannot be written" in said or "is a file" in said)
