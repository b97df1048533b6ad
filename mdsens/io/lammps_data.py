"""LAMMPS data files: cells, types with labels, and the columns of each atom style."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput
from ..system import System
from .ase import to_ase, write_atoms
from .format import Format, check_index
from .words import is_whole, lines_of, read_text, reals, wholes, words_of

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

FLAGS = ("ix", "iy", "iz")
"""The columns behind them, if there are any: the periodic image that an atom is in."""

NOT_UNDERSTOOD = ("Bonds", "Angles", "Dihedrals", "Impropers", "Ellipsoids", "Lines", "Triangles", "Bodies")
"""Sections that mean forces or shapes of which mdsens knows nothing."""

SECTIONS = (
    *("Atoms", "Masses", "Velocities", *NOT_UNDERSTOOD),
    *(f"{kind} Type Labels" for kind in ("Atom", "Bond", "Angle", "Dihedral", "Improper")),
    *(f"{kind} Coeffs" for kind in ("Pair", "PairIJ", "Bond", "Angle", "Dihedral", "Improper")),
    *(f"{pair} Coeffs" for pair in ("BondBond", "BondAngle", "MiddleBondTorsion", "EndBondTorsion", "AngleTorsion")),
    *(f"{pair} Coeffs" for pair in ("AngleAngleTorsion", "BondBond13", "AngleAngle")),
)
"""The sections of a data file."""

HEADER = re.compile(
    r"(atoms|(?:bond|angle|dihedral|improper)s|(?:atom|bond|angle|dihedral|improper) types|extra .* per atom|"
    r"ellipsoids|lines|triangles|bodies|xlo xhi|ylo yhi|zlo zhi|xy xz yz|[abc]vec|abc origin)"
)
"""What the numbers of a line of the header are."""

KEPT_AS = {"charge": "initial_charges", "molecule": "mol-id", "diameter": "diameters"}
"""Columns that ASE, or mdsens, has another name for."""


def read_data(path: Path, index: int = -1, atom_style: str | None = None) -> Atoms:
    """The only frame of a data file.

    **Arguments:**

    - `atom_style`: of a file that does not name it after `Atoms #`; by default the only one that its columns fit.

    **Raises** `InvalidInput` for what is missing, ambiguous, or not understood.
    """
    check_index(index, 1)
    header, sections, named = sections_of(lines_of(read_text(path))[1:])
    for name in NOT_UNDERSTOOD:
        if sections.get(name):
            cure = "remove the section if the energy is to know nothing of it"
            if name in ("Bonds", "Angles"):
                cure = f"mdsens.read_topology reads it, or {cure}"
            raise InvalidInput(f"it has a section {name}, which belongs to no system and will not be dropped: {cure}")
    return parse_atoms(header, sections, atom_style or named.get("Atoms") or None)


def parse_atoms(header: dict[str, list[str]], sections: dict[str, list[list[str]]], style: str | None) -> Atoms:
    from ase import Atoms

    rows, promised = sections.get("Atoms", []), _count(header, "atoms")
    if len(rows) != promised or not rows:
        raise InvalidInput(f"it promises {promised} atoms, and its section Atoms has {len(rows)} lines")
    columns, kinds = _columns(rows, style), _count(header, "atom types")
    if kinds < 1:
        raise InvalidInput("its header does not say how many atom types there are: '2 atom types'")
    types = _types([row[columns.index("type")] for row in rows], sections, kinds)
    table = {name: (wholes if name in (*WHOLE, *FLAGS) else reals)(row[k] for row in rows)
             for k, name in enumerate(columns) if name != "type"}  # fmt: skip
    order = np.argsort(table["id"], kind="stable")
    ids = table["id"][order]
    if np.any(np.diff(ids) == 0) or ids[0] < 1:
        raise InvalidInput("two of its atoms have the same id, or one has an id below 1")
    positions = np.stack([table.pop(axis) for axis in "xyz"], axis=1)[order]
    atoms = Atoms(numbers=np.zeros(len(rows), int), positions=positions, cell=_cell(header), pbc=True)
    atoms.set_array("type", types[order])
    for name, values in table.items():
        atoms.set_array(KEPT_AS.get(name, name), values[order])
    if "Masses" in sections:
        atoms.set_array("masses", _masses(sections, kinds)[types[order] - 1])
    if "Velocities" in sections:
        for name, values in _velocities(sections["Velocities"], ids).items():
            atoms.set_array(name, values)
    return atoms


def _types(words: list[str], sections: dict[str, list[list[str]]], kinds: int) -> np.ndarray:
    """The types of atoms, or of masses, as numbers from 1 on."""
    rows = sections.get("Atom Type Labels", [])
    if any(len(row) != 2 for row in rows) or len({row[1] for row in rows}) < len(rows):
        raise InvalidInput("its Atom Type Labels are no lines of a type and its label, or name one label twice")
    labels = {row[1]: row[0] for row in rows}
    words = [labels.get(word, word) for word in words]
    if not all(is_whole(word) and 1 <= int(word) <= kinds for word in words):
        raise InvalidInput(f"one of its atoms has a type that is neither a label nor a number from 1 to {kinds}")
    return wholes(words)


def _masses(sections: dict[str, list[list[str]]], kinds: int) -> np.ndarray:
    """The mass of each type."""
    rows = sections["Masses"]
    if any(len(row) != 2 for row in rows):
        raise InvalidInput("its Masses are no lines of a type and its mass")
    types, masses = _types([row[0] for row in rows], sections, kinds), reals(row[1] for row in rows)
    if sorted(types.tolist()) != list(range(1, kinds + 1)) or not (masses > 0.0).all():
        raise InvalidInput(f"its Masses are not one for each of {kinds} types, or one is not positive")
    return masses[np.argsort(types)]


def _velocities(rows: list[list[str]], ids: np.ndarray) -> dict[str, np.ndarray]:
    """The velocities of the atoms in the order of their ids, and, of spheres, angular ones."""
    width = len(rows[0]) if rows else 0
    if width not in (4, 7) or any(len(row) != width for row in rows):
        raise InvalidInput("the lines of its section Velocities are no id with three numbers, or six")
    given = wholes(row[0] for row in rows)
    order = np.argsort(given, kind="stable")
    if given[order].tolist() != ids.tolist():
        raise InvalidInput("its section Velocities is not about the same atoms as its section Atoms")
    values = reals(word for row in rows for word in row[1:]).reshape(len(rows), -1)[order]
    linear = {"velocities": values[:, :3]}
    return linear if width == 4 else linear | {"angular_velocities": values[:, 3:]}


def write_data(path: Path, system: System) -> None:
    """Write a data file of `atom_style atomic`, or `charge` where there are charges, which hold no diameters.

    Masses are written where particles of one species have the same. A two-dimensional cell extends to both sides of
    z = 0, as LAMMPS requires, and along directions in which the cell is not periodic it extends around all particles.
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
    style = "charge" if "initial_charges" in atoms.arrays else "atomic"
    write_atoms(path, atoms, "lammps-data", specorder=_symbols_by_species(atoms), atom_style=style)
    text = path.read_text()
    if "masses" in atoms.arrays:
        text = text.replace("\nAtoms #", f"{_masses_by_species(atoms)}\nAtoms #", 1)
    for axis, (low, high) in edges.items():
        text = re.sub(rf"(?m)^.*{axis}lo {axis}hi", f"{low!r} {high!r}  {axis}lo {axis}hi", text)
    path.write_text(text)


