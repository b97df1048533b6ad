"""The cell of a system at constant pressure: where E + pV is stationary in its strain, and how that point moves.

At constant pressure the cell is at rest, too, ∂(E + pV)/∂ε = 0 along its strains ε, and moves by the implicit function
theorem as the particles do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import Status
from ..geometry import symmetric_strains
from ..implicit import implicit_function
from ..landscape.configuration import Configuration
from ..linearization import Linearization
from ..potentials import Potential
from ..system import System
from .rule import AtRest, Motion, Rule, Theta, energy_at_rest, linearization_of, positions_at_rest


def relaxed_system(at_rest: AtRest) -> System:
    """The system at rest, its positions and cell differentiable."""
    responding = _in_responding_cell(at_rest)
    return responding.system.replace(positions=positions_at_rest(responding))


def relaxed_energy(at_rest: AtRest) -> Float[Array, ""]:
    """The energy at rest, differentiable."""
    return energy_at_rest(_in_responding_cell(at_rest))


def _in_responding_cell(at_rest: AtRest) -> AtRest:
    if at_rest.pressure is None:
        return at_rest
    return at_rest.with_system(at_rest.system.replace(box=cell_at_rest(at_rest)))


def cell_at_rest(at_rest: AtRest) -> Float[Array, "d d"]:
    """The cell of a system at rest at constant pressure; its derivative is the response to (potential, diameters,
    pressure) and to that part of the cell which is not free to relax.
    """
    assert at_rest.system.box is not None
    return implicit_function(at_rest.system.box, at_rest.theta, _OfCell(at_rest))


class _OfCell(Motion):
    def response(self, box: Float[Array, "d d"], theta: Theta) -> tuple[Callable[[Theta], Any], None]:
        here = self.at_rest.at(dataclasses.replace(theta, system=theta.system.replace(box=box)))
        return eqx.Partial(_strained, dataclasses.replace(here, known=here.linearization(), cache=None)), None


def _strained(at_rest: AtRest, change: Theta) -> Float[Array, "d d"]:
    rule, box = at_rest.rule, at_rest.system.box
    assert at_rest.pressure is not None and box is not None
    given = at_rest.system, at_rest.potential, at_rest.pressure

    def moving(system: System, potential: Potential) -> Configuration:
        here = dataclasses.replace(at_rest, system=system, potential=potential)
        return Configuration(potential, system.replace(positions=positions_at_rest(here)), at_rest.neighbors)

    def slope(system: System, potential: Potential, pressure: Float[Array, ""]) -> Float[Array, " m"]:
        return enthalpy_slope(moving(system, potential), rule, pressure)

    push = eqx.filter_jvp(slope, given, (change.system, change.potential, change.pressure))[1]
    here = moving(*given[:2])
    linearization = linearization_of(at_rest.with_system(here.system))
    yielding = -jnp.linalg.solve(enthalpy_stiffness(linearization, rule, given[2]), push)
    follows = box @ jnp.einsum("m,mab->ab", yielding, jnp.asarray(rule.strains(here.system.dim), box.dtype))
    return follows if change.system.box is None else follows + change.system.box


@eqx.filter_jit
def enthalpy_slope(here: Configuration, rule: Rule, pressure: Float[Array, ""]) -> Float[Array, " m"]:
    """∂(E + pV)/∂ε, for the strains that the cell is free to make."""
    outward = jnp.eye(here.system.dim, dtype=here.system.positions.dtype)
    slope = here.strain_gradient() + pressure * here.system.volume * outward
    return jnp.einsum("mab,ab->m", jnp.asarray(rule.strains(here.system.dim), slope.dtype), slope)


@eqx.filter_jit
def enthalpy_stiffness(linearization: Linearization, rule: Rule, pressure: Float[Array, ""]) -> Float[Array, "m m"]:
    """∂²(E + pV)/∂ε², the particles at rest, for the same strains."""
    system = linearization.configuration.system
    basis, amounts = rule.strains(system.dim), symmetric_strains(system.dim)[1]
    relaxed, _ = strain_stiffness(linearization, rule)
    each = np.stack([[k[amounts == m].sum() for m in range(amounts.max() + 1)] for k in basis]).astype(relaxed.dtype)
    return each @ relaxed @ each.T + pressure * system.volume * of_volume(rule, system)[1]


@eqx.filter_jit
def strain_stiffness(linearization: Linearization, rule: Rule) -> tuple[Float[Array, "m m"], Float[Array, "m m"]]:
    """∂²E/∂ε² for the basis of symmetric strains, the particles relaxing, and following affinely; NaN where refused.

    It is defined, and zero, where no contacts constrain the particles.
    """
    status = linearization.status(rule.one_sided)
    defined = (status == int(Status.OK)) | (status == int(Status.NOT_RIGID)) | (not rule.refuse)
    relaxed, affine = linearization.strain_stiffness()
    nan_mask = jnp.where(defined, 1.0, jnp.nan).astype(affine.dtype)
    return relaxed * nan_mask, affine * nan_mask


def of_volume(rule: Rule, system: System) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """The first and second derivatives of the volume by the strains, over the volume."""
    basis = rule.strains(system.dim).astype(system.positions.dtype)
    traces = np.einsum("maa->m", basis)
    return traces, np.outer(traces, traces) - np.einsum("mab,nba->mn", basis, basis)
