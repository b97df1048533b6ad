"""The linear solvers offered, all of them lineax's, and the choice between them.

`tolerance` is that of the residual relative to the right-hand side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .hessian import Hessian, ZeroModes

DENSE_UP_TO = 1200
"""Degrees of freedom up to which the dense solver is chosen."""

Displacements = Float[Array, "n d"]


def spectral_cut(eigenvalues: Float[Array, " k"]) -> Float[Array, ""]:
    """The magnitude up to which an eigenvalue counts as zero: eps^0.6 of the largest, 4e-10 in double precision."""
    return jnp.finfo(eigenvalues.dtype).eps ** 0.6 * jnp.max(jnp.abs(eigenvalues))


class PseudoInverse(lx.AbstractLinearSolver):
    """The minimum-norm solution with a symmetric matrix, by its eigenvectors; finds every zero mode."""

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> tuple[Array, Array]:
        eigenvalues, vectors = jnp.linalg.eigh(operator.as_matrix())
        curved = jnp.abs(eigenvalues) > spectral_cut(eigenvalues)
        return jnp.where(curved, 1.0 / jnp.where(curved, eigenvalues, 1.0), 0.0), vectors

    def compute(
        self, state: tuple[Array, Array], vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        inverse, vectors = state
        return vectors @ (inverse * (vectors.T @ vector)), lx.RESULTS.successful, {}

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def assume_full_rank(self) -> bool:
        return False


def dense() -> lx.AbstractLinearSolver:
    """Eigenvectors of the dense Hessian: certain, and the choice for small systems."""
    return PseudoInverse()


def cg(tolerance: float = 1e-11, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """Conjugate gradients (Hestenes and Stiefel 1952), for a minimum."""
    return lx.CG(rtol=tolerance, atol=tolerance, max_steps=max_steps)


def bicgstab(tolerance: float = 1e-11, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """BiCGSTAB (van der Vorst 1992), which Blondel et al. (2021) use for this problem."""
    return lx.BiCGStab(rtol=tolerance, atol=tolerance, max_steps=max_steps)


def gmres(tolerance: float = 1e-11, max_steps: int | None = None, restart: int = 100) -> lx.AbstractLinearSolver:
    """Restarted GMRES (Saad and Schultz 1986)."""
    return lx.GMRES(rtol=tolerance, atol=tolerance, max_steps=max_steps, restart=restart)


def automatic(degrees_of_freedom: int) -> lx.AbstractLinearSolver:
    """Dense for small systems, conjugate gradients beyond."""
    return dense() if degrees_of_freedom <= DENSE_UP_TO else cg()


def is_iterative(solver: lx.AbstractLinearSolver) -> bool:
    return isinstance(solver, lx.CG | lx.BiCGStab | lx.GMRES)


def largest_residual(dtype: Any) -> float:
    """The relative residual beyond which an iterative solution is not trusted: 4e-8 in double, 8e-4 in single."""
    return float(jnp.finfo(dtype).eps ** 0.5) * 2.5


def solve(
    solver: lx.AbstractLinearSolver,
    hessian: Hessian,
    zero_modes: ZeroModes,
    shift: Float[Array, ""],
    product: Callable[[Displacements], Displacements],
    b: Displacements,
) -> Displacements:
    """u with A u = b, for A = P H P + shift (1 - P), P the projection off the known zero modes.

    `product` multiplies by A. A solution whose residual says that it is wrong comes back as NaN; the
    pseudo-inverse alone is not asked, since it leaves what zero modes it finds.
    """
    tags = (lx.symmetric_tag, lx.positive_semidefinite_tag)
    size = jnp.linalg.norm(b)
    unit = b / jnp.where(size > 0.0, size, 1.0)  # lineax compares with absolute tolerances, entry by entry
    structure = jax.ShapeDtypeStruct((b.size,), b.dtype)
    operator: lx.AbstractLinearOperator
    if is_iterative(solver):
        operator = lx.FunctionLinearOperator(lambda v: product(v.reshape(b.shape)).ravel(), structure, tags)
    else:
        operator = lx.MatrixLinearOperator(_deflated(hessian, zero_modes, shift), tags)
    found = lx.linear_solve(operator, unit.ravel(), solver, throw=False).value.reshape(b.shape)
    if isinstance(solver, PseudoInverse):
        return size * found
    residual = jnp.linalg.norm(product(found) - unit)
    return jnp.where(residual <= largest_residual(b.dtype), size * found, jnp.nan)


def _deflated(hessian: Hessian, zero_modes: ZeroModes, shift: Float[Array, ""]) -> Float[Array, "k k"]:
    """The matrix of P H P + shift (1 - P)."""
    n, d = zero_modes.rigid.shape[1:]
    matrix = hessian.dense().reshape(n * d, n * d)
    held = jnp.repeat(~zero_modes.rattlers, d)
    rigid = zero_modes.rigid.reshape(-1, n * d)
    kept = jnp.diag(held.astype(matrix.dtype)) - rigid.T @ rigid
    return kept @ matrix @ kept + shift * (jnp.eye(n * d, dtype=matrix.dtype) - kept)


__all__ = ["PseudoInverse", "automatic", "bicgstab", "cg", "dense", "gmres"]
