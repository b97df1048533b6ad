"""The derivative rule: how a point at rest moves when a parameter moves.

At rest ∇E(x, θ) = 0. Along dθ the particles first follow the cell affinely, then relax:

    dx = x h⁻¹ dh + u,    H u = -P d(∇E),    u ⊥ zero modes

with d(∇E) the change of the gradient along dθ and the affine motion, H the Hessian, P the
projection off the zero modes. This is the implicit function theorem (Blondel et al., Efficient and
Modular Implicit Differentiation, arXiv 2105.15183, Eq. 2) with the minimum-norm solution.

At constant pressure the cell is at rest too, ∂(E + pV)/∂ε = 0 along its strains ε, and moves by the same theorem.

The functions here return what they are given; only their derivatives are theirs. Everything in
the rule is differentiable in (x, θ) again, so it holds to any order, forward and reverse.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from . import linear_solvers, strain
from .compiled import by_the_host
from .contacts import Standing, standing
from .errors import NotDifferentiable, NotRigid
from .hessian import Hessian, gradient, hessian
from .neighbors import Neighbors
from .potentials import Potential
from .system import System, is_concrete, reciprocal, symmetric_strains
from .zero_modes import ZeroModes, known_zero_modes


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to differentiate: the linear solver, and what to do where there is no derivative.

    Where nothing is held, or the forces left hide what is, or two particles are within rounding of touching, the
    derivative of the positions is refused, unless `strict` is False: `NotRigid` or `NotDifferentiable` is raised
    outside `jit`, and inside it is NaN. With `one_sided`, touching counts as it is found: the
    derivative is the one toward that side. `cell` says how a cell at constant pressure may strain:
    `isotropic`, or `full`, in all components.
    """

    solver: lx.AbstractLinearSolver
    strict: bool = True
    one_sided: bool = False
    cell: Literal["isotropic", "full"] = "isotropic"

    def strains(self, d: int) -> Float[np.ndarray, "m d d"]:
        """A basis of the strains of a cell at constant pressure."""
        return np.eye(d)[None] if self.cell == "isotropic" else symmetric_strains(d)[0]


@eqx.filter_custom_jvp
def positions_at_rest(
    system: System, potential: Potential, neighbors: Neighbors, rule: Rule, softest: Float[Array, ""]
) -> Float[Array, "n d"]:
    """The positions of a system at rest; their derivative is the response to (potential, diameters, box).

    `softest` is the lowest curvature there, or a bound for it: how well a residual force lets the positions be known.
    """
    return system.positions


@positions_at_rest.def_jvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    system, potential, neighbors, rule, softest = primals
    x, seen = positions_at_rest(*primals), is_concrete((system, potential, neighbors, rule.solver, softest))
    here = system if seen else system.replace(positions=x)  # which depend on θ where this is differentiated again
    with by_the_host(seen):
        held = hold(here, potential, neighbors, rule.solver, softest)
    refuse(held, system, potential, neighbors, rule)
    sound = _sound(system)
    change = jax.tree.map(lambda t: t * sound, tangents[:2])
    return x, _response(held, here, potential, change, rule) * sound


@eqx.filter_custom_jvp
def energy_at_rest(
    system: System, potential: Potential, neighbors: Neighbors, rule: Rule, softest: Float[Array, ""]
) -> Float[Array, ""]:
    """The energy of a system at rest; since ∇E = 0 there, its first derivative needs no linear solve."""
    return _energy(system, potential, neighbors) * _sound(system)


@energy_at_rest.def_jvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    system, potential, neighbors, _rule, _softest = primals
    moving = system.replace(positions=positions_at_rest(*primals))
    sound = _sound(system)
    change = jax.tree.map(lambda t: t * sound, tangents[:2])
    return energy_at_rest(*primals), _along(_energy, moving, potential, change, neighbors) * sound


@eqx.filter_custom_jvp
def cell_at_rest(
    system: System,
    potential: Potential,
    neighbors: Neighbors,
    rule: Rule,
    softest: Float[Array, ""],
    pressure: Float[Array, ""],
) -> Float[Array, "d d"]:
    """The cell of a system at rest at constant pressure, where E + pV is stationary in its strain, too; its derivative
    is the response to (potential, diameters, pressure) and to what of the cell is not free to relax.
    """
    assert system.box is not None
    return system.box


