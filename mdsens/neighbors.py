"""Which pairs may interact: all of them, or a list made with cells on the device.

Under `jit` the sizes of arrays are fixed, so a list has a capacity. A list that needs more says so
(`Neighbors.overflow`) and is never used: `relaxation` grows it outside `jit`, and reports it inside.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .errors import InvalidInput, NeighborOverflow
from .potentials import PairPotential, Potential
from .system import System, minimum_image, reciprocal

ALL_PAIRS_UP_TO = 200
"""The size from which on a list is faster than all pairs; on two CPU cores they meet at about 100."""


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
            fullest_cell=jnp.asarray(system.n, jnp.int32),
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
    moved half of it. `pairs_per_particle` and `per_cell`: the capacity; each pair counts once.
    Outside `jit` the capacity grows by itself; inside, `Relaxation.sized_for` sets it beforehand.
    """

    skin: float = 0.15
    pairs_per_particle: float = 8.0
    per_cell: int = 8

    def __post_init__(self) -> None:
        if not (0.0 < self.skin < math.inf and self.pairs_per_particle > 0.0 and self.per_cell >= 1):
            raise InvalidInput(f"skin and capacities of a neighbor list must be positive: {self}")

    def build(self, potential: Potential, system: System) -> Neighbors:
        if not isinstance(potential, PairPotential):
            return AllPairs().build(potential, system)
        skin = self.skin * jax.lax.stop_gradient(potential.reach(system))
        system = jax.lax.stop_gradient(system)
        j, listed, fullest_cell = _candidates(system, potential.reach(system) + skin, self.per_cell)
        i = jnp.broadcast_to(jnp.arange(system.n, dtype=jnp.int32)[:, None], j.shape[1:])

        def close(j: Array, listed: Array) -> Bool[Array, "n c"]:
            separation = minimum_image(system.positions[j] - system.positions[i], system.box)
            cutoff = potential.cutoffs(system, i.ravel(), j.ravel()).reshape(j.shape) + skin
            return listed & (i < j) & (jnp.sum(separation**2, axis=-1) < cutoff**2)

        keep = jax.lax.map(lambda stencil: close(*stencil), (j, listed))
        capacity = max(1, math.ceil(self.pairs_per_particle * system.n))
        counted = jnp.cumsum(keep.ravel(), dtype=jnp.int32)
        found = counted[-1]
        slots = jnp.searchsorted(counted, jnp.arange(1, capacity + 1, dtype=jnp.int32))  # faster than `nonzero`
        slots = jnp.minimum(slots, keep.size - 1)
        return Neighbors(
            i=jnp.broadcast_to(i, j.shape).ravel()[slots],
            j=j.ravel()[slots],
            valid=jnp.arange(capacity) < found,
            reference=system.positions,
            skin=skin,
            kind=self,
            found=found,
            fullest_cell=fullest_cell,
        )

    def grown(self, neighbors: Neighbors) -> NeighborList:
        """A list with room for what this one needed and a quarter more, on a coarse scale to keep shapes few."""
        needed = 1.25 * max(1, int(neighbors.found)) / neighbors.reference.shape[0]
        return dataclasses.replace(
            self,
            pairs_per_particle=max(self.pairs_per_particle, 2.0 ** (math.ceil(2 * math.log2(needed)) / 2)),
            per_cell=max(self.per_cell, math.ceil(1.25 * int(neighbors.fullest_cell))),
        )

    @eqx.filter_jit
    def fits(self, potential: Potential, system: System) -> Bool[Array, ""]:
        """As for all pairs, but up to the cutoff and the skin, since that far the list looks for images."""
        return _one_image((1.0 + self.skin) * potential.reach(system), system)


class Neighbors(eqx.Module):
    """Pairs (i, j) with i < j, `valid` where the slot is in use, and how long they may be used.

    `reference` are the positions at which the list was made; it is stale once a particle has moved
    more than half the `skin` from there. `found` pairs in `fullest_cell` particles at most a cell are
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
    fullest_cell: Int[Array, ""]
    shift: Int[Array, "p d"] | None = None

    @property
    def overflow(self) -> Bool[Array, ""]:
        if isinstance(self.kind, AllPairs):
            return jnp.asarray(False)
        return (self.found > self.i.shape[0]) | (self.fullest_cell > self.kind.per_cell)

    def stale(self, positions: Float[Array, "n d"]) -> Bool[Array, ""]:
        if isinstance(self.kind, AllPairs):
            return jnp.asarray(False)
        moved = jnp.max(jnp.sum((positions - self.reference) ** 2, axis=-1))
        return moved > (0.5 * self.skin) ** 2

    def only(self, keep: Bool[Array, " n"]) -> Neighbors:
        """The pairs of which both particles are kept."""
        return eqx.tree_at(lambda nb: nb.valid, self, self.valid & keep[self.i] & keep[self.j])


def automatic(potential: Potential, system: System) -> AllPairs | NeighborList:
    """All pairs for small systems and for potentials that are no sum over pairs; else a list."""
    if system.n <= ALL_PAIRS_UP_TO or not isinstance(potential, PairPotential):
        return AllPairs()
    return NeighborList(pairs_per_particle=5.0 if system.dim == 2 else 10.0)


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


def _candidates(
    system: System, width: Float[Array, ""], per_cell: int
) -> tuple[Int[Array, "s n c"], Bool[Array, "s n c"], Int[Array, ""]]:
    """For every particle, the particles in its cell and the cells around: [stencil, n, per_cell]."""
    x, n, d = system.positions, system.n, system.dim
    if system.box is None:
        low, high = jnp.min(x, axis=0), jnp.max(x, axis=0)
        extent = high - low + width
        fractions = (x - low) / extent
    else:
        extent = system.heights
        fractions = x @ reciprocal(system.box)
        fractions = fractions - jnp.floor(fractions)
    most = 2 * math.ceil(n ** (1 / d))
    cells = jnp.clip(jnp.floor(extent / width), 1, most).astype(jnp.int32)
    home = jnp.minimum((fractions * cells).astype(jnp.int32), cells - 1)
    strides = jnp.concatenate([jnp.ones(1, jnp.int32), jnp.cumprod(cells[:-1])]).astype(jnp.int32)
    label = home @ strides
    order = jnp.argsort(label).astype(jnp.int32)
    inhabitants = jnp.zeros(most**d, jnp.int32).at[label].add(1)
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(inhabitants, dtype=jnp.int32)])
    fullest_cell = jnp.max(inhabitants)

    def in_cell(offset: Int[Array, " d"]) -> tuple[Int[Array, "n c"], Bool[Array, "n c"]]:
        cell = home + offset
        if system.box is None:
            exists = jnp.all((cell >= 0) & (cell < cells), axis=1)
        else:
            distinct = (cells > 2) | (offset == 0) | ((cells == 2) & (offset == 1))
            exists = jnp.broadcast_to(jnp.all(distinct), n)
        target = jnp.where(exists, jnp.mod(cell, cells) @ strides, 0)
        slots = first[target][:, None] + jnp.arange(per_cell, dtype=jnp.int32)
        listed = exists[:, None] & (slots < first[target + 1][:, None])
        return order[jnp.minimum(slots, n - 1)], listed

    stencil = jnp.array(list(itertools.product((-1, 0, 1), repeat=d)), dtype=jnp.int32)
    j, listed = jax.lax.map(in_cell, stencil)
    return j, listed, fullest_cell
