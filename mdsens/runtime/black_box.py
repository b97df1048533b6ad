"""Functions that are no JAX code: called with NumPy arrays, from within JAX's transformations, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInput
from .tracing import as_array, is_concrete


def call_on_host(function: Callable[..., Any], arguments: Any, like: Any, has_aux: bool = False) -> Any:
    """`function(*arguments)`, the arrays among the arguments as NumPy's.

    **Arguments:**

    - `like`: the structure, shapes and types of the result, which traced arguments need; else None.

    **Raises** `InvalidInput` where the result has other ones.
    """
    arrays, others = eqx.partition(arguments, eqx.is_array)
    if is_concrete(arrays):
        return function(*eqx.combine(jax.tree.map(np.array, arrays), others))
    if has_aux:
        raise InvalidInput("inside jit and vmap a callback returns x alone: leave out has_aux, or call it outside")
    if like is None:
        raise InvalidInput("inside jit and vmap a solver that is a callback needs the shapes of its result: pass like=")
    result, rest = eqx.partition(like, _is_array)

    def call(arrays: Any) -> Any:
        found = function(*eqx.combine(jax.tree.map(np.array, arrays), others))
        return eqx.filter(as_template(found, like, np.asarray), jax.tree.map(_is_array, like))

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(*_shape_and_type(leaf)), result)
    return eqx.combine(jax.pure_callback(call, shapes, arrays, vmap_method="sequential"), rest)


def as_template(found: Any, like: Any, convert: Callable[..., Any] = as_array) -> Any:
    """The result of a solver as arrays, with the types of the arrays it is to be like.

    **Raises** `InvalidInput` where structure or shapes differ, or a number is an integer where the other is not.
    """
    if like is None:
        return jax.tree.map(lambda leaf: convert(leaf) if _is_array(leaf) else leaf, found)
    structure: Any = jax.tree.structure(like)
    if jax.tree.structure(found) != structure:
        raise InvalidInput(
            f"the solver returns {jax.tree.structure(found)}, not the structure of its start, {structure}: return x "
            "as it is given, or pass like=, something with the structure and shapes of x"
        )
    return jax.tree.map(lambda leaf, wanted: _as_leaf(leaf, wanted, convert), found, like)


def _as_leaf(found: Any, like: Any, convert: Callable[..., Any]) -> Any:
    if not _is_array(like):
        return found
    shape, dtype = _shape_and_type(like)
    if np.shape(found) != shape:
        raise InvalidInput(
            f"the solver returns an array of shape {np.shape(found)} where its start has {shape}: return x in the "
            "shape of the start, or pass like=, something with the structure and shapes of x"
        )
    kind = jnp.result_type(found)
    if jnp.issubdtype(kind, jnp.floating) != jnp.issubdtype(dtype, jnp.floating):
        raise InvalidInput(
            f"the solver returns numbers of type {kind} where its start has {dtype}: start from numbers of the type of "
            "x, or pass like="
        )
    return convert(found, dtype)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct | float | complex)


def _shape_and_type(leaf: Any) -> tuple[tuple[int, ...], Any]:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return tuple(getattr(leaf, "shape", ())), jax.dtypes.canonicalize_dtype(dtype)