@cell_at_rest.def_jvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    system, potential, neighbors, rule, softest, pressure = primals
    to_system, to_potential, _, _, _, to_pressure = tangents
    box = cell_at_rest(*primals)
    given, change = (system.replace(box=box), potential, pressure), (to_system, to_potential, to_pressure)

    def slope(system: System, potential: Potential, pressure: Float[Array, ""]) -> Float[Array, " m"]:
        moving = system.replace(positions=positions_at_rest(system, potential, neighbors, rule, softest))
        return enthalpy_slope(moving, potential, neighbors, rule, pressure)

    push = eqx.filter_jvp(slope, given, change)[1]
    moving = given[0].replace(positions=positions_at_rest(given[0], potential, neighbors, rule, softest))
    yielding = -jnp.linalg.solve(enthalpy_stiffness(moving, potential, neighbors, rule, softest, pressure), push)
    follows = box @ jnp.einsum("m,mab->ab", yielding, jnp.asarray(rule.strains(system.dim), box.dtype))
    return box, follows if to_system.box is None else follows + to_system.box


@eqx.filter_jit
def enthalpy_slope(
    system: System, potential: Potential, neighbors: Neighbors, rule: Rule, pressure: Float[Array, ""]
) -> Float[Array, " m"]:
    """∂(E + pV)/∂ε, for the strains that the cell is free to make."""
    outward = jnp.eye(system.dim, dtype=system.positions.dtype)
    slope = strain.first(potential, system, neighbors) + pressure * system.volume * outward
    return jnp.einsum("mab,ab->m", jnp.asarray(rule.strains(system.dim), slope.dtype), slope)


@eqx.filter_jit
def enthalpy_stiffness(
    system: System,
    potential: Potential,
    neighbors: Neighbors,
    rule: Rule,
    softest: Float[Array, ""],
    pressure: Float[Array, ""],
) -> Float[Array, "m m"]:
    """∂²(E + pV)/∂ε², the particles at rest, for the same strains."""
    basis, amounts = rule.strains(system.dim), symmetric_strains(system.dim)[1]
    held = hold(system, potential, neighbors, rule.solver, softest)
    relaxed, _ = strain_stiffness(held, system, potential, rule)
    each = np.stack([[k[amounts == m].sum() for m in range(amounts.max() + 1)] for k in basis]).astype(relaxed.dtype)
    return each @ relaxed @ each.T + pressure * system.volume * of_volume(rule, system)[1]


def of_volume(rule: Rule, system: System) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """The first and second derivatives of the volume by the strains, over the volume."""
    basis = rule.strains(system.dim).astype(system.positions.dtype)
    traces = np.einsum("maa->m", basis)
    return traces, np.outer(traces, traces) - np.einsum("mab,nba->mn", basis, basis)


