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

MOST_ROUNDS = 100
"""Of relaxations in a fixed cell."""

FIRST_STRAIN, LONGEST_STRAIN = 0.02, 0.1
"""How far a cell is strained at once."""

Found = tuple[Any, Curvature, Int[Array, ""]]
"""The end of a relaxation in a fixed cell, its lowest curvature, and the number of saddles left."""


class Cell(eqx.Module):
    """A system at rest in a cell: how its enthalpy E + pV changes with the strain of the cell, to second order.

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

    Where nothing is held, as below jamming, the cell is compressed.
    """
    if system.box is None:
        raise InvalidInput("a system with open boundaries has no cell to relax at constant pressure")
    rule = dataclasses.replace(rule, strict=False, one_sided=True)

    def look(system: System, longest: Array, rounds: Array, steps: Array) -> Cell:
        found = to_rest(potential, system)
        return _cell(found, potential, system, rule, pressure, longest, rounds, steps)

    def unfinished(cell: Cell) -> Bool[Array, ""]:
        return (cell.error > allowed) & (cell.rounds < MOST_ROUNDS) & (cell.longest > 1e-14)

    def strain_further(cell: Cell) -> Cell:
        strain, strained = _strained(cell, rule)
        after = look(strained, cell.longest, cell.rounds + 1, cell.steps)
        return _better(cell, after, strain)

    none = jnp.asarray(0, jnp.int32)
    cell = look(system, jnp.asarray(FIRST_STRAIN, system.positions.dtype), none, none)
    if not is_concrete((potential, system, pressure)):
        return jax.lax.while_loop(unfinished, strain_further, cell)
    while bool(unfinished(cell)):
        cell = strain_further(cell)
    return cell


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
    basis = rule.strains(system.dim)
    size = jnp.einsum("mab,mab->m", basis, basis)  # of an isotropic strain, d
    error = jnp.max(jnp.abs(slope / size)) / here.volume
    sound = jnp.all(jnp.isfinite(stiffness))
    stiffness = jnp.where(sound, stiffness, 0.0)
    done = longest, rounds, steps + end.steps
    return Cell(here, pressure, end, curvature, escapes, enthalpy, slope, stiffness, error, *done)


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
