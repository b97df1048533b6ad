"""Commands and studies of what files bring: bonds, angles, and fixed particles."""

import json

import h5py
import numpy as np
import pytest

import mdsens
from commands import call
from mdsens.studies.kinds import response
from mdsens.studies.study import Study
from mdsens.studies.tasks import batch_of, tasks_of

SQUARE = """a square of springs with a diagonal, whose lower corners are to be fixed

4 atoms
5 bonds
{angles} angles
1 atom types
2 bond types
1 angle types

0 10 xlo xhi
0 10 ylo yhi
-0.5 0.5 zlo zhi

Bond Coeffs # {style}

1 0.5 1.0
2 1.0 1.3

Atoms # angle

1 1 1 4.0 4.0 0.0
2 1 1 5.0 4.0 0.0
3 1 1 5.0 5.0 0.0
4 1 1 4.0 5.0 0.0

Bonds

1 1 1 2
2 1 2 3
3 1 3 4
4 1 4 1
5 2 1 3
"""
STIFFNESS, LENGTH = np.array([1.0, 1.0, 1.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0, 1.0, 1.3])
PAIRS = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]])


@pytest.fixture
def square(tmp_path):
    path = tmp_path / "square.data"
    path.write_text(SQUARE.format(style="harmonic", angles=0))
    return path


def expected(k=STIFFNESS):
    """∂x*/∂(rest length) [4, 2, 5] of the square with its lower corners fixed, and its energy, in NumPy alone."""
    x, free = np.array([[4.0, 4], [5, 4], [5, 5], [4, 5]]), slice(4, 8)
    for _ in range(60):
        apart = x[PAIRS[:, 1]] - x[PAIRS[:, 0]]
        r = np.linalg.norm(apart, axis=1)
        normal = apart / r[:, None]
        force, hessian, by_length = np.zeros(8), np.zeros((8, 8)), np.zeros((8, 5))
        for b, (i, j) in enumerate(PAIRS):
            grow = np.zeros(8)
            grow[2 * j : 2 * j + 2], grow[2 * i : 2 * i + 2] = normal[b], -normal[b]
            across = np.eye(2) - np.outer(normal[b], normal[b])
            moved = np.zeros((2, 8))
            moved[:, 2 * j : 2 * j + 2], moved[:, 2 * i : 2 * i + 2] = np.eye(2), -np.eye(2)
            force -= k[b] * (r[b] - LENGTH[b]) * grow
            hessian += k[b] * np.outer(grow, grow) + k[b] * (r[b] - LENGTH[b]) / r[b] * moved.T @ across @ moved
            by_length[:, b] = -k[b] * grow
        x[2:] += np.linalg.solve(hessian[free, free], force[free]).reshape(2, 2)
    answer = np.zeros((8, 5))
    answer[free] = -np.linalg.solve(hessian[free, free], by_length[free])
    return answer.reshape(4, 2, 5), 0.5 * np.sum(k * (r - LENGTH) ** 2)


def test_a_command_adds_the_bonds_of_a_file_and_fixes_particles(square, tmp_path):
    answer, energy = expected()
    options = ["--potential", "bonds", "--fixed", "0-1", "--tolerance", "1e-13"]
    code, out, err = call("sensitivity", square, "--wrt", "bonds.rest_length", "-o", tmp_path / "out", *options)
    assert code == 0, err
    assert "4 degrees of freedom" in out
    with h5py.File(tmp_path / "out/result.h5") as file:
        np.testing.assert_allclose(file["response"][()], answer, atol=1e-10)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["energy"] == pytest.approx(energy, rel=1e-9)
    assert summary["parameters"]["rest_length"] == LENGTH.tolist()


def test_a_command_adds_bonds_to_a_pair_potential_and_takes_their_parameters(square, tmp_path):
    """Disks that do not touch change nothing."""
    answer, _ = expected()
    options = ["--diameters", "0.5", "--fixed", "0:xy", "--fixed", "1", "--tolerance", "1e-13"]
    more = ["--set", "bonds.stiffness=[1,1,1,1,2]"]
    code, _, err = call("sensitivity", square, "--wrt", "bonds.rest_length", "-o", tmp_path / "out", *options, *more)
    assert code == 0, err
    with h5py.File(tmp_path / "out/result.h5") as file:
        np.testing.assert_allclose(file["response"][()], answer, atol=1e-10)
    code, out, err = call("relax", square, "-o", tmp_path / "out.extxyz", *options)
    assert code == 0 and f"without the bonds of {square}" in out, err
    code, out, err = call("relax", square, "-o", tmp_path / "out.data", *options, *more)
    assert code == 0 and "with bonds and angles" in out, err
    code, out, err = call("certify", tmp_path / "out.data", "--diameters", "0.5", "--fixed", "0-1")
    assert code == 0 and "a minimum" in out, err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--potential", "bonds", "--set", "bond.stiffness=1"], "no parameter bond.stiffness of the file; there are"),
        (["--potential", "bonds", "--set", "angles.stiffness=1"], "no parameter angles.stiffness of the file"),
        (["--potential", "bonds", "--fixed", "0-3"], "every particle is fixed"),
        (["--potential", "bonds", "--fixed", "9"], "numbered from 0 to 3"),
        ([], "holds no diameters"),
    ],
)
def test_what_a_command_cannot_add_is_refused_by_name(square, tmp_path, options, reason):
    code, _, err = call("relax", square, "-o", tmp_path / "out.extxyz", *options)
    assert code == 2 and reason in err and err.count("\n") == 1


