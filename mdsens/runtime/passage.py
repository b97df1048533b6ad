"""Derivatives that are looked at on their way through a rule, forward and in reverse.

Under `grad` and `jacrev` the linear solve of a rule runs in the backward pass, where no code of the rule does. A
primitive that changes nothing stands at both ends of the rule: evaluated outside `jit` it sees the numbers, within a
compiled program it is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def watched(response: Callable[[Any], Any], change: Any, refused: Callable[[str | None], Exception] | None) -> Any:
    """`response(change)`, looked at on its way forward and back, if there is an exception to raise."""
    if refused is None:
        return response(change)
    passage = Passage(refused)
    return passage.leave(response(passage.enter(change)))


class Passage:
    """One use of a rule, from the change of its arguments to that of its result, or back.

    **Arguments:**

    - `refused`: the exception for a derivative that is not finite where what came in was: called with the name of the
      argument in reverse mode, and with None in forward mode.
    """

    def __init__(self, refused: Callable[[str | None], Exception]) -> None:
        self.refused = refused
        self.came_in_finite = True

    def enter(self, change: Any) -> Any:
        """The change of the arguments, of which the leaves are named."""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: self._watched(leaf, _name(path)), change)

    def leave(self, moved: Any) -> Any:
        """The change of the result."""
        return jax.tree.map(lambda leaf: self._watched(leaf, None), moved)

    def look_at(self, value: Array, name: str | None, backward: bool) -> None:
        """**Raises** what `refused` returns."""
        if np.isfinite(np.asarray(value)).all():
            return
        if (name is None) == backward:
            self.came_in_finite = False
        elif self.came_in_finite:
            raise self.refused(name)

    def _watched(self, leaf: Any, name: str | None) -> Any:
        return _watched.bind(leaf, passage=self, name=name, backward=False) if eqx.is_inexact_array(leaf) else leaf


def _name(path: tuple[Any, ...]) -> str:
    """`epsilon`, `bonds.stiffness`, `diameters`: as a user calls it."""
    keys = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    start = keys[:1] == ["system"] or keys[:1] == ["potential"]
    return ".".join(key for key in (keys[1:] if start else keys) if key != "parameters") or "its argument"


_watched = Primitive("watched")


@_watched.def_impl
def _(value: Array, *, passage: Passage, name: str | None, backward: bool) -> Array:
    passage.look_at(value, name, backward)
    return value


_watched.def_abstract_eval(lambda value, **_: value)
mlir.register_lowering(_watched, lambda context, value, **_: [value])


def _transposed(cotangent: Any, value: Any, *, passage: Passage, name: str | None, backward: bool) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [cotangent]
    return [_watched.bind(cotangent, passage=passage, name=name, backward=not backward)]


def _batched(values: Any, axes: Any, **options: Any) -> Any:
    return _watched.bind(values[0], **options), axes[0]


ad.deflinear2(_watched, _transposed)
batching.primitive_batchers[_watched] = _batched
