"""Systems from files and into files, through ASE."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import lammps
from .errors import InvalidInput
from .files import replacing
from .system import System

if TYPE_CHECKING:
    from ase import Atoms

    from .relaxation import Equilibrium


def read(
    path: str | os.PathLike[str],
    diameters: float | Sequence[float] | None = None,
    dim: int | None = None,
    index: int = -1,
    format: str | None = None,
) -> System:
    """A System from any file that ASE reads: extended XYZ, plain XYZ, LAMMPS data and dumps, CIF …

    **Arguments:**

    - `diameters`: one length, one per species, or one per particle, for files that hold none, or instead of
      theirs. They are looked for in the columns `diameters`, `diameter`, `radius` and `radii` of extended XYZ and of
      LAMMPS dumps, and in data of `atom_style sphere`.
    - `dim`: 2 or 3; without it, a file whose particles all have the same z is two-dimensional.
    - `index`: which frame, the last by default. `format`: ASE's name of the format, if the file's
      name does not tell.

    Species are numbered from 0: by the column `species_id`, by LAMMPS type, or else by atomic number.
    The cell is periodic along all its vectors or, without one, open.

    **Raises** `FileNotFoundError`; `InvalidInput` for a file that cannot be read, has no diameters
    or is periodic along some directions only.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        kind = format or _guess_format(path)
        if kind in ("xyz", "extxyz"):
            _check_counts(path)
        atoms = _atoms_in(path, index, kind)
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path} cannot be read: {reason}") from error
    try:
        return from_ase(atoms, diameters, dim)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def write(path: str | os.PathLike[str], system: System | Equilibrium, format: str | None = None) -> None:
    """Writes a System, or the system of an Equilibrium, in the format that the name's ending says.

    Extended XYZ (`.extxyz`, `.xyz`) keeps positions, cell, diameters and species to the last bit;
    its column `radius` makes OVITO draw the particles to scale. Everything else is ASE's; LAMMPS data hold no
    diameters, and in two dimensions reach to both sides of z = 0, as LAMMPS wants it. The file
    appears when it is complete, or not at all.
    """
    from .relaxation import Equilibrium

    content = system.system if isinstance(system, Equilibrium) else system
    path = Path(path)
    kind = format or format_to_write(path)
    with replacing(path) as unfinished:
        if kind == "extxyz":
            unfinished.write_text(_extended_xyz(content))
            return
        import ase.io

        atoms, options = to_ase(content), {}
        if kind == "lammps-data":
            options = {"specorder": _in_order_of_species(atoms)}
        try:
            ase.io.write(unfinished, atoms, format=kind, **options)
        except OSError:
            raise
        except Exception as error:  # ASE's writers, likewise
            raise InvalidInput(f"{path} cannot be written: {error}") from error
        if kind == "lammps-data" and content.dim == 2:
            unfinished.write_text(_about_the_plane(unfinished.read_text()))


def format_to_write(path: Path) -> str:
    """ASE's name of the format that a file's ending says. **Raises** `InvalidInput` if none can be written."""
    if path.suffix in (".extxyz", ".xyz"):
        return "extxyz"
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        kind = filetype(str(path), read=False)
    except UnknownFileTypeError:
        kind = ""
    if kind not in ioformats or not ioformats[kind].can_write:
        raise InvalidInput(f"{path} cannot be written: its ending is of no format that ASE writes; try .extxyz")
    return kind


def from_ase(atoms: Atoms, diameters: float | Sequence[float] | None = None, dim: int | None = None) -> System:
    """A System from ASE Atoms; arguments, what counts as species, and `InvalidInput` are those of `read`."""
    positions = np.asarray(atoms.positions, dtype=float)
    if len(positions) == 0:
        raise InvalidInput("there are no particles in it")
    if dim is None:
        dim = int(atoms.info.get("dim", 2 if len(positions) > 1 and np.ptp(positions[:, 2]) == 0.0 else 3))
    if dim not in (2, 3):
        raise InvalidInput(f"dim must be 2 or 3, not {dim}")
    if dim == 2 and np.ptp(positions[:, 2]) > 0.0:
        raise InvalidInput("its particles have different z, so it is not two-dimensional")
    species = _species(atoms)
    periodic = np.asarray(atoms.pbc)[:dim]
    if periodic.any() and not periodic.all():
        raise InvalidInput(
            "it is periodic along some directions only, which mdsens does not offer; set pbc to all true or all false"
        )
    cell = np.asarray(atoms.cell)[:dim, :dim] if periodic.all() else None
    if cell is not None and abs(np.linalg.det(cell)) == 0.0:
        raise InvalidInput("it is periodic but has no cell")
    return System(positions[:, :dim], cell, _diameters(atoms, diameters, species), species.astype(np.int32))


