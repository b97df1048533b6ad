"""LAMMPS dumps, with the sizes that ASE does not read: the columns `radius` and `diameter`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from .ase import read_text
from .format import Format, check_index

if TYPE_CHECKING:
    from ase import Atoms


def read_dump(path: Path, index: int) -> Atoms:
    """One frame of a text dump, with the array `radius` or `diameter` if it has that column.

    ASE drops these columns but keeps those of variables, so they are renamed while ASE reads them. A two-dimensional
    dump may leave z out.
    """
    import ase.io

    lines = read_text(path).splitlines(keepends=True)
    check_index(index, sum(line.startswith("ITEM: TIMESTEP") for line in lines))
    text = "".join(_adapted_for_ase(lines))
    atoms = ase.io.read(StringIO(text), index=index, format="lammps-dump-text")
    if not any(line.startswith("ITEM: ATOMS") and "element" in line.split() for line in lines):
        atoms.numbers[:] = 0  # ASE takes the types for elements
    for name in ("radius", "diameter"):
        if f"v_{name}" in atoms.arrays:
            atoms.set_array(name, atoms.arrays.pop(f"v_{name}"))
    return atoms


def _is_dump(head: bytes) -> bool:
    return head.startswith(b"ITEM: ") and b"ITEM: TIMESTEP" in head


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


LAMMPS_DUMP = Format(read_dump, recognizes=_is_dump)
