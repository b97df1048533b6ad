"""Which pairs may interact: all of them, or a list made with cells on the device.

Under `jit` the sizes of arrays are fixed, so a list has a capacity. A list that needs more says so
(`Neighbors.overflow`) and is never used: `relaxation` grows it outside `jit`, and reports it inside.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .errors import InvalidInput, NeighborOverflow
from .potentials import PairPotential, Potential
from .system import System, is_concrete, largest_length, nearest_image, reciprocal

ALL_PAIRS_UP_TO = 200
"""The size from which on a list is faster than all pairs; on two CPU cores they meet at about 100."""


WORD = 32
"""Candidates told apart by the bits of one word."""

AT_ONCE = 4
"""Candidates looked at together."""


WORN = 0.05
"""A list is made anew where particles may move no further than this fraction of its skin."""


@dataclasses.dataclass(frozen=True)
class AllPairs:
    """Every pair, at every step: the fastest for small systems, and never stale.

    With `images` each pair counts once for every periodic image that may be within the cutoff, and each
    particle meets its own: for cells narrower than two cutoffs, down to two thirds of one. Outside `jit`
    that is chosen by itself where the cell asks for it.
    """

    images: bool = False

    def build(self, potential: Potential, system: System) -> Neighbors:
        i, j = (np.asarray(k, dtype=np.int32) for k in np.triu_indices(system.n, 1))
        shift = None
        if self.images and system.box is not None:
            i, j, shift = _with_images(i, j, system.n, system.dim)
        return Neighbors(
            i=jnp.asarray(i),
            j=jnp.asarray(j),
            valid=jnp.ones(i.shape, bool),
            reference=system.positions,
            skin=jnp.asarray(jnp.inf, system.positions.dtype),
            kind=self,
            found=jnp.asarray(i.size, jnp.int32),
            longest_row=jnp.asarray(system.n, jnp.int32),
            shift=None if shift is None else jnp.asarray(shift),
        )

    def grown(self, neighbors: Neighbors) -> AllPairs:
        return self

    @eqx.filter_jit
    def fits(self, potential: Potential, system: System) -> Bool[Array, ""]:
        """Whether all images within the cutoff are met; without `images` at most one of each pair may be."""
        if self.images and isinstance(potential, PairPotential):
            return _one_image(potential.reach(system) * (2.0 / 3.0) * 0.5, system)
        return _one_image(potential.reach(system), system)


@dataclasses.dataclass(frozen=True)
class NeighborList:
    """The pairs closer than their cutoff plus a skin, found by sorting the particles into cells.

    **Arguments:** `skin`, as a fraction of the longest cutoff: the list serves until a particle has
    moved half of it. `pairs_per_particle` and `per_row`, candidates in three cells side by side: the
    capacity; each pair counts once.
    Outside `jit` the capacity grows by itself; inside, `Relaxation.sized_for` sets it beforehand.
    """

    skin: float = 0.25
    pairs_per_particle: float = 8.0
    per_row: int = 24

    def __post_init__(self) -> None:
        if not (0.0 < self.skin < math.inf and self.pairs_per_particle > 0.0 and self.per_row >= 1):
            raise InvalidInput(f"skin and capacities of a neighbor list must be positive: {self}")

    def build(self, potential: Potential, system: System) -> Neighbors:
        if not potential.listed:
            return AllPairs().build(potential, system)
        system, reach = jax.lax.stop_gradient((system, potential.reach(system)))
        skin = self.skin * reach
        cells = _cells(system, reach + skin)
        rows = _rows(cells, system.box is None)
        words = _close(potential, system, skin, cells, rows, self.per_row)
        capacity = max(1, math.ceil(self.pairs_per_particle * system.n))
        i, j, found = _unpacked(words, rows, cells.order, capacity)
        return Neighbors(
            i=jnp.minimum(i, j),
            j=jnp.maximum(i, j),
            valid=jnp.arange(capacity) < found,
            reference=system.positions,
            skin=skin,
            kind=self,
            found=found,
            longest_row=jnp.max(rows.length),
        )

    def grown(self, neighbors: Neighbors) -> NeighborList:
        """A list with room for what this one needed and a quarter more."""
        needed = max(1, int(neighbors.found)) / neighbors.reference.shape[0]
        return dataclasses.replace(
            self,
            pairs_per_particle=max(self.pairs_per_particle, _coarse(1.25 * needed)),
            per_row=max(self.per_row, math.ceil(1.25 * int(neighbors.longest_row))),
        )

    @eqx.filter_jit
    def fits(self, potential: Potential, system: System) -> Bool[Array, ""]:
        """As for all pairs, but up to the cutoff and the skin, since that far the list looks for images."""
        return _one_image((1.0 + self.skin) * potential.reach(system), system)


class Neighbors(eqx.Module):
    """Pairs (i, j) with i < j, `valid` where the slot is in use, and how long they may be used.

    `reference` are the positions at which the list was made; it is stale once a particle has moved
    more than half the `skin` from there. `found` pairs and `longest_row` candidates side by side are
    what it needed; where that is more than it could hold, `overflow` says that it must not be used.
    `shift`, in lattice vectors, tells the image of j that is meant, from the nearest one on; None: that one.
    """

    i: Int[Array, " p"]
    j: Int[Array, " p"]
    valid: Bool[Array, " p"]
    reference: Float[Array, "n d"]
    skin: Float[Array, ""]
    kind: AllPairs | NeighborList = eqx.field(static=True)
    found: Int[Array, ""]
    longest_row: Int[Array, ""]
    shift: Int[Array, "p d"] | None = None

    @property
    def overflow(self) -> Bool[Array, ""]:
        if isinstance(self.kind, AllPairs):
            return jnp.asarray(False)
        return (self.found > self.i.shape[-1]) | (self.longest_row > self.kind.per_row)

    def stale(self, positions: Float[Array, "n d"]) -> Bool[Array, ""]:
        return self.room(positions) < 0.0

    def room(self, positions: Float[Array, "n d"]) -> Float[Array, ""]:
        """How far particles may still move; infinite for all pairs."""
        if isinstance(self.kind, AllPairs):
            return self.skin
        moved = largest_length(positions - self.reference)
        return jnp.where(jnp.isnan(moved), 0.5 * self.skin, 0.5 * self.skin - moved)

    def worn(self, room: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether so little room is left that a new list is better."""
        return self.overflow | (room < WORN * self.skin)

    def renamed(self, order: Int[Array, " n"], reference: Float[Array, "n d"]) -> Neighbors:
        """The same pairs where particle k is called order[k]."""
        i, j = order[self.i], order[self.j]
        names = lambda nb: (nb.i, nb.j, nb.reference)  # noqa: E731
        return eqx.tree_at(names, self, (jnp.minimum(i, j), jnp.maximum(i, j), reference))

    def only(self, keep: Bool[Array, " n"]) -> Neighbors:
        """The pairs of which both particles are kept."""
        return eqx.tree_at(lambda nb: nb.valid, self, self.valid & keep[self.i] & keep[self.j])


