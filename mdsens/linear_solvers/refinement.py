"""Iterative refinement: every solution is improved until its last correction shows that it is right."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MOST_ROUNDS = 12
"""Of refinement. Two suffice; six where the right-hand side has an unknown part in the null space, and as many where
modes are so soft that the addition to the diagonal of sparse factors is a tenth of them.
"""

STAGNATES = 0.5
"""A residual that a round leaves above this part of itself is one along a null space. Along soft modes it falls: by
s/(λ + s) each round, s being the addition to the diagonal of sparse factors.
"""

Displacements = Float[Array, "n d"]
Invert = Callable[[Displacements, Float[Array, ""], Bool[Array, ""] | None], Displacements]
"""A rough solve for b: of residuals down to a floor, and whether b has a null part, None where it has none for sure."""

Multiply = Callable[[Displacements], Displacements]


class _Refinement(eqx.Module):
    """The state of the refinement of A x = b - null, null being the part of b in the null space.

    `left` is b - A x. `floppy` is True once there is a null part: from then on every other round purifies it.
    """

    x: Displacements
    left: Displacements
    null: Displacements
    residual: Float[Array, ""]
    error: Float[Array, ""]
    floppy: Bool[Array, ""]
    purify: Bool[Array, ""]
    rounds: Int[Array, ""]


def refine(invert: Invert, multiply: Multiply, b: Displacements) -> Displacements:
    """The minimum-norm solution of A x = b, |b| = 1, or NaN; A is scaled so that its eigenvalues are about 1.

    The residual of a rough solve is solved for again; the last correction, relative to x, measures the error of the
    solution before it. Where a residual r remains, b has a part in an unknown null space: the part of r that A⁺(A r)
    does not reproduce. That part is accepted only if A annihilates it and it is orthogonal to the rest of b: with a
    soft mode in it, it would be neither.
    """
    eps = float(jnp.finfo(b.dtype).eps)
    good, size = _good(b), jnp.linalg.norm

    def improve(run: _Refinement) -> _Refinement:
        wanted = jax.lax.cond(run.purify, multiply, lambda left: left - run.null, run.left)
        wanted, floor = _above_rounding(wanted, run.x)
        found = invert(wanted, floor, run.floppy)
        failed = ~jnp.all(jnp.isfinite(found)) | (jnp.any(wanted) & ~jnp.any(found))
        found = jnp.where(failed, 0.0, found)
        null = jnp.where(run.purify & ~failed, run.left - found, run.null)
        x = _orthogonal(jnp.where(run.purify, run.x, run.x + found), null)
        left = b - multiply(x)
        residual = size(left - null)
        stagnates = residual > STAGNATES * jnp.minimum(run.residual, 1.0)
        floppy = run.floppy | ((residual > 1e3 * good) & stagnates)
        astray = floppy & ~run.floppy  # the attempts so far went along a null part
        error = _relative(x - run.x, x)
        error = jnp.where(run.purify | failed | astray, jnp.inf, error)
        x, left = jnp.where(astray, 0.0, x), jnp.where(astray, b, left)
        return _Refinement(x, left, null, residual, error, floppy, floppy & ~run.purify, run.rounds + 1)

    far, no = jnp.asarray(jnp.inf, b.dtype), jnp.asarray(False)
    zero = jnp.zeros_like(b)
    start = _Refinement(zero, b, zero, far, far, no, no, jnp.asarray(0, jnp.int32))
    run = jax.lax.while_loop(_unfinished, improve, start)
    rest = b - run.null
    annihilated = size(multiply(run.null)) <= good * size(run.null)
    apart = jnp.abs(jnp.sum(run.null * rest)) <= (10.0 * good * size(rest) + 1e2 * eps) * size(run.null)
    trusted = (run.error <= 10.0 * good) & (run.residual <= 10.0 * good) & annihilated & apart
    return jnp.where(trusted, run.x, jnp.nan)


class _Regular(eqx.Module):
    """The state of the refinement of A x = b, b without a part in a null space; `left` is b - A x."""

    x: Displacements
    left: Displacements
    residual: Float[Array, ""]
    error: Float[Array, ""]
    rounds: Int[Array, ""]


def refine_regular(invert: Invert, multiply: Multiply, b: Displacements) -> Displacements:
    """As `refine` where b has no part in an unknown null space, by half the code; else NaN."""
    good, size = _good(b), jnp.linalg.norm

    def improve(run: _Regular) -> _Regular:
        found = invert(*_above_rounding(run.left, run.x), None)
        x = run.x + found
        left = b - multiply(x)
        return _Regular(x, left, size(left), _relative(found, x), run.rounds + 1)

    far = jnp.asarray(jnp.inf, b.dtype)
    start = _Regular(jnp.zeros_like(b), b, far, far, jnp.asarray(0, jnp.int32))
    run = jax.lax.while_loop(_unfinished, improve, start)
    return jnp.where((run.error <= 10.0 * good) & (run.residual <= 10.0 * good), run.x, jnp.nan)


def _good(x: Displacements) -> float:
    """The error and the residual, both relative, at which a refinement ends."""
    return float(jnp.finfo(x.dtype).eps) ** 0.5


def _unfinished(run: _Refinement | _Regular) -> Bool[Array, ""]:
    good = _good(run.x)
    return (run.rounds < MOST_ROUNDS) & ((run.error > good) | (run.residual > good))


def _above_rounding(wanted: Displacements, x: Displacements) -> tuple[Displacements, Float[Array, ""]]:
    """What is to be solved for, zero where it is rounding in A x, and the size of that."""
    floor = 30.0 * float(jnp.finfo(x.dtype).eps) * (1.0 + jnp.linalg.norm(x))
    return jnp.where(jnp.linalg.norm(wanted) > floor, wanted, 0.0), floor


def _relative(change: Displacements, x: Displacements) -> Float[Array, ""]:
    return jnp.linalg.norm(change) / jnp.maximum(jnp.linalg.norm(x), jnp.finfo(x.dtype).tiny)


def _orthogonal(x: Displacements, null: Displacements) -> Displacements:
    """x without its part along null, the only null direction in a Krylov space of b."""
    squared = jnp.sum(null**2)
    return x - jnp.sum(null * x) / jnp.where(squared > 0.0, squared, 1.0) * null
