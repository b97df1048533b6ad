"""Contacts of a system at rest: rattlers, and contacts that the residual forces leave undetermined."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..potentials.base import Pairs
from .configuration import Configuration
from .thresholds import (
    CERTAIN_FORCE_ABOVE_RESIDUAL,
    CONTACT_FORCE_ABOVE_RESIDUAL,
    DEEP_OVERLAP,
    INDETERMINATE_GAP,
    NEAR_CONTACT_GAP,
    SHALLOW_OVERLAP,
    STIFFNESS_JUMP,
)


class ContactAnalysis(eqx.Module):
    """What is known of the contacts of a point at rest.

    - `rattlers` (bool [n]): particles that no contacts constrain.
    - `unresolved` (bool [n]): rattlers that may be none. Their contacts bear more than the residual forces explain,
      overlap deeply, or are as many as could constrain them.
    - `indeterminate` (bool [p]): pairs of the other particles so near to touching, from either side, that the residual
      forces cannot tell whether they do, at a cutoff where the stiffness jumps. With and without them the response
      differs.
    - `touching` (bool [p]), `gap` ([p], relative to the contact distance, negative in contact) and `force` ([p], energy
      per length): of the listed pairs of particles that are no rattlers; a gap is infinite for other pairs.

    For a potential that is no sum over pairs no contacts are known: there is none, and no gap.
    """

    rattlers: Bool[Array, " n"]
    unresolved: Bool[Array, " n"]
    indeterminate: Bool[Array, " p"]
    touching: Bool[Array, " p"]
    gap: Float[Array, " p"]
    force: Float[Array, " p"]

    @property
    def contact_number(self) -> Float[Array, ""]:
        """The mean number of contacts of a particle, without rattlers."""
        constrained = jnp.maximum(1, jnp.sum(~self.rattlers))
        return (2.0 * jnp.sum(self.touching) / constrained).astype(self.gap.dtype)

    @property
    def rigid(self) -> Bool[Array, ""]:
        """Whether any particle is constrained."""
        return ~jnp.all(self.rattlers)

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Whether the residual forces are small enough to tell all rattlers from constrained particles."""
        return ~jnp.any(self.unresolved)

    @property
    def differentiable(self) -> Bool[Array, ""]:
        """Whether the response from one side is that from the other."""
        return ~jnp.any(self.indeterminate)


@eqx.filter_jit
def find_rattlers(configuration: Configuration) -> Bool[Array, " n"]:
    """Particles that no contacts constrain, found recursively.

    Where particles interact by contact, one with fewer than d + 1 contacts cannot be constrained in a stable
    equilibrium, and the contacts of a rattler do not count. Nor do contacts whose force is no more than the residual
    forces: a minimizer leaves a rattler, or a group of them, in touch with its cage. A particle with a force well
    beyond that is no rattler, however few its contacts, as at a saddle. For other pair potentials only a particle
    without any neighbor within its cutoff is a rattler.

    **Reference:**

    - Donev, Torquato, Stillinger and Connelly, J. Comput. Phys. 197, 139 (2004).
    """
    pairs = configuration.pairs
    if pairs is None:
        return jnp.zeros(configuration.system.n, bool)
    return _rattlers(configuration, pairs, pairs.force, residual_force(configuration, pairs))


def _rattlers(
    configuration: Configuration, pairs: Pairs, force: Float[Array, " p"], residual: Float[Array, ""]
) -> Bool[Array, " n"]:
    n = configuration.system.n
    if not configuration.potential.contact:
        return ~constrained_by(pairs.interacts, pairs.i, pairs.j, 1, jnp.zeros(n, bool))
    certain = count_contacts(force > CERTAIN_FORCE_ABOVE_RESIDUAL * residual, pairs.i, pairs.j, n) > 0
    counts = force > CONTACT_FORCE_ABOVE_RESIDUAL * residual
    return ~constrained_by(counts, pairs.i, pairs.j, configuration.system.dim + 1, certain)


