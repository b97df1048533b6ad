"""The derivative rule: how a point at rest moves when a parameter moves.

At rest ∇E(x, θ) = 0. Along dθ the particles first follow the cell affinely, then relax:

    dx = x h⁻¹ dh + u,    H u = -P d(∇E),    u ⊥ zero modes

with d(∇E) the change of the gradient along dθ and the affine motion, H the Hessian, P the
projection off the zero modes. This is the implicit function theorem (Blondel et al., Efficient and
Modular Implicit Differentiation, arXiv 2105.15183, Eq. 2) with the minimum-norm solution.

Both functions here return what they are given; only their derivatives are theirs. Everything in
the rule is differentiable in (x, θ) again, so it holds to any order, forward and reverse.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from . import linear_solvers
from .hessian import Hessian, ZeroModes, gradient, hessian, known_zero_modes, rattlers
from .neighbors import Neighbors
from .potentials import Potential
from .system import System, reciprocal


@eqx.filter_custom_jvp
def positions_at_rest(
    system: System, potential: Potential, neighbors: Neighbors, solver: lx.AbstractLinearSolver
) -> Float[Array, "n d"]:
    """The positions of a system at rest; their derivative is the response to (potential, diameters, box)."""
    return system.positions


@positions_at_rest.def_jvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    system, potential, neighbors, solver = primals
    x = positions_at_rest(*primals)
    sound = _sound(system)
    change = jax.tree.map(lambda t: t * sound, tangents[:2])
    return x, _response(system.replace(positions=x), potential, change, neighbors, solver) * sound


@eqx.filter_custom_jvp
def energy_at_rest(
    system: System, potential: Potential, neighbors: Neighbors, solver: lx.AbstractLinearSolver
) -> Float[Array, ""]:
    """The energy of a system at rest; since ∇E = 0 there, its first derivative needs no linear solve."""
    return _energy(system, potential, neighbors) * _sound(system)


@energy_at_rest.def_jvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    system, potential, neighbors, _solver = primals
    moving = system.replace(positions=positions_at_rest(*primals))
    sound = _sound(system)
    change = jax.tree.map(lambda t: t * sound, tangents[:2])
    return energy_at_rest(*primals), _along(_energy, moving, potential, change, neighbors) * sound


@eqx.filter_jit
def _energy(system: System, potential: Potential, neighbors: Neighbors) -> Float[Array, ""]:
    return potential.energy(system, neighbors)


@eqx.filter_jit
def _response(
    system: System, potential: Potential, change: tuple[Any, Any], neighbors: Neighbors, solver: lx.AbstractLinearSolver
) -> Float[Array, "n d"]:
    """dx along a change of (system, potential)."""
    loose = jax.lax.stop_gradient(rattlers(potential, system, neighbors))
    backbone = neighbors.only(~loose)

    def slope(system: System, potential: Potential, neighbors: Neighbors) -> Float[Array, "n d"]:
        return gradient(potential, system, neighbors)

    push = _along(slope, system, potential, change, backbone)
    matrix = hessian(potential, system, backbone)
    return _affine(system, change[0]) - solve(matrix, known_zero_modes(system, loose), push, solver)


def solve(
    matrix: Hessian, zero_modes: ZeroModes, b: Float[Array, "n d"], solver: lx.AbstractLinearSolver
) -> Float[Array, "n d"]:
    """H⁺ b, the minimum-norm solution of H u = P b; differentiable, whatever the solver is."""
    project = zero_modes.project
    frozen, modes, shift = jax.lax.stop_gradient((matrix, zero_modes, matrix.scale()))

    def deflated(u: Float[Array, "n d"]) -> Float[Array, "n d"]:
        stiff = project(u)
        return project(matrix.product(stiff)) + shift * (u - stiff)

    inverse = functools.partial(linear_solvers.solve, solver, frozen, modes, shift)
    return project(jax.lax.custom_linear_solve(deflated, project(b), inverse, symmetric=True))


def _along(function: Any, system: System, potential: Potential, change: tuple[Any, Any], neighbors: Neighbors) -> Array:
    """The derivative of function(system, potential, neighbors) along a change, the particles following the cell."""
    to_system, to_potential = change
    affine = _affine(system, to_system)
    carried = eqx.tree_at(lambda s: s.positions, to_system, affine, is_leaf=lambda leaf: leaf is None)
    value, slope = eqx.filter_jvp(lambda s, p: function(s, p, neighbors), (system, potential), (carried, to_potential))
    return jnp.zeros_like(value) if slope is None else slope  # None: nothing depends on it, as without pairs


def _sound(system: System) -> Float[Array, ""]:
    """1, or NaN where the positions are: a factor, which reaches every derivative, forward and reverse."""
    return jnp.where(jnp.all(jnp.isfinite(system.positions)), 1.0, jnp.nan).astype(system.positions.dtype)


def _affine(system: System, to_system: System) -> Float[Array, "n d"]:
    """x h⁻¹ dh, the motion of particles that follow the cell."""
    if system.box is None or to_system.box is None:
        return jnp.zeros_like(system.positions)
    return system.positions @ reciprocal(system.box) @ to_system.box