def to_ase(system: System) -> Atoms:
    """ASE Atoms with the arrays `diameters`, `radius` and `species_id`; species k becomes element k + 1.

    In two dimensions they lie at z = 0, in a cell as high as the largest diameter.
    """
    from ase import Atoms

    n, d = system.n, system.dim
    positions, cell = np.zeros((n, 3)), np.zeros((3, 3))
    positions[:, :d] = system.positions
    if system.box is not None:
        cell[:d, :d] = system.box
    species, diameters = np.asarray(system.species), np.asarray(system.diameters, dtype=float)
    if d == 2:
        cell[2, 2] = diameters.max()
    atoms = Atoms(numbers=np.clip(species, 0, 117) + 1, positions=positions)
    atoms.set_cell(cell if system.periodic else None)
    atoms.set_pbc([system.periodic, system.periodic, system.periodic and d == 3])
    atoms.set_array("species_id", species.astype(int))
    atoms.set_array("diameters", diameters)
    atoms.set_array("radius", diameters / 2)
    atoms.info["dim"] = d
    return atoms


def _atoms_in(path: Path, index: int, kind: str | None) -> Atoms:
    if kind == "lammps-data":
        return lammps.read_data(path)
    if kind == "lammps-dump-text":
        return lammps.read_dump(path, index)
    import ase.io

    atoms = ase.io.read(path, index=index, format=kind)
    assert not isinstance(atoms, list)
    return atoms


def _guess_format(path: Path) -> str | None:
    """LAMMPS' files have no agreed ending; their beginning tells. None leaves the guess to ASE."""
    if path.suffix in (".extxyz", ".xyz"):
        return "extxyz"
    from ase.io.formats import open_with_compression

    with open_with_compression(str(path), "rb") as file:
        head = file.read(2000)
    if head.startswith(b"ITEM: ") and b"ITEM: TIMESTEP" in head:
        return "lammps-dump-text"
    return "lammps-data" if b" xlo xhi" in head and b"atoms" in head else None


def _check_counts(path: Path) -> None:
    """That no frame has more particles than the file has bytes: ASE counts up to their number, be it for a lifetime."""
    size = path.stat().st_size
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not re.fullmatch(r"\s*\d+\s*", line):
                return  # the end, or what ASE has a word for
            if int(line) > size:
                raise ValueError(f"it promises {int(line):.7g} particles and has {size} bytes")
            next(itertools.islice(lines, 1 + int(line), 1 + int(line)), None)


def _species(atoms: Atoms) -> np.ndarray:
    if "species_id" in atoms.arrays:
        return np.asarray(atoms.arrays["species_id"])
    labels = atoms.arrays.get("type", atoms.numbers)
    return np.unique(labels, return_inverse=True)[1]


def _diameters(atoms: Atoms, given: float | Sequence[float] | None, species: np.ndarray) -> np.ndarray:
    if given is not None:
        sizes, kinds = np.atleast_1d(np.asarray(given, dtype=float)), int(species.max()) + 1
        if sizes.size == 1:
            return np.full(len(species), sizes[0])
        if sizes.size == kinds:
            return sizes[species]
        if sizes.size == len(species):
            return sizes
        raise InvalidInput(f"{sizes.size} diameters were given for {kinds} species and {len(species)} particles")
    columns: dict[str, Callable[[Any], Any]] = {
        "diameters": lambda column: column,
        "diameter": lambda column: column,
        "radius": lambda column: 2 * column,
        "radii": lambda column: 2 * column,
    }
    for name, convert in columns.items():
        if name in atoms.arrays and np.issubdtype(atoms.arrays[name].dtype, np.number):
            return np.asarray(convert(atoms.arrays[name]), dtype=float)
    raise InvalidInput("it holds no diameters; give one per species (read(..., diameters=...), --diameters 1.0,0.6)")


def _in_order_of_species(atoms: Atoms) -> list[str]:
    """Their symbols; ASE numbers LAMMPS' types in the order of the alphabet."""
    first = np.unique(atoms.arrays["species_id"], return_index=True)[1]
    return np.array(atoms.get_chemical_symbols())[first].tolist()


def _about_the_plane(data: str) -> str:
    """LAMMPS wants z = 0 inside a cell in two dimensions."""
    thickness = 0.5 * float(re.findall(r"(?m)^\s*\S+\s+(\S+)\s+zlo zhi", data)[0])
    return re.sub(r"(?m)^.*zlo zhi", f"{-thickness} {thickness}  zlo zhi", data)


def _extended_xyz(system: System) -> str:
    """Extended XYZ with every float written so that it is read back as the same bits; ASE rounds to 8 digits."""
    atoms = to_ase(system)
    header = 'Properties=species:S:1:pos:R:3:species_id:I:1:diameters:R:1:radius:R:1 dim={} pbc="{}"'.format(
        system.dim, " ".join("FT"[int(p)] for p in atoms.pbc)
    )
    if system.periodic:
        lattice = " ".join(repr(float(value)) for value in np.asarray(atoms.cell).ravel())
        header = f'Lattice="{lattice}" {header}'
    rows = [str(system.n), header]
    columns = zip(
        atoms.get_chemical_symbols(),
        atoms.positions,
        atoms.arrays["species_id"],
        atoms.arrays["diameters"],
        atoms.arrays["radius"],
        strict=True,
    )
    for symbol, position, kind, diameter, radius in columns:
        numbers = " ".join(repr(float(value)) for value in position)
        rows.append(f"{symbol} {numbers} {int(kind)} {float(diameter)!r} {float(radius)!r}")
    return "\n".join(rows) + "\n"
