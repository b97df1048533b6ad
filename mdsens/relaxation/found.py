"""Equilibria that another code has found: certified and differentiated where they are."""

from __future__ import annotations

import dataclasses

import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from ..errors import MdsensError, Status
from ..minimizers import GradientDescent
from ..neighbors import AllPairs, NeighborList
from ..potentials import Potential
from ..system import System
from . import validation
from .equilibrium import Equilibrium
from .relaxation import Outcome, Relaxation


def at_rest(
    potential: Potential,
    system: System,
    *,
    tolerance: float | Float[Array, ""] | None = None,
    linear_solver: lx.AbstractLinearSolver | None = None,
    neighbors: AllPairs | NeighborList | None = None,
    one_sided: bool = False,
    throw: bool = True,
) -> Equilibrium:
    """The equilibrium at the positions given, such as another code has relaxed: no particle is moved.

    It has a certificate and all derivatives, and works under the same transformations as a `Relaxation`. The derivative
    is that of the minimum at which the particles are; it does not depend on how they came there.

    **Arguments:**

    - `potential`, `system`: the energy, and the particles at rest.
    - `tolerance` (energy per length): the largest force component allowed; None means 1e-10 of the potential's force
      scale, as in a `Relaxation`. Pass the one that the other code was given.
    - `linear_solver`: the solver behind the derivatives; chosen by size if None.
    - `neighbors`: `AllPairs()` or `NeighborList()`; chosen by size if None.
    - `one_sided` (bool): whether to differentiate also where two particles are within rounding of touching.
    - `throw` (bool): whether to raise where this is no minimum at rest; inside `jit` and `vmap` positions and energy
      are then NaN. With `throw=False` everything is returned as it is, with its flags.

    **Returns** the Equilibrium, with `steps` 0.

    **Raises**, outside `jit`:

    - `NotConverged` for particles that are not at rest, with the largest force component.
    - `NotAMinimum` at a saddle.
    - `InvalidInput`, `NotRigid` and `NotDifferentiable` as a `Relaxation` does.
    """
    return _NoStep(
        tolerance=tolerance, linear_solver=linear_solver, neighbors=neighbors, one_sided=one_sided, throw=throw
    )(potential, system)


def why_not_at_rest(found: Equilibrium) -> MdsensError | None:
    """The error for particles that `at_rest(throw=False)` has looked at; None for a minimum at rest."""
    facts = float(found.max_force), float(found.tolerance), float(found.curvature)
    error = _why_not(*facts, bool(found.converged) and not bool(found.minimum))
    return error if error or found.status is Status.OK else found.status.raised()


def _why_not(max_force: float, tolerance: float, curvature: float, negative: bool) -> MdsensError | None:
    if tolerance < max_force < np.inf:
        return Status.NOT_AT_REST.raised(max_force=max_force, tolerance=tolerance)
    if negative and np.isfinite(curvature):
        return Status.NOT_A_MINIMUM.raised(curvature=curvature)
    return None


@dataclasses.dataclass(frozen=True)
class _NoStep(Relaxation):
    """A relaxation that makes no step."""

    minimizer: GradientDescent = dataclasses.field(default_factory=GradientDescent)
    newton: None = None
    max_steps: int = 0
    escape: bool = False

    def __post_init__(self) -> None:
        validation.check_options(self.tolerance, self.relative_tolerance, max_steps=1)
        validation.check_kinds(self.minimizer, self.linear_solver)

    def _refused(self, outcome: Outcome) -> MdsensError | None:
        facts = float(outcome.max_force), float(self.force_limit), float(outcome.curvature.lowest)
        return _why_not(*facts, bool(outcome.curvature.negative)) or super()._refused(outcome)
