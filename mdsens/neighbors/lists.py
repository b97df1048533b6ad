"""Pairs that may interact: all of them, or a list made with cells on the device.

Under `jit` the sizes of arrays are fixed, so a list has a capacity. A list that needs more reports it
(`Neighbors.overflow`) and is never used: outside `jit` it is enlarged, inside the result carries the flag.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import PairList, gather, largest_length, nearest_image
from ..potentials import Potential
from ..runtime.settings import Settings, number
from ..runtime.tracing import is_concrete
from ..system import System
from .cells import close_candidates, rows_of, sort_into_cells, unpack
from .repeated import fold

COMPARE_ALL_UP_TO = 300
"""Particles up to which a list is made by comparing all pairs: nearly as fast as by cells, and compiled in a third of
the time.
"""

REBUILD_BELOW = 0.05
"""A list is rebuilt where particles may move no further than this fraction of its skin."""


def is_sorted(potential: Potential, n: int) -> bool:
    """Whether the particles of a system are sorted by cells, so that neighbors are close in memory."""
    return potential.listed and not potential.names_particles and n > COMPARE_ALL_UP_TO


class AllPairs(Settings):
    """Every pair, at every step: the fastest for small systems, and never out of date.

    **Arguments:**

    - `images` (bool): count each pair once for every periodic image that may be within the cutoff, and each particle
      with its own images: for cells narrower than two cutoffs, down to two thirds of one. Outside `jit` this is chosen
      where the cell needs it.
    """

    images: bool = eqx.field(default=False, static=True)

    def build(self, potential: Potential, system: System) -> Neighbors:
        i, j = (np.asarray(k, dtype=np.int32) for k in np.triu_indices(system.n, 1))
        shift = None
        if not potential.needs_pairs:
            i = j = np.zeros(1, np.int32)
        elif self.images and system.box is not None:
            i, j, shift = _with_images(i, j, system.n, sum(system.periodic))
        return Neighbors(
            i=jnp.asarray(i),
            j=jnp.asarray(j),
            valid=jnp.full(i.shape, potential.needs_pairs),
            shift=None if shift is None else jnp.asarray(shift),
            reference=system.positions,
            skin=jnp.asarray(jnp.inf, system.positions.dtype),
            finder=self,
            found=jnp.asarray(i.size, jnp.int32),
            longest_row=jnp.asarray(system.n, jnp.int32),
            from_nearest=shift is not None,
        )

    def enlarged(self, neighbors: Neighbors) -> AllPairs:
        return self

    def least_height(self, reach: Any, pairwise: bool) -> Any:
        """The smallest height of a cell in which all images within the cutoff are counted."""
        return reach * (2.0 / 3.0 if self.images and pairwise else 2.0)

    def fits(self, potential: Potential, system: System) -> Bool[Array, ""]:
        """Whether all images within the cutoff are counted; without `images` at most one of each pair may be."""
        return _fits(self, potential, system)


class NeighborList(Settings):
    """The pairs closer than their cutoff plus a skin, found by sorting the particles into cells.

    Outside `jit` the capacity grows by itself; inside, `Relaxation.allocated_for` sets it beforehand.

    **Arguments:**

    - `skin`: as a fraction of the longest cutoff. The list serves until a particle has moved half of it.
    - `pairs_per_particle`: the capacity; each pair counts once.
    - `per_row`: the capacity for candidates in three cells side by side.
    - `repeat`: how often the cell is repeated along each lattice vector to find pairs with more than nearest images, in
      a cell narrower than two cutoffs and skins; None where it need not be. Outside `jit` this is chosen where the cell
      needs it.
    """

    skin: Float[Array, ""] = number(0.25)
    pairs_per_particle: float = eqx.field(default=8.0, static=True)
    per_row: int = eqx.field(default=24, static=True)
    repeat: tuple[int, ...] | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        skin = float(self.skin) if is_concrete(self.skin) else 1.0
        if not (0.0 < skin < math.inf and self.pairs_per_particle > 0.0 and self.per_row >= 1):
            raise InvalidInput(f"skin and capacities of a neighbor list must be positive: {self}")

    def build(self, potential: Potential, system: System) -> Neighbors:
        if not potential.listed:
            return AllPairs().build(potential, system)
        if self.repeat is not None:
            return self._by_repeating(potential, system, self.repeat)
        system, reach = jax.lax.stop_gradient((system, potential.reach(system)))
        skin = self.skin.astype(reach.dtype) * reach
        if system.n <= COMPARE_ALL_UP_TO:
            return self._by_comparing_all(potential, system, skin)
        cells = sort_into_cells(system, reach + skin)
        rows = rows_of(cells, system.box is None)
        words = close_candidates(potential, system, skin, cells, rows, self.per_row)
        capacity = max(1, math.ceil(self.pairs_per_particle * system.n))
        i, j, found = unpack(words, rows, cells.order, capacity)
        return Neighbors(
            i=jnp.minimum(i, j),
            j=jnp.maximum(i, j),
            valid=jnp.arange(capacity) < found,
            shift=None,
            reference=system.positions,
            skin=skin,
            finder=self,
            found=found,
            longest_row=jnp.max(rows.length),
        )

    def _by_repeating(self, potential: Potential, system: System, times: tuple[int, ...]) -> Neighbors:
        """The list in the cell repeated, folded back."""
        system = jax.lax.stop_gradient(system)
        left = iter(times)
        repeated = system.repeat(*(next(left) if along else 1 for along in system.periodic))
        whole = dataclasses.replace(self, repeat=None).build(potential, repeated)
        i, j, shift, counts = fold(whole, repeated, system.n, times)
        capacity = max(1, math.ceil(self.pairs_per_particle * system.n))
        chosen, found = _chosen(counts, capacity)
        needed = -(-whole.found // math.prod(times))  # more than the capacity where the whole list overflows
        return dataclasses.replace(
            whole,
            i=gather(i, chosen),
            j=gather(j, chosen),
            valid=jnp.arange(capacity) < found,
            shift=gather(shift, chosen),
            reference=system.positions,
            finder=self,
            found=jnp.maximum(found, needed),
        )

    def _by_comparing_all(self, potential: Potential, system: System, skin: Float[Array, ""]) -> Neighbors:
        """The list from the distances of all pairs, without cells."""
        i, j = (jnp.asarray(k, jnp.int32) for k in np.triu_indices(system.n, 1))
        separation = nearest_image([gather(x, j) - gather(x, i) for x in system.positions.T], system.lattice)
        close = sum(part**2 for part in separation) < (potential.cutoffs(system, i, j) + skin) ** 2
        capacity = max(1, math.ceil(self.pairs_per_particle * system.n))
        chosen, found = _chosen(close, capacity)
        return Neighbors(
            i=gather(i, chosen),
            j=gather(j, chosen),
            valid=jnp.arange(capacity) < found,
            shift=None,
            reference=system.positions,
            skin=skin,
            finder=self,
            found=found,
            longest_row=jnp.asarray(0, jnp.int32),
        )

    def enlarged(self, neighbors: Neighbors) -> NeighborList:
        """A list with room for what this one needed and a quarter more."""
        needed = max(1, int(neighbors.found)) / neighbors.reference.shape[0]
        return dataclasses.replace(
            self,
            pairs_per_particle=max(self.pairs_per_particle, coarse(1.25 * needed)),
            per_row=max(self.per_row, math.ceil(1.25 * int(neighbors.longest_row))),
        )

    def least_height(self, reach: Any, pairwise: bool) -> Any:
        """As for all pairs, but up to the cutoff and the skin, since the list looks for images that far."""
        skin = float(self.skin) if is_concrete((self.skin, reach)) else self.skin
        return 2.0 * (1.0 + skin) * reach

    def fits(self, potential: Potential, system: System) -> Bool[Array, ""]:
        """Whether the cell is wide enough for the list."""
        return _fits(self, potential, system)


PairFinder = AllPairs | NeighborList


def _chosen(flags: Bool[Array, " p"], capacity: int) -> tuple[Int[Array, " c"], Int[Array, ""]]:
    """The places of those that are True, up to the capacity, and how many there are."""
    place = jnp.cumsum(flags, dtype=jnp.int32) - 1
    chosen = (
        jnp.zeros(capacity, jnp.int32)
        .at[jnp.where(flags, place, capacity)]
        .set(jnp.arange(flags.size, dtype=jnp.int32), mode="drop", wrap_negative_indices=False)
    )
    return chosen, jnp.sum(flags, dtype=jnp.int32)


class Neighbors(PairList):
    """Pairs (i, j) with i < j, `valid` where the slot is in use, and how long they may be used.

    `reference` [n, d] are the positions at which the list was made; it is out of date once a particle has moved more
    than half the `skin` from there. `found` pairs and `longest_row` candidates side by side are what it needed; where
    that is more than its capacity, `overflow` is True and it must not be used.
    """

    reference: Float[Array, "n d"]
    skin: Float[Array, ""]
    finder: PairFinder
    found: Int[Array, ""]
    longest_row: Int[Array, ""]

    @property
    def overflow(self) -> Bool[Array, ""]:
        if isinstance(self.finder, AllPairs):
            return jnp.asarray(False)
        return (self.found > self.i.shape[-1]) | (self.longest_row > self.finder.per_row)

    def out_of_date(self, positions: Float[Array, "n d"]) -> Bool[Array, ""]:
        return self.room(positions) < 0.0

    def room(self, positions: Float[Array, "n d"]) -> Float[Array, ""]:
        """How far particles may still move; infinite for all pairs."""
        if isinstance(self.finder, AllPairs):
            return self.skin
        moved = largest_length(positions - self.reference)
        return jnp.where(jnp.isnan(moved), 0.5 * self.skin, 0.5 * self.skin - moved)

    def needs_rebuild(self, room: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether so little room is left that a new list is better."""
        return self.overflow | (room < REBUILD_BELOW * self.skin)

    def relabelled(self, order: Int[Array, " n"], reference: Float[Array, "n d"]) -> Neighbors:
        """The same pairs where particle k is called order[k]."""
        i, j = gather(order, self.i), gather(order, self.j)
        labels = lambda nb: (nb.i, nb.j, nb.reference)  # noqa: E731
        return eqx.tree_at(labels, self, (jnp.minimum(i, j), jnp.maximum(i, j), reference))


