"""Contacts of a system at rest: rattlers, and contacts that the residual forces leave undetermined."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..geometry import gather
from ..potentials.terms import Pairs
from ..runtime.compiled import compile_once
from ..system import System
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

    - `rattlers` (bool [n]): particles that no contacts constrain; fixed ones are none.
    - `constrained` (bool [n]): particles that relax and are no rattlers.
    - `unresolved` (bool [n]): rattlers that may be none. Their contacts bear more than the residual forces explain,
      overlap deeply, or are as many as could constrain them.
    - `indeterminate` (bool [m]): listed pairs of the other particles so near to touching, from either side, that the
      residual forces cannot tell whether they do, at a cutoff where the stiffness jumps. With and without them the
      response differs.
    - `at_jump` (bool [n]): particles of terms of another kind, such as walls, within as little of a jump.
    - `touching` (bool [p]), whether within the cutoff, `gap` ([p], relative to the contact distance, negative within)
      and `force` ([p], energy per length): of the listed pairs of particles that are no rattlers, one of which relaxes;
      a gap is infinite for other pairs.
    - `contact_number`: the mean number of contacts of a constrained particle; pairs within a cutoff where nothing jumps
      are none (`can_touch`).

    A potential without a sum over pairs has no contacts and no gaps. With several such sums there are p = k m terms, m
    for the listed pairs in each of the k sums (`Pairs`).
    """

    rattlers: Bool[Array, " n"]
    constrained: Bool[Array, " n"]
    unresolved: Bool[Array, " n"]
    indeterminate: Bool[Array, " m"]
    at_jump: Bool[Array, " n"]
    touching: Bool[Array, " p"]
    gap: Float[Array, " p"]
    force: Float[Array, " p"]
    contact_number: Float[Array, ""]

    @property
    def rigid(self) -> Bool[Array, ""]:
        """Whether any particle is constrained."""
        return jnp.any(self.constrained)

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Whether the residual forces are small enough to tell all rattlers from constrained particles."""
        return ~jnp.any(self.unresolved)

    @property
    def differentiable(self) -> Bool[Array, ""]:
        """Whether the response from one side is that from the other."""
        return ~(jnp.any(self.indeterminate) | jnp.any(self.at_jump))


@compile_once
def find_rattlers(configuration: Configuration) -> Bool[Array, " n"]:
    """Particles that no contacts constrain, found recursively.

    Where particles interact by contact, one with fewer than d + 1 contacts cannot be constrained in a stable
    equilibrium (fewer by one for each fixed component), and the contacts of a rattler do not count. Nor do contacts
    whose force is no more than the residual forces: a minimizer leaves a rattler, or a group of them, in touch with its
    cage. A particle with a force well beyond that is no rattler, however few its contacts, as at a saddle. For other
    pair potentials only a particle without any neighbor within its cutoff is a rattler.

    **Reference:**

    - Donev, Torquato, Stillinger and Connelly, J. Comput. Phys. 197, 139 (2004).
    """
    pairs = configuration.pairs
    if pairs is None:
        return _rattlers_without_pairs(configuration)[0]
    return _rattlers(configuration, pairs, pairs.force, residual_force(configuration))


def _rattlers(
    configuration: Configuration, pairs: Pairs, force: Float[Array, " p"], residual: Float[Array, ""]
) -> Bool[Array, " n"]:
    system, n = configuration.system, configuration.system.n
    fixed, supports = fixed_particles(system), _supports(configuration, residual)
    if not configuration.potential.contact:
        return ~constrained_by(pairs, pairs.interacts, 1 - supports, fixed)
    certain = pairs.count(force > CERTAIN_FORCE_ABOVE_RESIDUAL * residual, n) > 0
    counts = force > CONTACT_FORCE_ABOVE_RESIDUAL * residual
    return ~constrained_by(pairs, counts, contacts_needed(system) - supports, certain | fixed)


def _supports(configuration: Configuration, residual: Float[Array, ""]) -> int | Int[Array, " n"]:
    """The contacts for which the parts of a potential count that are no sum over pairs: bonds, walls, loads."""
    least = CONTACT_FORCE_ABOVE_RESIDUAL * residual
    return sum((part.supports(configuration.system, terms, least) for part, terms in configuration.others()), 0)


def _rattlers_without_pairs(configuration: Configuration) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """The rattlers of a potential without a sum over pairs, and those of them that may be none.

    There is none where the potential is no sum of terms.
    """
    system, none = configuration.system, jnp.zeros(configuration.system.n, bool)
    if not configuration.potential.has_terms:
        return none, none

    def unsupported(residual: Float[Array, ""]) -> Bool[Array, " n"]:
        return (_supports(configuration, residual) < contacts_needed(system)) & ~fixed_particles(system)

    rattlers = unsupported(residual_force(configuration))
    return rattlers, rattlers & ~unsupported(_residual_like_a_shallow_overlap(configuration))


def fixed_particles(system: System) -> Bool[Array, " n"]:
    """The particles that do not relax at all."""
    if system.movable is None:
        return jnp.zeros(system.n, bool)
    return ~jnp.any(system.movable, axis=1)


def contacts_needed(system: System) -> int | Int[Array, " n"]:
    """The least number of contacts that constrain each particle: one more than its components that relax."""
    return system.dim + 1 if system.movable is None else 1 + jnp.sum(system.movable, axis=1, dtype=jnp.int32)


def constrained_by(
    pairs: Pairs, counts: Bool[Array, " p"], needed: int | Int[Array, " n"], spared: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    """The particles left after those with fewer than `needed` contacts that count have been removed, again and again.

    Particles that are `spared` are never removed.
    """

    def remove(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = carry
        contacts = pairs.count(counts & gather(kept, pairs.i) & gather(kept, pairs.j), kept.size)
        still = kept & ((contacts >= needed) | spared)
        return still, jnp.any(still != kept)

    everyone = (jnp.ones(spared.shape, bool), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[1], remove, everyone)[0]


def residual_force(configuration: Configuration) -> Float[Array, ""]:
    """The largest net force on a particle that relaxes, plus the force that rounding of the positions makes."""
    system = configuration.system
    net = configuration.gradient()
    lengths = jnp.max(jnp.abs(system.positions)) + jnp.max(system.diameters)
    return jnp.max(jnp.abs(net)) + jnp.finfo(net.dtype).eps * configuration.stiffness * lengths


def analyze_contacts(configuration: Configuration) -> ContactAnalysis:
    """Rattlers and contacts at rest; no contact is indeterminate yet (see `with_indeterminate`)."""
    pairs = configuration.pairs
    n, slots, fixed = configuration.system.n, configuration.neighbors.valid.shape, fixed_particles(configuration.system)
    none, no_pair = jnp.zeros(n, bool), jnp.zeros(slots, bool)
    if pairs is None:
        dtype = configuration.system.positions.dtype
        gap, force = (jnp.full(slots, value, dtype) for value in (jnp.inf, 0.0))
        (rattlers, unresolved), nothing = _rattlers_without_pairs(configuration), jnp.zeros((), dtype)
        constrained = ~rattlers & ~fixed
        return ContactAnalysis(rattlers, constrained, unresolved, no_pair, none, no_pair, gap, force, nothing)
    force, residual = pairs.force, residual_force(configuration)
    rattlers = _rattlers(configuration, pairs, force, residual)
    unresolved = none
    if configuration.potential.contact:
        unresolved = rattlers & _may_be_constrained(configuration, pairs, force, residual)
    backbone = of_backbone(configuration, pairs, rattlers)
    gap = jnp.where(backbone, pairs.gap / pairs.cutoff, jnp.inf)
    touching, constrained = pairs.interacts & backbone, ~rattlers & ~fixed
    in_contact = touching & can_touch(configuration, pairs)
    ends = jnp.sum(jnp.where(constrained, pairs.count(in_contact, n), 0))
    number = (ends / jnp.maximum(1, jnp.sum(constrained))).astype(gap.dtype)
    return ContactAnalysis(rattlers, constrained, unresolved, no_pair, none, touching, gap, force, number)


def can_touch(configuration: Configuration, pairs: Pairs) -> Bool[Array, " p"]:
    """The pairs whose cutoff is where a contact opens or closes."""
    return pairs.can_touch(STIFFNESS_JUMP * configuration.stiffness)


class Gaps(eqx.Module):
    """Where a contact may open or close: its particle `i`, the other particle `j`, the `gap` between them (length), and
    whether they touch. `changes` says whether it counts: not with rattlers, nor between fixed particles.

    A negative `j` is a wall: -1 the first wall of the potential, -2 the second.
    """

    i: Int[Array, " c"]
    j: Int[Array, " c"]
    gap: Float[Array, " c"]
    touching: Bool[Array, " c"]
    changes: Bool[Array, " c"]


def contact_gaps(configuration: Configuration, rattlers: Bool[Array, " n"]) -> Gaps:
    """The gaps of all listed pairs, and of all particles with all walls, given a configuration without the pairs of
    rattlers; differentiable.
    """
    system, pairs = configuration.system, configuration.pairs
    nobody, none = jnp.zeros(0, jnp.int32), jnp.zeros(0, bool)
    found: list[tuple[Array, ...]] = [(nobody, nobody, jnp.zeros(0, system.positions.dtype), none, none)]
    if pairs is not None:
        changes = of_backbone(configuration, pairs, rattlers) & can_touch(configuration, pairs)
        found.append((pairs.i, pairs.j, pairs.gap, pairs.interacts, changes))
    each, relaxes = jnp.arange(system.n, dtype=jnp.int32), ~rattlers & ~fixed_particles(system)
    walls = (part for part in configuration.potential.others() if part.contact)
    for number, wall in enumerate(walls, start=1):
        gap = wall.gaps(system)
        found.append((each, jnp.full_like(each, -number), gap, gap < 0.0, relaxes))
    return Gaps(*(jnp.concatenate(column) for column in zip(*found, strict=True)))


def of_backbone(configuration: Configuration, pairs: Pairs, rattlers: Bool[Array, " n"]) -> Bool[Array, " p"]:
    """The listed pairs of particles that are no rattlers and not both fixed."""
    backbone = pairs.listed & ~gather(rattlers, pairs.i) & ~gather(rattlers, pairs.j)
    if configuration.system.movable is None:
        return backbone
    relaxes = ~fixed_particles(configuration.system)
    return backbone & (gather(relaxes, pairs.i) | gather(relaxes, pairs.j))


def with_indeterminate(
    contacts: ContactAnalysis, configuration: Configuration, curvature_bound: Float[Array, ""]
) -> ContactAnalysis:
    """The analysis with the contacts that the residual forces cannot tell from open ones.

    **Arguments:**

    - `curvature_bound` (energy per length²): the lowest curvature, or a bound for it. It says how far a residual force
      may lead. Zero or less means unknown, and, for a potential that is no sum of terms, that nothing is constrained.
    """
    pairs = configuration.pairs
    if not configuration.potential.has_terms:
        flat = contacts.constrained & (curvature_bound == 0.0)
        rattlers, constrained = contacts.rattlers | flat, contacts.constrained & ~flat
        contacts = dataclasses.replace(contacts, rattlers=rattlers, constrained=constrained)
    may_jump = any(part.may_jump for part in configuration.potential.others())
    if pairs is None and not may_jump:
        return contacts
    residual = residual_force(configuration)
    if may_jump:
        at_jump = _at_jump(configuration, contacts, residual, curvature_bound)
        contacts = dataclasses.replace(contacts, at_jump=at_jump)
    if pairs is None:
        return contacts
    indeterminate = _indeterminate(configuration, pairs, contacts.rattlers, residual, curvature_bound)
    return dataclasses.replace(contacts, indeterminate=indeterminate)


def _may_be_constrained(
    configuration: Configuration, pairs: Pairs, force: Float[Array, " p"], residual: Float[Array, ""]
) -> Bool[Array, " n"]:
    n = configuration.system.n
    repels = pairs.interacts & (force > 0.0)
    overlaps = repels & (pairs.gap < -SHALLOW_OVERLAP * pairs.cutoff)
    supports = _supports(configuration, _residual_like_a_shallow_overlap(configuration))
    needed = contacts_needed(configuration.system) - supports
    caged = constrained_by(pairs, overlaps, needed, jnp.zeros(n, bool))
    certain = (force > CONTACT_FORCE_ABOVE_RESIDUAL * residual) | (pairs.gap < -DEEP_OVERLAP * pairs.cutoff)
    constrains = (repels & certain) | (overlaps & gather(caged, pairs.i) & gather(caged, pairs.j))
    return pairs.count(constrains, n) > 0


def _indeterminate(
    configuration: Configuration,
    pairs: Pairs,
    rattlers: Bool[Array, " n"],
    residual: Float[Array, ""],
    curvature_bound: Float[Array, ""],
) -> Bool[Array, " m"]:
    stiffness = configuration.stiffness
    reach = _uncertainty(configuration, residual, curvature_bound)
    near = of_backbone(configuration, pairs, rattlers) & (jnp.abs(pairs.gap) <= reach)
    return pairs.any(near & (pairs.stiffness_at_cutoff > STIFFNESS_JUMP * stiffness))


def _uncertainty(
    configuration: Configuration, residual: Float[Array, ""], curvature_bound: Float[Array, ""]
) -> Float[Array, ""]:
    """How far the residual forces may have left a particle from where it would be at rest."""
    softest = jnp.where(curvature_bound > 0.0, 1.0 / jnp.where(curvature_bound > 0.0, curvature_bound, 1.0), 0.0)
    return (
        INDETERMINATE_GAP / configuration.stiffness + jnp.maximum(1.0 / configuration.stiffness, softest)
    ) * residual


def _at_jump(
    configuration: Configuration,
    contacts: ContactAnalysis,
    residual: Float[Array, ""],
    curvature_bound: Float[Array, ""],
) -> Bool[Array, " n"]:
    system, distance = configuration.system, _uncertainty(configuration, residual, curvature_bound)
    found = jnp.zeros(system.n, bool)
    for part, terms in configuration.others():
        if terms is not None and part.may_jump:
            jumps = part.jumps_within(terms, distance, STIFFNESS_JUMP * configuration.stiffness)
            found = found.at[terms.groups].max(jumps[:, None])
    return found & contacts.constrained


def _residual_like_a_shallow_overlap(configuration: Configuration) -> Float[Array, ""]:
    """The residual force above which a shallow overlap with a wall does not count as a contact."""
    return SHALLOW_OVERLAP * configuration.stiffness * configuration.length / CONTACT_FORCE_ABOVE_RESIDUAL


def nearly_in_contact(configuration: Configuration) -> Bool[Array, " m"]:
    """The listed pairs that are not much farther apart than their cutoff; all of them for other potentials."""
    pairs = configuration.pairs
    if pairs is None:
        return configuration.neighbors.valid
    return configuration.neighbors.valid & pairs.any(~(pairs.gap > NEAR_CONTACT_GAP * pairs.cutoff))
