"""What a potential is, and the base class for pair potentials."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..system import System, minimum_image, over_components

if TYPE_CHECKING:
    from ..neighbors import Neighbors

Scalar = Float[Array, ""]
PairParameter = Float[Array, ""] | Float[Array, "s s"]


def parameter(**options: Any) -> Any:
    """A field that holds a parameter: one number, or a matrix with one per pair of species."""
    return eqx.field(converter=lambda value: None if value is None else jnp.asarray(value, dtype=float), **options)


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf of a potential can be differentiated: a number or an array of floats."""
    return (isinstance(leaf, int | float) and not isinstance(leaf, bool)) or eqx.is_inexact_array(leaf)


def separations(system: System, neighbors: Neighbors) -> Float[Array, "p d"]:
    """x_j - x_i of every listed pair, in the image that is meant."""
    separation = minimum_image(system.positions[neighbors.j] - system.positions[neighbors.i], system.box)
    if neighbors.shift is not None and system.box is not None:
        separation = separation + neighbors.shift @ system.box
    return separation


def _shown(value: Any) -> str:
    """A parameter as one would type it; of large or traced arrays the shape."""
    if isinstance(value, jax.core.Tracer) or (eqx.is_array(value) and value.size > 16):
        return f"{value.dtype}{list(value.shape)}"
    return str(np.asarray(value).tolist()) if eqx.is_array(value) else repr(value)


STIFFEST = 0.4
"""The least fraction of the stiffest pair's second derivative that counts as typical: curvatures reach seven times
that in dense packings, and FIRE's steps of 0.5 in these units are stable below sixteen times the typical one.
"""


