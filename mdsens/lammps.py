"""Sizes in LAMMPS' files, which ASE does not read: data of `atom_style sphere`, and radii or diameters in a dump."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

DIAMETER, DENSITY = 2, 3
"""Columns of a row of `atom_style sphere`: id, type, diameter, density, x, y, z, and maybe three image flags."""


def read_data(path: Path) -> Atoms:
    """A data file, with the array `diameters` where its style is `sphere`: where it says so, or has a number that is no
    type in the third of 7 or 10 columns.
    """
    import ase.io

    text = _text(path)
    title = text.find("\n")
    header = re.compile(r"^[ \t]*Atoms[ \t]*(#.*)?$", re.MULTILINE).search(text, max(title, 0))
    if header is None:
        return ase.io.read(StringIO(text), format="lammps-data")
    section, *others = re.split(r"^(?=[ \t]*[A-Z])", text[header.end() :], maxsplit=1, flags=re.MULTILINE)
    rows = [row for line in section.splitlines() if (row := line.partition("#")[0].split())]
    if not _is_of_spheres(header[1], rows):
        return ase.io.read(StringIO(text), format="lammps-data")
    kept = "\n".join(" ".join(row[:DIAMETER] + row[DENSITY + 1 :]) for row in rows)
    atomic = "\n\n".join([text[: header.start()] + "Atoms # atomic", kept, *others])
    atoms = ase.io.read(StringIO(atomic), format="lammps-data")
    sizes = {int(row[0]): float(row[DIAMETER]) for row in rows}
    atoms.set_array("diameters", np.array([sizes[k] for k in sorted(sizes)]))
    return atoms


def _is_of_spheres(style: str | None, rows: list[list[str]]) -> bool:
    if words := (style or "").strip("# \t").split():
        return words[0] == "sphere"
    return bool(rows) and len(rows[0]) in (7, 10) and not rows[0][DIAMETER].isdecimal()


def read_dump(path: Path, index: int) -> Atoms:
    """One frame of a dump, with the array `radius` or `diameter` where it has that column: ASE keeps variables'. In two
    dimensions z may be left out.
    """
    import ase.io

    text = "".join(_as_ase_reads(_text(path).splitlines(keepends=True)))
    atoms = ase.io.read(StringIO(text), index=index, format="lammps-dump-text")
    for name in ("radius", "diameter"):
        if f"v_{name}" in atoms.arrays:
            atoms.set_array(name, atoms.arrays.pop(f"v_{name}"))
    return atoms


def _as_ase_reads(lines: Iterable[str]) -> Iterator[str]:
    """Sizes named as variables are, and z = 0 where there is none."""
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
