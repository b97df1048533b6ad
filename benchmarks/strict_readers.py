"""Readers of five formats and of study files that follow the manuals to the letter, for `mutated_files.py`.

Nothing here comes from mdsens or ASE. Each reader takes the bytes of a file and returns what it says of the last frame,
or raises `Refused`. They read only what the files of `mutated_files.py` can turn into.

**Reference:** LAMMPS manual, commands read_data and dump; libAtoms/extxyz, specification of extended XYZ; Hall, Allen
and Brown (1991), CIF 1.1; VASP wiki, POSCAR; TOML 1.0, and docs/studies.md.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d{1,15}", re.ASCII)
ELEMENTS = re.findall(
    "[A-Z][a-z]?",
    "HHeLiBeBCNOFNeNaMgAlSiPSClArKCaScTiVCrMnFeCoNiCuZnGaGeAsSeBrKrRbSrYZrNbMoTcRuRhPdAgCdInSnSbTeIXeCsBaLaCePrNdPmSmEuGd"
    "TbDyHoErTmYbLuHfTaWReOsIrPtAuHgTlPbBiPoAtRnFrRaAcThPaUNpPuAmCmBkCfEsFmMdNoLrRfDbSgBhHsMtDsRgCnNhFlMcLvTsOg",
)


class Refused(Exception):
    """The file is not valid."""


@dataclass
class Particles:
    """What a file says: positions [n, 3], the cell or None, labels, diameters and what is fixed, if there are any.

    `any_order` where the order of the particles means nothing; `periodic` along which vectors the cell is, by default
    along all of them.
    """

    positions: np.ndarray
    cell: np.ndarray | None
    labels: list[Any]
    diameters: np.ndarray | None = None
    fixed: np.ndarray | None = None
    any_order: bool = False
    periodic: list[bool] | None = None

    def __post_init__(self) -> None:
        for values in (self.positions, self.cell, self.diameters):
            if values is not None and not np.isfinite(values).all():
                raise Refused("a number that is not finite")
        if len(self.positions) == 0:
            raise Refused("no particles")
        if self.cell is not None:
            self.periodic = [True] * 3 if self.periodic is None else self.periodic
            vectors = self.cell[np.array(self.periodic)]
            size = np.abs(vectors).max()
            if not size > 0 or np.prod(np.linalg.svd(vectors / size, compute_uv=False)) < 1e-12:
                raise Refused("no cell")
        sizes = [np.abs(self.cell).max()] if self.cell is not None else []
        sizes.append(1.0 if self.diameters is None else np.max(self.diameters))
        if np.abs(self.positions).max() > 1e14 * max(sizes):
            raise Refused("too far away")
        if self.diameters is not None and not (self.diameters > 0).all():
            raise Refused("a diameter that is not positive")

    def difference(self, system: Any) -> str:
        """What of a System is not what is here; empty if nothing is."""
        x, d = np.asarray(system.positions), system.dim
        if len(x) != len(self.positions):
            return f"{len(x)} particles, not {len(self.positions)}"
        if d == 2 and np.ptp(self.positions[:, 2]) > 1e-9:
            return "two-dimensional"
        periodic = [self.cell is not None and along for along in (self.periodic or [False] * 3)[:d]]
        if list(system.periodic) != periodic:
            return f"periodic along {system.periodic}, not {periodic}"
        order = self._order(x, d)
        checks = (
            self._positions(x, order),
            self._cell(system),
            self._kinds(system, order),
            self._others(system, order),
        )
        return next(filter(None, checks), "")

    def _apart(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x - y, to the nearest image where the order, and so the choice of images, means nothing."""
        apart, d = x - y, x.shape[-1]
        if self.any_order and self.cell is not None:
            cell = self.cell[:d, :d]
            apart -= np.round(apart @ np.linalg.inv(cell)) @ cell
        return apart

    def _order(self, x: np.ndarray, d: int) -> np.ndarray:
        """Which of the particles here each of the others is."""
        if not self.any_order:
            return np.arange(len(x))
        return np.abs(self._apart(x[:, None], self.positions[None, :, :d])).max(axis=-1).argmin(axis=1)

    def _positions(self, x: np.ndarray, order: np.ndarray) -> str:
        apart = np.abs(self._apart(x, self.positions[order, : x.shape[1]]))
        off = apart.max() > 1e-9 * (1 + np.abs(self.positions).max()) or len(set(order.tolist())) < len(order)
        return f"positions {x.tolist()}, not {self.positions.tolist()}" if off else ""

    def _cell(self, system: Any) -> str:
        if self.cell is None or system.box is None:
            return ""
        cells = np.asarray(system.box), self.cell[: system.dim, : system.dim]
        same = np.allclose(*(cell @ cell.T for cell in cells), rtol=1e-9, atol=1e-12)
        return "" if same else f"box {cells[0].tolist()}, not {cells[1].tolist()}"

    def _kinds(self, system: Any, order: np.ndarray) -> str:
        species, labels = np.asarray(system.species), [self.labels[k] for k in order]
        if any(
            (species[i] == species[j]) != (labels[i] == labels[j])
            for i, j in itertools.combinations(range(len(labels)), 2)
        ):
            return f"species {species.tolist()}, not {labels}"
        if not isinstance(labels[0], str):
            return ""
        symbols = [] if system.numbers is None else [ELEMENTS[int(k) - 1] for k in system.numbers]
        return "" if symbols == labels else f"elements {symbols}, not {labels}"

    def _others(self, system: Any, order: np.ndarray) -> str:
        if self.diameters is not None and not np.allclose(system.diameters, self.diameters[order], rtol=1e-12):
            return f"diameters {np.asarray(system.diameters).tolist()}, not {self.diameters.tolist()}"
        fixed = np.zeros((system.n, 3), bool) if self.fixed is None else self.fixed
        theirs = np.zeros((system.n, system.dim), bool)
        if system.fixed is not None:
            theirs[:] = np.asarray(system.fixed).reshape(system.n, -1)
        return "" if (theirs == fixed[:, : system.dim]).all() else f"fixed {theirs.tolist()}, not {fixed.tolist()}"


