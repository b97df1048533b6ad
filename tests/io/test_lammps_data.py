"""LAMMPS data files as people have them: what they say is read, and what is ambiguous is asked for."""

import numpy as np
import pytest

import mdsens

HEADER = """LAMMPS data file

2 atoms
2 atom types
0 4 xlo xhi
0 4 ylo yhi
0 4 zlo zhi
{more}
Atoms{style}

{rows}
"""


def data(rows, style="", more=""):
    return HEADER.format(rows="\n".join(rows), style=f" # {style}" if style else "", more=more)


def read(tmp_path, text, **options):
    (tmp_path / "a.data").write_text(text)
    return mdsens.read(tmp_path / "a.data", **({"diameters": 1.0} | options))


@pytest.mark.parametrize(
    ("style", "rows"),
    [
        ("atomic", ["2 2 1 2 3", "1 1 0 0 0"]),
        ("atomic", ["2 2 1 2 3 0 0 -1", "1 1 0 0 0 0 0 0"]),
        ("charge", ["2 2 -0.5 1 2 3", "1 1 0.5 0 0 0"]),
        ("bond", ["2 7 2 1 2 3", "1 7 1 0 0 0"]),
        ("molecular", ["2 7 2 1 2 3 1 0 0", "1 7 1 0 0 0 0 0 0"]),
        ("full", ["2 7 2 -0.5 1 2 3", "1 7 1 0.5 0 0 0"]),
        ("sphere", ["2 2 1 1 1 2 3", "1 1 1 1 0 0 0"]),
        ("edpd", ["2 2 300.0 1e3 1 2 3", "1 1 300.0 1e3 0 0 0"]),
        ("peri", ["2 2 8.0 1.0 1 2 3", "1 1 8.0 1.0 0 0 0"]),
        ("dipole", ["2 2 -0.5 1 2 3 0 0 1", "1 1 0.5 0 0 0 0 0 1"]),
    ],
)
@pytest.mark.parametrize("named", ["in the file", "by the caller"])
def test_every_atom_style_has_its_columns(tmp_path, style, rows, named):
    by_file = named == "in the file"
    options = {} if by_file else {"atom_style": style}
    system = read(
        tmp_path, data(rows, style if by_file else ""), **options, diameters=None if style == "sphere" else 1.0
    )
    np.testing.assert_array_equal(system.positions, [[0, 0, 0], [1, 2, 3]])
    np.testing.assert_array_equal(system.species, [0, 1])
    np.testing.assert_array_equal(system.diameters, [1.0, 1.0])
    assert system.numbers is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1 1 1 1 0 0 0", "2 2 1 1 1 2 3"], "fit the atom styles full and sphere: name it"),
        (["1 1 1 0 0 0", "2 2 1 1 2 3"], "fit the atom styles charge and molecular: name it"),
        (["1 1 0 0"] * 2, "the 4 columns of its section Atoms fit no atom style"),
        (["1 1 0 0 0", "2 2 1 2"], "different numbers of columns"),
        (["1 1 0 0 0", "1 2 1 2 3"], "same id"),
        (["1 1 0 0 0", "2 3 1 2 3"], "a type that is neither a label nor a number from 1 to 2"),
        (["1 1 0 0 0"], "promises 2 atoms, and its section Atoms has 1 line"),
        (["1 1 0 0 0", "2 2 1 2 x"], "'x' stands where a number is expected"),
    ],
)
def test_what_is_ambiguous_or_damaged_is_refused(tmp_path, rows, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        read(tmp_path, data(rows))


def test_a_style_is_recognized_by_columns_that_fit_no_other(tmp_path):
    charged = read(tmp_path, data(["1 1 0.5 0 0 0", "2 2 -0.5 1 2 3"]))
    np.testing.assert_array_equal(charged.positions[1], [1, 2, 3])
    spheres = read(tmp_path, data(["1 1 1 1 0 0 0", "2 2 0.6 1 1 2 3"]), diameters=None)
    np.testing.assert_array_equal(spheres.diameters, [1.0, 0.6])


def test_types_may_be_labels(tmp_path):
    text = data(["1 Si 0 0 0", "2 O 1 2 3"], "atomic", more="\nAtom Type Labels\n\n1 Si\n2 O\n")
    np.testing.assert_array_equal(read(tmp_path, text).species, [0, 1])


def test_a_general_cell_and_tabs(tmp_path):
    cell = "1 2 0 avec\n-1 2 0.5 bvec\n0 0.25 3 cvec\n0 0 0 abc origin"
    text = data(["1 1 0 0 0", "2 2 1 2 3"], "atomic")
    text = text.replace("0 4 xlo xhi\n0 4 ylo yhi\n0 4 zlo zhi", cell)
    np.testing.assert_array_equal(read(tmp_path, text).box, [[1, 2, 0], [-1, 2, 0.5], [0, 0.25, 3]])
    tabs = data(["1\t1\t0\t0\t0", "2\t2\t1\t2\t3"], "atomic").replace(" xlo xhi", "\txlo\txhi").replace("0 4", "0\t4")
    np.testing.assert_array_equal(read(tmp_path, tabs).box, 4.0 * np.eye(3))


@pytest.mark.parametrize("section", ["Bonds", "Angles", "Ellipsoids"])
def test_bonds_and_shapes_are_refused_by_name(tmp_path, section):
    text = data(["1 1 0 0 0", "2 2 1 2 3"], "atomic") + f"\n{section}\n\n1 1 1 2\n"
    with pytest.raises(mdsens.InvalidInput, match=f"section {section}, which belongs to no system"):
        read(tmp_path, text)


def test_bonds_and_angles_are_read_with_their_coefficients(tmp_path):
    """Atoms in any order, ids with gaps; LAMMPS writes K (r - r0)² and degrees."""
    rows = ["7 1 1 2 0 0", "2 1 1 0 0 0", "4 1 1 1 0.5 0"]
    text = (
        data(rows, "angle").replace("2 atoms", "3 atoms")
        + "\nBond Coeffs # harmonic\n\n1 5.0 0.9\n2 2.0 1.1\n\nAngle Coeffs\n\n1 3.0 90.0\n"
    )
    text += "\nBonds\n\n1 1 2 4\n2 2 4 7\n\nAngles\n\n1 1 2 4 7\n"
    (tmp_path / "a.data").write_text(text)
    system, found = mdsens.read_topology(tmp_path / "a.data", dim=3)
    np.testing.assert_array_equal(system.positions[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(found.bonds, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(found.angles, [[0, 1, 2]])
    np.testing.assert_array_equal(found.stiffness, [10.0, 4.0])
    np.testing.assert_array_equal(found.rest_length, [0.9, 1.1])
    np.testing.assert_allclose(found.rest_angle, [0.5 * np.pi])
    (tmp_path / "b.data").write_text(text.replace("# harmonic", "# fene"))
    assert mdsens.read_topology(tmp_path / "b.data", dim=3)[1].stiffness is None
    (tmp_path / "c.data").write_text(text.replace("2 2 4 7", "2 2 4 9"))
    with pytest.raises(mdsens.InvalidInput, match="joins atom 9, which is not there"):
        mdsens.read_topology(tmp_path / "c.data", dim=3)
    (tmp_path / "d.data").write_text(text + "\nDihedrals\n\n1 1 2 4 7 2\n")
    with pytest.raises(mdsens.InvalidInput, match="section Dihedrals, which mdsens does not understand"):
        mdsens.read_topology(tmp_path / "d.data", dim=3)


def test_an_atom_style_is_for_data_files(tmp_path):
    mdsens.write(tmp_path / "p.extxyz", mdsens.random_packing(8))
    with pytest.raises(mdsens.InvalidInput, match="only LAMMPS data files have an atom style"):
        mdsens.read(tmp_path / "p.extxyz", atom_style="sphere")
    with pytest.raises(mdsens.InvalidInput, match="its atom style is tri; mdsens reads atomic, "):
        read(tmp_path, data(["1 1 0 0 0", "2 2 1 2 3"], "tri"))


def test_positions_of_ase_s_reader_are_ours(tmp_path):
    """ASE reads the styles that it knows in the same way."""
    import ase.io

    rows = ["3 2 0.25 1.0 2.0 3.0", "1 1 -0.25 0.5 0.5 0.5"]
    text = data(rows, "charge").replace("0 4 xlo xhi", "-1 4 xlo xhi") + "\n"
    ours = read(tmp_path, text.replace("0 4 zlo zhi", "0 4 zlo zhi\n0.5 0.25 -0.5 xy xz yz"))
    theirs = ase.io.read(tmp_path / "a.data", format="lammps-data")
    np.testing.assert_allclose(ours.box, theirs.cell.array)
    np.testing.assert_allclose(ours.positions, theirs.positions)


def test_species_of_one_element_are_types_of_their_own(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    system = mdsens.System(x, 20.0, 1.0, np.array([0, 1, 0, 1]), numbers=np.full(4, 14))
    mdsens.write(tmp_path / "a.data", system, format="lammps-data")
    np.testing.assert_array_equal(mdsens.read(tmp_path / "a.data", diameters=1.0).species, [0, 1, 0, 1])


@pytest.mark.parametrize("charged", [False, True])
def test_bonds_and_angles_that_are_written_are_read_again(tmp_path, charged):
    rng = np.random.default_rng(0)
    system = mdsens.System(5.0 + rng.normal(size=(6, 3)), 12.0 * np.eye(3), species=[0, 1, 0, 0, 1, 0])
    if charged:
        atoms = mdsens.to_ase(system)
        atoms.set_initial_charges([0.1, -0.2, 0.1, 0.1, -0.2, 0.1])
        system = mdsens.from_ase(atoms)
    soft = mdsens.Bonds([[0, 1], [1, 2], [4, 5]], [1.0, 0.5, 1.0], 1.1)
    stiff, angles = mdsens.Bonds([[2, 3]], 7.0, 0.9), mdsens.Angles([[0, 1, 2], [5, 4, 0]], 0.3, [1.2, 2.0])
    potential = mdsens.SoftSphere() + soft + angles + stiff
    path = tmp_path / "network.data"
    mdsens.write_topology(path, system, mdsens.potentials.topology_of(potential))
    again, found = mdsens.read_topology(path)
    np.testing.assert_allclose(again.positions, system.positions, atol=1e-14)
    np.testing.assert_array_equal(again.species, system.species)
    np.testing.assert_array_equal(found.bonds, [[0, 1], [1, 2], [4, 5], [2, 3]])
    np.testing.assert_array_equal(found.stiffness, [1.0, 0.5, 1.0, 7.0])
    np.testing.assert_array_equal(found.rest_length, [1.1, 1.1, 1.1, 0.9])
    np.testing.assert_array_equal(found.angles, angles.triples)
    np.testing.assert_array_equal(found.angle_stiffness, [0.3, 0.3])
    np.testing.assert_allclose(found.rest_angle, [1.2, 2.0], rtol=1e-15)
    if charged:
        np.testing.assert_array_equal(mdsens.to_ase(again).get_initial_charges(), atoms.get_initial_charges())
    mdsens.write_topology(path, system, mdsens.potentials.topology_of(angles))
    assert len(mdsens.read_topology(path)[1].bonds) == 0


def test_what_is_no_harmonic_bond_is_not_written():
    class Strings(mdsens.Bonds):
        def bond_energy(self, r):
            return (r - self.rest_length) ** 4

    assert mdsens.potentials.topology_of(mdsens.SoftSphere()) is None
    with pytest.raises(mdsens.InvalidInput, match="Strings are not harmonic"):
        mdsens.potentials.topology_of(mdsens.SoftSphere() + Strings([[0, 1]], 1.0, 1.0))


@pytest.mark.parametrize("name", ["packing.data", "packing.lmp", "data.packing"])
def test_the_usual_names_of_data_files_mean_lammps(tmp_path, name):
    system = mdsens.random_packing(8, packing_fraction=0.5)
    mdsens.write(tmp_path / name, system)
    assert "xlo xhi" in (tmp_path / name).read_text()
    np.testing.assert_allclose(mdsens.read(tmp_path / name, diameters=1.0).positions, system.positions, atol=1e-14)
