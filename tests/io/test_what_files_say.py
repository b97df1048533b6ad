"""What a file says is kept or refused by name, never dropped."""

import ase.build
import ase.constraints
import ase.io
import jax
import numpy as np
import pytest

import mdsens


@pytest.fixture
def silicon():
    atoms = ase.build.bulk("Si", cubic=True)
    atoms.rattle(0.02, seed=1)
    return atoms


@pytest.mark.parametrize("name", ["a.cif", "POSCAR", "a.extxyz", "a.xsf"])
def test_elements_come_back(tmp_path, silicon, name):
    ase.io.write(tmp_path / "POSCAR", silicon)
    system = mdsens.read(tmp_path / "POSCAR", diameters={"Si": 2.35})
    np.testing.assert_array_equal(system.numbers, 14)
    mdsens.write(tmp_path / name, system.replace(positions=system.positions + 0.1))
    assert set(ase.io.read(tmp_path / name).get_chemical_symbols()) == {"Si"}


def test_elements_are_kept_by_every_copy_of_a_system():
    salt = mdsens.from_ase(ase.build.bulk("NaCl", "rocksalt", a=5.6), diameters={"Na": 2.0, "Cl": 3.6})
    np.testing.assert_array_equal(salt.diameters, [2.0, 3.6])
    assert mdsens.to_ase(salt.repeat(2)).get_chemical_formula() == "Cl8Na8"
    np.testing.assert_array_equal(salt.in_order(np.array([1, 0])).numbers, [17, 11])
    with pytest.raises(mdsens.InvalidInput, match="no diameter was given for Cl"):
        mdsens.from_ase(mdsens.to_ase(salt), diameters={"Na": 2.0})


def test_a_relaxed_cluster_of_argon_is_argon(tmp_path):
    argon = ase.Atoms("Ar3", positions=[[0, 0, 0], [3.9, 0, 0], [1.9, 3.3, 0.1]])
    system = mdsens.from_ase(argon, diameters=3.4)
    rest = mdsens.Relaxation()(mdsens.LennardJones(epsilon=0.0104), system)
    mdsens.write(tmp_path / "a.extxyz", rest)
    assert ase.io.read(tmp_path / "a.extxyz").get_chemical_formula() == "Ar3"
    np.testing.assert_array_equal(mdsens.read(tmp_path / "a.extxyz").numbers, 18)


def test_particles_without_elements_have_none(tmp_path):
    mdsens.write(tmp_path / "a.extxyz", mdsens.random_packing(8))
    assert mdsens.read(tmp_path / "a.extxyz").numbers is None


def test_constraints_are_refused_by_name(tmp_path, silicon):
    silicon.set_constraint([ase.constraints.FixAtoms([0]), ase.constraints.FixBondLength(1, 2)])
    with pytest.raises(mdsens.InvalidInput, match=r"constraints \(FixBondLengths\), which mdsens does not offer"):
        mdsens.from_ase(silicon, diameters=2.35)
    silicon.set_constraint(ase.constraints.FixedPlane(2, (1, 1, 0)))
    ase.io.write(tmp_path / "a.traj", silicon)
    with pytest.raises(mdsens.InvalidInput, match=r"a.traj: it has constraints \(FixedPlane\)"):
        mdsens.read(tmp_path / "a.traj", diameters=2.35)


@pytest.mark.parametrize("name", ["POSCAR", "a.extxyz", "a.traj", "a.json"])
def test_fixed_atoms_come_and_go_with_files(tmp_path, silicon, name):
    silicon.set_constraint(ase.constraints.FixAtoms([0, 3]))
    ase.io.write(tmp_path / name, silicon)
    system = mdsens.read(tmp_path / name, diameters=2.35)
    np.testing.assert_array_equal(np.flatnonzero(system.fixed), [0, 3])
    mdsens.write(tmp_path / name, system)
    again = mdsens.read(tmp_path / name, diameters=2.35)
    np.testing.assert_array_equal(again.fixed, system.fixed)
    assert [list(each.index) for each in ase.io.read(tmp_path / name).constraints] == [[0, 3]]


