"""Study files, and the tasks and batches that they make."""

from pathlib import Path

import numpy as np
import pytest

import mdsens
from mdsens.studies.study import Study, read_study
from mdsens.studies.tasks import batches_of, tasks_of

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


def test_all_mistakes_of_a_file_are_reported_together_with_lines_and_suggestions(tmp_path):
    reported = faults(MISTAKES, tmp_path)[1:]
    lines = MISTAKES.splitlines()
    wrong = [k for k, line in enumerate(lines, 1) if "=" in line and line != "name = "]
    assert len(reported) == len(wrong) == 14
    assert sorted(int(line.split(":")[1]) for line in reported) == wrong
    for hint in ("did you mean soft-sphere?", "did you mean response?", "did you mean pressure?", "greater than 0",
                 "'grid', 'random' or 'sobol'", "2 or 3"):  # fmt: skip
        assert any(hint in line for line in reported), hint


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
        ("[system]\npacking_fraction=2.5", "study.toml:2: system.packing_fraction: input should be less than"),
        ("[potential]\nepsilon=-2", "study.toml:1: potential: that makes no soft-sphere: epsilon"),
        ("[sweep.parameters]\nepsilon=[1.0, -2.0]", "epsilon of SoftSphere must not be negative"),
        ("[sweep.parameters]\npacking_fraction=[0.9, 2.5]", "at most 2, not 2.5"),
    ],
)  # fmt: skip
def test_invalid_studies_are_refused_before_anything_starts(text, said, tmp_path):
    assert said in "\n".join(faults(text, tmp_path))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    mdsens.write(tmp_path / "out.extxyz", mdsens.random_packing(8))
    (tmp_path / "in/link.extxyz").symlink_to(tmp_path / "out.extxyz")
    with pytest.raises(mdsens.InvalidInput, match="leads out"):
        tasks_of(study(system={"files": ["*.extxyz"]}), tmp_path / "in")


def test_the_template_is_valid_and_shows_the_defaults():
    begun, defaults = read_study(TEMPLATE), Study()
    for section in ("system", "relaxation", "keep", "execution"):
        given = getattr(begun, section).model_dump()
        assert given | {"diameters": None} == getattr(defaults, section).model_dump() | {"diameters": None}, section
    assert begun.potential.name == "soft-sphere" and begun.system.sizes == defaults.system.sizes


def test_a_changed_study_keeps_the_tasks_that_did_not_change(tmp_path):
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
    assert len({batch.shape for batch in batches}) == 4  # two sizes, two densities: as many programs are compiled


def test_faults_that_hide_behind_others_are_told_with_them(tmp_path):
    """A type, the order of a range, an unknown name to vary, and one to respond to: three rounds of checking."""
    text = (
        "seeds = 'many'\n[potential]\nepsilon = -2\n[sweep.parameters]\nalpha = {low = 3, high = 2, count = 2}\n"
        "beta = [1.0]\n[compute]\nresponse = ['gamma']\n"
    )
    found = faults(text, tmp_path)[1:]
    for said in ("seeds", "negative", "3 is not below 2", "'beta'", "'gamma'"):
        assert any(said in fault for fault in found), (said, found)
    assert len(found) == 5, found


def test_faults_behind_a_misspelled_name_are_told_with_it(tmp_path):
    """What else is right depends on the potential, the kind and the method; the most similar names stand for them."""
    text = (
        "kind = 'respons'\n[potential]\nname = 'lenard-jones'\nalpha = 2.5\n[sweep]\nmethod = 'sobl'\n"
        "[sweep.parameters]\nepsilon = {low = 2, high = 3}\n[compute]\nresponse = ['gamma']\n"
    )
    found = faults(text, tmp_path)[1:]
    for said in ("did you mean response", "did you mean lennard-jones", "no parameter of lennard-jones 'alpha'",
                 "'grid', 'random' or 'sobol'", "number of samples", "'gamma'"):  # fmt: skip
        assert any(said in fault for fault in found), (said, found)
    assert len(found) == 6, found
    assert len(faults("[potential]\nname = 'xyz'\nalpha = 2.5\nbeta = 2", tmp_path)) == 2  # nothing is similar
