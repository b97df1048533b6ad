"""Bonds between given pairs of particles."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ..errors import InvalidInput
from ..geometry import sum_components
from ..system import System
from .base import Scalar, parameter
from .local import LocalPotential, along_lattice, half_height, members, positions_on_host, refuse_repeated, typical

TermParameter = Float[Array, ""] | Float[Array, " m"]


class Bonds(LocalPotential):
    """E = Σ ½ k (r - l)² over given bonds, r the length of a bond to the nearest periodic image.

    Bonds with another energy take three lines; `self.stiffness` and `self.rest_length` are there those of the bond at
    hand:

        class Strings(mdsens.Bonds):
            contact = True  # they begin to pull where they are taut

            def bond_energy(self, r):
                taut = r > self.rest_length
                return jnp.where(taut, 0.5 * self.stiffness * (r - self.rest_length) ** 2, 0.0)

    **Arguments:**

    - `pairs` (int [m, 2]): the particles of each bond.
    - `stiffness` (energy per length²; one number or [m]): k.
    - `rest_length` (length; one number or [m]): l.

    **Raises**, here or when it is relaxed:

    - `InvalidInput` for a bond of a particle to itself or to one that is not there, numbers that are negative or not
      one for each bond, and a bond longer than half the cell's smallest height, where the nearest image is ambiguous.
    """

    pairs: Int[Array, "m 2"] = members(2, "[[0, 1], [1, 2]]")
    stiffness: TermParameter = parameter(default=1.0)
    rest_length: TermParameter = parameter(default=1.0)

    per_term: ClassVar[tuple[str, ...]] = ("stiffness", "rest_length")
    _source: ClassVar[str] = "bond_energy(r)"
    tied_to_space: ClassVar[bool] = False

    def __check_init__(self) -> None:
        refuse_repeated("the bond", self.pairs)
        self._check_rows(len(self.pairs))

    def bond_energy(self, r: Scalar) -> Scalar:
        """The energy of one bond of the length r."""
        return 0.5 * self.stiffness * (r - self.rest_length) ** 2

    @property
    def may_jump(self) -> bool:  # type: ignore[override]
        return type(self).bond_energy is not Bonds.bond_energy

    def groups(self, system: System) -> Int[Array, "m 2"]:
        return self.pairs

    def lengths(self, system: System) -> Float[Array, " m"]:
        """The length of each bond, to the nearest periodic image; differentiable."""
        x = self.local_terms(system).positions
        return jnp.sqrt(sum_components((x[:, 1] - x[:, 0]) ** 2))

    def tensions(self, system: System) -> Float[Array, " m"]:
        """The force of each bond, energy per length: positive where it pulls its ends together."""
        return jax.vmap(lambda bond, r: jax.grad(bond.bond_energy)(r), (self._axes(), 0))(self, self.lengths(system))

    def only(self, kept: ArrayLike) -> Bonds:
        """Some of the bonds, chosen by their numbers or by True and False [m]."""
        some = {name: getattr(self, name) for name in self.per_term}
        chosen = np.asarray(kept)
        return dataclasses.replace(
            self,
            pairs=self.pairs[chosen],
            **{name: value[chosen] if np.ndim(value) else value for name, value in some.items()},
        )

    def term_energy(self, x: Float[Array, "2 d"], diameters: Float[Array, " 2"]) -> Scalar:
        return self.bond_energy(jnp.sqrt(sum_components((x[1] - x[0]) ** 2)))

    def typical_stiffness(self, system: System) -> Scalar:
        """The second derivative of bonds at their rest lengths, or a little beyond if it vanishes there."""

        def of_bond(bond: Bonds) -> Scalar:
            second = jax.grad(jax.grad(bond.bond_energy))
            at_rest = second(bond.rest_length)
            return jnp.where(at_rest == 0.0, second(1.05 * bond.rest_length), at_rest)

        of_bonds = jax.vmap(of_bond, (self._axes(),), axis_size=len(self.pairs))
        return typical(jnp.abs(of_bonds(self)))

    def length(self, system: System) -> Scalar:
        """The mean rest length."""
        mean = jnp.mean(self.rest_length)
        return jnp.where(mean > 0.0, mean, super().length(system))

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        refuse_repeated("the bond", self.pairs)
        self._refuse_negative("stiffness")
        self._refuse_negative("rest_length")
        x, half = positions_on_host(self, system), half_height(system)
        now = np.linalg.norm(x[:, 1] - x[:, 0], axis=1)
        longer = along_lattice(system, x[:, 1] - x[:, 0]) > half
        if all(system.periodic):  # else a bond may find room across the cell
            longer = longer | (np.asarray(self.rest_length) > half)
        if longer.any():
            k = int(np.argmax(longer))
            raise InvalidInput(
                f"the bond {np.asarray(self.pairs)[k].tolist()} is {now[k]:.4g} long, with a rest length of "
                f"{float(np.broadcast_to(np.asarray(self.rest_length), now.shape)[k]):.4g}, and half of the cell's "
                f"smallest height is {half:.4g}: its nearest image is ambiguous; repeat the cell, and the bonds with it"
            )
