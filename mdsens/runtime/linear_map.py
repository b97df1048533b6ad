"""Linear maps as one step: a compiled program forward, another in reverse, and a look at what comes out of each.

The derivative of a rule is a linear function of a change. Left to JAX it becomes two programs under `grad`, its linear
solve runs in the backward pass, where no code of the rule does, and what is not finite goes on without a word. Here
the whole map is a primitive. Outside `jit` each direction is one program, and a result that is not finite is refused
at once; within a compiled program it is the function itself. Its derivative is a linear map again, to any order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from .compiled import compile_once

Refused = Callable[[str | None], Exception | None]
"""The exception for a result that is not finite where what came in was: called with the name of the argument in
reverse mode, and with None in forward mode. None lets it pass.
"""

SHORT_UP_TO = 1500
"""Numbers taken and returned up to which a map that does not iterate is compiled quickly. Then it takes as long: a
gradient of 256 disks 2 ms; one of 1000 disks would take 5 instead of 2.5 ms.
"""

Arrays = list[Array]
Function = Callable[[Arrays, Arrays], Arrays]
Shapes = tuple[jax.ShapeDtypeStruct, ...]


def linear_map(
    function: Callable[[Any], Any],
    change: Any,
    like: Any,
    refused: Refused | None = None,
    attempt: Callable[[Any], Any] | None = None,
    iterates: bool = False,
) -> Any:
    """`function(change)`, for a function that is linear in the real arrays of a change.

    **Arguments:**

    - `function`: a pytree that is called, such as `equinox.Partial`, so that all of its kind share their programs. It
      may be differentiated by its arrays.
    - `change`: a pytree.
    - `like`: a pytree of arrays with the structure and the shapes of the result.
    - `refused`: the exception for a result that is not finite; None to let it pass.
    - `attempt`: the same function of the same arrays by less code, which may fail with NaN: evaluated first outside
      `jit`, so that the whole is compiled only where it is needed.
    - `iterates` (bool): whether it holds long loops, which are worth XLA's optimizations.
    """
    moving, rest = eqx.partition(change, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(moving)
    arrays = jax.tree.leaves(eqx.filter((function, rest), eqx.is_array))
    result, result_structure = jax.tree.flatten(like)
    names = tuple(_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(moving)[0])
    functions = tuple(_flat((f, rest), structure) for f in (attempt, function) if f is not None)
    this = _Map(functions, _shapes(leaves), _shapes(result), names, (None,) * len(result), refused, iterates)
    return jax.tree.unflatten(result_structure, _map.bind(*arrays, *leaves, this=this))


@dataclasses.dataclass(frozen=True, eq=False)
class _Map:
    """A function of (known arrays, arrays in which it is linear), what it takes and returns, and the names of these.

    Of several `functions` the last one always serves. A result without a name is looked at in forward mode alone.
    """

    functions: tuple[Function, ...]
    takes: Shapes
    returns: Shapes
    argument_names: tuple[str | None, ...]
    result_names: tuple[str | None, ...]
    refused: Refused | None
    iterates: bool
    backward: bool = False

    def split(self, operands: Any) -> tuple[list[Any], list[Any]]:
        """The known arrays, and those in which the map is linear."""
        count = len(operands) - len(self.takes)
        return list(operands[:count]), list(operands[count:])

    def __call__(self, *operands: Array) -> Arrays:
        return self.functions[-1](*self.split(operands))

    def run(self, *operands: Array) -> Arrays:
        """The result for concrete arrays, by one compiled program."""
        known, leaves = self.split(operands)
        size = sum(math.prod(a.shape) for a in self.takes + self.returns)
        evaluate = _call.where(self.iterates or size > SHORT_UP_TO)
        taken_finite = _finite(leaves)
        for function in self.functions:
            found = evaluate(function, known, leaves)
            if _finite(found) or not taken_finite:
                break
        if self.refused is not None and taken_finite:
            for name, array in zip(self.result_names, found, strict=True):
                looked_at = name is not None or not self.backward
                if looked_at and not _finite([array]) and (fault := self.refused(name)) is not None:
                    raise fault
        return found

    def transposed(self) -> _Map:
        this = self._with(lambda function: _Transposed(function, self.takes), self.returns, self.takes)
        return dataclasses.replace(
            this,
            backward=not self.backward,
            argument_names=self.result_names,
            result_names=self.argument_names,
        )

    def batched(self, size: int, axes: tuple[int | None, ...]) -> _Map:
        takes, returns = (
            tuple(jax.ShapeDtypeStruct((size, *a.shape), a.dtype) for a in shapes)
            for shapes in (self.takes, self.returns)
        )
        return self._with(lambda function: _Batched(function, axes), takes, returns)

    def derivative(self, moving: tuple[bool, ...], takes: Shapes) -> _Map:
        """Along changes of those known arrays that move, and of the arguments."""
        this = self._with(lambda function: _Derivative(function, moving), takes, self.returns)
        return dataclasses.replace(this, argument_names=(None,) * sum(moving) + self.argument_names)

    def _with(self, change: Callable[[Function], Function], takes: Shapes, returns: Shapes) -> _Map:
        return dataclasses.replace(self, functions=tuple(map(change, self.functions)), takes=takes, returns=returns)


class _Flat(eqx.Module):
    """A function of a pytree, between lists of arrays."""

    static: Any
    known_structure: Any = eqx.field(static=True)
    structure: Any = eqx.field(static=True)

    def __call__(self, known: Arrays, leaves: Arrays) -> Arrays:
        function, rest = eqx.combine(jax.tree.unflatten(self.known_structure, known), self.static)
        return jax.tree.leaves(function(eqx.combine(jax.tree.unflatten(self.structure, leaves), rest)))


def _flat(whole: Any, structure: Any) -> _Flat:
    """Of a function and those parts of its argument in which it is not linear."""
    known, static = eqx.partition(whole, eqx.is_array)
    return _Flat(static, jax.tree.structure(known), structure)


class _Transposed(eqx.Module):
    function: Function
    shapes: Shapes = eqx.field(static=True)

    def __call__(self, known: Arrays, cotangents: Arrays) -> Arrays:
        (found,) = jax.linear_transpose(lambda leaves: self.function(known, leaves), list(self.shapes))(cotangents)
        return found


class _Batched(eqx.Module):
    """Over the first axis of every argument, and over these of the known arrays."""

    function: Function
    axes: tuple[int | None, ...] = eqx.field(static=True)

    def __call__(self, known: Arrays, leaves: Arrays) -> Arrays:
        return jax.vmap(self.function, (list(self.axes), 0))(known, leaves)


class _Derivative(eqx.Module):
    function: Function
    moving: tuple[bool, ...] = eqx.field(static=True)

    def __call__(self, point: Arrays, changes: Arrays) -> Arrays:
        known, leaves = point[: len(self.moving)], point[len(self.moving) :]
        moving = [a for a, moves in zip(known, self.moving, strict=True) if moves]

        def moved(moving: Arrays, leaves: Arrays) -> Arrays:
            new = iter(moving)
            return self.function(
                [next(new) if moves else a for a, moves in zip(known, self.moving, strict=True)], leaves
            )

        return jax.jvp(moved, (moving, leaves), (changes[: len(moving)], changes[len(moving) :]))[1]


@compile_once
def _call(function: Function, known: Arrays, leaves: Arrays) -> Arrays:
    return function(known, leaves)


_map = Primitive("linear_map")
_map.multiple_results = True
_map.def_impl(lambda *operands, this: this.run(*operands))
_map.def_abstract_eval(lambda *_, this: [jax.core.ShapedArray(a.shape, a.dtype) for a in this.returns])
mlir.register_lowering(_map, mlir.lower_fun(lambda *operands, this: this(*operands), multiple_results=True))


def _jvp(operands: Any, tangents: Any, *, this: _Map) -> tuple[Arrays, list[Any]]:
    found = _map.bind(*operands, this=this)
    known, _ = this.split(operands)
    of_known, of_leaves = this.split(tangents)
    moving = tuple(not isinstance(t, ad.Zero) for t in of_known)
    if not any(moving):
        if all(isinstance(t, ad.Zero) for t in of_leaves):
            return found, [ad.Zero(jax.typeof(a)) for a in found]
        return found, _map.bind(*known, *map(ad.instantiate_zeros, of_leaves), this=this)
    changes = [t for t in of_known if not isinstance(t, ad.Zero)] + [ad.instantiate_zeros(t) for t in of_leaves]
    return found, _map.bind(*operands, *changes, this=this.derivative(moving, _shapes(changes)))


def _transpose(cotangents: list[Any], *operands: Any, this: _Map) -> list[Any]:
    known, leaves = this.split(operands)
    nothing: list[Any] = [None] * len(known)
    if all(isinstance(cotangent, ad.Zero) for cotangent in cotangents):
        return nothing + [ad.Zero(leaf.aval) for leaf in leaves]
    return nothing + _map.bind(*known, *map(ad.instantiate_zeros, cotangents), this=this.transposed())


def _batch(operands: Any, axes: Any, *, this: _Map) -> tuple[Arrays, list[int]]:
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)
    known, leaves = this.split(operands)
    known_axes, leaf_axes = this.split(axes)
    leaves = [batching.bdim_at_front(a, axis, size) for a, axis in zip(leaves, leaf_axes, strict=True)]
    found = _map.bind(*known, *leaves, this=this.batched(size, tuple(known_axes)))
    return found, [0] * len(found)


ad.primitive_jvps[_map] = _jvp
ad.primitive_transposes[_map] = _transpose
batching.primitive_batchers[_map] = _batch


def _finite(arrays: Arrays) -> bool:
    return all(np.isfinite(np.asarray(array)).all() for array in arrays)


def _shapes(arrays: Any) -> Shapes:
    return tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in map(jax.typeof, arrays))


def _name(path: tuple[Any, ...]) -> str:
    """`epsilon`, `bonds.stiffness`, `diameters`: as a user calls it."""
    keys = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    start = keys[:1] == ["system"] or keys[:1] == ["potential"]
    return ".".join(key for key in (keys[1:] if start else keys) if key != "parameters") or "its argument"
