"""The base class of potentials that are a sum of terms over given groups of particles."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import PairList, gather, minimum_image, sum_components, to_nearest
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array, is_concrete
from ..system import System, name_particles
from .base import LocalTerms, Potential, Scalar, geometric_mean, why_not_traced
from .pair import STIFFEST_SHARE


class LocalPotential(Potential, derived=("energy", "gradient", "pair_terms", "local_terms", "blocks")):
    """The base for potentials that are a sum of terms over given groups of k particles: bonds (k = 2), angles (3),
    walls, tethers and loads (1).

        class Anchors(mdsens.LocalPotential):
            stiffness: jax.Array                     # one number, or one for each particle
            per_term = ("stiffness",)

            def groups(self, system):
                return jnp.arange(system.n)[:, None]

            def term_energy(self, x, diameters):
                return 0.5 * self.stiffness * jnp.sum(x**2)

    `term_energy` is written for one term. The parameters named in `per_term` are one number for all terms, or have one
    entry for each term along their first axis; inside `term_energy` each of them is the entry of the term at hand.
    Parameters that are not named there are the same for all terms.

    No list of pairs is needed. Arrays of integers, such as the pairs of bonds, are leaves of the pytree and no
    parameters: differentiate by a whole potential with `equinox.filter_grad`, or by one of its parameters.
    """

    per_term: ClassVar[tuple[str, ...]] = ()
    tied_to_space: ClassVar[bool] = True
    may_jump: ClassVar[bool] = True

    _source: ClassVar[str] = "term_energy()"
    needs_pairs: ClassVar[bool] = False
    names_particles: ClassVar[bool] = True
    has_terms: ClassVar[bool] = True

    @abc.abstractmethod
    def groups(self, system: System) -> Int[Array, "m k"]:
        """The particles that each term joins."""

    @abc.abstractmethod
    def term_energy(self, x: Float[Array, "k d"], diameters: Float[Array, " k"]) -> Scalar:
        """The energy of one term.

        **Arguments:**

        - `x` ([k, d], length): the positions of its particles, not wrapped into the cell. In a periodic cell each
          particle after the first is taken at the image that is nearest to the particle before it in the group.
        - `diameters` ([k], length): of its particles.
        """

    def energy(self, system: System, neighbors: PairList | None = None) -> Scalar:
        return jnp.sum(self.local_terms(system).energies())

    def blocks(self, system: System) -> Float[Array, "m k d k d"]:
        """The second derivatives of every term by the positions of its particles."""
        return self.local_terms(system).blocks()

    def local_terms(self, system: System) -> LocalTerms:
        groups = self.groups(system)
        self._check_rows(len(groups))
        groups = jnp.where(groups < 0, system.n, groups)
        # a particle that is not there has no position: under jit the energy is NaN, on the host check_for raises
        diameters = _of_members(system.diameters, groups)
        return LocalTerms(groups, self._resolved(system, groups), diameters, self, self._axes())

    def jumps_within(self, terms: LocalTerms, distance: Scalar, least: Scalar) -> Bool[Array, " m"]:
        """Whether a second derivative of each term jumps by more than the least, where a coordinate changes by no more
        than the distance.
        """
        _, k, d = terms.positions.shape
        here = terms.blocks()

        def change(move: Float[Array, "k d"]) -> Float[Array, " m"]:
            moved = terms.moved(distance * move).blocks()
            return jnp.max(jnp.abs(moved - here), axis=(1, 2, 3, 4), initial=0.0)

        moves = jnp.asarray(np.concatenate([np.eye(k * d), -np.eye(k * d)]).reshape(-1, k, d), here.dtype)
        return jnp.max(jax.lax.map(change, moves), axis=0, initial=0.0) > least

    def keeps_images(self, system: System, start: System) -> Bool[Array, ""]:
        return jnp.all(self._images(system) == self._images(start))

    def _images(self, system: System) -> Float[Array, "m k-1 _"]:
        """The periodic image of each particle that is nearest to the one before it, in lattice vectors."""
        groups = self.groups(system)
        x = gather(system.positions, groups)
        if system.lattice is None:
            return jnp.zeros_like(x[:, 1:])
        return to_nearest(x[:, 1:] - x[:, :-1], system.lattice)

    def _resolved(self, system: System, groups: Int[Array, "m k"]) -> Float[Array, "m k d"]:
        """The positions of the particles of each term, each at the image nearest to the one before it."""
        x = _of_members(system.positions, groups)
        if system.box is None or x.shape[1] == 1:
            return x
        steps = minimum_image(x[:, 1:] - x[:, :-1], system.lattice)
        return jnp.concatenate([x[:, :1], x[:, :1] + jnp.cumsum(steps, axis=1)], axis=1)

    def _axes(self) -> Any:
        """The axes over which to `vmap` the potential."""

        def axis(path: Any, leaf: Any) -> int | None:
            return 0 if path[0].name in self.per_term and np.ndim(leaf) > 0 else None

        return jax.tree_util.tree_map_with_path(axis, self)

    def reach(self, system: System) -> Scalar:
        """Zero: no pair interacts but those that are given."""
        return jnp.zeros((), system.positions.dtype)

    def typical_stiffness(self, system: System) -> Scalar:
        """That of the terms at the given positions, each measured by the largest second derivative by one component.

        Zero where no term resists anything.
        """
        blocks = jax.lax.stop_gradient(self.blocks(system))
        m, size = len(blocks), blocks.shape[1] * blocks.shape[2]
        diagonal = jnp.diagonal(blocks.reshape(m, size, size), axis1=1, axis2=2)
        return typical(jnp.max(jnp.abs(diagonal), axis=1, initial=0.0))

    def supports(self, system: System, terms: LocalTerms | None, least_force: Scalar) -> Int[Array, " n"]:
        """d + 1 on each particle that a term resists moving, or pushes with more than the least force."""
        assert terms is not None
        pushed = sum_components(terms.gradients() ** 2) > least_force**2
        resisted = jnp.any(terms.blocks() != 0.0, axis=(2, 3, 4))
        held = jnp.zeros(system.n, bool).at[terms.groups].max(pushed | resisted, wrap_negative_indices=False)
        return jnp.where(held, system.dim + 1, 0).astype(jnp.int32)

    def check_functions(self, system: System) -> None:
        if self.is_verified:
            return
        name = type(self).__name__
        try:
            found = eqx.filter_eval_shape(lambda potential, at: potential.local_terms(at).energies(), self, system)
        except InvalidInput:
            raise
        except Exception as error:
            raise InvalidInput(
                f"the energy of one term of {name} cannot be computed: {why_not_traced(error)}"
            ) from error
        if found.ndim != 1:
            raise InvalidInput(
                f"the energy of one term of {name} must be one number, and is an array {list(found.shape[1:])}"
            )

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        """**Raises** `InvalidInput` for particles that are not there, and parameters that do not fit the terms."""
        groups = np.asarray(self.groups(system))
        bad = np.unique(groups[(groups < 0) | (groups >= system.n)])
        if bad.size:
            raise InvalidInput(
                f"{type(self).__name__} names {name_particles(bad)}, and there are {system.n}, counted from 0"
            )
        self._check_rows(len(groups))

    def _check_rows(self, m: int) -> None:
        for name in self.per_term:
            shape = np.shape(getattr(self, name))
            if shape and shape[0] != m:
                raise InvalidInput(
                    f"{name} of {type(self).__name__} must be one for all terms or one for each of the {m}, and has "
                    f"shape {list(shape)}"
                )

    def _refuse_negative(self, name: str) -> None:
        bad = np.flatnonzero(np.asarray(getattr(self, name)) < 0.0)
        if bad.size:
            value = np.ravel(np.asarray(getattr(self, name)))[bad[0]]
            raise InvalidInput(f"{name} of {type(self).__name__} must not be negative, and is {value:.6g}")


def _of_members(x: Float[Array, "n *d"], groups: Int[Array, "m k"]) -> Float[Array, "m k *d"]:
    """x of the particles of each term, NaN of those that are not there."""
    return x.at[groups].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def members(k: int, example: str, **options: Any) -> Any:
    """A field of integers [m, k]: the particles that each term joins; [m] for k = 1."""

    def convert(value: Any) -> Array | None:
        return None if value is None else _indices(value, k, example)

    return eqx.field(converter=convert, **options)


def _indices(value: Any, k: int, example: str) -> Array:
    wanted = f"must be integers [m, {k}], such as {example}" if k > 1 else f"must be integers [m], such as {example}"
    try:
        array = as_array(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"groups of particles {wanted}, not {str(value)[:60]!r}") from error
    fits = array.shape[1:] == (k,) and array.ndim == 2 if k > 1 else array.ndim == 1
    if not fits or not array.size or not jnp.issubdtype(array.dtype, jnp.integer):
        raise InvalidInput(f"groups of particles {wanted}, not {array.dtype}{list(array.shape)}")
    return as_array(array, jnp.int32)


def refuse_repeated(kind: str, groups: Array) -> None:
    """**Raises** `InvalidInput` for a concrete group in which a particle is joined to itself."""
    if not is_concrete(groups):
        return
    ordered = np.sort(np.asarray(groups), axis=-1)
    bad = np.flatnonzero((ordered[..., 1:] == ordered[..., :-1]).any(axis=-1).ravel())
    if bad.size:
        named = np.asarray(groups).reshape(-1, groups.shape[-1])[bad[0]].tolist()
        raise InvalidInput(f"{kind} {named} joins a particle to itself")


def every_particle(system: System) -> Int[Array, "n 1"]:
    """Groups of one particle each: all of them."""
    return as_array(np.arange(system.n, dtype=np.int32)[:, None])


def positions_on_host(potential: LocalPotential, system: System) -> Float[np.ndarray, "m k d"]:
    """The positions of the particles of each term, of a concrete system."""
    return np.asarray(_positions(potential, system))


@compile_once
def _positions(potential: LocalPotential, system: System) -> Float[Array, "m k d"]:
    return potential.local_terms(system).positions


def half_height(system: System) -> float:
    """The distance from which on the nearest image of a particle is ambiguous; infinite with open boundaries."""
    return np.inf if system.box is None else 0.5 * float(np.min(np.asarray(system.heights)))


def along_lattice(system: System, steps: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " m"]:
    """How far steps lead along the lattice vectors, where the nearest image is sought."""
    if system.lattice is not None and not all(system.periodic):
        lattice = np.asarray(system.lattice)
        steps = steps @ np.linalg.pinv(lattice) @ lattice
    return np.linalg.norm(steps, axis=1)


def typical(stiffness: Float[Array, " m"]) -> Scalar:
    """The geometric mean of the positive stiffnesses, and at least a part of the largest; zero without any."""
    largest = jnp.max(jnp.where(jnp.isfinite(stiffness), stiffness, 0.0))
    return jnp.where(largest > 0.0, jnp.maximum(geometric_mean(stiffness), STIFFEST_SHARE * largest), 0.0)
