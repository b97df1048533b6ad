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
from jaxtyping import Array, Bool, Float, Int, Shaped

from .runtime.compiled import compile_once
from .runtime.tracing import as_array, numpy_for


@jax.jit
def reciprocal(lattice: Float[Array, "k d"]) -> Float[Array, "d k"]:
    """The inverse of a cell in closed form, so that it costs nothing inside a loop; of fewer lattice vectors than
    dimensions the pseudo-inverse.

    Column k of the result is normal to the other lattice vectors, and lies in the plane, or along the line, of all of
    them; `x @ reciprocal(lattice)` are the fractional coordinates of x.
    """
    if lattice.shape[0] < lattice.shape[1]:
        return _dual_vectors(lattice)
    if lattice.shape[0] == 2:
        (a, b), (c, d) = lattice
        return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)
    faces = [jnp.cross(lattice[1], lattice[2]), jnp.cross(lattice[2], lattice[0]), jnp.cross(lattice[0], lattice[1])]
    normals = jnp.stack(faces, axis=1)
    return normals / (lattice[0] @ normals[:, 0])


def _dual_vectors(lattice: Float[Array, "k d"]) -> Float[Array, "d k"]:
    """Of one vector, or of two in space."""
    if len(lattice) == 1:
        return lattice.T / jnp.sum(lattice**2)
    a, b = lattice
    normal = jnp.cross(a, b)
    return jnp.stack([jnp.cross(b, normal), jnp.cross(normal, a)], axis=1) / jnp.sum(normal**2)


def spanned(lattice: Float[np.ndarray, "*m k d"]) -> Float[np.ndarray, " *m"]:
    """The length, area or volume that lattice vectors span, on the host."""
    triangle = np.linalg.qr(np.swapaxes(lattice, -1, -2), mode="r")
    return np.abs(np.prod(np.diagonal(triangle, axis1=-2, axis2=-1), axis=-1))


def is_lattice(vectors: Float[np.ndarray, "k d"]) -> bool:
    """Whether vectors are finite and independent, on the host."""
    size = float(np.abs(vectors).max())
    return 0.0 < size < np.inf and bool(spanned(vectors / size) >= 1e-12)


@compile_once
def carried(x: Float[Array, "n d"], before: Float[Array, "k d"], after: Float[Array, "k d"]) -> Float[Array, "n d"]:
    """Points that follow a lattice affinely; what of them is normal to its vectors stays as it is."""
    fractions = x @ reciprocal(before)
    if before.shape[0] == before.shape[1]:
        return fractions @ after
    return x + fractions @ (after - before)


