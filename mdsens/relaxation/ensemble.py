"""Many systems of one shape relaxed together, none of them waiting for the slowest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import spanned
from ..landscape.configuration import Configuration
from ..landscape.contacts import nearly_in_contact
from ..landscape.curvature import Curvature, lowest_curvature
from ..minimizers import FIRE
from ..neighbors import Neighbors, PairFinder, allocate, automatic
from ..neighbors.allocation import Survey, fitting, only_chosen
from ..potentials import Potential
from ..runtime.batching import member, select
from ..runtime.compiled import release_when_full
from ..runtime.tracing import as_array, is_concrete, numpy_for, outside_trace
from ..system import System
from . import validation
from .descent import Descent, Limits, Method, advance, begin, pushed_off, well_posed
from .equilibrium import Equilibrium
from .relaxation import MOST_ESCAPES, Outcome, Relaxation

PARTICLES_AT_ONCE = {"cpu": 1000, "gpu": 200_000}
"""In the slots of one device together: beyond, a step takes longer in proportion."""

STEPS_IN_A_ROW = 20
"""After so many steps, systems at rest leave their slots to others."""


def relax_ensemble(
    relax: Relaxation,
    potential: Potential | Sequence[Potential],
    systems: System | Sequence[System],
    at_once: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Equilibrium:
    """Relaxes systems of one shape together: the results of `relax` on each, several times faster for small systems.

    A fixed number of slots is advanced at once, and a system that has come to rest leaves its slot to the next one.

    **Arguments:**

    - `potential`: one for all systems, or one for each.
    - `systems`: of the same numbers of particles and dimensions, or one `System` whose arrays have a leading axis
      [m].
    - `at_once`: the slots of each device; chosen by size if None.
    - `devices`: share the systems; the default device alone if None.

    **Returns** an `Equilibrium` with a leading axis [m] on every array, differentiable as any other; member k is
    `equilibria[k]`. Members that do not come to rest have `converged` or `minimum` False, and with `relax.throw` NaN
    for positions and energy.

    **Raises:**

    - `InvalidInput` for systems that cannot be relaxed, or not together, and under `jit` and `vmap`, where
      `jax.vmap(relax)` does the same.
    """
    if relax.pressure is not None:
        raise InvalidInput("an ensemble is relaxed in fixed cells: at constant pressure relax one system after another")
    system, own = _together(systems), isinstance(potential, Sequence)
    potentials = [potential] if isinstance(potential, Potential) else list(potential)
    size = system.positions.shape[0]
    if own and len(potentials) != size:
        raise InvalidInput(f"{len(potentials)} potentials for {size} systems: one for all, or one for each")
    first = member(system, 0)
    if potentials[0].is_measured and not own:
        potentials, own = potentials * size, True
    if own and any(each.is_measured for each in potentials):
        of_each = [member(system, k) for k in range(size)]
    else:
        of_each = [first] * len(potentials)
    prepared = [each.prepared_for(of_one) for each, of_one in zip(potentials, of_each, strict=True)]
    one_or_each = _stacked(prepared, "potentials") if own else prepared[0]
    members = _Members(one_or_each, system, as_array(np.zeros(size, system.positions.dtype)), own)
    here = jax.lax.stop_gradient(members)
    if not is_concrete(here):
        raise InvalidInput("an ensemble is driven by the host: under jit or vmap, use jax.vmap(relax)")
    with outside_trace():
        surveys = _surveys(relax, here)
        here = _with_tolerances(relax, here, surveys)
        outcomes = _Ensemble(relax, here, surveys, at_once, list(devices or jax.devices()[:1])).to_minima()
        if relax.throw:
            _check_derivatives(here, outcomes, relax.one_sided)
    # only what decides how equilibria are differentiated may choose the program
    rules = dataclasses.replace(relax, minimizer=FIRE(), newton=None, neighbors=None, progress=None, tolerance=None)
    members = dataclasses.replace(members, tolerance=here.tolerance)
    return _equilibria(rules, members, outcomes)


def _surveys(relax: Relaxation, members: _Members) -> list[Survey]:
    """Of each member; **raises** `InvalidInput` for one that cannot be relaxed."""
    release_when_full()
    for k in range(members.size):
        members.potential_of(k).check()
    return [validation.surveyed(*members.member(k), relax.skin) for k in range(members.size)]


def _check_derivatives(members: _Members, outcomes: Outcome, one_sided: bool) -> None:
    """At the first member that is at rest; **raises** what `validation.check_derivatives` does."""
    at_rest = np.flatnonzero(np.asarray(outcomes.max_force) <= np.asarray(members.tolerance))
    if at_rest.size:
        potential, system = members.member(int(at_rest[0]))
        positions, neighbors = member((outcomes.positions, outcomes.neighbors), int(at_rest[0]))
        here = Configuration(potential, system.replace(positions=positions), neighbors)
        validation.check_derivatives(here, one_sided)


def _with_tolerances(relax: Relaxation, members: _Members, surveys: list[Survey]) -> _Members:
    """With the tolerance of each member."""
    each = [relax.measured_for(*members.member(k), surveyed) for k, surveyed in enumerate(surveys)]
    tolerances = np.array([relax.force_limit for relax in each], members.tolerance.dtype)
    return dataclasses.replace(members, tolerance=as_array(tolerances))


class _Members(eqx.Module):
    """A potential, or one for each system where `own` is True; systems with a leading axis [m], and the tolerance of
    each.
    """

    potential: Potential
    system: System
    tolerance: Float[Array, " m"]
    own: bool = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.system.positions.shape[0]

    @property
    def axes(self) -> _Members:
        """For vmap."""
        return _Members(0 if self.own else None, 0, 0, self.own)  # type: ignore[arg-type]

    def potential_of(self, k: Any) -> Potential:
        return member(self.potential, k) if self.own else self.potential

    def system_of(self, k: Any) -> System:
        return member(self.system, k)

    def member(self, k: int) -> tuple[Potential, System]:
        return self.potential_of(k), self.system_of(k)

    def at(self, positions: Float[Array, "m n d"]) -> _Members:
        return eqx.tree_at(lambda members: members.system.positions, self, positions)

    def some(self, k: Int[Array, " w"]) -> _Members:
        return _Members(self.potential_of(k), self.system_of(k), self.tolerance[k], self.own)


def _together(systems: System | Sequence[System]) -> System:
    if isinstance(systems, System):
        if systems.positions.ndim != 3:
            raise InvalidInput("one system is no ensemble: take relax(potential, system)")
        return systems
    given = list(systems)
    kinds = {(jax.tree.structure(each.extras), *map(jnp.shape, jax.tree.leaves(each.extras))) for each in given}
    if len(kinds) > 1:  # from files that say different things
        given = [each.replace(extras=None) for each in given]
    return _stacked(given, "systems")


def _stacked(members: list[Any], what: str) -> Any:
    if not members:
        raise InvalidInput(f"an ensemble of no {what}")
    shapes = {(jax.tree.structure(each), *(jnp.shape(leaf) for leaf in jax.tree.leaves(each))) for each in members}
    if len(shapes) > 1:
        raise InvalidInput(f"the {what} of an ensemble must be of one shape, and these are of {len(shapes)}")

    def stacked(*leaves: Array) -> Array:
        xp = numpy_for(leaves)
        return as_array(xp.stack([xp.asarray(leaf) for leaf in leaves]))

    return jax.tree.map(stacked, *members)


@dataclasses.dataclass
class _Ensemble:
    """The loop around `advance` for many systems."""

    relax: Relaxation
    members: _Members
    surveys: list[Survey]
    at_once: int | None
    devices: list[Any]

    def to_minima(self) -> Outcome:
        """Down to rest, as often as there are saddles to leave."""
        relax, members = self.relax, self.members
        self.finder = _finder_for(relax, members, self.surveys)
        escapes, steps = (as_array(np.zeros(members.size, np.int32)) for _ in range(2))
        while True:
            found = self._to_rest(steps)
            if np.asarray(found.overflow).any():
                self.finder = _enlarged(self.finder, self.members.at(found.positions))
                self.members, steps = self.members.at(found.positions), found.steps
                continue
            there, given = self.members.at(found.positions), members.system.positions
            outcome, near = _examined(self.finder, there, given, found, escapes)
            at_rest = np.asarray(outcome.max_force) <= np.asarray(members.tolerance)
            leaving = np.asarray(outcome.curvature.negative) & at_rest & (np.asarray(escapes) < MOST_ESCAPES)
            if not (relax.escape and leaving.any()):
                return self._with_few_pairs(outcome, near)
            steps, escapes = outcome.steps, as_array(np.asarray(escapes) + leaving.astype(np.int32))
            self.members = _pushed_off(self.members.at(outcome.positions), outcome.curvature, as_array(leaving))

    def _to_rest(self, steps: Int[Array, " m"]) -> _Found:
        """Every device has its part of the members and its own slots, and waits for no other."""
        members, parts = self.members, len(self.devices)
        wide = PARTICLES_AT_ONCE.get(self.devices[0].platform, PARTICLES_AT_ONCE["gpu"])
        slots = self.at_once or max(1, round(wide / members.system.positions.shape[1]))
        which = np.arange(-(-members.size // parts) * parts) % members.size  # the same number for each
        slots = min(slots, which.size // parts)
        method = Method(self.relax.minimizer, self.relax.newton, self.finder)
        most_steps = as_array(np.int32(self.relax.max_steps))
        found = _on_devices(method, slots, tuple(self.devices), members, as_array(which), steps, most_steps)
        found = jax.device_put(found, self.devices[0]) if parts > 1 else found
        return jax.tree.map(lambda leaf: leaf[: members.size], found)

    def _with_few_pairs(self, outcome: Outcome, near: Bool[Array, "m p"]) -> Outcome:
        """Of the pairs only those in contact or nearly."""
        if not (self.members.potential.has_terms and self.members.potential.needs_pairs):
            return outcome
        _, n, d = self.members.system.positions.shape
        neighbors = only_chosen(outcome.neighbors, np.asarray(near), n, least=2.0**d)
        return eqx.tree_at(lambda outcome: outcome.neighbors, outcome, neighbors)


def _finder_for(relax: Relaxation, members: _Members, surveys: list[Survey]) -> PairFinder:
    """A finder that suits every member; one that is enlarged later if it must."""
    k, finder = _densest(members.system), relax.neighbors
    finder = finder or automatic(*members.member(k), members=members.size)
    for k, surveyed in enumerate(surveys):
        finder = fitting(finder, *members.member(k), surveyed)
    return _enlarged(finder, members)


def _densest(system: System) -> int:
    """The member whose neighbor list will be the longest, as far as its density tells."""
    if system.lattice is None:
        return 0
    own = np.sum(np.asarray(system.diameters) ** system.positions.shape[-1], axis=-1)
    return int(np.argmax(own / spanned(np.asarray(system.lattice))))


def _enlarged(finder: PairFinder, members: _Members) -> PairFinder:
    """Enlarged until it holds the pairs of every member."""
    while True:
        full = np.asarray(_overflows(finder, members))
        if not full.any():
            return finder
        k = int(np.argmax(full))
        finder = allocate(finder, members.potential_of(k), members.system_of(k)).finder


@eqx.filter_jit
def _overflows(finder: PairFinder, members: _Members) -> Bool[Array, " m"]:
    def one(k: Int[Array, ""]) -> Bool[Array, ""]:
        return finder.build(members.potential_of(k), members.system_of(k)).overflow

    return jax.lax.map(one, jnp.arange(members.size))


class _Found(eqx.Module):
    """The end of the descent of each member [m]."""

    positions: Float[Array, "m n d"]
    max_force: Float[Array, " m"]
    steps: Int[Array, " m"]
    overflow: Bool[Array, " m"]


class _Flight(eqx.Module):
    """The slots [w], the member in each (m: nobody), the next member, and what was found so far."""

    slots: Descent
    member: Int[Array, " w"]
    next: Int[Array, ""]
    found: _Found


@eqx.filter_jit
def _on_devices(
    method: Method,
    slots: int,
    devices: tuple[Any, ...],
    members: _Members,
    which: Int[Array, " k"],
    steps: Int[Array, " m"],
    most_steps: Int[Array, ""],
) -> _Found:
    fly = functools.partial(_fly, slots)
    if len(devices) == 1:
        return fly(method, members.some(which), steps[which], most_steps)
    mesh = jax.sharding.Mesh(np.array(devices), ("members",))
    split, whole = jax.sharding.PartitionSpec("members"), jax.sharding.PartitionSpec()
    specs = _Members(split if members.own else whole, split, split, members.own)  # type: ignore[arg-type]
    in_specs = (whole, specs, split, whole)
    share = jax.shard_map(fly, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)
    return share(method, members.some(which), steps[which], most_steps)


def _fly(slots: int, method: Method, members: _Members, steps: Int[Array, " m"], most_steps: Int[Array, ""]) -> _Found:
    m, axes = members.size, members.axes

    def in_slots(member: Int[Array, " w"]) -> _Members:
        return members.some(jnp.minimum(member, m - 1))

    def start(member: _Members, steps: Array) -> Descent:
        return begin(method, member.potential, member.system, steps)

    def round_of(member: _Members, run: Descent) -> Descent:
        pause = Limits(member.tolerance, jnp.minimum(run.steps + STEPS_IN_A_ROW, most_steps))
        return advance(method, member.potential, member.system, run, pause)

    def chunk(flight: _Flight) -> _Flight:
        here = in_slots(flight.member)
        run = jax.vmap(round_of, (axes, 0))(here, flight.slots)
        at_rest = (run.max_force <= here.tolerance) | (run.steps >= most_steps)
        ended = (at_rest | run.neighbors.overflow | run.idle) & (flight.member < m)
        ends = _Found(run.positions, run.max_force, run.steps, run.neighbors.overflow)
        where = jnp.where(ended, flight.member, m)
        found = jax.tree.map(lambda all_, each: all_.at[where].set(each, mode="drop"), flight.found, ends)
        member = jnp.where(ended, jnp.minimum(flight.next + jnp.cumsum(ended) - 1, m), flight.member)
        run = jax.lax.cond(
            jnp.any(ended & (member < m)),
            lambda: select(ended, jax.vmap(start, (axes, 0))(in_slots(member), steps[jnp.minimum(member, m - 1)]), run),
            lambda: run,
        )
        return _Flight(run, member.astype(jnp.int32), jnp.minimum(flight.next + jnp.sum(ended), m), found)

    x = members.system.positions
    nothing = _Found(jnp.zeros_like(x), jnp.zeros(m, x.dtype), jnp.zeros(m, jnp.int32), jnp.zeros(m, bool))
    first = jnp.arange(slots, dtype=jnp.int32)
    flight = _Flight(jax.vmap(start, (axes, 0))(in_slots(first), steps[first]), first, jnp.asarray(slots), nothing)
    return jax.lax.while_loop(lambda flight: jnp.any(flight.member < m), chunk, flight).found


@eqx.filter_jit
def _examined(
    finder: PairFinder, members: _Members, given: Float[Array, "m n d"], found: _Found, escapes: Int[Array, " m"]
) -> tuple[Outcome, Bool[Array, "m p"]]:
    """The outcome of each member, with its lowest curvature, and which pairs are in contact or nearly.

    **Arguments:**

    - `given` (length): the positions before the descent.
    """

    def one(member: _Members, start: Array, found: _Found, escapes: Array) -> tuple[Outcome, Bool[Array, " p"]]:
        neighbors: Neighbors = finder.build(member.potential, member.system)
        neighbors = neighbors.with_images_of(member.system.positions, member.system.lattice)
        here = Configuration(member.potential, member.system, neighbors)
        curvature = lowest_curvature(here, found.max_force)
        fits = well_posed(finder, member.potential, member.system.replace(positions=start), member.system)
        done = here.energy(), found.max_force, found.steps, curvature, escapes, fits
        return Outcome(found.positions, neighbors, *done), nearly_in_contact(here)

    return jax.vmap(one, (members.axes, 0, 0, 0))(members, given, found, escapes)


@eqx.filter_jit
def _pushed_off(members: _Members, curvature: Curvature, leaving: Bool[Array, " m"]) -> _Members:
    def one(member: _Members, curvature: Curvature) -> Float[Array, "n d"]:
        return pushed_off(member.potential, member.system, curvature)

    moved = jax.vmap(one, (members.axes, 0))(members, curvature)
    return members.at(select(leaving, moved, members.system.positions))


@eqx.filter_jit
def _equilibria(relax: Relaxation, members: _Members, outcomes: Outcome) -> Equilibrium:
    def one(member: _Members, outcome: Outcome) -> Equilibrium:
        own = dataclasses.replace(relax, tolerance=member.tolerance)
        return own.equilibrium(member.potential, member.system, outcome)

    return jax.vmap(one, (members.axes, 0))(members, outcomes)
