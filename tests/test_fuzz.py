"""Whatever comes in: an answer that is a number, or an error of ours. Some 2000 cases."""

import contextlib
import io
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mdsens
from conftest import settled
from mdsens.cli import main


def many(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


GOOD = Path(__file__).parents[1] / "data" / "bidisperse_2d.extxyz"
TEXT = GOOD.read_text()
LINES = TEXT.splitlines()[:8]
SMALL = "\n".join(["6", *LINES[1:8]]) + "\n"

odd = st.sampled_from(
    ["", "nan", "inf", "-inf", "1e999", "-1", "0", "0.0", "1e-320", "é", "\x00", "T", '"', "=", "[[", "{}"]
)
tokens = st.one_of(odd, st.text(max_size=12), st.floats().map(str), st.integers().map(str))


@st.composite
def spoiled_files(draw):
    """A good file with some of its words exchanged, lines dropped or doubled, and its end cut off."""
    lines = [line.split(" ") for line in SMALL.splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["word", "drop", "double", "cut"]))
        if kind == "word" and lines[row]:
            lines[row][draw(st.integers(0, len(lines[row]) - 1))] = draw(tokens)
        elif kind == "drop" and len(lines) > 1:
            del lines[row]
        elif kind == "double":
            lines.insert(row, list(lines[row]))
        elif kind == "cut":
            lines[row] = lines[row][: draw(st.integers(0, len(lines[row])))]
    text = "\n".join(" ".join(line) for line in lines)
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def is_sound(system):
    arrays = [system.positions, system.diameters, *([] if system.box is None else [system.box])]
    return all(np.isfinite(a).all() for a in arrays)


@many(900)
@given(spoiled_files(), st.sampled_from(["extxyz", "xyz", "data", "cif", "vasp"]))
def test_a_spoiled_file_is_read_or_refused(folder, text, ending):
    path = folder / f"spoiled.{ending}"
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(mdsens.MdsensError):
        system = mdsens.read(path)
        assert isinstance(system, mdsens.System)


@many(200)
@given(st.binary(max_size=400), st.sampled_from(["extxyz", "xyz", "data", "traj", "nonsense", ""]))
def test_bytes_are_read_or_refused(folder, content, ending):
    path = folder / f"bytes.{ending}"
    path.write_bytes(content)
    with contextlib.suppress(mdsens.MdsensError):
        assert isinstance(mdsens.read(path), mdsens.System)


shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
arrays = hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64, np.bool_]), shapes)
anything = st.one_of(
    arrays, st.none(), st.text(max_size=4), st.floats(), st.integers(), st.lists(st.floats(), max_size=3)
)


@many(500)
@given(anything, anything, anything, anything)
def test_a_system_is_made_or_refused(positions, box, diameters, species):
    with contextlib.suppress(mdsens.MdsensError):
        system = mdsens.System(positions, box, diameters, species)
        n, d = system.positions.shape
        assert system.diameters.shape == system.species.shape == (n,) and d in (2, 3)
        assert system.box is None or system.box.shape == (d, d)


numbers = st.one_of(st.floats(), st.floats(0.1, 3.0), st.sampled_from([0.0, -1.0, 1e-300, 1e300, np.nan, np.inf]))


@many(300)
@given(
    hnp.arrays(np.float64, (4, 2), elements=st.one_of(st.floats(0, 3), numbers)),
    hnp.arrays(np.float64, (2, 2), elements=st.one_of(st.floats(2, 4), numbers)),
    hnp.arrays(np.float64, (4,), elements=st.one_of(st.floats(0.5, 1.2), numbers)),
    numbers,
    numbers,
)
def test_a_relaxation_ends_at_rest_or_is_refused(positions, box, diameters, epsilon, alpha):
    system = mdsens.System(positions, np.diag(np.diag(box)), diameters)
    with contextlib.suppress(mdsens.MdsensError):
        rest = mdsens.Relaxation(tolerance=1e-8, max_steps=500)(mdsens.SoftSphere(epsilon, alpha), system)
        assert is_sound(rest.system) and np.isfinite(rest.energy) and float(rest.max_force) <= 1e-8
        with contextlib.suppress(mdsens.MdsensError):
            response = mdsens.sensitivity(rest, "diameters").response
            assert np.isfinite(response).all()


WORDS = """
    relax sensitivity demo --wrt diameters box alpha epsilon species-diameter:7 -o IN OUT OUT.extxyz --set epsilon=1
    alpha=x = --epsilon --alpha 1e300 --tolerance 1e-6 -1 0 nan --max-steps 5 --potential soft-sphere yukawa --dim 3
    --precision single --diameters 1,0.6 1,,2 --linear-solver minres cg --help --version --thorough --one-sided .
"""
words = st.sampled_from([*WORDS.split(), ""])


@many(100)
@given(st.sampled_from(["relax", "sensitivity", "demo", ""]), st.lists(words, max_size=9))
def test_a_command_does_its_work_or_says_what_is_wrong(folder, command, arguments):
    mdsens.write(folder / "in.extxyz", settled(n=32))
    places = {"IN": folder / "in.extxyz", "OUT": folder / "out", "OUT.extxyz": folder / "out.extxyz"}
    argv = ["mdsens", command, *(str(places.get(word, word)) for word in arguments)]
    if command == "demo":  # seconds each, and there is a test of its own
        argv += ["--no-such-option"]
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, argv
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder):
            main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
        jax.config.update("jax_enable_x64", True)
    assert code in (0, 1, 2)
    assert (code == 0) != bool(err.getvalue()), err.getvalue()
    assert "Traceback" not in err.getvalue() and "nan" not in out.getvalue().lower().split()
