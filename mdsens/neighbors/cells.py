"""The kernel of a neighbor list: particles sorted into cells, and candidates within reach in three cells side by
side.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..geometry import gather, nearest_image, reciprocal, scatter
from ..potentials import Potential
from ..system import System

WORD = 32
"""Candidates whose bits share one word."""

AT_ONCE = 4
"""Candidates compared in one step of the inner loop."""


class Cells(eqx.Module):
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


def sort_into_cells(system: System, width: Float[Array, ""]) -> Cells:
    """The grid of cells of that width, or wider.

    Where the cell is periodic along some directions only, the grid is that of one around all particles and a width
    larger, so that no two within reach meet across its faces in the other directions.
    """
    x, n = system.positions, system.n
    if system.box is None:
        low, high = jnp.min(x, axis=0), jnp.max(x, axis=0)
        extent = high - low + width
        fractions = (x - low) / extent
    else:
        box = system.box
        if not all(system.periodic):
            corner, box = system.enclosing_box(width)
            x = x - corner
        extent = 1.0 / jnp.linalg.norm(reciprocal(box), axis=0)
        fractions = x @ reciprocal(box)
        fractions = fractions - jnp.floor(fractions)
    most = 2**system.dim * n  # so that in dilute systems, too, a row is three widths long
    shape = _grid(extent / width, most)
    home = jnp.minimum((fractions * shape).astype(jnp.int32), shape - 1)
    label = Cells(jnp.arange(n), home, jnp.arange(1), shape).label(*home.T)
    inhabitants = scatter(jnp.ones_like(label), label, most)
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(inhabitants, dtype=jnp.int32)])
    order = _argsort(label)
    return Cells(order, gather(home, order), first, shape)


def _grid(widths: Float[Array, " d"], most: int) -> Int[Array, " d"]:
    """As many cells along each vector as it has widths, or fewer, so that there are at most so many in all."""
    wanted = jnp.maximum(jnp.floor(widths), 1.0)
    wanted = jnp.maximum(jnp.floor(wanted * jnp.minimum(1.0, (most / jnp.prod(wanted)) ** (1 / wanted.size))), 1.0)
    shape, left = [], jnp.asarray(most, jnp.int32)
    for cells in wanted:
        shape.append(jnp.minimum(cells, left).astype(jnp.int32))
        left = jax.lax.div(left, shape[-1])
    return jnp.stack(shape)


def _argsort(label: Int[Array, " n"]) -> Int[Array, " n"]:
    """Stable; of one array of long integers, where they can be had, since sorting two is six times slower on a CPU."""
    if jnp.arange(1, dtype=float).dtype != jnp.float64:
        return jnp.argsort(label).astype(jnp.int32)
    places = jnp.arange(label.size, dtype=jnp.int64)
    return jax.lax.rem(jnp.sort(label.astype(jnp.int64) * label.size + places), jnp.int64(label.size)).astype(jnp.int32)


class Row(NamedTuple):
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


def _row(cells: Cells, offset: Int[Array, " e"], is_open: bool) -> Row:
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
        exists, across = jnp.all(distinct), jax.lax.rem(across + shape, jnp.broadcast_to(shape, across.shape))
    x, rest = cells.home[:, 0], tuple(across.T)
    each = jnp.broadcast_to(width, x.shape)
    low = jnp.where(width < 3, 0, jax.lax.rem(x - 1 + width, each) if wraps else jnp.maximum(x - 1, 0))
    high = jnp.where(width < 3, width - 1, jax.lax.rem(x + 1, each) if wraps else jnp.minimum(x + 1, width - 1))
    begin = gather(cells.first, cells.label(jnp.zeros_like(x), *rest))
    end = gather(cells.first, cells.label(jnp.broadcast_to(width - 1, x.shape), *rest) + 1)
    start = jnp.where(own, jnp.arange(1, x.size + 1, dtype=jnp.int32), gather(cells.first, cells.label(low, *rest)))
    count = gather(cells.first, cells.label(high, *rest) + 1) - start
    low = jnp.where(own, x, low)
    count = count + jnp.where(high < low, end - begin, 0)
    leading = jnp.argmax(offset != 0)
    twice = ~own & (shape[leading] == 2) & wraps
    return Row(start, jnp.where(exists, count, 0), begin, end, ~twice)


def rows_of(cells: Cells, is_open: bool) -> Row:
    """All rows beside each particle, of each two opposite ones one: leading axis [s]."""
    d = cells.shape.size
    half = [offset for offset in itertools.product((-1, 0, 1), repeat=d - 1) if offset >= (0,) * (d - 1)]
    return jax.vmap(lambda offset: _row(cells, offset, is_open))(jnp.array(half, dtype=jnp.int32))


def close_candidates(
    potential: Potential, system: System, skin: Float[Array, ""], cells: Cells, rows: Row, per_row: int
) -> Int[Array, "n s w"]:
    """For every particle, in the order of the cells, which candidates of its rows are close: a bit for each."""
    ordered = system.in_order(cells.order)
    i = jnp.arange(system.n, dtype=jnp.int32)[:, None]
    longest = jnp.minimum(jnp.max(rows.length, axis=1), per_row)

    def word(row: Row, most: Int[Array, ""], first: Int[Array, ""]) -> Int[Array, " n"]:
        """Of the candidates from the first on as many as have a bit."""

        def with_some(turn: Int[Array, ""], found: Int[Array, " n"]) -> Int[Array, " n"]:
            bits = AT_ONCE * turn + jnp.arange(AT_ONCE, dtype=jnp.int32)
            place = row.place(first + bits)
            listed = (first + bits < row.length[:, None]) & (row.backward | (place > i))
            j = jnp.clip(place, 0, system.n - 1)
            separation = nearest_image([gather(x, j) - x[:, None] for x in ordered.positions.T], system.lattice)
            reach = potential.cutoffs(ordered, jnp.broadcast_to(i, j.shape).ravel(), j.ravel()).reshape(j.shape) + skin
            close = listed & (sum(part**2 for part in separation) < reach**2)
            return found | jnp.sum(close.astype(jnp.uint32) << bits.astype(jnp.uint32), axis=1, dtype=jnp.uint32)

        turns = jax.lax.div(jnp.clip(most - first, 0, WORD) + AT_ONCE - 1, jnp.int32(AT_ONCE))
        return jax.lax.fori_loop(0, turns, with_some, jnp.zeros(system.n, jnp.uint32))

    firsts = jnp.arange(0, per_row, WORD, dtype=jnp.int32)

    def words(row: tuple[Row, Int[Array, ""]]) -> Int[Array, "w n"]:
        return jax.lax.map(lambda first: word(*row, first), firsts)

    return jnp.moveaxis(jax.lax.map(words, (rows, longest)), -1, 0)


def unpack(
    words: Int[Array, "n s w"], rows: Row, order: Int[Array, " n"], capacity: int
) -> tuple[Int[Array, " p"], Int[Array, " p"], Int[Array, ""]]:
    """The pairs (i, j) of all bits that are set, and how many there are."""
    n, s, w = words.shape
    count = jax.lax.population_count(words.ravel()).astype(jnp.int32)
    ends = jnp.cumsum(count, dtype=jnp.int32)
    starts = ends - count
    begun = scatter(jnp.ones_like(starts), jnp.minimum(starts, capacity), capacity + 1)
    source = jnp.cumsum(begun[:-1], dtype=jnp.int32) - 1
    bit = _nth_bit(gather(words.ravel(), source), jnp.arange(capacity, dtype=jnp.int32) - gather(starts, source))
    of_particle, of_row = jnp.int32(s * w), jnp.int32(w)
    i, within = jax.lax.div(source, of_particle), jax.lax.rem(source, of_particle)
    row, chunk = jax.lax.div(within, of_row), jax.lax.rem(within, of_row)
    here = jax.tree.map(lambda leaf: leaf.at[(row, i)[: leaf.ndim]].get(wrap_negative_indices=False), rows)
    j = jnp.clip(here.place((WORD * chunk + bit)[:, None])[:, 0], 0, n - 1)
    return gather(order, i), gather(order, j), ends[-1]


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