@pytest.mark.parametrize("dim", [2, 3])
def test_fixed_components_come_and_go_with_extended_xyz(tmp_path, dim):
    fixed = np.random.default_rng(0).random((8, dim)) < 0.3
    system = mdsens.random_packing(8, dim).replace(fixed=fixed)
    mdsens.write(tmp_path / "a.extxyz", system)
    np.testing.assert_array_equal(mdsens.read(tmp_path / "a.extxyz").fixed, fixed)
    np.testing.assert_array_equal(mdsens.from_ase(mdsens.to_ase(system)).fixed, fixed)


def test_a_format_without_fixed_atoms_warns(tmp_path):
    system = mdsens.random_packing(8, 3).replace(fixed=np.arange(8) < 2)
    with pytest.warns(UserWarning, match="does not keep which particles are fixed"):
        mdsens.write(tmp_path / "a.cif", system)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "dump.lammpstrj"])
def test_a_frame_that_is_not_there(tmp_path, silicon, name):
    if name.startswith("dump"):
        frame = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
        frame += "ITEM: ATOMS id type x y z\n1 1 {} 0 0\n"
        (tmp_path / name).write_text("".join(frame.format(k) for k in range(3)))
    else:
        frames = [silicon.copy() for _ in range(3)]
        for k, atoms in enumerate(frames):
            atoms.positions[0, 0] = k
        ase.io.write(tmp_path / name, frames)
    for index in (-3, -1, 0, 2):
        system = mdsens.read(tmp_path / name, diameters=2.35, index=index)
        assert float(system.positions[0, 0]) == index % 3
    for index in (3, -4):
        with pytest.raises(mdsens.InvalidInput, match=f"no frame {index}: it has 3 frames, from 0 to 2"):
            mdsens.read(tmp_path / name, diameters=2.35, index=index)
    with pytest.raises(mdsens.InvalidInput, match="index is the number of one frame"):
        mdsens.read(tmp_path / name, diameters=2.35, index=":")


