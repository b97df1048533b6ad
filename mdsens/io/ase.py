"""Conversion between System and ASE Atoms, and every format that only ASE knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInput
from ..extras import Extras
from ..geometry import is_lattice
from ..system import System, name_particles
from .format import Format, check_index
from .words import RESULTS

if TYPE_CHECKING:
    from ase import Atoms

ROUNDING_OF_Z = 1e-13
"""Of the extent of a system: particles whose z differ by less are in one plane."""

FARTHEST = 1e14
"""Cells or diameters, whichever is larger: farther from the origin rounding moves a particle by a hundredth of one."""

OF_THE_SYSTEM = ("numbers", "positions", "species_id", "spacegroup_kinds")
"""Arrays of Atoms that a System has fields for, or that ASE adds when it repeats an asymmetric unit."""

NOT_OF_THE_FILE = ("dim", "spacegroup", "unit_cell", "occupancy")
"""Entries of Atoms that a System says itself, or that ASE adds; a relaxed crystal need not have its space group."""


def from_ase(atoms: Atoms, diameters: Diameters | None = None, dim: int | None = None) -> System:
    """Convert ASE Atoms to a System.

    **Arguments:**

    - `atoms`: ASE Atoms; `atoms.info["dim"]` is respected if it is there.
    - `diameters`: one length, one per species, one per particle, or a dictionary of them by chemical symbol; by default
      the array `diameters`, `diameter`, `radius` or `radii` of the atoms.
    - `dim`: 2 or 3; by default 2 if all particles have the same z.

    **Returns:**

    - The System, with the atomic numbers where there are any, periodic along the same directions (`pbc`). Species are
      numbered from 0: by the array `species_id`, by `type`, or by atomic number. Every other array and entry of
      `atoms.info` is kept as `System.extras`, but not what a calculator has found, such as forces.

    **Raises:**

    - `InvalidInput` if there are no particles or no diameters, if a vector along which the cell is periodic is missing,
      if there are constraints other than fixed atoms and components, or if a two-dimensional system was asked for and
      the particles have different z.
    """
    positions = np.asarray(atoms.positions, dtype=float)
    if len(positions) == 0:
        raise InvalidInput("there are no particles in it")
    if (bad := np.flatnonzero(~np.isfinite(positions).all(axis=1))).size:
        raise InvalidInput(f"the position of {name_particles(bad)} is not finite")
    if dim is None:
        dim = atoms.info.get("dim", 2 if _is_flat(atoms) else 3)
    if dim not in (2, 3):
        raise InvalidInput(f"dim must be 2 or 3, not {dim}")
    if dim == 2 and not in_one_plane(positions):
        raise InvalidInput("its particles have different z, so it is not two-dimensional")
    if any(len(kinds) > 1 or set(kinds.values()) != {1} for kinds in (atoms.info.get("occupancy") or {}).values()):
        raise InvalidInput("it has sites that are occupied in part, and particles are there or not")
    species, box = _species(atoms), _box(atoms, dim)
    sizes = _diameters(atoms, diameters, species)
    size = max(float(np.max(sizes)), 0.0 if box is None else float(np.abs(box).max()))
    if (far := np.flatnonzero((np.abs(positions) > FARTHEST * size).any(axis=1))).size:
        raise InvalidInput(f"{name_particles(far)} lie so far away that rounding loses their place")
    return System(
        positions[:, :dim],
        box,
        sizes,
        species.astype(np.int32),
        numbers=_elements(atoms),
        fixed=fixed_by(atoms, dim),
        periodic=np.asarray(atoms.pbc)[:dim].tolist(),
        extras=_extras(atoms),
    )


def _box(atoms: Atoms, dim: int) -> np.ndarray | None:
    """The lattice vectors in rows; None where nothing is periodic."""
    periodic = np.asarray(atoms.pbc)[:dim]
    if not periodic.any():
        return None
    cell = np.asarray(atoms.cell)[:dim, :dim]
    if not is_lattice(cell[periodic]):
        raise InvalidInput("it is periodic but has no cell")
    return cell


def _extras(atoms: Atoms) -> Extras | None:
    """The arrays and entries that a System has no fields for."""
    from ase.io.jsonio import encode

    arrays = {
        name: np.asarray(values)
        for name, values in atoms.arrays.items()
        if name not in (*OF_THE_SYSTEM, *RESULTS) and not (name in DIAMETERS_IN_COLUMN and values.dtype.kind in "fiu")
    }
    info = {str(name): value for name, value in atoms.info.items() if name not in (*NOT_OF_THE_FILE, *RESULTS)}
    for name, values in arrays.items():
        if values.dtype == object and all(isinstance(value, str) for value in values.ravel()):
            arrays[name] = values.astype(str)  # as ASE reads text
        elif values.dtype.kind not in "fiubUSc":
            raise InvalidInput(f"its array {name} of {values.dtype} cannot be kept; remove it (del atoms.arrays[…])")
    if not arrays and not info:
        return None
    try:
        return Extras.of(arrays, encode(info), len(atoms))
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"its entries {', '.join(info)} cannot be kept: {error}; remove them from atoms.info"
        ) from error


def fixed_by(atoms: Atoms, dim: int) -> np.ndarray | None:
    """Which particles, or components, the constraints of atoms fix: bool [n] or [n, d]; None if there are none.

    **Raises** `InvalidInput` for constraints of any other kind.
    """
    from ase.constraints import FixAtoms, FixCartesian, FixScaled

    fixed, others, cell = np.zeros((len(atoms), 3), bool), [], np.asarray(atoms.cell)
    along_axes = not (cell - np.diag(np.diag(cell))).any()
    for each in atoms.constraints:
        if isinstance(each, FixAtoms):
            fixed[each.index] = True
        elif isinstance(each, FixCartesian) or (
            isinstance(each, FixScaled) and (along_axes or np.all(each.mask) or not np.any(each.mask))
        ):
            fixed[each.index] |= np.asarray(each.mask, bool)
        else:
            others.append(type(each).__name__)
    if others:
        raise InvalidInput(
            f"it has constraints ({', '.join(sorted(set(others)))}), which mdsens does not offer and will not drop: "
            "only atoms and their Cartesian components can be fixed; remove them (atoms.set_constraint()) if all "
            "particles are to move"
        )
    fixed = fixed[:, :dim]
    if not fixed.any():
        return None
    return fixed if (fixed.any(axis=1) != fixed.all(axis=1)).any() else fixed[:, 0]


def constraints_of(system: System) -> list[Any]:
    """The constraints of ASE that fix the same particles, or components."""
    from ase.constraints import FixAtoms, FixCartesian

    if system.fixed is None:
        return []
    fixed = np.asarray(system.fixed)
    if fixed.ndim == 1:
        return [FixAtoms(np.flatnonzero(fixed))]
    masks = np.zeros((system.n, 3), bool)
    masks[:, : system.dim] = fixed
    kinds = [mask for mask in np.unique(masks, axis=0) if mask.any()]
    return [FixCartesian(np.flatnonzero((masks == mask).all(axis=1)), mask) for mask in kinds]


def _is_flat(atoms: Atoms) -> bool:
    """Whether particles in one plane are all there is: not so in a crystal whose other layers are periodic images."""
    cell = np.asarray(atoms.cell)
    tilted = cell[:2, 2].any() or cell[2, :2].any()
    return len(atoms) > 1 and in_one_plane(atoms.positions) and not (atoms.pbc[2] and tilted)


def in_one_plane(positions: np.ndarray) -> bool:
    """Whether all z are the same, to the rounding that ASE's optimizers leave in them."""
    in_plane = positions[:, :2]
    extent = np.median(np.abs(in_plane - np.median(in_plane, axis=0)), axis=0).max()  # one far away counts for nothing
    extent = extent or np.ptp(positions, axis=0).max()
    return not np.ptp(positions[:, 2]) > ROUNDING_OF_Z * extent  # nor where these are NaN


