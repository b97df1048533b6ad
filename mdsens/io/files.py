"""Read and write a System in any format of the registry, or of ASE."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import InvalidInput, Status
from ..runtime.files import replacing
from ..system import System
from .ase import Diameters, ase_format, column_of_sizes, from_ase, name_by_ending
from .cif import CIF
from .extended_xyz import EXTENDED_XYZ, XYZ
from .format import Format
from .lammps_data import LAMMPS_DATA
from .lammps_dump import LAMMPS_DUMP
from .lammps_topology import Topology, has_topology, read_topology
from .poscar import POSCAR

REGISTRY: dict[str, Format] = {
    "extxyz": EXTENDED_XYZ,
    "xyz": XYZ,
    "lammps-data": LAMMPS_DATA,
    "lammps-dump-text": LAMMPS_DUMP,
    "vasp": POSCAR,
    "cif": CIF,
}
"""The formats that mdsens handles itself, by ASE's names. Every other format is left to ASE."""

HEAD = 2000
"""Bytes at the beginning of a file by which its format is recognized."""


class HasSystem(Protocol):
    """Anything with a System, such as an Equilibrium."""

    @property
    def system(self) -> System: ...


def read(
    path: str | os.PathLike[str],
    diameters: Diameters | None = None,
    dim: int | None = None,
    index: int = -1,
    format: str | None = None,
    atom_style: str | None = None,
) -> System:
    """Read a System from a file: extended XYZ, plain XYZ, LAMMPS data and dumps, and every other format of ASE.

    **Arguments:**

    - `path`: the file.
    - `diameters`: one length, one per species, one per particle, or a dictionary by chemical symbol ({"Si": 2.35}), for
      files without diameters, or, with a warning, instead of those in the file. By default they are taken from the
      columns `diameters`, `diameter`, `radius` or `radii` of extended XYZ and of LAMMPS dumps, and from data of
      `atom_style sphere`.
    - `dim`: 2 or 3; by default 2 if all particles have the same z.
    - `index`: which frame, counted from 0, or from the end from -1; by default the last.
    - `format`: ASE's name of the format, if neither the name nor the content of the file shows it.
    - `atom_style`: of a LAMMPS data file that does not name it.

    **Returns:**

    - The System, in the units of the file, with its atomic numbers, and with the atoms and components fixed that the
      file says (`move_mask` of extended XYZ, selective dynamics of POSCAR). Masses, charges and every other array and
      entry of the file are kept as `System.extras`, and `write` writes them again; forces, energies and stresses are
      not, since they are those of the positions in the file. Species are numbered from 0: by the column
      `species_id`, by LAMMPS type, or by atomic number. It is periodic along the vectors that the file says (`pbc` of
      extended XYZ, `pp pp ff` of LAMMPS dumps), or along all of them where it does not say, as LAMMPS data:
      `system.replace(periodic=(True, True, False))` then makes a slab of it.

    **Raises:**

    - `FileNotFoundError` if there is no such file.
    - `InvalidInput` if the file cannot be read, has no diameters, or has bonds, constraints other than fixed atoms, or
      other things that mdsens does not understand.
    """
    path = Path(path)
    if isinstance(index, bool) or not isinstance(index, int | np.integer):
        raise InvalidInput(f"index is the number of one frame, such as 0 or -1, not {index!r}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    options = {} if atom_style is None else {"atom_style": atom_style}
    try:
        known = _format_to_read(path, format)
        if not set(options) <= set(known.options):
            raise InvalidInput("only LAMMPS data files have an atom style")
        atoms = known.read(path, index, **options)
    except Exception as error:  # ASE's readers raise many kinds of exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if type(error).__name__ == "UnknownFileTypeError":
            reason = "neither its name nor its content shows a format that ASE reads; name it (format='vasp', …)"
        raise Status.FILE_NOT_READ.raised(path=path, reason=reason) from error
    try:
        system = from_ase(atoms, diameters, dim)
        if diameters is not None and column_of_sizes(atoms):
            warnings.warn(f"{path} has diameters of its own; those given replace them", stacklevel=2)
        return system
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def read_whole(
    path: str | os.PathLike[str],
    diameters: Diameters | None = None,
    dim: int | None = None,
    atom_style: str | None = None,
    of_bonds: Diameters | None = None,
) -> tuple[System, Topology | None]:
    """A System, as `read` reads it, and the bonds and angles of its file; None if there are none.

    **Arguments:**

    - `of_bonds`: diameters for a file with bonds that has none.
    """
    path = Path(path)
    if _has_topology(path):
        return read_topology(path, of_bonds if diameters is None else diameters, dim, atom_style)
    return read(path, diameters, dim, atom_style=atom_style), None


def _has_topology(path: Path) -> bool:
    try:
        return _format_to_read(path, None) is LAMMPS_DATA and has_topology(path)
    except Exception:  # of a file that cannot be read, which `read` explains
        return False


def write(path: str | os.PathLike[str], system: System | HasSystem, format: str | None = None) -> None:
    """Write a System, or the system of an Equilibrium, in the format given by the ending of the file name.

    Extended XYZ (`.extxyz`, `.xyz`) keeps positions, cell, diameters and species to the last bit; its column `radius`
    makes OVITO draw the particles to scale. LAMMPS data (`.data`, `.lmp`) hold no diameters; a two-dimensional cell
    extends to both sides of z = 0, as LAMMPS requires, and one that is not periodic along all directions around all
    particles along the others; `write_topology` writes bonds and angles, too. All other formats are written by ASE. The
    file appears only when it is complete.

    **Arguments:**

    - `path`: the file; an existing one is replaced.
    - `system`: a System, or an object with a `.system`.
    - `format`: ASE's name of the format, instead of the ending of the file name.

    **Warns** where the format does not keep which particles are fixed, along which directions the cell is periodic, or
    an array or entry of the file that the system is from.

    **Raises:**

    - `InvalidInput` if the ending belongs to no format that can be written, or the system cannot be written in it.
    """
    content = system if isinstance(system, System) else system.system
    path = Path(path)
    chosen = REGISTRY.get(format) or ase_format(format) if format else format_to_write(path)
    if chosen.write is None:
        raise InvalidInput(f"{path} cannot be written: mdsens and ASE only read {format}; try .extxyz")
    if lost := chosen.lost(content):
        warnings.warn(f"the format of {path} does not keep {', '.join(lost)}; .extxyz does", stacklevel=2)
    with replacing(path) as unfinished:
        try:
            chosen.write(unfinished, content)
        except InvalidInput as error:
            raise InvalidInput(f"{path} cannot be written: {error}") from error


def format_to_write(path: Path) -> Format:
    """The format that the ending of a file name stands for.

    **Raises:**

    - `InvalidInput` if no such format can be written.
    """
    for known in REGISTRY.values():
        if known.is_written_as(path):
            return known
    return ase_format(name_by_ending(path))


def _format_to_read(path: Path, name: str | None) -> Format:
    """By its name if one is given, else by the ending, else by the first bytes, else ASE chooses."""
    if name is not None:
        return REGISTRY.get(name) or ase_format(name)
    for known in REGISTRY.values():
        if known.is_named(path):
            return known
    from ase.io.formats import open_with_compression

    with open_with_compression(str(path), "rb") as file:
        head = file.read(HEAD)
    for known in REGISTRY.values():
        if known.recognizes is not None and known.recognizes(head):
            return known
    return ase_format(None)
