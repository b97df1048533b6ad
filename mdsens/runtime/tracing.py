"""Arrays on the host and under JAX's transformations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
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


def numpy_for(*arrays: PyTree) -> Any:
    """NumPy for arrays that the host knows, for which it compiles nothing; else `jax.numpy`."""
    return np if is_concrete(arrays) else jnp


def outside_trace(concrete: bool = True) -> contextlib.AbstractContextManager[None]:
    """Compute outside the enclosing JAX trace, so that compiled programs are reused.

    Within `vmap`, and so within `jacfwd` and `jacrev`, JAX would compile a program for concrete arrays once more. No
    traced array may enter; where the arrays are not `concrete` the context changes nothing.
    """
    return jax.core.eval_context() if concrete else contextlib.nullcontext()


def frozen(tree: PyTree) -> PyTree:
    """The same without derivatives; other objects than JAX's arrays stay as they are."""
    arrays, others = eqx.partition(tree, eqx.is_array)
    return eqx.combine(with_arrays(jax.lax.stop_gradient(arrays)), others)  # it makes numbers of some arrays


def with_arrays(tree: PyTree) -> PyTree:
    """The floats and the arrays of NumPy as arrays of JAX."""
    convertible = np.ndarray | np.generic | float
    with outside_trace():  # within grad JAX would make a tracer of a number of its own
        return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, convertible) else leaf, tree)


def with_closure(function: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], PyTree]:
    """A function whose leaves are the traced arrays that it takes from enclosing functions, and its abstract result.

    Without such arrays it is the function itself, so that programs compiled for it are reused.
    """
    program, result, _ = eqx.filter_make_jaxpr(function)(*args)
    closed = not is_concrete(program.consts)
    return (eqx.filter_closure_convert(function, *args) if closed else function), result