def _masses_by_species(atoms: Atoms) -> str:
    """The section Masses; empty where particles of one species differ."""
    species, masses = np.unique(atoms.arrays["species_id"], return_inverse=True)[1], atoms.arrays["masses"]
    of_species = np.array([masses[species == k][0] for k in range(int(np.max(species)) + 1)])
    if (of_species[species] != masses).any():
        return ""
    rows = "\n".join(f"{k + 1} {mass!r}" for k, mass in enumerate(of_species.tolist()))
    return f"\nMasses\n\n{rows}\n"


def sections_of(lines: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, list[list[str]]], dict[str, str]]:
    """The words of the header by their meaning, the rows of each section, and the styles named beside sections."""
    header: dict[str, list[str]] = {}
    sections: dict[str, list[list[str]]] = {}
    named: dict[str, str] = {}
    rows: list[list[str]] | None = None
    for line in lines:
        before, _, comment = line.partition("#")
        words = words_of(before)
        if " ".join(words) in SECTIONS:
            name = " ".join(words)
            if name in sections:
                raise InvalidInput(f"it has two sections {name}")
            rows = sections[name] = []
            named[name] = (words_of(comment) or [""])[0]
        elif words and rows is not None:
            if words[0][0].isupper() and "Atom Type Labels" not in sections and not is_whole(words[0]):
                raise InvalidInput(f"{' '.join(words)[:40]!r} is no section of a data file")
            rows.append(words)
        elif words:
            _enter(header, words)
    return header, sections, named


