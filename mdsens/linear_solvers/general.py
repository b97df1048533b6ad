"""A⁻¹ b for any square matrix, symmetric or not, that a function multiplies by, with any of the linear solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ..landscape.thresholds import UNCERTAIN_EIGENVALUE, zero_eigenvalue
from .dense import PseudoInverse
from .solve import DIRECT, TAGS

MOST_ROUNDS = 4
"""Of iterative refinement, which ends as soon as a round no longer helps."""

TRUSTED_EXPONENT = 0.5
"""A residual is trusted below this power of the rounding unit, relative to the right-hand side."""

Vector = Float[Array, " k"]
Multiply = Callable[[Vector], Vector]


def factorize(solver: lx.AbstractLinearSolver, multiply: Multiply, like: Vector, symmetric: bool) -> Any:
    """What a solver that needs the matrix computes once for many right-hand sides; None for other solvers."""
    if not isinstance(solver, PseudoInverse | DIRECT):
        return None
    matrix = jax.vmap(multiply, out_axes=1)(jnp.eye(like.size, dtype=like.dtype))
    return solver.init(lx.MatrixLinearOperator(matrix, TAGS if symmetric else ()), {})


def without_null_space(eigen: tuple[Array, Array], size: Float[Array, ""]) -> tuple[tuple[Array, Array], Array]:
    """The eigenvalues and eigenvectors of the dense solver with `size` for every eigenvalue that is zero, and these
    eigenvectors [k, k], the other columns zero.
    """
    eigenvalues, vectors = eigen
    zero = jnp.abs(eigenvalues) <= UNCERTAIN_EIGENVALUE * zero_eigenvalue(eigenvalues)
    return (jnp.where(zero, size, eigenvalues), vectors), jnp.where(zero, vectors, 0.0)


def orthonormal(vectors: Float[Array, "m k"]) -> Float[Array, "k m"]:
    """An orthonormal basis of the space of the vectors, in columns; zero instead of those that depend on others."""
    left, sizes, _ = jnp.linalg.svd(vectors.T, full_matrices=False)
    return jnp.where(sizes > float(jnp.finfo(vectors.dtype).eps) ** 0.5 * sizes[0], left, 0.0)


def solve(
    solver: lx.AbstractLinearSolver,
    state: Any,
    multiply: Multiply,
    b: Vector,
    symmetric: bool,
    transposed: bool = False,
) -> Vector:
    """A⁻¹ b; NaN where the residual, after iterative refinement, is not small.

    **Arguments:**

    - `state`: what `factorize` has returned.
    - `transposed`: whether `multiply` is the transpose of the function that was factorized.
    """
    tags, options = TAGS if symmetric else (), {}
    if state is None:
        state = solver.init(lx.FunctionLinearOperator(multiply, jax.ShapeDtypeStruct(b.shape, b.dtype), tags), {})
    elif transposed:
        state, options = solver.transpose(state, {})
    eps, length = float(jnp.finfo(b.dtype).eps), jnp.linalg.norm
    size = length(b)
    unit = b / jnp.where(size > 0.0, size, 1.0)  # lineax compares with absolute tolerances

    def unfinished(run: _Refined) -> Array:
        return run.helped & (length(run.left) > 10.0 * eps) & (run.rounds < MOST_ROUNDS)

    def improve(run: _Refined) -> _Refined:
        scale = length(run.left)
        x = run.x + scale * solver.compute(state, run.left / scale, options)[0]
        left = unit - multiply(x)
        helped = length(left) < scale  # not so for NaN
        return _Refined(jnp.where(helped, x, run.x), jnp.where(helped, left, run.left), helped, run.rounds + 1)

    start = _Refined(jnp.zeros_like(b), unit, jnp.asarray(True), jnp.asarray(0, jnp.int32))
    run = jax.lax.while_loop(unfinished, improve, start)
    return jnp.where(length(run.left) <= eps**TRUSTED_EXPONENT, size * run.x, jnp.nan)


class _Refined(eqx.Module):
    """`left` is b - A x."""

    x: Vector
    left: Vector
    helped: Array
    rounds: Array
