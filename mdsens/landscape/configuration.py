"""A potential, a system and the pairs that may interact, as one argument."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..errors import InvalidInput
from ..geometry import PairList, symmetric_strains
from ..potentials import Potential
from ..potentials.base import Pairs
from ..system import System
from .hessian import BlockHessian, GeneralHessian, Hessian, PairHessian

Scalar = Float[Array, ""]


class Configuration(eqx.Module):
    """A point of the energy landscape: it knows the energy and its derivatives by positions and strain.

    **Arguments:**

    - `potential`, `system`: the energy and the particles.
    - `neighbors`: the pairs that may interact.
    """

    potential: Potential
    system: System
    neighbors: PairList
    known_pairs: Pairs | None = None

    def with_known_pairs(self) -> Configuration:
        """The same with the terms of a sum over pairs computed once, for all that need them.

        The barrier keeps XLA from computing them anew for each use, which would double the time of compiling.
        """
        return Configuration(self.potential, self.system, self.neighbors, jax.lax.optimization_barrier(self.pairs))

    def at(self, positions: Float[Array, "n d"]) -> Configuration:
        """The same with the particles at other positions."""
        return Configuration(self.potential, self.system.replace(positions=positions), self.neighbors)

    def without(self, particles: Bool[Array, " n"]) -> Configuration:
        """The same without the pairs of some particles, such as rattlers."""
        pairs = None if self.known_pairs is None else self.known_pairs.only(~particles)
        return Configuration(self.potential, self.system, self.neighbors.only(~particles), pairs)

    @property
    def pairs(self) -> Pairs | None:
        """The terms of a sum over pairs; None for any other potential."""
        if self.known_pairs is not None:
            return self.known_pairs
        return self.potential.pair_terms(self.system, self.neighbors)

    @property
    def stiffness(self) -> Scalar:
        """A typical second derivative, energy per length²."""
        return self.potential.typical_stiffness(self.system)

    @property
    def length(self) -> Scalar:
        """A typical distance between neighbors."""
        return self.potential.length(self.system)

    def energy(self) -> Scalar:
        return self.potential.energy(self.system, self.neighbors)

    def gradient(self) -> Float[Array, "n d"]:
        """∂E/∂x, minus the forces."""
        if self.known_pairs is not None:
            return self.known_pairs.gradient(self.system.n)
        return self.potential.gradient(self.system, self.neighbors)

    def hessian(self) -> Hessian:
        """∂²E/∂x², in the form that suits the potential."""
        pairs, terms = self.pairs, self.potential.local_terms(self.system)
        if terms is not None:
            return BlockHessian(terms.groups, terms.blocks(), self.system.n)
        if pairs is None:
            return GeneralHessian(self.potential, self.system, self.neighbors)
        return PairHessian(pairs.i, pairs.j, pairs.blocks(), self.system.n)

    def strain_gradient(self) -> Float[Array, "d d"]:
        """∂E/∂ε, symmetric; cell and particles follow the strain ε."""
        pairs = self.pairs
        if pairs is not None:
            pull = (pairs.slope / pairs.distance)[:, None] * pairs.separation
            return jnp.einsum("pa,pb->ab", pull, pairs.separation)
        zero = jnp.zeros((self.system.dim, self.system.dim), self.system.positions.dtype)
        slope = jax.grad(lambda strain: self._strained(strain).energy())(zero)
        return 0.5 * (slope + slope.T)

    def strain_derivatives(self) -> tuple[Float[Array, "m m"], Float[Array, "n d m"]]:
        """∂²E/∂ε², and Ξ = ∂²E/∂x∂ε, for the basis of symmetric strains, at rest, where no net force adds to Ξ."""
        basis = jnp.asarray(symmetric_strains(self.system.dim)[0], self.system.positions.dtype)
        pairs = self.pairs
        if pairs is not None:
            moves = jnp.einsum("mab,pb->pma", basis, pairs.separation)
            changes = jnp.einsum("pab,pmb->pam", pairs.blocks(), moves)
            affine = jnp.einsum("pma,pan->mn", moves, changes)
            coupling = jnp.zeros((*self.system.positions.shape, len(basis)), changes.dtype)
            return affine, coupling.at[pairs.j].add(changes).at[pairs.i].add(-changes)
        zero = jnp.zeros(len(basis), basis.dtype)

        def strained(amounts: Float[Array, " m"]) -> Configuration:
            return self._strained(jnp.einsum("m,mab->ab", amounts, basis))

        affine = jax.hessian(lambda amounts: strained(amounts).energy())(zero)
        return affine, jax.jacfwd(lambda amounts: strained(amounts).gradient())(zero)

    def _strained(self, strain: Float[Array, "d d"]) -> Configuration:
        system = self.system
        if system.box is None:
            raise InvalidInput("a system with open boundaries has no cell to strain")
        deformation = jnp.eye(system.dim, dtype=strain.dtype) + strain
        moved = system.replace(positions=system.positions @ deformation, box=system.box @ deformation)
        return Configuration(self.potential, moved, self.neighbors)
