"""A cell at rest at constant pressure: where E + pV, the particles at rest, is lowest in the strain of the cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import implicit
from .curvature import Curvature
from .errors import InvalidInput
from .potentials import Potential
from .system import System, is_concrete

MOST_ROUNDS = 500
"""Of relaxations in a fixed cell."""

LOWER, SETTLED = 0.1, 0.01
"""A pressure far below that of the start is gone down to by this factor at a time, until the stress is off by no more
than this part of it: packings that bear little are found in few strains only from others nearby.
"""

FIRST_STRAIN, LONGEST_STRAIN = 0.02, 0.1
"""How far a cell is strained at once."""

Found = tuple[Any, Curvature, Int[Array, ""]]
"""The end of a relaxation in a fixed cell, its lowest curvature, and the number of saddles left."""


class Cell(eqx.Module):
    """A system at rest in a cell: how its enthalpy E + pV changes with the strain of the cell, to second order, at the
    `pressure` that is wanted, or one on the way there.

    `error` is the largest deviation of the stress from the pressure, of the components that are free. `longest` is
    how far the cell may be strained next, `rounds` and `steps` what was done so far.
    """

    system: System
    pressure: Float[Array, ""]
    end: Any
    curvature: Curvature
    escapes: Int[Array, ""]
    enthalpy: Float[Array, ""]
    slope: Float[Array, " m"]
    stiffness: Float[Array, "m m"]
    error: Float[Array, ""]
    longest: Float[Array, ""]
    rounds: Int[Array, ""]
    steps: Int[Array, ""]

    @property
    def lowest_stiffness(self) -> Float[Array, ""]:
        """The lowest curvature of the enthalpy in the strain of the cell, an energy: positive in a minimum."""
        return jnp.linalg.eigvalsh(self.stiffness)[0]


def find(
    to_rest: Callable[[Potential, System], Found],
    potential: Potential,
    system: System,
    rule: implicit.Rule,
    pressure: Float[Array, ""],
    allowed: Float[Array, ""],
) -> Cell:
    """Newton's method in the strain of the cell, the particles relaxed at each, until the stress is off by no more
    than `allowed`; no step raises the enthalpy.

    Where nothing is held, as below jamming, the cell is compressed. High pressures are lowered step by step.
    """
    if system.box is None:
        raise InvalidInput("a system with open boundaries has no cell to relax at constant pressure")
    rule = dataclasses.replace(rule, strict=False, one_sided=True)

    def look(system: System, pressure: Array, longest: Array, rounds: Array, steps: Array) -> Cell:
        found = to_rest(potential, system)
        return _cell(found, potential, system, rule, pressure, longest, rounds, steps)

    def unfinished(cell: Cell) -> Bool[Array, ""]:
        there = (cell.error <= allowed) & (cell.pressure == pressure)
        return ~there & (cell.rounds < MOST_ROUNDS) & (cell.longest > 1e-14)

    def strain_further(cell: Cell) -> Cell:
        cell = _lowered(cell, pressure, allowed, rule)
        strain, strained = _strained(cell, rule)
        after = look(strained, cell.pressure, cell.longest, cell.rounds + 1, cell.steps)
        return _better(cell, after, strain)

    none = jnp.asarray(0, jnp.int32)
    pressure = pressure.astype(system.positions.dtype)
    cell = look(system, pressure, jnp.asarray(FIRST_STRAIN, system.positions.dtype), none, none)
    cell = _from_above(cell, rule)
    if not is_concrete((potential, system, pressure)):
        return _under(jax.lax.while_loop(unfinished, strain_further, cell), pressure, rule)
    while bool(unfinished(cell)):
        cell = strain_further(cell)
    return _under(cell, pressure, rule)


@eqx.filter_jit
def _cell(
    found: Found,
    potential: Potential,
    system: System,
    rule: implicit.Rule,
    pressure: Float[Array, ""],
    longest: Float[Array, ""],
    rounds: Int[Array, ""],
    steps: Int[Array, ""],
) -> Cell:
    end, curvature, escapes = found
    here = system.replace(positions=end.positions)
    slope = implicit.enthalpy_slope(here, potential, end.neighbors, rule, pressure)
    stiffness = implicit.enthalpy_stiffness(here, potential, end.neighbors, rule, curvature.lowest, pressure)
    enthalpy = potential.energy(here, end.neighbors) + pressure * here.volume
    sound = jnp.all(jnp.isfinite(stiffness))
    stiffness = jnp.where(sound, stiffness, 0.0)
    error, done = _off(slope, here, rule), (longest, rounds, steps + end.steps)
    return Cell(here, pressure, end, curvature, escapes, enthalpy, slope, stiffness, error, *done)


def _off(slope: Float[Array, " m"], system: System, rule: implicit.Rule) -> Float[Array, ""]:
    """The largest deviation of the stress from the pressure."""
    basis = jnp.asarray(rule.strains(system.dim), slope.dtype)
    size = jnp.einsum("mab,mab->m", basis, basis)  # of an isotropic strain, d
    return jnp.max(jnp.abs(slope / size)) / system.volume


@eqx.filter_jit
def _from_above(cell: Cell, rule: implicit.Rule) -> Cell:
    """The cell under the first pressure on the way down from its own."""
    traces = implicit.of_volume(rule, cell.system)[0]
    own = cell.pressure - traces @ cell.slope / (traces @ traces * cell.system.volume)
    return _under(cell, _next(cell.pressure, own), rule)


@eqx.filter_jit
def _lowered(cell: Cell, wanted: Float[Array, ""], allowed: Float[Array, ""], rule: implicit.Rule) -> Cell:
    """The cell under the next pressure on the way down, where it has settled under this one."""
    settled = cell.error <= jnp.maximum(SETTLED * cell.pressure, allowed)
    return _under(cell, jnp.where(settled, _next(wanted, cell.pressure), cell.pressure), rule)


def _next(wanted: Float[Array, ""], pressure: Float[Array, ""]) -> Float[Array, ""]:
    """On the way from a pressure to the one wanted, which is gone to at once where it is higher, or none."""
    return jnp.where(wanted > 0.0, jnp.maximum(wanted, LOWER * pressure), wanted)


@eqx.filter_jit
def _under(cell: Cell, pressure: Float[Array, ""], rule: implicit.Rule) -> Cell:
    """The same cell under another pressure."""
    more = (pressure - cell.pressure) * cell.system.volume
    first, second = implicit.of_volume(rule, cell.system)
    slope = cell.slope + more * first
    changed = pressure, cell.enthalpy + more, slope, cell.stiffness + more * second, _off(slope, cell.system, rule)
    parts = lambda cell: (cell.pressure, cell.enthalpy, cell.slope, cell.stiffness, cell.error)  # noqa: E731
    return eqx.tree_at(parts, cell, changed)


@eqx.filter_jit
def _strained(cell: Cell, rule: implicit.Rule) -> tuple[Float[Array, " m"], System]:
    """A Newton step, downhill also where the enthalpy curves down, no longer than allowed."""
    values, vectors = jnp.linalg.eigh(cell.stiffness)
    floor = 1e-6 * jnp.max(jnp.abs(cell.slope))
    step = -vectors @ ((vectors.T @ cell.slope) / jnp.maximum(jnp.abs(values), floor))
    size = jnp.linalg.norm(step)
    step = step * jnp.minimum(1.0, cell.longest / jnp.where(size > 0.0, size, 1.0))
    basis = jnp.asarray(rule.strains(cell.system.dim), step.dtype)
    deformation = jnp.eye(cell.system.dim, dtype=step.dtype) + jnp.einsum("m,mab->ab", step, basis)
    assert cell.system.box is not None
    return step, cell.system.deform(cell.system.box @ deformation)


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