def coarse(needed: float) -> float:
    """At least that number, on a coarse scale that keeps the shapes of arrays few."""
    return 2.0 ** (math.ceil(8 * math.log2(needed)) / 8)


def _with_images(i: np.ndarray, j: np.ndarray, n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with the shifts to the 3^k nearest images along k vectors, and every particle with half of its own."""
    around = np.array(list(itertools.product((-1, 0, 1), repeat=k)), dtype=np.int32)
    own = around[len(around) // 2 + 1 :]
    alone = np.arange(n, dtype=np.int32)
    first = np.concatenate([np.repeat(i, len(around)), np.repeat(alone, len(own))])
    second = np.concatenate([np.repeat(j, len(around)), np.repeat(alone, len(own))])
    return first, second, np.concatenate([np.tile(around, (len(i), 1)), np.tile(own, (n, 1))])


@eqx.filter_jit
def _fits(finder: PairFinder, potential: Potential, system: System) -> Bool[Array, ""]:
    reach = finite_reach(potential, system)
    if system.box is None:
        return ~jnp.isnan(reach)
    times = finder.repeat if isinstance(finder, NeighborList) and finder.repeat is not None else (1,)
    return jnp.min(system.heights * jnp.asarray(times)) >= finder.least_height(reach, potential.has_terms)


def finite_reach(potential: Potential, system: System) -> Float[Array, ""]:
    """The longest reach of a part of the potential; parts that need all pairs have none, and count no images."""
    reaches = jnp.stack([part.reach(system) for part in potential.parts()])
    return jnp.max(jnp.where(jnp.isposinf(reaches), 0.0, reaches))
