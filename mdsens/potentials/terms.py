"""The terms of potentials that are sums: over pairs within a cutoff, and over given groups of particles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..geometry import gather, scatter, scatter_to_pairs, sum_components


class PairValues(NamedTuple):
    """φ'(r), φ''(r), the gap, and |φ''| just within the cutoff, of every term of a sum over pairs."""

    slope: Float[Array, " p"]
    curvature: Float[Array, " p"]
    gap: Float[Array, " p"]
    stiffness_at_cutoff: Float[Array, " p"]


class Pairs(eqx.Module):
    """The terms of one sum over pairs, or of k of them one after another, each with all m pairs of a list: p = k m.

    - `i`, `j`, `separation`: the two particles, and x_j - x_i.
    - `distance`: between them. Where a pair does not interact it is a harmless substitute within the cutoff.
    - `cutoff`, `sigma`: beyond which the term is zero, and σ of the pair.
    - `interacts`: whether the pair is within the cutoff. `listed` is False for the empty slots of the list.
    - `potentials`, `axes`: of each sum, with pair matrices looked up, and how to `vmap` it.
    - `by_contact`: whether each sum acts by contact.
    - `known`: what many functions need of every term, once it is computed.
    """

    i: Int[Array, " p"]
    j: Int[Array, " p"]
    separation: Float[Array, "p d"]
    distance: Float[Array, " p"]
    cutoff: Float[Array, " p"]
    sigma: Float[Array, " p"]
    interacts: Bool[Array, " p"]
    listed: Bool[Array, " p"]
    potentials: tuple[Any, ...]
    axes: tuple[Any, ...] = eqx.field(static=True)
    by_contact: tuple[bool, ...] = eqx.field(static=True)
    known: PairValues | None = None

    @classmethod
    def joined(cls, sums: Sequence[Pairs]) -> Pairs:
        """The terms of several sums over the pairs of one list."""
        if len(sums) == 1:
            return sums[0]

        def together(name: str) -> Any:
            of_sums = [getattr(each, name) for each in sums]
            if of_sums[0] is None:
                return None
            return sum(of_sums, ()) if isinstance(of_sums[0], tuple) else jnp.concatenate(of_sums)

        return cls(**{field.name: together(field.name) for field in dataclasses.fields(cls)})

    def evaluated(self) -> Pairs:
        """The same with the derivatives and the gap of every term computed, for all that need them."""
        slope, curvature = self.map(
            lambda potential, r, sigma: jax.value_and_grad(jax.grad(potential.pair_energy))(r, sigma)
        )
        known = PairValues(slope, curvature, self.gap, self.stiffness_at_cutoff)
        return dataclasses.replace(self, known=known)

    def only(self, keep: Bool[Array, " n"]) -> Pairs:
        """The same, but only pairs of which both particles are kept interact."""
        both = gather(keep, self.i) & gather(keep, self.j)
        interacts, known = self.interacts & both, self.known
        if known is not None:
            slope, curvature = (jnp.where(interacts, each, 0.0) for each in (known.slope, known.curvature))
            known = known._replace(slope=slope, curvature=curvature)
        return dataclasses.replace(self, interacts=interacts, listed=self.listed & both, known=known)

    def by_sum(self, values: Array) -> Array:
        """Values of all terms [p], as [k, m]."""
        return values.reshape(len(self.potentials), -1)

    def any(self, chosen: Bool[Array, " p"]) -> Bool[Array, " m"]:
        """Whether one of the terms of each pair is among the chosen ones."""
        return jnp.any(self.by_sum(chosen), axis=0)

    def count(self, chosen: Bool[Array, " p"], n: int) -> Int[Array, " n"]:
        """The number of pairs that each particle is in of which a term is chosen."""
        pairs = self.any(chosen)
        ends = jnp.stack([self.i, self.j])[:, : pairs.size]
        return scatter(jnp.broadcast_to(pairs.astype(jnp.int32), ends.shape), ends, n)

    def map(self, function: Any) -> Any:
        """`function(potential, r, sigma)` of every term, an array or several, zero where the pair does not interact."""
        of_sums = zip(self.potentials, self.axes, self.by_sum(self.distance), self.by_sum(self.sigma), strict=True)
        values = [jax.vmap(function, (axes, 0, 0))(potential, r, sigma) for potential, axes, r, sigma in of_sums]

        def of_all(*parts: Array) -> Array:
            return jnp.where(self.interacts, jnp.concatenate(parts) if len(parts) > 1 else parts[0], 0.0)

        return jax.tree.map(of_all, *values)

    @property
    def slope(self) -> Float[Array, " p"]:
        """φ'(r) of every term."""
        if self.known is not None:
            return self.known.slope
        return self.map(lambda potential, r, sigma: jax.grad(potential.pair_energy)(r, sigma))

    @property
    def curvature(self) -> Float[Array, " p"]:
        """φ''(r) of every term."""
        if self.known is not None:
            return self.known.curvature
        return self.map(lambda potential, r, sigma: jax.grad(jax.grad(potential.pair_energy))(r, sigma))

    @property
    def stiffness_at_cutoff(self) -> Float[Array, " p"]:
        """|φ''(r)| of every term just within its cutoff, whatever its distance: what is lost where the pair parts."""
        if self.known is not None:
            return self.known.stiffness_at_cutoff
        just_inside = self.cutoff * (1.0 - 8.0 * jnp.finfo(self.cutoff.dtype).eps)
        everywhere = jnp.ones_like(self.interacts)
        return jnp.abs(dataclasses.replace(self, distance=just_inside, interacts=everywhere).curvature)

    def can_touch(self, least_jump: Float[Array, ""]) -> Bool[Array, " p"]:
        """The terms whose cutoff is where a contact opens or closes.

        All terms of a potential that acts by contact, also where its stiffness sets in from zero (Hertzian spheres):
        there the response is continuous, but bends. Of other potentials those whose stiffness jumps there by more than
        the least: a pair that a switch takes smoothly to zero leaves nothing behind.
        """
        if all(self.by_contact):
            return jnp.ones_like(self.interacts)
        by_contact = jnp.repeat(jnp.asarray(self.by_contact), self.i.size // len(self.by_contact))
        return by_contact | (self.stiffness_at_cutoff > least_jump)

    @property
    def force(self) -> Float[Array, " p"]:
        """|φ'(r)| of every term."""
        return jnp.abs(self.slope)

    def gradient(self, n: int) -> Float[Array, "n d"]:
        """The sum of ∂φ/∂x over the terms, for n particles."""
        pull = (self.slope / self.distance)[:, None] * self.separation
        return scatter_to_pairs(self.i, self.j, pull, n)

    def blocks(self) -> Float[Array, "p d d"]:
        """φ'' n nᵀ + (φ'/r)(1 - n nᵀ) of every term, zero where the pair does not interact."""
        slope, curvature = self.slope, self.curvature
        normal = self.separation / jnp.where(self.interacts, self.distance, 1.0)[:, None]
        tension = slope / self.distance
        along = (curvature - tension)[:, None, None] * normal[:, :, None] * normal[:, None, :]
        across = tension[:, None, None] * jnp.eye(normal.shape[1], dtype=normal.dtype)
        return jnp.where(self.interacts[:, None, None], along + across, 0.0)

    @property
    def gap(self) -> Float[Array, " p"]:
        """The distance between the particles minus the cutoff: negative where they interact."""
        if self.known is not None:
            return self.known.gap
        squared = sum_components(self.separation**2)
        apart = squared > 0.0
        return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0) - self.cutoff