class Potential(eqx.Module):
    """An energy of a system. Its array leaves are its parameters, and all of them are differentiable.

    `listed` is to be set True in a class whose `energy` looks at the pairs it is given alone, and whose particles do
    not interact beyond `reach`: large systems then have a neighbor list.
    """

    listed: ClassVar[bool] = False

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={_shown(value)}' for name, value in given.items())})"

    @abc.abstractmethod
    def energy(self, system: System, neighbors: Neighbors) -> Scalar:
        """The potential energy, given the pairs that may interact."""

    def reach(self, system: System) -> Scalar:
        """The distance beyond which no two particles interact; infinite where all pairs are needed."""
        return jnp.asarray(jnp.inf, system.positions.dtype)

    def cutoffs(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> Float[Array, " p"]:
        """The distance up to which each of the pairs (i, j) may interact."""
        return jnp.broadcast_to(self.reach(system), i.shape)

    def stiffness(self, system: System) -> Scalar:
        """A typical second derivative, energy per length², by which minimizers measure their steps.

        Of a sum over pairs the geometric mean over the particles, each with its like; and so much of the largest, that
        of unlike species included, that steps measured by it are stable.
        """
        return jnp.asarray(1.0, system.positions.dtype)

    def covers(self, system: System) -> Bool[Array, ""]:
        """Whether there are parameters for all species of a system."""
        return jnp.asarray(True)

    def in_precision_of(self, system: System) -> Self:
        """The same potential with every parameter an array in the precision of the positions."""

        def convert(leaf: Any) -> Any:
            return jnp.asarray(leaf, dtype=system.positions.dtype) if is_parameter(leaf) else leaf

        return jax.tree.map(convert, self)


class PairPotential(Potential):
    """The base for potentials that are a sum over pairs; a new one takes five lines.

        class Gaussian(mdsens.PairPotential):
            epsilon: jax.Array
            def pair_energy(self, r, sigma):
                return self.epsilon * jnp.exp(-((r / sigma) ** 2))
            def cutoff(self, sigma):
                return 6.0 * sigma

    `pair_energy` is written for one pair: r and sigma are numbers, and so is every parameter. A
    parameter that was given as a matrix [s, s] holds, inside `pair_energy`, the entry for the
    two species at hand (the symmetric part of the matrix counts). `sigma`, a length, is
    (D_i + D_j)/2 unless the keyword `sigma`, a number or a matrix [s, s], was given.

    `contact` is to be set True in a class whose particles interact only where they touch: they
    repel for r < cutoff, and the energy is zero beyond. Rattlers are then told from the number
    of contacts.
    """

    sigma: PairParameter | None = parameter(default=None, kw_only=True)

    contact: ClassVar[bool] = False
    listed: ClassVar[bool] = True

    @abc.abstractmethod
    def pair_energy(self, r: Scalar, sigma: Scalar) -> Scalar:
        """φ(r) of one pair at the distance r < cutoff."""

    @abc.abstractmethod
    def cutoff(self, sigma: Scalar) -> Scalar:
        """The distance from which on the pair does not interact.

        φ and φ' should vanish there, or no minimizer comes to rest with a pair at the cutoff: multiply
        by `mdsens.potentials.smooth_switch` where they do not.
        """

    def pair_stiffness(self, sigma: Scalar) -> Scalar:
        """A typical φ''(r) of one pair: at r = σ, a little within if it vanishes there, unless a class says better."""
        bend = jax.grad(jax.grad(self.pair_energy))
        touching = bend(sigma, sigma)
        return jnp.where(touching == 0.0, bend(0.95 * sigma, sigma), touching)

    def energy(self, system: System, neighbors: Neighbors) -> Scalar:
        pairs = self.pairs(system, neighbors)
        return jnp.sum(pairs.map(lambda potential, r, sigma: potential.pair_energy(r, sigma)))

    @eqx.filter_jit
    def reach(self, system: System) -> Scalar:
        potential, axes, sigma = self._of_species(system)
        return jnp.max(jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma))

    @eqx.filter_jit
    def covers(self, system: System) -> Bool[Array, ""]:
        count = self._species_told_apart
        return jnp.asarray(True) if count == 1 else jnp.all((system.species >= 0) & (system.species < count))

    @eqx.filter_jit
    def stiffness(self, system: System) -> Scalar:
        like, unlike = (self._stiffness_of(*pairs) for pairs in (self._like(system), self._of_species(system)))
        stiff = like > 0.0
        logarithm = jnp.where(stiff, jnp.log(jnp.where(stiff, like, 1.0)), 0.0)
        typical = jnp.exp(jnp.sum(logarithm) / jnp.maximum(jnp.sum(stiff), 1))
        return jnp.maximum(typical, STIFFEST * jnp.maximum(jnp.max(like), jnp.max(unlike)))

    def _stiffness_of(self, potential: Self, axes: Self, sigma: Float[Array, " p"]) -> Float[Array, " p"]:
        """Of pairs; zero where it is none."""
        found = jnp.abs(jax.vmap(type(self).pair_stiffness, (axes, 0))(potential, sigma))
        return jnp.where(jnp.isfinite(found), found, 0.0)

    def _like(self, system: System) -> tuple[Self, Self, Array]:
        """Every particle with its like."""
        each = jnp.arange(system.n)
        return self.for_particles(system, each, each)

    def _of_species(self, system: System) -> tuple[Self, Self, Array]:
        """Every species with every other, of the largest diameter that there is in each."""
        count = self._species_told_apart
        species = system.species if count > 1 else jnp.zeros_like(system.species)
        largest = jax.ops.segment_max(system.diameters, species, num_segments=count)
        i, j = (k.ravel() for k in jnp.meshgrid(jnp.arange(count), jnp.arange(count)))
        return self.for_species(i, j, largest[i], largest[j])

    def cutoffs(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> Float[Array, " p"]:
        potential, axes, sigma = self.for_particles(system, i, j)
        return jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma)

    def pairs(self, system: System, neighbors: Neighbors) -> Pairs:
        """The listed pairs with all that a function of a pair needs."""
        i, j = neighbors.i, neighbors.j
        separation = separations(system, neighbors)
        squared = over_components(separation**2)
        potential, axes, sigma = self.for_particles(system, i, j)
        cutoff = jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma)
        interacts = neighbors.valid & ~(squared >= cutoff**2)  # so that NaN is not mistaken for far apart
        distance = jnp.sqrt(jnp.where(interacts, squared, jax.lax.stop_gradient((0.9 * cutoff) ** 2)))
        return Pairs(i, j, separation, distance, cutoff, sigma, interacts, neighbors.valid, potential, axes)

    def for_particles(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> tuple[Self, Self, Array]:
        """`for_species` for particles i and j of a system."""
        kinds, sizes = system.species, system.diameters
        return self.for_species(kinds[i], kinds[j], sizes[i], sizes[j])

    def for_species(
        self, s: Int[Array, " p"], t: Int[Array, " p"], size_s: Float[Array, " p"], size_t: Float[Array, " p"]
    ) -> tuple[Self, Self, Float[Array, " p"]]:
        """The potential with pair matrices looked up, the axes over which to `vmap` it, and σ."""

        def look_up(leaf: Array) -> Array:
            return 0.5 * (leaf[s, t] + leaf[t, s]) if jnp.ndim(leaf) == 2 else leaf

        potential = jax.tree.map(look_up, self)
        axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) == 2 else None, self)
        additive = potential.sigma is None
        sigma = 0.5 * (size_s + size_t) if additive else jnp.broadcast_to(potential.sigma, s.shape)
        return potential, axes, sigma

    @property
    def _species_told_apart(self) -> int:
        return max((leaf.shape[0] for leaf in jax.tree.leaves(self) if jnp.ndim(leaf) == 2), default=1)


