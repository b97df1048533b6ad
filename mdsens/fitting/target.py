"""A measured packing, and by how much an equilibrium differs from it."""

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

from ..contacts import standing
from ..errors import InvalidInput
from ..hessian import gradient
from ..neighbors import AllPairs, NeighborList, automatic
from ..potentials import PairPotential, Potential
from ..properties import check_properties, measured
from ..relaxation import Equilibrium
from ..system import System, minimum_image


@dataclasses.dataclass(frozen=True)
class Target:
    """A packing at rest and what was measured of it.

    **Arguments:**

    - `system`: its cell, species, the diameters as far as they are known, and positions [n, d]: those measured, or
      where relaxations start.
    - `positions`: whether the positions are data; compared up to a translation and periodic images. Particles that
      nothing holds tell nothing.
    - `properties`: measured values by name, of `mdsens.properties.NAMED`: energy, pressure, moduli …
    - `forces`: positions [n, d] off equilibrium, and the forces [n, d] there.
    - `contacts`: the pairs [c, 2] that touch, all others not.
    - `uncertainties`: standard deviations, by `positions` (a length), `forces`, `contacts` (a length) or the name of a
      property. Without, all data weigh alike, measured in mean diameters, in root mean square forces, and relative to
      the value; standard errors are then estimated from the residuals.

    **Raises** `InvalidInput` for data that cannot be meant.
    """

    system: System
    positions: bool = True
    properties: Mapping[str, float] = dataclasses.field(default_factory=dict)
    forces: tuple[ArrayLike, ArrayLike] | None = None
    contacts: ArrayLike | None = None
    uncertainties: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_arguments()
        check_properties(self.properties)
        _finite("positions", self.system.positions)
        for name, value in self.properties.items():
            _finite(f"the measured {name}", value)
        if self.forces is not None:
            for name, array in zip(("positions", "forces"), self.forces, strict=True):
                if np.shape(array) != self.system.positions.shape:
                    raise InvalidInput(f"{name} off equilibrium must have shape {list(self.system.positions.shape)}")
                _finite(f"{name} off equilibrium", array)
        if self.contacts is not None:
            pairs = np.asarray(self.contacts)
            if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.all((pairs >= 0) & (pairs < self.system.n)):
                raise InvalidInput(f"contacts must be pairs [c, 2] of particles from 0 to {self.system.n - 1}")
        if not self.kinds:
            raise InvalidInput("this target has no data: positions, properties, forces or contacts")
        self._check_uncertainties()

    def _check_arguments(self) -> None:
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
                f"uncertainties of {', '.join(sorted(unknown))}, and the data are {', '.join(self.kinds)}"
            )
        for name, value in self.uncertainties.items():
            if not (np.isfinite(value) and value > 0.0):
                raise InvalidInput(f"the uncertainty of {name} must be positive, not {value}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What there are data of."""
        arrays = ("positions" if self.positions else "", "forces" if self.forces is not None else "")
        contacts = "contacts" if self.contacts is not None else ""
        return tuple(kind for kind in (*arrays, contacts, *self.properties) if kind)

    @property
    def needs_rest(self) -> bool:
        """Whether an equilibrium is needed to compare with: not for forces alone."""
        return self.kinds != ("forces",)

    def scale(self, kind: str) -> float:
        """The natural unit of one kind of data."""
        if kind in ("positions", "contacts"):
            return float(jnp.mean(self.system.diameters))
        if kind == "forces" and self.forces is not None:
            return float(np.sqrt(np.mean(np.asarray(self.forces[1]) ** 2))) or 1.0
        return abs(float(self.properties[kind])) or 1.0


def _finite(what: str, values: Any) -> None:
    bad = np.argwhere(~np.isfinite(np.asarray(values, float)))
    if len(bad):
        where = f" of particle {bad[0][0]}" if np.ndim(values) else ""
        raise InvalidInput(f"{what}{where} is not finite")


class Data(eqx.Module):
    """The arrays of a target, for the device."""

    system: System
    values: Float[Array, " m"]
    at: Float[Array, "n d"] | None
    forces: Float[Array, "n d"] | None
    touching: Bool[Array, "n n"] | None
    i: Int[Array, " c"] | None
    j: Int[Array, " c"] | None
    properties: tuple[str, ...] = eqx.field(static=True)
    positions: bool = eqx.field(static=True)
    kind: AllPairs | NeighborList = eqx.field(static=True)

    @classmethod
    def of(cls, target: Target, potential: Potential) -> Data:
        system, dtype = target.system, target.system.positions.dtype
        at, forces = (None, None) if target.forces is None else (jnp.asarray(a, dtype) for a in target.forces)
        kind = automatic(potential, system)
        if isinstance(kind, NeighborList):  # sizes may grow on the way
            kind = dataclasses.replace(kind, pairs_per_particle=3 * kind.pairs_per_particle, per_row=3 * kind.per_row)
        touching = i = j = None
        if target.contacts is not None:
            i, j = (jnp.asarray(k) for k in np.sort(np.asarray(target.contacts, np.int32), axis=1).T)
            touching = jnp.zeros((system.n, system.n), bool).at[i, j].set(True)
        values = jnp.asarray(list(target.properties.values()), dtype)
        return cls(system, values, at, forces, touching, i, j, tuple(target.properties), target.positions, kind)


def differences(data: Data, potential: Potential, system: System, rest: Equilibrium | None) -> dict[str, Array]:
    """What an equilibrium has less what was measured, by kind, as vectors; differentiable.

    `potential` and `system` are those of the equilibrium, which is not needed where only forces are compared. Rows of
    particles that nothing holds are zero.
    """
    found: dict[str, Array] = {}
    if data.positions and rest is not None:
        found["positions"] = _displacements(data, rest).ravel()
    if data.forces is not None and data.at is not None:
        displaced = system.replace(positions=data.at)
        pairs = data.kind.build(*jax.lax.stop_gradient((potential, displaced)))
        sound = jnp.where(pairs.overflow, jnp.nan, 1.0)
        found["forces"] = ((-gradient(potential, displaced, pairs) - data.forces) * sound).ravel()
    if data.touching is not None and rest is not None:
        found["contacts"] = _wrong_contacts(data, rest)
    if data.properties and rest is not None:
        values = measured(rest, data.properties) - data.values
        found |= {name: values[k : k + 1] for k, name in enumerate(data.properties)}
    return found


def _displacements(data: Data, rest: Equilibrium) -> Float[Array, "n d"]:
    """From the measured positions to those at rest, without the translation of what is held."""
    here = jax.lax.stop_gradient((rest.potential, rest.frozen.system, rest.close, rest.curvature))
    held = ~standing(*here).rattlers[:, None]
    moved = jnp.where(held, minimum_image(rest.positions - data.system.positions, rest.system.box), 0.0)
    return jnp.where(held, moved - jnp.sum(moved, axis=0) / jnp.maximum(1, jnp.sum(held)), 0.0)


def _wrong_contacts(data: Data, rest: Equilibrium) -> Float[Array, " c+n"]:
    """The gap of every contact that is open; and for each particle the overlaps with those it should not touch."""
    potential, system = rest.potential, rest.system
    if not isinstance(potential, PairPotential):
        raise InvalidInput(f"{type(potential).__name__} is no sum over pairs: it has no contacts to compare")
    assert data.i is not None and data.j is not None and data.touching is not None
    apart = minimum_image(system.positions[data.j] - system.positions[data.i], system.box)
    gap = jnp.linalg.norm(apart, axis=-1) - potential.cutoffs(system, data.i, data.j)
    pairs = potential.pairs(system, rest.close)
    unwanted = jnp.where(pairs.interacts & ~data.touching[pairs.i, pairs.j], -pairs.gap, 0.0)
    each = jnp.zeros(system.n, unwanted.dtype).at[pairs.i].add(unwanted).at[pairs.j].add(unwanted)
    return jnp.concatenate([jnp.maximum(gap, 0.0), each])