class LocalValues(NamedTuple):
    """The first and second derivatives of every local term by the positions of its particles."""

    gradients: Float[Array, "m k d"]
    blocks: Float[Array, "m k d k d"]


class LocalTerms(eqx.Module):
    """The terms of a sum over groups of k particles: the particles of each term, their positions with periodic images
    resolved, and their diameters; `known`, the first and second derivatives, once they are computed.
    """

    groups: Int[Array, "m k"]
    positions: Float[Array, "m k d"]
    diameters: Float[Array, "m k"]
    potential: Any
    axes: Any = eqx.field(static=True)
    known: LocalValues | None = None

    def evaluated(self) -> LocalTerms:
        """The same with the derivatives of every term computed, for all that need them."""
        return dataclasses.replace(self, known=LocalValues(self.gradients(), self.blocks()))

    def moved(self, by: Float[Array, "k d"]) -> LocalTerms:
        """The same with the particles of every term moved."""
        return dataclasses.replace(self, positions=self.positions + by, known=None)

    def map(self, function: Any) -> Array:
        """`function(potential, x, diameters)` of every term."""
        return jax.vmap(function, (self.axes, 0, 0))(self.potential, self.positions, self.diameters)

    def energies(self) -> Float[Array, " m"]:
        """The energy of every term."""
        return self.map(lambda potential, x, diameters: potential.term_energy(x, diameters))

    def gradients(self) -> Float[Array, "m k d"]:
        """The derivative of every term by the positions of its particles."""
        if self.known is not None:
            return self.known.gradients
        return self.map(lambda potential, x, diameters: jax.grad(potential.term_energy)(x, diameters))

    def blocks(self) -> Float[Array, "m k d k d"]:
        """The second derivatives of every term by the positions of its particles."""
        if self.known is not None:
            return self.known.blocks
        return self.map(lambda potential, x, diameters: jax.hessian(potential.term_energy)(x, diameters))

    def resists(self) -> Bool[Array, " m"]:
        """Whether a second derivative of each term is other than zero."""
        return jnp.any(self.blocks() != 0.0, axis=(1, 2, 3, 4))
