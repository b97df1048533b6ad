"""POSCAR and CONTCAR of VASP.

**Reference:** VASP wiki, POSCAR.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput
from .ase import ase_format
from .format import Format, check_index
from .words import atomic_numbers, is_whole, lines_of, read_text, reals, wholes, without_empty_end, words_of

if TYPE_CHECKING:
    from ase import Atoms

FLAGS = {"T": True, "F": False, ".TRUE.": True, ".FALSE.": False}


def read_poscar(path: Path, index: int = -1) -> Atoms:
    """The only frame, with the atoms and components that selective dynamics fix, and the velocities if there are any.

    Without a line of elements (VASP 4) the particles have kinds, by the line of numbers, and no elements.
    """
    from ase import Atoms

    check_index(index, 1)
    lines = without_empty_end(lines_of(read_text(path)))
    if len(lines) < 8:
        raise InvalidInput(f"it has {len(lines)} lines, too few for a POSCAR")
    cell, scale = _cell(lines[1], lines[2:5])
    place = 5
    symbols = None if is_whole((words_of(lines[5]) or [""])[0]) else words_of(lines[5])
    if symbols is not None:
        place += 1
    counts = wholes(words_of(re.split("[!#]", lines[place])[0])).tolist()
    if not counts or min(counts) < 1 or sum(counts) > len(lines) or len(counts) != len(symbols or counts):
        raise InvalidInput(f"its line {place + 1} is no number of atoms for each element: {lines[place][:40]!r}")
    kinds = np.repeat(np.arange(len(counts)), counts)
    place += 1
    selective = lines[place].lstrip(" \t")[:1] in ("s", "S")
    place += selective
    how = lines[place].lstrip(" \t")[:1] if place < len(lines) else ""
    if how not in tuple("cCkKdD"):
        raise InvalidInput(f"its line {place + 1} is neither Direct nor Cartesian")
    rows = [words_of(line) for line in lines[place + 1 : place + 1 + len(kinds)]]
    values, moves = _rows(rows, len(kinds), selective, None if symbols is None else [symbols[k] for k in kinds])
    numbers = None if symbols is None else atomic_numbers(re.split("[_/]", symbol)[0] for symbol in symbols)
    if numbers is not None and not numbers.all():
        raise InvalidInput("X is no element of VASP")
    atoms = Atoms(
        numbers=np.zeros(len(kinds), int) if numbers is None else numbers[kinds],
        positions=values * scale if how in "cCkK" else values @ cell,
        cell=cell,
        pbc=True,
    )
    if numbers is None:
        atoms.set_array("type", kinds + 1)
    if moves is not None:
        _fix(atoms, moves)
    if (velocities := _velocities(lines[place + 1 + len(kinds) :], len(kinds))) is not None:
        atoms.set_array("velocities", velocities)
    return atoms


def _cell(scale_line: str, vector_lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The lattice vectors in rows, scaled, and what scales Cartesian coordinates; a negative scale is the volume."""
    scale = reals(words_of(re.split("[!#]", scale_line)[0]))
    vectors = [reals(words_of(line)) for line in vector_lines]
    if scale.size not in (1, 3) or any(len(vector) != 3 for vector in vectors):
        raise InvalidInput("its second line is no scale (one number, or three), or its lattice no three lines of three")
    cell = np.array(vectors)
    volume = abs(np.linalg.det(cell))
    if scale.size == 1 and scale[0] < 0.0 and volume > 0.0:
        scale = np.cbrt(-scale / volume)
    if not (scale > 0.0).all():
        raise InvalidInput(f"its scale is {scale.tolist()}, not positive")
    return cell * scale, scale


def _rows(
    rows: list[list[str]], n: int, selective: bool, symbols: list[str] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates [n, 3], and which of them move; the symbol of an atom may stand behind them."""
    width = 6 if selective else 3
    if symbols is not None:
        rows = [row[:-1] if row[width:] == [symbol] else row for row, symbol in zip(rows, symbols, strict=False)]
    if len(rows) < n or any(len(row) != width for row in rows):
        raise InvalidInput(f"it promises {n} atoms, each on a line of {width} words, and one of them is not there")
    values = reals(word for row in rows for word in row[:3]).reshape(n, 3)
    if not selective:
        return values, None
    if any(word not in FLAGS for row in rows for word in row[3:]):
        raise InvalidInput("one of its flags of selective dynamics is neither T nor F")
    return values, np.array([[FLAGS[word] for word in row[3:]] for row in rows])


def _fix(atoms: Atoms, moves: np.ndarray) -> None:
    """The constraints: of atoms whose flags differ along lattice vectors."""
    from ase.constraints import FixAtoms, FixScaled

    whole = ~moves.any(axis=1)
    partly = np.flatnonzero(~whole & ~moves.all(axis=1))
    constraints = [FixAtoms(np.flatnonzero(whole))] if whole.any() else []
    atoms.set_constraint([*constraints, *(FixScaled([k], ~moves[k]) for k in partly)])


def _velocities(lines: list[str], n: int) -> np.ndarray | None:
    """What follows the positions: nothing, or, behind a blank line or its kind, velocities; then anything."""
    if not lines:
        return None
    if lines[0].strip(" \t") and not lines[0].lstrip(" \t")[0].isalpha():
        raise InvalidInput(f"it has more lines of atoms than it promises: {lines[0][:40]!r}")
    rows = [words_of(line) for line in lines[1 : 1 + n]]
    if len(rows) < n or any(len(row) != 3 for row in rows):
        raise InvalidInput("what follows its positions is no velocity for each atom")
    return reals(word for row in rows for word in row).reshape(n, 3)


POSCAR = Format(
    read_poscar,
    ase_format("vasp").write,
    names=("*.poscar", "*.vasp", "*POSCAR*", "*CONTCAR*", "*CENTCAR*"),
    keeps_fixed=True,
)
