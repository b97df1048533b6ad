"""Cells, periodic images, pairs of particles, and sums over the components of vectors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@jax.jit
def reciprocal(box: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The inverse of a cell in closed form, so that it costs nothing inside a loop.

    Column k of the result is normal to the other lattice vectors; `x @ reciprocal(box)` are
    the fractional coordinates of x.
    """
    if box.shape[0] == 2:
        (a, b), (c, d) = box
        return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)
    normals = jnp.stack([jnp.cross(box[1], box[2]), jnp.cross(box[2], box[0]), jnp.cross(box[0], box[1])], axis=1)
    return normals / (box[0] @ normals[:, 0])


def sum_components(x: Float[Array, "... d"]) -> Float[Array, "..."]:
    """The sum over a short last axis, written out term by term.

    XLA fuses these terms with their neighbors; `jnp.sum` takes ten times as long with JAX 0.12 on a CPU.
    """
    return functools.reduce(jnp.add, (x[..., k] for k in range(x.shape[-1])))


def largest(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The maximum of an array that is computed first.

    Fused with the computation of the array the maximum takes up to twelve times as long with JAX 0.12 on a CPU.
    """
    return jnp.max(jax.lax.optimization_barrier(x))


def largest_length(u: Float[Array, "n d"]) -> Float[Array, ""]:
    """The length of the longest of many vectors."""
    return jnp.sqrt(largest(sum_components(u**2)))


def minimum_image(separation: Float[Array, "... d"], box: Float[Array, "d d"] | None) -> Float[Array, "... d"]:
    """The nearest periodic image of a separation, exact up to half the smallest height of the cell."""
    if box is None:
        return separation
    return jnp.stack(nearest_image(jnp.moveaxis(separation, -1, 0), box), axis=-1)


def nearest_image(separation: Sequence[Array] | Array, box: Float[Array, "d d"] | None) -> list[Array]:
    """`minimum_image` component by component, which compilers fuse with their uses."""
    if box is None:
        return list(separation)
    images = [jax.lax.stop_gradient(jnp.round(part)) for part in _times(separation, reciprocal(box))]
    return [part - shift for part, shift in zip(separation, _times(images, box), strict=True)]


def _times(row: Sequence[Array] | Array, matrix: Float[Array, "d d"]) -> list[Array]:
    d = matrix.shape[0]
    return [functools.reduce(jnp.add, (row[k] * matrix[k, a] for k in range(d))) for a in range(d)]


def symmetric_strains(d: int) -> tuple[np.ndarray, np.ndarray]:
    """A basis of symmetric strains [m, d, d], unit strains and shears, and the place of each component in it [d, d]."""
    first, second = np.triu_indices(d)
    basis, place = np.zeros((len(first), d, d)), np.zeros((d, d), int)
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        basis[k, a, b] += 0.5
        basis[k, b, a] += 0.5
        place[a, b] = place[b, a] = k
    return basis, place


class PairList(eqx.Module):
    """Pairs (i, j) of particles that may interact; each pair counts once.

    **Arguments:**

    - `i`, `j` (int [p]): the particles of each pair.
    - `valid` (bool [p]): whether the slot of a list of fixed capacity is in use.
    - `shift` (int [p, d] or None): the periodic image of j that is meant, in lattice vectors, counted from j itself,
      or, with `from_nearest`, from the nearest image; None means the nearest image of every pair.
    """

    i: Int[Array, " p"]
    j: Int[Array, " p"]
    valid: Bool[Array, " p"]
    shift: Int[Array, "p d"] | None
    from_nearest: bool = eqx.field(default=False, static=True, kw_only=True)

    def separations(self, positions: Float[Array, "n d"], box: Float[Array, "d d"] | None) -> Float[Array, "p d"]:
        """x_j - x_i of every listed pair, to the image that is meant."""
        separation = positions[self.j] - positions[self.i]
        if self.shift is None or box is None:
            return minimum_image(separation, box)
        return (minimum_image(separation, box) if self.from_nearest else separation) + self.shift @ box

    def with_images_of(self, positions: Float[Array, "n d"], box: Float[Array, "d d"] | None) -> Self:
        """The same images as at these positions, wherever particles move: another one may become the nearest."""
        if not self.from_nearest or self.shift is None or box is None:
            return self
        nearest = jnp.round((positions[self.j] - positions[self.i]) @ reciprocal(box)).astype(self.shift.dtype)
        return dataclasses.replace(self, shift=self.shift - nearest, from_nearest=False)

    def only(self, keep: Bool[Array, " n"]) -> Self:
        """The pairs of which both particles are kept."""
        return eqx.tree_at(lambda pairs: pairs.valid, self, self.valid & keep[self.i] & keep[self.j])


def scatter_to_pairs(
    i: Int[Array, " p"], j: Int[Array, " p"], pull: Float[Array, "p d"], n: int
) -> Float[Array, "n d"]:
    """Adds the vector of each pair to particle j and subtracts it from particle i.

    The two ends are summed in separate arrays, which is faster than one after the other.
    """
    zeros = jnp.zeros((n, pull.shape[1]), pull.dtype)
    return zeros.at[j].add(pull) - zeros.at[i].add(pull)