def _enter(header: dict[str, list[str]], words: list[str]) -> None:
    """Enter a line of the header: numbers, and then what they are."""
    split = next((k for k in range(1, len(words)) if HEADER.fullmatch(" ".join(words[k:]))), None)
    if split is None:
        raise InvalidInput(f"{' '.join(words)[:60]!r} is no line of a data file's header, nor the name of a section")
    name = " ".join(words[split:])
    numbers = 2 if name.endswith("hi") else 3 if name.endswith(("vec", "yz", "origin")) else 1
    if split != numbers:
        raise InvalidInput(f"{' '.join(words)[:60]!r} in its header has {split} numbers, not {numbers}")
    if header.setdefault(name, words[:split]) != words[:split]:
        raise InvalidInput(f"it says twice what {name} are, and not the same")


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
        return _with_flags(columns, width)
    whole = [all(is_whole(row[k]) for row in rows) for k in range(width)]

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
    return _with_flags(COLUMNS[possible[0]].split(), width)


def _with_flags(columns: list[str], width: int) -> list[str]:
    return [*columns, *(FLAGS if width > len(columns) else ())]


def _cell(header: dict[str, list[str]]) -> np.ndarray:
    """The lattice vectors in rows, of an orthogonal, a tilted or a general cell."""
    if "avec" in header:
        rows = [reals(header.get(f"{name}vec", [])) for name in "abc"]
        if any(len(row) != 3 for row in rows):
            raise InvalidInput("its cell needs three lines avec, bvec, cvec of three numbers each")
        return np.array(rows)
    bounds = [reals(header.get(f"{axis}lo {axis}hi", [])) for axis in "xyz"]
    if any(len(pair) != 2 or not pair[0] < pair[1] for pair in bounds):
        raise InvalidInput("its cell needs three lines such as 0.0 8.0 xlo xhi, the lower bound first")
    cell = np.diag([high - low for low, high in bounds])
    if "xy xz yz" in header:
        tilts = reals(header["xy xz yz"])
        if len(tilts) != 3:
            raise InvalidInput("the line xy xz yz of its cell needs three numbers")
        cell[1, 0], cell[2, 0], cell[2, 1] = tilts
    return cell


def _count(header: dict[str, list[str]], what: str) -> int:
    return int(wholes(header.get(what, ["0"]))[0])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _symbols_by_species(atoms: Atoms) -> list[str]:
    """The chemical symbols in the order of species; by default ASE numbers LAMMPS types alphabetically."""
    first = np.unique(atoms.arrays["species_id"], return_index=True)[1]
    return np.array(atoms.get_chemical_symbols())[first].tolist()


def _is_data(head: bytes) -> bool:
    return b"atoms" in head and re.search(rb"\s(xlo\s+xhi|avec)", head) is not None


LAMMPS_DATA = Format(
    read_data,
    write_data,
    written_as=("*.data", "*.lmp", "data.*"),
    recognizes=_is_data,
    keeps=("id", "type", "initial_charges", "masses"),
    options=("atom_style",),
)
