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


DUMP = (
    "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
    "ITEM: ATOMS id type x y z\n1 1 0 0 0\n2 2 1 1 1\n"
)
POSCAR = "Si C\n1.0\n4 0 0\n0 4 0\n0 0 4\nSi C\n1 1\nDirect\n0 0 0\n0.5 0.5 0.25\n"
CIF = (
    "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
    "_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n"
    "loop_\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    "Si 0 0 0\nC 0.5 0.5 0.2\n"
)
DATA = (
    "x\n\n2 atoms\n2 atom types\n0 4 xlo xhi\n0 4 ylo yhi\n0 4 zlo zhi\n\nMasses\n\n1 1\n2 2\n\nAtoms # atomic\n\n"
    "1 1 0 0 0\n2 2 1 1 1\n"
)
XYZ = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nSi 0 0 0\nC 1 1 2\n'


@pytest.mark.parametrize(
    ("name", "text", "old", "new", "message"),
    [
        ("a.dump", DUMP, "2 2 1 1 1", "2 2 1 1 1 7", "number of words"),
        ("a.dump", DUMP, "2 2 1 1 1", "2 2 1 1_0 1", "'1_0' stands"),
        ("a.dump", DUMP, "pp pp pp", "pp pp", "boundaries 'pp pp'"),
        ("a.dump", DUMP, "2 2 1 1 1", "1 2 1 1 1", "the same id"),
        ("POSCAR", POSCAR, "0.25", "0.25\n0.1 0.1 0.1", "more lines of atoms than it promises"),
        ("POSCAR", POSCAR, "Direct", "Drect", None),
        ("POSCAR", POSCAR, "Direct", "0irect", "neither Direct nor Cartesian"),
        ("POSCAR", POSCAR, "0.5 0.5", "0.5 ١.5", "stands where a number is expected"),
        ("a.cif", CIF, "Si 0 0 0", "Si 0 0 ?", "_atom_site_fract_z is '[?]', which"),
        ("a.cif", CIF, "'x,y,z'", "'x,!,z'", "is no operation of symmetry"),
        ("a.cif", CIF, "'P 1'", "'P -1'", "lists 1 operations of symmetry, and the group P -1 .* has 2"),
        ("a.cif", CIF, "C 0.5 0.5 0.2", "C 0.5 0.5", "no whole rows"),
        ("a.data", DATA, "2 atom types", "2 atom ypes", "is no line of a data file's header"),
        ("a.data", DATA, "Masses", "Mases", "is no line of a data file's header"),
        ("a.data", DATA, "2 2\n", "", "Masses are not one for each"),
        ("a.data", DATA, "0 4 ylo", "5 4 ylo", "the lower bound first"),
        ("a.data", DATA, "2 2 1 1 1", "2 2 1 nan 1", "'nan' stands where a number is expected"),
        ("a.extxyz", XYZ, "C 1 1 2", "C 1 1 2 3", "one of its lines has another number"),
        ("a.extxyz", XYZ, "T T T", "T None T", "'None' is neither T nor F"),
        ("a.extxyz", XYZ, "C 1 1 2", "Cx 1 1 2", "'Cx' is no chemical symbol"),
        ("a.extxyz", XYZ, "C 1 1 2", "C 1 1 1e999", "'1e999' stands where a number is expected"),
        ("a.extxyz", XYZ, "0 0 4", "0 0 0", "is periodic but has no cell"),
    ],
)
def test_what_a_lenient_reader_would_repair_is_refused_by_name(tmp_path, name, text, old, new, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert mdsens.read(tmp_path / name, diameters=1.0).n == 2
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    if message is None:  # VASP looks at the first letter
        assert mdsens.read(tmp_path / name, diameters=1.0).n == 2
        return
    with pytest.raises(mdsens.InvalidInput, match=message) as caught:
        mdsens.read(tmp_path / name, diameters=1.0)
    assert name in str(caught.value) and "\n" not in str(caught.value)
