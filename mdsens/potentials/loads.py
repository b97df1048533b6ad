"""Loads: forces on particles that do not depend on where these are."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import InvalidInput
from ..geometry import sum_components
from ..system import System
from .base import Scalar, parameter
from .bonds import TermParameter
from .local import LocalPotential, every_particle


class Load(LocalPotential):
    """Dead loads, E = -Σ f·x: a given force on each particle, wherever it moves.

    Alone it has no minimum: add it to bonds, contacts or walls. In a periodic cell x are the positions as they are,
    not wrapped into the cell, so that nothing jumps where a particle crosses a face; the forces must then add up to
    zero, or something else must bear them.

    **Arguments:**

    - `forces` ([n, d], energy per length): one force for each particle.

    **Raises** `InvalidInput`, when it is relaxed, for other shapes.
    """

    forces: Float[Array, "n d"] = parameter()

    per_term: ClassVar[tuple[str, ...]] = ("forces",)
    may_jump: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if np.ndim(self.forces) != 2:
            raise InvalidInput(f"forces must be a force for each particle, [n, d], not {list(np.shape(self.forces))}")

    def groups(self, system: System) -> Int[Array, "n 1"]:
        if self.forces.shape != system.positions.shape:
            raise InvalidInput(
                f"forces must be a force for each particle, {list(system.positions.shape)}, not "
                f"{list(self.forces.shape)}"
            )
        return every_particle(system)

    def term_energy(self, x: Float[Array, "1 d"], diameters: Float[Array, " 1"]) -> Scalar:
        return -jnp.sum(self.forces * x[0])

    def typical_stiffness(self, system: System) -> Scalar:
        """Zero: a load resists nothing."""
        return jnp.zeros((), system.positions.dtype)

    def force_scale(self, system: System) -> Scalar:
        return mean_load(self, system)


class Gravity(LocalPotential):
    """E = -Σ m g·x: a uniform acceleration.

    Alone it has no minimum: add a wall, or fixed particles. In a periodic cell x are the positions as they are, not
    wrapped into the cell: a particle that leaves it at the bottom goes on falling, unless the cell is open there
    (`System.periodic`) and something is below.

    **Arguments:**

    - `acceleration` (length per time²; [d], or one number): g; one number means downward along the last axis.
    - `masses` (one number or [n]): m.

    **Raises** `InvalidInput`, here or when it is relaxed, for other shapes, and for negative masses.
    """

    acceleration: Float[Array, ""] | Float[Array, " d"] = parameter(default=1.0)
    masses: TermParameter = parameter(default=1.0)

    per_term: ClassVar[tuple[str, ...]] = ("masses",)
    may_jump: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if np.ndim(self.acceleration) > 1 or np.ndim(self.masses) > 1:
            raise InvalidInput(
                "acceleration is one number or a vector [d], and masses are one number or [n], not "
                f"{list(np.shape(self.acceleration))} and {list(np.shape(self.masses))}"
            )

    def groups(self, system: System) -> Int[Array, "n 1"]:
        if np.shape(self.acceleration) not in ((), (system.dim,)):
            raise InvalidInput(
                f"acceleration is one number, downward along the last axis, or a vector [{system.dim}], not "
                f"{list(np.shape(self.acceleration))}"
            )
        return every_particle(system)

    def term_energy(self, x: Float[Array, "1 d"], diameters: Float[Array, " 1"]) -> Scalar:
        if jnp.ndim(self.acceleration) == 0:
            return self.masses * self.acceleration * x[0, -1]
        return -self.masses * jnp.sum(self.acceleration * x[0])

    def typical_stiffness(self, system: System) -> Scalar:
        """Zero: gravity resists nothing."""
        return jnp.zeros((), system.positions.dtype)

    def force_scale(self, system: System) -> Scalar:
        return mean_load(self, system)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        self._refuse_negative("masses")


def mean_load(potential: LocalPotential, system: System) -> Scalar:
    """The mean force on a particle; one where there is none."""
    mean = jnp.mean(jnp.sqrt(sum_components(potential.local_terms(system).gradients()[:, 0] ** 2)))
    return jnp.where(mean > 0.0, mean, 1.0)
