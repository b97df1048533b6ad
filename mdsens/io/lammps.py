"""LAMMPS data files and dumps, with the sizes that ASE does not read: diameters of `atom_style sphere`, and the columns
`radius` and `diameter` of a dump.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..system import System
from .ase import to_ase, write_atoms
from .format import Format

if TYPE_CHECKING:
    from ase import Atoms

DIAMETER, DENSITY = 2, 3
"""Columns of a row of `atom_style sphere`: id, type, diameter, density, x, y, z, and optionally three image flags."""


def read_data(path: Path, index: int = -1) -> Atoms:
    """A data file, which has a single frame.

    The atoms get the array `diameters` if the atom style is `sphere`: if the file names that style, or if the third of
    7 or 10 columns is not a whole number and so cannot be a type.
    """
    import ase.io

    text = _text(path)
    title = text.find("\n")
    header = re.compile(r"^[ \t]*Atoms[ \t]*(#.*)?$", re.MULTILINE).search(text, max(title, 0))
    if header is None:
        return ase.io.read(StringIO(text), format="lammps-data")
    section, *others = re.split(r"^(?=[ \t]*[A-Z])", text[header.end() :], maxsplit=1, flags=re.MULTILINE)
    rows = [row for line in section.splitlines() if (row := line.partition("#")[0].split())]
    if not _has_style_sphere(header[1], rows):
        return ase.io.read(StringIO(text), format="lammps-data")
    kept = "\n".join(" ".join(row[:DIAMETER] + row[DENSITY + 1 :]) for row in rows)
    atomic = "\n\n".join([text[: header.start()] + "Atoms # atomic", kept, *others])
    atoms = ase.io.read(StringIO(atomic), format="lammps-data")
    sizes = {int(row[0]): float(row[DIAMETER]) for row in rows}
    atoms.set_array("diameters", np.array([sizes[k] for k in sorted(sizes)]))
    return atoms


def write_data(path: Path, system: System) -> None:
    """Write a data file of `atom_style atomic`, which holds no diameters.

    A two-dimensional cell extends to both sides of z = 0, as LAMMPS requires.
    """
    atoms = to_ase(system)
    write_atoms(path, atoms, "lammps-data", specorder=_symbols_by_species(atoms))
    if system.dim == 2:
        path.write_text(_centered_in_z(path.read_text()))


def read_dump(path: Path, index: int) -> Atoms:
    """One frame of a text dump, with the array `radius` or `diameter` if it has that column.

    ASE drops these columns but keeps those of variables, so they are renamed while ASE reads them. A two-dimensional
    dump may leave z out.
    """
    import ase.io

    text = "".join(_adapted_for_ase(_text(path).splitlines(keepends=True)))
    atoms = ase.io.read(StringIO(text), index=index, format="lammps-dump-text")
    for name in ("radius", "diameter"):
        if f"v_{name}" in atoms.arrays:
            atoms.set_array(name, atoms.arrays.pop(f"v_{name}"))
    return atoms


def _is_data(head: bytes) -> bool:
    return b" xlo xhi" in head and b"atoms" in head


def _is_dump(head: bytes) -> bool:
    return head.startswith(b"ITEM: ") and b"ITEM: TIMESTEP" in head


def _has_style_sphere(style: str | None, rows: list[list[str]]) -> bool:
    if words := (style or "").strip("# \t").split():
        return words[0] == "sphere"
    return bool(rows) and len(rows[0]) in (7, 10) and not rows[0][DIAMETER].isdecimal()


def _symbols_by_species(atoms: Atoms) -> list[str]:
    """The chemical symbols in the order of species; by default ASE numbers LAMMPS types alphabetically."""
    first = np.unique(atoms.arrays["species_id"], return_index=True)[1]
    return np.array(atoms.get_chemical_symbols())[first].tolist()


def _centered_in_z(data: str) -> str:
    thickness = 0.5 * float(re.findall(r"(?m)^\s*\S+\s+(\S+)\s+zlo zhi", data)[0])
    return re.sub(r"(?m)^.*zlo zhi", f"{-thickness} {thickness}  zlo zhi", data)


def _adapted_for_ase(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a dump with sizes named like variables, and with z = 0 where z is missing."""
    flat = ""
    for line in lines:
        if line.startswith("ITEM:"):
            flat = ""
        if line.startswith("ITEM: ATOMS"):
            names = [f"v_{name}" if name in ("radius", "diameter") else name for name in line.split()]
            missing = {f"z{name[1:]}" for name in names if name in ("x", "xs", "xu", "xsu")} - set(names)
            line, flat = " ".join([*names, *missing]) + "\n", " 0" * len(missing)  # noqa: PLW2901
            yield line
        else:
            yield f"{line.rstrip()}{flat}\n" if flat else line


def _text(path: Path) -> str:
    from ase.io.formats import open_with_compression

    with open_with_compression(str(path), "rt") as file:
        return file.read()


LAMMPS_DATA = Format(read_data, write_data, recognizes=_is_data)

LAMMPS_DUMP = Format(read_dump, recognizes=_is_dump)
