"""The base class of all potentials: an energy whose parameters are the leaves of a pytree."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import PairList
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array, numpy_for
from ..system import System
from .stiffness import spacing, stiffness_along_signs, stiffness_of_pairs
from .terms import LocalTerms, Pairs

Scalar = Float[Array, ""]
PairParameter = Float[Array, ""] | Float[Array, "s s"]


def parameter(**options: Any) -> Any:
    """A field that holds a parameter: one number, or a matrix with one entry per pair of species."""
    return eqx.field(converter=_as_parameter, **options)


def _as_parameter(value: Any) -> Any:
    try:
        return None if value is None else as_array(value, float)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a parameter is a number or a matrix of numbers, not {str(value)[:60]!r}") from error


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf of a potential can be differentiated: a number or an array of floats."""
    return (isinstance(leaf, int | float) and not isinstance(leaf, bool)) or eqx.is_inexact_array(leaf)


class Potential(eqx.Module):
    """An energy of a system. All its leaves that are arrays of floats are differentiable parameters.

    A subclass defines `energy`. Forces and pairs follow from it, so that nothing else can disagree with it. Attributes
    of the class say what is known of it:

    - `listed`: its energy depends only on the pairs it is given, and no two particles interact beyond `reach`: large
      systems then use a neighbor list. `needs_pairs` is False where it looks at no list at all, as bonds and walls.
    - `names_particles`: its parameters may belong to particles by their number, as the pairs of bonds do.
    - `tied_to_space`: it does not follow a strain of the cell, as walls, loads and tethers.
    - `has_terms`: it is a sum of terms of few particles each, whose second derivatives can be assembled; `may_jump`:
      these may jump, as where a particle touches a wall.
    - `is_measured`: how stiff it is depends on the system that it is prepared for, and is measured there. So it is for
      every class that does not define `typical_stiffness`.

    **Raises** `InvalidInput` when a class is defined that overrides what follows from the rest.
    """

    _source: ClassVar[str] = "energy()"
    _derived: ClassVar[tuple[str, ...]] = ("gradient", "pair_terms")
    listed: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = True
    contact: ClassVar[bool] = False
    is_pairwise: ClassVar[bool] = False
    names_particles: ClassVar[bool] = True
    tied_to_space: ClassVar[bool] = False
    may_jump: ClassVar[bool] = False
    has_terms: ClassVar[bool] = False
    is_measured: ClassVar[bool] = True

    measured: Scalar | None = eqx.field(default=None, kw_only=True)

    def __init_subclass__(cls, derived: tuple[str, ...] | None = None, **options: Any) -> None:
        """`derived`: the methods that subclasses must not override, for a base class that defines them."""
        super().__init_subclass__(**options)
        if "typical_stiffness" in vars(cls) and "is_measured" not in vars(cls):
            cls.is_measured = False
        if derived is not None:
            cls._derived = derived
            return
        for name in cls._derived:
            if name in vars(cls):
                raise InvalidInput(
                    f"{cls.__name__} overrides {name}(), which follows from {cls._source} and would disagree with the "
                    f"forces and second derivatives; change {cls._source}, or derive from mdsens.Potential and define "
                    "energy() alone"
                )

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None and name != "measured"}
        return f"{type(self).__name__}({', '.join(f'{name}={shown(value)}' for name, value in given.items())})"

    def __add__(self, other: Any) -> Potential:
        """The sum of two potentials."""
        from .sums import Sum

        return Sum(self, other) if isinstance(other, Potential) else NotImplemented

    def __radd__(self, other: Any) -> Potential:
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def parts(self) -> tuple[Potential, ...]:
        """The potentials of which this is the sum: itself, unless it is a `Sum`."""
        return (self,)

    def others(self) -> tuple[Potential, ...]:
        """Those of the parts that are no sum over pairs within a cutoff."""
        return tuple(part for part in self.parts() if not part.is_pairwise)

    @abc.abstractmethod
    def energy(self, system: System, neighbors: PairList) -> Scalar:
        """The potential energy, given the pairs that may interact."""

    def gradient(self, system: System, neighbors: PairList) -> Float[Array, "n d"]:
        """∂E/∂x, minus the forces."""
        return jax.grad(lambda x: self.energy(system.replace(positions=x), neighbors))(system.positions)

    def pair_terms(self, system: System, neighbors: PairList) -> Pairs | None:
        """The terms of a potential that is a sum over pairs; None for any other potential."""
        return None

    def local_terms(self, system: System) -> LocalTerms | None:
        """The terms of a potential that is a sum over given groups of particles; None for any other potential."""
        return None

    def gaps(self, system: System) -> Float[Array, " n"]:
        """The gap between each particle and a wall, negative where they touch; for a potential with `contact`."""
        raise NotImplementedError

    def jumps_within(self, terms: LocalTerms, distance: Scalar, least: Scalar) -> Bool[Array, " m"]:
        """For each of its local terms whether a second derivative jumps by more than the least within a distance."""
        raise NotImplementedError

    def supports(self, system: System, terms: LocalTerms | None, least_force: Scalar) -> Int[Array, " n"]:
        """The number of contacts that this potential counts for on each particle, in the search for rattlers.

        A potential that is no sum over pairs constrains all particles: d + 1 on each.

        **Arguments:**

        - `terms`: its local terms in that system, if it is a sum of such.
        - `least_force` (energy per length): forces up to here cannot be told from residual forces.
        """
        return jnp.full(system.n, system.dim + 1, jnp.int32)

    def reach(self, system: System) -> Scalar:
        """The distance beyond which no two particles interact; infinite where all pairs are needed."""
        return jnp.asarray(jnp.inf, system.positions.dtype)

    def cutoffs(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> Float[Array, " p"]:
        """The distance up to which each of the pairs (i, j) may interact."""
        return jnp.broadcast_to(self.reach(system), i.shape)

    def typical_stiffness(self, system: System) -> Scalar:
        """A typical second derivative, energy per length², by which minimizers measure their steps.

        For a sum over pairs this is the geometric mean over the particles of the stiffness of each with its own kind,
        and at least so large a part of the largest stiffness of any pair that steps measured by it are stable. A class
        that does not define it has that which was measured where a relaxation began, or 1.
        """
        return jnp.asarray(1.0, system.positions.dtype) if self.measured is None else self.measured

    def measured_stiffness(self, system: System, neighbors: PairList) -> Scalar:
        """A typical second derivative at the given positions, with all pairs: the change of the forces along a random
        motion, or of the forces of pairs as far apart as neighbors are if that is less; infinite where there are no
        forces. The first alone would be that of the closest pair, at a start where particles overlap.
        """
        length, extent = spacing(system), 60.0 * system.n * (spacing(system) + jnp.max(system.diameters))
        box = None if system.box is None else system.box * (1.0 + extent / jnp.min(system.heights))
        apart = stiffness_of_pairs(
            lambda x: self.energy(system.replace(positions=x, box=box), neighbors), system, length
        )
        return jnp.minimum(stiffness_along_signs(self, system, neighbors), apart)

    def length(self, system: System) -> Scalar:
        """A typical distance between neighbors, by which moves and forces are measured: the mean diameter."""
        xp = numpy_for(system.diameters)
        return as_array(xp.mean(xp.asarray(system.diameters)))

    def force_scale(self, system: System) -> Scalar:
        """The force at which a tolerance is small or large: a typical stiffness times a typical length."""
        return self.typical_stiffness(system) * self.length(system)

    def jumps_at_cutoff(self, system: System) -> Bool[Array, ""]:
        """Whether the energy or the force of a pair jumps where the pair ceases to interact."""
        return jnp.asarray(False)

    def keeps_images(self, system: System, start: System) -> Bool[Array, ""]:
        """Whether local terms join the same periodic images as at the start; not so a bond beyond half the cell."""
        return jnp.asarray(True)

    def covers(self, system: System) -> Bool[Array, ""]:
        """Whether there are parameters for all species of a system."""
        return jnp.asarray(True)

    def check(self) -> None:
        """**Raises** `InvalidInput` for parameters of wrong shapes or functions that JAX cannot trace; works under
        `jit`.
        """

    def check_values(self) -> None:
        """**Raises** `InvalidInput` for concrete parameters that make no sense in any system."""

    def check_functions(self, system: System) -> None:
        """**Raises** `InvalidInput` for functions, written by somebody else, that cannot be computed for a system."""

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        """**Raises** `InvalidInput` for parameters that do not fit a concrete system.

        **Arguments:**

        - `cutoffs` ([n], length): of each particle with its like.
        """

    def check_strain(self, what: str, cure: str = "") -> None:
        """**Raises** `InvalidInput` where a part does not follow a strain of the cell, which `what` needs."""
        tied = [type(part).__name__ for part in self.parts() if part.tied_to_space]
        if tied:
            raise InvalidInput(
                f"there is no {what} with {', '.join(tied)}: tied to points in space, which do not follow a strain of "
                f"the cell{cure}"
            )

    @property
    def is_verified(self) -> bool:
        """Whether all its energies are mdsens' own, whose derivatives are tested."""
        return type(self).__module__.partition(".")[0] == __name__.partition(".")[0]

    @property
    def has_contacts(self) -> bool:
        """Whether there is a sum over pairs within a cutoff among its parts."""
        return any(part.is_pairwise for part in self.parts())

    @property
    def has_contact_changes(self) -> bool:
        """Whether particles touch each other or walls, and all of their contacts can be followed."""
        touches = self.has_contacts or any(part.contact for part in self.parts())
        return touches and not self._unknown_contacts

    @property
    def _unknown_contacts(self) -> list[str]:
        """The parts that set in somewhere and do not say where."""
        return [type(part).__name__ for part in self.others() if part.contact and type(part).gaps is Potential.gaps]

    def require_known_contacts(self) -> None:
        """**Raises** `InvalidInput` for a potential with terms that set in somewhere and do not say where."""
        if self._unknown_contacts:
            raise InvalidInput(
                f"where the terms of {', '.join(self._unknown_contacts)} set in is not followed: how far a response is "
                "valid is unknown"
            )

    def require_contact_changes(self) -> None:
        """**Raises** `InvalidInput` for a potential without contacts, or of which not all are known."""
        self.require_known_contacts()
        if not self.has_contact_changes:
            raise InvalidInput(f"{type(self).__name__} is no sum over pairs, and has no walls: it has no contacts")

    def require_contacts(self) -> None:
        """**Raises** `InvalidInput` for a potential without a sum over pairs."""
        if not self.has_contacts:
            raise InvalidInput(f"{type(self).__name__} is no sum over pairs: it has no contacts")

    def prepared_for(self, system: System) -> Self:
        """The same potential with every parameter an array in the precision of the positions."""

        def convert(leaf: Any) -> Any:
            return as_array(leaf, system.positions.dtype) if is_parameter(leaf) else leaf

        ready = jax.tree.map(convert, self)
        if not self.is_measured or (self.listed and system.n > MEASURED_UP_TO):
            return ready
        i, j = (as_array(np.int32(k)) for k in np.triu_indices(system.n if self.needs_pairs else 2, 1))
        every_pair = PairList(i, j, as_array(np.full(i.shape, self.needs_pairs)), None)
        measured = _measured(*jax.lax.stop_gradient((ready, system)), every_pair)
        return ready.with_measured(jax.lax.stop_gradient(measured))

    def with_measured(self, stiffness: Scalar) -> Self:
        """The same with a typical stiffness that was measured; a class with an __init__ of its own never sets it."""
        found = object.__new__(type(self))
        for name, value in {**vars(self), "measured": stiffness}.items():
            object.__setattr__(found, name, value)
        return found

    def parameter_names(self) -> list[str]:
        """The names of the parameters, in which the potential can be differentiated."""
        static = {f.name for f in dataclasses.fields(self) if f.metadata.get("static")}
        return [name for name in self.number_names() if name not in static]

    def number_names(self) -> list[str]:
        """The names of all numbers of a potential, static ones such as the onset of a switch included."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "measured"]
        return [name for name in names if is_parameter(getattr(self, name))]

    def is_pair_matrix(self, name: str) -> bool:
        """Whether a parameter is a symmetric matrix with one entry for each pair of species."""
        return False

    def get_parameter(self, name: str) -> Any:
        """The value of a parameter, by its name."""
        return getattr(self, name)

    def with_parameter(self, name: str, value: Any) -> Self:
        """The same potential with another value of a parameter."""
        return eqx.tree_at(lambda potential: potential.get_parameter(name), self, value)


MEASURED_UP_TO = 1000
"""Particles up to which the stiffness of an energy over the pairs of a list is measured, with all pairs."""


@compile_once
def _measured(potential: Potential, system: System, neighbors: PairList) -> Scalar:
    typical = potential.measured_stiffness(system, neighbors)
    return jnp.where(jnp.isfinite(typical), typical, 1.0)


def why_not_traced(error: Exception) -> str:
    """The reason why a function that somebody has written cannot be computed."""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "JAX cannot trace functions of NumPy; use those of jax.numpy (jnp.exp for np.exp)"
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return "it uses `if` on a distance, which JAX cannot trace; use jnp.where(r < …, …, …)"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def geometric_mean(stiffness: Float[Array, " m"]) -> Scalar:
    """Of those that are positive and finite; 1 without any."""
    stiff = (stiffness > 0.0) & jnp.isfinite(stiffness)
    logarithm = jnp.where(stiff, jnp.log(jnp.where(stiff, stiffness, 1.0)), 0.0)
    return jnp.exp(jnp.sum(logarithm) / jnp.maximum(jnp.sum(stiff), 1))


def shown(value: Any) -> str:
    """A parameter as one would type it; the shape of a large or traced array."""
    if isinstance(value, jax.core.Tracer) or (eqx.is_array(value) and value.size > 16):
        return f"{value.dtype}{list(value.shape)}"
    return str(np.asarray(value).tolist()) if eqx.is_array(value) else repr(value)
