"""CIF: ASE builds the crystal, after the file has been checked, since ASE repairs what is damaged in its own way.

**Reference:** Hall, Allen and Brown (1991), Acta Cryst. A 47, 655; CIF 1.1.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInput
from .ase import ase_format
from .format import Format
from .words import is_real, lines_of, read_text

if TYPE_CHECKING:
    from ase import Atoms

WORD = re.compile(r"""[ \t]*(?:(\#.*)|'(.*?)'(?=[ \t]|$)|"(.*?)"(?=[ \t]|$)|([^\s'"\#$\[\];][^ \t]*|;[^ \t]+))""")
"""A comment, a text in quotes, or a word."""

RESERVED = re.compile(r"(data_.*|save_.*|loop_|global_|stop_)", re.IGNORECASE)

LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
PLACES = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz")
GROUPS = ("_symmetry_space_group_name_h-m", "_space_group_name_h-m_alt")
TERM = r"(?:\d+/\d+|\d*\.\d+|[xyz])"
OPERATION = re.compile(rf"[+-]?{TERM}(?:[+-]{TERM})*")


def read_cif(path: Path, index: int) -> Atoms:
    """One of the crystals, in its conventional cell."""
    for block in _blocks(lines_of(read_text(path))):
        _check(block)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        atoms = ase_format("cif").read(path, index)
    for note in noted:
        if "crystal system" not in str(note.message):  # whether the setting is the one that the name stands for
            raise InvalidInput(str(note.message).splitlines()[0])
    return atoms


def _blocks(lines: list[str]) -> Iterator[dict[str, list[str]]]:
    """The values of every name in each data block. **Raises** `InvalidInput` for what is no CIF."""
    words, place = list(_words(lines)), 0
    block: dict[str, list[str]] | None = None
    while place < len(words):
        word, quoted = words[place]
        if not quoted and word.lower().startswith("data_") and len(word) > 5:
            if block is not None:
                yield block
            block, place = {}, place + 1
        elif block is None:
            raise InvalidInput(f"it begins with {word[:40]!r}, not with data_…")
        elif not quoted and word.lower() == "loop_":
            place = _loop(words, place + 1, block)
        elif _is_name(words[place]) and place + 1 < len(words) and _is_value(words[place + 1]):
            _enter(block, word, [words[place + 1][0]])
            place += 2
        else:
            raise InvalidInput(f"{word[:40]!r} is a name without a value, or a value without a name")
    if block is None:
        raise InvalidInput("it has no data")
    yield block


def _loop(words: list[tuple[str, bool]], place: int, block: dict[str, list[str]]) -> int:
    """Enter the columns of a loop; returns where it ends."""
    start = place
    while place < len(words) and _is_name(words[place]):
        place += 1
    names, first = [word for word, _ in words[start:place]], place
    while place < len(words) and _is_value(words[place]):
        place += 1
    values = [word for word, _ in words[first:place]]
    if not names or not values or len(values) % len(names):
        raise InvalidInput(f"a loop has {len(names)} names and {len(values)} values, which make no whole rows")
    for k, name in enumerate(names):
        _enter(block, name, values[k :: len(names)])
    return place


def _enter(block: dict[str, list[str]], name: str, values: list[str]) -> None:
    if name.lower() in block:
        raise InvalidInput(f"it has {name} twice")
    block[name.lower()] = values


def _is_name(word: tuple[str, bool]) -> bool:
    return not word[1] and word[0].startswith("_")


def _is_value(word: tuple[str, bool]) -> bool:
    return word[1] or not (word[0].startswith("_") or RESERVED.fullmatch(word[0]))


def _words(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """The words, and whether each is a text in quotes or between semicolons."""
    field: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.isascii() and "#" not in line and field is None and not re.search("['\"]", line):
            raise InvalidInput(f"its line {number} has characters that are not ASCII")
        if line.startswith(";"):
            if field is None:
                field = [line[1:]]
                continue
            yield "\n".join(field), True
            field, line = None, line[1:]  # noqa: PLW2901
        if field is not None:
            field.append(line)
            continue
        place, end = 0, len(line.rstrip(" \t"))
        while place < end:
            word = WORD.match(line, place)
            if word is None:
                raise InvalidInput(f"its line {number} has quotes without an end, or a character that begins no word")
            quoted = word[2] if word[2] is not None else word[3]
            if quoted is not None:
                yield quoted, True
            elif word[4] is not None:
                yield word[4], False
            place = word.end()
    if field is not None:
        raise InvalidInput("a text between semicolons has no end")


def _check(block: dict[str, list[str]]) -> None:
    """**Raises** `InvalidInput` unless what ASE builds the crystal from is there, once, and consists of numbers."""
    if not set(PLACES) & set(block):
        return  # no crystal: a block of text, or one that ASE refuses
    if missing := [name for name in (*LENGTHS, *ANGLES, *PLACES) if name not in block]:
        raise InvalidInput(f"it has no {missing[0]}")
    for name in (*LENGTHS, *ANGLES, *PLACES):
        for word in block[name]:
            if not is_real(re.sub(r"\([0-9]+\)$", "", word)):
                raise InvalidInput(f"{name} is {word!r}, which is no number")
    lengths, angles = ([float(re.sub(r"\(.*", "", block[name][0])) for name in names] for names in (LENGTHS, ANGLES))
    if min(lengths) <= 0.0 or not all(0.0 < angle < 180.0 for angle in angles):
        raise InvalidInput(f"its cell has the lengths {lengths} and the angles {angles}")
    a, b, c = np.cos(np.deg2rad(angles))
    if 1.0 + 2.0 * a * b * c - a * a - b * b - c * c < 1e-12:
        raise InvalidInput(f"no cell has the angles {angles}")
    _check_elements(block)
    _check_symmetry(block)


def _check_elements(block: dict[str, list[str]]) -> None:
    from ase.data import atomic_numbers

    symbols = block.get("_atom_site_type_symbol") or block.get("_atom_site_label")
    if symbols is None:
        raise InvalidInput("its atoms have no elements (_atom_site_type_symbol)")
    for word in symbols:
        found = re.fullmatch(r"([A-Z][a-z]?)([0-9+\-].*|[A-Z(_].*)?", word)
        if found is None or (found[1] not in atomic_numbers and found[1] != "D"):
            raise InvalidInput(f"{word!r} stands where an element is expected")
    if "_atom_site_type_symbol" in block and any(
        not re.fullmatch(r"[A-Z][a-z]?([0-9]?[+-]?[0-9]?)", w) for w in symbols
    ):
        raise InvalidInput("one of its _atom_site_type_symbol is no element with its charge")


def _check_symmetry(block: dict[str, list[str]]) -> None:
    """The operations are such, and as many as the group that is named has."""
    listed = next((block[name] for name in OPERATIONS if name in block), None)
    name = next((block[name][0] for name in GROUPS if name in block), None)
    number = block.get("_space_group_it_number", block.get("_symmetry_int_tables_number", [None]))[0]
    if listed is None and name is None and number is None:
        raise InvalidInput(
            "it names no symmetry; for all atoms of a cell one by one, write _symmetry_equiv_pos_as_xyz x,y,z"
        )
    if name is None and number is None:
        raise InvalidInput("it lists operations of symmetry, and names no space group (_symmetry_space_group_name_H-M)")
    for operation in listed or ():
        parts = operation.replace(" ", "").lower().split(",")
        if len(parts) != 3 or not all(map(OPERATION.fullmatch, parts)) or _determinant(parts) != 1.0:
            raise InvalidInput(f"{operation!r} is no operation of symmetry")
    if listed is not None and len(set(listed)) < len(listed):
        raise InvalidInput("it has one operation of symmetry twice")
    if listed is not None and name is not None and (size := _size_of_group(name)) not in (None, len(listed)):
        raise InvalidInput(
            f"it lists {len(listed)} operations of symmetry, and the group {name} that it names has {size}"
        )


def _determinant(parts: list[str]) -> float:
    rows = np.zeros((3, 3))
    for k, part in enumerate(parts):
        for sign, axis in re.findall(r"([+-]?)([xyz])", part):
            rows[k, "xyz".index(axis)] += -1.0 if sign == "-" else 1.0
    return round(abs(float(np.linalg.det(rows))), 9)


def _size_of_group(name: str) -> int | None:
    """The number of operations of a space group in its conventional cell; None for a name that ASE does not know."""
    from ase.spacegroup import Spacegroup
    from ase.spacegroup.spacegroup import SpacegroupNotFoundError

    try:
        return len(Spacegroup(name).get_op()[0])
    except (SpacegroupNotFoundError, ValueError, KeyError):
        return None


CIF = Format(read_cif, ase_format("cif").write, names=("*.cif",))