def constrained_by(
    counts: Bool[Array, " p"], i: Int[Array, " p"], j: Int[Array, " p"], needed: int, spared: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    """The particles left after those with fewer than `needed` of these contacts have been removed, again and again.

    Particles that are `spared` are never removed.
    """

    def remove(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = carry
        contacts = count_contacts(counts & kept[i] & kept[j], i, j, kept.size)
        still = kept & ((contacts >= needed) | spared)
        return still, jnp.any(still != kept)

    everyone = (jnp.ones(spared.shape, bool), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[1], remove, everyone)[0]


def residual_force(configuration: Configuration, pairs: Pairs) -> Float[Array, ""]:
    """The largest net force on a particle, plus the force that rounding of the positions makes."""
    system = configuration.system
    net = pairs.gradient(system.n)
    lengths = jnp.max(jnp.abs(system.positions)) + jnp.max(system.diameters)
    return jnp.max(jnp.abs(net)) + jnp.finfo(net.dtype).eps * configuration.stiffness * lengths


def count_contacts(chosen: Bool[Array, " p"], i: Array, j: Array, n: int) -> Int[Array, " n"]:
    """The number of the chosen pairs that each particle is in."""
    one = chosen.astype(jnp.int32)
    return jnp.zeros(n, jnp.int32).at[jnp.stack([i, j])].add(one)


def analyze_contacts(configuration: Configuration) -> ContactAnalysis:
    """Rattlers and contacts at rest; no contact is indeterminate yet (see `with_indeterminate`)."""
    pairs = configuration.pairs
    n, slots = configuration.system.n, configuration.neighbors.valid.shape
    no_pair = jnp.zeros(slots, bool)
    if pairs is None:
        none, dtype = jnp.zeros(n, bool), configuration.system.positions.dtype
        gap, force = (jnp.full(slots, value, dtype) for value in (jnp.inf, 0.0))
        return ContactAnalysis(none, none, no_pair, no_pair, gap, force)
    force, residual = pairs.force, residual_force(configuration, pairs)
    rattlers = _rattlers(configuration, pairs, force, residual)
    unresolved = jnp.zeros(n, bool)
    if configuration.potential.contact:
        unresolved = rattlers & _may_be_constrained(configuration, pairs, force, residual)
    backbone = pairs.listed & ~rattlers[pairs.i] & ~rattlers[pairs.j]
    gap = jnp.where(backbone, pairs.gap / pairs.cutoff, jnp.inf)
    return ContactAnalysis(rattlers, unresolved, no_pair, pairs.interacts & backbone, gap, force)


def with_indeterminate(
    contacts: ContactAnalysis, configuration: Configuration, curvature_bound: Float[Array, ""]
) -> ContactAnalysis:
    """The analysis with the contacts that the residual forces cannot tell from open ones.

    **Arguments:**

    - `curvature_bound` (energy per length²): the lowest curvature, or a bound for it. It says how far a residual force
      may lead. Zero or less means unknown, and, for a potential that is no sum over pairs, that nothing is constrained.
    """
    pairs, parts = configuration.pairs, lambda contacts: (contacts.rattlers, contacts.indeterminate)
    if pairs is None:
        rattlers = contacts.rattlers | (curvature_bound == 0.0)
        return eqx.tree_at(parts, contacts, (rattlers, contacts.indeterminate))
    residual = residual_force(configuration, pairs)
    indeterminate = _indeterminate(configuration, pairs, contacts.rattlers, residual, curvature_bound)
    return eqx.tree_at(parts, contacts, (contacts.rattlers, indeterminate))


def _may_be_constrained(
    configuration: Configuration, pairs: Pairs, force: Float[Array, " p"], residual: Float[Array, ""]
) -> Bool[Array, " n"]:
    n = configuration.system.n
    repels = pairs.interacts & (force > 0.0)
    overlaps = repels & (pairs.gap < -SHALLOW_OVERLAP * pairs.cutoff)
    caged = constrained_by(overlaps, pairs.i, pairs.j, configuration.system.dim + 1, jnp.zeros(n, bool))
    certain = (force > CONTACT_FORCE_ABOVE_RESIDUAL * residual) | (pairs.gap < -DEEP_OVERLAP * pairs.cutoff)
    constrains = (repels & certain) | (overlaps & caged[pairs.i] & caged[pairs.j])
    return count_contacts(constrains, pairs.i, pairs.j, n) > 0


def _indeterminate(
    configuration: Configuration,
    pairs: Pairs,
    rattlers: Bool[Array, " n"],
    residual: Float[Array, ""],
    curvature_bound: Float[Array, ""],
) -> Bool[Array, " p"]:
    stiffness = configuration.stiffness
    softness = jnp.maximum(1.0 / stiffness, jnp.where(curvature_bound > 0.0, 1.0 / curvature_bound, 0.0))
    of_backbone = pairs.listed & ~rattlers[pairs.i] & ~rattlers[pairs.j]
    near = of_backbone & (jnp.abs(pairs.gap) <= INDETERMINATE_GAP / stiffness * residual + softness * residual)
    just_inside = pairs.cutoff * (1.0 - 8.0 * jnp.finfo(pairs.cutoff.dtype).eps)
    at_cutoff = dataclasses.replace(pairs, distance=just_inside, interacts=near)
    return near & (jnp.abs(at_cutoff.curvature) > STIFFNESS_JUMP * stiffness)


def nearly_in_contact(configuration: Configuration) -> Bool[Array, " p"]:
    """The listed pairs that are not much farther apart than their cutoff; all of them for other potentials."""
    pairs = configuration.pairs
    if pairs is None:
        return configuration.neighbors.valid
    return configuration.neighbors.valid & ~(pairs.gap > NEAR_CONTACT_GAP * pairs.cutoff)
