"""The commands for single packings."""

import json
import os
import subprocess
import sys

import h5py
import jax
import numpy as np
import pytest

import mdsens
from commands import call
from samples import jammed


@pytest.fixture
def packing(tmp_path):
    path = tmp_path / "packing.extxyz"
    mdsens.write(path, mdsens.random_packing(32, seed=1))
    return path


def test_demo_writes_numbers_arrays_and_a_picture(tmp_path):
    code, out, _ = call("demo", "-o", tmp_path / "out")
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


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder has another name")
def test_a_second_command_reuses_compiled_programs(packing, tmp_path):
    elsewhere = {"TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    kept = []
    for name in ("one", "two"):
        command = [sys.executable, "-m", "mdsens", "relax", packing, "-o", tmp_path / f"{name}.extxyz"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        kept.append(sorted(file.name for file in (tmp_path / "cache").rglob("*advance_to*")))
    assert len(kept[0]) == 1 and kept[1] == kept[0]
    assert (tmp_path / "one.extxyz").read_text() == (tmp_path / "two.extxyz").read_text()


def test_relax_writes_a_packing_at_rest(packing, tmp_path):
    code, _, _ = call("relax", packing, "-o", tmp_path / "relaxed.extxyz", "--tolerance", "1e-11", "--alpha", "2.5")
    assert code == 0
    relaxed = mdsens.read(tmp_path / "relaxed.extxyz")
    again = mdsens.Relaxation(tolerance=1e-11)(mdsens.SoftSphere(alpha=2.5), relaxed)
    assert int(again.steps) == 0


@pytest.mark.parametrize(
    ("wrt", "shape"),
    [("diameters", (32, 2, 32)), ("species-diameter:0", (32, 2)), ("box", (32, 2, 2, 2)), ("epsilon", (32, 2))],
)
def test_sensitivity_to_each_kind_of_parameter(packing, tmp_path, wrt, shape):
    code, _, err = call("sensitivity", packing, "--wrt", wrt, "-o", tmp_path / "out", "--linear-solver", "cg")
    assert code == 0, err
    with h5py.File(tmp_path / "out/result.h5") as file:
        assert file["response"].shape == shape


def test_single_precision_writes_float32(packing, tmp_path):
    options = ["--precision", "single", "--tolerance", "1e-4", "--one-sided"]
    code, _, err = call("sensitivity", packing, "--wrt", "alpha", "-o", tmp_path / "out", *options)
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
    "a NaN position": (
        lambda p: spoiled(p, positions=lambda x: x.at[4].set(np.nan)),
        [],
        "'nan' stands where a number is expected",
    ),
    "two on one point": (lambda p: spoiled(p, positions=lambda x: x.at[4].set(x[9])), [], "particles 4 and 9"),
    "a small cell": (lambda p: spoiled(p, box=lambda b: b / 16), [], "too small for the cutoff"),
    "an unknown name": (spoiled, ["--wrt", "gamma"], "no parameter 'gamma'"),
    "a tolerance beyond float32": (spoiled, ["--precision", "single"], "cannot be reached in float32"),
    "an unknown parameter": (spoiled, ["--set", "kappa=1"], "no parameter kappa"),
    "a setting without a value": (spoiled, ["--set", "epsilon"], "NAME=VALUE"),
    "a negative tolerance": (spoiled, ["--tolerance", "-1"], "tolerance must be"),
    "diameters that are no lengths": (spoiled, ["--diameters", "1,big"], "--diameters takes lengths"),
    "an unknown option": (spoiled, ["--frobnicate"], "No such option"),
}


@pytest.mark.parametrize(("make", "options", "message"), WRONG.values(), ids=WRONG)
def test_invalid_input_is_reported_in_one_line_with_exit_code_2(tmp_path, make, options, message):
    wrt = [] if "--wrt" in options else ["--wrt", "diameters"]
    code, out, err = call("sensitivity", make(tmp_path), *wrt, "-o", tmp_path / "out", *options)
    assert code == 2
    assert message in err and "Traceback" not in err and out == ""
    if "Usage" not in err:  # the option parser prints its own frame
        assert err.startswith("mdsens: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written_are_refused(packing, tmp_path):
    code, _, err = call("sensitivity", packing, "--wrt", "alpha", "-o", packing)
    assert code == 2 and "is a file" in err
    code, _, err = call("relax", packing, "-o", tmp_path)
    assert code == 2 and "is a folder" in err
    code, _, err = call("relax", packing, "-o", tmp_path / "out.nonsense")
    assert code == 2 and "no format" in err
    code, _, err = call("sensitivity", packing, "--wrt", "alpha", "-o", packing / "out")
    assert code == 2 and "no folder" in err


def test_a_relaxation_that_does_not_converge_has_exit_code_1(packing, tmp_path):
    code, _, err = call("relax", packing, "-o", tmp_path / "out.extxyz", "--max-steps", "3")
    assert code == 1 and "after 3 steps" in err
    assert [p.name for p in tmp_path.iterdir()] == ["packing.extxyz"]


def test_a_packing_below_jamming_has_no_response_and_exit_code_1(tmp_path):
    mdsens.write(tmp_path / "loose.extxyz", mdsens.random_packing(32, packing_fraction=0.4))
    code, out, err = call("sensitivity", tmp_path / "loose.extxyz", "--wrt", "diameters", "-o", tmp_path / "out")
    assert code == 1 and "no contacts constrain the particles" in err and out == "" and not (tmp_path / "out").exists()
    code, out, err = call("relax", tmp_path / "loose.extxyz", "-o", tmp_path / "rest.extxyz")
    assert code == 0 and "flat" in out


def test_a_thorough_certificate_on_request(packing, tmp_path):
    code, out, _ = call("relax", packing, "-o", tmp_path / "rest.extxyz", "--thorough")
    assert code == 0 and "off the minimum" in out


def test_a_missing_gpu_is_reported(tmp_path):
    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "mdsens", "demo", "-o", str(tmp_path / "out"), "--device", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no GPU" in done.stderr and "Traceback" not in done.stderr


def test_a_relaxed_packing_takes_no_steps(tmp_path):
    mdsens.write(tmp_path / "rest.extxyz", jammed(seed=0, n=32))
    code, out, _ = call("relax", tmp_path / "rest.extxyz", "-o", tmp_path / "again.extxyz")
    assert code == 0 and "0 steps" in out


@pytest.fixture
def relaxed(tmp_path):
    path = tmp_path / "relaxed.extxyz"
    mdsens.write(path, jammed(0, 32))
    return path


def test_properties_are_printed_with_units_and_as_json(relaxed):
    code, out, _ = call("properties", relaxed)
    assert code == 0 and "energy/length^d" in out and "poisson_ratio" in out
    code, out, _ = call("properties", relaxed, "--json")
    table = mdsens.properties.table(jammed(0, 32))
    assert json.loads(out)["bulk_modulus"] == pytest.approx(table["bulk_modulus"], rel=1e-8)


def test_relax_at_constant_pressure(relaxed, tmp_path):
    code, out, _ = call("relax", relaxed, "-o", tmp_path / "p.extxyz", "--pressure", "0.1")
    assert code == 0 and "0.1, the stress off it by" in out
    rest = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.read(tmp_path / "p.extxyz"))
    assert float(mdsens.properties.pressure(rest)) == pytest.approx(0.1, abs=1e-9)


def test_a_packing_that_another_code_has_relaxed_is_certified_where_it_is(relaxed, packing):
    code, out, err = call("certify", relaxed)
    assert code == 0 and err == "" and "a minimum" in out and "0 steps" in out
    code, out, _ = call("certify", relaxed, "--thorough", "--json", "--tolerance", "1e-8")
    facts = json.loads(out)
    assert code == 0 and (facts["kind"], facts["n"], facts["potential"]) == ("minimum", 32, "soft-sphere")
    assert facts["distance"] < 1e-9 and facts["steps"] == 0 and facts["tolerance"] == 1e-8


def test_a_packing_that_is_no_minimum_at_rest_has_a_certificate_and_exit_code_1(packing, tmp_path):
    for options in ([], ["--json"], ["--thorough"]):
        code, out, err = call("certify", packing, *options)
        assert code == 1 and "not at rest where they are given" in err and err.count("\n") == 1
        assert ("at rest           NO" in out) if not options or options == ["--thorough"] else json.loads(out)
    three = mdsens.System([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], box=np.array([3.0, 9.0]), diameters=1.1)
    mdsens.write(tmp_path / "saddle.extxyz", three)
    code, out, err = call("certify", tmp_path / "saddle.extxyz")
    assert code == 1 and "saddle" in out and "saddle" in err


def test_a_cell_is_repeated_before_it_is_relaxed(packing):
    for option, n in (("2,1", 64), ("2", 128)):
        code, out, err = call("properties", packing, "--json", "--repeat", option)
        assert code == 0 and json.loads(out)["n"] == n, err
    for option, why in (("two", "--repeat takes whole numbers"), ("0", "repeat takes one positive integer or 2")):
        code, _, err = call("properties", packing, "--repeat", option)
        assert code == 2 and why in err
