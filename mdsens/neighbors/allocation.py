"""Which pair finder suits a system, and with which capacity."""

from __future__ import annotations

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput, Status
from ..potentials import Potential
from ..runtime.compiled import compile_once
from ..runtime.noise import white_noise
from ..runtime.tracing import as_array, is_concrete
from ..system import System
from .cells import WORD, sort_into_cells
from .lists import COMPARE_ALL_UP_TO, AllPairs, NeighborList, Neighbors, PairFinder, coarse, finite_reach, is_sorted
from .repeated import repeats

ALL_PAIRS_UP_TO = 32
"""Particles up to which comparing all pairs at every step is as fast as a list."""

SMALL_UP_TO = 1000
"""Particles up to which the program that builds a list is compiled quickly: in 0.55 instead of 0.9 s, to take 0.5 ms
longer.
"""

MOST_REPEATED = 1_000_000
"""Particles in a cell repeated to find pairs with images: more would take a minute and a gigabyte."""

MOST_ENLARGEMENTS = 8
"""After so many a list that still overflows is given up: each one has room for a quarter more than was needed."""


class Survey(eqx.Module):
    """What has to be known of a system before a list is made.

    `reach`, the longest cutoff, `finite_reach`, the longest that ends, and `own_cutoffs` [n], of each particle with its
    like, are lengths; `smallest_height` is that of the cell. At this density without any order `pairs` are within reach
    of each particle, and `row` candidates in the fullest row of cells. `order` [n] sorts the particles by cells.
    `force_scale` is a typical force.
    """

    reach: Float[Array, ""]
    finite_reach: Float[Array, ""]
    own_cutoffs: Float[Array, " n"]
    covers: Bool[Array, ""]
    jumps: Bool[Array, ""]
    smallest_height: Float[Array, ""]
    pairs: Float[Array, ""]
    row: Float[Array, ""]
    order: Int[Array, " n"]
    force_scale: Float[Array, ""]


@compile_once
def survey(potential: Potential, system: System, skin: Float[Array, ""], members: Float[Array, ""]) -> Survey:
    """A survey of a system, or of the densest of so many `members`, by one compiled program.

    Pairs are counted with one partner for each particle, drawn at random; candidates in the fullest row are bounded by
    Bernstein's inequality.
    """
    system = jax.lax.stop_gradient(system)
    n, reach, each = system.n, potential.reach(system), jnp.arange(system.n)
    height = jnp.asarray(jnp.inf, reach.dtype) if system.box is None else jnp.min(system.heights)
    pairs = row = jnp.asarray(jnp.inf, reach.dtype)
    width = (1.0 + skin.astype(reach.dtype)) * reach
    if system.box is not None and potential.listed:
        full = system.replace(box=system.enclosing_box(width)[1], periodic=(True,) * system.dim)
        partner = jnp.minimum((0.5 * n * (1.0 + white_noise((n,), float))).astype(jnp.int32), n - 1)
        longest = potential.cutoffs(system, each, partner) + width - reach
        ball = jnp.pi * longest**2 if system.dim == 2 else 4.0 / 3.0 * jnp.pi * longest**3
        pairs = 0.5 * n * jnp.mean(ball) / full.volume
        row = 3.0 * n / jnp.prod(jnp.maximum(jnp.floor(full.heights / width), 1.0))
        rare = math.log(3 * n) + jnp.log(members.astype(reach.dtype))
        row = row + jnp.sqrt(2.0 * rare * row) + rare / 3.0
    order = each.astype(jnp.int32)
    if is_sorted(potential, n):
        order = sort_into_cells(system, width).order
    own, scale = potential.cutoffs(system, each, each), potential.force_scale(system)
    fits = potential.covers(system), potential.jumps_at_cutoff(system)
    return Survey(reach, finite_reach(potential, system), own, *fits, height, pairs, row, order, scale)


def automatic(
    potential: Potential,
    system: System,
    surveyed: Survey | None = None,
    all_pairs_up_to: int = ALL_PAIRS_UP_TO,
    members: int = 1,
) -> PairFinder:
    """All pairs for small systems and for potentials that do not look at pairs; else a list.

    On the host it has room for what a gas of the same density needs and a little more, for the fullest of so many
    `members`: pairs are counted as if they were independent.
    """
    if system.n <= all_pairs_up_to or not potential.listed:
        return AllPairs()
    finder = NeighborList(pairs_per_particle=5.0 if system.dim == 2 else 12.0, per_row=32 if system.dim == 2 else 48)
    if system.box is None or not is_concrete((potential, system)):
        return finder if system.box is not None or system.n > COMPARE_ALL_UP_TO else AllPairs()
    surveyed = surveyed or survey(potential, system, finder.skin, as_array(float(members)))
    pairs, row = float(surveyed.pairs), float(surveyed.row)
    if not math.isfinite(pairs + row):
        return finder
    spread = (1.0 + math.sqrt(2.0 * math.log(members))) / math.sqrt(system.n * pairs + 1.0)
    room, words = (1.1, 4) if members == 1 else (max(1.1, 1.0 + spread), WORD)
    per_row = words * math.ceil(row / words)
    return dataclasses.replace(finder, pairs_per_particle=coarse(room * pairs), per_row=per_row)