def automatic(
    potential: Potential, system: System, all_pairs_up_to: int = ALL_PAIRS_UP_TO, members: int = 1
) -> AllPairs | NeighborList:
    """All pairs for small systems and for potentials that do not look at pairs; else a list.

    Outside `jit` it has room for what a gas of the same density needs and a little more, be it the fullest of as many
    `members`: pairs are counted as if they came independently.
    """
    if system.n <= all_pairs_up_to or not potential.listed:
        return AllPairs()
    kind = NeighborList(pairs_per_particle=5.0 if system.dim == 2 else 12.0, per_row=32 if system.dim == 2 else 48)
    if system.box is None or not is_concrete((potential, system)):
        return kind
    pairs, row = (float(expected) for expected in _of_a_gas(potential, system, kind.skin, math.log(members)))
    if not math.isfinite(pairs + row):
        return kind
    spread = (1.0 + math.sqrt(2.0 * math.log(members))) / math.sqrt(system.n * pairs + 1.0)
    room, words = (1.1, 4) if members == 1 else (max(1.1, 1.0 + spread), WORD)
    per_row = words * math.ceil(row / words)
    return dataclasses.replace(kind, pairs_per_particle=_coarse(room * pairs), per_row=per_row)


@eqx.filter_jit
def _of_a_gas(
    potential: Potential, system: System, skin: float, rarer: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """At this density without any order: pairs for each particle, from one partner for each, drawn at random, and
    the candidates in the fullest row (Bernstein's bound).
    """
    partner = jax.random.permutation(jax.random.key(0), system.n)
    longest = (1.0 + skin) * potential.reach(system)
    reach = potential.cutoffs(system, jnp.arange(system.n), partner) + longest - potential.reach(system)
    ball = jnp.pi * reach**2 if system.dim == 2 else 4.0 / 3.0 * jnp.pi * reach**3
    row = 3.0 * system.n / jnp.prod(jnp.maximum(jnp.floor(system.heights / longest), 1.0))
    rare = math.log(3 * system.n) + rarer
    return 0.5 * system.n * jnp.mean(ball) / system.volume, row + jnp.sqrt(2.0 * rare * row) + rare / 3.0


def _coarse(needed: float) -> float:
    """At least that, on a coarse scale to keep shapes few."""
    return 2.0 ** (math.ceil(8 * math.log2(needed)) / 8)


def sized(kind: AllPairs | NeighborList, potential: Potential, system: System) -> Neighbors:
    """The pairs of a concrete system, by a list that has grown until it holds them all.

    Where the cell is too narrow for a list with a skin, or the potential has no end, all pairs; where it is
    too narrow for the minimum image, all pairs of images.
    """
    if isinstance(kind, NeighborList) and not (
        bool(kind.fits(potential, system)) and bool(jnp.isfinite(potential.reach(system)))
    ):
        kind = AllPairs()
    if isinstance(kind, AllPairs) and isinstance(potential, PairPotential) and not bool(kind.fits(potential, system)):
        kind = AllPairs(images=True)
    for _ in range(8):
        neighbors = build(kind, potential, system)
        if not bool(neighbors.overflow):
            return neighbors
        kind = kind.grown(neighbors)
    raise NeighborOverflow(
        f"the neighbor list still overflows with {kind}; the particles are packed far denser "
        "than the cutoff allows for: check the diameters and the box"
    )


def refreshed(neighbors: Neighbors, potential: Potential, system: System) -> Neighbors:
    """The list made anew for the same potential and box, grown if it must."""
    anew = build(neighbors.kind, potential, system)
    return sized(neighbors.kind, potential, system) if bool(anew.overflow) else anew


def near_touching(neighbors: Neighbors, potential: Potential, system: System) -> Neighbors:
    """The pairs of a concrete system that are not much farther apart than their cutoff, for what happens right here:
    a response to the parameters takes a small part of the time with them.
    """
    if not isinstance(potential, PairPotential):
        return neighbors
    return only_chosen(neighbors, np.asarray(are_near_touching(neighbors, potential, system)), system.n)


def only_chosen(neighbors: Neighbors, chosen: np.ndarray, n: int, least: float = 1.0) -> Neighbors:
    """The chosen pairs [p], or of each member of an ensemble [m, p], in as many slots as the fullest needs and some, at
    least so many for each particle.
    """
    coarse = isinstance(neighbors.kind, AllPairs) or chosen.ndim > 1
    classes = 1 if coarse else 8  # in large systems numbers vary little
    counts = np.count_nonzero(chosen, axis=-1, keepdims=True)
    each = max(least, 1.05 * int(np.max(counts)) / n)
    room = math.ceil(n * 2.0 ** (math.ceil(classes * math.log2(each)) / classes))
    if room >= chosen.shape[-1] or np.any(neighbors.overflow):
        return neighbors
    slots = np.argsort(~chosen, axis=-1, kind="stable")[..., :room]

    def kept(leaf: Array | None) -> Array | None:
        if leaf is None:
            return None
        if leaf.ndim > slots.ndim:
            return jnp.asarray(np.take_along_axis(np.asarray(leaf), slots[..., None], slots.ndim - 1))
        return jnp.asarray(np.take_along_axis(np.asarray(leaf), slots, -1))

    names = lambda nb: (nb.i, nb.j, nb.shift, nb.valid, nb.found)  # noqa: E731
    valid, found = jnp.asarray(np.arange(room) < counts), jnp.asarray(counts[..., 0], jnp.int32)
    changed = kept(neighbors.i), kept(neighbors.j), kept(neighbors.shift), valid, found
    return eqx.tree_at(names, neighbors, changed, is_leaf=lambda leaf: leaf is None)


@eqx.filter_jit
def are_near_touching(neighbors: Neighbors, potential: PairPotential, system: System) -> Bool[Array, " p"]:
    pairs = potential.pairs(system, neighbors)
    return neighbors.valid & ~(pairs.gap > 0.05 * pairs.cutoff)


@eqx.filter_jit
def by_place(kind: AllPairs | NeighborList, potential: Potential, system: System) -> Int[Array, " n"]:
    """Particles in an order that keeps neighbors together, in memory too, which makes forces twice as fast."""
    if isinstance(kind, AllPairs) or not potential.listed:
        return jnp.arange(system.n, dtype=jnp.int32)
    return _cells(system, (1.0 + kind.skin) * potential.reach(system)).order


@eqx.filter_jit
def build(kind: AllPairs | NeighborList, potential: Potential, system: System) -> Neighbors:
    """`kind.build`, compiled."""
    return kind.build(potential, system)


def _with_images(i: np.ndarray, j: np.ndarray, n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with the shifts to the 3^d nearest images, and every particle with half of its own."""
    around = np.array(list(itertools.product((-1, 0, 1), repeat=d)), dtype=np.int32)
    own = around[len(around) // 2 + 1 :]
    alone = np.arange(n, dtype=np.int32)
    first = np.concatenate([np.repeat(i, len(around)), np.repeat(alone, len(own))])
    second = np.concatenate([np.repeat(j, len(around)), np.repeat(alone, len(own))])
    return first, second, np.concatenate([np.tile(around, (len(i), 1)), np.tile(own, (n, 1))])


def _one_image(distance: Float[Array, ""], system: System) -> Bool[Array, ""]:
    if system.box is None:
        return ~jnp.isnan(distance)
    return jnp.isposinf(distance) | (jnp.min(system.heights) >= 2.0 * distance)


class _Cells(eqx.Module):
    """Particles sorted into a grid of cells, the first lattice vector's running fastest: `order` [n], and in that
    order the cell of each, `home` [n, d]. Cell c has the places first[c] to first[c + 1] - 1.
    """

    order: Int[Array, " n"]
    home: Int[Array, "n d"]
    first: Int[Array, " c"]
    shape: Int[Array, " d"]

    def label(self, *cell: Int[Array, " n"]) -> Int[Array, " n"]:
        label = jnp.zeros_like(cell[0])
        for k in reversed(range(len(cell))):
            label = label * self.shape[k] + cell[k]
        return label


def _cells(system: System, width: Float[Array, ""]) -> _Cells:
    x, n = system.positions, system.n
    if system.box is None:
        low, high = jnp.min(x, axis=0), jnp.max(x, axis=0)
        extent = high - low + width
        fractions = (x - low) / extent
    else:
        extent = system.heights
        fractions = x @ reciprocal(system.box)
        fractions = fractions - jnp.floor(fractions)
    most = 2**system.dim * n  # so that in dilute systems, too, a row is three widths long
    shape = _grid(extent / width, most)
    home = jnp.minimum((fractions * shape).astype(jnp.int32), shape - 1)
    label = _Cells(jnp.arange(n), home, jnp.arange(1), shape).label(*home.T)
    inhabitants = jnp.zeros(most, jnp.int32).at[label].add(1)
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(inhabitants, dtype=jnp.int32)])
    order = _argsort(label)
    return _Cells(order, home[order], first, shape)


def _grid(widths: Float[Array, " d"], most: int) -> Int[Array, " d"]:
    """As many cells along each vector as it has widths, or fewer, so that there are at most so many in all."""
    wanted = jnp.maximum(jnp.floor(widths), 1.0)
    wanted = jnp.maximum(jnp.floor(wanted * jnp.minimum(1.0, (most / jnp.prod(wanted)) ** (1 / wanted.size))), 1.0)
    shape, left = [], jnp.asarray(most, jnp.int32)
    for cells in wanted:
        shape.append(jnp.minimum(cells, left).astype(jnp.int32))
        left = left // shape[-1]
    return jnp.stack(shape)


def _argsort(label: Int[Array, " n"]) -> Int[Array, " n"]:
    """Stable; of one array of long integers, where they can be had, since sorting two is six times slower on a CPU."""
    if jnp.arange(1, dtype=float).dtype != jnp.float64:
        return jnp.argsort(label).astype(jnp.int32)
    places = jnp.arange(label.size, dtype=jnp.int64)
    return (jnp.sort(label.astype(jnp.int64) * label.size + places) % label.size).astype(jnp.int32)


class _Row(NamedTuple):
    """Of every particle the candidates in one row of cells beside it: `length` places from `start` on, which wrap
    around from the end of the row to its beginning; those not after the particle's own only if `backward`.
    """

    start: Int[Array, " n"]
    length: Int[Array, " n"]
    begin: Int[Array, " n"]
    end: Int[Array, " n"]
    backward: Bool[Array, ""]

    def place(self, k: Int[Array, "*n k"]) -> Int[Array, "n k"]:
        """Of the k-th candidates."""
        place = self.start[:, None] + k
        return jnp.where(place >= self.end[:, None], place - (self.end - self.begin)[:, None], place)


def _row(cells: _Cells, offset: Int[Array, " e"], is_open: bool) -> _Row:
    """The row at an offset along all lattice vectors but the first, of three cells or as many as there are; of the
    particle's own row what comes after it. So each pair is met once.
    """
    width, across, shape = cells.shape[0], cells.home[:, 1:] + offset, cells.shape[1:]
    own, wraps = jnp.all(offset == 0), not is_open
    if is_open:
        exists = jnp.all((across >= 0) & (across < shape), axis=1)
        across = jnp.clip(across, 0, shape - 1)
    else:
        distinct = (offset == 0) | (shape > 2) | ((shape == 2) & (offset == 1))
        exists, across = jnp.all(distinct), jnp.mod(across, shape)
    x, rest = cells.home[:, 0], tuple(across.T)
    low = jnp.where(width < 3, 0, jnp.mod(x - 1, width) if wraps else jnp.maximum(x - 1, 0))
    high = jnp.where(width < 3, width - 1, jnp.mod(x + 1, width) if wraps else jnp.minimum(x + 1, width - 1))
    begin = cells.first[cells.label(jnp.zeros_like(x), *rest)]
    end = cells.first[cells.label(jnp.broadcast_to(width - 1, x.shape), *rest) + 1]
    start = jnp.where(own, jnp.arange(1, x.size + 1, dtype=jnp.int32), cells.first[cells.label(low, *rest)])
    count = cells.first[cells.label(high, *rest) + 1] - start
    low = jnp.where(own, x, low)
    count = count + jnp.where(high < low, end - begin, 0)
    leading = jnp.argmax(offset != 0)
    twice = ~own & (shape[leading] == 2) & wraps
    return _Row(start, jnp.where(exists, count, 0), begin, end, ~twice)


def _rows(cells: _Cells, is_open: bool) -> _Row:
    """All rows beside each particle, of each two opposite ones one: leading axis [s]."""
    d = cells.shape.size
    half = [offset for offset in itertools.product((-1, 0, 1), repeat=d - 1) if offset >= (0,) * (d - 1)]
    return jax.vmap(lambda offset: _row(cells, offset, is_open))(jnp.array(half, dtype=jnp.int32))


def _close(
    potential: Potential, system: System, skin: Float[Array, ""], cells: _Cells, rows: _Row, per_row: int
) -> Int[Array, "n s w"]:
    """For every particle, in the order of the cells, which candidates of its rows are close: a bit for each."""
    ordered = system.in_order(cells.order)
    i = jnp.arange(system.n, dtype=jnp.int32)[:, None]
    longest = jnp.minimum(jnp.max(rows.length, axis=1), per_row)

    def word(row: _Row, most: Int[Array, ""], first: Int[Array, ""]) -> Int[Array, " n"]:
        """Of the candidates from the first on as many as have a bit."""

        def with_some(turn: Int[Array, ""], found: Int[Array, " n"]) -> Int[Array, " n"]:
            bits = AT_ONCE * turn + jnp.arange(AT_ONCE, dtype=jnp.int32)
            place = row.place(first + bits)
            listed = (first + bits < row.length[:, None]) & (row.backward | (place > i))
            j = jnp.clip(place, 0, system.n - 1)
            separation = nearest_image([x[j] - x[:, None] for x in ordered.positions.T], system.box)
            reach = potential.cutoffs(ordered, jnp.broadcast_to(i, j.shape).ravel(), j.ravel()).reshape(j.shape) + skin
            close = listed & (sum(part**2 for part in separation) < reach**2)
            return found | jnp.sum(close.astype(jnp.uint32) << bits.astype(jnp.uint32), axis=1, dtype=jnp.uint32)

        turns = (jnp.clip(most - first, 0, WORD) + AT_ONCE - 1) // AT_ONCE
        return jax.lax.fori_loop(0, turns, with_some, jnp.zeros(system.n, jnp.uint32))

    firsts = jnp.arange(0, per_row, WORD, dtype=jnp.int32)

    def words(row: tuple[_Row, Int[Array, ""]]) -> Int[Array, "w n"]:
        return jax.lax.map(lambda first: word(*row, first), firsts)

    return jnp.moveaxis(jax.lax.map(words, (rows, longest)), -1, 0)


def _unpacked(
    words: Int[Array, "n s w"], rows: _Row, order: Int[Array, " n"], capacity: int
) -> tuple[Int[Array, " p"], Int[Array, " p"], Int[Array, ""]]:
    """The pairs (i, j) of all bits that are set, and how many there are."""
    n, s, w = words.shape
    count = jax.lax.population_count(words.ravel()).astype(jnp.int32)
    ends = jnp.cumsum(count, dtype=jnp.int32)
    starts = ends - count
    begun = jnp.zeros(capacity + 1, jnp.int32).at[jnp.minimum(starts, capacity)].add(1)
    source = jnp.cumsum(begun[:-1], dtype=jnp.int32) - 1
    bit = _nth_bit(words.ravel()[source], jnp.arange(capacity, dtype=jnp.int32) - starts[source])
    i, row, chunk = source // (s * w), source // w % s, source % w
    here = jax.tree.map(lambda leaf: leaf[row, i] if leaf.ndim == 2 else leaf[row], rows)
    j = jnp.clip(here.place((WORD * chunk + bit)[:, None])[:, 0], 0, n - 1)
    return order[i], order[j], ends[-1]


def _nth_bit(word: Int[Array, " p"], n: Int[Array, " p"]) -> Int[Array, " p"]:
    """The place of the n-th bit that is set, from zero on; by bisection."""
    place = jnp.zeros_like(n)
    for half in (16, 8, 4, 2, 1):
        low = word & jnp.uint32(2**half - 1)
        below = jax.lax.population_count(low).astype(n.dtype)
        beyond = n >= below
        n, word, place = (
            n - jnp.where(beyond, below, 0),
            jnp.where(beyond, word >> half, low),
            place + jnp.where(beyond, half, 0),
        )
    return place
