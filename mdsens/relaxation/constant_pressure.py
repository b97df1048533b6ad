"""Relaxation at constant pressure: the cell where E + pV, the particles at rest, is lowest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput, MdsensError, Status
from ..linearization import Linearization
from ..potentials import Potential
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array, is_concrete
from ..system import System
from .cell import enthalpy_slope, enthalpy_stiffness, of_volume
from .rule import Rule

MOST_ROUNDS = 500
"""Relaxations in a fixed cell before the search is given up."""

PRESSURE_STEP, SETTLED_PART = 0.1, 0.01
"""A pressure far below that of the start is approached by this factor at a time, each time the stress is off by no more
than this part of it: packings that bear little are found in few strains only from others like them.
"""

FIRST_STRAIN, LONGEST_STRAIN = 0.02, 0.1
"""How far a cell is strained at once."""

SHORTEST_STRAIN = 1e-14
"""Strains below this are rounding."""

TENSION_LEFT = 0.5
"""A cell under tension that bears less than this part of what it has borne on the way, and is larger than it was then,
is past its strength: it grows until its particles no longer meet.
"""

LARGEST_SPACING, SMALLEST_SPACING = 4.0, 0.1
"""Of particles, in their typical length or in that at the start: a cell beyond has no minimum on the way that it goes.
"""


class Cell(eqx.Module):
    """A system at rest in a cell: how its enthalpy E + pV changes with the strain of the cell, to second order, at the
    target `pressure`, or one on the way there.

    `error` is the largest deviation of the stress from the pressure, of the components that are free. `longest` is how
    far the cell may be strained next, `rounds` and `steps` the work so far. `tension` is what the cell bears, `borne`
    the most that it has on the way, at the volume `borne_at`; `unbounded`: it grows, or shrinks, without end.
    """

    system: System
    pressure: Float[Array, ""]
    outcome: Any
    enthalpy: Float[Array, ""]
    slope: Float[Array, " m"]
    stiffness: Float[Array, "m m"]
    lowest_stiffness: Float[Array, ""]
    error: Float[Array, ""]
    longest: Float[Array, ""]
    rounds: Int[Array, ""]
    steps: Int[Array, ""]
    tension: Float[Array, ""]
    borne: Float[Array, ""]
    borne_at: Float[Array, ""]
    unbounded: Bool[Array, ""]


def find_cell(
    relax: Callable[[Potential, System], tuple[Any, Linearization]],
    potential: Potential,
    system: System,
    rule: Rule,
    pressure: Float[Array, ""],
    allowed: Float[Array, ""],
) -> Cell:
    """Newton's method in the strain of the cell, the particles relaxed at each, until the stress is off by no more than
    `allowed`; no step raises the enthalpy.

    Where no contacts constrain the particles, as below jamming, the cell is compressed. High pressures are lowered step
    by step.
    """
    system.require_cell("volume to relax at constant pressure; relax in a fixed cell (pressure=None)")
    potential.check_strain("constant pressure", "; relax in a fixed cell (pressure=None)")
    if system.fixed is not None:
        raise InvalidInput(
            "a cell relaxes together with all of its particles: at constant pressure none can be fixed; free them "
            "(system.replace(fixed=None)), or relax in a fixed cell (pressure=None)"
        )
    rule = dataclasses.replace(rule, refuse=False, one_sided=True)

    def examine(system: System, pressure: Array, longest: Array, rounds: Array, steps: Array) -> Cell:
        return _cell(*relax(potential, system), rule, pressure, longest, rounds, steps)

    def unfinished(cell: Cell) -> Bool[Array, ""]:
        return _unfinished(cell, pressure, allowed)

    def strain_further(cell: Cell) -> Cell:
        cell = _lowered(cell, pressure, allowed, rule)
        strain, strained, rounds = _strained(cell, rule)
        after = examine(strained, cell.pressure, cell.longest, rounds, cell.steps)
        return _watched(_better(cell, after, strain), cell, bounds)

    none, dtype = as_array(np.int32(0)), system.positions.dtype
    pressure = as_array(pressure, dtype)
    bounds = _volumes(potential, system)
    cell = _from_above(examine(system, pressure, as_array(FIRST_STRAIN, dtype), none, none), rule)
    if not is_concrete((potential, system, pressure)):
        return _under(jax.lax.while_loop(unfinished, strain_further, cell), pressure, rule)
    while bool(unfinished(cell)):
        cell = strain_further(cell)
    return _under(cell, pressure, rule)


@compile_once
def _unfinished(cell: Cell, pressure: Float[Array, ""], allowed: Float[Array, ""]) -> Bool[Array, ""]:
    there = (cell.error <= allowed) & (cell.pressure == pressure)
    return ~there & ~cell.unbounded & (cell.rounds < MOST_ROUNDS) & (cell.longest > SHORTEST_STRAIN)


@eqx.filter_jit
def _cell(
    outcome: Any,
    linearization: Linearization,
    rule: Rule,
    pressure: Float[Array, ""],
    longest: Float[Array, ""],
    rounds: Int[Array, ""],
    steps: Int[Array, ""],
) -> Cell:
    here = linearization.configuration
    slope = enthalpy_slope(here, rule, pressure)
    stiffness = enthalpy_stiffness(linearization, rule, pressure)
    enthalpy = outcome.energy + pressure * here.system.volume
    stiffness = jnp.where(jnp.all(jnp.isfinite(stiffness)), stiffness, 0.0)
    error, lowest = _off(slope, here.system, rule), jnp.linalg.eigvalsh(stiffness)[0]
    done = error, longest, rounds, steps + outcome.steps
    traces = of_volume(rule, here.system)[0]
    tension = traces @ slope / (traces @ traces * here.system.volume) - pressure
    watched = tension, tension, here.system.volume, jnp.asarray(False)
    return Cell(here.system, pressure, outcome, enthalpy, slope, stiffness, lowest, *done, *watched)


@eqx.filter_jit
def _volumes(potential: Potential, system: System) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The smallest and the largest volume of a cell that may still find a minimum."""
    of_particles = system.n * potential.length(system) ** system.dim
    smallest = SMALLEST_SPACING**system.dim * jnp.minimum(of_particles, system.volume)
    return smallest, LARGEST_SPACING**system.dim * jnp.maximum(of_particles, system.volume)