def text_of(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("no UTF-8") from None
    if "\0" in text:
        raise Refused("a byte that is zero")
    return text


def lines_of(content: bytes) -> list[str]:
    return [line.removesuffix("\r") for line in text_of(content).split("\n")]


def words_of(line: str) -> list[str]:
    """The words between blanks and tabs; other kinds of white space belong to words."""
    return [word for word in re.split(r"[ \t]+", line) if word]


def number(word: str) -> float:
    if not NUMBER.fullmatch(word):
        raise Refused(f"{word!r} is no number")
    return float(word)


def whole(word: str, least: int | None = None) -> int:
    if not WHOLE.fullmatch(word):
        raise Refused(f"{word!r} is no whole number")
    if least is not None and int(word) < least:
        raise Refused(f"{word} is below {least}")
    return int(word)


def numbers(words: list[str], count: int) -> list[float]:
    if len(words) != count:
        raise Refused(f"{len(words)} words where {count} numbers are expected")
    return [number(word) for word in words]


def element(word: str) -> str:
    if word not in ELEMENTS:
        raise Refused(f"{word!r} is no element")
    return word


# ---------------------------------------------------------------------------------------------------------------------
# LAMMPS data
# ---------------------------------------------------------------------------------------------------------------------

STYLES = {
    "atomic": "id type x y z",
    "sphere": "id type diameter density x y z",
    "charge": "id type q x y z",
    "full": "id molecule type q x y z",
    "molecular": "id molecule type x y z",
}
HEADER = {
    "atoms": 1,
    "atom types": 1,
    "xlo xhi": 2,
    "ylo yhi": 2,
    "zlo zhi": 2,
    "xy xz yz": 3,
}
SECTIONS = ("Masses", "Atoms", "Velocities")


def lammps_data(content: bytes) -> Particles:
    header, sections, style = _data_parts(lines_of(content)[1:])
    n, kinds = (whole(header.get(name, ["?"])[0], 1) for name in ("atoms", "atom types"))
    if "Atoms" not in sections:
        raise Refused("no atoms")
    if len(sections["Atoms"]) != n or len(sections.get("Velocities", "n" * n)) != n:
        raise Refused("the number of atoms is another one")
    cell = _data_cell(header)
    if style:
        if style not in STYLES:
            raise Refused(f"atom style {style}")
        found = [_data_atoms(sections["Atoms"], STYLES[style].split(), kinds)]
    else:
        found = []
        for columns in STYLES.values():
            try:
                found.append(_data_atoms(sections["Atoms"], columns.split(), kinds))
            except Refused:
                continue
        if len(found) != 1:
            raise Refused("no atom style, or several")
    ids, labels, positions, diameters = found[0]
    if "Masses" in sections:
        masses = {whole(row[0], 1): number(row[1]) for row in sections["Masses"] if len(row) == 2}
        if sorted(masses) != list(range(1, kinds + 1)) or len(sections["Masses"]) != kinds or min(masses.values()) <= 0:
            raise Refused("masses")
    moving = [(whole(row[0]), numbers(row[1:], 3)) for row in sections.get("Velocities", [])]
    if moving and sorted(each for each, _ in moving) != sorted(ids):
        raise Refused("velocities of other atoms")
    order = np.argsort(ids)
    sizes = None if diameters is None else np.array(diameters)[order]
    return Particles(np.array(positions)[order], cell, [labels[k] for k in order], sizes)


def _data_parts(lines: list[str]) -> tuple[dict[str, list[str]], dict[str, list[list[str]]], str]:
    header: dict[str, list[str]] = {}
    sections: dict[str, list[list[str]]] = {}
    style, rows = "", None
    for line in lines:
        words, comment = words_of(line.partition("#")[0]), line.partition("#")[2]
        if not words:
            continue
        if " ".join(words) in SECTIONS:
            rows = sections.setdefault(" ".join(words), [])
            if rows:
                raise Refused("a section twice")
            if words == ["Atoms"] and words_of(comment):
                style = words_of(comment)[0]
        elif rows is not None:
            rows.append(words)
        else:
            name = next((name for name in HEADER if words[HEADER[name] :] == name.split()), None)
            if name is None or (name in header and header[name] != words[: HEADER[name]]):
                raise Refused(f"header: {line}")
            header[name] = words[: HEADER[name]]
    return header, sections, style


def _data_cell(header: dict[str, list[str]]) -> np.ndarray:
    cell = np.zeros((3, 3))
    for k, axis in enumerate("xyz"):
        low, high = numbers(header.get(f"{axis}lo {axis}hi", []), 2)
        if not low < high:
            raise Refused("bounds")
        cell[k, k] = high - low
    if "xy xz yz" in header:
        cell[1, 0], cell[2, 0], cell[2, 1] = numbers(header["xy xz yz"], 3)
    return cell


def _data_atoms(rows: list[list[str]], columns: list[str], kinds: int) -> tuple:
    ids, labels, positions, diameters = [], [], [], []
    width = len(rows[0])
    for row in rows:
        if len(row) != width or width - len(columns) not in (0, 3):
            raise Refused("columns")
        values = dict(zip(columns, row, strict=False))
        for flag in row[len(columns) :]:
            whole(flag)
        ids.append(whole(values["id"], 1))
        labels.append(whole(values["type"], 1))
        if labels[-1] > kinds:
            raise Refused("type")
        if "molecule" in values:
            whole(values["molecule"])
        if "q" in values:
            number(values["q"])
        if "diameter" in values:
            diameters.append(number(values["diameter"]))
            if number(values["density"]) <= 0:
                raise Refused("density")
        positions.append([number(values[axis]) for axis in "xyz"])
    if len(set(ids)) < len(ids):
        raise Refused("an id twice")
    return ids, labels, positions, diameters or None


# ---------------------------------------------------------------------------------------------------------------------
# LAMMPS dumps
# ---------------------------------------------------------------------------------------------------------------------


def lammps_dump(content: bytes) -> Particles:
    lines, frame = lines_of(content), None
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    feed = iter(lines)
    for line in feed:
        frame = _dump_frame(line, feed)
    if frame is None:
        raise Refused("empty")
    return _dump_particles(*frame)


def _expect(feed: Iterator[str], title: str) -> str:
    line = next(feed, "")
    if words_of(line)[: len(title.split())] != title.split():
        raise Refused(f"{title} expected, not {line!r}")
    return line


def _one(feed: Iterator[str]) -> str:
    words = words_of(next(feed, ""))
    if len(words) != 1:
        raise Refused("one word expected")
    return words[0]


def _dump_frame(line: str, feed: Iterator[str]) -> tuple:
    if words_of(line) != ["ITEM:", "TIMESTEP"]:
        raise Refused(f"a time step expected, not {line!r}")
    whole(_one(feed), 0)
    if words_of(_expect(feed, "ITEM: NUMBER OF ATOMS"))[4:]:
        raise Refused("number of atoms")
    n = whole(_one(feed), 1)
    edges = words_of(_expect(feed, "ITEM: BOX BOUNDS"))[3:]
    bounds = [words_of(next(feed, "")) for _ in range(3)]
    columns = words_of(_expect(feed, "ITEM: ATOMS"))[2:]
    rows = [words_of(row) for row in itertools.islice(feed, n)]
    if len(rows) != n:
        raise Refused("rows")
    return edges, bounds, columns, rows


def _dump_particles(  # noqa: PLR0912
    edges: list[str], bounds: list[list[str]], columns: list[str], rows: list[list[str]]
) -> Particles:
    tilted = edges[:3] == ["xy", "xz", "yz"]
    edges = edges[3:] if tilted else edges
    if len(edges) != 3 or not all(re.fullmatch("[pfsm]{2}", edge) for edge in edges):
        raise Refused("boundaries")
    periodic = [edge == "pp" for edge in edges]
    if any("p" in edge and edge != "pp" for edge in edges):
        raise Refused("periodic at one end")
    values = np.array([numbers(row, 3 if tilted else 2) for row in bounds])
    low, high, cell = values[:, 0], values[:, 1], np.zeros((3, 3))
    if tilted:
        xy, xz, yz = values[:, 2]
        low = low - [min(0, xy, xz, xy + xz), min(0, yz), 0]
        high = high - [max(0, xy, xz, xy + xz), max(0, yz), 0]
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    if not (low < high).all():
        raise Refused("bounds")
    cell += np.diag(high - low)
    if len(set(columns)) < len(columns) or any(len(row) != len(columns) for row in rows):
        raise Refused("a column twice, or rows")
    if not all(re.fullmatch(r"[A-Za-z][\w\[\].]*", name, re.ASCII) for name in columns):
        raise Refused("the name of a column")
    table = {name: [row[k] for row in rows] for k, name in enumerate(columns)}
    ids = [whole(word, 1) for word in table.get("id", map(str, range(1, len(rows) + 1)))]
    if len(set(ids)) < len(ids):
        raise Refused("an id twice")
    labels = [whole(word, 1) for word in table.get("type", ["1"] * len(rows))]
    kinds = [[f"{axis}{end}" for axis in "xyz"] for end in ("", "u", "s", "su")]
    there = [kind for kind in kinds if any(name in table for name in kind)]
    if len(there) != 1 or not set(there[0][:2]) <= set(table):
        raise Refused("coordinates")
    table.setdefault(there[0][2], ["0"] * len(rows))  # of a two-dimensional system
    positions = np.array([[number(word) for word in table[name]] for name in there[0]]).T
    if there[0][0] in ("xs", "xsu"):
        positions = low + positions @ cell
    diameters = None
    for name, factor in (("diameter", 1.0), ("radius", 2.0)):
        if name in table and diameters is None:
            diameters = factor * np.array([number(word) for word in table[name]])
    if diameters is None:
        raise Refused("no diameters")
    if "q" in table:
        [number(word) for word in table["q"]]
    order = np.argsort(ids)
    of_each = [labels[k] for k in order], diameters[order]
    return Particles(positions[order], cell if any(periodic) else None, *of_each, periodic=periodic)


# ---------------------------------------------------------------------------------------------------------------------
# Extended XYZ
# ---------------------------------------------------------------------------------------------------------------------

PAIR = re.compile(r'\s*([A-Za-z_][^\s="\'{}\[\],]*)(?:=(?:"((?:[^"\\]|\\.)*)"|([^\s"=\[\]{},\\]+)))?(?=\s|$)', re.ASCII)
READ_OF = {"S": str, "R": number, "I": whole}


def extended_xyz(content: bytes) -> Particles:
    lines, frame = lines_of(content), None
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    feed = iter(lines)
    for line in feed:
        words = words_of(line)
        if len(words) != 1:
            raise Refused(f"a number of atoms expected, not {line!r}")
        n = whole(words[0], 1)
        header, rows = next(feed, None), list(itertools.islice(feed, n))
        if header is None or len(rows) != n:
            raise Refused("the end is missing")
        frame = header, [words_of(row) for row in rows]
    if frame is None:
        raise Refused("empty")
    return _xyz_particles(*frame)


def _xyz_header(line: str) -> dict[str, str]:
    found, place, line = {}, 0, line.strip(" \t")
    while place < len(line):
        match = PAIR.match(line, place)
        if match is None or match[1] in found:
            raise Refused(f"header: {line[place:]!r}")
        found[match[1]] = "T" if match[2] is None and match[3] is None else match[2] or match[3] or ""
        place = match.end()
    return found


def _flags(word: str) -> list[bool]:
    values = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False, "TRUE": True}
    values |= {"FALSE": False}
    if any(each not in values for each in words_of(word)):
        raise Refused(f"{word!r} is no truth value")
    return [values[each] for each in words_of(word)]


