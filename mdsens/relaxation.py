"""From a system and a potential to an equilibrium that can be differentiated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from . import constant_pressure, implicit, linear_solvers, neighbors, newton, validation
from .certificate import Certificate, certify
from .compiled import by_the_host, make_room
from .curvature import Curvature, lowest_curvature
from .errors import InvalidInput, NotAMinimum, NotConverged
from .hessian import gradient
from .minimizers import FIRE, Minimizer, position_of
from .neighbors import AllPairs, NeighborList, Neighbors
from .newton import Newton
from .potentials import Potential
from .progress import Falling, watched
from .system import System, is_concrete, largest, largest_length, reciprocal

MOST_STEPS_UNSEEN = 1000
"""Outside `jit` the host looks at least this often, and more often for large systems, whose steps take longer."""

LONGEST_MOVE = 0.07
"""No particle moves further in one step than this fraction of the mean diameter."""


MOST_ESCAPES = 20
"""How often a relaxation leaves a saddle before it gives up."""

PUSH = 0.02
"""How far the particle that moves most is pushed off a saddle, as a fraction of the mean diameter."""


@dataclasses.dataclass(frozen=True)
class Pending:
    """A system at rest whose positions have not been asked for."""

    system: System
    potential: Potential
    neighbors: Neighbors
    rule: implicit.Rule
    softest: Float[Array, ""]
    pressure: Float[Array, ""] | None = None

    @property
    def in_cell(self) -> System:
        """In a cell that responds, at constant pressure."""
        if self.pressure is None:
            return self.system
        args = self.system, self.potential, self.neighbors, self.rule, self.softest, self.pressure
        return self.system.replace(box=implicit.cell_at_rest(*args))

    @property
    def energy(self) -> Float[Array, ""]:
        return implicit.energy_at_rest(self.in_cell, self.potential, self.neighbors, self.rule, self.softest)

    def ask(self) -> System:
        system = self.in_cell
        x = implicit.positions_at_rest(system, self.potential, self.neighbors, self.rule, self.softest)
        return system.replace(positions=x)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Equilibrium:
    """A system at rest; a pytree.

    `system` has the relaxed positions, which are differentiable through ∇E = 0, and so is `energy`.
    `max_force` is the largest force component left; `converged` says that it is below the
    tolerance, on pairs that were all counted, and `minimum` that no negative curvature was found there.
    `curvature` is the lowest found, energy per length², and `escapes` the number of saddles left on the
    way. `overflow` says that a neighbor list ran full (only under `jit`, where it cannot grow); `steps`
    counts the minimizer's. At constant pressure `pressure` is that pressure, and `pressure_error` the largest
    deviation from it, of any component of the stress that the cell was free to relax; None in a fixed cell.
    `close` are the pairs that interact, and some that nearly do.

    The derivative of the positions, which may be refused and wants a linear solve, is computed only if
    they are used: that of the energy needs neither.
    """

    at_rest: System | Pending
    potential: Potential
    energy: Float[Array, ""]
    max_force: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    minimum: Bool[Array, ""]
    curvature: Float[Array, ""]
    escapes: Int[Array, ""]
    overflow: Bool[Array, ""]
    tolerance: Float[Array, ""]
    pressure: Float[Array, ""] | None
    pressure_error: Float[Array, ""] | None
    close: Neighbors
    rule: implicit.Rule

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        names = [field.name for field in dataclasses.fields(self)][:-1]
        values = [self.system if name == "at_rest" else getattr(self, name) for name in names]
        keys = [jax.tree_util.GetAttrKey("system" if name == "at_rest" else name) for name in names]
        return list(zip(keys, values, strict=True)), (self.rule,)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], values: Any) -> Equilibrium:
        return cls(*values, *static)

    def __repr__(self) -> str:
        if not is_concrete(jax.tree.leaves((self.potential, self.energy, self.max_force))):
            return "Equilibrium(traced)"
        if jnp.ndim(self.energy):
            minima, size = int(jnp.sum(self.minimum & self.converged)), self.system.positions.shape
            return f"Equilibrium({size[0]} members of {size[-2]} particles, {minima} of them at rest in a minimum)"
        state = "a minimum" if bool(self.minimum) else "a saddle" if bool(self.converged) else "not at rest"
        return (
            f"Equilibrium({self.system.n} particles, {state}, energy {float(self.energy):.10g}, largest force "
            f"component {float(self.max_force):.2g}, {int(self.steps)} steps; see .certificate)"
        )

    def __getitem__(self, k: Any) -> Equilibrium:
        """Member k of an ensemble. **Raises** `InvalidInput` for one that is none."""
        if not jnp.ndim(self.energy):
            raise InvalidInput("this is one equilibrium and no ensemble: it has no members")
        if isinstance(k, int) and not -self.energy.shape[0] <= k < self.energy.shape[0]:
            raise IndexError(f"there is no member {k} of {self.energy.shape[0]}")
        return jax.tree.map(lambda leaf: leaf[k], self)

    @property
    def system(self) -> System:
        """The relaxed system."""
        if not isinstance(self.at_rest, Pending):
            return self.at_rest
        system = self.at_rest.ask()
        if is_concrete(system):  # what is traced belongs to the transformation that asks
            object.__setattr__(self, "at_rest", system)
        return system

    @property
    def frozen(self) -> Equilibrium:
        """The same without derivatives."""
        system = self.at_rest.system if isinstance(self.at_rest, Pending) else self.at_rest
        return jax.lax.stop_gradient(dataclasses.replace(self, at_rest=system))

    @property
    def positions(self) -> Float[Array, "n d"]:
        """Relaxed positions [n, d], not wrapped into the cell."""
        return self.system.positions

    @property
    def kind(self) -> AllPairs | NeighborList:
        """How pairs are found."""
        return self.close.kind

    @property
    def neighbors(self) -> Neighbors:
        """The pairs that may interact at the relaxed positions, or soon."""
        here = self.frozen
        return neighbors.build(self.kind, here.potential, here.system)

    @property
    def forces(self) -> Float[Array, "n d"]:
        """-∂E/∂x at the relaxed positions [n, d], energy per length."""
        return -_gradient(self.potential, self.system, self.close)

    def check(self) -> None:
        """**Raises** `NotConverged` or `NotAMinimum` for what came out of `jit` with such a flag.

        `InvalidInput` for an ensemble, whose members are looked at one by one.
        """
        self._check_single()
        if self.rule.strict and not bool(self.converged):
            raise NotConverged(
                f"this is no equilibrium: the largest force component is {float(self.max_force):.3g} after "
                f"{int(self.steps)} steps, the tolerance {float(self.tolerance):.3g}"
                f"{self._off_pressure}"
                f"{'; the neighbor list overflowed (Relaxation.sized_for)' if bool(self.overflow) else ''}"
            )
        if self.rule.strict and not bool(self.minimum):
            raise NotAMinimum(f"this is a saddle: along one direction the curvature is {float(self.curvature):.3g}")

    def _check_single(self) -> None:
        if jnp.ndim(self.energy):
            raise InvalidInput("this is an ensemble of equilibria: look at one of them, equilibria[k]")

    @property
    def _off_pressure(self) -> str:
        return "" if self.pressure_error is None else f", the pressure {float(self.pressure_error):.3g} off"

    def check_seen(self) -> None:
        """`check`, where the host can look."""
        if is_concrete((self.converged, self.minimum)):
            self.check()

    @property
    def certificate(self) -> Certificate:
        """The evidence for this equilibrium: zero modes, rattlers, contacts, curvatures."""
        return self.certify()

    def certify(self, thorough: bool = False) -> Certificate:
        """The certificate; a thorough one also solves for the distance to the minimum and, in a large
        system, for the softest modes, which takes about as long as a response.
        """
        self._check_single()
        return certify(self, thorough)


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Relaxes a system: `relax = Relaxation(...)`, then `relax(potential, system)`.

    **Arguments:**

    - `minimizer`: `FIRE()`, `GradientDescent()`, or any of jax-md's through `JaxMDMinimizer`.
    - `newton`: how the last digits are found once the contacts have settled, in systems large enough for
      a neighbor list; None: by the minimizer alone.
    - `tolerance`: the largest force component allowed, energy per length; at constant pressure also how far the
      stress may be off, in units of tolerance/(mean diameter)^(d-1).
    - `pressure`: the cell relaxes too, until the pressure is this one, energy per volume; None: it is fixed. Then
      derivatives include the response of the cell, and the pressure may be differentiated, too.
    - `cell`: how the cell relaxes, `isotropic` at fixed shape, or `full`, in all components of its strain.
    - `max_steps`: when to give up.
    - `linear_solver`: the solver behind the derivatives, from `mdsens.linear_solvers` or lineax;
      chosen by size if None.
    - `neighbors`: `AllPairs()` or `NeighborList()`; chosen by size if None.
    - `escape`: whether to leave a saddle along its lowest curvature and go on; `Equilibrium.escapes` counts.
    - `one_sided`: whether to differentiate also where two particles are within rounding of touching,
      as if that stayed as it is.
    - `throw`: whether to raise when there is no minimum to return, or no derivative. Where nothing
      can be raised (`jit`, `vmap`), positions and energy, or the derivative, are then NaN, and
      `converged` or `minimum` is False. With `throw=False` all comes as it is, with its flags.
    - `progress`: called now and then, outside `jit`, as `progress(steps, max_force)`; None: a bar, where somebody looks
      and it takes longer than a second (`mdsens.progress_bars`).

    Works under `grad`, `jacfwd`, `jacrev`, `hessian`, `jit` and `vmap`. The derivative is that of
    the minimum: the initial positions have no part in it, global translations (with open
    boundaries rotations too) and rattlers do not move, and a change of the box carries the
    particles along affinely before they relax.

    **Raises**, outside `jit`: `NotConverged`; `NotAMinimum`; `NeighborOverflow` where no list can hold all pairs;
    `InvalidInput` for a system that has no forces
    (NaN, two particles on one point, a cell too small for the cutoff) or a tolerance beyond the precision; and,
    when positions are differentiated, `NotRigid` where nothing is held, as below jamming, and
    `NotDifferentiable` where a contact is about to open or close.
    """

    minimizer: Minimizer = dataclasses.field(default_factory=FIRE)
    newton: Newton | None = dataclasses.field(default_factory=Newton)
    tolerance: float = 1e-10
    pressure: ArrayLike | None = None
    cell: Literal["isotropic", "full"] = "isotropic"
    max_steps: int = 100_000
    linear_solver: lx.AbstractLinearSolver | None = None
    neighbors: AllPairs | NeighborList | None = None
    escape: bool = True
    one_sided: bool = False
    throw: bool = True
    progress: Callable[[int, float], None] | None = None

    def __post_init__(self) -> None:
        validation.check_options(self.tolerance, self.max_steps)
        validation.check_kinds(self.minimizer, self.linear_solver)
        validation.check_pressure(self.pressure, self.cell)

    def __call__(self, potential: Potential, system: System) -> Equilibrium:
        validation.check_arguments(potential, system)
        potential = potential.in_precision_of(system)
        validation.check_potential(potential)
        start = jax.lax.stop_gradient((potential, system))
        if self.pressure is not None:
            return self._at_pressure(potential, system, *start)
        seen = is_concrete(start)
        with by_the_host(seen):
            found = self._driven(*start) if seen else self._traced(*start)
        return self.at(potential, system, *found, seen=seen)

    def _at_pressure(
        self, potential: Potential, system: System, fixed_potential: Potential, fixed: System
    ) -> Equilibrium:
        """At rest in a cell that relaxes, too."""
        rest = dataclasses.replace(self, pressure=None, throw=False)
        rule, allowed = self._rule(potential, system), self._pressure_allowed(fixed)
        pressure = self._pressure(fixed)
        seen = is_concrete((fixed_potential, fixed, pressure))
        to_rest = rest._driven if seen else rest._traced
        if seen:
            validation.check_tension(potential, float(pressure))
        with by_the_host(seen):
            cell = constant_pressure.find(to_rest, fixed_potential, fixed, rule, pressure, allowed)
        if self.throw and seen:
            self._refuse_cell(cell, allowed)
        assert system.box is not None and fixed.box is not None and cell.system.box is not None
        box = system.box @ jax.lax.stop_gradient(reciprocal(fixed.box) @ cell.system.box)
        return self.at(potential, system.replace(box=box), cell.end, cell.curvature, cell.escapes, seen, cell)

    def _pressure(self, system: System) -> Float[Array, ""]:
        return jax.lax.stop_gradient(jnp.asarray(self.pressure, system.positions.dtype))

    def _pressure_allowed(self, system: System) -> Float[Array, ""]:
        """How far the stress may be off the pressure."""
        return jax.lax.stop_gradient(self.tolerance / jnp.mean(system.diameters) ** (system.dim - 1))

    def _rule(self, potential: Potential, system: System) -> implicit.Rule:
        solver = self.linear_solver or linear_solvers.automatic(potential, system, self.throw)
        return implicit.Rule(solver, self.throw, self.one_sided, self.cell)

    def _refuse_cell(self, cell: constant_pressure.Cell, allowed: Float[Array, ""]) -> None:
        if not float(cell.end.max_force) <= self.tolerance:
            raise self._not_converged(cell.end)
        if bool(cell.curvature.negative):
            raise self._not_a_minimum(cell.curvature, int(cell.escapes))
        if not float(cell.error) <= float(allowed):
            raise NotConverged(
                f"the stress is still {float(cell.error):.3g} off the pressure {float(cell.pressure):.6g} after "
                f"{int(cell.rounds)} strains of the cell, not within {float(allowed):.3g}: start from a cell closer to "
                "it, or ask for a larger tolerance"
            )
        if not float(cell.lowest_stiffness) > 0.0:
            raise NotAMinimum(
                f"the cell gives way: E + pV curves down along a strain of it ({float(cell.lowest_stiffness):.3g}), so "
                "there is no minimum at this pressure nearby; relax at fixed shape (cell='isotropic'), or at another "
                "pressure"
            )

    def at(
        self,
        potential: Potential,
        system: System,
        end: End,
        curvature: Curvature,
        escapes: Int[Array, ""],
        seen: bool = False,
        cell: constant_pressure.Cell | None = None,
    ) -> Equilibrium:
        """The equilibrium found; `seen` by the host, which has raised what there was to raise."""
        sound = end.neighbors.kind.fits(*jax.lax.stop_gradient((potential, system))) & potential.covers(system)
        converged = (end.max_force <= self.tolerance) & sound & ~end.neighbors.overflow
        minimum = converged & ~curvature.negative
        pressure = None if cell is None else jnp.asarray(self.pressure, end.positions.dtype)
        if cell is not None:
            converged, minimum = (
                flag & (cell.error <= self._pressure_allowed(system)) for flag in (converged, minimum)
            )
            minimum = minimum & (cell.lowest_stiffness > 0.0)
        positions = end.positions
        if self.throw and not seen:
            positions = jnp.where(minimum, positions, jnp.nan)
            if cell is not None and system.box is not None:
                system = system.replace(box=jnp.where(minimum, system.box, jnp.nan))
        rule = self._rule(potential, system)
        at_rest = Pending(
            system.replace(positions=positions), potential, end.neighbors, rule, curvature.lowest, pressure
        )
        return Equilibrium(
            at_rest=at_rest,
            potential=potential,
            energy=at_rest.energy,
            max_force=end.max_force,
            steps=end.steps if cell is None else cell.steps,
            converged=converged,
            minimum=minimum,
            curvature=curvature.lowest,
            escapes=escapes,
            overflow=end.neighbors.overflow,
            tolerance=jnp.asarray(self.tolerance, positions.dtype),
            pressure=pressure,
            pressure_error=None if cell is None else cell.error,
            close=end.neighbors,
            rule=rule,
        )

    def sized_for(self, potential: Potential, system: System) -> Relaxation:
        """The same with a neighbor list that has room for a system like this one, to be used under `jit`.

        There is a quarter to spare. Where particles will come together, ask for a system that is at rest.
        """
        kind = self.neighbors or neighbors.automatic(potential, system)
        list_ = neighbors.sized(kind, potential.in_precision_of(system), system)
        return dataclasses.replace(self, neighbors=list_.kind.grown(list_))

    def _driven(self, potential: Potential, system: System) -> tuple[End, Curvature, Int[Array, ""]]:
        """The host drives: lists grow when they must, progress is reported, failures are raised."""
        make_room()
        validation.check_system(potential, system)
        kind = self.neighbors or neighbors.automatic(potential, system)
        order, given = neighbors.by_place(kind, potential, system), system
        system = system.in_order(order)
        list_ = neighbors.sized(kind, potential, system)
        run = start_at(self.minimizer, potential, system, list_, jnp.asarray(0, jnp.int32))
        if not np.isfinite(run.max_force):
            raise validation.why_no_forces(given)
        with watched("relaxing", self.progress, Falling(self.tolerance)) as report:
            run, curvature, escapes = self._to_a_minimum(potential, system, run, report)
        if self.throw and not float(run.max_force) <= self.tolerance:
            raise self._not_converged(run)
        if self.throw and bool(curvature.negative):
            raise self._not_a_minimum(curvature, escapes)
        end = _as_given(run, order)
        close = neighbors.near_touching(end.neighbors, potential, given.replace(positions=end.positions))
        return End(end.positions, close, end.max_force, end.steps), curvature, jnp.asarray(escapes, jnp.int32)

    def _to_a_minimum(
        self, potential: Potential, system: System, run: Descent, report: Callable[[int, float], None]
    ) -> tuple[Descent, Curvature, int]:
        """Down to rest, as often as there are saddles to leave; how many were left."""
        for escapes in range(MOST_ESCAPES + 1):
            run = self._descent(potential, system, run, report)
            here = system.replace(positions=run.positions)
            curvature = lowest_curvature(potential, here, run.neighbors, run.max_force)
            leave = self.escape and bool(curvature.negative) and float(run.max_force) <= self.tolerance
            if not leave or escapes == MOST_ESCAPES:
                break
            pushed = here.replace(positions=off_the_saddle(here, curvature))
            list_ = neighbors.sized(run.neighbors.kind, potential, pushed)
            run = start_at(self.minimizer, potential, pushed, list_, run.steps)
        return run, curvature, escapes

    def _highest(self, kind: AllPairs | NeighborList, potential: Potential, system: System) -> Float[Array, ""]:
        """The largest force component at which Newton's method is tried: zero for never."""
        if self.newton is None or isinstance(kind, AllPairs):
            return jnp.zeros((), system.positions.dtype)
        return self.newton.begin * _force_unit(potential, system)

    def _descent(
        self, potential: Potential, system: System, run: Descent, report: Callable[[int, float], None]
    ) -> Descent:
        """Down to rest, or until it goes no further."""
        highest = self._highest(run.neighbors.kind, potential, system)
        unseen, stuck = max(20, min(MOST_STEPS_UNSEEN, 20_000_000 // system.n)), False
        next_look, force_at_last_look = int(run.steps) + MOST_STEPS_UNSEEN, float(run.max_force)
        while float(run.max_force) > self.tolerance and int(run.steps) < self.max_steps:
            here = system.replace(positions=run.positions)
            if bool(run.outgrown):
                run = run.with_list(neighbors.refreshed(run.neighbors, potential, here))
            if stuck or int(run.steps) >= next_look:
                args = self.tolerance, float(run.max_force), potential, here, run.neighbors
                if float(run.max_force) > 0.5 * force_at_last_look and (fault := validation.beyond_precision(*args)):
                    if self.throw:
                        raise fault
                    break
                next_look, force_at_last_look = int(run.steps) + MOST_STEPS_UNSEEN, float(run.max_force)
            pause = min(self.max_steps, int(run.steps) + unseen)
            tolerance, limit = limits(self.tolerance, pause, system)
            if self.newton is not None and float(run.max_force) <= float(highest):
                after, highest = _tried(self.newton, self.minimizer, potential, system, run, highest, tolerance)
            else:
                after = descend(self.minimizer, potential, system, run, jnp.maximum(tolerance, highest), limit)
            if stuck and int(after.steps) == int(run.steps):
                break
            run, stuck = after, int(after.steps) == int(run.steps)
            report(int(run.steps), float(run.max_force))
        return run

    def _not_converged(self, run: Descent | End) -> NotConverged:
        where = f"after {int(run.steps)} steps of {type(self.minimizer).__name__}"
        if not np.isfinite(run.max_force):
            return NotConverged(
                f"the forces are no longer finite {where}; the steps are too long for this potential (dt_max, "
                "step_size), or its energy has no finite derivative somewhere"
            )
        return NotConverged(
            f"the largest force component is {float(run.max_force):.3g} {where}, not below the tolerance "
            f"{self.tolerance:.3g}; give more steps (max_steps, --max-steps), shorter ones where forces do not fall "
            "(FIRE(dt_max=0.2)), or a larger tolerance; in Python, "
            "throw=False hands over the unfinished result"
        )

    def _not_a_minimum(self, curvature: Curvature, escapes: int) -> NotAMinimum:
        met = f"after leaving {escapes} others" if self.escape else "and escape=False forbids to leave it"
        return NotAMinimum(
            f"the forces vanish at a saddle, {met}: along one direction the curvature is "
            f"{float(curvature.lowest):.3g} (the highest is {float(curvature.highest):.3g}); move some particles off "
            "their symmetric places, or ask for a smaller tolerance; in Python, throw=False hands over the saddle"
        )

    def _traced(self, potential: Potential, system: System) -> tuple[End, Curvature, Int[Array, ""]]:
        """All on the device, with sizes fixed; an overflow stops the descent and is left in the result."""
        kind = self.neighbors or neighbors.automatic(potential, system)
        order = neighbors.by_place(kind, potential, system)
        system = system.in_order(order)
        most = MOST_ESCAPES if self.escape else 0
        newton_method = None if isinstance(kind, AllPairs) else self.newton
        tolerance, most_steps = limits(self.tolerance, self.max_steps, system)

        def unfinished(carry: tuple[Descent, Array, Bool[Array, ""]]) -> Bool[Array, ""]:
            run, _, stuck = carry
            going = (run.max_force > self.tolerance) & (run.steps < self.max_steps)
            return going & ~run.neighbors.overflow & ~stuck

        def refresh_and_descend(
            carry: tuple[Descent, Array, Array],
        ) -> tuple[Descent, Float[Array, ""], Bool[Array, ""]]:
            run, highest, _ = carry
            run = run.with_list(kind.build(potential, system.replace(positions=run.positions)))
            after = descend(self.minimizer, potential, system, run, jnp.maximum(tolerance, highest), most_steps)
            if newton_method is not None:
                after, highest = _tried(newton_method, self.minimizer, potential, system, after, highest, tolerance)
            return after, highest, after.steps == run.steps

        def on_a_saddle(carry: tuple[Descent, Curvature, Array]) -> Bool[Array, ""]:
            run, curvature, descents = carry
            stopped = curvature.negative & (run.max_force <= self.tolerance) & (descents <= most)
            return (descents == 0) | stopped

        def leave(carry: tuple[Descent, Curvature, Array]) -> tuple[Descent, Curvature, Int[Array, ""]]:
            run, curvature, descents = carry
            pushed = system.replace(positions=off_the_saddle(system.replace(positions=run.positions), curvature))
            run = start_at(self.minimizer, potential, pushed, kind.build(potential, pushed), run.steps)
            highest = self._highest(kind, potential, system)
            run = jax.lax.while_loop(unfinished, refresh_and_descend, (run, highest, jnp.asarray(False)))[0]
            here = system.replace(positions=run.positions)
            return run, lowest_curvature(potential, here, run.neighbors, run.max_force), descents + 1

        none = jnp.zeros((), system.positions.dtype)
        start = start_at(self.minimizer, potential, system, kind.build(potential, system), jnp.asarray(0, jnp.int32))
        unknown = Curvature(none, none, jnp.zeros_like(system.positions), jnp.asarray(False))
        run, curvature, descents = jax.lax.while_loop(on_a_saddle, leave, (start, unknown, jnp.asarray(0, jnp.int32)))
        return _as_given(run, order), curvature, descents - 1


class Descent(eqx.Module):
    """Where a minimization stands; `outgrown` when the next step needs a new list."""

    state: Any
    neighbors: Neighbors
    max_force: Float[Array, ""]
    steps: Int[Array, ""]
    outgrown: Bool[Array, ""]

    @property
    def positions(self) -> Float[Array, "n d"]:
        return position_of(self.state)

    def with_list(self, list_: Neighbors) -> Descent:
        return Descent(self.state, list_, self.max_force, self.steps, list_.overflow)


class End(eqx.Module):
    """What a minimization arrived at, for the particles as they were given."""

    positions: Float[Array, "n d"]
    neighbors: Neighbors
    max_force: Float[Array, ""]
    steps: Int[Array, ""]


@eqx.filter_jit
def _as_given(run: Descent, order: Int[Array, " n"]) -> End:
    positions, reference = (jnp.zeros_like(x).at[order].set(x) for x in (run.positions, run.neighbors.reference))
    return End(positions, run.neighbors.renamed(order, reference), run.max_force, run.steps)


_gradient = eqx.filter_jit(gradient)


@eqx.filter_jit
def start_at(
    minimizer: Minimizer, potential: Potential, system: System, list_: Neighbors, steps: Int[Array, ""]
) -> Descent:
    init, _ = steps_of(minimizer, potential, system, list_)
    state = init(system.positions)
    max_force = _max_force(state, potential, system, list_)
    return Descent(state, list_, max_force, steps, list_.overflow)


@eqx.filter_jit
def descend(
    minimizer: Minimizer,
    potential: Potential,
    system: System,
    run: Descent,
    tolerance: Float[Array, ""],
    pause: Int[Array, ""],
) -> Descent:
    """Steps until the forces are small, `pause` steps are done, or the list has to be made anew.

    No step leads to where the list is stale: no force ever comes from such a list.
    """
    list_ = run.neighbors

    def go_on(moving: tuple[Any, Array, Array, Array]) -> Bool[Array, ""]:
        _, max_force, steps, room = moving
        return (max_force > tolerance) & (steps < pause) & ~list_.worn(room)

    def step(moving: tuple[Any, Array, Array, Array]) -> tuple[Any, Array, Array, Array]:
        state, _, steps, room = moving
        state = steps_of(minimizer, potential, system, list_, room)[1](state)
        return state, _max_force(state, potential, system, list_), steps + 1, list_.room(position_of(state))

    room = jnp.where(run.outgrown, 0.0, list_.room(run.positions))
    start = run.state, run.max_force, run.steps, room  # without the list, which under vmap would be copied
    state, max_force, steps, room = jax.lax.while_loop(go_on, step, start)
    outgrown = list_.worn(room)
    return Descent(state, list_, max_force, steps, outgrown)


@eqx.filter_jit
def _force_unit(potential: Potential, system: System) -> Float[Array, ""]:
    return potential.stiffness(system) * jnp.mean(system.diameters)


@eqx.filter_jit
def _tried(
    method: Newton,
    minimizer: Minimizer,
    potential: Potential,
    system: System,
    run: Descent,
    highest: Float[Array, ""],
    tolerance: Float[Array, ""],
) -> tuple[Descent, Float[Array, ""]]:
    """After a try of Newton's method where no force is larger than `highest`, and the force at which to try again.

    A try that fails leaves no trace but in the number of steps.
    """
    here, longest = system.replace(positions=run.positions), LONGEST_MOVE * jnp.mean(system.diameters)
    end = newton.finish(method, potential, here, run.neighbors, highest, tolerance, longest)
    tried = end.begun_at <= highest
    failed = tried & ~end.outgrown & (end.max_force > tolerance)
    steps = run.steps + end.steps
    after = start_at(minimizer, potential, here.replace(positions=end.positions), run.neighbors, steps)
    after = eqx.tree_at(lambda run: run.outgrown, after, end.outgrown)
    before = eqx.tree_at(lambda run: run.steps, run, steps)
    after = jax.tree.map(functools.partial(jnp.where, tried & ~failed), after, before)
    return after, jnp.where(failed, 0.01 * jnp.minimum(highest, end.begun_at), highest)


def off_the_saddle(system: System, curvature: Curvature) -> Float[Array, "n d"]:
    """The positions, off a saddle along its lowest curvature."""
    longest = largest_length(curvature.direction)
    scale = PUSH * jnp.mean(system.diameters) / jnp.where(longest > 0.0, longest, 1.0)
    return system.positions + scale * curvature.direction


def limits(tolerance: float, pause: int, system: System) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """As arrays, since a number would be compiled into the loop."""
    return jnp.asarray(tolerance, system.positions.dtype), jnp.asarray(pause, jnp.int32)


def steps_of(
    minimizer: Minimizer,
    potential: Potential,
    system: System,
    list_: Neighbors,
    room: Float[Array, ""] | None = None,
) -> tuple[Callable[[Array], Any], Callable[[Any], Any]]:
    """The minimizer's (init, apply) for this potential.

    Moves are capped, so that no start can blow up, and that none is longer than `room`, which is what a fresh list
    has if None.
    """
    room = 0.49 * list_.skin if room is None else room

    def force(x: Array, **_: Any) -> Array:
        return -gradient(potential, system.replace(positions=x), list_)

    def shift(x: Array, move: Array, **_: Any) -> Array:
        longest = largest_length(move)
        allowed = jnp.minimum(LONGEST_MOVE * jnp.mean(system.diameters), room)
        return x + move * jnp.where(longest > allowed, allowed / jnp.where(longest > allowed, longest, 1.0), 1.0)

    return minimizer.build(force, shift, potential.stiffness(system), system.replace(positions=list_.reference))


def _max_force(state: Any, potential: Potential, system: System, list_: Neighbors) -> Float[Array, ""]:
    force = getattr(state, "force", None)
    if force is None:
        force = gradient(potential, system.replace(positions=position_of(state)), list_)
    return largest(jnp.abs(force))
