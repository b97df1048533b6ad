"""The pseudo-inverse of a dense symmetric matrix, as a solver for lineax."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ..landscape.thresholds import UNCERTAIN_EIGENVALUE, ZERO_EIGENVALUE_EXPONENT, zero_eigenvalue
from .base import SymmetricSolver


class PseudoInverse(SymmetricSolver):
    """The minimum-norm solution with a symmetric matrix, by its eigenvectors; finds every zero mode.

    Where an eigenvalue lies so little below the cut that it may belong to a soft mode as well as to a zero mode, the
    solution is NaN and the result `singular`.
    """

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> tuple[Array, Array]:
        """Eigenvalues, ascending, and eigenvectors."""
        eigenvalues, vectors = jnp.linalg.eigh(operator.as_matrix())
        return eigenvalues, vectors

    def compute(
        self, state: tuple[Array, Array], vector: Float[Array, " k"], options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        eigenvalues, vectors = state
        cut, size = zero_eigenvalue(eigenvalues), jnp.abs(eigenvalues)
        uncertain = has_uncertain(eigenvalues)
        inverse = jnp.where(size > cut, 1.0 / jnp.where(size > cut, eigenvalues, 1.0), 0.0)
        solution = vectors @ (jnp.where(uncertain, jnp.nan, inverse) * (vectors.T @ vector))
        return solution, lx.RESULTS.where(uncertain, lx.RESULTS.singular, lx.RESULTS.successful), {}


def has_uncertain(eigenvalues: Any) -> Any:
    """Whether one of the eigenvalues, of NumPy or of JAX, may belong to a soft mode as well as to a zero mode."""
    size = abs(eigenvalues)
    cut = jnp.finfo(size.dtype).eps ** ZERO_EIGENVALUE_EXPONENT * size.max(axis=-1, keepdims=True)
    return ((size <= cut) & (size > UNCERTAIN_EIGENVALUE * cut)).any()
