"""Sparse Cholesky factors of a contact Hessian, by CHOLMOD through sparsax, as a solver for lineax."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int

from .errors import SolveFailed
from .minres import SymmetricSolver


class Cholesky(SymmetricSolver):
    """The sparse direct solver (Chen, Davis, Hager and Rajamanickam, ACM TOMS 35, 22 (2008)); on a CPU, in double
    precision, for sums over pairs.

    The factors are those of the Hessian with a little added to its diagonal, so that zero modes do no harm, and serve
    as the inverse in an iterative refinement. They are kept: further right-hand sides cost two triangular solves each.
    """

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        return options["coordinates"]

    def compute(
        self, state: Any, vector: Float[Array, " k"], options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        rows, columns, values = state
        return solve(rows, columns, values, vector[:, None])[:, 0], lx.RESULTS.successful, {}


@contextlib.contextmanager
def where_positive() -> Iterator[None]:
    """Makes `SolveFailed` of CHOLMOD's error."""
    try:
        yield
    except Exception as error:
        if "not positive definite" not in str(error):
            raise
        raise SolveFailed(
            "the Hessian has no Cholesky factors, since it is not positive: this is a saddle, or no point at rest. "
            "Take another solver (linear_solvers.minres(), --linear-solver minres)"
        ) from error


@jax.custom_batching.custom_vmap
def solve(
    rows: Int[Array, " m"], columns: Int[Array, " m"], values: Float[Array, " m"], b: Float[Array, "k r"]
) -> Float[Array, "k r"]:
    """A⁻¹ b, A positive definite, given by the entries of its upper triangle; those for one place add up."""
    import sparsax  # its absence is no matter to those who do not ask for it

    return sparsax.solve(rows, columns, values, b)


@solve.def_vmap
def _(size: int, batched: list[bool], rows: Array, columns: Array, values: Array, b: Array) -> tuple[Array, bool]:
    if not any(batched[:3]):
        together = jnp.moveaxis(b, 0, -1)
        x = solve(rows, columns, values, together.reshape(b.shape[1], -1))
        return jnp.moveaxis(x.reshape(together.shape), -1, 0), True
    arguments = [
        a if each else jnp.broadcast_to(a, (size, *a.shape))
        for a, each in zip((rows, columns, values, b), batched, strict=True)
    ]
    return jax.lax.map(lambda each: solve(*each), tuple(arguments)), True
