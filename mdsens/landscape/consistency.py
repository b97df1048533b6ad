"""Whether forces are the derivatives of the energy, the Hessian that of the forces, and the same on both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import Status
from ..potentials import Potential
from ..potentials.terms import Pairs
from ..runtime.compiled import compile_once
from ..runtime.noise import white_noise
from ..runtime.tracing import as_array
from ..system import System
from .configuration import Configuration
from .hessian import GeneralHessian, PairHessian
from .thresholds import (
    EXPLAINED_BY_KINKS,
    INDETERMINATE_GAP,
    JUMP_AT_REST,
    PROBED_PATH,
    PROBES,
    ROUNDING_OF_SUMS,
    SAME_JUMP_FARTHER,
)

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Along a path: those of Simpson's rule for its halves. It begins at rest, where the work along a path to both sides
would cancel."""

NAMES = ("forces", "energy"), ("second derivatives", "forces")
"""What may fail to be the derivative of what."""


class Probe(eqx.Module):
    """What a random path away from rest says of the derivatives: what is `unexplained` of forces and Hessian
    (`_unexplained`), and by how much the Hessian `jumps` at each particle (`_jumps`).
    """

    unexplained: Float[Array, "2 2"]
    jumps: Float[Array, " n"]


def faulty_derivatives(here: Configuration, first: Probe | None = None) -> tuple[Status, dict[str, Any]] | None:
    """Why the derivatives of a potential cannot be trusted at rest, with the facts for its message; None where they
    can.

    `INCONSISTENT`: along a short random path the energy changes by the work of the forces, and the forces by the work
    of the Hessian. Kinks, such as contacts that open on the way, make the quadrature inexact; one path where both agree
    suffices. `JUMPS_AT_REST`: the Hessian jumps from one side of the point to the other, along all paths. `first` is
    what the first path says, if that is known already.
    """
    least: np.ndarray | None = None
    jump, particle = np.inf, 0
    system = here.system
    for seed in range(PROBES):
        noise = np.random.default_rng(seed)
        path, other = (
            as_array(noise.uniform(-1.0, 1.0, system.positions.shape), system.positions.dtype) for _ in range(2)
        )
        probe = first if seed == 0 and first is not None else _probe(here, path, other)
        found, jumps = np.asarray(probe.unexplained), np.asarray(probe.jumps)
        if jumps.max() < jump:
            jump, particle = float(jumps.max()), int(np.argmax(jumps))
        if not (found[:, 0] > 1.0).any() and not jump > 0.0:  # nor where it is NaN, which others refuse
            return None
        least = found if least is None else np.where(found[:, :1] < least[:, :1], found, least)
    assert least is not None
    wrong = next((k for k in range(2) if least[k, 0] > 1.0), None)
    if wrong is not None:
        return Status.INCONSISTENT, {"derivative": NAMES[wrong][0], "of": NAMES[wrong][1], "error": least[wrong, 1]}
    return (Status.JUMPS_AT_REST, {"particle": particle, "jump": jump}) if jump > 0.0 else None


def first_probe(here: Configuration) -> Probe:
    """The first path, for a program that computes more than that."""
    x = here.system.positions
    return _along(here, white_noise(x.shape, x.dtype, 3), white_noise(x.shape, x.dtype, 4))


def _along(here: Configuration, path: Float[Array, "n d"], other: Float[Array, "n d"]) -> Probe:
    path, other = here.system.relaxing(path), here.system.relaxing(other)
    return Probe(_unexplained(here, path, other), _jumps(here, path))


_probe = compile_once(_along)


def _jumps(here: Configuration, u: Float[Array, "n d"]) -> Float[Array, " n"]:
    """By how much the change of the force on each particle along u jumps at rest, relative to the typical change; zero
    where it does not.

    On both sides of the point, at a distance δ and at 10 δ, a smooth Hessian differs from side to side in proportion to
    the distance, one that jumps within δ by as much at both. The terms that may jump at a place that is known, those of
    pairs at their cutoff and local terms, are followed by the analysis of contacts, and left out here.
    """
    x, d = here.system.positions, here.system.dim
    eps = float(jnp.finfo(x.dtype).eps)
    parts = [
        part for part in here.potential.parts() if not part.is_verified and (part.is_pairwise or not part.has_terms)
    ]
    if not parts:
        return jnp.zeros(here.system.n, x.dtype)
    tiny = jnp.finfo(x.dtype).tiny
    typical = jnp.linalg.norm(here.hessian().product(u)) / jnp.maximum(jnp.linalg.norm(u), tiny)
    left_open = INDETERMINATE_GAP * jnp.max(jnp.abs(here.gradient())) / jnp.maximum(typical, tiny)
    step = jnp.maximum(eps**0.5 * here.length, 1e3 * eps * jnp.max(jnp.abs(x)))
    step = jnp.maximum(step, jnp.where(jnp.isfinite(left_open), left_open, 0.0))

    at_rest = [part.pair_terms(here.system, here.neighbors) for part in parts]

    def change(place: Float[Array, ""]) -> Float[Array, "n d"]:
        system = here.system.replace(positions=x + place * step * u)
        changes = [change_of_part(*each, system) for each in zip(parts, at_rest, strict=True)]
        return here.system.relaxing(sum(changes[1:], changes[0]))

    def change_of_part(part: Potential, now: Pairs | None, system: System) -> Float[Array, "n d"]:
        pairs = part.pair_terms(system, here.neighbors)
        if pairs is None or now is None:
            return GeneralHessian(part, system, here.neighbors).product(u)
        inside = jnp.abs(now.gap) > 2.0 * d**0.5 * FARTHER * step
        kept = dataclasses.replace(pairs, interacts=pairs.interacts & inside)
        return PairHessian(kept.i, kept.j, kept.blocks(), system.n).product(u)

    found = jax.lax.map(change, jnp.asarray([1.0, -1.0, FARTHER, -FARTHER], x.dtype))
    near, far = jnp.abs(found[0] - found[1]), jnp.abs(found[2] - found[3])
    size = jnp.maximum(jnp.sqrt(jnp.mean(found**2)), tiny)
    least = max(JUMP_AT_REST, ROUNDING_OF_SUMS * eps) * size
    return jnp.max(jnp.where((near > least) & (near > SAME_JUMP_FARTHER * far), near / size, 0.0), axis=1)


FARTHER = 10.0
"""The ratio of the two distances at which jumps are looked for."""


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

    Arithmetic of arrays counts, tables, and conversions of arrays from double precision; masks and other numbers of few
    digits are exact, and do not.
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
        if equation.primitive.name == "convert_element_type" and _is_narrowed(equation):
            yield f"a conversion of an array {list(equation.outvars[0].aval.shape)}"
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _in_single_precision(inner)


ARITHMETIC = ("add", "sub", "mul", "div", "pow", "integer_pow", "exp", "log", "sqrt", "dot_general")
"""Operations of JAX that round."""


def _is_single(value: Any) -> bool:
    return getattr(value, "dtype", None) == np.float32 and len(value.shape) > 0


def _is_narrowed(equation: Any) -> bool:
    """Whether a conversion takes an array in double precision to single."""
    before = getattr(equation.invars[0].aval, "dtype", None)
    return before == np.float64 and any(_is_single(value.aval) for value in equation.outvars)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