def _xyz_particles(  # noqa: PLR0912
    header_line: str, rows: list[list[str]]
) -> Particles:
    header = _xyz_header(header_line)
    named = header.get("Properties", "species:S:1:pos:R:3").split(":")
    if len(named) % 3 or len(set(named[::3])) < len(named[::3]):
        raise Refused("Properties")
    columns, place = {}, 0
    for name, kind, count in zip(named[::3], named[1::3], named[2::3], strict=True):
        width = whole(count, 1)
        if kind not in "SRIL" or len(kind) != 1 or not re.fullmatch(r"[A-Za-z_][\w.\-\[\]]*", name, re.ASCII):
            raise Refused("Properties")
        read = READ_OF.get(kind, lambda word: _flags(word)[0])
        if any(len(row) < place + width for row in rows):
            raise Refused("rows")
        columns[name] = kind, [[read(word) for word in row[place : place + width]] for row in rows]
        place += width
    if any(len(row) != place for row in rows):
        raise Refused("rows")
    if columns.get("pos", ("", [[]]))[0] != "R" or len(columns["pos"][1][0]) != 3:
        raise Refused("no positions")
    cell = None
    if "Lattice" in header:
        cell = np.array(numbers(words_of(header["Lattice"]), 9)).reshape(3, 3)
    pbc = _flags(header["pbc"]) if "pbc" in header else [cell is not None] * 3
    if len(pbc) != 3 or (any(pbc) and cell is None):
        raise Refused("pbc")
    symbols = [element(row[0]) for row in columns["species"][1]] if "species" in columns else None
    labels: list[Any] | None = symbols
    if "species_id" in columns:
        if columns["species_id"][0] != "I":
            raise Refused("species_id")
        labels = [row[0] for row in columns["species_id"][1]]
        if min(labels) < 0:
            raise Refused("species_id")
    labels = [0] * len(rows) if labels is None else labels
    diameters = None
    for name, factor in (("diameters", 1.0), ("diameter", 1.0), ("radius", 2.0), ("radii", 2.0)):
        if diameters is None and columns.get(name, ("",))[0] in ("R", "I"):
            if len(columns[name][1][0]) != 1:
                raise Refused("diameters")
            diameters = factor * np.array(columns[name][1], float)[:, 0]
    if diameters is None:
        raise Refused("no diameters")
    fixed = None
    if "move_mask" in columns:
        kind, moves = columns["move_mask"]
        if kind != "L" or len(moves[0]) not in (1, 3):
            raise Refused("move_mask")
        fixed = np.broadcast_to(~np.array(moves, bool), (len(rows), 3))
    box = cell if any(pbc) else None
    return Particles(np.array(columns["pos"][1]), box, labels, diameters, fixed, periodic=pbc)


