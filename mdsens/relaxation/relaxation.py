"""From a potential and a system to an equilibrium."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .. import linear_solvers
from ..errors import MdsensError, Status
from ..geometry import reciprocal
from ..landscape.configuration import Configuration
from ..landscape.consistency import Probe, first_probe
from ..landscape.contacts import nearly_in_contact
from ..landscape.curvature import Curvature, lowest_curvature
from ..linearization import Linearization, linearize
from ..minimizers import FIRE, Minimizer, Newton
from ..neighbors import AllPairs, NeighborList, Neighbors, allocate, automatic
from ..neighbors.allocation import MOST_ENLARGEMENTS, Survey, fitting, only_chosen, overflows
from ..neighbors.cells import sort_into_cells
from ..neighbors.lists import is_sorted
from ..potentials import Potential
from ..runtime.compiled import compile_once, release_when_full
from ..runtime.progress import Falling, reporting
from ..runtime.tracing import as_array, is_concrete, outside_trace
from ..system import System
from . import validation
from .constant_pressure import Cell, find_cell, unbounded
from .descent import Descent, Limits, Method, advance_to, begin, pushed_off, well_posed
from .equilibrium import Equilibrium
from .rule import AtRest, LinearizationCache, Rule

STEPS_BETWEEN_CHECKS = 1000
"""Outside `jit` the host checks at least this often, and more often for large systems, whose steps take longer."""

MOST_ESCAPES = 20
"""Saddles that a relaxation leaves before it gives up."""

ON_THE_EDGE = 1e-6
"""Logarithms by which a force scale may fall short of a power of ten and still count as one."""

Progress = Callable[[int, float], None]


class Outcome(eqx.Module):
    """The end of a descent, for the particles in the order they were given.

    `fits` is True where all periodic images within the cutoff were counted.
    """

    positions: Float[Array, "n d"]
    neighbors: Neighbors
    energy: Float[Array, ""]
    max_force: Float[Array, ""]
    steps: Int[Array, ""]
    curvature: Curvature
    escapes: Int[Array, ""]
    fits: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Relaxes a system: `relax = Relaxation(...)`, then `relax(potential, system)`.

    Works under `grad`, `jacfwd`, `jacrev`, `hessian`, `jit` and `vmap`. The derivative is that of the minimum: it
    does not depend on the initial positions; global translations, rotations that the boundaries allow, and
    rattlers do not move; and a change of the box carries the particles along affinely before they relax.

    **Arguments:**

    - `minimizer`: `FIRE()`, `GradientDescent()`, or any of jax-md's through `JaxMDMinimizer`.
    - `newton`: how to find the last digits once the contacts have settled, in systems of 300 particles or more; None
      means by the minimizer alone.
    - `tolerance` (energy per length): the largest force component allowed; at constant pressure also the deviation of
      the stress allowed, in units of tolerance / (typical length)^(d-1). None means `relative_tolerance`.
    - `relative_tolerance`: the tolerance relative to the potential's force scale (typical stiffness times typical
      length), rounded down to a power of ten, where `tolerance` is None: 1e-10 for soft spheres in reduced units.
    - `pressure` (energy per volume): the cell relaxes, too, until it has this pressure; None means a fixed cell. Then
      derivatives include the response of the cell, and the pressure may be differentiated, too.
    - `cell`: how the cell relaxes, `isotropic` at fixed shape, or `full`, in all components of its strain.
    - `max_steps`: when to give up.
    - `linear_solver`: the solver behind the derivatives, from `mdsens.linear_solvers` or lineax; chosen by size if
      None.
    - `neighbors`: `AllPairs()` or `NeighborList()`; chosen by size if None.
    - `escape` (bool): whether to leave a saddle along its lowest curvature and go on; `Equilibrium.escapes` counts.
    - `one_sided` (bool): whether to differentiate also where two particles are within rounding of touching, or where
      the second derivative of an energy of your own jumps, as if that stayed as it is.
    - `throw` (bool): whether to raise where there is no minimum to return, or no derivative. Where nothing can be
      raised (`jit`, `vmap`), positions and energy, or the derivative, are then NaN, and `converged` or `minimum` is
      False. With `throw=False` everything is returned as it is, with its flags.
    - `progress`: called now and then, outside `jit`, as `progress(steps, max_force)`. None shows a bar in terminals
      and notebooks for work that takes longer than a second (`mdsens.progress_bars`).

    **Raises**, outside `jit`:

    - `NotConverged`, `NotAMinimum`.
    - `NeighborOverflow` where no list can hold all pairs.
    - `InvalidInput` for a system without forces (NaN, two particles on one point, a cell too small for the cutoff), a
      tolerance beyond the precision, or one that is no small force for this potential.
    - `NotRigid`, where no contacts constrain the particles, as below jamming, and `NotDifferentiable`, where a
      contact is about to open or close, when the positions are differentiated.
    """

    minimizer: Minimizer = dataclasses.field(default_factory=FIRE)
    newton: Newton | None = dataclasses.field(default_factory=Newton)
    tolerance: float | Float[Array, ""] | None = None
    relative_tolerance: float = 1e-10
    pressure: ArrayLike | None = None
    cell: Literal["isotropic", "full"] = "isotropic"
    max_steps: int = 100_000
    linear_solver: lx.AbstractLinearSolver | None = None
    neighbors: AllPairs | NeighborList | None = None
    escape: bool = True
    one_sided: bool = False
    throw: bool = True
    progress: Progress | None = None

    def __post_init__(self) -> None:
        validation.check_options(self.tolerance, self.relative_tolerance, self.max_steps)
        validation.check_kinds(self.minimizer, self.linear_solver)
        validation.check_pressure(self.pressure, self.cell)

    def __call__(self, potential: Potential, system: System) -> Equilibrium:
        validation.check_arguments(potential, system)
        potential = potential.prepared_for(system)
        potential.check()
        start = jax.lax.stop_gradient((potential, system))
        concrete = is_concrete(start)
        with outside_trace(concrete):
            surveyed = validation.surveyed(*start, self.skin) if concrete else None
            relax = self.measured_for(*start, surveyed)
        if relax.pressure is not None:
            return relax._at_pressure(potential, system, *start)
        if surveyed is None:
            return relax.equilibrium(potential, system, relax._run_in_jit(*start))
        with outside_trace():
            outcome, linearization = relax._run_on_host(*start, surveyed)
        return relax.equilibrium(potential, system, outcome, linearization=linearization, refused=True)

    @property
    def force_limit(self) -> Any:
        """The tolerance as a number, of a relaxation that `measured_for` has returned."""
        assert self.tolerance is not None
        return self.tolerance

    @property
    def skin(self) -> Float[Array, ""]:
        """That of the neighbor list, where there will be one."""
        return self.neighbors.skin if isinstance(self.neighbors, NeighborList) else NeighborList().skin

    def measured_for(self, potential: Potential, system: System, surveyed: Survey | None) -> Relaxation:
        """The same with a tolerance that is a number: the one given, or that for this potential and system.

        **Arguments:**

        - `surveyed`: the survey of a concrete system; None under `jit`.

        **Raises** `InvalidInput`, on the host, for a tolerance that is too large.
        """
        scale = potential.force_scale(system) if surveyed is None else float(surveyed.force_scale)
        if surveyed is not None:
            validation.check_force_scale(potential, float(scale))
        if self.tolerance is None:
            return dataclasses.replace(self, tolerance=small_force(self.relative_tolerance, scale))
        if surveyed is not None:
            validation.check_tolerance(potential, self.tolerance, scale)
        return self

    def allocated_for(self, potential: Potential, system: System) -> Relaxation:
        """The same with a neighbor list that has room for a system like this one, to be used under `jit`.

        There is a quarter to spare. Where particles will come together, pass a system that is at rest.
        """
        potential = potential.prepared_for(system)
        list_ = allocate(self.neighbors or automatic(potential, system), potential, system)
        return dataclasses.replace(self, neighbors=list_.finder.enlarged(list_))

    def equilibrium(
        self,
        potential: Potential,
        system: System,
        outcome: Outcome,
        refused: bool = False,
        cell: Cell | None = None,
        allowed: Float[Array, ""] | None = None,
        linearization: Linearization | None = None,
    ) -> Equilibrium:
        """The equilibrium that a descent has found.

        **Arguments:**

        - `refused`: True where the host has raised for all that is to be refused; else positions and energy are NaN
          without a minimum.
        - `cell`: the cell found at constant pressure, with the deviation of the stress that is `allowed`.
        - `linearization`: at the end of the descent, where it is known.
        """
        converged, minimum, overflow = self._flags(outcome, cell, allowed)
        positions, energy, dtype = system.with_relaxed(outcome.positions), outcome.energy, system.positions.dtype
        if self.throw and not refused:
            positions, energy = (jnp.where(minimum, value, jnp.nan) for value in (positions, energy))
            if cell is not None and system.box is not None:
                system = system.replace(box=jnp.where(minimum, system.box, jnp.nan))
        rule = self._rule(potential, system)
        pressure = None if cell is None else as_array(self.pressure, dtype)
        at_rest = AtRest(
            system=system.replace(positions=positions),
            potential=potential,
            neighbors=outcome.neighbors,
            energy=energy,
            curvature_bound=outcome.curvature.lowest,
            pressure=pressure,
            rule=rule,
            cache=LinearizationCache(linearization),
        )
        return Equilibrium(
            source=at_rest,
            potential=potential,
            known_energy=None,
            max_force=outcome.max_force,
            steps=outcome.steps if cell is None else cell.steps,
            converged=converged,
            minimum=minimum,
            curvature=outcome.curvature.lowest,
            highest_curvature=outcome.curvature.highest,
            escapes=outcome.escapes,
            overflow=overflow,
            tolerance=as_array(self.force_limit, dtype),
            pressure=pressure,
            pressure_error=None if cell is None else cell.error,
            neighbors=outcome.neighbors,
            rule=rule,
        )

    def _flags(
        self, outcome: Outcome, cell: Cell | None, allowed: Float[Array, ""] | None
    ) -> tuple[Array, Array, Array]:
        """Whether the descent converged, whether to a minimum, and whether a list overflowed.

        On the host NumPy compares the numbers, so that no program is compiled.
        """
        host = is_concrete((outcome, cell))
        end, strained = jax.tree.map(np.asarray, (outcome, cell)) if host else (outcome, cell)
        limit = np.asarray(self.force_limit, end.max_force.dtype) if host else self.force_limit
        overflow: Any = np.asarray(overflows(outcome.neighbors)) if host else outcome.neighbors.overflow
        finite = np.isfinite(end.energy) if host else jnp.isfinite(end.energy)
        converged = (end.max_force <= limit) & finite & end.fits & ~overflow
        lowest = end.curvature.lowest
        minimum = converged & (np.isfinite(lowest) if host else jnp.isfinite(lowest)) & ~end.curvature.negative
        if strained is not None and allowed is not None:
            reached = strained.error <= (np.asarray(allowed) if host else allowed)
            converged, minimum = converged & reached, minimum & reached & (strained.lowest_stiffness > 0.0)
        return as_array(converged), as_array(minimum), as_array(overflow)

    def stress_tolerance(self, potential: Potential, system: System) -> Float[Array, ""]:
        """How far the stress may be off the pressure."""
        return _stress_tolerance(as_array(self.force_limit, system.positions.dtype), potential, system)

    def solver_for(self, potential: Potential, system: System) -> lx.AbstractLinearSolver:
        """The linear solver behind the derivatives."""
        return self.linear_solver or linear_solvers.automatic(potential, system, self.throw)

    def _rule(self, potential: Potential, system: System) -> Rule:
        return Rule(self.solver_for(potential, system), self.throw, self.one_sided, self.cell)

    def _at_pressure(
        self, potential: Potential, system: System, fixed_potential: Potential, fixed: System
    ) -> Equilibrium:
        """At rest in a cell that relaxes, too."""
        rule, allowed = self._rule(potential, system), self.stress_tolerance(fixed_potential, fixed)
        in_fixed_cell = dataclasses.replace(self, pressure=None, throw=False, linear_solver=rule.solver)
        pressure = jax.lax.stop_gradient(as_array(self.pressure, fixed.positions.dtype))
        concrete = is_concrete((fixed_potential, fixed, pressure))

        def relax(potential: Potential, system: System) -> tuple[Outcome, Linearization]:
            if concrete:
                return in_fixed_cell._run_on_host(potential, system)
            outcome = in_fixed_cell._run_in_jit(potential, system)
            here = Configuration(potential, system.replace(positions=outcome.positions), outcome.neighbors)
            return outcome, linearize(here, rule.solver, outcome.curvature.lowest)

        if concrete:
            validation.check_tension(potential, float(pressure))
        with outside_trace(concrete):
            cell = find_cell(relax, fixed_potential, fixed, rule, pressure, allowed)
        if self.throw and concrete:
            with outside_trace():
                self._check_derivatives(fixed_potential, cell.system, cell.outcome)
            self._check_cell(cell, fixed, allowed)
        assert system.box is not None and fixed.box is not None and cell.system.box is not None
        box = system.box @ jax.lax.stop_gradient(reciprocal(fixed.box) @ cell.system.box)
        return self.equilibrium(potential, system.replace(box=box), cell.outcome, concrete, cell, allowed)

    def _check_derivatives(
        self, potential: Potential, system: System, outcome: Outcome, first: Probe | None = None
    ) -> None:
        """**Raises** `InvalidInput` for a potential whose parts disagree, which might look like a saddle."""
        at_rest = Configuration(potential, system.replace(positions=outcome.positions), outcome.neighbors)
        if float(outcome.max_force) <= self.force_limit:
            validation.check_derivatives(at_rest, self.one_sided, first)

    def _check_cell(self, cell: Cell, start: System, allowed: Float[Array, ""]) -> None:
        if bool(cell.unbounded):
            raise unbounded(cell, start)
        if error := self._refused(cell.outcome):
            raise error
        if not float(cell.error) <= float(allowed):
            raise Status.PRESSURE_NOT_REACHED.raised(
                error=float(cell.error),
                pressure=float(cell.pressure),
                rounds=int(cell.rounds),
                allowed=float(allowed),
            )
        if not float(cell.lowest_stiffness) > 0.0:
            raise Status.CELL_UNSTABLE.raised(curvature=float(cell.lowest_stiffness))

    def _refused(self, outcome: Outcome) -> MdsensError | None:
        """The error for an outcome that is no minimum at rest; None for one that is."""
        steps, max_force = int(outcome.steps), float(outcome.max_force)
        by = {"steps": steps, "of_minimizer": f" of {type(self.minimizer).__name__}"}
        if not np.isfinite(max_force + float(outcome.energy)):
            return Status.NOT_FINITE.raised(**by)
        if not max_force <= self.force_limit:
            return Status.NOT_CONVERGED.raised(**by, max_force=max_force, tolerance=self.force_limit)
        if not np.isfinite(float(outcome.curvature.lowest)):
            return Status.CURVATURE_NOT_FINITE.raised()
        if bool(outcome.curvature.negative):
            left = f", after leaving {int(outcome.escapes)} others"
            met = left if self.escape else ", and escape=False forbids to leave it"
            return Status.NOT_A_MINIMUM.raised(met=met, curvature=float(outcome.curvature.lowest))
        return None

    def _run_on_host(
        self, potential: Potential, system: System, surveyed: Survey | None = None
    ) -> tuple[Outcome, Linearization]:
        """The host drives: lists are enlarged if they must, progress is reported, failures are raised."""
        release_when_full()
        surveyed = surveyed or validation.surveyed(potential, system, self.skin)
        finder = fitting(self.neighbors or automatic(potential, system, surveyed), potential, system, surveyed)
        method = Method(self.minimizer, self.newton, finder)
        with reporting("relaxing", self.progress, Falling(self.force_limit)) as report:
            descent = _HostDescent(self, method, potential, system, surveyed, report)
            found = descent.to_a_minimum()
        if self.throw:
            self._check_derivatives(potential, system, found[0], descent.probe)
            if error := self._refused(found[0]):
                raise error
        return found

    def _run_in_jit(self, potential: Potential, system: System) -> Outcome:
        """Everything on the device, with fixed sizes; an overflow stops the descent and is left in the result."""
        finder = self.neighbors or automatic(potential, system)
        method = Method(self.minimizer, self.newton, finder)
        limits = limits_of(self.force_limit, self.max_steps, system)
        return _descend_in_jit(method, potential, system, limits, MOST_ESCAPES if self.escape else 0)


