"""H⁺ b with any of the linear solvers, in two steps: factors once, then a solution for each right-hand side."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from ..errors import InvalidInput
from ..landscape.hessian import Displacements, Hessian
from ..landscape.thresholds import ZERO_EIGENVALUE_EXPONENT
from ..landscape.zero_modes import ZeroModes
from .cholesky import Cholesky
from .dense import PseudoInverse
from .minres import Minres
from .refinement import Multiply, refine, refine_regular

TAGS = (lx.symmetric_tag, lx.positive_semidefinite_tag)


DENSE_UP_TO = 1200
"""Degrees of freedom up to which the dense solver is chosen, where there are no sparse factors or they fail."""

DIRECT = lx.LU | lx.QR | lx.SVD | lx.Cholesky | lx.AutoLinearSolver
"""Solvers of lineax that need a matrix; any other one is given a function that multiplies by it."""


def is_direct(solver: lx.AbstractLinearSolver) -> bool:
    """Whether it solves by factors, not by many products."""
    return isinstance(solver, PseudoInverse | Cholesky | DIRECT)


def factorize(solver: lx.AbstractLinearSolver, hessian: Hessian, modes: ZeroModes) -> Any:
    """What a solver computes once for many right-hand sides, as arrays; None for solvers that need products alone.

    - `PseudoInverse`: eigenvalues and eigenvectors of P H P.
    - `Cholesky`: the entries of H / |H| plus a small multiple of the identity; sparsax keeps their numeric factors.
    - Direct solvers of lineax: the matrix of P H P / |H| + (1 - P), P the projection off the known zero modes.
    """
    if isinstance(solver, PseudoInverse):
        return solver.init(lx.MatrixLinearOperator(modes.project_matrix(hessian), TAGS), {})
    unit = unit_of(hessian)
    if isinstance(solver, Cholesky):
        if not hessian.has_entries:
            raise InvalidInput("the sparse direct solver is for sums over pairs: take minres()")
        eps = float(jnp.finfo(unit.dtype).eps)
        rows, columns, values = hessian.entries(eps**0.5 * unit)
        identity = (rows == columns).astype(unit.dtype)  # CHOLMOD raises on NaN, even under jit
        return rows, columns, jnp.where(jnp.isfinite(jnp.sum(values)), values / unit, identity)
    if not isinstance(solver, DIRECT):
        return None
    n, d = modes.rigid.shape[1:]
    identity = jnp.eye(n * d, dtype=unit.dtype)
    kept = jax.vmap(modes.project)(identity.reshape(n * d, n, d)).reshape(n * d, n * d)
    return modes.project_matrix(hessian) / unit + identity - kept


def solve(
    solver: lx.AbstractLinearSolver,
    factors: Any,
    hessian: Hessian,
    modes: ZeroModes,
    unit: Float[Array, ""],
    b: Displacements,
) -> Displacements:
    """(P H P)⁺ b, P the projection off the known zero modes, to which b is orthogonal; NaN if it cannot be trusted.

    **Arguments:**

    - `unit`: `unit_of` the Hessian.
    """
    size = jnp.linalg.norm(b)
    direction = b / jnp.where(size > 0.0, size, 1.0)
    if isinstance(solver, PseudoInverse):
        return size * _from_factors(solver, factors, direction)

    def multiply(u: Displacements) -> Displacements:
        """Of u without a part along the zero modes."""
        return modes.project(hessian.product(u)) / unit

    flat = float(jnp.finfo(b.dtype).eps) ** ZERO_EIGENVALUE_EXPONENT
    invert = _inverter(solver, factors, hessian, modes, multiply, unit, flat)
    if isinstance(solver, Cholesky) and solver.regular:
        return size / unit * refine_regular(invert, multiply, direction)
    x = refine(invert, multiply, direction)
    if isinstance(solver, Cholesky) and solver.falls_back:
        x = _rescued(x, hessian, modes, multiply, direction, unit, flat)
    if not isinstance(solver, Minres | Cholesky):
        # A part that A all but annihilates is invisible to multiply: such a solution is not of minimum norm.
        again = _minres(multiply, multiply(x), flat, jnp.zeros_like(size))
        x = jnp.where(jnp.linalg.norm(x - again) <= 1e2 * flat**0.5 * jnp.linalg.norm(x), x, jnp.nan)
    return size / unit * x


def _rescued(
    x: Displacements,
    hessian: Hessian,
    modes: ZeroModes,
    multiply: Multiply,
    b: Displacements,
    unit: Float[Array, ""],
    flat: float,
) -> Displacements:
    """x, or where it is NaN the solution by the solver that is chosen where there are no factors.

    Under `vmap` columns that need none cost MINRES two products, for a right-hand side of zero.
    """
    failed = ~jnp.all(jnp.isfinite(x))
    if b.size <= DENSE_UP_TO:
        return jnp.where(failed, unit * _by_eigenvectors(hessian, modes, failed, b), x)
    invert = _inverter(Minres(), None, hessian, modes, multiply, unit, flat)
    return jnp.where(failed, refine(invert, multiply, jnp.where(failed, b, 0.0)), x)


@jax.custom_batching.custom_vmap
def _by_eigenvectors(hessian: Hessian, modes: ZeroModes, wanted: Bool[Array, ""], b: Displacements) -> Displacements:
    """H⁺ b by eigenvectors where it is wanted, else zero."""
    return _by_eigenvectors_of_any(hessian, modes, wanted[None], b[None])[0]


@_by_eigenvectors.def_vmap
def _(size: int, batched: Any, hessian: Any, modes: Any, wanted: Array, b: Array) -> tuple[Array, bool]:
    """One set of eigenvectors for all right-hand sides; a selection would compute them where none is wanted."""
    wanted, b = (
        a if each else jnp.broadcast_to(a, (size, *a.shape)) for a, each in zip((wanted, b), batched[2:], strict=True)
    )
    if not any(jax.tree.leaves(batched[:2])):
        return _by_eigenvectors_of_any(hessian, modes, wanted, b), True
    each, shared = eqx.partition((hessian, modes), tuple(batched[:2]))

    def one(given: Any) -> Array:
        own, wanted, b = given
        return _by_eigenvectors(*eqx.combine(own, shared), wanted, b)

    return jax.lax.map(one, (each, wanted, b)), True


def _by_eigenvectors_of_any(hessian: Hessian, modes: ZeroModes, wanted: Array, b: Array) -> Array:
    solver = PseudoInverse()

    def found() -> Array:
        factors = factorize(solver, hessian, modes)
        return jax.vmap(lambda b: _from_factors(solver, factors, b))(b)

    return jax.lax.cond(jnp.any(wanted), found, lambda: jnp.zeros_like(b))


def unit_of(hessian: Hessian) -> Float[Array, ""]:
    """The typical eigenvalue by which the matrix is scaled; not differentiated."""
    scale = jax.lax.stop_gradient(hessian.scale())
    return jnp.where(scale > 0.0, scale, 1.0)


def _inverter(
    solver: lx.AbstractLinearSolver,
    factors: Any,
    hessian: Hessian,
    modes: ZeroModes,
    multiply: Multiply,
    unit: Float[Array, ""],
    flat: float,
) -> Any:
    """One rough solve, for the refinement."""

    def by_minres(b: Displacements, floor: Float[Array, ""], _floppy: Bool[Array, ""] | None) -> Displacements:
        # b has no part along the zero modes, which H annihilates anyway: no projections are needed
        assert isinstance(solver, Minres)
        return modes.project(_minres(lambda u: hessian.product(u) / unit, b, flat, floor, solver))

    def by_factors(b: Displacements, _floor: Float[Array, ""], floppy: Bool[Array, ""] | None) -> Displacements:
        assert isinstance(solver, Cholesky)
        once = _scaled(b, lambda unit_b: _from_factors(solver, factors, unit_b))
        if floppy is None:
            return modes.project(once)

        def twice() -> Displacements:
            return _scaled(multiply(once), lambda unit_b: _from_factors(solver, factors, unit_b))

        # the addition to the diagonal magnifies rounding along unknown zero modes
        return modes.project(jax.lax.cond(floppy, twice, lambda: once))

    def regular(u: Displacements) -> Displacements:
        stiff = modes.project(u)
        return multiply(stiff) + (u - stiff)

    def by_lineax(b: Displacements, _floor: Float[Array, ""], _floppy: Bool[Array, ""] | None) -> Displacements:
        structure = jax.ShapeDtypeStruct((b.size,), b.dtype)
        operator: lx.AbstractLinearOperator
        operator = lx.FunctionLinearOperator(lambda v: regular(v.reshape(b.shape)).ravel(), structure, TAGS)
        if factors is not None:
            operator = lx.MatrixLinearOperator(factors, TAGS)

        def found(unit_b: Displacements) -> Displacements:
            return lx.linear_solve(operator, unit_b.ravel(), solver, throw=False).value.reshape(b.shape)

        return modes.project(_scaled(b, found))

    if isinstance(solver, Minres):
        return by_minres
    return by_factors if isinstance(solver, Cholesky) else by_lineax


def _scaled(b: Displacements, solve_unit: Multiply) -> Displacements:
    """Solves for b scaled to length 1, since lineax compares with absolute tolerances; zero for zero."""
    size = jnp.linalg.norm(b)
    found = solve_unit(b / jnp.where(size > 0.0, size, 1.0))
    return jnp.where(size > 0.0, size * found, 0.0)


def _from_factors(solver: Cholesky | PseudoInverse, factors: Any, b: Displacements) -> Displacements:
    """A solve with factors that are known."""
    return solver.compute(factors, b.ravel(), {})[0].reshape(b.shape)


def _minres(
    product: Multiply,
    b: Displacements,
    flat: float,
    floor: Float[Array, ""],
    solver: Minres | None = None,
) -> Displacements:
    structure = jax.ShapeDtypeStruct((b.size,), b.dtype)
    operator = lx.FunctionLinearOperator(lambda v: product(v.reshape(b.shape)).ravel(), structure, TAGS)
    size = jnp.linalg.norm(b)
    scale = jnp.where(size > 0.0, size, 1.0)
    options = {"flat": flat, "floor": floor / scale}
    found, _, _ = (solver or Minres()).compute(operator, (b / scale).ravel(), options)
    return jnp.where(size > 0.0, size * found.reshape(b.shape), 0.0)
