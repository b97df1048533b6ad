"""Extended XYZ, with every float written so that it is read back as the same bits, and plain XYZ."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput
from ..system import System
from .ase import ase_format, to_ase
from .format import Format, check_index

if TYPE_CHECKING:
    from ase import Atoms


def read_extended_xyz(path: Path, index: int) -> Atoms:
    """One frame of an extended XYZ file, or of a plain one."""
    check_index(index, _count_frames(path))
    return ase_format("extxyz").read(path, index)


def read_xyz(path: Path, index: int) -> Atoms:
    """One frame of a plain XYZ file."""
    check_index(index, _count_frames(path))
    return ase_format("xyz").read(path, index)


def write_extended_xyz(path: Path, system: System) -> None:
    """Write positions, cell, diameters, radii, species and what is fixed. ASE's own writer would round to 8 digits."""
    atoms = to_ase(system)
    flags = [""] * system.n if system.fixed is None else _move_mask(system)
    column = "" if system.fixed is None else f":move_mask:L:{len(flags[0].split())}"
    # without atomic numbers the symbols mean nothing, and are not read again
    header = 'Properties=species:S:1:pos:R:3:species_id:I:1:diameters:R:1:radius:R:1{} dim={} pbc="{}"'.format(
        column, system.dim, " ".join("FT"[int(p)] for p in atoms.pbc)
    )
    if system.box is not None:
        lattice = " ".join(repr(float(value)) for value in np.asarray(atoms.cell).ravel())
        header = f'Lattice="{lattice}" {header}'
    rows = [str(system.n), header]
    columns = zip(
        atoms.get_chemical_symbols(),
        atoms.positions,
        atoms.arrays["species_id"],
        atoms.arrays["diameters"],
        atoms.arrays["radius"],
        flags,
        strict=True,
    )
    for symbol, position, kind, diameter, radius, moves in columns:
        numbers = " ".join(repr(float(value)) for value in position)
        rows.append(f"{symbol} {numbers} {int(kind)} {float(diameter)!r} {float(radius)!r}{moves}")
    path.write_text("\n".join(rows) + "\n")


def _move_mask(system: System) -> list[str]:
    """For each particle whether it moves, or whether each of three components does, as columns of text."""
    moves = ~np.asarray(system.fixed).reshape(system.n, -1)
    if moves.shape[1] == 2:
        moves = np.concatenate([moves, np.ones((system.n, 1), bool)], axis=1)
    return ["".join(f" {'FT'[int(each)]}" for each in row) for row in moves]


def _count_frames(path: Path) -> int:
    """The number of frames, as far as there are any.

    **Raises** `InvalidInput` if one has more particles than the file has bytes: ASE would loop over all of them.
    """
    size, frames = path.stat().st_size, 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not re.fullmatch(r"\s*\d+\s*", line):
                break  # the end of the file, or a line that ASE reports
            if int(line) > size:
                raise InvalidInput(f"it promises {int(line):.7g} particles and has {size} bytes")
            frames += 1
            next(itertools.islice(lines, 1 + int(line), 1 + int(line)), None)
    return max(1, frames)


EXTENDED_XYZ = Format(
    read_extended_xyz, write_extended_xyz, endings=(".extxyz", ".xyz"), keeps_fixed=True, keeps_periodic=True
)

XYZ = Format(read_xyz, ase_format("xyz").write)
