"""The commands `fit` and `design`."""

import json

import pytest

import mdsens
from commands import call
from samples import jammed


@pytest.fixture
def relaxed(tmp_path):
    path = tmp_path / "relaxed.extxyz"
    mdsens.write(path, jammed(0, 32))
    return path


def test_fit_finds_what_the_packing_was_made_with(relaxed, tmp_path):
    name = "species-diameter:1"
    options = ("--wrt", name, "--wrt", "epsilon", "--start", f"{name}=0.65", "-o", tmp_path / "fit")
    code, out, _ = call("fit", relaxed, *options)
    assert code == 0 and "epsilon: the data do not tell" in out
    summary = json.loads((tmp_path / "fit/summary.json").read_text())
    assert summary["converged"] and summary["parameters"][name] == pytest.approx(0.6, abs=1e-6)
    assert summary["undetermined"] == ["epsilon"] and summary["parameters"]["epsilon"] is None
    assert summary["loss"] < 1e-12 and summary["standard_errors"][name] < 1e-6
    assert (tmp_path / "fit/fit.png").read_bytes()[:4] == b"\x89PNG"


def test_fit_in_minibatches(relaxed, tmp_path):
    other, name, out = tmp_path / "other.extxyz", "species-diameter:1", tmp_path / "fit"
    mdsens.write(other, jammed(1, 32))
    options = ("--wrt", name, "--start", f"{name}=0.61", "--batch-size", "1", "--epochs", "8", "-o", out)
    code, text, _ = call("fit", relaxed, other, *options)
    assert code == 0 and "another minimum" not in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == 16 and summary["rearrangements"] is None
    assert summary["parameters"][name] == pytest.approx(0.6, abs=5e-3)
    if not summary["converged"]:
        assert "give more of them" in summary["message"] and "start=" not in summary["message"]


def test_design_reaches_a_property(relaxed, tmp_path):
    out = tmp_path / "design"
    pressure = 1.1 * mdsens.properties.table(jammed(0, 32))["pressure"]
    bound = ("--bound", "epsilon=0.5,2")
    code, text, _ = call("design", relaxed, "--target", f"pressure={pressure}", "--wrt", "epsilon", *bound, "-o", out)
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
        (("design", "--wrt", "epsilon", "--target", "pressure=1", "--keep", "pressure"), "to keep"),
    ],
)
def test_invalid_options_are_explained(relaxed, tmp_path, arguments, message):
    code, _, err = call(arguments[0], relaxed, *arguments[1:], "-o", tmp_path / "out")
    assert code == 2 and message in err