@compile_once
def _stress_tolerance(force_limit: Float[Array, ""], potential: Potential, system: System) -> Float[Array, ""]:
    return jax.lax.stop_gradient(force_limit / potential.length(system) ** (system.dim - 1))


def small_force(relative: float, force_scale: Any) -> Any:
    """So large a part of a force scale, rounded down to a power of ten."""
    if isinstance(force_scale, float):
        return float(f"1e{math.floor(math.log10(relative * force_scale) + ON_THE_EDGE)}")
    return 10.0 ** jnp.floor(jnp.log10(relative * force_scale) + ON_THE_EDGE)


def limits_of(tolerance: float, most_steps: int, system: System) -> Limits:
    return Limits(as_array(tolerance, system.positions.dtype), as_array(np.int32(most_steps)))


@dataclasses.dataclass
class _HostDescent:
    """The loop around `advance` that the host drives; `probe` is of the derivatives of a potential to be checked."""

    relax: Relaxation
    method: Method
    potential: Potential
    given: System
    surveyed: Survey
    report: Callable[[int, float], None]
    probe: Probe | None = None

    def to_a_minimum(self) -> tuple[Outcome, Linearization]:
        """Down to rest, as often as there are saddles to leave."""
        start, steps = self.given, as_array(np.int32(0))
        for escapes in range(MOST_ESCAPES + 1):
            self.system, run = _prepare(self.method, self.potential, start, self._order, steps)
            outcome, linearization = self._outcome(self._to_rest(run), escapes)
            at_rest = float(outcome.max_force) <= self.relax.force_limit
            if not (self.relax.escape and bool(outcome.curvature.negative) and at_rest):
                break
            start, steps = _pushed_off(linearization), outcome.steps
        return outcome, linearization

    @property
    def _order(self) -> Int[Array, " n"] | None:
        return self.surveyed.order if is_sorted(self.potential, self.given.n) else None

    def _to_rest(self, run: Descent) -> Descent:
        relax, enlarged = self.relax, 0
        between = max(20, min(STEPS_BETWEEN_CHECKS, 20_000_000 // self.given.n))
        next_check, force_before = int(run.steps) + STEPS_BETWEEN_CHECKS, np.inf
        while True:
            limits = limits_of(relax.force_limit, min(relax.max_steps, int(run.steps) + between), self.given)
            run = advance_to(self.method, self.potential, self.system, run, limits)
            steps, force = int(run.steps), float(run.max_force)
            if overflows(run.neighbors):
                enlarged += 1
                if enlarged > MOST_ENLARGEMENTS:
                    raise Status.NEIGHBOR_OVERFLOW.raised(finder=self.method.finder)
                run = self._with_larger_list(run)
                continue
            if not np.isfinite(force) and steps == 0:
                raise validation.why_no_forces(self.given)
            self.report(steps, force)
            if not relax.force_limit < force < np.inf or steps >= relax.max_steps:  # NaN, too, goes no further
                return run
            if bool(run.idle) or steps >= next_check:
                here = Configuration(self.potential, self.system.replace(positions=run.positions), run.neighbors)
                validation.check_images(self.potential, here.system, self.system)
                stalled = force > 0.5 * force_before
                if stalled and relax.throw and (net := validation.unbalanced_force(here)) > 0.5 * force:
                    raise Status.UNBALANCED.raised(force=net, steps=steps)
                if stalled and (fault := validation.beyond_precision(relax.force_limit, force, here)):
                    if relax.throw:
                        raise fault
                    return run
                next_check, force_before = steps + STEPS_BETWEEN_CHECKS, force
            if bool(run.idle):
                return run

    def _with_larger_list(self, run: Descent) -> Descent:
        finder = self.method.finder.enlarged(run.neighbors)
        self.method = dataclasses.replace(self.method, finder=finder)
        return _with_finder(self.method, self.potential, self.system, run)

    def _outcome(self, run: Descent, escapes: int) -> tuple[Outcome, Linearization]:
        probed = self.relax.throw and not self.potential.is_verified
        arguments = self.potential, self.system, self.given, run, self._order
        positions, neighbors, energy, near, self.probe = _finish(*arguments, probed)
        if self.potential.has_terms and self.potential.needs_pairs:
            neighbors = only_chosen(neighbors, np.asarray(near), self.given.n)
        here = Configuration(self.potential, self.given.replace(positions=positions), neighbors)
        validation.check_images(self.potential, here.system, self.given)
        linearization = linearize(here, self.relax.solver_for(self.potential, self.given))
        done = (
            run.max_force,
            run.steps,
            linearization.curvature,
            as_array(np.int32(escapes)),
            as_array(np.asarray(True)),
        )
        return Outcome(positions, neighbors, energy, *done), linearization


@compile_once
def _prepare(
    method: Method, potential: Potential, system: System, order: Int[Array, " n"] | None, steps: Int[Array, ""]
) -> tuple[System, Descent]:
    """The particles in an order that keeps neighbors together in memory, and the state before the first round."""
    ordered = system if order is None else system.in_order(order)
    return ordered, begin(method, potential, ordered, steps)


@compile_once
def _with_finder(method: Method, potential: Potential, system: System, run: Descent) -> Descent:
    """The state with an empty list of another capacity, to be rebuilt."""
    blank = begin(method, potential, system, run.steps)
    return dataclasses.replace(run, neighbors=blank.neighbors, needs_rebuild=blank.needs_rebuild, idle=blank.idle)


@compile_once
def _pushed_off(linearization: Linearization) -> System:
    here = linearization.configuration
    return here.system.replace(positions=pushed_off(here.potential, here.system, linearization.curvature))


@compile_once
def _finish(
    potential: Potential, ordered: System, given: System, run: Descent, order: Int[Array, " n"] | None, probed: bool
) -> tuple[Float[Array, "n d"], Neighbors, Float[Array, ""], Bool[Array, " p"], Probe | None]:
    """Positions and pairs in the order given, the energy, which pairs are in contact or nearly, and a probe of the
    derivatives if it is wanted.
    """
    positions, neighbors = restore_order(run, order)
    neighbors = neighbors.with_images_of(positions, given.lattice)
    here = Configuration(potential, given.replace(positions=positions), neighbors)
    return positions, neighbors, here.energy(), nearly_in_contact(here), first_probe(here) if probed else None


def restore_order(run: Descent, order: Int[Array, " n"] | None) -> tuple[Float[Array, "n d"], Neighbors]:
    if order is None:
        return run.positions, run.neighbors
    positions, reference = (jnp.zeros_like(x).at[order].set(x) for x in (run.positions, run.neighbors.reference))
    return positions, run.neighbors.relabelled(order, reference)


@eqx.filter_jit
def _descend_in_jit(method: Method, potential: Potential, given: System, limits: Limits, most_escapes: int) -> Outcome:
    finder, order = method.finder, None
    if isinstance(finder, NeighborList) and is_sorted(potential, given.n):
        width = (1.0 + finder.skin.astype(given.positions.dtype)) * potential.reach(given)
        order = sort_into_cells(given, width).order
    system = given if order is None else given.in_order(order)

    def on_a_saddle(carry: tuple[Descent, Curvature, Array]) -> Bool[Array, ""]:
        run, curvature, descents = carry
        stopped = curvature.negative & (run.max_force <= limits.tolerance) & (descents <= most_escapes)
        return (descents == 0) | stopped

    def leave(carry: tuple[Descent, Curvature, Array]) -> tuple[Descent, Curvature, Int[Array, ""]]:
        run, curvature, descents = carry
        here = system.replace(positions=run.positions)
        run = begin(method, potential, system.replace(positions=pushed_off(potential, here, curvature)), run.steps)
        run = advance_to(method, potential, system, run, limits)
        here = system.replace(positions=run.positions)
        return run, lowest_curvature(Configuration(potential, here, run.neighbors), run.max_force), descents + 1

    none = jnp.zeros((), system.positions.dtype)
    start = begin(method, potential, system, jnp.asarray(0, jnp.int32))
    unknown = Curvature(none, none, jnp.zeros_like(system.positions), jnp.asarray(False))
    carry = (start, unknown, jnp.asarray(0, jnp.int32))
    run, curvature, descents = jax.lax.while_loop(on_a_saddle, leave, carry)
    positions, neighbors = restore_order(run, order)
    neighbors = neighbors.with_images_of(positions, given.lattice)
    energy = potential.energy(given.replace(positions=positions), neighbors)
    fits = well_posed(finder, potential, given, given.replace(positions=positions))
    return Outcome(positions, neighbors, energy, run.max_force, run.steps, curvature, descents - 1, fits)
