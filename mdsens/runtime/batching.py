"""Members of a batch, and steps that only some of them need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .compiled import compile_once
from .tracing import as_array

Context = TypeVar("Context")
State = TypeVar("State")
Tree = TypeVar("Tree")


def member(batch: Tree, k: int | Int[Array, "..."]) -> Tree:
    """Member k of a tree whose arrays have a leading axis, or those with the numbers k.

    Arrays of NumPy are indexed where they are; of others that the host knows one program takes it, and not two for each
    shape.
    """
    if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batch)):
        return jax.tree.map(lambda leaf: leaf[k], batch)
    return _member(batch, as_array(np.int32(k)) if isinstance(k, int | np.integer) else k)


@compile_once
def _member(batch: Tree, k: Int[Array, "..."]) -> Tree:
    return jax.tree.map(lambda leaf: leaf[k], batch)


def run_where(
    predicate: Bool[Array, ""],
    function: Callable[[Context, State], State],
    context: Context,
    state: State,
    one_by_one: bool = False,
) -> State:
    """`function(context, state)` where the predicate is True, else the state as it is.

    Under `vmap`, `jax.lax.cond` would compute both branches for every member. Here nothing is computed unless some
    member needs it.

    **Arguments:**

    - `one_by_one`: under `vmap`, run the function for the members in turn, each as long as it takes; else for all of
      them together, as long as the slowest takes.
    """
    arrays, static = eqx.partition((context, state), eqx.is_array)

    def call(arrays: Any) -> Any:
        return eqx.filter(function(*eqx.combine(arrays, static)), eqx.is_array)

    @jax.custom_batching.custom_vmap
    def run(predicate: Any, arrays: Any) -> Any:
        return jax.lax.cond(predicate, call, lambda arrays: arrays[1], arrays)

    @run.def_vmap
    def _(size: int, batched: Any, predicate: Any, arrays: Any) -> tuple[Any, Any]:
        whole = jax.tree.map(
            lambda leaf, own: leaf if own else jnp.broadcast_to(leaf, (size, *leaf.shape)), arrays, batched[1]
        )
        wanted = predicate if batched[0] else jnp.broadcast_to(predicate, (size,))
        if one_by_one:
            found = jax.lax.map(lambda each: run(*each), (wanted, whole))
        else:
            found = jax.lax.cond(
                jnp.any(wanted), lambda: select(wanted, jax.vmap(call)(whole), whole[1]), lambda: whole[1]
            )
        return found, jax.tree.map(lambda _: True, found)

    return eqx.combine(run(predicate, arrays), static[1])


def select(choose: Bool[Array, "*w"], one: Any, other: Any) -> Any:
    """The arrays of `one` where chosen, else those of `other`, along the leading axes of `choose`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(choose.reshape(choose.shape + (1,) * (a.ndim - choose.ndim)), a, b)

    return jax.tree.map(pick, one, other)
