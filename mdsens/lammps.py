"""Sizes in LAMMPS' files, which ASE does not read: data of `atom_style sphere`, and radii or diameters in a dump."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

DIAMETER, DENSITY = 2, 3
"""Columns of a row of `atom_style sphere`: id, type, diameter, density, x, y, z, and maybe three image flags."""


def read_data(path: Path) -> Atoms:
    """A data file, with the array `diameters` where its style is `sphere`."""
    import ase.io

    text = path.read_text()
    header = re.search(r"^[ \t]*Atoms[ \t]*#[ \t]*sphere\b.*$", text, re.MULTILINE)
    if header is None:
        return ase.io.read(path, format="lammps-data")
    section, *others = re.split(r"^(?=[ \t]*[A-Z])", text[header.end() :], maxsplit=1, flags=re.MULTILINE)
    rows = np.loadtxt([row for row in section.splitlines() if row.strip()], dtype=str, ndmin=2)
    kept = "\n".join(" ".join(row) for row in np.delete(rows, (DIAMETER, DENSITY), axis=1))
    atomic = "\n\n".join([text[: header.start()] + "Atoms # atomic", kept, *others])
    atoms = ase.io.read(StringIO(atomic), format="lammps-data")
    atoms.set_array("diameters", rows[np.argsort(rows[:, 0].astype(int)), DIAMETER].astype(float))
    return atoms


def read_dump(path: Path, index: int) -> Atoms:
    """One frame of a dump, with the array `radius` or `diameter` where it has that column: ASE keeps variables'."""
    import ase.io

    def as_variables(header: re.Match[str]) -> str:
        return re.sub(r"(?<= )(radius|diameter)\b", r"v_\1", header[0])

    text = re.sub(r"^ITEM: ATOMS.*$", as_variables, path.read_text(), flags=re.MULTILINE)
    atoms = ase.io.read(StringIO(text), index=index, format="lammps-dump-text")
    for name in ("radius", "diameter"):
        if f"v_{name}" in atoms.arrays:
            atoms.set_array(name, atoms.arrays.pop(f"v_{name}"))
    return atoms
