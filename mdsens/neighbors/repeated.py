"""Pairs with images in a thin cell, from a list in the cell repeated side by side."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ..geometry import PairList, gather, to_nearest
from ..system import System


def repeats(heights: np.ndarray, least_height: float) -> tuple[int, ...]:
    """How often a cell has to be repeated along each lattice vector to be as high as that."""
    return tuple(max(1, math.ceil(least_height / height - 1e-12)) for height in heights)


def fold(
    pairs: PairList, repeated: System, n: int, times: tuple[int, ...]
) -> tuple[Int[Array, " p"], Int[Array, " p"], Int[Array, "p d"], Bool[Array, " p"]]:
    """Of pairs in a repeated cell, which nearest image each is, those that stand for all of their copies.

    Every pair of the crystal occurs once for each copy of the cell. The one that counts has the particle of lower
    number in the first copy; of a particle with an image of its own the one to the side where shifts are positive.

    **Returns** `i`, `j`, the shift from j itself to the image that is meant, in vectors of the single cell, and whether
    the pair counts.
    """
    d, vectors = len(times), jnp.asarray(np.array(times), jnp.int32)
    copies = jnp.asarray(np.indices(times).reshape(d, -1).T.astype(np.int32))
    assert repeated.lattice is not None
    apart = gather(repeated.positions, pairs.j) - gather(repeated.positions, pairs.i)
    nearest = to_nearest(apart, repeated.lattice).astype(jnp.int32)
    first, second = pairs.i % n, pairs.j % n
    at_first, at_second = pairs.i // n, pairs.j // n
    shift = gather(copies, at_second) - gather(copies, at_first) - nearest * vectors
    reversed_ = (first > second) | ((first == second) & ~_is_positive(shift))
    home = jnp.where(reversed_, at_second, at_first)
    shift = jnp.where(reversed_[:, None], -shift, shift)
    return jnp.minimum(first, second), jnp.maximum(first, second), shift, pairs.valid & (home == 0)


def _is_positive(shift: Int[Array, "p d"]) -> Bool[Array, " p"]:
    """Whether the first component other than zero is positive."""
    leading = jnp.take_along_axis(shift, jnp.argmax(shift != 0, axis=1)[:, None], axis=1)[:, 0]
    return leading > 0
