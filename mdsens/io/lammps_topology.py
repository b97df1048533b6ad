"""Bonds and angles of LAMMPS data files."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from pathlib import Path

import numpy as np

from ..errors import InvalidInput, Status
from ..runtime.files import replacing
from ..system import System
from .ase import Diameters, from_ase
from .lammps_data import LAMMPS_DATA, NOT_UNDERSTOOD, parse_atoms, sections_of, write_data
from .words import lines_of, read_text

STYLE_WITH_BONDS = {"atomic": "angle", "charge": "full"}
"""The atom style of a file with bonds and angles, for each style without them."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """The bonds and angles of a file; particles and types are counted from 0.

    - `bonds` (int [m, 2]), `bond_types` (int [m]), `angles` (int [k, 3], the vertex in the middle), `angle_types`.
    - `stiffness` (energy per length²) and `rest_length` [m], `angle_stiffness` (energy) and `rest_angle` [k] (radians):
      of ½ k (r - l)² and ½ k (θ - θ₀)²; None unless the file has coefficients of harmonic bonds, or angles. LAMMPS
      leaves out the factor ½.
    """

    bonds: np.ndarray
    bond_types: np.ndarray
    angles: np.ndarray
    angle_types: np.ndarray
    stiffness: np.ndarray | None
    rest_length: np.ndarray | None
    angle_stiffness: np.ndarray | None
    rest_angle: np.ndarray | None


def read_topology(
    path: str | os.PathLike[str],
    diameters: Diameters | None = 1.0,
    dim: int | None = None,
    atom_style: str | None = None,
) -> tuple[System, Topology]:
    """Particles, bonds and angles of a LAMMPS data file.

        system, found = mdsens.read_topology("network.data")
        bonds = mdsens.Bonds(found.bonds, found.stiffness, found.rest_length)

    **Arguments:**

    - `path`: the file.
    - `diameters`: as in `mdsens.read`; 1 by default, since bonds use none.
    - `dim`: 2 or 3; by default 2 if all particles have the same z.
    - `atom_style`: of a file that does not name it.

    **Returns** the System, and a `Topology`.

    **Raises** `FileNotFoundError`, and `InvalidInput` for a file that cannot be read, and for dihedrals, impropers and
    particles that are no points.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        header, sections, named = sections_of(lines_of(read_text(path))[1:])
        others = [name for name in NOT_UNDERSTOOD if sections.get(name) and name not in ("Bonds", "Angles")]
        if others:
            raise InvalidInput(f"it has a section {others[0]}, which mdsens does not understand and will not drop")
        atoms = parse_atoms(header, sections, atom_style or named.get("Atoms") or None)
        place = {int(id_): k for k, id_ in enumerate(atoms.arrays["id"])}
        bonds, bond_types = _groups(sections.get("Bonds", []), 2, place)
        angles, angle_types = _groups(sections.get("Angles", []), 3, place)
        stiffness, rest_length = _harmonic(sections, named, "Bond Coeffs", bond_types)
        angle_stiffness, rest_angle = _harmonic(sections, named, "Angle Coeffs", angle_types)
        if rest_angle is not None:
            rest_angle = np.deg2rad(rest_angle)
        system = from_ase(atoms, None if "diameters" in atoms.arrays else diameters, dim)
    except (InvalidInput, ValueError, KeyError, IndexError) as error:
        raise Status.FILE_NOT_READ.raised(path=path, reason=error) from error
    of_angles = angles, angle_types
    return system, Topology(bonds, bond_types, *of_angles, stiffness, rest_length, angle_stiffness, rest_angle)


def has_topology(path: Path) -> bool:
    """Whether a data file has bonds or angles."""
    sections = sections_of(lines_of(read_text(path))[1:])[1]
    return any(sections.get(name) for name in ("Bonds", "Angles"))


