"""Malformed files, some 1100 cases: each is read, or refused with an error of mdsens."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mdsens


def many(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


GOOD = Path(__file__).parents[2] / "data" / "bidisperse_2d.extxyz"


TEXT = GOOD.read_text()


LINES = TEXT.splitlines()[:8]


SMALL = "\n".join(["6", *LINES[1:8]]) + "\n"


odd = st.sampled_from(
    ["", "nan", "inf", "-inf", "1e999", "-1", "0", "0.0", "1e-320", "é", "\x00", "T", '"', "=", "[[", "{}"]
)


tokens = st.one_of(odd, st.text(max_size=12), st.floats().map(str), st.integers().map(str))


@st.composite
def spoiled_files(draw):
    """A valid file with some words replaced, lines dropped or doubled, and its end cut off."""
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