def at_both_ends(i: Int[Array, " p"], j: Int[Array, " p"], pull: Float[Array, "p d"], n: int) -> Float[Array, "n d"]:
    """Of every pair the pull added at j and taken away at i; apart, which is faster than one after the other."""
    nothing = jnp.zeros((n, pull.shape[1]), pull.dtype)
    return nothing.at[j].add(pull) - nothing.at[i].add(pull)


class Pairs(eqx.Module):
    """Pairs of particles: indices, separation x_j - x_i, distance, cutoff, σ, and whether they interact.

    Where they do not, the distance is a harmless stand-in within the cutoff. `listed` is False for
    the empty slots of a neighbor list.
    """

    i: Int[Array, " p"]
    j: Int[Array, " p"]
    separation: Float[Array, "p d"]
    distance: Float[Array, " p"]
    cutoff: Float[Array, " p"]
    sigma: Float[Array, " p"]
    interacts: Bool[Array, " p"]
    listed: Bool[Array, " p"]
    potential: Any
    axes: Any = eqx.field(static=True)

    def map(self, function: Any) -> Float[Array, " p"]:
        """`function(potential, r, sigma)` of every pair, zero where the pair does not interact."""
        values = jax.vmap(function, (self.axes, 0, 0))(self.potential, self.distance, self.sigma)
        return jnp.where(self.interacts, values, 0.0)

    @property
    def slope(self) -> Float[Array, " p"]:
        """φ'(r) of every pair."""
        return self.map(lambda potential, r, sigma: jax.grad(potential.pair_energy)(r, sigma))

    @property
    def curvature(self) -> Float[Array, " p"]:
        """φ''(r) of every pair."""
        return self.map(lambda potential, r, sigma: jax.grad(jax.grad(potential.pair_energy))(r, sigma))

    def gradient(self, n: int) -> Float[Array, "n d"]:
        """The sum of ∂φ/∂x over the pairs, for n particles."""
        pull = (self.slope / self.distance)[:, None] * self.separation
        return at_both_ends(self.i, self.j, pull, n)

    @property
    def force(self) -> Float[Array, " p"]:
        """|φ'(r)| of every pair."""
        return jnp.abs(self.slope)

    @property
    def gap(self) -> Float[Array, " p"]:
        """The distance between the particles minus their cutoff: negative where they interact."""
        squared = over_components(self.separation**2)
        apart = squared > 0.0
        return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0) - self.cutoff
