"""The derivative rule: how a point at rest moves when a parameter moves.

At rest ∇E(x, θ) = 0. Along dθ the particles first follow the cell affinely, then relax:

    dx = x h⁻¹ dh + u,    H u = -P d(∇E),    u ⊥ zero modes

with d(∇E) the change of the gradient along dθ and the affine motion, H the Hessian, P the projection off the zero
modes. Where degrees of freedom are fixed, dx is what is given, u = 0, and H that of the others. This is the implicit
function theorem (Blondel et al., Efficient and Modular Implicit Differentiation, arXiv 2105.15183, Eq. 2) with the
minimum-norm solution.

The functions here return what they are given; only their derivatives are their own. Everything in the rule is
differentiable in (x, θ) again, so it holds to any order, forward and reverse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from ..errors import MdsensError, Status
from ..geometry import PairList, reciprocal, symmetric_strains
from ..implicit import implicit_function, nan_unless
from ..landscape.configuration import Configuration
from ..linearization import Linearization, linearize
from ..potentials import Potential
from ..runtime.linear_map import linear_map
from ..runtime.tracing import is_concrete, outside_trace
from ..system import System


class Theta(eqx.Module):
    """What a point at rest depends on; the same structure holds a change of it, None where nothing changes."""

    system: System
    potential: Potential
    pressure: Float[Array, ""] | None = None


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to differentiate.

    **Arguments:**

    - `solver`: the linear solver.
    - `refuse` (bool): whether to refuse the derivative of the positions where it is not defined: where no contacts
      constrain the particles, the residual forces hide which do, or two particles are within rounding of touching. An
      exception is raised outside `jit`; inside, the derivative is NaN.
    - `one_sided` (bool): take contacts that just touch as they are found; the derivative is that toward this side.
    - `cell`: how a cell at constant pressure may strain, `isotropic` or `full`.
    """

    solver: lx.AbstractLinearSolver
    refuse: bool = True
    one_sided: bool = False
    cell: Literal["isotropic", "full"] = "isotropic"

    @property
    def refused(self) -> Callable[[str | None], MdsensError] | None:
        """The exception for a derivative that is not finite, by the name of a parameter; None to let it pass."""
        return not_finite if self.refuse else None

    def strains(self, d: int) -> Float[np.ndarray, "m d d"]:
        """A basis of the strains of a cell at constant pressure."""
        return np.eye(d)[None] if self.cell == "isotropic" else symmetric_strains(d)[0]


def not_finite(name: str | None) -> MdsensError:
    """The exception for a derivative by this parameter that is not finite, or along a change of many if None."""
    return Status.DERIVATIVE_NOT_FINITE.raised(by=f" by {name}" if name else "")


class LinearizationCache:
    """The linearization of one equilibrium, computed when it is first needed and kept."""

    def __init__(self, known: Linearization | None = None) -> None:
        self.known = known

    def get(
        self, configuration: Configuration, solver: lx.AbstractLinearSolver, curvature_bound: Float[Array, ""]
    ) -> Linearization:
        """The linearization; of traced arrays it belongs to the trace and is not kept."""
        if not is_concrete((configuration, curvature_bound)):
            return linearize(configuration, solver, curvature_bound)
        if self.known is None:
            self.known = linearize(configuration, solver, curvature_bound)
        return self.known


class AtRest(eqx.Module):
    """A point at rest as the rule takes it: what was found, and how to differentiate it.

    `system` has the relaxed positions and carries the tangents of diameters, box and fixed positions; `energy` is the
    energy there, `curvature_bound` the lowest curvature, or a bound for it, and `pressure` that at which the cell
    relaxes, or None.
    The linearization there is `known`, or found in the `cache` on the host, or computed.
    """

    system: System
    potential: Potential
    neighbors: PairList
    energy: Float[Array, ""]
    curvature_bound: Float[Array, ""]
    pressure: Float[Array, ""] | None
    rule: Rule = eqx.field(static=True)
    cache: LinearizationCache | None = eqx.field(static=True)
    known: Linearization | None = None

    @property
    def theta(self) -> Theta:
        return Theta(self.system, self.potential, self.pressure)

    def with_system(self, system: System) -> AtRest:
        return dataclasses.replace(self, system=system)

    def at(self, theta: Theta) -> AtRest:
        return dataclasses.replace(self, system=theta.system, potential=theta.potential, pressure=theta.pressure)

    def linearization(self, x: Float[Array, "n d"] | None = None) -> Linearization:
        """The linearization at x, which admits a response.

        **Raises**, outside `jit` and where the rule is to refuse it, for a response that is not defined.
        """
        found = linearization_of(self, x)
        if self.rule.refuse:
            found.check(self.rule.one_sided)
        return found


