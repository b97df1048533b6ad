"""A measured packing, and the differences between an equilibrium and it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import minimum_image
from ..landscape.configuration import Configuration
from ..linearization import Linearization
from ..neighbors import NeighborList, PairFinder, automatic
from ..potentials import Potential
from ..properties import check_properties, measured
from ..relaxation import Equilibrium
from ..system import System

ROOM_TO_GROW = 3
"""The capacity of a neighbor list over what the measured packing needs, since diameters may grow during a fit."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A packing at rest and what was measured of it.

    **Arguments:**

    - `system`: its cell, species, the diameters as far as they are known, and positions [n, d]: those measured, or
      those from which relaxations start.
    - `positions` (bool): whether the positions are data. They are compared up to a translation and periodic images;
      rattlers are left out.
    - `properties`: measured values by name, of `mdsens.properties.REGISTRY`: energy, pressure, moduli …
    - `forces`: positions ([n, d], length) off equilibrium, and the forces ([n, d], energy per length) there.
    - `contacts` (int [c, 2]): the pairs that touch; no other pair does.
    - `uncertainties`: standard deviations, by `positions` (a length), `forces` (energy per length), `contacts` (a
      length) or the name of a property. Without them, all data have the same weight, in natural units: mean diameters,
      root mean square forces, and the measured value of a property. Standard errors are then estimated from the
      residuals.

    **Raises:**

    - `InvalidInput` for data that make no sense.
    """

    system: System
    positions: bool = True
    properties: Mapping[str, float] = dataclasses.field(default_factory=dict)
    forces: tuple[ArrayLike, ArrayLike] | None = None
    contacts: ArrayLike | None = None
    uncertainties: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_types()
        check_properties(self.properties)
        _check_finite("positions", self.system.positions)
        for name, value in self.properties.items():
            _check_finite(f"the measured {name}", value)
        if self.forces is not None:
            for name, array in zip(("positions", "forces"), self.forces, strict=True):
                if np.shape(array) != self.system.positions.shape:
                    raise InvalidInput(f"{name} off equilibrium must have shape {list(self.system.positions.shape)}")
                _check_finite(f"{name} off equilibrium", array)
        if self.contacts is not None:
            pairs = np.asarray(self.contacts)
            if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.all((pairs >= 0) & (pairs < self.system.n)):
                raise InvalidInput(f"contacts must be pairs [c, 2] of particles from 0 to {self.system.n - 1}")
        if not self.kinds:
            raise InvalidInput("this target has no data: positions, properties, forces or contacts")
        self._check_uncertainties()

    def _check_types(self) -> None:
        if isinstance(self.system, Equilibrium):
            raise InvalidInput("a Target has a System: of an equilibrium take rest.system")
        if not isinstance(self.system, System):
            raise InvalidInput(f"a Target has a System, not {type(self.system).__name__}")
        for name in ("properties", "uncertainties"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidInput(
                    f"{name} are values by name, such as {{'pressure': 0.1}}, not {getattr(self, name)!r}"
                )

    def _check_uncertainties(self) -> None:
        unknown = set(self.uncertainties) - set(self.kinds)
        if unknown:
            raise InvalidInput(
                f"there are uncertainties of {', '.join(sorted(unknown))}, and the data are {', '.join(self.kinds)}"
            )
        for name, value in self.uncertainties.items():
            if not (np.isfinite(value) and value > 0.0):
                raise InvalidInput(f"the uncertainty of {name} must be positive, not {value}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of data: `positions`, `forces`, `contacts`, and names of properties."""
        present = {
            "positions": self.positions,
            "forces": self.forces is not None,
            "contacts": self.contacts is not None,
        }
        return (*(kind for kind, given in present.items() if given), *self.properties)

    @property
    def needs_equilibrium(self) -> bool:
        """Whether an equilibrium has to be found to compare with: not for forces alone."""
        return self.kinds != ("forces",)

    def scale(self, kind: str) -> float:
        """The natural unit of one kind of data."""
        if kind in ("positions", "contacts"):
            return float(jnp.mean(self.system.diameters))
        if kind == "forces" and self.forces is not None:
            return float(np.sqrt(np.mean(np.asarray(self.forces[1]) ** 2))) or 1.0
        return abs(float(self.properties[kind])) or 1.0


def _check_finite(name: str, values: Any) -> None:
    bad = np.argwhere(~np.isfinite(np.asarray(values, float)))
    if len(bad):
        where = f" of particle {bad[0][0]}" if np.ndim(values) else ""
        raise InvalidInput(f"{name}{where} is not finite")


