"""The response of an equilibrium to a parameter, by its name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput, NotDifferentiable, Status
from ..geometry import PairList
from ..linear_solvers.cholesky import explain_missing_factors
from ..linear_solvers.solve import is_direct
from ..linearization import Linearization, by_attempts
from ..parameters import check_name, parameter_value, with_parameter
from ..potentials import Potential
from ..relaxation.cell import relaxed_system
from ..relaxation.equilibrium import Equilibrium
from ..relaxation.rule import Theta, imposed_motion, response
from ..runtime.compiled import compile_once
from ..runtime.progress import with_progress
from ..runtime.tracing import as_array
from ..system import System
from .nearby import at_value, network

COLUMNS_AT_ONCE = 128
"""Columns of a response that are computed together."""

ONE_SIDED_STEP = 1e-7
"""How far a one-sided derivative steps aside, as a fraction of the parameter."""

Columns = tuple[Float[Array, "c n d"], Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]]
"""The responses, residuals, parts in the null space and sizes of the right-hand sides of some columns."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How every particle moves when a parameter does.

    - `wrt`: the parameter's name; `value` [*shape]: its value.
    - `response` ([n, d, *shape], length per unit of the parameter): the derivative of the relaxed positions.
    - `residual`: the largest residual of the linear solves, relative to the largest right-hand side and computed
      independently of them: how far the forces are from staying zero to first order.
    - `null_part`: the largest part of a right-hand side in the null space, as forces on rattlers, relative to the
      largest.
    - `side`: +1 or -1 for a one-sided derivative, else None.
    """

    wrt: str
    value: np.ndarray
    response: np.ndarray
    residual: float
    null_part: float
    side: int | None = None

    def __repr__(self) -> str:
        value = f" = {self.value:.6g}" if np.ndim(self.value) == 0 else ""
        side = "" if self.side is None else f", from the side {self.side:+d}"
        return (
            f"Sensitivity(to {self.wrt}{value}{side}: response {list(self.response.shape)}, largest component "
            f"{np.abs(self.response).max():.4g}, residual {self.residual:.1g})"
        )

    @property
    def l1(self) -> float:
        """The sum of |∂x/∂θ| over particles, directions and components of θ."""
        return float(np.abs(self.response).sum())

    @property
    def trustworthy(self) -> bool:
        """Whether the linear solves can be trusted."""
        enough = float(np.finfo(self.response.dtype).eps) ** 0.4
        return bool(np.isfinite(self.response).all() and self.residual <= enough)


@with_progress("response", lambda done, all: (done / all, f"{done} of {all} columns"))
def sensitivity(
    equilibrium: Equilibrium,
    wrt: str,
    progress: Callable[[int, int], None] | None = None,
    side: int | None = None,
) -> Sensitivity:
    """The response of the relaxed positions to `wrt`.

    **Arguments:**

    - `wrt`: `diameters` (of each particle), `species-diameter:K` (of all particles of species K together), `box`
      (lattice vectors; the particles follow affinely, then relax), or a parameter of the potential, such as `epsilon`
      or `alpha`. At constant pressure the cell responds, too. Of a matrix per pair of species each entry has its own
      response, as with `jax.jacfwd`: that to the value of a pair (0, 1) is the sum of those of (0, 1) and (1, 0).
    - `progress`: called as `progress(done, all)` when columns of the response are ready.
    - `side`: for a parameter that is one number, +1 for the derivative toward larger values, -1 toward smaller ones,
      where two particles just touch.

    **Raises:**

    - `InvalidInput` for an unknown name.
    - `NotConverged`, `NotAMinimum`, `NotRigid` or `NotDifferentiable` where there is no response.
    - `SolveFailed` where the linear solve did not reach a residual that can be trusted.
    """
    potential, system = equilibrium.potential, equilibrium.system
    check_name(wrt, potential, system)
    equilibrium.check()
    if side is not None:
        return _one_sided(equilibrium, wrt, side, progress)
    linearization = equilibrium.linearization
    if equilibrium.rule.refuse:
        linearization.check(equilibrium.rule.one_sided)
    value = parameter_value(wrt, potential, system)
    basis = np.eye(max(1, value.size), dtype=value.dtype)
    at_once = min(len(basis), COLUMNS_AT_ONCE)
    found: list[list[np.ndarray]] = [[], [], [], []]
    attempts: Sequence[Linearization] = linearization.attempts()
    compute = functools.partial(_columns.where(not is_direct(linearization.solver)), wrt, equilibrium.frozen)
    for first in range(0, len(basis), at_once):
        directions = basis[first : first + at_once]
        padded = np.zeros((at_once, len(basis)), basis.dtype)
        padded[: len(directions)] = directions
        with explain_missing_factors():
            (parts, least), attempts = by_attempts(functools.partial(compute, as_array(padded)), attempts)
        for column, part in zip(found, parts, strict=True):
            column.append(np.asarray(part)[: len(directions)])
        if progress is not None:
            progress(first + len(directions), len(basis))
    columns, residuals, null_parts, pushes = (np.concatenate(column) for column in found)
    scale = max(float(np.max(pushes)), float(least))
    result = assemble_sensitivity(wrt, np.asarray(value), columns, residuals, null_parts, scale)
    if not result.trustworthy:
        raise Status.SOLVE_FAILED.raised(what=f"the response to {wrt}")
    return result


def sensitivity_columns(equilibrium: Equilibrium, wrt: str, linearization: Linearization) -> tuple[Array, ...]:
    """The arguments of `assemble_sensitivity`, traced, of an equilibrium in a fixed cell: one of many under `vmap`."""
    value = parameter_value(wrt, equilibrium.potential, equilibrium.system)
    directions = jnp.eye(max(1, value.size), dtype=value.dtype)
    (columns, residuals, null_parts, pushes), least = _columns(wrt, equilibrium, directions, linearization)
    return value, columns, residuals, null_parts, jnp.maximum(jnp.max(pushes), least)


def moved_by(
    linearization: Linearization, equilibrium: Equilibrium, wrt: str, change: Array
) -> tuple[Array, Array | None]:
    """The motion of the positions along a change of a parameter in a fixed cell, and that of the cell."""
    potential, system = equilibrium.potential, equilibrium.system

    def given(value: Array) -> tuple[Potential, System]:
        return with_parameter(wrt, value, potential, system)

    value = parameter_value(wrt, potential, system)
    to_potential, to_system = eqx.filter_jvp(given, (value,), (change,))[1]
    return response(linearization, Theta(to_system, to_potential), equilibrium.rule), to_system.box


def assemble_sensitivity(
    wrt: str,
    value: np.ndarray,
    columns: np.ndarray,
    residuals: np.ndarray,
    null_parts: np.ndarray,
    scale: float | np.ndarray,
) -> Sensitivity:
    """A response from its columns, with the evidence for its linear solves."""
    found = np.moveaxis(columns, 0, -1)
    return Sensitivity(
        wrt=wrt,
        value=np.asarray(value),
        response=found.reshape(*found.shape[:2], *np.shape(value)),
        residual=float(np.max(residuals) / scale),
        null_part=float(np.max(null_parts) / scale),
    )


def _one_sided(
    equilibrium: Equilibrium, wrt: str, side: int, progress: Callable[[int, int], None] | None
) -> Sensitivity:
    """The limit of the response from one side: extrapolated from two equilibria on that side."""
    value = parameter_value(wrt, equilibrium.potential, equilibrium.system)
    if value.size != 1 or side not in (-1, 1):
        raise InvalidInput(
            f"one side, +1 or -1, can be taken of a parameter that is one number; {wrt} with {side} is not"
        )
    step = ONE_SIDED_STEP * (abs(float(value)) or 1.0)
    for _ in range(4):
        near, far = (at_value(equilibrium, wrt, value + side * k * step) for k in (1, 2))
        if not near.certificate.indeterminate and not far.certificate.indeterminate:
            break
        step *= 10.0  # until it is clear on which side the contacts are
    touches = equilibrium.potential.has_contact_changes
    if near.certificate.indeterminate or (touches and network(near).contacts != network(far).contacts):
        raise NotDifferentiable(
            f"within {2 * step:.1g} of {wrt} = {float(value):.6g} contacts keep changing, or cannot be "
            "distinguished from touching: relax to a smaller tolerance, in double precision"
        )
    one, two = (sensitivity(rest, wrt, progress) for rest in (near, far))
    return dataclasses.replace(one, value=np.asarray(value), response=2.0 * one.response - two.response, side=side)


@compile_once
def _columns(
    name: str, equilibrium: Equilibrium, directions: Float[Array, "c k"], linearization: Linearization
) -> tuple[Columns, Float[Array, ""]]:
    """The response along each direction of a parameter, and the least size to measure residuals by."""
    potential, system = equilibrium.potential, equilibrium.system
    value = parameter_value(name, potential, system)

    def at_rest(value: Array) -> tuple[Array, Array | None]:
        other, moved = with_parameter(name, value, potential, system)
        here = relaxed_system(equilibrium.at_rest(moved, other, linearization))
        return here.positions, here.box

    def moves(change: Array) -> tuple[Array, Array | None]:
        if equilibrium.pressure is None:
            return moved_by(linearization, equilibrium, name, change)
        return jax.jvp(at_rest, (value,), (change,))[1]

    columns = _along_columns(name, equilibrium, linearization, moves, directions)
    return columns, _least_push(linearization, value)


def _least_push(linearization: Linearization, value: Array) -> Float[Array, ""]:
    """The size to measure residuals by where by symmetry nothing pushes: then they are rounding of the forces."""
    here, eps = linearization.configuration, float(jnp.finfo(value.dtype).eps)
    lengths = jnp.max(jnp.abs(here.system.positions)) + jnp.max(here.system.diameters)
    largest = jnp.max(jnp.abs(value))
    return 1e3 * eps**0.6 * here.stiffness * lengths / jnp.where(largest > 0.0, largest, 1.0)


def _along_columns(
    name: str,
    equilibrium: Equilibrium,
    linearization: Linearization,
    moves: Callable[[Array], tuple[Array, Array | None]],
    directions: Float[Array, "c k"],
) -> Columns:
    """The motion along each direction, the remaining change of the forces, its part in the null space, and its size
    before the particles relax.
    """
    potential, system, neighbors = equilibrium.potential, equilibrium.system, equilibrium.neighbors
    value, modes, backbone = parameter_value(name, potential, system), linearization.modes, linearization.backbone

    def slope(x: Array, box: Array | None, value: Array, pairs: PairList = backbone.neighbors) -> Array:
        other, moved = with_parameter(name, value, potential, system)
        return system.relaxing(other.gradient(moved.replace(positions=x, box=box), pairs))

    def column(direction: Array) -> tuple[Array, Array, Array, Array]:
        change = direction.reshape(value.shape)
        found, strained = moves(change)
        if system.box is not None:
            strained = jnp.zeros_like(system.box) if strained is None else strained
        fixed = jnp.where(jnp.ones_like(found, bool) if system.movable is None else ~system.movable, found, 0.0)
        imposed = imposed_motion(system, dataclasses.replace(system, positions=fixed, box=strained))
        here = system.positions, system.box, value
        left, push = (jax.jvp(slope, here, (move, strained, change))[1] for move in (found, imposed))
        whole = jax.jvp(lambda x, box, v: slope(x, box, v, neighbors), here, (imposed, strained, change))[1]
        size = jnp.linalg.norm
        return found, size(modes.project(left)), size(whole - modes.project(whole)), size(modes.project(push))

    return jax.vmap(column)(directions)
