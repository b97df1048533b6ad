import json
import os
import subprocess
import sys

import h5py
import jax
import numpy as np
import pytest

import mdsens
from conftest import jammed
from mdsens.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """The command, in this process: its exit code and what it printed."""
    monkeypatch.setattr("mdsens.cli.work.remember", lambda folder: None)  # it would be for all that comes after

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mdsens", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            jax.config.update("jax_enable_x64", True)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def packing(tmp_path):
    path = tmp_path / "packing.extxyz"
    mdsens.write(path, mdsens.random_packing(32, seed=1))
    return path


def test_demo_leaves_numbers_arrays_and_a_picture(run, tmp_path):
    code, out, _ = run("demo", "-o", tmp_path / "out")
    assert code == 0 and "rattlers" in out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["n"], summary["dim"], summary["wrt"]) == (128, 2, "species-diameter:1")
    assert summary["converged"] and summary["max_force"] <= 1e-10 and summary["value"] == 0.6
    assert {"energy", "steps", "zero_modes", "rattlers", "response_l1", "kind", "solve_null_part"} <= set(summary)
    assert summary["validity"]["below"]["step"] < 0 < summary["validity"]["above"]["step"]
    assert "no contact changes" in out and "isostatic" in out
    with h5py.File(tmp_path / "out/result.h5") as file:
        assert np.abs(file["response"][()]).sum() == pytest.approx(summary["response_l1"])
        assert np.abs(file["forces"][()]).max() == pytest.approx(summary["max_force"], rel=1e-3)
        assert file["positions"].shape == (128, 2)
        assert file["positions"].attrs["unit"] == "length"
    assert (tmp_path / "out/sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["result.h5", "sensitivity.png", "summary.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="the folder for caches has another name")