def test_bonds_without_coefficients_and_files_without_bonds_are_refused(square, tmp_path):
    square.write_text(SQUARE.format(style="fene", angles=0))
    code, _, err = call("relax", square, "-o", tmp_path / "out.extxyz", "--potential", "bonds")
    assert code == 2 and "give bonds.stiffness and bonds.rest_length (--set bonds.stiffness=1.0)" in err
    mdsens.write(tmp_path / "disks.extxyz", mdsens.random_packing(8))
    code, _, err = call("relax", tmp_path / "disks.extxyz", "-o", tmp_path / "out.extxyz", "--potential", "bonds")
    assert code == 2 and "disks.extxyz has no bonds or angles" in err


def study(**sections):
    return Study(system={"files": ["*.data"], "fixed": ["0-1"]}, potential={"name": "bonds"}, **sections)


def test_a_study_varies_bonds_and_responds_to_them(square):
    chosen = study(
        relaxation={"tolerance": 1e-13},
        compute={"response": ["bonds.rest_length"], "properties": ["energy"]},
        sweep={"parameters": {"bonds.stiffness": [1.0, 3.0]}},
    )
    tasks = tasks_of(chosen, square.parent)
    found = response.compute(batch_of(tasks, 2))
    for task, each in zip(tasks, found, strict=True):
        assert not each.reason, each.message
        answer, energy = expected(np.full(5, task.varied["bonds.stiffness"]))
        arrays = response.arrays_of(task, each)
        np.testing.assert_allclose(arrays["response/bonds.rest_length"], answer, atol=1e-10)
        assert each.energy == pytest.approx(energy, rel=1e-9)


def test_random_packings_have_fixed_particles_in_a_study():
    chosen = Study(system={"n": 16, "fixed": ["species=0"]}, compute={"properties": ["energy"]}, seeds=2)
    tasks = tasks_of(chosen, None)
    for task, each in zip(tasks, response.compute(batch_of(tasks, 2)), strict=True):
        assert not each.reason, each.message
        start = mdsens.random_packing(16, seed=task.seed)
        held = np.asarray(start.species) == 0
        np.testing.assert_array_equal(np.asarray(each.system.positions)[held], np.asarray(start.positions)[held])


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"potential": {"name": "bonds"}}, "random packings have no bonds: leave bonds out"),
        ({"potential": {"bonds.stiffness": 1.0}}, "random packings have no bonds: leave bonds.stiffness out"),
        ({"system": {"files": ["*"]}, "potential": {"bonds.stifness": 1.0}}, "did you mean bonds.stiffness"),
    ],
)
def test_bonds_that_cannot_be_there_are_refused(sections, reason):
    with pytest.raises(ValueError, match=reason):
        Study(**sections)


def test_a_response_to_what_a_file_does_not_have_is_refused_with_the_file(square):
    with pytest.raises(mdsens.InvalidInput, match=r"square.data has no angles: there is no angles.stiffness in it"):
        tasks_of(study(compute={"response": ["angles.stiffness"]}), square.parent)


def test_a_fit_takes_the_bonds_of_its_files(tmp_path):
    """The rest length with which a square was relaxed is found again, from two files with the same bonds."""
    found = []
    for k, middle in enumerate((0.0, 1.0)):
        path = tmp_path / f"start{k}.data"
        path.write_text(
            SQUARE.format(style="harmonic", angles=0).replace("4.0 4.0 0.0", f"4.0 {4.0 - 0.2 * middle} 0.0")
        )
        system, topology = mdsens.read_topology(path, diameters=1.0)
        bonds = mdsens.Bonds(topology.bonds, topology.stiffness, 1.1)
        rest = mdsens.Relaxation(tolerance=1e-13)(bonds, system.replace(fixed=np.arange(4) < 2))
        text = path.read_text()
        for row, (x, y) in zip(
            [line for line in text.splitlines() if line.endswith(" 0.0")], rest.positions, strict=True
        ):
            text = text.replace(row, f"{' '.join(row.split()[:3])} {float(x)!r} {float(y)!r} 0.0")
        path.write_text(text)
        found.append(path)
    options = ["--potential", "bonds", "--fixed", "0-1", "--set", "bonds.rest_length=1.0"]
    code, out, err = call("fit", *found, "--wrt", "rest_length", "-o", tmp_path / "out", *options)
    assert code == 0, err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["parameters"]["rest_length"] == pytest.approx(1.1, abs=1e-7), out
    found[1].write_text(found[1].read_text().replace("5 2 1 3", "5 2 2 4"))
    code, out, err = call("fit", *found, "--wrt", "rest_length", "-o", tmp_path / "out", *options)
    assert code == 2 and "has other bonds or angles than" in err
