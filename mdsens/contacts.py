"""Contacts at rest: which are within rounding of touching, and whether anything is held at all."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .system import System
from .zero_modes import force_left, held_by, rattlers, touched

DEEP = 1e-3
"""An overlap, in units of the contact distance, that no rattler has: forces left that hide it are too large."""

SHALLOW = 1e-5
"""Nor does it overlap by so much, in units of the contact distance, with as many particles as could hold it."""


class Standing(eqx.Module):
    """Whether the response of a point at rest is defined: `rigid` where anything is held, `told` where no particle is
    hidden, `differentiable` where no contact is marginal.

    `rattlers` are the particles that nothing holds; `marginal` the pairs of the others so near to
    touching, from either side, that the residual forces cannot tell whether they do, at a cutoff where
    the stiffness jumps: with and without them the response differs. `hidden` are the rattlers that may be none: they
    have contacts that bear more than the forces left explain, or overlap deeply, or are as many as could hold them, and
    these forces hide what they bear. Of a potential that is no sum over pairs no contacts are known.
    """

    rattlers: Bool[Array, " n"]
    hidden: Bool[Array, " n"]
    marginal: Bool[Array, " p"]
    rigid: Bool[Array, ""]
    told: Bool[Array, ""]
    differentiable: Bool[Array, ""]


@eqx.filter_jit
def standing(potential: Potential, system: System, neighbors: Neighbors, softest: Float[Array, ""]) -> Standing:
    """`softest` is the lowest curvature of what is held, or a bound for it: how far a residual force may lead."""
    loose = rattlers(potential, system, neighbors)
    hidden, marginal = jnp.zeros_like(loose), jnp.zeros(neighbors.valid.shape, bool)
    if not isinstance(potential, PairPotential):
        loose = loose | (softest == 0.0)
    else:
        left = force_left(potential, system, neighbors)
        marginal = _marginal(potential, system, neighbors, loose, left, softest)
        if potential.contact:
            hidden = _hidden(potential, system, neighbors, loose, left)
    return Standing(loose, hidden, marginal, ~jnp.all(loose), ~jnp.any(hidden), ~jnp.any(marginal))


def _hidden(
    potential: PairPotential, system: System, neighbors: Neighbors, loose: Bool[Array, " n"], left: Float[Array, ""]
) -> Bool[Array, " n"]:
    pairs = potential.pairs(system, neighbors)
    repels = pairs.interacts & (pairs.force > 0.0)
    overlaps = repels & (pairs.gap < -SHALLOW * pairs.cutoff)
    caged = held_by(overlaps, pairs.i, pairs.j, system.dim + 1, jnp.zeros_like(loose))
    bears = pairs.force > 30.0 * left
    deep = pairs.gap < -DEEP * pairs.cutoff
    holds = (repels & (bears | deep)) | (overlaps & caged[pairs.i] & caged[pairs.j])
    return loose & (touched(holds, pairs.i, pairs.j, system.n) > 0)


def _marginal(
    potential: PairPotential,
    system: System,
    neighbors: Neighbors,
    loose: Bool[Array, " n"],
    left: Float[Array, ""],
    softest: Float[Array, ""],
) -> Bool[Array, " p"]:
    stiffness = potential.stiffness(system)
    softness = jnp.maximum(1.0 / stiffness, jnp.where(softest > 0.0, 1.0 / softest, 0.0))
    pairs = potential.pairs(system, neighbors.only(~loose))
    near = pairs.listed & (jnp.abs(pairs.gap) <= 10.0 / stiffness * left + softness * left)
    just_inside = pairs.cutoff * (1.0 - 8.0 * jnp.finfo(pairs.cutoff.dtype).eps)
    there = dataclasses.replace(pairs, distance=just_inside, interacts=near)
    return near & (jnp.abs(there.curvature) > 0.01 * stiffness)