def fitting(finder: PairFinder, potential: Potential, system: System, surveyed: Survey) -> PairFinder:
    """A finder that counts all pairs in this cell: all pairs where it is too narrow for a list with a skin or the
    potential has no end; where it is too narrow for nearest images, all pairs of images, or in large systems and still
    narrower cells a list of the cell repeated.

    **Raises** `InvalidInput` where nearest images are all that a potential meets, and the cell is too narrow for these.
    """
    reach, height = float(surveyed.finite_reach), float(surveyed.smallest_height)

    def fits(finder: PairFinder) -> bool:
        return not height < finder.least_height(reach, potential.has_terms)

    wanted = finder
    if isinstance(finder, NeighborList) and (math.isinf(float(surveyed.reach)) or not fits(finder)):
        finder = AllPairs()
    if fits(finder):
        return finder
    if potential.has_terms and system.n <= ALL_PAIRS_UP_TO and fits(AllPairs(images=True)):
        return AllPairs(images=True)
    crowded = potential.contact and not fits(AllPairs(images=True))  # particles would touch their own images
    if potential.has_terms and potential.listed and not crowded:
        list_ = wanted if isinstance(wanted, NeighborList) else NeighborList()
        times = repeats(np.asarray(system.heights), list_.least_height(reach, True))
        if system.n * math.prod(times) <= MOST_REPEATED:
            return dataclasses.replace(list_, repeat=times)
    least = "two thirds of" if potential.contact and potential.has_terms else "twice"
    raise InvalidInput(
        f"the cell is too small for the cutoff: its smallest height is {height:.6g}, and it must be at least {least} "
        f"the cutoff {reach:.6g}; repeat the cell (system.repeat(2), --repeat 2)"
    )


def build(finder: PairFinder, potential: Potential, system: System) -> Neighbors:
    """`finder.build`, compiled."""
    return _build.where(system.n > SMALL_UP_TO)(finder, potential, system)


@compile_once
def _build(finder: PairFinder, potential: Potential, system: System) -> Neighbors:
    return finder.build(potential, system)


def allocate(finder: PairFinder, potential: Potential, system: System) -> Neighbors:
    """The pairs of a concrete system, by a list that is enlarged until it holds them all."""
    skin = finder.skin if isinstance(finder, NeighborList) else as_array(0.0, float)
    finder = fitting(finder, potential, system, survey(potential, system, skin, as_array(1.0, float)))
    for _ in range(MOST_ENLARGEMENTS):
        neighbors = build(finder, potential, system)
        if not overflows(neighbors):
            return neighbors
        finder = finder.enlarged(neighbors)
    raise Status.NEIGHBOR_OVERFLOW.raised(finder=finder)


def update(neighbors: Neighbors, potential: Potential, system: System) -> Neighbors:
    """The list rebuilt for the same potential and box, enlarged if necessary."""
    again = build(neighbors.finder, potential, system)
    return allocate(neighbors.finder, potential, system) if overflows(again) else again


def overflows(neighbors: Neighbors) -> bool:
    """`Neighbors.overflow` of concrete arrays, without compiling anything."""
    finder = neighbors.finder
    if isinstance(finder, AllPairs):
        return False
    found, row = np.asarray(neighbors.found), np.asarray(neighbors.longest_row)
    return bool(np.any(found > neighbors.i.shape[-1]) or np.any(row > finder.per_row))


def only_chosen(neighbors: Neighbors, chosen: np.ndarray, n: int, least: float = 1.0) -> Neighbors:
    """The chosen pairs [p], or those of each member of an ensemble [m, p].

    They get as many slots as the fullest member needs and some more, at least `least` for each particle.
    """
    few_sizes = isinstance(neighbors.finder, AllPairs) or chosen.ndim > 1 or n <= COMPARE_ALL_UP_TO
    classes = 1 if few_sizes else 8  # in large systems the number of contacts varies little
    counts = np.count_nonzero(chosen, axis=-1, keepdims=True)
    each = max(least, 1.05 * int(np.max(counts)) / n)
    room = math.ceil(n * 2.0 ** (math.ceil(classes * math.log2(each)) / classes))
    if room >= chosen.shape[-1] or overflows(neighbors):
        return neighbors
    slots = np.argsort(~chosen, axis=-1, kind="stable")[..., :room]

    def kept(leaf: Array | None) -> Array | None:
        if leaf is None:
            return None
        if leaf.ndim > slots.ndim:
            return as_array(np.take_along_axis(np.asarray(leaf), slots[..., None], slots.ndim - 1))
        return as_array(np.take_along_axis(np.asarray(leaf), slots, -1))

    parts = lambda nb: (nb.i, nb.j, nb.shift, nb.valid, nb.found)  # noqa: E731
    valid, found = as_array(np.arange(room) < counts), as_array(counts[..., 0].astype(np.int32))
    changed = kept(neighbors.i), kept(neighbors.j), kept(neighbors.shift), valid, found
    return eqx.tree_at(parts, neighbors, changed, is_leaf=lambda leaf: leaf is None)