def to_ase(system: System) -> Atoms:
    """Convert a System to ASE Atoms.

    **Arguments:**

    - `system`: the System.

    **Returns:**

    - Atoms with the arrays `diameters`, `radius` and `species_id`, with all `System.extras`, and with `FixAtoms` or
      `FixCartesian` for what is fixed; without atomic numbers species k becomes element k + 1. A two-dimensional system
      is placed at z = 0, in a cell as high as the largest diameter. A cell that is periodic along some directions only
      and without a volume is one around all particles along the others.
    """
    from ase import Atoms
    from ase.io.jsonio import decode

    n, d = system.n, system.dim
    positions, cell = np.zeros((n, 3)), np.zeros((3, 3))
    positions[:, :d] = system.positions
    if system.box is not None:
        flat = not all(system.periodic) and np.linalg.matrix_rank(np.asarray(system.box)) < d
        cell[:d, :d] = system.enclosing_box(system.diameters.max())[1] if flat else system.box
    species, diameters = np.asarray(system.species), np.asarray(system.diameters, dtype=float)
    if d == 2:
        cell[2, 2] = diameters.max()
    numbers = _placeholders(species) if system.numbers is None else np.asarray(system.numbers)
    atoms = Atoms(numbers=numbers, positions=positions)
    atoms.set_cell(None if system.box is None else cell)
    atoms.set_pbc([*system.periodic, *[False] * (3 - d)])
    atoms.set_array("species_id", species.astype(int))
    atoms.set_array("diameters", diameters)
    atoms.set_array("radius", diameters / 2)
    if system.extras is not None:
        for name, values in system.extras.arrays().items():
            atoms.set_array(name, values)
        atoms.info.update(decode(system.extras.entries()))
    atoms.info["dim"] = d
    atoms.set_constraint(constraints_of(system))
    return atoms


KEEP_PERIODIC = ("extxyz", "traj", "json", "db", "xsf")
"""ASE's names of the formats that say along which directions a cell is periodic."""

KEEP_FIXED = ("extxyz", "vasp", "traj", "json", "db")
"""ASE's names of the formats that say which particles are fixed."""

