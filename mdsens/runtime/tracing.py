"""Arrays on the host and under JAX's transformations."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def is_concrete(tree: PyTree) -> bool:
    """Whether the host knows the value of every array: not so under `jit` and `vmap`."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def as_array(value: Any, dtype: Any = None) -> Array:
    """The value as a JAX array, without compiling a program where it is known on the host.

    `jnp.asarray` compiles a small program for every new shape and type of a NumPy array.
    """
    if isinstance(value, jax.Array):
        strong = not getattr(value, "weak_type", False)  # a weak type would be compiled for once more
        return value if strong and dtype in (None, value.dtype) else jnp.asarray(value, dtype or value.dtype)
    known = np.asarray(value, None if dtype is None else jax.dtypes.canonicalize_dtype(dtype))
    return jax.device_put(known.astype(jax.dtypes.canonicalize_dtype(known.dtype), copy=False))


def outside_trace(concrete: bool = True) -> contextlib.AbstractContextManager[None]:
    """Compute outside the enclosing JAX trace, so that compiled programs are reused.

    Within `vmap`, and so within `jacfwd` and `jacrev`, JAX would compile a program for concrete arrays once more. No
    traced array may enter; where the arrays are not `concrete` the context changes nothing.
    """
    return jax.core.eval_context() if concrete else contextlib.nullcontext()
