"""A potential, a system and the pairs that may interact, as one argument."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..errors import InvalidInput
from ..geometry import PairList, scatter_to_pairs, symmetric_strains
from ..potentials import Potential
from ..potentials.terms import LocalTerms, Pairs
from ..system import System
from .hessian import BlockHessian, GeneralHessian, Hessian, PairHessian, RestrictedHessian, SumHessian

Scalar = Float[Array, ""]


class Evaluated(eqx.Module):
    """What many functions of one configuration need, each computed once.

    - `pairs`: the terms of a sum over pairs, with their derivatives; None for any other potential.
    - `local`: of each other part of the potential the local terms, with their derivatives; None where it has none.
    - `gradient` [n, d]: ∂E/∂x, also where degrees of freedom are fixed; None where it is not that of these pairs.
    - `stiffness`, `length`: a typical second derivative, energy per length², and a typical distance of neighbors.
    """

    pairs: Pairs | None
    local: tuple[LocalTerms | None, ...]
    gradient: Float[Array, "n d"] | None
    stiffness: Scalar
    length: Scalar


class Configuration(eqx.Module):
    """A point of the energy landscape: it knows the energy and its derivatives by positions and strain.

    **Arguments:**

    - `potential`, `system`: the energy and the particles.
    - `neighbors`: the pairs that may interact.
    """

    potential: Potential
    system: System
    neighbors: PairList
    known: Evaluated | None = None

    def evaluated(self) -> Configuration:
        """The same with all that many functions need computed once.

        The barrier keeps XLA from computing it anew for each use, which would double the time of compiling.
        """
        pairs = self.pairs
        pairs = None if pairs is None else pairs.evaluated()
        local = tuple(None if terms is None else terms.evaluated() for _, terms in self.others())
        known = jax.lax.optimization_barrier(Evaluated(pairs, local, None, self.stiffness, self.length))
        here = dataclasses.replace(self, known=known)
        return dataclasses.replace(self, known=dataclasses.replace(known, gradient=here.whole_gradient()))

    def at(self, positions: Float[Array, "n d"]) -> Configuration:
        """The same with the particles at other positions."""
        return Configuration(self.potential, self.system.replace(positions=positions), self.neighbors)

    def without(self, particles: Bool[Array, " n"]) -> Configuration:
        """The same without the pairs of some particles, such as rattlers."""
        known, neighbors = self.known, self.neighbors.only(~particles)
        if known is not None:
            pairs = None if known.pairs is None else known.pairs.only(~particles)
            known = dataclasses.replace(known, pairs=pairs, gradient=None)
        return Configuration(self.potential, self.system, neighbors, known)

    @property
    def pairs(self) -> Pairs | None:
        """The terms of a sum over pairs; None for any other potential."""
        if self.known is not None:
            return self.known.pairs
        return self.potential.pair_terms(self.system, self.neighbors)

    def others(self) -> list[tuple[Potential, LocalTerms | None]]:
        """The parts of the potential that are no sum over pairs, each with its local terms, if it has any."""
        parts = self.potential.others()
        if self.known is not None:
            return list(zip(parts, self.known.local, strict=True))
        return [(part, part.local_terms(self.system)) for part in parts]

    @property
    def stiffness(self) -> Scalar:
        """A typical second derivative, energy per length²."""
        return self.potential.typical_stiffness(self.system) if self.known is None else self.known.stiffness

    @property
    def length(self) -> Scalar:
        """A typical distance between neighbors."""
        return self.potential.length(self.system) if self.known is None else self.known.length

    def energy(self) -> Scalar:
        return self.potential.energy(self.system, self.neighbors)

    def gradient(self) -> Float[Array, "n d"]:
        """∂E/∂x where a degree of freedom relaxes, minus the forces that have to vanish; zero where it is fixed."""
        return self.system.relaxing(self.whole_gradient())

    def whole_gradient(self) -> Float[Array, "n d"]:
        """∂E/∂x, also where degrees of freedom are fixed: there it is the force that holds them."""
        if self.known is not None and self.known.gradient is not None:
            return self.known.gradient
        if self.known is None or self.known.pairs is None:
            return self.potential.gradient(self.system, self.neighbors)
        of_pairs = self.known.pairs.gradient(self.system.n)
        return of_pairs + self._gradient_of_others() if self.potential.others() else of_pairs

    def hessian(self) -> Hessian:
        """∂²E/∂x² of the degrees of freedom that relax, in the form that suits the potential."""
        pairs, movable = self.pairs, self.system.movable
        parts: list[Hessian] = [self._hessian_of(part, terms) for part, terms in self.others()]
        if pairs is not None:
            parts.insert(0, PairHessian(pairs.i, pairs.j, pairs.blocks(), self.system.n))
        hessian = parts[0] if len(parts) == 1 else SumHessian(tuple(parts))
        return hessian if movable is None else RestrictedHessian(hessian, movable)

    def _hessian_of(self, part: Potential, terms: LocalTerms | None) -> Hessian:
        if terms is None:
            return GeneralHessian(part, self.system, self.neighbors)
        return BlockHessian(terms.groups, terms.blocks(), self.system.n)

    def strain_gradient(self) -> Float[Array, "d d"]:
        """∂E/∂ε, symmetric; cell and particles follow the strain ε."""
        pairs, others = self.pairs, self.potential.others()
        slopes = []
        if pairs is not None:
            pull = (pairs.slope / pairs.distance)[:, None] * pairs.separation
            slopes.append(jnp.einsum("pa,pb->ab", pull, pairs.separation))
        if others:
            zero = jnp.zeros((self.system.dim, self.system.dim), self.system.positions.dtype)
            slope = jax.grad(lambda strain: self._strained(strain)._energy_of_others())(zero)
            slopes.append(0.5 * (slope + slope.T))
        return sum(slopes[1:], slopes[0])

    def strain_derivatives(self) -> tuple[Float[Array, "m m"], Float[Array, "n d m"]]:
        """∂²E/∂ε², and Ξ = ∂²E/∂x∂ε, for the basis of symmetric strains, at rest, where no net force adds to Ξ."""
        basis = jnp.asarray(symmetric_strains(self.system.dim)[0], self.system.positions.dtype)
        found = [] if self.pairs is None else [self._strain_derivatives_of_pairs(self.pairs, basis)]
        if self.potential.others():
            found.append(self._strain_derivatives_of_others(basis))
        affine, coupling = (sum(parts[1:], parts[0]) for parts in zip(*found, strict=True))
        return affine, coupling

    def _strain_derivatives_of_pairs(self, pairs: Pairs, basis: Float[Array, "m d d"]) -> tuple[Array, Array]:
        moves = jnp.einsum("mab,pb->pma", basis, pairs.separation)
        changes = jnp.einsum("pab,pmb->pam", pairs.blocks(), moves)
        affine = jnp.einsum("pma,pan->mn", moves, changes)
        return affine, scatter_to_pairs(pairs.i, pairs.j, changes, self.system.n)

    def _strain_derivatives_of_others(self, basis: Float[Array, "m d d"]) -> tuple[Array, Array]:
        zero = jnp.zeros(len(basis), basis.dtype)

        def strained(amounts: Float[Array, " m"]) -> Configuration:
            return self._strained(jnp.einsum("m,mab->ab", amounts, basis))

        affine = jax.hessian(lambda amounts: strained(amounts)._energy_of_others())(zero)
        return affine, jax.jacfwd(lambda amounts: strained(amounts)._gradient_of_others())(zero)

    def _energy_of_others(self) -> Scalar:
        energies = [part.energy(self.system, self.neighbors) for part in self.potential.others()]
        return sum(energies[1:], energies[0])

    def _gradient_of_others(self) -> Float[Array, "n d"]:
        gradients = [part.gradient(self.system, self.neighbors) for part in self.potential.others()]
        return sum(gradients[1:], gradients[0])

    def _strained(self, strain: Float[Array, "d d"]) -> Configuration:
        system = self.system
        if system.box is None:
            raise InvalidInput("a system with open boundaries has no cell to strain")
        deformation = jnp.eye(system.dim, dtype=strain.dtype) + strain
        moved = system.replace(positions=system.positions @ deformation, box=system.box @ deformation)
        return Configuration(self.potential, moved, self.neighbors)
