"""White noise that is the same every time, by integer arithmetic, which compiles much faster than `jax.random`."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def white_noise(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Float[Array, "..."]:
    """Numbers between -1 and 1 without any order.

    **Reference:** the finalizer of MurmurHash3 (Appleby 2011), of the numbers from zero on.
    """
    x = jnp.arange(math.prod(shape), dtype=jnp.uint32) + jnp.uint32((seed * 0x9E3779B9) % 2**32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
    return ((x.astype(dtype) + 0.5) / 2.0**31 - 1.0).reshape(shape)


def random_signs(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Float[Array, "..."]:
    """1 or -1, each as often."""
    return jnp.where(white_noise(shape, dtype, seed) < 0.0, -1.0, 1.0).astype(dtype)