@eqx.filter_jit
def _watched(cell: Cell, before: Cell, bounds: tuple[Float[Array, ""], Float[Array, ""]]) -> Cell:
    """The same cell, with what it has borne on the way, and whether it is past it."""
    more, volume = cell.tension > before.borne, cell.system.volume
    borne = jnp.where(more, cell.tension, before.borne)
    borne_at = jnp.where(more, volume, before.borne_at)
    torn = (borne > 0.0) & (cell.tension < TENSION_LEFT * borne) & (volume > borne_at)
    unbounded = (cell.pressure < 0.0) & (torn | (volume > bounds[1])) | (volume < bounds[0])
    parts = lambda cell: (cell.borne, cell.borne_at, cell.unbounded)  # noqa: E731
    return eqx.tree_at(parts, cell, (borne, borne_at, unbounded))


def _off(slope: Float[Array, " m"], system: System, rule: Rule) -> Float[Array, ""]:
    """The largest deviation of the stress from the pressure."""
    basis = jnp.asarray(rule.strains(system.dim), slope.dtype)
    size = jnp.einsum("mab,mab->m", basis, basis)  # of an isotropic strain, d
    return jnp.max(jnp.abs(slope / size)) / system.volume


@eqx.filter_jit
def _from_above(cell: Cell, rule: Rule) -> Cell:
    """The cell under the first pressure on the way down from its own."""
    return _under(cell, _next(cell.pressure, -cell.tension), rule)


@eqx.filter_jit
def _lowered(cell: Cell, wanted: Float[Array, ""], allowed: Float[Array, ""], rule: Rule) -> Cell:
    """The cell under the next pressure on the way down, where it has settled under this one."""
    settled = cell.error <= jnp.maximum(SETTLED_PART * cell.pressure, allowed)
    return _under(cell, jnp.where(settled, _next(wanted, cell.pressure), cell.pressure), rule)


