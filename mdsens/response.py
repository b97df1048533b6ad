"""The response of an equilibrium to a parameter called by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import implicit
from .cholesky import where_positive
from .errors import InvalidInput, NotDifferentiable, SolveFailed
from .hessian import gradient
from .nearby import at_value, network
from .neighbors import Neighbors
from .parameters import check_name, parameter_value, with_parameter
from .potentials import PairPotential, Potential
from .progress import shows_progress
from .relaxation import Equilibrium, Pending
from .system import System, reciprocal

COLUMNS_AT_ONCE = 128


ONE_SIDED_STEP = 1e-7
"""How far a one-sided derivative steps aside, as a fraction of the parameter."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How every particle moves when a parameter does.

    `wrt` is the parameter's name, `value` its value [*shape], and `response` the derivative of the
    relaxed positions [n, d, *shape], length per unit of the parameter. `residual` is the largest
    residual of the linear solves, relative to the largest right-hand side and computed apart from
    them: how far the forces are from staying zero to first order. `null_part` is the largest part of a
    right-hand side that lay in the null space, as do forces on rattlers, relative to the largest. `side`
    is +1 or -1 for a one-sided derivative.
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
    def sound(self) -> bool:
        """Whether the linear solves can be trusted."""
        enough = float(np.finfo(self.response.dtype).eps) ** 0.4
        return bool(np.isfinite(self.response).all() and self.residual <= enough)


@shows_progress("response", lambda done, all: (done / all, f"{done} of {all} columns"))
def sensitivity(
    equilibrium: Equilibrium,
    wrt: str,
    progress: Callable[[int, int], None] | None = None,
    side: int | None = None,
) -> Sensitivity:
    """The response of the relaxed positions to `wrt`.

    **Arguments:** `wrt` is `diameters` (of each particle), `species-diameter:K` (of all particles
    of species K together), `box` (lattice vectors; the particles follow affinely, then relax), or
    a parameter of the potential, such as `epsilon` or `alpha`. At constant pressure the cell responds, too.
    `progress(done, all)` is called as columns of the response get ready. `side`, for a parameter that is one
    number: +1 for the derivative toward larger values, -1 toward smaller ones, where two particles just touch.

    **Raises** `InvalidInput` for an unknown name, `NotConverged`, `NotAMinimum`, `NotRigid` or
    `NotDifferentiable` where there is no response, `SolveFailed` when the linear solve did not reach a
    residual that can be trusted.
    """
    potential, system = equilibrium.potential, equilibrium.system
    neighbors = equilibrium.close
    check_name(wrt, potential, system)
    equilibrium.check()
    if side is not None:
        return _one_sided(equilibrium, wrt, side, progress)
    rule, softest, pressure = equilibrium.rule, equilibrium.curvature, equilibrium.pressure
    held = implicit.hold(system, potential, neighbors, rule.solver, softest)
    implicit.refuse(held, system, potential, neighbors, rule)
    value = parameter_value(wrt, potential, system)
    basis = np.eye(max(1, value.size), dtype=value.dtype)
    at_once = min(len(basis), COLUMNS_AT_ONCE)
    found: list[list[np.ndarray]] = [[], [], [], []]
    for first in range(0, len(basis), at_once):
        directions = basis[first : first + at_once]
        padded = np.zeros((at_once, len(basis)), basis.dtype)
        padded[: len(directions)] = directions
        with where_positive():
            results = jax.block_until_ready(
                _columns(wrt, potential, system, neighbors, held, rule, softest, pressure, jnp.asarray(padded))
            )
        for column, result in zip(found, results, strict=True):
            column.append(np.asarray(result)[: len(directions)])
        if progress is not None:
            progress(first + len(directions), len(basis))
    columns, residuals, null_parts, pushes = (np.concatenate(parts) for parts in found)
    least = float(_least_push(potential, system, value))
    result = judged(wrt, np.asarray(value), columns, residuals, null_parts, max(float(np.max(pushes)), least))
    if not result.sound:
        raise SolveFailed(
            f"the linear solve for the response to {wrt} cannot be trusted: it did not converge, or the packing has "
            "modes so soft that they may as well be floppy. Use the dense solver (linear_solvers.dense(), "
            "--linear-solver dense), and relax to a smaller tolerance"
        )
    return result


def sensitivity_columns(equilibrium: Equilibrium, wrt: str, held: implicit.Held) -> tuple[Array, ...]:
    """What `judged` wants, traced, of an equilibrium in a fixed cell: one of many under `vmap`, given what holds it."""
    potential, system = equilibrium.potential, equilibrium.system
    value = parameter_value(wrt, potential, system)

    def moves(change: Array) -> tuple[Array, Array | None]:
        return moved_by(held, potential, system, equilibrium.rule, wrt, change)

    directions = jnp.eye(max(1, value.size), dtype=value.dtype)
    columns, residuals, null_parts, pushes = _along_columns(
        wrt, potential, system, equilibrium.close, held, moves, directions
    )
    return value, columns, residuals, null_parts, jnp.maximum(jnp.max(pushes), _least_push(potential, system, value))


def moved_by(
    held: implicit.Held, potential: Potential, system: System, rule: implicit.Rule, wrt: str, change: Array
) -> tuple[Array, Array | None]:
    """How the positions respond along a change of a parameter in a fixed cell, and how the cell changes with it."""

    def given(value: Array) -> tuple[Potential, System]:
        return with_parameter(wrt, value, potential, system)

    value = parameter_value(wrt, potential, system)
    to_potential, to_system = eqx.filter_jvp(given, (value,), (change,))[1]
    return implicit.response(held, system, potential, (to_system, to_potential), rule), to_system.box


