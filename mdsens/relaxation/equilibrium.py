"""A system at rest: what was found, its evidence, and its derivatives."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput, Status
from ..landscape.configuration import Configuration
from ..linearization import Linearization
from ..neighbors import Neighbors, PairFinder, allocate
from ..potentials import Potential
from ..runtime.batching import member
from ..runtime.compiled import compile_once
from ..runtime.tracing import is_concrete, outside_trace
from ..system import System
from .cell import relaxed_energy, relaxed_system
from .certificate import Certificate, certify
from .rule import AtRest, LinearizationCache, Rule, linearization_of


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Equilibrium:
    """A system at rest; a pytree.

    - `system`: the relaxed system. Its positions [n, d] are differentiable through ∇E = 0, and so is `energy`.
    - `max_force`: the largest force component left; `steps`: those of the minimizer; `tolerance`: the one asked for.
    - `converged`: the forces are below the tolerance, and all pairs were counted. `minimum`: and no negative curvature
      was found. `overflow`: a neighbor list ran full (only under `jit`, where it cannot grow).
    - `curvature`, `highest_curvature` (energy per length²): bounds for the ends of the spectrum of the Hessian; the
      eigenvalues themselves in small systems. `escapes`: the number of saddles left on the way.
    - `pressure`, `pressure_error` (energy per volume): at constant pressure, that pressure, and the largest deviation
      of any component of the stress that the cell was free to relax; None in a fixed cell.
    - `neighbors`: the pairs in contact, and some that nearly are.

    The derivative of the positions, which may be refused and needs a linear solve, is computed only if they are used:
    that of the energy needs neither.
    """

    source: System | AtRest
    potential: Potential
    known_energy: Float[Array, ""] | None
    max_force: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    minimum: Bool[Array, ""]
    curvature: Float[Array, ""]
    highest_curvature: Float[Array, ""]
    escapes: Int[Array, ""]
    overflow: Bool[Array, ""]
    tolerance: Float[Array, ""]
    pressure: Float[Array, ""] | None
    pressure_error: Float[Array, ""] | None
    neighbors: Neighbors
    rule: Rule

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        public = {"source": "system", "known_energy": "energy"}
        names = [public.get(field.name, field.name) for field in dataclasses.fields(self)][:-1]
        values = [getattr(self, name) for name in names]
        keys = [jax.tree_util.GetAttrKey(name) for name in names]
        return list(zip(keys, values, strict=True)), (self.rule,)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], values: Any) -> Equilibrium:
        return cls(*values, *static)

    def __repr__(self) -> str:
        if not is_concrete(jax.tree.leaves((self.potential, self.energy, self.max_force))):
            return "Equilibrium(traced)"
        if np.ndim(self.energy):
            minima, size = int(np.sum(np.asarray(self.minimum & self.converged))), self.system.positions.shape
            return f"Equilibrium({size[0]} members of {size[-2]} particles, {minima} of them at rest in a minimum)"
        known = np.isfinite(float(self.curvature))
        flat = ("a saddle" if known else "of unknown curvature") if bool(self.converged) else "not at rest"
        state = "a minimum" if bool(self.minimum) else flat
        return (
            f"Equilibrium({self.system.n} particles, {state}, energy {float(self.energy):.10g}, largest force "
            f"component {float(self.max_force):.2g}, {int(self.steps)} steps; see .certificate)"
        )

    def __getitem__(self, k: Any) -> Equilibrium:
        """Member k of an ensemble. **Raises** `InvalidInput` for a single equilibrium."""
        if not np.ndim(self.energy):
            raise InvalidInput("this is one equilibrium, not an ensemble: it has no members")
        if isinstance(k, int) and not -self.energy.shape[0] <= k < self.energy.shape[0]:
            raise IndexError(f"there is no member {k} of {self.energy.shape[0]}")
        if isinstance(k, int):
            return member(self, k % self.energy.shape[0])
        return jax.tree.map(lambda leaf: leaf[k], self)

    @property
    def system(self) -> System:
        """The relaxed system."""
        if not isinstance(self.source, AtRest):
            return self.source
        system = relaxed_system(self.source)
        if is_concrete(system):  # a traced system belongs to the transformation that asks for it
            kept = {"_linearization": self.source.cache, "known_energy": self.source.energy, "source": system}
            for name, value in kept.items():
                object.__setattr__(self, name, value)
        return system

    @property
    def energy(self) -> Float[Array, ""]:
        """The potential energy at rest."""
        if self.known_energy is not None or not isinstance(self.source, AtRest):
            return self.known_energy  # type: ignore[return-value]
        energy = relaxed_energy(self.source)
        if is_concrete(energy):
            object.__setattr__(self, "known_energy", energy)
        return energy

    @property
    def frozen(self) -> Equilibrium:
        """The same without derivatives."""
        system, energy = self.source, self.known_energy
        if isinstance(self.source, AtRest):
            system, energy = self.source.system, self.source.energy
        still = jax.lax.stop_gradient(dataclasses.replace(self, source=system, known_energy=energy))
        object.__setattr__(still, "_linearization", self._cache)
        return still

    @property
    def positions(self) -> Float[Array, "n d"]:
        """Relaxed positions [n, d], not wrapped into the cell."""
        return self.system.positions

    @property
    def configuration(self) -> Configuration:
        """The point of the energy landscape, with the pairs in contact or nearly so."""
        return Configuration(self.potential, self.system, self.neighbors)

    @property
    def linearization(self) -> Linearization:
        """The equilibrium to second order; computed once, and kept."""
        known = self.source.known if isinstance(self.source, AtRest) else None
        return linearization_of(self.at_rest(self.system, linearization=known))

    def with_linearization(self, linearization: Linearization) -> Equilibrium:
        """The same with a linearization that is known, as of a member of an ensemble."""
        known = dataclasses.replace(self)
        object.__setattr__(known, "_linearization", LinearizationCache(linearization))
        return known

    def at_rest(
        self, system: System, potential: Potential | None = None, linearization: Linearization | None = None
    ) -> AtRest:
        """The equilibrium as the derivative rule takes it, with a system and a potential that carry tangents.

        **Arguments:**

        - `linearization`: that of this equilibrium, where it is passed to a compiled function.
        """
        facts = self.neighbors, self.energy, self.curvature, self.pressure, self.rule, self._cache
        return AtRest(system, potential or self.potential, *facts, linearization)

    @property
    def _cache(self) -> LinearizationCache:
        if not hasattr(self, "_linearization"):
            cache = self.source.cache if isinstance(self.source, AtRest) else LinearizationCache()
            object.__setattr__(self, "_linearization", cache)
        return self._linearization  # type: ignore[attr-defined]

    @property
    def pair_finder(self) -> PairFinder:
        """How pairs are found."""
        return self.neighbors.finder

    @property
    def all_neighbors(self) -> Neighbors:
        """The pairs within their cutoff plus a skin; computed once."""
        if not hasattr(self, "_all_neighbors"):
            here = self.frozen
            found = allocate(self.pair_finder, here.potential, here.system)
            object.__setattr__(self, "_all_neighbors", found)
        return self._all_neighbors  # type: ignore[attr-defined]

    @property
    def forces(self) -> Float[Array, "n d"]:
        """-∂E/∂x at the relaxed positions [n, d], energy per length; on fixed degrees of freedom, too."""
        known = self._cache.known
        if known is not None and is_concrete((self.configuration, known.forces)):
            return known.forces
        return _forces(self.configuration)

    @property
    def reactions(self) -> Float[Array, "n d"]:
        """The forces that hold fixed degrees of freedom, ∂E/∂x there and zero elsewhere [n, d], energy per length."""
        return _reactions(self.system, self.forces)

    def check(self) -> None:
        """**Raises:**

        - `NotConverged` or `NotAMinimum` for a result of `jit` with such a flag.
        - `InvalidInput` for an ensemble, whose members are checked one by one.
        """
        self._check_single()
        if not self.rule.refuse:
            return
        status = self.status
        if status is not Status.OK:
            raise status.raised(
                max_force=float(self.max_force),
                steps=int(self.steps),
                tolerance=float(self.tolerance),
                curvature=float(self.curvature),
                more=self._why_else,
            )

    @property
    def status(self) -> Status:
        """Whether this is a minimum at rest, or why not."""
        if not bool(self.converged):
            return Status.NOT_CONVERGED
        if bool(self.minimum):
            return Status.OK
        return Status.NOT_A_MINIMUM if np.isfinite(float(self.curvature)) else Status.CURVATURE_NOT_FINITE

    @property
    def _why_else(self) -> str:
        off = "" if self.pressure_error is None else f", the pressure {float(self.pressure_error):.3g} off"
        full = "; the neighbor list overflowed (Relaxation.allocated_for)" if bool(self.overflow) else ""
        return off + full

    def _check_single(self) -> None:
        if np.ndim(self.energy):
            raise InvalidInput("this is an ensemble of equilibria: look at one of them, equilibria[k]")

    def check_concrete(self) -> None:
        """`check`, where the host knows the flags."""
        if is_concrete((self.converged, self.minimum)):
            self.check()

    @property
    def certificate(self) -> Certificate:
        """The evidence for this equilibrium: zero modes, rattlers, contacts, curvatures; computed once."""
        if not hasattr(self, "_certificate"):
            object.__setattr__(self, "_certificate", self.certify())
        return self._certificate  # type: ignore[attr-defined]

    def certify(self, thorough: bool = False) -> Certificate:
        """The certificate. A thorough one also solves for the distance to the minimum and, in a large system, for the
        softest modes, which takes about as long as a response.
        """
        self._check_single()
        here = self.frozen
        facts = {
            "converged": bool(self.converged),
            "max_force": float(self.max_force),
            "tolerance": float(self.tolerance),
            "steps": int(self.steps),
            "escapes": int(self.escapes),
            "energy": float(self.energy),
            "pressure": None if self.pressure is None else float(self.pressure),
            "pressure_error": None if self.pressure_error is None else float(self.pressure_error),
        }
        bounds = float(self.curvature), float(self.highest_curvature)
        with outside_trace():
            return certify(here.linearization, facts, bounds, lambda: here.all_neighbors, thorough)


@compile_once
def _forces(configuration: Configuration) -> Float[Array, "n d"]:
    return -configuration.whole_gradient()


@compile_once
def _reactions(system: System, forces: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return system.relaxing(forces) - forces
