"""The descent to a point at rest: one function, `advance`, and the state it advances.

Every driver is a loop around `advance`: on the host, which enlarges lists and reports progress; in `jit`; and for
ensembles. No rule of the descent is written anywhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..geometry import largest, largest_length
from ..landscape.configuration import Configuration
from ..landscape.curvature import Curvature
from ..minimizers import Minimizer, Newton, position_of
from ..minimizers.newton import newton_descent
from ..neighbors import Neighbors, PairFinder
from ..potentials import Potential
from ..runtime.batching import run_where
from ..system import System

LONGEST_MOVE = 0.07
"""No particle moves further in one step than this fraction of a typical length."""

NEWTON_FROM = 300
"""Particles from which on Newton's method finds the last digits. In smaller systems it saves some milliseconds, and
takes more than a second to compile.
"""

NEXT_ATTEMPT = 0.01
"""After a failed attempt Newton's method waits until the forces have fallen by this factor."""

PUSH = 0.02
"""How far the particle that moves most is pushed off a saddle, as a fraction of a typical length."""

Scalar = Float[Array, ""]


class Method(eqx.Module):
    """How to descend: the minimizer, Newton's method for the last digits or None, and how pairs are found."""

    minimizer: Minimizer
    newton: Newton | None
    finder: PairFinder


class Scales(eqx.Module):
    """By what a descent measures its steps: a typical second derivative, energy per length², and a typical distance
    between neighbors, both where it begins.
    """

    stiffness: Scalar
    length: Scalar

    @classmethod
    def of(cls, potential: Potential, system: System) -> Scales:
        return cls(potential.typical_stiffness(system), potential.length(system))

    @property
    def longest_move(self) -> Scalar:
        """Of a particle in one step."""
        return LONGEST_MOVE * self.length


class Descent(eqx.Module):
    """The state of a descent.

    - `positions` [n, d], and the minimizer's `state` there; `needs_start` where that has to be initialized.
    - `neighbors`, and whether the next step `needs_rebuild` of them.
    - `max_force`: the largest force component; `steps` so far; `idle` where the last round made none.
    - `newton_below`: the largest force component at which Newton's method is tried next; zero means never.
    - `scales`: of its steps.
    """

    positions: Float[Array, "n d"]
    state: Any
    neighbors: Neighbors
    needs_start: Bool[Array, ""]
    needs_rebuild: Bool[Array, ""]
    max_force: Scalar
    steps: Int[Array, ""]
    idle: Bool[Array, ""]
    newton_below: Scalar
    scales: Scales


class Limits(eqx.Module):
    """When to stop: the `tolerance` on the largest force component, and the number of steps `most_steps`."""

    tolerance: Scalar
    most_steps: Int[Array, ""]


def begin(method: Method, potential: Potential, system: System, steps: Int[Array, ""]) -> Descent:
    """The state before the first round: no pairs and no forces are known yet."""
    x = system.positions
    neighbors = _blank(jax.eval_shape(lambda: method.finder.build(potential, system)))
    first, scales = Configuration(potential, system, neighbors), Scales.of(potential, system)
    state = _blank(jax.eval_shape(lambda: start_state(method.minimizer, first, scales)))
    newton_below = jnp.zeros((), x.dtype)
    if method.newton is not None and system.n >= NEWTON_FROM:
        newton_below = method.newton.begin.astype(x.dtype) * potential.force_scale(system)
    yes, no = jnp.asarray(True), jnp.asarray(False)
    return Descent(x, state, neighbors, yes, yes, jnp.asarray(jnp.inf, x.dtype), steps, no, newton_below, scales)


def advance(method: Method, potential: Potential, system: System, run: Descent, limits: Limits) -> Descent:
    """One round: the list is rebuilt if needed, the minimizer descends, Newton's method attempts the last digits.

    The round ends where the forces are below the tolerance, the steps are used up, or the list needs a rebuild. No step
    leads to where the list is out of date: no force ever comes from such a list, or from one that overflows.
    """
    context = method, potential, system, limits
    steps = run.steps
    run = run_where(run.needs_rebuild, _rebuild, context, run)
    run = run_where(run.needs_start, _start, context, run)
    run = _descend(context, run)
    ready = (run.max_force <= run.newton_below) & (run.max_force > limits.tolerance) & ~run.needs_rebuild
    ready = ready & (run.steps < limits.most_steps)
    if method.newton is not None and system.n >= NEWTON_FROM:
        run = run_where(ready, _newton_attempt, context, run, one_by_one=jax.default_backend() == "cpu")
    return eqx.tree_at(lambda run: run.idle, run, (run.steps == steps) & ~run.needs_rebuild)


def unfinished(run: Descent, limits: Limits) -> Bool[Array, ""]:
    """Whether another round may bring the descent further; one is needed to know the forces at the start."""
    going = (run.max_force > limits.tolerance) & ((run.steps < limits.most_steps) | run.needs_start)
    return going & ~run.neighbors.overflow & ~run.idle


@eqx.filter_jit
def advance_to(method: Method, potential: Potential, system: System, run: Descent, limits: Limits) -> Descent:
    """Rounds until the descent is finished, or the list overflows."""

    def another_round(run: Descent) -> Descent:
        return advance(method, potential, system, run, limits)

    return jax.lax.while_loop(lambda run: unfinished(run, limits), another_round, run)


