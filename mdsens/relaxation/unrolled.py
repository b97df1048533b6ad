"""The differentiated loop: the baseline for comparison with implicit differentiation."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .. import linear_solvers
from ..geometry import carried
from ..landscape.configuration import Configuration
from ..landscape.curvature import lowest_curvature
from ..minimizers import FIRE, Minimizer, position_of
from ..neighbors import AllPairs, Neighbors, PairFinder, allocate, automatic
from ..potentials import Potential
from ..runtime.tracing import as_array, is_concrete
from ..system import System
from . import validation
from .descent import Scales, stepper, well_posed
from .equilibrium import Equilibrium
from .relaxation import small_force
from .rule import Rule


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Relaxes by a fixed number of steps, and differentiates every one of them.

    The derivative is that of the path, not of the minimum: it depends on the initial positions, and need not converge
    as the number of steps grows. Reverse mode keeps the state of all steps in memory. As in `Relaxation`, the initial
    positions follow a change of the box.

    **Arguments:**

    - `steps` (int) of `minimizer`. Inside `jit` it may be traced, so that one program serves any number of steps; its
      derivatives are then those of forward mode alone.
    - `tolerance` (energy per length): for the flag `converged` alone; None means 1e-10 of the potential's force scale.
    - `neighbors`: as in `Relaxation`, but not enlarged once the loop runs: an overflow makes the result NaN.
    """

    steps: int | Int[Array, ""]
    minimizer: Minimizer = dataclasses.field(default_factory=FIRE)
    tolerance: float | None = None
    neighbors: PairFinder | None = None

    def __call__(self, potential: Potential, system: System) -> Equilibrium:
        potential = potential.prepared_for(system)
        if system.lattice is not None:
            first, lattice = jax.lax.stop_gradient((system.positions, system.lattice))
            system = system.replace(positions=system.with_relaxed(carried(first, lattice, system.lattice)))
        potential.check()
        finder = self.neighbors or automatic(potential, system)
        start = jax.lax.stop_gradient((potential, system))
        if is_concrete(start):
            validation.surveyed(*start, getattr(finder, "skin", as_array(0.25, float)))
            list_ = allocate(finder, *start)
            finder = list_.finder.enlarged(list_)
        positions, list_, overflow = _run(self.minimizer, self.steps, finder, potential, system)
        fits = well_posed(finder, potential, system, system.replace(positions=positions))
        positions = positions * jnp.where(overflow | ~fits, jnp.nan, 1.0)
        relaxed = system.replace(positions=positions)
        here = Configuration(potential, relaxed, list_)
        energy, max_force = here.energy(), jnp.max(jnp.abs(here.gradient()))
        given = small_force(1e-10, potential.force_scale(system)) if self.tolerance is None else self.tolerance
        tolerance = jnp.asarray(given, positions.dtype)
        converged = (max_force <= tolerance) & jnp.isfinite(energy) & ~overflow
        curvature = lowest_curvature(*jax.lax.stop_gradient((here, max_force)))
        return Equilibrium(
            source=relaxed,
            potential=potential,
            known_energy=energy,
            max_force=max_force,
            steps=jnp.asarray(self.steps, jnp.int32),
            converged=converged,
            minimum=converged & jnp.isfinite(curvature.lowest) & ~curvature.negative,
            curvature=curvature.lowest,
            highest_curvature=curvature.highest,
            escapes=jnp.asarray(0, jnp.int32),
            overflow=overflow,
            tolerance=tolerance,
            pressure=None,
            pressure_error=None,
            neighbors=list_,
            rule=Rule(linear_solvers.automatic(potential, system, minimum_only=False)),
        )


@eqx.filter_jit
def _run(
    minimizer: Minimizer, steps: int | Int[Array, ""], finder: PairFinder, potential: Potential, system: System
) -> tuple[Array, Neighbors, Array]:
    """Positions after the loop, the list in use there, and whether any list overflowed."""
    first, scales = finder.build(potential, system), Scales.of(potential, system)

    def steps_with(list_: Neighbors) -> Any:
        return stepper(minimizer, Configuration(potential, system, list_), scales)(0.49 * list_.skin)

    def step(carry: tuple[Any, Neighbors, Array]) -> tuple[Any, Neighbors, Array]:
        state, list_, overflow = carry
        after = steps_with(list_)[1](state)
        if not isinstance(finder, AllPairs):
            here = system.replace(positions=position_of(state))
            frozen = jax.lax.stop_gradient((potential, here))
            out_of_date = list_.out_of_date(position_of(after))
            list_ = jax.lax.cond(out_of_date, lambda: finder.build(*frozen), lambda: list_)
            after = steps_with(list_)[1](state)
        return after, list_, overflow | list_.overflow

    start = (steps_with(first)[0](system.positions), first, first.overflow)
    if isinstance(steps, int):
        (state, list_, overflow), _ = jax.lax.scan(lambda carry, _: (step(carry), None), start, None, length=steps)
    else:  # a loop whose length is not known has no reverse mode
        state, list_, overflow = jax.lax.fori_loop(0, steps, lambda _, carry: step(carry), start)
    return position_of(state), list_, overflow
