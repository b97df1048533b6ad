"""Springs that tie particles to points in space."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import InvalidInput
from ..geometry import minimum_image
from ..system import System
from .base import Scalar, parameter
from .bonds import TermParameter
from .local import LocalPotential, along_lattice, every_particle, half_height, members, positions_on_host, typical


class Tethers(LocalPotential):
    """E = Σ ½ k |x - a|² over given particles, a the anchor of each.

    In a periodic cell a particle is tied to the nearest image of its anchor, so that the same anchors serve where
    particles have crossed a face. Anchors do not follow a strain of the cell.

    **Arguments:**

    - `anchors` ([n, d], or [m, d] for m particles, length): a.
    - `stiffness` (energy per length²; one number or [n], [m]): k.
    - `particles` (int [m]): those that are tied; all of them, in order, if None.

    **Raises**, here or when it is relaxed:

    - `InvalidInput` for particles that are not there, numbers that are negative or not one for each tether, and a
      tether longer than half the cell's smallest height, where the nearest image is ambiguous.
    """

    anchors: Float[Array, "m d"] = parameter()
    stiffness: TermParameter = parameter(default=1.0)
    particles: Int[Array, " m"] | None = members(1, "[0, 5]", default=None)

    per_term: ClassVar[tuple[str, ...]] = ("anchors", "stiffness")
    may_jump: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if np.ndim(self.anchors) != 2:
            raise InvalidInput(f"anchors must be a point for each particle, [m, d], not {list(np.shape(self.anchors))}")
        self._check_rows(len(self.anchors) if self.particles is None else len(self.particles))

    def groups(self, system: System) -> Int[Array, "m 1"]:
        each = every_particle(system)[:, 0] if self.particles is None else self.particles
        if self.anchors.shape != (len(each), system.dim):
            raise InvalidInput(
                f"anchors must be a point for each particle, {[len(each), system.dim]}, not "
                f"{list(self.anchors.shape)}; say which particles are tied by particles=…"
            )
        return each[:, None]

    def _resolved(self, system: System, groups: Int[Array, "m 1"]) -> Float[Array, "m 1 d"]:
        """The image of each particle that is nearest to its anchor."""
        x, anchors = super()._resolved(system, groups), self.anchors[:, None]
        return x if system.box is None else anchors + minimum_image(x - anchors, system.lattice)

    def term_energy(self, x: Float[Array, "1 d"], diameters: Float[Array, " 1"]) -> Scalar:
        return 0.5 * self.stiffness * jnp.sum((x[0] - self.anchors) ** 2)

    def typical_stiffness(self, system: System) -> Scalar:
        return typical(jnp.atleast_1d(self.stiffness))

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        self._refuse_negative("stiffness")
        apart = positions_on_host(self, system)[:, 0] - np.asarray(self.anchors)
        far, half = along_lattice(system, apart), half_height(system)
        if np.any(far > half):
            k = int(np.argmax(far > half))
            raise InvalidInput(
                f"the tether of particle {int(np.asarray(self.groups(system))[k, 0])} is {far[k]:.4g} long, and half "
                f"of the cell's smallest height is {half:.4g}: its nearest image is ambiguous"
            )
