import gzip
import warnings

import ase
import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsens
from samples import jammed

FIELDS = ("positions", "box", "diameters", "species")


def same_bits(one, other):
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    assert one.dim == other.dim


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), dim=st.sampled_from([2, 3]), kind=st.sampled_from(["cube", "triclinic", "open"]))
def test_extended_xyz_keeps_every_bit(tmp_path_factory, seed, dim, kind):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    box = {"cube": 3.0 * rng.uniform(1, 2), "triclinic": 3 * np.eye(dim) + rng.uniform(-1, 1, (dim, dim)), "open": None}
    scale = 10.0 ** rng.integers(-12, 12)
    system = mdsens.System(
        scale * rng.normal(size=(n, dim)), box[kind], rng.uniform(0.1, 2, n), rng.integers(0, 3, n).astype(np.int32)
    )
    path = tmp_path_factory.mktemp("io") / "packing.extxyz"
    mdsens.write(path, system)
    same_bits(system, mdsens.read(path))


def test_an_equilibrium_is_written_as_its_system(tmp_path):
    rest = jammed(n=32)
    mdsens.write(tmp_path / "relaxed.extxyz", rest)
    same_bits(rest.system, mdsens.read(tmp_path / "relaxed.extxyz"))


def test_ase_reads_what_is_written_and_finds_radii_for_ovito(tmp_path):
    system = mdsens.random_packing(10, 3)
    mdsens.write(tmp_path / "p.extxyz", system)
    atoms = ase.io.read(tmp_path / "p.extxyz")
    np.testing.assert_array_equal(atoms.arrays["radius"], np.asarray(system.diameters) / 2)
    np.testing.assert_array_equal(atoms.cell.array, system.box)
    assert atoms.pbc.all()


def test_a_lammps_data_file_is_read(tmp_path):
    (tmp_path / "packing.data").write_text(
        """two species in an oblique cell

3 atoms
2 atom types

0.0 8.0 xlo xhi
0.0 6.0 ylo yhi
0.0 5.0 zlo zhi
1.5 0.25 -0.5 xy xz yz

Masses

1 1.0
2 1.0

Atoms # atomic

2 2 1.0 2.0 3.0
1 1 0.5 0.5 0.5
3 2 4.0 1.0 2.5
"""
    )
    system = mdsens.read(tmp_path / "packing.data", diameters=(1.0, 0.6))
    np.testing.assert_allclose(system.box, [[8, 0, 0], [1.5, 6, 0], [0.25, -0.5, 5]])
    np.testing.assert_array_equal(system.species, [0, 1, 1])
    np.testing.assert_array_equal(system.diameters, [1.0, 0.6, 0.6])
    np.testing.assert_allclose(system.positions[1], [1.0, 2.0, 3.0])


SPHERES = """Atoms # sphere, says the title

2 atoms
2 atom types
0 4 xlo xhi
0 4 ylo yhi
-0.5 0.5 zlo zhi

Atoms{style}

# id type diameter density x y z
2 2 0.6 1.0 1.5 0.5 0 0 0 0  # the small one
1 1 1.0 1.0 0.5 0.5 0 0 0 0

Velocities

1 0 0 0 0 0 0
2 0 0 0 0 0 0
"""

DUMP = """ITEM: UNITS
lj
ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 4
0 4
-0.5 0.5
ITEM: ATOMS id radius type x y
2 0.3 2 1.5 0.5
1 0.5 1 0.5 0.5
"""


@pytest.mark.parametrize("text", [SPHERES.format(style=" # sphere"), SPHERES.format(style=""), DUMP])
@pytest.mark.parametrize("ending", [".lammps", ".lammps.gz"])
def test_spheres_of_lammps_are_read_with_their_sizes(tmp_path, text, ending):
    file = tmp_path / f"spheres{ending}"
    file.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system = mdsens.read(file)
    np.testing.assert_array_equal(system.diameters, [1.0, 0.6])
    np.testing.assert_array_equal(system.species, [0, 1])
    np.testing.assert_array_equal(system.positions, [[0.5, 0.5], [1.5, 0.5]])
    np.testing.assert_array_equal(system.box, 4 * np.eye(2))


