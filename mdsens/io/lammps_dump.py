"""LAMMPS dumps: text, with the columns that the command `dump custom` names.

**Reference:** LAMMPS manual, commands `dump` and `dump_modify`, and the page on triclinic boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput
from .format import Format, check_index
from .words import RESULTS, atomic_numbers, is_real, lines_of, read_text, reals, wholes, without_empty_end, words_of

if TYPE_CHECKING:
    from ase import Atoms

Item = tuple[list[str], list[str]]
"""The words behind `ITEM:`, and the lines up to the next item."""

ITEMS = (["TIMESTEP"], ["NUMBER", "OF", "ATOMS"], ["BOX", "BOUNDS"], ["ATOMS"])
"""The items of a frame in their order, by their first words; units and time may stand between them."""

WHOLE = ("id", "type", "mol", "proc", "ix", "iy", "iz")
"""Columns of whole numbers."""

AS_ASE_NAMES_THEM = {"q": "initial_charges", "mass": "masses", "v_radius": "radius", "v_diameter": "diameter"}

COLUMN = re.compile(r"[A-Za-z][\w\[\].]*", re.ASCII)
"""The name of a column, such as vx, c_stress[1] or v_radius."""

EDGES = re.compile(r"pp|[fsm]{2}")
"""The two ends of a box along one axis: both of them are periodic, or none."""


def read_dump(path: Path, index: int) -> Atoms:
    """One frame of a text dump, with all its columns but the forces. A two-dimensional dump may leave z out."""
    frames = list(_frames(without_empty_end(lines_of(read_text(path)))))
    check_index(index, len(frames))
    (_, bounds), (columns, rows) = frames[index][2:]
    return _atoms(frames[index][2][0][2:], bounds, columns[1:], [words_of(row) for row in rows])


def _frames(lines: list[str]) -> Iterator[list[Item]]:
    """The items of each frame. **Raises** `InvalidInput` for one that is incomplete or has lines to spare."""
    items = [item for item in _items(lines) if item[0][:1] not in (["UNITS"], ["TIME"])]
    for start in range(0, len(items), len(ITEMS)):
        frame, number = items[start : start + len(ITEMS)], start // len(ITEMS)
        for k, wanted in enumerate(ITEMS):
            title = frame[k][0] if k < len(frame) else []
            if (title if k < 2 else title[: len(wanted)]) != wanted:  # boundaries and columns stand behind the others
                raise InvalidInput(f"its frame {number} has no 'ITEM: {' '.join(wanted)}' in its place")
        promised = wholes(frame[1][1])
        sizes = [len(lines) for _, lines in frame]
        if sizes[:3] != [1, 1, 3] or sizes[3] != promised[0]:
            raise InvalidInput(f"its frame {number} promises {promised[:1]} atoms, and its items have {sizes} lines")
        if wholes(frame[0][1])[0] < 0:
            raise InvalidInput(f"its frame {number} has a time step below 0")
        yield frame


def _items(lines: list[str]) -> Iterator[Item]:
    starts = [k for k, line in enumerate(lines) if line.startswith("ITEM:")]
    if starts[:1] != [0]:
        raise InvalidInput("it does not begin with 'ITEM:'")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield words_of(lines[start])[1:], lines[start + 1 : end]


def _atoms(edges: list[str], bounds: list[str], columns: list[str], rows: list[list[str]]) -> Atoms:
    from ase import Atoms

    cell, low, pbc = _cell(edges, [words_of(line) for line in bounds])
    if len(set(columns)) < len(columns) or any(len(row) != len(columns) for row in rows):
        raise InvalidInput("one of its lines has another number of words than 'ITEM: ATOMS' has columns")
    if wrong := [name for name in columns if not COLUMN.fullmatch(name)]:
        raise InvalidInput(f"{wrong[0]!r} is no name of a column")
    table = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
    positions = _positions(table, cell, low)
    numbers = atomic_numbers(table.pop("element")) if "element" in table else np.zeros(len(rows), int)
    arrays = {AS_ASE_NAMES_THEM.get(name, name): _column(name, table[name]) for name in table if name not in RESULTS}
    order = np.arange(len(rows)) if "id" not in arrays else np.argsort(arrays["id"], kind="stable")
    if "id" in arrays and np.any(np.diff(arrays["id"][order]) == 0):
        raise InvalidInput("two of its atoms have the same id")
    for name in ("id", "type"):
        if name in arrays and arrays[name].min() < 1:
            raise InvalidInput(f"one of its atoms has the {name} {arrays[name].min()}; they count from 1")
    atoms = Atoms(numbers=numbers[order], positions=positions[order], cell=cell, pbc=pbc)
    for name, values in arrays.items():
        atoms.set_array(name, values[order])
    return atoms


def _column(name: str, words: list[str]) -> np.ndarray:
    """Numbers, or the words where they are none in a column that LAMMPS does not define."""
    if name in WHOLE:
        return wholes(words)
    known = name in AS_ASE_NAMES_THEM or name in ("radius", "diameter") or all(map(is_real, words))
    return reals(words) if known else np.array(words)


def _cell(edges: list[str], bounds: list[list[str]]) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    """The lattice vectors in rows, the lower corner, and along which of them it is periodic."""
    tilted = edges[:3] == ["xy", "xz", "yz"]
    ends = edges[3:] if tilted else edges
    if len(ends) != 3 or not all(map(EDGES.fullmatch, ends)):
        raise InvalidInput(
            f"its 'ITEM: BOX BOUNDS' has the boundaries {' '.join(edges)!r}, not three such as pp, behind xy xz yz "
            "where the box is tilted"
        )
    values = np.array([reals(row) for row in bounds if len(row) == 2 + tilted])
    if len(values) != 3:
        raise InvalidInput(f"its box needs three lines of {2 + tilted} numbers")
    low, high = values[:, 0], values[:, 1]
    cell = np.zeros((3, 3))
    if tilted:
        xy, xz, yz = values[:, 2]
        low = low - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = high - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    if not (low < high).all():
        raise InvalidInput("a lower bound of its box is not below the upper one")
    return cell + np.diag(high - low), low, [end == "pp" for end in ends]


def _positions(table: dict[str, list[str]], cell: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Of x y z, of xu yu zu, or scaled by the box; z = 0 where it is missing."""
    endings = [end for end in ("", "u", "s", "su") if f"x{end}" in table or f"y{end}" in table or f"z{end}" in table]
    if len(endings) != 1 or not {f"x{endings[0]}", f"y{endings[0]}"} <= set(table):
        raise InvalidInput("it needs one kind of coordinates: the columns x y z, xu yu zu, xs ys zs or xsu ysu zsu")
    (end,) = endings
    positions = np.zeros((len(table[f"x{end}"]), 3))
    for k, axis in enumerate("xyz"):
        if f"{axis}{end}" in table:
            positions[:, k] = reals(table.pop(f"{axis}{end}"))
    return low + positions @ cell if end.startswith("s") else positions


def _is_dump(head: bytes) -> bool:
    return head.startswith(b"ITEM: ") and b"ITEM: TIMESTEP" in head


LAMMPS_DUMP = Format(read_dump, recognizes=_is_dump)
