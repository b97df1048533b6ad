"""Extended XYZ, with every float written so that it is read back as the same bits, and plain XYZ.

**Reference:** the specification of libAtoms/extxyz.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInput
from ..system import System
from .ase import ase_format, to_ase
from .format import Format, check_index
from .words import RESULTS, atomic_numbers, is_real, is_whole, lines_of, read_text, reals, wholes, without_empty_end
from .words import words_of as split

if TYPE_CHECKING:
    from ase import Atoms

PAIR = re.compile(
    r"""[ \t]*([A-Za-z_][^\s="'{}\[\],]*)"""
    r"""(?:=(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|\{([^{}]*)\}|(\[[^"'=]*\])|([^\s="'{}\[\]]+)))?(?=[ \t]|$)"""
)
"""A key, and its value in quotes, braces, brackets, or bare; a key alone is true."""

TRUTH = {
    "T": True,
    "F": False,
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "TRUE": True,
    "FALSE": False,
}

PLAIN = "species:S:1:pos:R:3"
"""The columns of a file that names none."""

NAME = re.compile(r"[A-Za-z_][^\s:=\"'{}\[\],]*")
"""The name of an entry."""

COLUMN = re.compile(r"[A-Za-z_][\w.\-\[\]]*", re.ASCII)
"""The name of a column, such as forces, or c_stress[1] from LAMMPS."""


def read_extended_xyz(path: Path, index: int) -> Atoms:
    """One frame of an extended XYZ file, or of a plain one, whose second line is a comment."""
    lines = without_empty_end(lines_of(read_text(path)))
    starts = _frames(lines, index, path.stat().st_size)
    check_index(index, len(starts))
    start, n = starts[index]
    rows = [split(line) for line in lines[start + 2 : start + 2 + n]]
    if len(rows) < n:
        raise InvalidInput(f"its frame {index} promises {n} particles and has {len(rows)}")
    return _atoms(_header(lines[start + 1]), rows)


def _frames(lines: list[str], index: int, size: int) -> list[tuple[int, int]]:
    """The first line and the number of particles of each frame; those behind the one asked for may be damaged."""
    starts: list[tuple[int, int]] = []
    place = 0
    while place < len(lines):
        if not (line := lines[place].strip(" \t")).isdecimal() or not line.isascii():
            if 0 <= index < len(starts):
                break
            raise InvalidInput(f"its line {place + 1} is no number of particles: {line[:40]!r}")
        if int(line) > size:
            raise InvalidInput(f"it promises {int(line):.7g} particles and has {size} bytes")
        starts.append((place, int(line)))
        place += 2 + int(line)
    return starts


def _header(line: str) -> dict[str, str]:
    """The keys and values of the second line; of plain XYZ, the comment."""
    found: dict[str, str] = {}
    line, place = line.strip(" \t"), 0
    while place < len(line):
        pair = PAIR.match(line, place)
        if pair is None or pair[1] in found:
            if not re.search(r"(Properties|Lattice|pbc)=", line):
                return {"comment": line}
            fault = "twice" if pair else "no key with its value"
            raise InvalidInput(f"{line[place : place + 30]!r} in its second line is {fault}")
        value = next((each for each in pair.groups()[1:] if each is not None), "T")
        found[pair[1]] = value.replace('\\"', '"').replace("\\\\", "\\") if pair[2] is not None else value
        place = pair.end()
    return found if "=" in line else {"comment": line} if line else {}


def _atoms(header: dict[str, str], rows: list[list[str]]) -> Atoms:
    from ase import Atoms

    columns = _columns(header.pop("Properties", PLAIN), rows)
    lattice = header.pop("Lattice", None)
    cell = None if lattice is None else reals(split(lattice.strip("[]").replace(",", " ")))
    if cell is not None and cell.size != 9:
        raise InvalidInput(f"its Lattice has {cell.size} numbers, not nine")
    flags = header.pop("pbc", None)
    pbc = [cell is not None] * 3 if flags is None else _truth(split(flags.strip("[]").replace(",", " ")))
    if len(pbc) != 3:
        raise InvalidInput(f"its pbc is {flags!r}, not three of T and F")
    positions = columns.pop("pos", np.zeros(0))
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.dtype.kind != "f":
        raise InvalidInput("it has no column pos:R:3")
    symbols, numbers = columns.pop("species", None), columns.pop("Z", None)
    if numbers is None:
        numbers = np.zeros(len(rows), int) if symbols is None else atomic_numbers(symbols.tolist())
    atoms = Atoms(numbers=numbers, positions=positions, cell=None if cell is None else cell.reshape(3, 3), pbc=pbc)
    atoms.set_constraint(_constraints(columns.pop("move_mask", None)))
    for name, values in columns.items():
        if name not in RESULTS:
            atoms.set_array(name, values)
    atoms.info.update({name: _value(text) for name, text in header.items() if name not in RESULTS})
    return atoms


def _columns(properties: str, rows: list[list[str]]) -> dict[str, np.ndarray]:
    """The columns by name, [n] or [n, k], of text, numbers, whole numbers or truth values."""
    words = properties.split(":")
    names, kinds = words[::3], words[1::3]
    if len(words) % 3 or len(set(names)) < len(names) or not all(map(COLUMN.fullmatch, names)):
        raise InvalidInput(
            f"its Properties are no triples NAME:TYPE:COUNT, or name a column twice: {properties[:60]!r}"
        )
    widths = wholes(words[2::3]).tolist()
    if min(widths) < 1 or any(kind not in READ for kind in kinds):
        raise InvalidInput(f"its Properties have a type that is none of S, R, I, L, or no column: {properties[:60]!r}")
    if any(len(row) != sum(widths) for row in rows):
        raise InvalidInput(
            f"its Properties name {sum(widths)} columns, and one of its lines has another number of them"
        )
    columns, place = {}, 0
    for name, kind, width in zip(names, kinds, widths, strict=True):
        values = np.array(READ[kind]([word for row in rows for word in row[place : place + width]]))
        columns[name] = values if width == 1 else values.reshape(len(rows), width)
        place += width
    return columns


def _truth(words: list[str]) -> list[bool]:
    for word in words:
        if word not in TRUTH:
            raise InvalidInput(f"{word!r} is neither T nor F")
    return [TRUTH[word] for word in words]


READ: dict[str, Any] = {"S": list, "R": reals, "I": wholes, "L": _truth}
"""How the words of a column are read, by its type."""


def _constraints(moves: np.ndarray | None) -> list[Any]:
    from ase.constraints import FixAtoms, FixCartesian

    if moves is None:
        return []
    if moves.dtype != bool or (moves.ndim == 2 and moves.shape[1] != 3):
        raise InvalidInput("its move_mask is neither L:1 nor L:3")
    if moves.ndim == 1:
        return [FixAtoms(np.flatnonzero(~moves))]
    return [FixCartesian(k, ~row) for k, row in enumerate(moves)]


def _value(text: str) -> Any:
    """A number, a truth value, a list of them, JSON behind the mark that ASE sets, or text."""
    if text.startswith(("_JSON ", "[")):
        bare = re.sub(r"\b([TF])\b", lambda found: str(TRUTH[found[1]]).lower(), text)
        try:
            value = json.loads(text.removeprefix("_JSON ") if text.startswith("_") else bare)
            values = np.array(value) if isinstance(value, list) else None
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{text[:40]!r} in its second line is no JSON: {error}") from None
        return values if values is not None and values.dtype.kind in "fib" else value
    words = split(text.replace(",", " "))
    for suits, read in ((is_whole, wholes), (is_real, reals), (TRUTH.__contains__, _truth)):
        if words and all(map(suits, words)):
            values = np.array(read(words))
            return values if len(words) > 1 else values[0].item()
    return text


def write_extended_xyz(path: Path, system: System) -> None:
    """Write what to_ase says of a system, every number to the last bit. ASE's own writer would round to 8 digits."""
    atoms = to_ase(system)
    # without atomic numbers the symbols mean nothing, and are not read again
    columns: dict[str, np.ndarray] = {"species": np.array(atoms.get_chemical_symbols()), "pos": atoms.positions}
    columns |= {name: values for name, values in atoms.arrays.items() if name not in ("numbers", "positions")}
    if system.fixed is not None:
        columns["move_mask"] = _move_mask(system)
    pbc = " ".join("FT"[int(p)] for p in atoms.pbc)
    properties = ":".join(_property(*each) for each in columns.items())
    properties = f'"{properties}"' if "[" in properties else properties
    header = f'Properties={properties} dim={system.dim} pbc="{pbc}"'
    if system.box is not None:
        lattice = " ".join(repr(float(value)) for value in np.asarray(atoms.cell).ravel())
        header = f'Lattice="{lattice}" {header}'
    rows = zip(*(_words(values) for values in columns.values()), strict=True)
    header = " ".join([header, *(_pair(*each) for each in atoms.info.items() if each[0] != "dim")])
    path.write_text("\n".join([str(system.n), header, *map(" ".join, rows)]) + "\n", encoding="utf-8")


KINDS = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S"}


def _property(name: str, values: np.ndarray) -> str:
    """NAME:TYPE:COUNT of a column."""
    if values.dtype.kind not in KINDS or values.ndim > 2 or not COLUMN.fullmatch(name):
        raise InvalidInput(f"extended XYZ has no column for the array {name} {list(values.shape)} of {values.dtype}")
    if values.dtype.kind == "U" and not all(re.fullmatch(r"\S+", word) for word in values.ravel()):
        raise InvalidInput(
            f"the array {name} has texts that are empty or of several words, for which there is no column"
        )
    return f"{name}:{KINDS[values.dtype.kind]}:{1 if values.ndim == 1 else values.shape[1]}"


def _words(values: np.ndarray) -> list[str]:
    """The words of a column in each line."""
    write = {"f": lambda v: repr(float(v)), "b": lambda v: "FT"[int(v)]}.get(values.dtype.kind, str)
    return [" ".join(write(value) for value in row) for row in values.reshape(len(values), -1).tolist()]


def _pair(name: str, value: Any) -> str:
    """KEY=VALUE of the second line; what is no number, truth value or plain text as JSON, as ASE writes it."""
    from ase.io.jsonio import encode

    if not NAME.fullmatch(name):
        raise InvalidInput(f"extended XYZ has no key for the entry {name!r}")
    values = np.asarray(value)
    if values.dtype.kind in "fiub" and values.ndim <= 1 and (values.ndim == 0 or values.size > 1):
        text = " ".join(_words(values.reshape(-1)))
    elif (
        isinstance(value, str) and "\n" not in value and value[:1] not in ("_", "[") and isinstance(_value(value), str)
    ):
        text = value
    else:
        text = "_JSON " + encode(value.tolist() if isinstance(value, np.ndarray) else value).replace("\n", " ")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}="{escaped}"'


def _move_mask(system: System) -> np.ndarray:
    """For each particle whether it moves, or whether each of three components does."""
    moves = ~np.asarray(system.fixed)
    if moves.ndim == 2 and moves.shape[1] == 2:
        moves = np.concatenate([moves, np.ones((system.n, 1), bool)], axis=1)
    return moves


EXTENDED_XYZ = Format(
    read_extended_xyz,
    write_extended_xyz,
    names=("*.extxyz", "*.xyz"),
    keeps_fixed=True,
    keeps_periodic=True,
    keeps=("*",),
    keeps_entries=True,
)

XYZ = Format(read_extended_xyz, ase_format("xyz").write)
