"""The base class of potentials that are a sum over pairs."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import PairList, gather, sum_components
from ..system import System, name_particles
from .base import PairParameter, Potential, Scalar, geometric_mean, is_parameter, parameter, why_not_traced
from .terms import Pairs

STIFFEST_SHARE = 0.4
"""The typical stiffness is at least this fraction of the stiffest pair's second derivative: curvatures reach seven
times that derivative in dense packings, and FIRE's steps of 0.5 in these units are stable below sixteen times the
typical one.
"""


LARGEST_JUMP = 1e-5
"""Of a pair's energy and force at the cutoff, relative to stiffness times σ² and to stiffness times σ. A force that
ends as (σ - r)^0.5, as that of `SoftSphere(alpha=1.5)`, does not jump.
"""


class PairPotential(Potential, derived=("energy", "gradient", "pair_terms")):
    """The base for potentials that are a sum over pairs; a new one takes five lines.

        class Gaussian(mdsens.PairPotential):
            epsilon: jax.Array
            def pair_energy(self, r, sigma):
                return self.epsilon * jnp.exp(-((r / sigma) ** 2))
            def cutoff(self, sigma):
                return 6.0 * sigma

    `pair_energy` is written for one pair: r and sigma are numbers, and so is every parameter. A parameter that was
    given as a matrix [s, s] is, inside `pair_energy`, the entry for the two species at hand. The symmetric part of the
    matrix counts, so that `jax.grad` and `mdsens.sensitivity` give each of the entries (0, 1) and (1, 0) half of the
    derivative by the value of that pair; functions with named components (`predict`, `fit`, `influence`) give the
    whole, for the one component `epsilon[0,1]`.

    A class sets `contact` to True if its particles interact only where they touch: they repel for r < cutoff, and the
    energy is zero beyond. Rattlers are then recognized by the number of their contacts.

    **Arguments:**

    - `sigma` (length; one number or a matrix [s, s]): the pair distance σ; (D_i + D_j)/2 if None.
    """

    sigma: PairParameter | None = parameter(default=None, kw_only=True)

    _source: ClassVar[str] = "pair_energy(r, sigma)"
    listed: ClassVar[bool] = True
    names_particles: ClassVar[bool] = False
    is_pairwise: ClassVar[bool] = True
    has_terms: ClassVar[bool] = True

    @abc.abstractmethod
    def pair_energy(self, r: Scalar, sigma: Scalar) -> Scalar:
        """φ(r) of one pair at the distance r < cutoff."""

    @abc.abstractmethod
    def cutoff(self, sigma: Scalar) -> Scalar:
        """The distance from which on the pair does not interact.

        φ and φ' should vanish there, or no minimizer comes to rest with a pair at the cutoff: multiply by
        `mdsens.potentials.smooth_switch` where they do not.
        """

    def pair_stiffness(self, sigma: Scalar) -> Scalar:
        """A typical φ''(r) of one pair: at r = σ, or a little within if φ'' vanishes there. A class may override it."""
        second = jax.grad(jax.grad(self.pair_energy))
        touching = second(sigma, sigma)
        return jnp.where(touching == 0.0, second(0.95 * sigma, sigma), touching)

    def energy(self, system: System, neighbors: PairList) -> Scalar:
        pairs = self.pair_terms(system, neighbors)
        return jnp.sum(pairs.map(lambda potential, r, sigma: potential.pair_energy(r, sigma)))

    def gradient(self, system: System, neighbors: PairList) -> Float[Array, "n d"]:
        return self.pair_terms(system, neighbors).gradient(system.n)

    @eqx.filter_jit
    def reach(self, system: System) -> Scalar:
        potential, axes, sigma = self._between_species(system)
        return jnp.max(jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma))

    @eqx.filter_jit
    def covers(self, system: System) -> Bool[Array, ""]:
        count = self._species_count
        return jnp.asarray(True) if count == 1 else jnp.all((system.species >= 0) & (system.species < count))

    @eqx.filter_jit
    def typical_stiffness(self, system: System) -> Scalar:
        each = jnp.arange(system.n)
        like, unlike = (
            self._stiffness_of(*pairs)
            for pairs in (self.for_particles(system, each, each), self._between_species(system))
        )
        return jnp.maximum(geometric_mean(like), STIFFEST_SHARE * jnp.maximum(jnp.max(like), jnp.max(unlike)))

    @eqx.filter_jit
    def jumps_at_cutoff(self, system: System) -> Bool[Array, ""]:
        potential, axes, sigma = self._between_species(system)
        cutoff = jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma)
        eps = float(jnp.finfo(cutoff.dtype).eps)
        inside = jnp.where(jnp.isfinite(cutoff), cutoff * (1.0 - 8.0 * eps), sigma)

        def at_end(potential: Self, r: Scalar, sigma: Scalar) -> tuple[Scalar, Scalar]:
            return jax.value_and_grad(potential.pair_energy)(r, sigma)

        energy, slope = jax.vmap(at_end, (axes, 0, 0))(potential, inside, sigma)
        unit = max(LARGEST_JUMP, 2.0 * (8.0 * eps) ** 0.5) * self.typical_stiffness(system) * sigma
        jumps = (jnp.abs(energy) > unit * sigma) | (jnp.abs(slope) > unit)
        return jnp.any(jumps & jnp.isfinite(cutoff))

    def length(self, system: System) -> Scalar:
        if self.sigma is None:
            return super().length(system)
        each = jnp.arange(system.n)
        return jnp.mean(self.for_particles(system, each, each)[2])

    def _stiffness_of(self, potential: Self, axes: Self, sigma: Float[Array, " p"]) -> Float[Array, " p"]:
        """|φ''| of pairs; zero where it is not finite."""
        found = jnp.abs(jax.vmap(type(self).pair_stiffness, (axes, 0))(potential, sigma))
        return jnp.where(jnp.isfinite(found), found, 0.0)

    def _between_species(self, system: System) -> tuple[Self, Self, Array]:
        """Every species with every other, each with its largest diameter."""
        count = self._species_count
        species = system.species if count > 1 else jnp.zeros_like(system.species)
        largest = jax.ops.segment_max(system.diameters, species, num_segments=count)
        i, j = (jnp.asarray(k.ravel()) for k in np.indices((count, count)))
        return self.for_species(i, j, largest[i], largest[j])

    def cutoffs(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> Float[Array, " p"]:
        potential, axes, sigma = self.for_particles(system, i, j)
        return jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma)

    def pair_terms(self, system: System, neighbors: PairList) -> Pairs:
        """The listed pairs with everything that a function of a pair needs."""
        i, j = neighbors.i, neighbors.j
        separation = neighbors.separations(system.positions, system.lattice)
        squared = sum_components(separation**2)
        potential, axes, sigma = self.for_particles(system, i, j)
        cutoff = jax.vmap(type(self).cutoff, (axes, 0))(potential, sigma)
        interacts = neighbors.valid & ~(squared >= cutoff**2)  # NaN counts as interacting, never as far apart
        within = jax.lax.stop_gradient(jnp.where(jnp.isfinite(cutoff), 0.9 * cutoff, sigma))
        distance = jnp.sqrt(jnp.where(interacts, squared, within**2))
        of_pairs = (separation, distance, cutoff, sigma, interacts, neighbors.valid)
        return Pairs(i, j, *of_pairs, (potential,), (axes,), (self.contact,))

    def for_particles(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> tuple[Self, Self, Array]:
        """`for_species` for particles i and j of a system."""
        kinds, sizes = system.species, system.diameters
        return self.for_species(*(gather(each, k) for each in (kinds, sizes) for k in (i, j)))

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

    def is_pair_matrix(self, name: str) -> bool:
        return np.ndim(self.get_parameter(name)) == 2

    @property
    def _species_count(self) -> int:
        """The number of species that the parameters distinguish."""
        return max((np.shape(leaf)[0] for leaf in jax.tree.leaves(self) if np.ndim(leaf) == 2), default=1)

    def check(self) -> None:
        shapes = {np.shape(leaf) for leaf in jax.tree.leaves(self)} - {()}
        for shape in shapes:
            if len(shape) != 2 or shape[0] != shape[1] or len(shapes) > 1:
                raise InvalidInput(
                    f"a parameter of {type(self).__name__} has shape {list(shape)}; it must be one number, or a "
                    "square matrix with a row for each species, of the same size for all parameters"
                )
        key = type(self), jax.tree.structure(self)
        if key not in _checked:
            _check_functions(self)
            _checked.add(key)

    def check_values(self) -> None:
        if self.sigma is not None and np.any(np.asarray(self.sigma) <= 0):
            raise InvalidInput("sigma must be a positive length")

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        self.check_values()
        bad = np.flatnonzero(~(cutoffs > 0.0) | (np.isinf(cutoffs) & any(system.periodic)))
        if bad.size:
            why = "; in a periodic cell it must be finite" if np.isinf(cutoffs[bad[0]]) else ", not a positive length"
            raise InvalidInput(
                f"the cutoff of {type(self).__name__} for {name_particles(bad)} is {cutoffs[bad[0]]}{why}"
            )


_checked: set[Any] = set()


def _check_functions(potential: PairPotential) -> None:
    """`pair_energy` and `cutoff` map numbers to a number, and JAX can trace them."""
    number, kind = jax.ShapeDtypeStruct((), jnp.result_type(float)), type(potential)
    of_a_pair = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype) if is_parameter(leaf) else leaf, potential
    )
    for name, arguments in (("pair_energy", (number, number)), ("cutoff", (number,))):
        try:
            found = eqx.filter_eval_shape(getattr(kind, name), of_a_pair, *arguments)
        except Exception as error:
            why = why_not_traced(error)
            raise InvalidInput(f"{name} of {kind.__name__} cannot be computed for one pair: {why}") from error
        shape = () if isinstance(found, int | float) else getattr(found, "shape", None)
        if shape != ():
            shown = "nothing" if found is None else found if shape is None else f"an array {list(shape)}"
            raise InvalidInput(f"{name} of {kind.__name__} must return one number for one pair, and returns {shown}")
