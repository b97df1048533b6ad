"""The differentiated loop: the baseline that implicit differentiation is compared with."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import linear_solvers, neighbors, validation
from .curvature import lowest_curvature
from .implicit import Rule
from .minimizers import FIRE, Minimizer, position_of
from .neighbors import AllPairs, NeighborList, Neighbors
from .potentials import Potential
from .relaxation import Equilibrium, steps_of
from .system import System, is_concrete, reciprocal


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Relaxes by a fixed number of steps, and differentiates every one of them.

    **Arguments:** `steps` of `minimizer`; `tolerance`, for `converged` alone; `neighbors` as in
    `Relaxation`, but not grown once the loop runs: an overflow makes the result NaN. Reverse mode
    keeps the state of all steps in memory. The derivative is that of the path, not of the minimum: it
    depends on the initial positions, and need not settle as steps grow. As in `Relaxation`, the
    initial positions follow a change of the box.
    """

    steps: int
    minimizer: Minimizer = dataclasses.field(default_factory=FIRE)
    tolerance: float = 1e-10
    neighbors: AllPairs | NeighborList | None = None

    def __call__(self, potential: Potential, system: System) -> Equilibrium:
        potential = potential.in_precision_of(system)
        if system.box is not None:
            fractions = jax.lax.stop_gradient(system.positions @ reciprocal(system.box))
            system = system.replace(positions=fractions @ system.box)
        validation.check_potential(potential)
        kind = self.neighbors or neighbors.automatic(potential, system)
        start = jax.lax.stop_gradient((potential, system))
        if is_concrete(start):
            validation.check_system(*start)
            list_ = neighbors.sized(kind, *start)
            kind = list_.kind.grown(list_)
        positions, list_, overflow = _run(self, kind, potential, system)
        positions = positions * jnp.where(overflow | ~kind.fits(*start) | ~potential.covers(system), jnp.nan, 1.0)
        relaxed = system.replace(positions=positions)
        energy, slope = jax.value_and_grad(lambda x: potential.energy(system.replace(positions=x), list_))(positions)
        max_force = jnp.max(jnp.abs(slope))
        converged = (max_force <= self.tolerance) & ~overflow
        curvature = lowest_curvature(*jax.lax.stop_gradient((potential, relaxed, list_, max_force)))
        return Equilibrium(
            at_rest=relaxed,
            potential=potential,
            energy=energy,
            max_force=max_force,
            steps=jnp.asarray(self.steps, jnp.int32),
            converged=converged,
            minimum=converged & ~curvature.negative,
            curvature=curvature.lowest,
            escapes=jnp.asarray(0, jnp.int32),
            overflow=overflow,
            tolerance=jnp.asarray(self.tolerance, positions.dtype),
            pressure=None,
            pressure_error=None,
            close=list_,
            rule=Rule(linear_solvers.automatic(potential, system, definite=False)),
        )


@eqx.filter_jit
def _run(
    loop: Unrolled, kind: AllPairs | NeighborList, potential: Potential, system: System
) -> tuple[Array, Neighbors, Array]:
    """Positions after the loop, the list in use there, and whether any list overflowed."""
    build = kind.build
    first = build(potential, system)
    init, _ = steps_of(loop.minimizer, potential, system, first)

    def step(carry: tuple[Any, Neighbors, Array], _now: None) -> tuple[tuple[Any, Neighbors, Array], None]:
        state, list_, overflow = carry

        def moved(list_: Neighbors) -> Any:
            return steps_of(loop.minimizer, potential, system, list_)[1](state)

        after = moved(list_)
        if isinstance(kind, NeighborList):
            here = system.replace(positions=position_of(state))
            frozen = jax.lax.stop_gradient((potential, here))
            list_ = jax.lax.cond(list_.stale(position_of(after)), lambda: build(*frozen), lambda: list_)
            after = moved(list_)
        return (after, list_, overflow | list_.overflow), None

    start = (init(system.positions), first, first.overflow)
    (state, list_, overflow), _ = jax.lax.scan(step, start, None, length=loop.steps)
    return position_of(state), list_, overflow
