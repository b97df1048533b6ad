"""LAMMPS data files: cells, types with labels, and the columns of each atom style."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput
from ..system import System
from .ase import Diameters, from_ase, read_text, to_ase, write_atoms
from .format import Format, check_index

if TYPE_CHECKING:
    from ase import Atoms

COLUMNS = {
    "atomic": "id type x y z",
    "charge": "id type charge x y z",
    "molecular": "id molecule type x y z",
    "bond": "id molecule type x y z",
    "angle": "id molecule type x y z",
    "full": "id molecule type charge x y z",
    "sphere": "id type diameter density x y z",
    "bpm/sphere": "id molecule type diameter density x y z",
    "dipole": "id type charge x y z mux muy muz",
    "dpd": "id type theta x y z",
    "edpd": "id type temperature heat_capacity x y z",
    "mdpd": "id type density x y z",
    "peri": "id type volume density x y z",
    "electron": "id type charge spin radius_of_electron x y z",
}
"""The columns of the section Atoms, by atom style; three image flags may follow."""

GUESSED = ("atomic", "charge", "molecular", "full", "sphere")
"""Styles that are tried where neither the file nor the caller names one."""

WHOLE = ("id", "molecule", "type")
"""Columns of whole numbers; a type may also be a label."""

NOT_UNDERSTOOD = ("Bonds", "Angles", "Dihedrals", "Impropers", "Ellipsoids", "Lines", "Triangles", "Bodies")
"""Sections that mean forces or shapes of which mdsens knows nothing."""

SECTION = re.compile(r"^\s*([A-Z][A-Za-z]*(?: [A-Z][A-Za-z]*)*)\s*(?:#\s*(\S*).*)?$")
"""The first line of a section, with its comment."""


def read_data(path: Path, index: int = -1, atom_style: str | None = None) -> Atoms:
    """The only frame of a data file.

    **Arguments:**

    - `atom_style`: of a file that does not name it after `Atoms #`; by default the only one that its columns fit.

    **Raises** `InvalidInput` for what is missing, ambiguous, or not understood.
    """
    check_index(index, 1)
    header, sections, named = _sections(read_text(path).splitlines()[1:])
    for name in NOT_UNDERSTOOD:
        if sections.get(name):
            cure = "remove the section if the energy is to know nothing of it"
            if name in ("Bonds", "Angles"):
                cure = f"mdsens.read_topology reads it, or {cure}"
            raise InvalidInput(f"it has a section {name}, which belongs to no system and will not be dropped: {cure}")
    return _atoms(header, sections, atom_style or named.get("Atoms") or None)


def _atoms(header: list[list[str]], sections: dict[str, list[list[str]]], style: str | None) -> Atoms:
    from ase import Atoms

    rows = sections.get("Atoms", [])
    promised = _count(header, "atoms")
    if len(rows) != promised or not rows:
        raise InvalidInput(f"it promises {promised} atoms, and its section Atoms has {len(rows)} lines")
    columns = _columns(rows, style)
    labels = {row[1]: row[0] for row in sections.get("Atom Type Labels", [])}
    types = [labels.get(row[columns.index("type")], row[columns.index("type")]) for row in rows]
    numbers = {name: _floats(row[k] for row in rows) for k, name in enumerate(columns) if name != "type"}
    numbers["type"] = _floats(types)
    order = np.argsort(numbers["id"], kind="stable")
    if np.any(np.diff(numbers["id"][order]) == 0):
        raise InvalidInput("two of its atoms have the same id")
    if not (np.isin(numbers["type"], np.arange(1, _count(header, "atom types", len(rows)) + 1))).all():
        raise InvalidInput("one of its atoms has a type that is neither a label nor a number from 1 on")
    positions = np.stack([numbers[axis] for axis in "xyz"], axis=1)
    atoms = Atoms(numbers=np.zeros(len(rows), int), positions=positions[order], cell=_cell(header), pbc=True)
    atoms.set_array("type", numbers["type"][order].astype(int))
    if "diameter" in numbers:
        atoms.set_array("diameters", numbers["diameter"][order])
    return atoms


@dataclasses.dataclass(frozen=True)
class Topology:
    """The bonds and angles of a file; particles and types are counted from 0.

    - `bonds` (int [m, 2]), `bond_types` (int [m]), `angles` (int [k, 3], the vertex in the middle), `angle_types`.
    - `stiffness` (energy per length²) and `rest_length` [m], `angle_stiffness` (energy) and `rest_angle` [k] (radians):
      of ½ k (r - l)² and ½ k (θ - θ₀)²; None unless the file has coefficients of harmonic bonds, or angles. LAMMPS
      leaves out the factor ½.
    """

    bonds: np.ndarray
    bond_types: np.ndarray
    angles: np.ndarray
    angle_types: np.ndarray
    stiffness: np.ndarray | None
    rest_length: np.ndarray | None
    angle_stiffness: np.ndarray | None
    rest_angle: np.ndarray | None


def read_topology(
    path: str | os.PathLike[str],
    diameters: Diameters | None = 1.0,
    dim: int | None = None,
    atom_style: str | None = None,
) -> tuple[System, Topology]:
    """Particles, bonds and angles of a LAMMPS data file.

        system, found = mdsens.read_topology("network.data")
        bonds = mdsens.Bonds(found.bonds, found.stiffness, found.rest_length)

    **Arguments:**

    - `path`: the file.
    - `diameters`: as in `mdsens.read`; 1 by default, since bonds use none.
    - `dim`: 2 or 3; by default 2 if all particles have the same z.
    - `atom_style`: of a file that does not name it.

    **Returns** the System, and a `Topology`.

    **Raises** `FileNotFoundError`, and `InvalidInput` for a file that cannot be read, and for dihedrals, impropers and
    particles that are no points.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        header, sections, named = _sections(read_text(path).splitlines()[1:])
        others = [name for name in NOT_UNDERSTOOD if sections.get(name) and name not in ("Bonds", "Angles")]
        if others:
            raise InvalidInput(f"it has a section {others[0]}, which mdsens does not understand and will not drop")
        atoms = _atoms(header, sections, atom_style or named.get("Atoms") or None)
        place = {int(row[0]): k for k, row in enumerate(sorted(sections["Atoms"], key=lambda row: int(row[0])))}
        bonds, bond_types = _groups(sections.get("Bonds", []), 2, place)
        angles, angle_types = _groups(sections.get("Angles", []), 3, place)
        stiffness, rest_length = _harmonic(sections, named, "Bond Coeffs", bond_types)
        angle_stiffness, rest_angle = _harmonic(sections, named, "Angle Coeffs", angle_types)
        if rest_angle is not None:
            rest_angle = np.deg2rad(rest_angle)
        system = from_ase(atoms, None if "diameters" in atoms.arrays else diameters, dim)
    except (InvalidInput, ValueError, KeyError, IndexError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    of_angles = angles, angle_types
    return system, Topology(bonds, bond_types, *of_angles, stiffness, rest_length, angle_stiffness, rest_angle)


def _groups(rows: list[list[str]], size: int, place: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The particles [m, size] and types [m] of bonds or angles: `id type atom atom …`."""
    table = np.array([[int(word) for word in row[: size + 2]] for row in rows], int).reshape(-1, size + 2)
    missing = [int(each) for each in np.unique(table[:, 2:]) if int(each) not in place]
    if missing:
        raise InvalidInput(f"a bond or an angle joins atom {missing[0]}, which is not there")
    members = np.array([[place[int(each)] for each in row] for row in table[:, 2:]], np.int32).reshape(-1, size)
    return members, table[:, 1] - 1


def _harmonic(
    sections: dict[str, list[list[str]]], named: dict[str, str], name: str, types: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Twice the first coefficient of each type, since LAMMPS leaves out the factor ½, and the second."""
    rows = sections.get(name, [])
    if named.get(name) not in ("", "harmonic") or not len(types) or any(len(row) != 3 for row in rows):
        return None, None
    table = {int(row[0]) - 1: (2.0 * float(row[1]), float(row[2])) for row in rows}
    values = np.array([table[int(each)] for each in types])
    return values[:, 0], values[:, 1]


def write_data(path: Path, system: System) -> None:
    """Write a data file of `atom_style atomic`, which holds no diameters.

    A two-dimensional cell extends to both sides of z = 0, as LAMMPS requires, and along directions in which the cell is
    not periodic it extends around all particles.
    """
    edges: dict[str, tuple[float, float]] = {}
    if len(set(system.periodic)) > 1:
        corner, box = (np.asarray(found) for found in system.enclosing_box(system.diameters.max()))
        system = system.replace(box=box)
        for k in np.flatnonzero(~np.array(system.periodic)):
            length = float(np.linalg.norm(box[k]))
            low = float(corner @ box[k]) / length
            edges["xyz"[k]] = low, low + length
    atoms = to_ase(system.replace(numbers=None))  # by species: LAMMPS has types
    if system.dim == 2:
        thickness = 0.5 * float(atoms.cell[2, 2])
        edges["z"] = -thickness, thickness
    write_atoms(path, atoms, "lammps-data", specorder=_symbols_by_species(atoms))
    text = path.read_text()
    for axis, (low, high) in edges.items():
        text = re.sub(rf"(?m)^.*{axis}lo {axis}hi", f"{low!r} {high!r}  {axis}lo {axis}hi", text)
    path.write_text(text)


def _sections(lines: Iterable[str]) -> tuple[list[list[str]], dict[str, list[list[str]]], dict[str, str]]:
    """The words of the header's lines, those of each section, and the styles that comments beside sections name."""
    header: list[list[str]] = []
    sections: dict[str, list[list[str]]] = {}
    named: dict[str, str] = {}
    rows = header
    for line in lines:
        if found := SECTION.match(line):
            rows = sections.setdefault(found[1], [])
            named[found[1]] = found[2] or ""
        elif words := line.partition("#")[0].split():
            rows.append(words)
    return header, sections, named


def _columns(rows: Sequence[Sequence[str]], style: str | None) -> list[str]:
    """The names of the columns of the section Atoms."""
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        raise InvalidInput("the lines of its section Atoms have different numbers of columns")
    if style is not None:
        if style not in COLUMNS:
            raise InvalidInput(f"its atom style is {style}; mdsens reads {', '.join(COLUMNS)}")
        columns = COLUMNS[style].split()
        if width - len(columns) not in (0, 3):
            raise InvalidInput(f"atom style {style} has the columns {COLUMNS[style]}, and a line here has {width}")
        return columns
    whole = [all(re.fullmatch(r"[+-]?\d+", row[k]) for row in rows) for k in range(width)]

    def fits(columns: list[str]) -> bool:
        flags = range(len(columns), width)
        if width - len(columns) not in (0, 3) or not all(whole[k] for k in flags):
            return False
        # a type may be a label
        return all(
            whole[k] or (name == "type" and not _is_number(rows[0][k]))
            for k, name in enumerate(columns)
            if name in WHOLE
        )

    possible = [name for name in GUESSED if fits(COLUMNS[name].split())]
    if len(possible) != 1:
        which = f"fit the atom styles {' and '.join(possible)}" if possible else "fit no atom style"
        raise InvalidInput(
            f"the {width} columns of its section Atoms {which}: name it (atom_style=…, --atom-style, or a comment "
            "behind Atoms: 'Atoms # sphere')"
        )
    return COLUMNS[possible[0]].split()


def _cell(header: list[list[str]]) -> np.ndarray:
    """The lattice vectors in rows, of an orthogonal, a tilted or a general cell."""
    known = {" ".join(words[k:]): words[:k] for words in header for k in range(len(words))}
    if "avec" in known:
        rows = [_floats(known.get(f"{name}vec", [])) for name in "abc"]
        if any(len(row) != 3 for row in rows):
            raise InvalidInput("its cell needs three lines avec, bvec, cvec of three numbers each")
        return np.array(rows)
    bounds = [_floats(known.get(f"{axis}lo {axis}hi", [])) for axis in "xyz"]
    if any(len(pair) != 2 for pair in bounds):
        raise InvalidInput("its cell needs three lines such as 0.0 8.0 xlo xhi")
    cell = np.diag([high - low for low, high in bounds])
    if "xy xz yz" in known:
        tilts = _floats(known["xy xz yz"])
        if len(tilts) != 3:
            raise InvalidInput("the line xy xz yz of its cell needs three numbers")
        cell[1, 0], cell[2, 0], cell[2, 1] = tilts
    return cell


def _count(header: list[list[str]], what: str, default: int = 0) -> int:
    for words in header:
        if " ".join(words[1:]) == what and words[0].isdecimal():
            return int(words[0])
    return default


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _floats(words: Iterable[str]) -> np.ndarray:
    try:
        return np.array([float(word) for word in words])
    except ValueError as error:
        raise InvalidInput(f"{str(error).split(': ')[-1]} stands where a number is expected") from None


def _symbols_by_species(atoms: Atoms) -> list[str]:
    """The chemical symbols in the order of species; by default ASE numbers LAMMPS types alphabetically."""
    first = np.unique(atoms.arrays["species_id"], return_index=True)[1]
    return np.array(atoms.get_chemical_symbols())[first].tolist()


def _is_data(head: bytes) -> bool:
    return b"atoms" in head and re.search(rb"\s(xlo\s+xhi|avec)", head) is not None


LAMMPS_DATA = Format(read_data, write_data, recognizes=_is_data, options=("atom_style",))