# ---------------------------------------------------------------------------------------------------------------------
# CIF
# ---------------------------------------------------------------------------------------------------------------------

TOKEN = re.compile(r"""\s*(?:\#[^\n]*|'(.*?)'(?=\s|$)|"(.*?)"(?=\s|$)|([^\s'"\#;_$\[\]][^\s]*|_[^\s]+))""")
GROUPS = {"P 1": ["x,y,z"], "P -1": ["x,y,z", "-x,-y,-z"]}
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")


def cif(content: bytes) -> Particles:  # noqa: PLR0912
    items, loops = _cif_items(text_of(content).replace("\r\n", "\n"))
    names = [f"_cell_length_{axis}" for axis in "abc"] + [f"_cell_angle_{name}" for name in ("alpha", "beta", "gamma")]
    a, b, c, *angles = (_uncertain(items.get(name, "?")) for name in names)
    if min(a, b, c) <= 0 or not all(0 < angle < 180 for angle in angles):
        raise Refused("cell")
    x, y, z = np.cos(np.deg2rad(angles))
    shape = np.array([[1, z, y], [z, 1, x], [y, x, 1]])
    if max(a, b, c) > 1e100 or np.linalg.eigvalsh(shape)[0] <= 1e-12:
        raise Refused("cell")
    gram = shape * np.outer([a, b, c], [a, b, c])
    lower = np.linalg.cholesky(gram)
    sites = next((loop for loop in loops if f"_atom_site_{COLUMNS[2]}" in loop), None)
    if sites is None:
        raise Refused("no atoms")
    if not {f"_atom_site_{name}" for name in COLUMNS[2:]} <= set(sites):
        raise Refused("coordinates")
    fractions = np.array([[_uncertain(word) for word in sites[f"_atom_site_{name}"]] for name in COLUMNS[2:]])
    if not {"_atom_site_type_symbol", "_atom_site_label"} & set(sites):
        raise Refused("no elements")
    kinds = sites.get("_atom_site_type_symbol") or [re.sub(r"\d+$", "", word) for word in sites["_atom_site_label"]]
    symbols = [element(word) for word in kinds]
    operations = next(
        (loop["_symmetry_equiv_pos_as_xyz"] for loop in loops if "_symmetry_equiv_pos_as_xyz" in loop), None
    )
    group = items.get("_symmetry_space_group_name_H-M")
    if group is not None and group not in GROUPS:
        raise Refused(f"space group {group}")
    if operations is None:
        operations = (
            [items["_symmetry_equiv_pos_as_xyz"]] if "_symmetry_equiv_pos_as_xyz" in items else GROUPS.get(group)
        )
    if operations is None:
        raise Refused("no symmetry")
    found = [_operation(word) for word in operations]
    if group is not None and not _same_group(found, [_operation(word) for word in GROUPS[group]]):
        raise Refused("the operations are not those of the group")
    places: list[np.ndarray] = []
    labels: list[str] = []
    for symbol, fraction in zip(symbols, fractions.T, strict=True):
        for rotation, shift in found:
            place = rotation @ fraction + shift
            near = [
                k for k, other in enumerate(places) if np.abs((place - other) - np.round(place - other)).max() < 1e-3
            ]
            if any(labels[k] != symbol for k in near):
                raise Refused("two elements on one site")
            if not near:
                places.append(place)
                labels.append(symbol)
    return Particles(np.array(places) @ lower, lower, labels, any_order=True)


