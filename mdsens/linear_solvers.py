"""The linear solvers offered, lineax's and two of our own in its form, and the choice between them.

`tolerance` is that of the residual relative to the right-hand side, in each of a few rounds of iterative
refinement: every solution is improved until the last correction says that it is right.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from .cholesky import Cholesky
from .errors import InvalidInput
from .hessian import Hessian, PairHessian
from .minres import Minres, SymmetricSolver
from .potentials import PairPotential, Potential
from .system import System
from .zero_modes import ZeroModes

DENSE_UP_TO = 1200
"""Degrees of freedom up to which the dense solver is chosen, where there are no sparse factors."""

FACTORED_FROM = 500
"""Degrees of freedom from which sparse factors are chosen, where they can be had: below, some hundred solves by
eigenvectors take no longer than the seconds of compiling that factors take more.
"""

FACTORED_UP_TO = 12_000
"""Particles up to which sparse factors are chosen in 3D, where they fill up; in 2D they always are."""

DARK_FROM = 0.02
"""An eigenvalue between this fraction of the spectral cut and the cut itself is neither zero nor not."""

MOST_ROUNDS = 9
"""Of iterative refinement. Two suffice, five where the right-hand side has an unknown part in the null space."""

Displacements = Float[Array, "n d"]


def spectral_cut(eigenvalues: Float[Array, " k"]) -> Float[Array, ""]:
    """The magnitude up to which an eigenvalue counts as zero: eps^0.6 of the largest, 4e-10 in double precision."""
    return jnp.finfo(eigenvalues.dtype).eps ** 0.6 * jnp.max(jnp.abs(eigenvalues))


class PseudoInverse(SymmetricSolver):
    """The minimum-norm solution with a symmetric matrix, by its eigenvectors; finds every zero mode.

    Where an eigenvalue lies so little below the cut that it may be a soft mode as well as a zero mode,
    the answer is NaN. `known` are the eigenvalues and eigenvectors of P H P, where they are known already.
    """

    known: tuple[Float[Array, " k"], Float[Array, "k k"]] | None = None

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> tuple[Array, Array]:
        eigenvalues, vectors = jnp.linalg.eigh(operator.as_matrix()) if self.known is None else self.known
        cut, size = spectral_cut(eigenvalues), jnp.abs(eigenvalues)
        unclear = jnp.any((size <= cut) & (size > DARK_FROM * cut))
        inverse = jnp.where(size > cut, 1.0 / jnp.where(size > cut, eigenvalues, 1.0), 0.0)
        return jnp.where(unclear, jnp.nan, inverse), vectors

    def compute(
        self, state: tuple[Array, Array], vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lx.RESULTS, dict[str, Any]]:
        inverse, vectors = state
        return vectors @ (inverse * (vectors.T @ vector)), lx.RESULTS.successful, {}


def dense() -> lx.AbstractLinearSolver:
    """Eigenvectors of the dense Hessian: certain, and the choice for small systems."""
    return PseudoInverse()


def cg(tolerance: float = 1e-8, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """Conjugate gradients (Hestenes and Stiefel 1952), for a minimum."""
    return lx.CG(rtol=tolerance, atol=tolerance, max_steps=max_steps)


def bicgstab(tolerance: float = 1e-8, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """BiCGSTAB (van der Vorst 1992), which Blondel et al. (2021) use for this problem."""
    return lx.BiCGStab(rtol=tolerance, atol=tolerance, max_steps=max_steps)


def gmres(tolerance: float = 1e-8, max_steps: int | None = None, restart: int = 100) -> lx.AbstractLinearSolver:
    """Restarted GMRES (Saad and Schultz 1986)."""
    return lx.GMRES(rtol=tolerance, atol=tolerance, max_steps=max_steps, restart=restart)


def minres(tolerance: float | None = None, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """MINRES (Paige and Saunders 1975): no dearer than conjugate gradients, and right with any zero modes."""
    return Minres(tolerance, max_steps)


def cholesky() -> lx.AbstractLinearSolver:
    """Sparse Cholesky factors (CHOLMOD): the fastest in 2D, and in 3D up to some 12000 particles and for many
    right-hand sides; on a CPU, in double precision.

    For sums over pairs, at a minimum: where H is not positive, CHOLMOD's error is raised, even from within `jit`.
    """
    return Cholesky()


def automatic(potential: Potential, system: System, definite: bool = True) -> lx.AbstractLinearSolver:
    """Sparse Cholesky factors where they can be had and win; else dense for small systems and MINRES beyond.

    `definite`: whether only minima are to be differentiated.
    """
    size = system.positions.size
    if definite and size >= FACTORED_FROM and _factors_win(potential, system):
        return cholesky()
    return dense() if size <= DENSE_UP_TO else minres()


def _factors_win(potential: Potential, system: System) -> bool:
    """On a CPU, in double precision, for sums over pairs; in 3D up to a size, by a CHOLMOD that is fast."""
    if not isinstance(potential, PairPotential) or system.positions.dtype != jnp.float64:
        return False
    if jax.default_backend() != "cpu" or importlib.util.find_spec("sparsax") is None:
        return False
    small = system.positions.size <= DENSE_UP_TO
    return system.dim == 2 or small or (system.n <= FACTORED_UP_TO and _fast_cholmod())


@functools.cache
def _fast_cholmod() -> bool:
    """Whether sparsax brings CHOLMOD 5 with OpenBLAS, as it does from 0.11 on (Python 3.12), not CHOLMOD 3 with ATLAS,
    which takes eight times as long in 3D.
    """
    version = importlib.metadata.version("sparsax")
    return tuple(int(part) for part in version.split(".")[:2]) >= (0, 11)


def is_iterative(solver: lx.AbstractLinearSolver) -> bool:
    return isinstance(solver, lx.CG | lx.BiCGStab | lx.GMRES | Minres)


def solve(
    solver: lx.AbstractLinearSolver,
    hessian: Hessian,
    zero_modes: ZeroModes,
    shift: Float[Array, ""],
    product: Callable[[Displacements], Displacements],
    b: Displacements,
) -> Displacements:
    """A⁺ b, for A = P H P + shift (1 - P), P the projection off the known zero modes.

    `product` multiplies by A. A solution that cannot be trusted comes back as NaN.
    """
    size = jnp.linalg.norm(b)
    unit = b / jnp.where(size > 0.0, size, 1.0)
    unit_of_a = jnp.where(shift > 0.0, shift, 1.0)
    tags = (lx.symmetric_tag, lx.positive_semidefinite_tag)
    if isinstance(solver, PseudoInverse):
        whole = lx.MatrixLinearOperator(_deflated(hessian, zero_modes, shift), tags)
        return size * lx.linear_solve(whole, unit.ravel(), solver, throw=False).value.reshape(b.shape)

    def multiply(u: Displacements) -> Displacements:
        return product(u) / unit_of_a

    structure = jax.ShapeDtypeStruct((b.size,), b.dtype)
    operator: lx.AbstractLinearOperator
    operator = lx.FunctionLinearOperator(lambda v: multiply(v.reshape(b.shape)).ravel(), structure, tags)
    iterated = operator
    options: dict[str, Any] = {}
    if isinstance(solver, Minres):  # zero modes are annihilated anyway, and b has no part along them
        whole_product = lambda v: (hessian.product(v.reshape(b.shape)) / unit_of_a).ravel()  # noqa: E731
        operator = lx.FunctionLinearOperator(whole_product, structure, tags)
    if isinstance(solver, Cholesky):
        if not isinstance(hessian, PairHessian):
            raise InvalidInput("the sparse direct solver is for sums over pairs: take minres()")
        sound = jnp.isfinite(jnp.sum(hessian.blocks))
        rows, columns, values = hessian.coordinates(float(jnp.finfo(b.dtype).eps) ** 0.5 * unit_of_a)
        safe = (rows == columns).astype(b.dtype)  # the factors of what is no number are an error, even under jit
        options = {"coordinates": (rows, columns, jnp.where(sound, values / unit_of_a, safe))}
    elif not is_iterative(solver):
        operator = lx.MatrixLinearOperator(_deflated(hessian, zero_modes, shift) / unit_of_a, tags)
    flat = float(jnp.finfo(b.dtype).eps) ** 0.6

    def invert(b: Displacements, floor: Float[Array, ""], floppy: Bool[Array, ""]) -> Displacements:
        found = _inverted(operator, solver, b, flat, floor, options)
        if isinstance(solver, Cholesky):  # what is added to the diagonal magnifies rounding along modes nobody named
            once = found
            found = jax.lax.cond(
                floppy, lambda: _inverted(operator, solver, multiply(once), flat, floor, options), lambda: once
            )
        return zero_modes.project(found) if isinstance(solver, Minres | Cholesky) else found

    x = _refined(invert, multiply, unit)
    if not isinstance(solver, Minres | Cholesky):
        # what A all but annihilates comes back from here: a solution with such a part is not of minimum norm
        seen = _inverted(iterated, Minres(), multiply(x), flat, jnp.zeros_like(size))
        x = jnp.where(jnp.linalg.norm(x - seen) <= 1e2 * flat**0.5 * jnp.linalg.norm(x), x, jnp.nan)
    return size / unit_of_a * x


def _inverted(
    operator: lx.AbstractLinearOperator,
    solver: lx.AbstractLinearSolver,
    b: Displacements,
    flat: float,
    floor: Float[Array, ""],
    options: dict[str, Any] | None = None,
) -> Displacements:
    """A⁻¹ b as good as the solver gives it; of zero zero."""
    size = jnp.linalg.norm(b)
    scale = jnp.where(size > 0.0, size, 1.0)
    unit = b / scale  # lineax compares with absolute tolerances, entry by entry
    if isinstance(solver, Minres):
        options = {"flat": flat, "floor": floor / scale}
    found = lx.linear_solve(operator, unit.ravel(), solver, options=options, throw=False).value.reshape(b.shape)
    return jnp.where(size > 0.0, size * found, 0.0)


class _Refinement(eqx.Module):
    """Where an iterative refinement of A x = b - null stands, null being the part of b in the null space; `left` is
    b - A x.

    `floppy` once there is such a part: then every other round purifies it.
    """

    x: Displacements
    left: Displacements
    null: Displacements
    residual: Float[Array, ""]
    error: Float[Array, ""]
    floppy: Bool[Array, ""]
    purify: Bool[Array, ""]
    rounds: Int[Array, ""]


def _refined(
    invert: Callable[[Displacements, Float[Array, ""], Bool[Array, ""]], Displacements],
    product: Callable[[Displacements], Displacements],
    b: Displacements,
) -> Displacements:
    """The minimum-norm solution of A x = b, |b| = 1, or NaN; A is scaled so that its eigenvalues are about 1.

    What a rough solve leaves is solved for again; the last correction, relative to x, measures the
    error of the solution before it. Where a residual r stays, b has a part in a null space that
    nobody named: it is what r - A⁺(A r) leaves, and it is asked whether A annihilates it.
    """
    eps = float(jnp.finfo(b.dtype).eps)
    good, size = eps**0.5, jnp.linalg.norm

    def unfinished(run: _Refinement) -> Bool[Array, ""]:
        return (run.rounds < MOST_ROUNDS) & ((run.error > good) | (run.residual > good))

    def improve(run: _Refinement) -> _Refinement:
        wanted = jax.lax.cond(run.purify, product, lambda left: left - run.null, run.left)
        floor = 30.0 * eps * (1.0 + size(run.x))
        wanted = jnp.where(size(wanted) > floor, wanted, 0.0)
        found = invert(wanted, floor, run.floppy)
        failed = ~jnp.all(jnp.isfinite(found)) | (jnp.any(wanted) & ~jnp.any(found))
        found = jnp.where(failed, 0.0, found)
        null = jnp.where(run.purify & ~failed, run.left - found, run.null)
        x = _orthogonal(jnp.where(run.purify, run.x, run.x + found), null)
        left = b - product(x)
        residual = size(left - null)
        floppy = run.floppy | (residual > 1e3 * good)
        astray = floppy & ~run.floppy  # the first try, along a null part
        error = size(found) / jnp.maximum(size(x), jnp.finfo(b.dtype).tiny)
        error = jnp.where(run.purify | failed | astray, jnp.inf, error)
        x, left = jnp.where(astray, 0.0, x), jnp.where(astray, b, left)
        return _Refinement(x, left, null, residual, error, floppy, floppy & ~run.purify, run.rounds + 1)

    far, no = jnp.asarray(jnp.inf, b.dtype), jnp.asarray(False)
    nothing = jnp.zeros_like(b)
    start = _Refinement(nothing, b, nothing, far, far, no, no, jnp.asarray(0, jnp.int32))
    run = jax.lax.while_loop(unfinished, improve, start)
    annihilated = size(product(run.null)) <= good * size(run.null)
    trusted = (run.error <= 10.0 * good) & (run.residual <= 10.0 * good) & annihilated
    return jnp.where(trusted, run.x, jnp.nan)


def _orthogonal(x: Displacements, null: Displacements) -> Displacements:
    """x without its part along null: in a Krylov space of b, the only null direction there is."""
    squared = jnp.sum(null**2)
    return x - jnp.sum(null * x) / jnp.where(squared > 0.0, squared, 1.0) * null


def projected(hessian: Hessian, zero_modes: ZeroModes) -> Float[Array, "k k"]:
    """The matrix of P H P."""
    n, d = zero_modes.rigid.shape[1:]

    def rows_projected(matrix: Float[Array, "k k"]) -> Float[Array, "k k"]:
        return jax.vmap(zero_modes.project)(matrix.reshape(n * d, n, d)).reshape(n * d, n * d)

    return rows_projected(rows_projected(hessian.dense().reshape(n * d, n * d)).T)


def _deflated(hessian: Hessian, zero_modes: ZeroModes, shift: Float[Array, ""]) -> Float[Array, "k k"]:
    """The matrix of P H P + shift (1 - P)."""
    n, d = zero_modes.rigid.shape[1:]
    identity = jnp.eye(n * d, dtype=shift.dtype)
    kept = jax.vmap(zero_modes.project)(identity.reshape(n * d, n, d)).reshape(n * d, n * d)
    return projected(hessian, zero_modes) + shift * (identity - kept)


def decomposed(solver: lx.AbstractLinearSolver, hessian: Hessian, zero_modes: ZeroModes) -> lx.AbstractLinearSolver:
    """The solver for many right-hand sides, one after another: eigenvectors are computed once."""
    if not isinstance(solver, PseudoInverse):
        return solver
    eigenvalues, vectors = jnp.linalg.eigh(projected(hessian, zero_modes))
    return PseudoInverse((eigenvalues, vectors))


__all__ = ["PseudoInverse", "automatic", "bicgstab", "cg", "cholesky", "dense", "gmres", "minres"]