def _next(wanted: Float[Array, ""], pressure: Float[Array, ""]) -> Float[Array, ""]:
    """The next pressure on the way to the one wanted, which is taken at once where it is higher, or not positive."""
    return jnp.where(wanted > 0.0, jnp.maximum(wanted, PRESSURE_STEP * pressure), wanted)


@eqx.filter_jit
def _under(cell: Cell, pressure: Float[Array, ""], rule: Rule) -> Cell:
    """The same cell under another pressure."""
    more = (pressure - cell.pressure) * cell.system.volume
    first, second = of_volume(rule, cell.system)
    slope = cell.slope + more * first
    stiffness = cell.stiffness + more * second
    lowest, error = jnp.linalg.eigvalsh(stiffness)[0], _off(slope, cell.system, rule)
    changed = pressure, cell.enthalpy + more, slope, stiffness, lowest, error
    parts = lambda cell: (cell.pressure, cell.enthalpy, cell.slope, cell.stiffness, cell.lowest_stiffness, cell.error)  # noqa: E731
    return eqx.tree_at(parts, cell, changed)


@eqx.filter_jit
def _strained(cell: Cell, rule: Rule) -> tuple[Float[Array, " m"], System, Int[Array, ""]]:
    """A Newton step of limited length, downhill also where the enthalpy curves down; and how many it makes."""
    values, vectors = jnp.linalg.eigh(cell.stiffness)
    floor = 1e-6 * jnp.max(jnp.abs(cell.slope))
    step = -vectors @ ((vectors.T @ cell.slope) / jnp.maximum(jnp.abs(values), floor))
    size = jnp.linalg.norm(step)
    step = step * jnp.minimum(1.0, cell.longest / jnp.where(size > 0.0, size, 1.0))
    basis = jnp.asarray(rule.strains(cell.system.dim), step.dtype)
    deformation = jnp.eye(cell.system.dim, dtype=step.dtype) + jnp.einsum("m,mab->ab", step, basis)
    assert cell.system.box is not None
    return step, cell.system.deform(cell.system.box @ deformation), cell.rounds + 1


@eqx.filter_jit
def _longest(before: Cell, after: Cell, strain: Float[Array, " m"]) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether a step is taken, and how long the next may be: half of this one where it went too far."""
    size = jnp.linalg.norm(strain)
    rounding = 1e3 * jnp.finfo(size.dtype).eps * jnp.abs(before.enthalpy)
    taken = after.enthalpy <= before.enthalpy + rounding
    too_far = jnp.sum(after.slope * strain) > 0.1 * jnp.abs(jnp.sum(before.slope * strain))
    further = jnp.where(size > 0.9 * before.longest, 2.0 * size, before.longest)
    return taken, jnp.where(taken & ~too_far, jnp.minimum(further, LONGEST_STRAIN), 0.5 * size)


def _better(before: Cell, after: Cell, strain: Float[Array, " m"]) -> Cell:
    """The cell to go on from."""
    taken, longest = _longest(before, after, strain)
    if is_concrete(taken):
        best = after if bool(taken) else before
    else:
        best = jax.tree.map(lambda a, b: jnp.where(taken, a, b), after, before)
    counts = lambda cell: (cell.longest, cell.rounds, cell.steps)  # noqa: E731
    return eqx.tree_at(counts, best, (longest, after.rounds, after.steps))


def unbounded(cell: Cell, start: System) -> MdsensError:
    """The exception for a cell that grows or shrinks without end."""
    ratio = float(cell.system.volume) / float(start.volume)
    bears = f"where its stress is {float(cell.tension):.3g}"
    if float(cell.borne) > 0.0:
        bears = f"and bears a tension of {float(cell.tension):.3g}, {float(cell.borne):.3g} at most on the way"
    return Status.CELL_UNBOUNDED.raised(
        grows="grows" if ratio > 1.0 else "shrinks",
        pressure=float(cell.pressure),
        rounds=int(cell.rounds),
        ratio=ratio,
        bears=bears,
    )