def _cif_items(text: str) -> tuple[dict[str, str], list[dict[str, list[str]]]]:
    tokens = list(_cif_tokens(text))
    if not tokens or not re.fullmatch(r"data_\S+", tokens[0][0], re.IGNORECASE) or tokens[0][1]:
        raise Refused("no data block")
    items: dict[str, str] = {}
    loops: list[dict[str, list[str]]] = []
    place, seen = 1, set()

    def is_name(k: int) -> bool:
        return k < len(tokens) and not tokens[k][1] and tokens[k][0].startswith("_")

    def is_value(k: int) -> bool:
        reserved = r"(data_.*|loop_|save_.*|global_|stop_)"
        return k < len(tokens) and (tokens[k][1] or not (is_name(k) or re.fullmatch(reserved, tokens[k][0], re.I)))

    while place < len(tokens):
        if is_name(place):
            if not is_value(place + 1) or tokens[place][0] in seen:
                raise Refused(f"{tokens[place][0]} without a value, or twice")
            items[tokens[place][0]] = tokens[place + 1][0]
            seen.add(tokens[place][0])
            place += 2
        elif tokens[place][0].lower() == "loop_" and not tokens[place][1]:
            place, names = place + 1, []
            while is_name(place):
                names.append(tokens[place][0])
                place += 1
            values = []
            while is_value(place):
                values.append(tokens[place][0])
                place += 1
            if not names or not values or len(values) % len(names) or len(set(names)) < len(names) or seen & set(names):
                raise Refused("loop")
            seen |= set(names)
            if len(values) == len(names):
                items |= dict(zip(names, values, strict=True))
            loops.append({name: values[k :: len(names)] for k, name in enumerate(names)})
        else:
            raise Refused(f"{tokens[place][0]} is out of place")
    return items, loops


