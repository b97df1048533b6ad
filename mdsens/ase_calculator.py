"""An ASE calculator for any potential of mdsens, so that ASE's optimizers, filters and vibrations run on it."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from jaxtyping import Array, Float

from .errors import InvalidInput
from .io.ase import DIAMETERS_IN_COLUMN, Diameters, from_ase, in_one_plane
from .landscape.configuration import Configuration
from .neighbors import AllPairs, NeighborList, Neighbors, allocate, automatic, update
from .potentials import Potential
from .relaxation import validation
from .runtime.compiled import release_when_full
from .system import System

COLUMNS = ("species_id", "type", *DIAMETERS_IN_COLUMN)
"""Arrays of atoms, besides their numbers, that species and diameters are read from."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""ASE's order of the components of a stress."""


def calculator(
    potential: Potential,
    *,
    diameters: Diameters | None = None,
    dim: int | None = None,
    neighbors: AllPairs | NeighborList | None = None,
) -> PotentialCalculator:
    """An ASE calculator: `atoms.calc = mdsens.calculator(potential)`.

    It computes energy, forces, stress and Hessian in the units of the potential, with a neighbor list that is rebuilt
    whenever an atom has moved too far and enlarged where it must be. Constraints are ASE's own affair.

    **Arguments:**

    - `potential`: the energy.
    - `diameters` (length): as in `mdsens.from_ase`; by default an array of the atoms.
    - `dim`: 2 or 3; by default `atoms.info["dim"]`, or 2 where the atoms lie in one plane and z alone is not periodic.
      In two dimensions z is ignored: it has no forces and no stress.
    - `neighbors`: `AllPairs()` or `NeighborList()`; chosen by size if None.

    **Returns** the calculator. Its Hessian, `get_hessian(atoms)` [3n, 3n], is that without constraints.

    **Raises** `InvalidInput`, when it is used, for atoms or a potential that make no sense.
    """
    return PotentialCalculator(potential, diameters, dim, neighbors)


class PotentialCalculator(Calculator):
    """See `mdsens.calculator`."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "hessian"]

    def __init__(
        self,
        potential: Potential,
        diameters: Diameters | None = None,
        dim: int | None = None,
        neighbors: AllPairs | NeighborList | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(potential, Potential):
            raise InvalidInput(f"a calculator needs a potential, such as mdsens.SoftSphere(), not {potential!r}")
        if dim not in (None, 2, 3):
            raise InvalidInput(f"dim must be 2 or 3, not {dim}")
        self.potential = potential
        self.diameters, self.dim, self.finder = diameters, dim, neighbors
        self._listed: tuple[System, Neighbors] | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation, species and diameters included."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None and "numbers" not in changes and _columns(atoms) != _columns(self.atoms):
            changes.append("numbers")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        here = self.configuration(self.atoms)
        energy, forces = (np.asarray(found, dtype=float) for found in _energy_and_forces(here))
        self.results |= {"energy": float(energy), "free_energy": float(energy), "forces": _with_z(forces)}
        if "stress" in properties:
            self.results["stress"] = _stress(here, self.atoms)
        if "hessian" in properties:
            self.results["hessian"] = _hessian(here)

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """∂²E/∂x² [3n, 3n], energy per length²."""
        return self.get_property("hessian", atoms)

    def configuration(self, atoms: Atoms) -> Configuration:
        """The potential, the atoms as a System, and a list of all pairs that may interact."""
        system = self._system(atoms)
        potential = self.potential.prepared_for(system)
        neighbors = self._neighbors(potential, system)
        self._listed = system, neighbors
        return Configuration(potential, system, neighbors)

    def _system(self, atoms: Atoms) -> System:
        free = atoms.copy()
        free.set_constraint()
        dim = self.dim or int(free.info.get("dim", 0)) or (2 if _is_a_layer(free) else 3)
        if dim == 2:
            free.positions[:, 2] = 0.0
        return from_ase(free, self.diameters, dim).replace(extras=None)

    def _neighbors(self, potential: Potential, system: System) -> Neighbors:
        """The last list where it is still good for these positions, and the same in everything else; else a new one."""
        if self._listed is not None and _differ_in_positions_alone(self._listed[0], system):
            validation.check_numbers(potential, system)
            known = self._listed[1]
            return update(known, potential, system) if bool(known.out_of_date(system.positions)) else known
        release_when_full()
        potential.check()
        skin = (self.finder if isinstance(self.finder, NeighborList) else NeighborList()).skin
        surveyed = validation.surveyed(potential, system, skin)
        finder = self.finder or automatic(potential, system, surveyed)
        if self._listed is not None and self._listed[0].n == system.n:
            finder = self._listed[1].finder  # its capacity, so that programs are compiled once while the cell changes
        return allocate(finder, potential, system)


def _differ_in_positions_alone(before: System, after: System) -> bool:
    if before.n != after.n or before.dim != after.dim or before.periodic != after.periodic:
        return False
    same = [np.array_equal(getattr(before, name), getattr(after, name)) for name in ("diameters", "species")]
    return all(same) and (before.box is None or np.array_equal(before.box, np.asarray(after.box)))


@eqx.filter_jit
def _energy_and_forces(here: Configuration) -> tuple[Float[Array, ""], Float[Array, "n d"]]:
    return here.energy(), -here.gradient()


@eqx.filter_jit
def _strain_gradient(here: Configuration) -> Float[Array, "d d"]:
    return here.strain_gradient()


@eqx.filter_jit
def _dense_hessian(here: Configuration) -> Float[Array, "n d n d"]:
    return here.hessian().dense()


def _stress(here: Configuration, atoms: Atoms) -> np.ndarray:
    """∂E/∂ε over ASE's volume, tension positive; of a system in two dimensions without components along z."""
    if not any(here.system.periodic):
        raise PropertyNotImplementedError("atoms in open boundaries have no stress")
    if atoms.cell.rank < 3:
        raise PropertyNotImplementedError("a cell without a volume has no stress: give it a third vector")
    d, stress = here.system.dim, np.zeros((3, 3))
    stress[:d, :d] = np.asarray(_strain_gradient(here)) / atoms.get_volume()
    return np.array([stress[place] for place in VOIGT])


def _hessian(here: Configuration) -> np.ndarray:
    n, d = here.system.positions.shape
    hessian = np.zeros((n, 3, n, 3))
    hessian[:, :d, :, :d] = _dense_hessian(here)
    return hessian.reshape(3 * n, 3 * n)


def _with_z(forces: np.ndarray) -> np.ndarray:
    return np.pad(forces, ((0, 0), (0, 3 - forces.shape[1])))


def _is_a_layer(atoms: Atoms) -> bool:
    return bool(atoms.pbc[:2].all() and not atoms.pbc[2] and in_one_plane(atoms.positions))


def _columns(atoms: Atoms) -> dict[str, Any]:
    return {name: atoms.arrays[name].tolist() for name in COLUMNS if name in atoms.arrays}