KEEP_ARRAYS = ("traj", "json", "db")
"""Those that hold the arrays that Atoms always may have."""

OF_ATOMS = ("tags", "momenta", "masses", "initial_charges", "initial_magmoms")


def ase_format(name: str | None) -> Format:
    """The format that ASE knows under a name; without a name, ASE chooses by the content of the file."""

    def read(path: Path, index: int) -> Atoms:
        import ase.io

        if index in (0, -1):
            atoms = ase.io.read(path, index=index, format=name)
            assert not isinstance(atoms, list)
            return atoms
        frames = ase.io.read(path, index=":", format=name)  # ASE takes the first frame for one before it
        check_index(index, len(frames))
        return frames[index]

    def write(path: Path, system: System) -> None:
        write_atoms(path, to_ase(system), name)

    keeps = OF_ATOMS if name in KEEP_ARRAYS else ()
    return Format(
        read,
        write,
        keeps_fixed=name in KEEP_FIXED,
        keeps_periodic=name in KEEP_PERIODIC,
        keeps=keeps,
        keeps_entries=name == "traj",
    )


def write_atoms(path: Path, atoms: Atoms, name: str | None, **options: Any) -> None:
    """Write with ASE. Whatever its writer raises becomes `InvalidInput`, except `OSError`."""
    import ase.io

    try:
        ase.io.write(path, atoms, format=name, **options)
    except OSError:
        raise
    except Exception as error:  # ASE's writers raise many kinds of exceptions
        raise InvalidInput(str(error)) from error


def name_by_ending(path: Path) -> str:
    """ASE's name of the format that the ending of a file name stands for.

    **Raises** `InvalidInput` if ASE cannot write any such format.
    """
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        name = filetype(str(path), read=False)
    except UnknownFileTypeError:
        name = ""
    if name not in ioformats or not ioformats[name].can_write:
        raise InvalidInput(f"{path} cannot be written: its ending is of no format that ASE writes; try .extxyz")
    return name


def _placeholders(species: np.ndarray) -> np.ndarray:
    """Atomic numbers for species without any: ASE's formats cannot do without."""
    return np.clip(species, 0, 117) + 1


def _elements(atoms: Atoms) -> np.ndarray | None:
    """The atomic numbers; None if they are placeholders."""
    known = "species_id" not in atoms.arrays or (atoms.numbers != _placeholders(atoms.arrays["species_id"])).any()
    return atoms.numbers.astype(np.int32) if known and atoms.numbers.any() else None


def _species(atoms: Atoms) -> np.ndarray:
    if "species_id" in atoms.arrays:
        species = np.asarray(atoms.arrays["species_id"])
        if species.dtype.kind not in "iu" or species.ndim != 1 or species.min() < 0 or species.max() >= MOST_SPECIES:
            raise InvalidInput("its species_id are not one whole number for each particle, from 0 on")
        return species
    labels = atoms.arrays.get("type", atoms.numbers)
    return np.unique(labels, return_inverse=True)[1]


MOST_SPECIES = 1_000_000
"""A larger number is none of a species."""

DIAMETERS_IN_COLUMN = {"diameters": 1.0, "diameter": 1.0, "radius": 2.0, "radii": 2.0}
"""Columns of files that hold the sizes of particles, and how many times each of them makes a diameter."""

Diameters = float | Sequence[float] | Mapping[str, float]
"""One length, one per species, one per particle, or one by chemical symbol."""


def _diameters(atoms: Atoms, given: Diameters | None, species: np.ndarray) -> np.ndarray:
    if isinstance(given, Mapping):
        unknown = set(atoms.get_chemical_symbols()) - set(given)
        if unknown:
            raise InvalidInput(f"no diameter was given for {', '.join(sorted(unknown))}")
        return np.array([float(given[symbol]) for symbol in atoms.get_chemical_symbols()])
    if given is not None:
        sizes, kinds = np.atleast_1d(np.asarray(given, dtype=float)), int(species.max()) + 1
        if sizes.size == 1:
            return np.full(len(species), sizes[0])
        if sizes.size == kinds:
            return sizes[species]
        if sizes.size == len(species):
            return sizes
        raise InvalidInput(f"{sizes.size} diameters were given for {kinds} species and {len(species)} particles")
    if name := column_of_sizes(atoms):
        sizes = DIAMETERS_IN_COLUMN[name] * np.asarray(atoms.arrays[name], dtype=float)
        if sizes.ndim != 1 or not (np.isfinite(sizes) & (sizes > 0.0)).all():
            raise InvalidInput(f"its {name} are not one positive length for each particle")
        return sizes
    raise InvalidInput("it holds no diameters; give one per species (read(..., diameters=...), --diameters 1.0,0.6)")


def column_of_sizes(atoms: Atoms) -> str | None:
    """The name of the column that holds the sizes of the particles; None if there is none."""
    numeric = [name for name, column in atoms.arrays.items() if np.issubdtype(column.dtype, np.number)]
    return next((name for name in DIAMETERS_IN_COLUMN if name in numeric), None)