class Data(eqx.Module):
    """The arrays of a target: measured `values` of `properties`, forces `at` positions off equilibrium, and contacts.

    `touching` [n, n] marks the pairs (i, j), i < j, that are in contact. `finder` finds the pairs that interact.
    """

    system: System
    values: Float[Array, " m"]
    at: Float[Array, "n d"] | None
    forces: Float[Array, "n d"] | None
    touching: Bool[Array, "n n"] | None
    i: Int[Array, " c"] | None
    j: Int[Array, " c"] | None
    finder: PairFinder
    properties: tuple[str, ...] = eqx.field(static=True)
    positions: bool = eqx.field(static=True)

    @classmethod
    def from_target(cls, target: Target, potential: Potential) -> Data:
        system, dtype = target.system, target.system.positions.dtype
        at, forces = (None, None) if target.forces is None else (jnp.asarray(a, dtype) for a in target.forces)
        finder = automatic(potential, system)
        if isinstance(finder, NeighborList):
            pairs, row = ROOM_TO_GROW * finder.pairs_per_particle, ROOM_TO_GROW * finder.per_row
            finder = dataclasses.replace(finder, pairs_per_particle=pairs, per_row=row)
        touching = i = j = None
        if target.contacts is not None:
            i, j = (jnp.asarray(k) for k in np.sort(np.asarray(target.contacts, np.int32), axis=1).T)
            touching = jnp.zeros((system.n, system.n), bool).at[i, j].set(True)
        values = jnp.asarray(list(target.properties.values()), dtype)
        return cls(system, values, at, forces, touching, i, j, finder, tuple(target.properties), target.positions)


def differences(
    data: Data,
    potential: Potential,
    system: System,
    equilibrium: Equilibrium | None,
    linearization: Linearization | None,
) -> dict[str, Array]:
    """The values of an equilibrium minus those measured, by kind of data, as vectors; differentiable.

    **Arguments:**

    - `potential`, `system`: those of the equilibrium; only they are needed where forces alone are compared.
    - `linearization`: that of the equilibrium. It identifies the rattlers, whose rows are zero.
    """
    found: dict[str, Array] = {}
    if data.forces is not None and data.at is not None:
        displaced = system.replace(positions=data.at)
        pairs = data.finder.build(*jax.lax.stop_gradient((potential, displaced)))
        nan_mask = jnp.where(pairs.overflow, jnp.nan, 1.0)
        forces = -Configuration(potential, displaced, pairs).whole_gradient()
        found["forces"] = ((forces - data.forces) * nan_mask).ravel()
    if equilibrium is None or linearization is None:
        return found
    if data.positions:
        found["positions"] = _displacements(data, equilibrium, linearization).ravel()
    if data.touching is not None:
        found["contacts"] = _wrong_contacts(data, equilibrium)
    if data.properties:
        values = measured(equilibrium, data.properties) - data.values
        found |= {name: values[k : k + 1] for k, name in enumerate(data.properties)}
    return found


def _displacements(data: Data, equilibrium: Equilibrium, linearization: Linearization) -> Float[Array, "n d"]:
    """From the measured positions to those at rest, of constrained particles; without their mean where nothing pins or
    resists a translation.
    """
    constrained = linearization.contacts.constrained[:, None]
    separation = minimum_image(equilibrium.positions - data.system.positions, equilibrium.system.lattice)
    moved = jnp.where(constrained, separation, 0.0)
    if equilibrium.system.fixed is not None or equilibrium.potential.tied_to_space:
        return moved
    mean = jnp.sum(moved, axis=0) / jnp.maximum(1, jnp.sum(constrained))
    return jnp.where(constrained, moved - mean, 0.0)


def _wrong_contacts(data: Data, equilibrium: Equilibrium) -> Float[Array, " c+n"]:
    """The gap of every measured contact that is open; and for each particle its overlaps that were not measured."""
    potential, system = equilibrium.potential, equilibrium.system
    potential.require_contacts()
    pairs = equilibrium.configuration.pairs
    assert pairs is not None and data.i is not None and data.j is not None and data.touching is not None
    separation = minimum_image(system.positions[data.j] - system.positions[data.i], system.lattice)
    gap = jnp.linalg.norm(separation, axis=-1) - potential.cutoffs(system, data.i, data.j)
    unwanted = jnp.where(pairs.interacts & ~data.touching[pairs.i, pairs.j], -pairs.gap, 0.0)
    each = jnp.zeros(system.n, unwanted.dtype).at[pairs.i].add(unwanted).at[pairs.j].add(unwanted)
    return jnp.concatenate([jnp.maximum(gap, 0.0), each])