def _cif_tokens(text: str) -> Iterator[tuple[str, bool]]:
    """The tokens, and whether each is quoted."""
    if not text.isascii() or "\r" in text:
        raise Refused("not ASCII")
    for line in text.split("\n"):
        if line.startswith(";"):
            raise Refused("a text field")
        place = 0
        while line[place:].strip():
            match = TOKEN.match(line, place)
            if match is None:
                raise Refused(f"line {line!r}")
            if match[1] is not None or match[2] is not None:
                yield match[1] if match[1] is not None else match[2], True
            elif match[3] is not None:
                yield match[3], False
            place = match.end()


def _uncertain(word: str) -> float:
    return number(re.sub(r"\(\d+\)$", "", word, flags=re.ASCII))


def _operation(word: str) -> tuple[np.ndarray, np.ndarray]:
    rows, shift = np.zeros((3, 3)), np.zeros(3)
    parts = word.replace(" ", "").lower().split(",")
    if len(parts) != 3:
        raise Refused(f"operation {word}")
    for k, part in enumerate(parts):
        if not re.fullmatch(r"([+-]?(\d+/\d+|[xyz]|\d*\.\d+))([+-](\d+/\d+|[xyz]|\d*\.\d+))*", part):
            raise Refused(f"operation {word}")
        for sign, term in re.findall(r"([+-]?)(\d+/\d+|[xyz]|\d*\.\d+)", part):
            value = -1.0 if sign == "-" else 1.0
            if term in "xyz":
                rows[k, "xyz".index(term)] += value
            else:
                above, _, below = term.partition("/")
                if below and int(below) == 0:
                    raise Refused(f"operation {word}")
                shift[k] += value * (float(above) / float(below) if below else float(above))
    if abs(abs(np.linalg.det(rows)) - 1) > 1e-9:
        raise Refused(f"operation {word}")
    return rows, shift