def positions_at_rest(at_rest: AtRest) -> Float[Array, "n d"]:
    """The positions of a system at rest; their derivative is the response to (potential, diameters, box)."""
    return implicit_function(at_rest.system.positions, at_rest.theta, _OfParticles(at_rest))


class Motion(eqx.Module):
    """How something moves with a point at rest: the base of the rules for `implicit_function`."""

    at_rest: AtRest

    @property
    def solver(self) -> lx.AbstractLinearSolver:
        return self.at_rest.rule.solver

    def refused(self, theta: Theta) -> Callable[[str | None], MdsensError] | None:
        return self.at_rest.rule.refused


class _OfParticles(Motion):
    def response(
        self, x: Float[Array, "n d"], theta: Theta
    ) -> tuple[Callable[[Theta], Any], Callable[[Theta], Any] | None]:
        linearization, rule = self.at_rest.at(theta).linearization(x), self.at_rest.rule
        responses = [eqx.Partial(response, each, rule=rule) for each in linearization.attempts()]
        return responses[-1], responses[0] if len(responses) > 1 else None


@eqx.filter_custom_jvp
def energy_at_rest(at_rest: AtRest) -> Float[Array, ""]:
    """The energy of a system at rest; since ∇E = 0 there, its first derivative needs no linear solve."""
    return at_rest.energy


@energy_at_rest.def_jvp
def _(primals: tuple[AtRest], tangents: tuple[Any]) -> tuple[Array, Array]:
    (at_rest,), (change,) = primals, tangents
    here = at_rest.system.replace(positions=positions_at_rest(at_rest))
    changed = eqx.Partial(_change_of_energy, here, at_rest.potential, at_rest.neighbors)
    energy, change = energy_at_rest(at_rest), Theta(change.system, change.potential)
    return energy, linear_map(changed, change, energy, at_rest.rule.refused)


def linearization_of(at_rest: AtRest, x: Float[Array, "n d"] | None = None) -> Linearization:
    """The linearization at rest; a differentiable function of (x, θ) where these are traced."""
    system, potential, neighbors = at_rest.system, at_rest.potential, at_rest.neighbors
    bound, solver = at_rest.curvature_bound, at_rest.rule.solver
    if at_rest.cache is not None and is_concrete((system, potential, neighbors, bound)):
        with outside_trace():
            return at_rest.cache.get(Configuration(potential, system, neighbors), solver, bound)
    here = Configuration(potential, system if x is None else system.replace(positions=x), neighbors)
    known = linearize(here, solver, bound) if at_rest.known is None else jax.lax.stop_gradient(at_rest.known)
    return known.at(here)


def response(linearization: Linearization, change: Theta, rule: Rule) -> Float[Array, "n d"]:
    """dx along a change of (system, potential); NaN where it is refused."""
    system, potential = linearization.configuration.system, linearization.configuration.potential
    backbone = linearization.backbone.neighbors

    def gradient(system: System, potential: Potential) -> Float[Array, "n d"]:
        return potential.gradient(system, backbone)

    def moved(change: Theta) -> Float[Array, "n d"]:
        push = _along(gradient, system, potential, change)
        return imposed_motion(system, change.system) - linearization.solve(push)

    defined = (linearization.status(rule.one_sided) == int(Status.OK)) | (not rule.refuse)
    return nan_unless(defined & jnp.all(jnp.isfinite(system.positions)), moved, change)


def _change_of_energy(system: System, potential: Potential, neighbors: PairList, change: Theta) -> Float[Array, ""]:
    def energy(system: System, potential: Potential) -> Float[Array, ""]:
        return potential.energy(system, neighbors)

    def changed(change: Theta) -> Float[Array, ""]:
        return _along(energy, system, potential, change)

    return nan_unless(jnp.all(jnp.isfinite(system.positions)), changed, change)


def _along(function: Callable[..., Array], system: System, potential: Potential, change: Theta) -> Array:
    """The derivative of function(system, potential) along a change, before the particles relax."""
    imposed = imposed_motion(system, change.system)
    carried = eqx.tree_at(lambda s: s.positions, change.system, imposed, is_leaf=lambda leaf: leaf is None)
    value, slope = eqx.filter_jvp(function, (system, potential), (carried, change.potential))
    return jnp.zeros_like(value) if slope is None else slope  # None: it depends on nothing, as without pairs


def imposed_motion(system: System, to_system: System) -> Float[Array, "n d"]:
    """The motion before the particles relax: x h⁻¹ dh, but of fixed ones what is given."""
    affine = jnp.zeros_like(system.positions)
    if system.lattice is not None and to_system.box is not None:
        affine = system.positions @ reciprocal(system.lattice) @ to_system.lattice
    if system.movable is None:
        return affine
    return jnp.where(system.movable, affine, 0.0 if to_system.positions is None else to_system.positions)