def enclosing_box(
    x: Float[Array, "n d"], lattice: Float[Array, "k d"], periodic: tuple[bool, ...], margin: Float[Array, ""]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """A corner and the vectors of a right-handed box around all points: the lattice vectors, in the places of the
    periodic directions, and in the others vectors that are normal to all others and as long as the points extend that
    way, with half of a margin on each side.
    """
    normals = _normals(lattice)
    left_handed = jnp.linalg.det(_in_places(lattice, normals, periodic)) < 0.0
    normals = normals.at[-1].multiply(jnp.where(left_handed, -1.0, 1.0))
    heights = x @ normals.T
    low, extent = jnp.min(heights, axis=0) - 0.5 * margin, jnp.ptp(heights, axis=0) + margin
    return low @ normals, _in_places(lattice, extent[:, None] * normals, periodic)


def _in_places(lattice: Float[Array, "k d"], others: Float[Array, "m d"], periodic: tuple[bool, ...]) -> Array:
    """Lattice vectors where the directions are periodic, the other vectors elsewhere."""
    periodic_rows, other_rows = iter(lattice), iter(others)
    return jnp.stack([next(periodic_rows if along else other_rows) for along in periodic])


def _normals(lattice: Float[Array, "k d"]) -> Float[Array, "m d"]:
    """Unit vectors normal to the lattice vectors and to each other."""
    if lattice.shape == (2, 3):
        normals = jnp.cross(lattice[:1], lattice[1:])
    elif lattice.shape == (1, 2):
        normals = jnp.stack([-lattice[:, 1], lattice[:, 0]], axis=1)
    else:
        axis = lattice[0] / jnp.linalg.norm(lattice[0])
        across = jnp.eye(3, dtype=lattice.dtype)[jnp.argmin(jnp.abs(axis))]
        first = across - (across @ axis) * axis
        normals = jnp.stack([first, jnp.cross(axis, first)])
    return normals / jnp.linalg.norm(normals, axis=1, keepdims=True)


def gather(x: Shaped[Array, "n *m"], i: Int[Array, "*p"]) -> Shaped[Array, "*p *m"]:
    """x[i] for indices that count from 0, without the code for negative ones: half of what an index compiles to."""
    return x.at[i].get(wrap_negative_indices=False)


def scatter(values: Shaped[Array, "*p *m"], i: Int[Array, "*p"], n: int) -> Shaped[Array, "n *m"]:
    """For each of n particles the sum of those values of which it is the index; indices count from 0."""
    zeros = jnp.zeros((n, *values.shape[i.ndim :]), values.dtype)
    return zeros.at[i].add(values, wrap_negative_indices=False)


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


def to_nearest(separation: Float[Array, "... d"], lattice: Float[Array, "k d"]) -> Float[Array, "... k"]:
    """The lattice vectors to take off a separation to come to its nearest image, whole numbers."""
    return jnp.round(separation @ reciprocal(lattice))


def minimum_image(separation: Float[Array, "... d"], lattice: Float[Array, "k d"] | None) -> Float[Array, "... d"]:
    """The nearest periodic image of a separation, exact up to half the smallest height of the cell."""
    if lattice is None:
        return separation
    return jnp.stack(nearest_image(jnp.moveaxis(separation, -1, 0), lattice), axis=-1)


def nearest_image(separation: Sequence[Array] | Array, lattice: Float[Array, "k d"] | None) -> list[Array]:
    """`minimum_image` component by component, which compilers fuse with their uses."""
    if lattice is None:
        return list(separation)
    images = [jax.lax.stop_gradient(jnp.round(part)) for part in _times(separation, reciprocal(lattice))]
    return [part - shift for part, shift in zip(separation, _times(images, lattice), strict=True)]


def _times(row: Sequence[Array] | Array, matrix: Float[Array, "m k"]) -> list[Array]:
    m, k = matrix.shape
    return [functools.reduce(jnp.add, (row[c] * matrix[c, a] for c in range(m))) for a in range(k)]


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
    - `shift` (int [p, k] or None): the periodic image of j that is meant, in lattice vectors, counted from j itself,
      or, with `from_nearest`, from the nearest image; None means the nearest image of every pair.
    """

    i: Int[Array, " p"]
    j: Int[Array, " p"]
    valid: Bool[Array, " p"]
    shift: Int[Array, "p k"] | None
    from_nearest: bool = eqx.field(default=False, static=True, kw_only=True)

    def separations(self, positions: Float[Array, "n d"], lattice: Float[Array, "k d"] | None) -> Float[Array, "p d"]:
        """x_j - x_i of every listed pair, to the image that is meant."""
        separation = gather(positions, self.j) - gather(positions, self.i)
        if self.shift is None or lattice is None:
            return minimum_image(separation, lattice)
        return (minimum_image(separation, lattice) if self.from_nearest else separation) + self.shift @ lattice

    def with_images_of(self, positions: Float[Array, "n d"], lattice: Float[Array, "k d"] | None) -> Self:
        """The same images as at these positions, wherever particles move: another one may become the nearest."""
        if not self.from_nearest or self.shift is None or lattice is None:
            return self
        nearest = to_nearest(gather(positions, self.j) - gather(positions, self.i), lattice).astype(self.shift.dtype)
        return dataclasses.replace(self, shift=self.shift - nearest, from_nearest=False)

    def only(self, keep: Bool[Array | np.ndarray, " n"]) -> Self:
        """The pairs of which both particles are kept."""
        xp = numpy_for(self.i, self.j, self.valid, keep)
        i, j, valid, keep = (xp.asarray(each) for each in (self.i, self.j, self.valid, keep))
        return eqx.tree_at(lambda pairs: pairs.valid, self, as_array(valid & keep[i] & keep[j]))


def scatter_to_pairs(
    i: Int[Array, " p"], j: Int[Array, " p"], pull: Float[Array, "p d"], n: int
) -> Float[Array, "n d"]:
    """Adds the vector of each pair to particle j and subtracts it from particle i.

    The two ends are summed in separate arrays, which is faster than one after the other.
    """
    return scatter(pull, j, n) - scatter(pull, i, n)