def _same_group(these: list, those: list) -> bool:
    def key(each: tuple) -> tuple:
        return tuple(each[0].ravel()), tuple(np.round(each[1] % 1.0, 6) % 1.0)

    return sorted(map(key, these)) == sorted(map(key, those))


# ---------------------------------------------------------------------------------------------------------------------
# POSCAR
# ---------------------------------------------------------------------------------------------------------------------


def poscar(content: bytes) -> Particles:
    lines = lines_of(content)
    if len(lines) < 8:
        raise Refused("short")
    (scale,) = numbers(words_of(lines[1]), 1)
    cell = np.array([numbers(words_of(line), 3) for line in lines[2:5]])
    if scale == 0:
        raise Refused("scale")
    factor = scale if scale > 0 else (abs(scale) / max(abs(np.linalg.det(cell)), 1e-300)) ** (1 / 3)
    symbols, place = words_of(lines[5]), 6
    if symbols and all(WHOLE.fullmatch(word) for word in symbols):  # VASP 4: kinds without elements
        symbols, place = [], 5
    counts = [whole(word, 1) for word in words_of(lines[place])]
    if not counts or (symbols and len(counts) != len(symbols)) or sum(counts) > len(lines):
        raise Refused("counts")
    place += 1
    selective = lines[place].lstrip(" \t")[:1] in ("s", "S") if place < len(lines) else False
    place += selective
    kind = lines[place].lstrip(" \t")[:1] if place < len(lines) else ""
    if kind not in tuple("cCkKdD"):
        raise Refused("neither direct nor Cartesian")
    kinds: list[Any] = [element(word) for word in symbols] or list(range(len(counts)))
    labels = [each for each, count in zip(kinds, counts, strict=True) for _ in range(count)]
    rows = [words_of(line) for line in lines[place + 1 : place + 1 + len(labels)]]
    if len(rows) != len(labels):
        raise Refused("rows")
    rest = [line for line in lines[place + 1 + len(labels) :] if line.strip(" \t")]
    if rest:
        raise Refused("more than the positions")
    width = 6 if selective else 3
    rows = [
        row[:width] if len(row) == width + 1 and row[width] == label else row
        for row, label in zip(rows, labels, strict=True)
    ]
    if any(len(row) != width for row in rows):
        raise Refused("rows")
    coordinates = np.array([numbers(row[:3], 3) for row in rows])
    fixed = None
    if selective:
        if any(word not in ("T", "F", ".TRUE.", ".FALSE.") for row in rows for word in row[3:]):
            raise Refused("flags")
        fixed = np.array([[word in ("F", ".FALSE.") for word in row[3:]] for row in rows])
        partly = fixed.any(axis=1) != fixed.all(axis=1)
        if kind in "dD" and partly.any() and (cell - np.diag(np.diag(cell))).any():
            raise Refused("flags along lattice vectors")
    return Particles(
        coordinates @ (factor * cell) if kind in "dD" else factor * coordinates, factor * cell, labels, fixed=fixed
    )


# ---------------------------------------------------------------------------------------------------------------------
# Study files
# ---------------------------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _within(low: float, high: float = float("inf"), kind: type = float, above: bool = False) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        right = _is_number(value) and (kind is float or isinstance(value, int))
        return right and (value > low if above else value >= low) and value <= high

    return check


def _list(check: Callable[[Any], bool], least: int = 1) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(check(each) for each in value)


def _among(*names: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) in (str, int) and value in names


VARIED = (
    "packing_fraction",
    "epsilon",
    "alpha",
    "pressure",
    "polydispersity",
    "species-diameter:0",
    "species-diameter:1",
)
SEED = _within(0, 2**63 - 1, int)
SCHEMA: dict[str, Any] = {
    "name": lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", value, re.ASCII),
    "seeds": lambda value: _within(1, 10**6, int)(value) or _list(SEED)(value),
    "system": {
        "n": _within(2, 10**6, int),
        "dim": _among(2, 3),
        "diameters": _list(_within(0, above=True)),
        "packing_fraction": _within(0, 2, above=True),
    },
    "potential": {"name": _among("soft-sphere"), "epsilon": _within(0), "alpha": _within(1, above=True)},
    "relaxation": {"tolerance": _within(0, above=True), "max_steps": _within(1, 10**9, int)},
    "compute": {
        "response": _list(lambda v: isinstance(v, str), 0),
        "properties": _list(lambda v: isinstance(v, str), 0),
    },
    "sweep": {
        "method": _among("grid", "sobol", "random"),
        "samples": _within(1, 10**6, int),
        "seed": SEED,
        "parameters": lambda value: isinstance(value, dict),
    },
}