def test_a_second_command_finds_what_the_first_has_compiled(packing, tmp_path):
    elsewhere = {"TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    kept = []
    for name in ("one", "two"):
        command = [sys.executable, "-m", "mdsens", "relax", packing, "-o", tmp_path / f"{name}.extxyz"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        kept.append(sorted(file.name for file in (tmp_path / "cache").rglob("*descend*")))
    assert len(kept[0]) == 1 and kept[1] == kept[0]
    assert (tmp_path / "one.extxyz").read_text() == (tmp_path / "two.extxyz").read_text()


def test_relax_writes_a_packing_at_rest(run, packing, tmp_path):
    code, _, _ = run("relax", packing, "-o", tmp_path / "relaxed.extxyz", "--tolerance", "1e-11", "--alpha", "2.5")
    assert code == 0
    relaxed = mdsens.read(tmp_path / "relaxed.extxyz")
    again = mdsens.Relaxation(tolerance=1e-11)(mdsens.SoftSphere(alpha=2.5), relaxed)
    assert int(again.steps) == 0


@pytest.mark.parametrize(
    ("wrt", "shape"),
    [("diameters", (32, 2, 32)), ("species-diameter:0", (32, 2)), ("box", (32, 2, 2, 2)), ("epsilon", (32, 2))],
)
def test_sensitivity_to_each_kind_of_name(run, packing, tmp_path, wrt, shape):
    code, _, err = run("sensitivity", packing, "--wrt", wrt, "-o", tmp_path / "out", "--linear-solver", "cg")
    assert code == 0, err
    with h5py.File(tmp_path / "out/result.h5") as file:
        assert file["response"].shape == shape


def test_single_precision_is_single(run, packing, tmp_path):
    options = ["--precision", "single", "--tolerance", "1e-4", "--one-sided"]
    code, _, err = run("sensitivity", packing, "--wrt", "alpha", "-o", tmp_path / "out", *options)
    assert code == 0, err
    with h5py.File(tmp_path / "out/result.h5") as file:
        assert file["response"].dtype == np.float32


def spoiled(tmp_path, **changes):
    system = mdsens.random_packing(32, seed=1)
    path = tmp_path / "spoiled.extxyz"
    mdsens.write(path, system.replace(**{name: change(getattr(system, name)) for name, change in changes.items()}))
    return path


def bare(tmp_path):
    (tmp_path / "bare.xyz").write_text("2\n\nHe 0 0 0\nHe 1 1 1\n")
    return tmp_path / "bare.xyz"


WRONG = {
    "a missing file": (lambda p: p / "nothing.xyz", [], "there is no file"),
    "no diameters": (bare, [], "holds no diameters"),
    "a NaN position": (lambda p: spoiled(p, positions=lambda x: x.at[4].set(np.nan)), [], "particle 4 is not finite"),
    "two on one point": (lambda p: spoiled(p, positions=lambda x: x.at[4].set(x[9])), [], "particles 4 and 9"),
    "a small cell": (lambda p: spoiled(p, box=lambda b: b / 16), [], "too small for the cutoff"),
    "an unknown name": (spoiled, ["--wrt", "gamma"], "no parameter 'gamma'"),
    "a tolerance beyond float32": (spoiled, ["--precision", "single"], "cannot be reached in float32"),
    "an unknown parameter": (spoiled, ["--set", "kappa=1"], "no parameter kappa"),
    "a setting that is none": (spoiled, ["--set", "epsilon"], "NAME=VALUE"),
    "a negative tolerance": (spoiled, ["--tolerance", "-1"], "tolerance must be"),
    "lengths that are none": (spoiled, ["--diameters", "1,big"], "--diameters takes lengths"),
    "an unknown option": (spoiled, ["--frobnicate"], "No such option"),
}


@pytest.mark.parametrize(("make", "options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_clear_line_and_exit_code_2_and_nothing_is_written(run, tmp_path, make, options, message):
    wrt = [] if "--wrt" in options else ["--wrt", "diameters"]
    code, out, err = run("sensitivity", make(tmp_path), *wrt, "-o", tmp_path / "out", *options)
    assert code == 2
    assert message in err and "Traceback" not in err and out == ""
    if "Usage" not in err:  # what the option parser refuses, it refuses in its own frame
        assert err.startswith("mdsens: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_where_a_file_is_and_a_file_where_a_folder_is(run, packing, tmp_path):
    code, _, err = run("sensitivity", packing, "--wrt", "alpha", "-o", packing)
    assert code == 2 and "is a file" in err
    code, _, err = run("relax", packing, "-o", tmp_path)
    assert code == 2 and "is a folder" in err
    code, _, err = run("relax", packing, "-o", tmp_path / "out.nonsense")
    assert code == 2 and "no format" in err
    code, _, err = run("sensitivity", packing, "--wrt", "alpha", "-o", packing / "out")
    assert code == 2 and "no folder" in err


def test_giving_up_is_exit_code_1(run, packing, tmp_path):
    code, _, err = run("relax", packing, "-o", tmp_path / "out.extxyz", "--max-steps", "3")
    assert code == 1 and "after 3 steps" in err
    assert [p.name for p in tmp_path.iterdir()] == ["packing.extxyz"]


def test_a_packing_that_nothing_holds_has_no_response_and_exit_code_1(run, tmp_path):
    mdsens.write(tmp_path / "fluid.extxyz", mdsens.random_packing(32, packing_fraction=0.4))
    code, out, err = run("sensitivity", tmp_path / "fluid.extxyz", "--wrt", "diameters", "-o", tmp_path / "out")
    assert code == 1 and "nothing holds the particles" in err and out == "" and not (tmp_path / "out").exists()
    code, out, err = run("relax", tmp_path / "fluid.extxyz", "-o", tmp_path / "rest.extxyz")
    assert code == 0 and "flat" in out


def test_a_thorough_certificate_on_request(run, packing, tmp_path):
    code, out, _ = run("relax", packing, "-o", tmp_path / "rest.extxyz", "--thorough")
    assert code == 0 and "off the minimum" in out


def test_a_gpu_that_is_not_there_is_said(tmp_path):
    command = [sys.executable, "-m", "mdsens", "demo", "-o", str(tmp_path / "out"), "--device", "gpu"]
    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("there is a GPU")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no GPU" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["import mdsens", "from mdsens.cli.app import app"])
def test_nothing_heavy_is_imported_before_it_is_used(program):
    heavy = "{'jax', 'jax_md', 'ase', 'scipy', 'matplotlib', 'h5py', 'equinox'}"
    code = f"{program}\nimport sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_name_at_the_door_is_there():
    for name in mdsens.__all__:
        assert getattr(mdsens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = mdsens.Nothing


def test_using_mdsens_changes_no_setting_of_jax():
    code = (
        "import jax; before = dict(jax.config.values)\n"
        "import mdsens; mdsens.Relaxation(tolerance=1e-4)(mdsens.SoftSphere(), mdsens.random_packing(16))\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert before == {name: jax.config.values[name] for name in before}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_relaxed_packing_answers_at_once(run, tmp_path):
    mdsens.write(tmp_path / "rest.extxyz", jammed(seed=0, n=32))
    code, out, _ = run("relax", tmp_path / "rest.extxyz", "-o", tmp_path / "again.extxyz")
    assert code == 0 and "0 steps" in out


@pytest.fixture
def relaxed(tmp_path):
    path = tmp_path / "relaxed.extxyz"
    mdsens.write(path, jammed(0, 32))
    return path


def test_properties_are_printed_with_units_and_as_json(run, relaxed):
    code, out, _ = run("properties", relaxed)
    assert code == 0 and "energy/length^d" in out and "poisson_ratio" in out
    code, out, _ = run("properties", relaxed, "--json")
    table = mdsens.properties.table(jammed(0, 32))
    assert json.loads(out)["bulk_modulus"] == pytest.approx(table["bulk_modulus"], rel=1e-8)


def test_relax_at_constant_pressure(run, relaxed, tmp_path):
    code, out, _ = run("relax", relaxed, "-o", tmp_path / "p.extxyz", "--pressure", "0.1")
    assert code == 0 and "0.1, the stress off it by" in out
    rest = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.read(tmp_path / "p.extxyz"))
    assert float(mdsens.properties.pressure(rest)) == pytest.approx(0.1, abs=1e-9)


def test_fit_finds_what_the_packing_was_made_with(run, relaxed, tmp_path):
    name = "species-diameter:1"
    options = ("--wrt", name, "--wrt", "epsilon", "--start", f"{name}=0.65", "-o", tmp_path / "fit")
    code, out, _ = run("fit", relaxed, *options)
    assert code == 0 and "epsilon: the data do not tell" in out
    summary = json.loads((tmp_path / "fit/summary.json").read_text())
    assert summary["converged"] and summary["parameters"][name] == pytest.approx(0.6, abs=1e-6)
    assert summary["undetermined"] == ["epsilon"] and summary["parameters"]["epsilon"] is None
    assert summary["loss"] < 1e-12 and summary["standard_errors"][name] < 1e-6
    assert (tmp_path / "fit/fit.png").read_bytes()[:4] == b"\x89PNG"


def test_fit_goes_down_in_batches(run, relaxed, tmp_path):
    other, name, out = tmp_path / "other.extxyz", "species-diameter:1", tmp_path / "fit"
    mdsens.write(other, jammed(1, 32))
    options = ("--wrt", name, "--start", f"{name}=0.61", "--batch-size", "1", "--epochs", "8", "-o", out)
    code, text, _ = run("fit", relaxed, other, *options)
    assert code == 0 and "another minimum" not in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == 16 and summary["rearrangements"] is None
    assert summary["parameters"][name] == pytest.approx(0.6, abs=5e-3)
    if not summary["converged"]:
        assert "give more of them" in summary["message"] and "start=" not in summary["message"]


def test_design_reaches_a_property(run, relaxed, tmp_path):
    out = tmp_path / "design"
    pressure = 1.1 * mdsens.properties.table(jammed(0, 32))["pressure"]
    bound = ("--bound", "epsilon=0.5,2")
    code, text, _ = run("design", relaxed, "--target", f"pressure={pressure}", "--wrt", "epsilon", *bound, "-o", out)
    assert code == 0 and "reached" in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["converged"] and summary["properties"]["pressure"] == pytest.approx(pressure, rel=1e-6)
    assert mdsens.read(out / "designed.extxyz").n == 32 and (out / "design.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--wrt", "epsilon", "--start", "epsilon"), "NAME=VALUE"),
        (("fit", "--wrt", "hardness"), "no parameter 'hardness'"),
        (("fit", "--wrt", "epsilon", "--bound", "epsilon=1"), "NAME=LOW,HIGH"),
        (("fit", "--wrt", "epsilon", "--measured", "hardness=1"), "no property 'hardness'"),
        (("design", "--wrt", "epsilon", "--target", "pressure=high"), "NAME=VALUE"),
        (("design", "--wrt", "epsilon", "--target", "pressure=1", "--hold", "pressure"), "to hold"),
    ],
)
def test_what_cannot_be_meant_is_said(run, relaxed, tmp_path, arguments, message):
    code, _, err = run(arguments[0], relaxed, *arguments[1:], "-o", tmp_path / "out")
    assert code == 2 and message in err