class Held(eqx.Module):
    """What holds a system at rest, seen once for many derivatives: which particles are loose, the pairs of the others,
    their Hessian and its zero modes, and the solver.
    """

    standing: Standing
    backbone: Neighbors
    matrix: Hessian
    modes: ZeroModes
    solver: lx.AbstractLinearSolver

    def solve(self, b: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return solve(self.matrix, self.modes, b, self.solver)

    def decomposed(self) -> Held:
        """With the eigenvectors of a dense Hessian computed, to be used again and again."""
        solver = linear_solvers.decomposed(self.solver, self.matrix, self.modes)
        return Held(self.standing, self.backbone, self.matrix, self.modes, solver)


@eqx.filter_jit
def hold(
    system: System,
    potential: Potential,
    neighbors: Neighbors,
    solver: lx.AbstractLinearSolver,
    softest: Float[Array, ""],
) -> Held:
    """What holds a system at rest; compiled by itself, for all that asks of it."""
    found = jax.lax.stop_gradient(standing(potential, system, neighbors, softest))
    backbone = neighbors.only(~found.rattlers)
    modes = known_zero_modes(potential, system, backbone, found.rattlers)
    return Held(found, backbone, hessian(potential, system, backbone), modes, solver)


@eqx.filter_jit
def strain_stiffness(
    held: Held, system: System, potential: Potential, rule: Rule
) -> tuple[Float[Array, "m m"], Float[Array, "m m"]]:
    """∂²E/∂ε² for the basis of symmetric strains, at rest: with the particles relaxing, and following affinely.

    NaN where a contact is within rounding of touching and that is refused, or the forces left hide what is held.
    """
    affine, coupling = strain.second(potential, system, held.backbone)
    relaxing = jax.vmap(held.solve, -1, -1)(coupling)
    relaxed = affine - jnp.einsum("ndk,ndm->km", coupling, relaxing)
    told = held.standing.told & (held.standing.differentiable | rule.one_sided)
    sound = jnp.where(told | (not rule.strict), 1.0, jnp.nan)
    return 0.5 * (relaxed + relaxed.T) * sound, affine * sound


def refuse(
    held: Held, system: System, potential: Potential, neighbors: Neighbors, rule: Rule, even_loose: bool = True
) -> None:
    """Raises where there is no derivative, as far as the host can see; `even_loose`: also where nothing is held."""
    found = held.standing
    if not rule.strict or not is_concrete((system, potential, found)):
        return
    if not bool(found.told):
        hidden = np.flatnonzero(found.hidden)
        raise NotDifferentiable(
            f"the forces left hide what holds {len(hidden)} of {system.n} particles, such as {hidden[0]}: their "
            "contacts overlap, and bear hardly more than that, or less. Relax to a smaller tolerance (tolerance, "
            "--tolerance)"
        )
    if even_loose and not bool(found.rigid):
        raise NotRigid(
            f"nothing holds the particles (energy {float(_energy(system, potential, neighbors)):.3g}, {system.n} "
            f"rattlers of {system.n}): their positions do not respond to a parameter in a defined way. Compress the "
            "packing (packing_fraction), or ask for the energy alone; a packing so close to jamming that its forces "
            "are no larger than the tolerance wants a smaller one (tolerance, --tolerance)"
        )
    if not rule.one_sided and not bool(found.differentiable):
        k = int(jnp.argmax(found.marginal))
        i, j, count = int(neighbors.i[k]), int(neighbors.j[k]), int(jnp.sum(found.marginal))
        raise NotDifferentiable(
            f"particles {i} and {j}{f' and {count - 1} other pairs' if count > 1 else ''} touch to within what the "
            "residual forces can tell, and the stiffness jumps there: the response differs from side to side. Relax "
            "to a smaller tolerance, or ask for one side: mdsens.sensitivity(…, side=+1), "
            "Relaxation(one_sided=True), --one-sided"
        )


@eqx.filter_jit
def _energy(system: System, potential: Potential, neighbors: Neighbors) -> Float[Array, ""]:
    return potential.energy(system, neighbors)


def response(
    held: Held, system: System, potential: Potential, change: tuple[Any, Any], rule: Rule
) -> Float[Array, "n d"]:
    """dx along a change of (system, potential); NaN where it is refused."""
    found = held.standing
    defined = found.rigid & found.told & (found.differentiable | rule.one_sided)
    sound = jnp.where(defined | (not rule.strict), 1.0, jnp.nan).astype(system.positions.dtype)
    change = jax.tree.map(lambda t: t * sound, change)

    def slope(system: System, potential: Potential, neighbors: Neighbors) -> Float[Array, "n d"]:
        return gradient(potential, system, neighbors)

    push = _along(slope, system, potential, change, held.backbone)
    tie = sum((0.0 * jnp.sum(t) for t in jax.tree.leaves(change)), jnp.zeros((), push.dtype))  # so that NaN reaches all
    return (_affine(system, change[0]) - held.solve(push)) * sound + tie


_response = eqx.filter_jit(response)


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


@eqx.filter_jit
def _sound(system: System) -> Float[Array, ""]:
    """1, or NaN where the positions are: a factor, which reaches every derivative, forward and reverse."""
    return jnp.where(jnp.all(jnp.isfinite(system.positions)), 1.0, jnp.nan).astype(system.positions.dtype)


@eqx.filter_jit
def _affine(system: System, to_system: System) -> Float[Array, "n d"]:
    """x h⁻¹ dh, the motion of particles that follow the cell."""
    if system.box is None or to_system.box is None:
        return jnp.zeros_like(system.positions)
    return system.positions @ reciprocal(system.box) @ to_system.box