@dataclass
class StudyContent:
    """What a study file says."""

    content: dict[str, Any]

    def difference(self, study: Any) -> str:
        theirs = study.model_dump(exclude_unset=True)
        return _unlike(self.content, theirs, "")


def _unlike(mine: Any, theirs: Any, place: str) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        if set(mine) != set(theirs):
            return f"{place}: {sorted(set(mine) ^ set(theirs))}"
        return next((found for name in mine if (found := _unlike(mine[name], theirs[name], f"{place}.{name}"))), "")
    if isinstance(mine, list) and isinstance(theirs, list | tuple):
        sides = [list(dict.fromkeys(float(v) if _is_number(v) else v for v in side)) for side in (mine, theirs)]
        return "" if sides[0] == sides[1] else f"{place}: {theirs}, not {mine}"
    same = mine == theirs and isinstance(mine, bool) == isinstance(theirs, bool)
    return "" if same else f"{place}: {theirs!r}, not {mine!r}"


def study(content: bytes) -> StudyContent:
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"no TOML: {error}") from None
    _check(found, SCHEMA, "")
    system = found.get("system", {})
    if len(system.get("diameters", [1.0, 0.6])) > system.get("n", 128):
        raise Refused("fewer particles than diameters")
    _check_sweep(found.get("sweep", {}), found)
    kinds = len(system.get("diameters", [1.0, 0.6]))
    known = ["diameters", "box", "epsilon", "alpha", *(f"species-diameter:{k}" for k in range(kinds))]
    if not set(found.get("compute", {}).get("response", [])) <= set(known):
        raise Refused("response")
    if not set(found.get("compute", {}).get("properties", [])) <= {"energy", "pressure"}:
        raise Refused("properties")
    return StudyContent(found)


def _check(content: Any, schema: Any, place: str) -> None:
    if not isinstance(schema, dict):
        if not schema(content):
            raise Refused(f"{place}: {content!r}")
        return
    if not isinstance(content, dict):
        raise Refused(place)
    for name, value in content.items():
        if name not in schema:
            raise Refused(f"{place}.{name}")
        _check(value, schema[name], f"{place}.{name}")


def _check_sweep(sweep: dict[str, Any], study: dict[str, Any]) -> None:
    method, points = sweep.get("method", "grid"), 1
    if (method == "grid") == ("samples" in sweep):
        raise Refused("samples")
    kinds = len(study.get("system", {}).get("diameters", [1.0, 0.6]))
    for name, varied in sweep.get("parameters", {}).items():
        if name not in VARIED or (name.startswith("species") and int(name[-1]) >= kinds):
            raise Refused(name)
        positive = name == "packing_fraction" or name.startswith("species")
        if isinstance(varied, dict):
            if set(varied) - {"low", "high", "count", "scale"} or not {"low", "high"} <= set(varied):
                raise Refused(name)
            ends = [varied["low"], varied["high"]]
            if method == "grid":
                points *= varied.get("count", 0) if _within(1, 10**6, int)(varied.get("count", 0)) else 0
            if not all(map(_is_number, ends)) or not ends[0] < ends[1] or varied.get("scale", "linear") != "linear":
                raise Refused(name)
            if "count" in varied and not _within(1, 10**6, int)(varied["count"]):
                raise Refused(name)
        else:
            if method != "grid" or not _list(_is_number)(varied):
                raise Refused(name)
            ends, points = varied, points * len(varied)
        if (positive and min(ends) <= 0) or (name == "polydispersity" and not 0 <= min(ends) <= max(ends) <= 1):
            raise Refused(name)
    seeds = study.get("seeds", 1)
    points = sweep.get("samples", points)
    if points == 0 or points * (seeds if isinstance(seeds, int) else len(seeds)) > 10**6:
        raise Refused("points")


READERS: dict[str, Callable[[bytes], Any]] = {
    "LAMMPS data": lammps_data,
    "LAMMPS dump": lammps_dump,
    "extended XYZ": extended_xyz,
    "CIF": cif,
    "POSCAR": poscar,
    "study": study,
}