def _groups(rows: list[list[str]], size: int, place: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The particles [m, size] and types [m] of bonds or angles: `id type atom atom …`."""
    table = np.array([[int(word) for word in row[: size + 2]] for row in rows], int).reshape(-1, size + 2)
    missing = [int(each) for each in np.unique(table[:, 2:]) if int(each) not in place]
    if missing:
        raise InvalidInput(f"a bond or an angle joins atom {missing[0]}, which is not there")
    members = np.array([[place[int(each)] for each in row] for row in table[:, 2:]], np.int32).reshape(-1, size)
    return members, table[:, 1] - 1


def _harmonic(
    sections: dict[str, list[list[str]]], named: dict[str, str], name: str, types: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Twice the first coefficient of each type, since LAMMPS leaves out the factor ½, and the second."""
    rows = sections.get(name, [])
    if named.get(name) not in ("", "harmonic") or not len(types) or any(len(row) != 3 for row in rows):
        return None, None
    table = {int(row[0]) - 1: (2.0 * float(row[1]), float(row[2])) for row in rows}
    values = np.array([table[int(each)] for each in types])
    return values[:, 0], values[:, 1]


def write_topology(path: str | os.PathLike[str], system: System, topology: Topology) -> None:
    """Write particles, bonds and angles as a LAMMPS data file, which `read_topology` reads again.

        mdsens.write_topology("network.data", eq.system, mdsens.potentials.topology_of(eq.potential))

    Bonds that differ in stiffness or rest length are of different types, numbered anew. LAMMPS reads the file with
    `atom_style angle` (`full` where there are charges), `bond_style harmonic` and `angle_style harmonic`.

    **Arguments:**

    - `path`: the file; an existing one is replaced.
    - `system`: the particles.
    - `topology`: their bonds and angles, with coefficients.

    **Warns** of what such a file does not keep, as `mdsens.write`.
    """
    path = Path(path)
    if lost := LAMMPS_DATA.lost(system):
        warnings.warn(f"LAMMPS data such as {path} do not keep {', '.join(lost)}", stacklevel=2)
    with replacing(path) as unfinished:
        write_data(unfinished, system)
        unfinished.write_text(_with_topology(unfinished.read_text(), topology))


def _with_topology(text: str, topology: Topology) -> str:
    """A data file with bonds and angles added."""
    bonds = "Bond", topology.bonds, topology.stiffness, topology.rest_length
    of_angles = None if topology.rest_angle is None else np.rad2deg(topology.rest_angle)
    angles = "Angle", topology.angles, topology.angle_stiffness, of_angles
    counts, coefficients, sections = "", "", ""
    for name, groups, stiffness, at_rest in (bonds, angles):
        if not len(groups):
            continue
        if stiffness is None or at_rest is None:
            raise InvalidInput(f"the {name.lower()}s have no coefficients to write")
        kinds, types = np.unique(np.stack([0.5 * stiffness, at_rest], axis=1), axis=0, return_inverse=True)
        counts += f"{len(groups)} {name.lower()}s\n{len(kinds)} {name.lower()} types\n"
        rows = "\n".join(f"{k} {half!r} {rest!r}" for k, (half, rest) in enumerate(kinds.tolist(), start=1))
        coefficients += f"{name} Coeffs # harmonic\n\n{rows}\n\n"
        members = np.column_stack([np.ravel(types) + 1, groups + 1]).tolist()
        rows = "\n".join(" ".join(map(str, (k, *each))) for k, each in enumerate(members, start=1))
        sections += f"\n{name}s\n\n{rows}\n"
    head, style, atoms = re.split(r"(?m)^Atoms # (\w+)$", text)
    head = re.sub(r"(?m)^(\d+ atom types)$", lambda found: f"{found[1]}\n{counts.rstrip()}", head)
    in_molecule = re.sub(r"(?m)^( *\d+)( +\d+ )", r"\1 1\2", atoms)
    return f"{head}{coefficients}Atoms # {STYLE_WITH_BONDS[style]}{in_molecule.rstrip()}\n{sections}"