def well_posed(finder: PairFinder, potential: Potential, start: System, end: System) -> Bool[Array, ""]:
    """Whether the energy at the end of a descent is the one meant: all periodic images within the cutoff are counted,
    there are parameters for all species, no pair's energy or force jumps at its cutoff, and local terms join the images
    that they did at the start.
    """
    fits = finder.fits(potential, start) & potential.covers(start) & ~potential.jumps_at_cutoff(start)
    return fits & potential.keeps_images(end, start)


def pushed_off(potential: Potential, system: System, curvature: Curvature) -> Float[Array, "n d"]:
    """The positions, pushed off a saddle along its lowest curvature."""
    longest = largest_length(curvature.direction)
    scale = PUSH * potential.length(system) / jnp.where(longest > 0.0, longest, 1.0)
    return system.positions + scale * curvature.direction


def _blank(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf, shapes)


def _rebuild(context: Any, run: Descent) -> Descent:
    method, potential, system, _ = context
    neighbors = method.finder.build(potential, system.replace(positions=run.positions))
    return eqx.tree_at(lambda run: (run.neighbors, run.needs_rebuild), run, (neighbors, neighbors.overflow))


def _start(context: Any, run: Descent) -> Descent:
    method, potential, system, _ = context
    here = Configuration(potential, system.replace(positions=run.positions), run.neighbors)
    state = start_state(method.minimizer, here, run.scales)
    # a start with too few pairs is repeated, and its forces mean nothing
    max_force = jnp.where(run.neighbors.overflow, jnp.inf, _max_force(state, here))
    changed = state, max_force, run.neighbors.overflow
    return eqx.tree_at(lambda run: (run.state, run.max_force, run.needs_start), run, changed)


def _descend(context: Any, run: Descent) -> Descent:
    """The minimizer's steps."""
    method, potential, system, limits = context
    neighbors = run.neighbors
    here = Configuration(potential, system, neighbors)
    tolerance = jnp.maximum(limits.tolerance, run.newton_below)
    steps_within = stepper(method.minimizer, here, run.scales)

    def go_on(moving: tuple[Any, Array, Array, Array]) -> Bool[Array, ""]:
        _, max_force, steps, room = moving
        return (max_force > tolerance) & (steps < limits.most_steps) & ~neighbors.needs_rebuild(room)

    def step(moving: tuple[Any, Array, Array, Array]) -> tuple[Any, Array, Array, Array]:
        state, _, steps, room = moving
        state = steps_within(room)[1](state)
        return state, _max_force(state, here), steps + 1, neighbors.room(position_of(state))

    start = run.state, run.max_force, run.steps, neighbors.room(run.positions)  # the list stays outside the carry
    state, max_force, steps, room = jax.lax.while_loop(go_on, step, start)
    changed = position_of(state), state, max_force, steps, neighbors.needs_rebuild(room)
    parts = lambda run: (run.positions, run.state, run.max_force, run.steps, run.needs_rebuild)  # noqa: E731
    return eqx.tree_at(parts, run, changed)


def _newton_attempt(context: Any, run: Descent) -> Descent:
    """An attempt of Newton's method. One that fails leaves only its number of steps behind."""
    method, potential, system, limits = context
    here = Configuration(potential, system.replace(positions=run.positions), run.neighbors)
    end = newton_descent(method.newton, here, -_force(run.state, here), limits.tolerance, run.scales.longest_move)
    failed = ~end.needs_rebuild & (end.max_force > limits.tolerance)
    later = NEXT_ATTEMPT * jnp.minimum(run.newton_below, end.begun_at)
    return dataclasses.replace(
        run,
        positions=jnp.where(failed, run.positions, end.positions),
        max_force=jnp.where(failed, run.max_force, end.max_force),
        newton_below=jnp.where(failed, later, run.newton_below),
        steps=run.steps + end.steps,
        needs_rebuild=end.needs_rebuild,
        needs_start=~failed,
    )


Stepper = Callable[[Scalar], tuple[Callable[[Array], Any], Callable[[Any], Any]]]


def stepper(minimizer: Minimizer, here: Configuration, scales: Scales) -> Stepper:
    """The minimizer's (init, apply), as a function of the longest move that the list allows.

    Moves are limited, so that no start diverges, and zero where degrees of freedom are fixed. What does not depend on
    positions is computed once.
    """
    system, neighbors = here.system, here.neighbors
    assert isinstance(neighbors, Neighbors)
    longest_move = scales.longest_move

    def force(x: Array, **_: Any) -> Array:
        return -here.at(x).gradient()

    def steps(room: Scalar) -> tuple[Callable[[Array], Any], Callable[[Any], Any]]:
        allowed = jnp.minimum(longest_move, room)

        def shift(x: Array, move: Array, **_: Any) -> Array:
            move = system.relaxing(move)
            longest = largest_length(move)
            return x + move * jnp.where(longest > allowed, allowed / jnp.where(longest > allowed, longest, 1.0), 1.0)

        return minimizer.build(force, shift, scales.stiffness, system.replace(positions=neighbors.reference))

    return steps


def start_state(minimizer: Minimizer, here: Configuration, scales: Scales) -> Any:
    """The minimizer's state at a configuration, all of its numbers arrays."""
    assert isinstance(here.neighbors, Neighbors)
    state = stepper(minimizer, here, scales)(0.49 * here.neighbors.skin)[0](here.system.positions)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.asarray(leaf).dtype), state)


def _max_force(state: Any, here: Configuration) -> Scalar:
    return largest(jnp.abs(_force(state, here)))


def _force(state: Any, here: Configuration) -> Float[Array, "n d"]:
    """The forces at the minimizer's positions, those that it has computed if it keeps them."""
    force = getattr(state, "force", None)
    return -here.at(position_of(state)).gradient() if force is None else force