def test_a_plain_xyz_is_an_open_system(tmp_path):
    (tmp_path / "cluster.xyz").write_text("3\n\nHe 0 0 0\nAr 1 0.5 0.25\nHe 0 1 0\n")
    system = mdsens.read(tmp_path / "cluster.xyz", diameters=(0.5, 1.0))
    assert system.box is None and system.dim == 3
    np.testing.assert_array_equal(system.diameters, [0.5, 1.0, 0.5])
    flat = (tmp_path / "flat.xyz").write_text("2\n\nHe 0 0 7\nHe 1 0.5 7\n") and mdsens.read(
        tmp_path / "flat.xyz", diameters=1.0
    )
    assert flat.dim == 2


def test_a_packing_in_space_is_not_flattened(tmp_path):
    mdsens.write(tmp_path / "p.extxyz", mdsens.random_packing(8, 3))
    with pytest.raises(mdsens.InvalidInput, match="different z"):
        mdsens.read(tmp_path / "p.extxyz", dim=2)


def test_other_formats_go_through_ase(tmp_path):
    system = mdsens.random_packing(8, 3)
    mdsens.write(tmp_path / "packing.cif", system)
    back = mdsens.read(tmp_path / "packing.cif", diameters=(1.0, 0.6))
    assert back.n == 8
    np.testing.assert_allclose(back.box, system.box, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.xyz", "2\n\nHe 0 0 0\nHe 1 1 1\n", {}, "holds no diameters"),
        ("a.xyz", "2\n\nHe 0 0 0\nHe 1 1 1\n", {"diameters": (1.0, 2.0, 3.0)}, "3 diameters were given for 1 species"),
        ("a.xyz", "3\n\nHe 0 0 0\n", {"diameters": 1.0}, "cannot be read"),
        ("a.xyz", "1" * 30 + "\n\nHe 0 0 0\n", {"diameters": 1.0}, "cannot be read: it promises 1.111111e.29 "),
        ("a.xyz", "1\n\nHe 0 0 0\n999\n\nHe 0 0 0\n", {"diameters": 1.0}, "it promises 999 particles and has 26 bytes"),
        ("a.xyz", "not a file of particles", {"diameters": 1.0}, "cannot be read"),
        ("a.unknown", "\x00\x01\x02", {"diameters": 1.0}, "cannot be read"),
        ("a.extxyz", '1\nLattice="0 0 0 0 1 0 0 0 1" pbc="T F T"\nH 0 0 0\n', {"diameters": 1.0}, "has no cell"),
        ("a.extxyz", '1\npbc="T T T"\nH 0 0 0\n', {"diameters": 1.0}, "has no cell"),
    ],
)
def test_invalid_files_are_refused_by_name(tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(mdsens.InvalidInput, match=message) as caught:
        mdsens.read(tmp_path / name, **options)
    assert name in str(caught.value)


OBLIQUE = np.array([[3.0, 0.0, 0.0], [0.5, 0.0, 4.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("place", [0, 1, 2, (0, 1), (1, 2)])
@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [0.3, 9.0, -1.0]])
@pytest.mark.parametrize("name", ["slab.extxyz", "slab.traj", "slab.xsf"])
def test_slabs_and_channels_come_and_go_with_files(tmp_path, name, vector, place):
    """Whichever of the vectors are open, and whether the file has them or not; they do not change the particles."""
    if name.endswith("xsf") and place not in (2, (1, 2)):
        return  # the format has no others
    periodic = np.ones(3, bool)
    periodic[np.atleast_1d(place)] = False
    box = np.where(periodic[:, None], OBLIQUE[np.cumsum(periodic) - 1], 0.0)
    box[np.flatnonzero(~periodic)[0]] = vector
    x = np.random.default_rng(0).uniform(-4.0, 7.0, (5, 3))
    system = mdsens.System(x, box, 1.0, [0, 1, 0, 1, 1], periodic=periodic)
    mdsens.write(tmp_path / name, system)
    again = mdsens.read(tmp_path / name, **({} if name.endswith("extxyz") else {"diameters": 1.0}))
    assert again.periodic == system.periodic == tuple(periodic.tolist())
    np.testing.assert_allclose(again.positions, x, atol=1e-6)
    np.testing.assert_allclose(again.lattice, system.lattice, atol=1e-6)
    if name.endswith("extxyz"):
        np.testing.assert_array_equal(again.positions, x)
        np.testing.assert_array_equal(again.lattice, system.lattice)


@pytest.mark.parametrize("periodic", [(True, False), (False, True)])
def test_a_channel_in_two_dimensions_comes_and_goes_with_files(tmp_path, periodic):
    system = mdsens.System(np.arange(8.0).reshape(4, 2) ** 1.1, [[5.0, 0.1], [0.2, 6.0]], 1.0, periodic=periodic)
    mdsens.write(tmp_path / "channel.extxyz", system)
    assert ('pbc="T F F"' if periodic[0] else 'pbc="F T F"') in (tmp_path / "channel.extxyz").read_text()
    again = mdsens.read(tmp_path / "channel.extxyz")
    assert again.periodic == periodic and again.dim == 2
    for mine, theirs in ((again.positions, system.positions), (again.box, system.box)):
        np.testing.assert_array_equal(mine, theirs)


def test_formats_that_cannot_say_where_a_cell_is_open_warn(tmp_path):
    """LAMMPS data extend around all particles there, without moving them, and can be told when they are read."""
    x = np.array([[0.5, 0.2, -3.0], [1.0, 1.0, 5.0], [9.0, 2.0, 1.0]])
    system = mdsens.System(x, [[4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]], 1.0, periodic=(True, True, False))
    for name, format in (("slab.data", "lammps-data"), ("POSCAR", "vasp")):
        with pytest.warns(UserWarning, match="does not keep along which directions"):
            mdsens.write(tmp_path / name, system, format=format)
    again = mdsens.read(tmp_path / "slab.data", diameters=1.0)
    assert again.periodic == (True, True, True)
    np.testing.assert_allclose(again.box, [[4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 9.0]], atol=1e-12)
    np.testing.assert_allclose(again.positions, x, atol=1e-12)
    slab = again.replace(periodic=(True, True, False))
    np.testing.assert_allclose(slab.lattice, system.lattice, atol=1e-12)


def test_the_boundaries_of_a_dump_are_read(tmp_path):
    text = (
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS {}\n0 4\n0 5\n-1 6\nITEM: ATOMS id type x y z\n"
    )
    for boundary, periodic in (("pp pp ff", (True, True, False)), ("pp ff fm", (True, False, False))):
        (tmp_path / "a.dump").write_text(text.format(boundary) + "1 1 0.5 0.5 -0.5\n2 1 1 1 5.5\n")
        system = mdsens.read(tmp_path / "a.dump", diameters=1.0, format="lammps-dump-text")
        assert system.periodic == periodic
        np.testing.assert_allclose(system.lattice, np.diag([4.0, 5.0, 7.0])[list(periodic)])


def test_a_frame_before_an_incomplete_one_is_read(tmp_path):
    (tmp_path / "unfinished.xyz").write_text("1\n\nHe 0 0 1\n2\n\nHe 0 0 0\n")
    system = mdsens.read(tmp_path / "unfinished.xyz", diameters=1.0, index=0, dim=3)
    np.testing.assert_array_equal(system.positions, [[0.0, 0.0, 1.0]])


def test_a_missing_file_and_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        mdsens.read(tmp_path / "nothing.xyz")
    with pytest.raises(mdsens.InvalidInput, match="there is no folder"):
        mdsens.write(tmp_path / "nowhere" / "out.extxyz", mdsens.random_packing(4))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "out.nonsense"
    target.write_text("precious")
    with pytest.raises(mdsens.InvalidInput, match="cannot be written"):
        mdsens.write(target, mdsens.random_packing(4))
    assert target.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.nonsense"]


def test_lammps_data_keep_the_order_of_species_and_the_plane(tmp_path):
    """Also for more than two species, whose elements in the file are not in alphabetical order."""
    species, x = np.array([3, 0, 4, 2, 1]), np.arange(10.0).reshape(5, 2)
    system = mdsens.System(x, [[12.0, 0.0], [2.0, 11.0]], 1.0 + species, species)
    mdsens.write(tmp_path / "packing.data", system, format="lammps-data")
    assert "-2.5 2.5  zlo zhi" in (tmp_path / "packing.data").read_text()
    again = mdsens.read(tmp_path / "packing.data", diameters=(1.0, 2.0, 3.0, 4.0, 5.0))
    np.testing.assert_array_equal(again.species, species)
    np.testing.assert_allclose(again.positions, x, atol=1e-12)
    np.testing.assert_allclose(again.box, system.box, atol=1e-12)