def test_a_format_that_nobody_knows(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n0,1\n")
    with pytest.raises(mdsens.InvalidInput, match=r"a\.csv cannot be read: .*name it \(format='vasp'"):
        mdsens.read(tmp_path / "a.csv", diameters=1.0)


def test_diameters_that_replace_those_of_the_file_are_told(tmp_path):
    mdsens.write(tmp_path / "a.extxyz", mdsens.random_packing(8))
    with pytest.warns(UserWarning, match="has diameters of its own; those given replace them"):
        assert float(mdsens.read(tmp_path / "a.extxyz", diameters=2.0).diameters[0]) == 2.0


def test_the_types_of_a_dump_are_no_elements(tmp_path):
    text = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
    text += "ITEM: ATOMS id type {}x y z\n"
    (tmp_path / "a.dump").write_text(text.format("") + "1 1 0 0 0\n2 3 1 1 1\n")
    system = mdsens.read(tmp_path / "a.dump", diameters=1.0)
    assert system.numbers is None and system.species.tolist() == [0, 1]
    (tmp_path / "a.dump").write_text(text.format("element ") + "1 1 Si 0 0 0\n2 3 O 1 1 1\n")
    assert mdsens.read(tmp_path / "a.dump", diameters=1.0).numbers.tolist() == [14, 8]


@pytest.fixture
def rich(silicon):
    """Atoms with every kind of array and entry."""
    silicon.set_masses(np.linspace(27.9, 28.1, 8))
    silicon.set_initial_charges(0.1 * np.arange(8) / 3)
    silicon.set_initial_magnetic_moments(np.arange(8.0))
    silicon.set_tags(np.arange(8))
    silicon.set_array("label", np.array([f"site{k}" for k in range(8)]))
    silicon.set_array("spin", np.random.default_rng(0).normal(size=(8, 3)))
    silicon.set_array("surface", np.arange(8) % 3 == 0)
    silicon.info.update(
        name="a b", number="12", temperature=300.1, count=3, good=True, quote='say "a=b"',
        vector=np.array([1.0, 2.5]), matrix=np.eye(2), nested={"a": [1, 2]},
    )  # fmt: skip
    return silicon


def same_extras(one, other):
    assert set(one.arrays) <= set(other.arrays) and set(one.info) <= set(other.info)
    for name, values in one.arrays.items():
        assert other.arrays[name].dtype.kind.replace("O", "U") == values.dtype.kind.replace("O", "U"), name
        if name not in ("positions",):
            np.testing.assert_array_equal(other.arrays[name], values, err_msg=name)
    for name, value in one.info.items():
        assert np.asarray(other.info[name]).dtype.kind == np.asarray(value).dtype.kind, name
        np.testing.assert_array_equal(other.info[name], value, err_msg=name)


def test_arrays_and_entries_of_a_file_are_written_again(tmp_path, rich):
    ase.io.write(tmp_path / "a.extxyz", rich)
    system = mdsens.read(tmp_path / "a.extxyz", diameters=2.35)
    mdsens.write(tmp_path / "b.extxyz", system.replace(positions=system.positions + 0.1))
    same_extras(ase.io.read(tmp_path / "a.extxyz"), mdsens.to_ase(mdsens.read(tmp_path / "b.extxyz")))
    same_extras(ase.io.read(tmp_path / "a.extxyz"), ase.io.read(tmp_path / "b.extxyz"))


def test_texts_of_several_lines_are_written_again(tmp_path, rich):
    rich.info |= {"lines": "one\ntwo", "empty": "", "blank": " x ", "json": '_JSON "x"', "list": "[1", "path": "C:\\x"}
    mdsens.write(tmp_path / "a.extxyz", mdsens.from_ase(rich, diameters=2.35))
    assert (
        mdsens.to_ase(mdsens.read(tmp_path / "a.extxyz")).info.items()
        >= {
            name: rich.info[name] for name in ("lines", "empty", "blank", "json", "list", "path", "quote", "number")
        }.items()
    )


def test_what_a_format_cannot_hold_is_told(tmp_path, rich):
    rich.info = {"name": "x"}
    system = mdsens.from_ase(rich, diameters=2.35)
    with pytest.warns(UserWarning, match="does not keep label, spin, surface; .extxyz does"):
        mdsens.write(tmp_path / "a.traj", system)
    again = ase.io.read(tmp_path / "a.traj")
    np.testing.assert_array_equal(again.get_masses(), rich.get_masses())
    assert again.info["name"] == "x"
    with pytest.warns(UserWarning, match="a.cif does not keep masses, .*, name; .extxyz does"):
        mdsens.write(tmp_path / "a.cif", system)


def test_arrays_follow_their_particles(rich):
    system = mdsens.from_ase(rich, diameters=2.35)
    order = np.array([3, 0, 7, 1, 2, 6, 5, 4])
    for name, values in mdsens.to_ase(system.in_order(order)).arrays.items():
        if name in rich.arrays:
            np.testing.assert_array_equal(values, rich.arrays[name][order], err_msg=name)
    twice = mdsens.to_ase(system.repeat(2, 1, 1))
    np.testing.assert_array_equal(twice.arrays["label"], np.tile(rich.arrays["label"], 2))
    np.testing.assert_array_equal(twice.get_masses(), np.tile(rich.get_masses(), 2))


@pytest.mark.parametrize("x64", [True, False])
def test_arrays_survive_relaxation_and_transformations(tmp_path, rich, x64):
    with jax.enable_x64(x64):
        system = mdsens.from_ase(rich, diameters=2.35)
        rest = jax.jit(lambda s: s.replace(positions=s.positions * 1.0))(system)
        same_extras(rich, mdsens.to_ase(rest))
        both = jax.vmap(lambda x: system.replace(positions=x))(np.stack([system.positions] * 2))
        same_extras(rich, mdsens.to_ase(jax.tree.map(lambda leaf: leaf[1], both)))
    relaxed = mdsens.Relaxation()(
        mdsens.StillingerWeber(epsilon=2.16826), mdsens.from_ase(rich, diameters=2.35).repeat(2)
    )
    assert float(np.abs(relaxed.positions - mdsens.from_ase(rich.repeat(2), diameters=2.35).positions).max()) > 1e-3
    mdsens.write(tmp_path / "relaxed.extxyz", relaxed)
    same_extras(ase.Atoms(rich.repeat(2), info=rich.info), ase.io.read(tmp_path / "relaxed.extxyz"))


def test_what_a_calculator_has_found_is_not_kept(tmp_path, silicon):
    from ase.calculators.singlepoint import SinglePointCalculator

    silicon.calc = SinglePointCalculator(silicon, energy=-3.0, forces=np.ones((8, 3)))
    ase.io.write(tmp_path / "a.extxyz", silicon)
    assert "forces:R:3" in (tmp_path / "a.extxyz").read_text()
    mdsens.write(tmp_path / "b.extxyz", mdsens.read(tmp_path / "a.extxyz", diameters=2.35))
    assert ase.io.read(tmp_path / "b.extxyz").calc is None


def test_columns_of_lammps_are_kept(tmp_path):
    frame = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
    frame += "ITEM: ATOMS id type x y z q mol vx fx c_w[1]\n7 1 1 0 0 0.5 2 0.25 9 1.5\n3 2 0 0 1 -0.5 1 0.125 9 2.5\n"
    (tmp_path / "a.dump").write_text(frame)
    atoms = mdsens.to_ase(mdsens.read(tmp_path / "a.dump", diameters=1.0))
    np.testing.assert_array_equal(atoms.get_initial_charges(), [-0.5, 0.5])
    np.testing.assert_array_equal(atoms.arrays["mol"], [1, 2])
    np.testing.assert_array_equal(atoms.arrays["c_w[1]"], [2.5, 1.5])
    assert "fx" not in atoms.arrays
    mdsens.write(tmp_path / "a.extxyz", mdsens.read(tmp_path / "a.dump", diameters=1.0))
    same_extras(atoms, mdsens.to_ase(mdsens.read(tmp_path / "a.extxyz")))
    mdsens.write(tmp_path / "a.data", mdsens.read(tmp_path / "a.dump", diameters=1.0), format="lammps-data")
    again = mdsens.to_ase(mdsens.read(tmp_path / "a.data", diameters=1.0))
    np.testing.assert_array_equal(again.get_initial_charges(), [-0.5, 0.5])


def test_sites_that_are_occupied_in_part_are_refused(silicon):
    silicon.info["occupancy"] = {"0": {"Si": 0.5, "C": 0.5}}
    with pytest.raises(mdsens.InvalidInput, match="occupied in part"):
        mdsens.from_ase(silicon, diameters=2.35)


def test_an_array_that_no_file_keeps_is_refused_by_name(silicon):
    silicon.info["calculator"] = object()
    with pytest.raises(mdsens.InvalidInput, match="calculator cannot be kept"):
        mdsens.from_ase(silicon, diameters=2.35)


@pytest.mark.parametrize(("spoiled", "why"), [("pf pp pp", "has the boundaries"), ("-1", "a time step below 0")])
def test_a_dump_that_is_periodic_at_one_end_or_before_all_time_is_refused(tmp_path, spoiled, why):
    step, edges = (spoiled, "pp pp pp") if spoiled == "-1" else ("0", spoiled)
    (tmp_path / "a.dump").write_text(
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS {edges}\n0 4\n0 4\n0 4\n"
        "ITEM: ATOMS id type x y z radius\n1 1 1.0 2.0 3.0 0.5\n"
    )
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.read(tmp_path / "a.dump")
