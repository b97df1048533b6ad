"""Sparse Cholesky factors of a contact Hessian, by CHOLMOD through sparsax, as a solver for lineax."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import Status
from .base import SymmetricSolver

Entries = tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]


class Cholesky(SymmetricSolver):
    """Sparse Cholesky factors of a symmetric positive matrix; on a CPU, in double precision, for sums over pairs.

    The factors are those of the Hessian with a little added to its diagonal, so that zero modes do no harm. They serve
    as the inverse in an iterative refinement. sparsax keeps the numeric factors of the last matrices: further
    right-hand sides cost two triangular solves each.

    **Arguments:**

    - `falls_back` (bool): whether other solvers take its place where a solution cannot be trusted, as where modes are
      softer than what is added to the diagonal; the automatic choice does so.
    - `regular` (bool): whether a right-hand side with a part in an unknown null space counts as one that cannot be
      solved for; half the code then suffices.

    **Reference:**

    - Chen, Davis, Hager and Rajamanickam, ACM Trans. Math. Softw. 35, 22 (2008).
    """

    falls_back: bool = eqx.field(default=False, static=True)
    regular: bool = eqx.field(default=False, static=True)

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Entries:
        """The entries of the upper triangle: rows, columns, values. Entries of one place are summed."""
        matrix = operator.as_matrix()
        rows, columns = (jnp.asarray(k, jnp.int32) for k in np.triu_indices(matrix.shape[0]))
        return rows, columns, matrix[rows, columns]

    def compute(
        self, state: Entries, vector: Float[Array, " k"], options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        rows, columns, values = state
        x = solve(rows, columns, values, vector[:, None])[:, 0]
        finite = jnp.all(jnp.isfinite(x))
        return x, lx.RESULTS.where(finite, lx.RESULTS.successful, lx.RESULTS.nonfinite_input), {}


@contextlib.contextmanager
def explain_missing_factors() -> Iterator[None]:
    """Raises `SolveFailed` in place of CHOLMOD's error."""
    try:
        yield
    except Exception as error:
        if "not positive definite" not in str(error):
            raise
        raise Status.NO_FACTORS.raised() from error


@jax.custom_batching.custom_vmap
def solve(
    rows: Int[Array, " m"], columns: Int[Array, " m"], values: Float[Array, " m"], b: Float[Array, "k r"]
) -> Float[Array, "k r"]:
    """A⁻¹ b, A positive definite, given by the entries of its upper triangle; entries of one place are summed."""
    import sparsax  # not available on Windows

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
