"""The response of an equilibrium to a parameter called by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from . import implicit
from .errors import InvalidInput, SolveFailed
from .hessian import gradient, known_zero_modes, rattlers
from .neighbors import Neighbors
from .potentials import JaxMD, Potential
from .potentials.base import is_parameter
from .relaxation import Equilibrium
from .system import System, reciprocal

COLUMNS_AT_ONCE = 128


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How every particle moves when a parameter does.

    `wrt` is the parameter's name, `value` its value [*shape], and `response` the derivative of the
    relaxed positions [n, d, *shape], length per unit of the parameter. `residual` is the largest
    residual of the linear solves, relative to the largest right-hand side and computed apart from
    them: how far the forces are from staying zero to first order.
    """

    wrt: str
    value: np.ndarray
    response: np.ndarray
    residual: float

    @property
    def l1(self) -> float:
        """The sum of |∂x/∂θ| over particles, directions and components of θ."""
        return float(np.abs(self.response).sum())


def sensitivity(equilibrium: Equilibrium, wrt: str, progress: Callable[[int, int], None] | None = None) -> Sensitivity:
    """The response of the relaxed positions to `wrt`.

    **Arguments:** `wrt` is `diameters` (of each particle), `species-diameter:K` (of all particles
    of species K together), `box` (lattice vectors; the particles follow affinely, then relax), or
    a parameter of the potential, such as `epsilon` or `alpha`. `progress(done, all)` is called as
    columns of the response get ready.

    **Raises** `InvalidInput` for an unknown name, `SolveFailed` when the linear solve did not
    reach a residual that can be trusted.
    """
    potential, system, neighbors = equilibrium.potential, equilibrium.system, equilibrium.neighbors
    check_name(wrt, potential, system)
    value = parameter_value(wrt, potential, system)
    basis = np.eye(max(1, value.size), dtype=value.dtype)
    at_once = min(len(basis), COLUMNS_AT_ONCE)
    columns: list[np.ndarray] = []
    residuals: list[np.ndarray] = []
    pushes: list[np.ndarray] = []
    for first in range(0, len(basis), at_once):
        directions = basis[first : first + at_once]
        padded = np.zeros((at_once, len(basis)), basis.dtype)
        padded[: len(directions)] = directions
        results = _columns(wrt, potential, system, neighbors, equilibrium.solver, jnp.asarray(padded))
        for found, column in zip((columns, residuals, pushes), results, strict=True):
            found.append(np.asarray(column)[: len(directions)])
        if progress is not None:
            progress(first + len(directions), len(basis))
    response = np.moveaxis(np.concatenate(columns), 0, -1)
    if not np.isfinite(response).all():
        raise SolveFailed(
            f"the linear solve for the response to {wrt} left too large a residual; the packing may have "
            "floppy modes beyond rattlers: use the dense solver (linear_solvers.dense(), --linear-solver dense)"
        )
    scale = np.max(np.concatenate(pushes))
    return Sensitivity(
        wrt=wrt,
        value=np.asarray(value),
        response=response.reshape(*response.shape[:2], *value.shape),
        residual=float(np.max(np.concatenate(residuals)) / (scale if scale > 0 else 1.0)),
    )


def check_name(name: str, potential: Potential, system: System) -> None:
    """**Raises** `InvalidInput`, with the names there are, for a name that is none of them."""
    kinds = sorted(set(np.asarray(system.species).tolist()))
    offered = ["diameters", *(f"species-diameter:{kind}" for kind in kinds)]
    offered += ["box"] if system.periodic else []
    offered += parameters_of(potential)
    if name not in offered:
        raise InvalidInput(f"there is no parameter {name!r} here; there are {', '.join(offered)}")


def parameters_of(potential: Potential) -> list[str]:
    """The names of a potential's parameters."""
    if isinstance(potential, JaxMD):
        return [key for key, leaf in potential.parameters.items() if is_parameter(leaf)]
    return [f.name for f in dataclasses.fields(potential) if is_parameter(getattr(potential, f.name))]


def parameter_value(name: str, potential: Potential, system: System) -> Array:
    """The value of a named parameter; of `species-diameter:K`, the mean diameter of the species."""
    if name in ("diameters", "box"):
        return getattr(system, name)
    if name.startswith("species-diameter:"):
        members = system.species == int(name.partition(":")[2])
        smallest = jnp.min(system.diameters, where=members, initial=jnp.inf)
        return smallest + jnp.mean(system.diameters - smallest, where=members)  # exact where all are equal
    return _leaf(name)(potential)


def with_parameter(name: str, value: Array, potential: Potential, system: System) -> tuple[Potential, System]:
    """The potential and system with another value of a named parameter."""
    if name in ("diameters", "box"):
        return potential, system.replace(**{name: value})
    if name.startswith("species-diameter:"):
        members = system.species == int(name.partition(":")[2])
        growth = value - jax.lax.stop_gradient(parameter_value(name, potential, system))
        return potential, system.replace(diameters=system.diameters + jnp.where(members, growth, 0.0))
    return eqx.tree_at(_leaf(name), potential, value), system


def _leaf(name: str) -> Callable[[Any], Array]:
    return lambda potential: potential.parameters[name] if isinstance(potential, JaxMD) else getattr(potential, name)


@eqx.filter_jit
def _columns(
    name: str,
    potential: Potential,
    system: System,
    neighbors: Neighbors,
    solver: lx.AbstractLinearSolver,
    directions: Float[Array, "c k"],
) -> tuple[Float[Array, "c n d"], Float[Array, " c"], Float[Array, " c"]]:
    """The response along each direction of a parameter, what is left of the forces' change, and its size before."""
    value = parameter_value(name, potential, system)
    loose = rattlers(potential, system, neighbors)
    modes, backbone = known_zero_modes(system, loose), neighbors.only(~loose)

    def at_rest(value: Array) -> Array:
        other, moved = with_parameter(name, value, potential, system)
        return implicit.positions_at_rest(moved, other, neighbors, solver)

    def slope(x: Array, value: Array) -> Array:
        other, moved = with_parameter(name, value, potential, system)
        return gradient(other, moved.replace(positions=x), backbone)

    def column(direction: Array) -> tuple[Array, Array, Array]:
        change = direction.reshape(value.shape)
        response = jax.jvp(at_rest, (value,), (change,))[1]
        affine = jnp.zeros_like(response)
        if name == "box" and system.box is not None:
            affine = system.positions @ reciprocal(system.box) @ change
        left, push = (jax.jvp(slope, (system.positions, value), (move, change))[1] for move in (response, affine))
        return response, jnp.linalg.norm(modes.project(left)), jnp.linalg.norm(modes.project(push))

    return jax.vmap(column)(directions)