def judged(
    wrt: str,
    value: np.ndarray,
    columns: np.ndarray,
    residuals: np.ndarray,
    null_parts: np.ndarray,
    scale: float | np.ndarray,
) -> Sensitivity:
    """A response from its columns, and how far the linear solves can be trusted."""
    response = np.moveaxis(columns, 0, -1)
    return Sensitivity(
        wrt=wrt,
        value=np.asarray(value),
        response=response.reshape(*response.shape[:2], *np.shape(value)),
        residual=float(np.max(residuals) / scale),
        null_part=float(np.max(null_parts) / scale),
    )


@eqx.filter_jit
def _least_push(potential: Potential, system: System, value: Array) -> Float[Array, ""]:
    """The size to measure residuals by where by symmetry nothing pushes: then they are rounding of the forces."""
    eps = float(jnp.finfo(value.dtype).eps)
    lengths = jnp.max(jnp.abs(system.positions)) + jnp.max(system.diameters)
    largest = jnp.max(jnp.abs(value))
    return 1e3 * eps**0.6 * potential.stiffness(system) * lengths / jnp.where(largest > 0.0, largest, 1.0)


def _one_sided(
    equilibrium: Equilibrium, wrt: str, side: int, progress: Callable[[int, int], None] | None
) -> Sensitivity:
    """The limit of the response from one side: from two equilibria beside this one, extrapolated."""
    value = parameter_value(wrt, equilibrium.potential, equilibrium.system)
    if value.size != 1 or side not in (-1, 1):
        raise InvalidInput(
            f"one side, +1 or -1, can be taken of a parameter that is one number; {wrt} with {side} is not"
        )
    step = ONE_SIDED_STEP * (float(jnp.abs(value)) or 1.0)
    for _ in range(4):
        near, far = (at_value(equilibrium, wrt, value + side * k * step) for k in (1, 2))
        if not near.certificate.marginal and not far.certificate.marginal:
            break
        step *= 10.0  # until it is clear on which side the contacts are
    pairwise = isinstance(equilibrium.potential, PairPotential)
    if near.certificate.marginal or (pairwise and network(near).contacts != network(far).contacts):
        raise NotDifferentiable(
            f"within {2 * step:.1g} of {wrt} = {float(value):.6g} contacts keep changing, or cannot be told from "
            "touching: relax to a smaller tolerance, in double precision"
        )
    one, two = (sensitivity(rest, wrt, progress) for rest in (near, far))
    response = 2.0 * one.response - two.response
    return dataclasses.replace(one, value=np.asarray(value), response=response, side=side)


@eqx.filter_jit
def _columns(
    name: str,
    potential: Potential,
    system: System,
    neighbors: Neighbors,
    held: implicit.Held,
    rule: implicit.Rule,
    softest: Float[Array, ""],
    pressure: Float[Array, ""] | None,
    directions: Float[Array, "c k"],
) -> tuple[Float[Array, "c n d"], Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]]:
    """The response along each direction of a parameter, with `_along_columns`' evidence."""
    value = parameter_value(name, potential, system)

    def at_rest(value: Array) -> tuple[Array, Array | None]:
        other, moved = with_parameter(name, value, potential, system)
        here = Pending(moved, other, neighbors, rule, softest, pressure).ask()
        return here.positions, here.box

    def moves(change: Array) -> tuple[Array, Array | None]:
        if pressure is None:
            return moved_by(held, potential, system, rule, name, change)
        return jax.jvp(at_rest, (value,), (change,))[1]

    return _along_columns(name, potential, system, neighbors, held, moves, directions)


def _along_columns(
    name: str,
    potential: Potential,
    system: System,
    neighbors: Neighbors,
    held: implicit.Held,
    moves: Callable[[Array], tuple[Array, Array | None]],
    directions: Float[Array, "c k"],
) -> tuple[Float[Array, "c n d"], Float[Array, " c"], Float[Array, " c"], Float[Array, " c"]]:
    """The motion of particles and cell along each direction, with what is left of the forces' change, the part of that
    change in the null space, and its size before.
    """
    value, modes = parameter_value(name, potential, system), held.modes

    def slope(x: Array, box: Array | None, value: Array, pairs: Neighbors = held.backbone) -> Array:
        other, moved = with_parameter(name, value, potential, system)
        return gradient(other, moved.replace(positions=x, box=box), pairs)

    def column(direction: Array) -> tuple[Array, Array, Array, Array]:
        change = direction.reshape(value.shape)
        response, strained = moves(change)
        affine = jnp.zeros_like(response)
        if system.box is not None:
            strained = jnp.zeros_like(system.box) if strained is None else strained
            affine = system.positions @ reciprocal(system.box) @ strained
        here = system.positions, system.box, value
        left, push = (jax.jvp(slope, here, (move, strained, change))[1] for move in (response, affine))
        whole = jax.jvp(lambda x, box, v: slope(x, box, v, neighbors), here, (affine, strained, change))[1]
        size = jnp.linalg.norm
        return response, size(modes.project(left)), size(whole - modes.project(whole)), size(modes.project(push))

    return jax.vmap(column)(directions)
