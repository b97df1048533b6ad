"""Whether the forces of a potential are the derivatives of its energy, and its Hessian that of its forces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from .configuration import Configuration
from .thresholds import EXPLAINED_BY_KINKS, PROBED_PATH, PROBES, ROUNDING_OF_SUMS

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Along a path: those of Simpson's rule for its halves. It begins at rest, where the work along a path to both sides
would cancel."""

NAMES = ("forces", "energy"), ("second derivatives", "forces")
"""What may fail to be the derivative of what."""


def inconsistent_parts(here: Configuration) -> dict[str, Any] | None:
    """Facts of what is not the derivative of what, for `Status.INCONSISTENT`; None where all parts agree.

    Along a short random path the energy changes by the work of the forces, and the forces by the work of the Hessian.
    Kinks, such as contacts that open on the way, make the quadrature inexact; one path where both agree suffices.
    """
    least: np.ndarray | None = None
    system = here.system
    for seed in range(PROBES):
        noise = np.random.default_rng(seed)
        path, other = (
            system.relaxing(as_array(noise.uniform(-1.0, 1.0, system.positions.shape), system.positions.dtype))
            for _ in range(2)
        )
        found = np.asarray(_unexplained(here, path, other))
        if not (found[:, 0] > 1.0).any():  # nor where it is NaN, which others refuse
            return None
        least = found if least is None else np.where(found[:, :1] < least[:, :1], found, least)
    assert least is not None
    wrong = next((k for k in range(2) if least[k, 0] > 1.0), None)
    return None if wrong is None else {"derivative": NAMES[wrong][0], "of": NAMES[wrong][1], "error": least[wrong, 1]}


@compile_once
def _unexplained(here: Configuration, path: Float[Array, "n d"], other: Float[Array, "n d"]) -> Float[Array, "2 2"]:
    """Of the forces, and of the Hessian: how often the disagreement is larger than quadrature and rounding explain, and
    how large it is relative to the change itself.
    """
    x, length = here.system.positions, here.length
    eps = float(jnp.finfo(x.dtype).eps)
    path = path * (max(PROBED_PATH, eps**0.25) * length)

    def at(place: Float[Array, ""]) -> tuple[Array, ...]:
        moved = here.at(x + place * path)
        gradient, change = moved.gradient(), moved.hessian().product(path)
        return moved.energy(), jnp.sum(gradient * path), jnp.sum(gradient * other), jnp.sum(change * other), change

    energy, work, force, slope, changes = jax.lax.map(at, jnp.asarray(PLACES, x.dtype))
    moved_by = jnp.maximum(jnp.linalg.norm(path), jnp.finfo(x.dtype).tiny)
    stiffness = jnp.sqrt(jnp.sum(changes**2) / len(PLACES)) / moved_by
    rounding = ROUNDING_OF_SUMS * eps * stiffness * (length + jnp.max(jnp.abs(x))) * jnp.linalg.norm(other)
    of_energy = ROUNDING_OF_SUMS * eps * jnp.max(jnp.abs(energy)) + rounding * length
    return jnp.stack([_compared(energy, work, of_energy), _compared(force, slope, rounding)])


def _compared(values: Float[Array, " 5"], slopes: Float[Array, " 5"], rounding: Float[Array, ""]) -> Float[Array, " 2"]:
    """The change of values along the path against the integral of slopes."""
    change = values[-1] - values[0]
    integral = (slopes[0] + 4.0 * slopes[1] + 2.0 * slopes[2] + 4.0 * slopes[3] + slopes[4]) / 12.0
    kinks = jnp.max(jnp.abs(jnp.diff(slopes, n=3)))
    error = jnp.abs(change - integral)
    size = jnp.maximum(jnp.maximum(jnp.abs(change), jnp.abs(integral)), jnp.finfo(values.dtype).tiny)
    return jnp.stack([error / (EXPLAINED_BY_KINKS * kinks + rounding), error / size])


def single_precision(here: Configuration) -> str | None:
    """The first thing in single precision inside an energy of positions in double precision; None without one.

    Arithmetic of arrays counts, and tables; masks and other numbers of few digits are exact, and do not.
    """
    kind = jax.tree.structure(here.potential)
    if here.system.positions.dtype != jnp.float64 or kind in _in_double_precision:
        return None
    traced = jax.make_jaxpr(lambda x: here.at(x).energy())(here.system.positions)
    found = next(_in_single_precision(traced), None)
    if found is None:
        _in_double_precision.add(kind)
    return found


_in_double_precision: set[Any] = set()
"""The kinds of potentials that have been looked through."""


def _in_single_precision(traced: Any) -> Iterator[str]:
    """Of a program, those within it included."""
    for array in getattr(traced, "consts", ()):
        if getattr(array, "dtype", None) == np.float32 and np.size(array) > 1:
            scaled = 1024.0 * np.asarray(array)
            if (np.isfinite(scaled) & (scaled != np.round(scaled))).any():
                yield f"a table {list(np.shape(array))}"
    for equation in getattr(traced, "jaxpr", traced).eqns:
        if equation.primitive.name in ARITHMETIC and any(_is_single(value.aval) for value in equation.outvars):
            yield f"arithmetic ({equation.primitive.name}) of an array {list(equation.outvars[0].aval.shape)}"
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _in_single_precision(inner)


ARITHMETIC = ("add", "sub", "mul", "div", "pow", "integer_pow", "exp", "log", "sqrt", "dot_general")
"""Operations of JAX that round."""


def _is_single(value: Any) -> bool:
    return getattr(value, "dtype", None) == np.float32 and len(value.shape) > 0


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
