"""Many systems of one shape brought to rest at once, none of them waiting for the slowest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from . import neighbors, validation
from .compiled import by_the_host, make_room
from .curvature import Curvature, lowest_curvature
from .errors import InvalidInput
from .neighbors import AllPairs, NeighborList, Neighbors
from .potentials import PairPotential, Potential
from .relaxation import MOST_ESCAPES, Descent, End, Equilibrium, Relaxation, descend, limits, off_the_saddle, start_at
from .system import System, is_concrete

PARTICLES_AT_ONCE = {"cpu": 1000, "gpu": 200_000}
"""In the slots of one device together: beyond, a step takes as much longer as it does more."""

ALL_PAIRS_UP_TO = 32
"""The size from which on lists are faster, for many systems at once."""

STEPS_IN_A_ROW = 20
"""After so many, systems at rest leave their slots to others."""


def relax_ensemble(
    relax: Relaxation,
    potential: Potential | Sequence[Potential],
    systems: System | Sequence[System],
    at_once: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Equilibrium:
    """Relaxes systems of one shape together; the same as `relax` on each, several times faster where they are small.

    A fixed number of slots is stepped at once, and a system that has come to rest leaves its slot to the next one.

    **Arguments:** `potential`, one for all or one for each; `systems` of the same numbers of particles and
    dimensions, or one `System` whose arrays have a leading axis [m]. `at_once`, the slots of each device; chosen by
    size if None. `devices` share the systems; the default one alone if None.

    **Returns** an `Equilibrium` with a leading axis [m] on every array, differentiable as any other is; of member k
    it is `equilibria[k]`. Steps are the minimizer's, to the last. Members that do
    not come to rest have `converged` or `minimum` False, and with `relax.throw` NaN for positions and energy.

    **Raises** `InvalidInput` for systems that cannot be relaxed, or not together, and under `jit` and `vmap`: there
    take `jax.vmap(relax)`.
    """
    if relax.pressure is not None:
        raise InvalidInput("an ensemble is relaxed in fixed cells: at constant pressure relax one system after another")
    system, own = _together(systems), isinstance(potential, Sequence)
    potentials = [potential] if isinstance(potential, Potential) else list(potential)
    size = system.positions.shape[0]
    if own and len(potentials) != size:
        raise InvalidInput(f"{len(potentials)} potentials for {size} systems: one for all, or one for each")
    in_precision = [each.in_precision_of(system) for each in potentials]
    members = _Members(_stacked(in_precision, "potentials") if own else in_precision[0], system, own)
    here = jax.lax.stop_gradient(members)
    if not is_concrete(here):
        raise InvalidInput("an ensemble is driven by the host: under jit or vmap, take jax.vmap(relax)")
    with by_the_host():
        end, curvature, escapes = _driven(relax, here, at_once, devices)
    return _equilibria(dataclasses.replace(relax, progress=None), members, end, curvature, escapes)


def _driven(
    relax: Relaxation, members: _Members, at_once: int | None, devices: Sequence[jax.Device] | None
) -> tuple[End, Curvature, Int[Array, " m"]]:
    make_room()
    for k in range(members.size):
        validation.check_potential(members.potential_of(k))
        validation.check_system(members.potential_of(k), members.system_of(k))
    k, size = _densest(members.system), members.size
    kind = relax.neighbors or neighbors.automatic(members.potential_of(k), members.system_of(k), ALL_PAIRS_UP_TO, size)
    end, curvature, escapes = _at_rest(relax, _roomy(kind, members), members, at_once, devices or jax.devices()[:1])
    close = _near_touching(members.at(end.positions), end.neighbors)
    return End(end.positions, close, end.max_force, end.steps), curvature, escapes


class _Members(eqx.Module):
    """A potential, or one for each system if it is their `own`, and systems with a leading axis [m]."""

    potential: Potential
    system: System
    own: bool = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.system.positions.shape[0]

    @property
    def axes(self) -> _Members:
        """For vmap."""
        return _Members(0 if self.own else None, 0, self.own)  # type: ignore[arg-type]

    def potential_of(self, k: Any) -> Potential:
        return jax.tree.map(lambda leaf: leaf[k], self.potential) if self.own else self.potential

    def system_of(self, k: Any) -> System:
        return jax.tree.map(lambda leaf: leaf[k], self.system)

    def at(self, positions: Float[Array, "m n d"]) -> _Members:
        return _Members(self.potential, eqx.tree_at(lambda s: s.positions, self.system, positions), self.own)

    def some(self, k: Int[Array, " w"]) -> _Members:
        return _Members(self.potential_of(k), self.system_of(k), self.own)


def _together(systems: System | Sequence[System]) -> System:
    if isinstance(systems, System):
        if systems.positions.ndim != 3:
            raise InvalidInput("one system is no ensemble: take relax(potential, system)")
        return systems
    return _stacked(list(systems), "systems")


def _stacked(members: list[Any], what: str) -> Any:
    if not members:
        raise InvalidInput(f"an ensemble of no {what}")
    shapes = {(jax.tree.structure(each), *(jnp.shape(leaf) for leaf in jax.tree.leaves(each))) for each in members}
    if len(shapes) > 1:
        raise InvalidInput(f"the {what} of an ensemble must be of one shape, and these are of {len(shapes)}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def _densest(system: System) -> int:
    """The member whose neighbor list will be the longest, as far as density tells."""
    if system.box is None:
        return 0
    own = np.sum(np.asarray(system.diameters) ** system.positions.shape[-1], axis=-1)
    return int(np.argmax(own / np.abs(np.linalg.det(np.asarray(system.box)))))


def _roomy(kind: AllPairs | NeighborList, members: _Members) -> AllPairs | NeighborList:
    """Grown until it holds the pairs of every member."""
    while True:
        full = np.asarray(_overflows(kind, members))
        if not full.any():
            return kind
        k = int(np.argmax(full))
        kind = neighbors.sized(kind, members.potential_of(k), members.system_of(k)).kind


@eqx.filter_jit
def _overflows(kind: AllPairs | NeighborList, members: _Members) -> Bool[Array, " m"]:
    def one(k: Int[Array, ""]) -> Bool[Array, ""]:
        potential, system = members.potential_of(k), members.system_of(k)
        return kind.build(potential, system).overflow | ~kind.fits(potential, system)

    return jax.lax.map(one, jnp.arange(members.size))


def _at_rest(
    relax: Relaxation, kind: AllPairs | NeighborList, members: _Members, at_once: int | None, devices: Sequence[Any]
) -> tuple[End, Curvature, Int[Array, " m"]]:
    """Down to rest, as often as there are saddles to leave."""
    wide = PARTICLES_AT_ONCE.get(devices[0].platform, PARTICLES_AT_ONCE["gpu"])
    slots = at_once or max(1, round(wide / members.system.positions.shape[1]))
    escapes, steps = (jnp.zeros(members.size, jnp.int32) for _ in range(2))
    while True:
        run = _shared(relax, kind, members, steps, slots, devices)
        if bool(jnp.any(run.overflow)):
            kind = _roomy(kind, members.at(run.positions))
            members, steps = members.at(run.positions), run.steps
            continue
        end, curvature = _looked_at(kind, members.at(run.positions), run)
        leaving = relax.escape & curvature.negative & (end.max_force <= relax.tolerance) & (escapes < MOST_ESCAPES)
        if not bool(jnp.any(leaving)):
            return end, curvature, escapes
        members, steps = _moved_off(members.at(end.positions), curvature, leaving), end.steps
        escapes = escapes + leaving


class _Run(eqx.Module):
    """What came of each member [m]."""

    positions: Float[Array, "m n d"]
    max_force: Float[Array, " m"]
    steps: Int[Array, " m"]
    overflow: Bool[Array, " m"]


class _Flight(eqx.Module):
    """The slots [w], whose they are (m: nobody's), who is next, and what came of each member."""

    slots: Descent
    whose: Int[Array, " w"]
    next: Int[Array, ""]
    done: _Run


def _shared(
    relax: Relaxation,
    kind: AllPairs | NeighborList,
    members: _Members,
    steps: Int[Array, " m"],
    slots: int,
    devices: Sequence[Any],
) -> _Run:
    """Every device has its part of the members and its own slots, and waits for no other."""
    size, parts = members.size, len(devices)
    which = jnp.arange(-(-size // parts) * parts) % size  # the same number for each
    slots = min(slots, which.size // parts)
    tolerance, most = limits(relax.tolerance, relax.max_steps, members.system)
    run = _flown(relax.minimizer, kind, slots, tuple(devices), members, which, steps, tolerance, most)
    return jax.tree.map(lambda leaf: leaf[:size], jax.device_put(run, devices[0]) if parts > 1 else run)


@eqx.filter_jit
def _flown(
    minimizer: Any,
    kind: AllPairs | NeighborList,
    slots: int,
    devices: tuple[Any, ...],
    members: _Members,
    which: Int[Array, " k"],
    steps: Int[Array, " m"],
    tolerance: Float[Array, ""],
    most: Int[Array, ""],
) -> _Run:
    fly = functools.partial(_fly, minimizer, kind, slots)
    if len(devices) == 1:
        return fly(members.some(which), steps[which], tolerance, most)
    mesh = jax.sharding.Mesh(np.array(devices), ("members",))
    split, whole = jax.sharding.PartitionSpec("members"), jax.sharding.PartitionSpec()
    specs = _Members(split if members.own else whole, split, members.own)  # type: ignore[arg-type]
    share = jax.shard_map(fly, mesh=mesh, in_specs=(specs, split, whole, whole), out_specs=split, check_vma=False)
    return share(members.some(which), steps[which], tolerance, most)


def _fly(
    minimizer: Any,
    kind: AllPairs | NeighborList,
    slots: int,
    members: _Members,
    steps: Int[Array, " m"],
    tolerance: Float[Array, ""],
    most: Int[Array, ""],
) -> _Run:
    m, axes = members.size, members.axes

    def of(whose: Int[Array, " w"]) -> _Members:
        return members.some(jnp.minimum(whose, m - 1))

    def begin(member: _Members, steps: Array) -> Descent:
        list_ = kind.build(member.potential, member.system)
        return start_at(minimizer, member.potential, member.system, list_, steps)

    def go_on(member: _Members, run: Descent) -> Descent:
        pause = jnp.minimum(run.steps + STEPS_IN_A_ROW, most)
        return descend(minimizer, member.potential, member.system, run, tolerance, pause)

    def renew(member: _Members, run: Descent) -> Descent:
        here = member.system.replace(positions=run.positions)
        return _chosen(run.outgrown, run.with_list(kind.build(member.potential, here)), run)

    def chunk(flight: _Flight) -> _Flight:
        here = of(flight.whose)
        run = jax.vmap(go_on, (axes, 0))(here, flight.slots)
        idle = (run.steps == flight.slots.steps) & ~flight.slots.outgrown & ~run.outgrown
        at_rest = (run.max_force <= tolerance) | (run.steps >= most) | run.neighbors.overflow | idle
        ended = at_rest & (flight.whose < m)
        found = _Run(run.positions, run.max_force, run.steps, run.neighbors.overflow)
        where = jnp.where(ended, flight.whose, m)
        done = jax.tree.map(lambda all_, each: all_.at[where].set(each, mode="drop"), flight.done, found)
        whose = jnp.where(ended, jnp.minimum(flight.next + jnp.cumsum(ended) - 1, m), flight.whose)
        run = jax.lax.cond(
            jnp.any(ended & (whose < m)),
            lambda: _chosen(ended, jax.vmap(begin, (axes, 0))(of(whose), steps[jnp.minimum(whose, m - 1)]), run),
            lambda: run,
        )
        run = jax.lax.cond(jnp.any(run.outgrown), lambda: jax.vmap(renew, (axes, 0))(of(whose), run), lambda: run)
        return _Flight(run, whose.astype(jnp.int32), jnp.minimum(flight.next + jnp.sum(ended), m), done)

    x = members.system.positions
    nothing = _Run(jnp.zeros_like(x), jnp.zeros(m, x.dtype), jnp.zeros(m, jnp.int32), jnp.zeros(m, bool))
    first = jnp.arange(slots, dtype=jnp.int32)
    start = _Flight(jax.vmap(begin, (axes, 0))(of(first), steps[first]), first, jnp.asarray(slots), nothing)
    return jax.lax.while_loop(lambda flight: jnp.any(flight.whose < m), chunk, start).done


def _chosen(choose: Bool[Array, "*w"], one: PyTree, other: PyTree) -> PyTree:
    def pick(a: Array, b: Array) -> Array:
        return jnp.where(choose.reshape(choose.shape + (1,) * (a.ndim - choose.ndim)), a, b)

    return jax.tree.map(pick, one, other)


@eqx.filter_jit
def _looked_at(kind: AllPairs | NeighborList, members: _Members, run: _Run) -> tuple[End, Curvature]:
    def one(member: _Members, run: _Run) -> tuple[End, Curvature]:
        list_: Neighbors = kind.build(member.potential, member.system)
        end = End(run.positions, list_, run.max_force, run.steps)
        return end, lowest_curvature(member.potential, member.system, list_, run.max_force)

    return jax.vmap(one, (members.axes, 0))(members, run)


def _near_touching(members: _Members, close: Neighbors) -> Neighbors:
    if not isinstance(members.potential, PairPotential):
        return close
    _, n, d = members.system.positions.shape
    return neighbors.only_chosen(close, np.asarray(_which_near(members, close)), n, least=2.0**d)


@eqx.filter_jit
def _which_near(members: _Members, close: Neighbors) -> Bool[Array, "m p"]:
    def one(member: _Members, close: Neighbors) -> Bool[Array, " p"]:
        assert isinstance(member.potential, PairPotential)
        return neighbors.are_near_touching(close, member.potential, member.system)

    return jax.vmap(one, (members.axes, 0))(members, close)


@eqx.filter_jit
def _moved_off(members: _Members, curvature: Curvature, leaving: Bool[Array, " m"]) -> _Members:
    moved = jax.vmap(off_the_saddle)(members.system, curvature)
    return members.at(_chosen(leaving, moved, members.system.positions))


@eqx.filter_jit
def _equilibria(
    relax: Relaxation, members: _Members, end: End, curvature: Curvature, escapes: Int[Array, " m"]
) -> Equilibrium:
    def one(member: _Members, *found: Any) -> Equilibrium:
        return relax.at(member.potential, member.system, *found)

    return jax.vmap(one, (members.axes, 0, 0, 0))(members, end, curvature, escapes)
