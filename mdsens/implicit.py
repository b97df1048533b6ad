"""The derivative of anything that a condition defines: F(x, θ) = 0, whatever solver has found x.

Along dθ the condition stays met, so that x moves by

    dx = -A⁻¹ (∂F/∂θ) dθ,    A = ∂F/∂x

This is the implicit function theorem (Blondel et al., Efficient and Modular Implicit Differentiation, arXiv 2105.15183,
Eq. 2). The condition, the solver of x and the linear solver of the derivative are exchanged separately. Where A has a
null space, P is the projection off it, P A P + s (1 - P) takes the place of A, with s a typical size of A, and dx has
no part in it.

`implicit_function` returns what it is given; only its derivative is its own. The rule is differentiable in (x, θ), so
it holds to any order, forward and reverse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from . import linear_solvers
from .errors import InvalidInput, Status
from .linear_solvers import general
from .linear_solvers.base import SymmetricSolver
from .linear_solvers.cholesky import Cholesky
from .linear_solvers.dense import PseudoInverse
from .linear_solvers.solve import is_direct
from .runtime.black_box import as_template, call_on_host
from .runtime.linear_map import linear_map
from .runtime.tracing import frozen, is_concrete, outside_trace, with_arrays, with_closure

NULL_EXPONENT = 0.4
"""A push along the null space, or of it, is rounding below this power of the rounding unit, relative to others."""

Vector = Float[Array, " k"]


def root(
    condition: Callable[..., Any],
    *,
    symmetric: bool = False,
    linear_solver: lx.AbstractLinearSolver | None = None,
    null_space: Any = None,
    tolerance: float | None = None,
    has_aux: bool = False,
    callback: bool = False,
    like: Any = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a solver differentiable: a decorator for any `solver(start, *theta)` that returns x.

    The derivative is that of the condition alone. It works under `grad`, `jacfwd`, `jacrev`, `hessian`, `jit` and
    `vmap`, to any order. x and every θ are pytrees, whose integers, booleans and other objects are passed through.
    There is no derivative by `start` (an initial guess, or None) and by keyword arguments of the solver.

    **Arguments:**

    - `condition`: `condition(x, *theta)`, JAX code, is zero at x and has the structure and shapes of x. Arrays that it
      takes from an enclosing function are differentiated as those of θ are.
    - `symmetric` (bool): whether ∂F/∂x is symmetric, as where F is a gradient.
    - `linear_solver`: any of lineax, or `dense()` or `minres()` of `mdsens.linear_solvers` for symmetric conditions.
      None means `dense()` and, beyond 1200 unknowns, `minres()`; where not symmetric, LU factors and GMRES.
    - `null_space`: the directions that ∂F/∂x and its transpose annihilate, such as translations; x has no response
      along them. A basis, like x with a leading axis [m], or a function `project(x, u)` that returns u without its part
      there, which second derivatives need where the null space turns as x moves. If None, `dense()` finds the null
      space, and other solvers need a regular ∂F/∂x.
    - `tolerance`: the largest component of the condition allowed at x; None leaves that to the solver.
    - `has_aux` (bool): whether the solver returns (x, aux); aux is passed through without a derivative.
    - `callback` (bool): whether the solver is to be given NumPy arrays, and called from within `jit` and `vmap` by
      `jax.pure_callback`. Without it, too, a solver that is no JAX code works outside `jit` and `vmap`.
    - `like`: something with the structure, shapes and types of x, where `start` does not have them.

    **Returns** the decorator.

    **Raises**, from the decorated solver:

    - `InvalidInput`: the condition or the solver returns another structure than that of x, or an option does not fit.
    - `NotConverged`: outside `jit`, where the condition is not met to the tolerance.
    - `SolveFailed`: outside `jit`, when it is differentiated and ∂F/∂x is singular or has another null space.

    Inside `jit` and `vmap` x is NaN where the condition is not met to the tolerance, and such derivatives are NaN. A θ
    that pushes along the null space, where nothing balances it, is refused in forward mode; its derivative in reverse
    mode is NaN, and that of others beside it is not.

    **Reference:**

    - Blondel et al., Efficient and Modular Implicit Differentiation, arXiv 2105.15183 (2021), Eq. 2.
    """
    _check_options(linear_solver, symmetric)

    def differentiable(x: Any, theta: tuple[Any, ...]) -> Any:
        if not jax.tree.leaves(_real(x)) or any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(_real(x))):
            raise InvalidInput("there is no derivative of x: let it hold real arrays, not integers or complex numbers")
        explicit, result = with_closure(condition, x, *theta)
        _check_condition(result, x)
        theta = with_arrays((explicit, *theta))
        moving, rest = eqx.partition(x, eqx.is_inexact_array)
        solver = linear_solver or _automatic(ravel_pytree(moving)[0], symmetric)
        rule = ImplicitRule(rest, with_arrays(null_space), solver, symmetric, tolerance)
        met, found = rule.check(moving, theta), implicit_function(moving, theta, rule)
        if tolerance is not None:  # a factor, since a selection would hide the derivative's own NaN
            found = jax.tree.map(lambda leaf: leaf * jnp.where(met, 1.0, jnp.nan).astype(leaf.dtype), found)
        return eqx.combine(found, rest)

    def decorate(solver: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(solver)
        def solved(start: Any, *theta: Any, **options: Any) -> Any:
            if not is_concrete(eqx.filter(options, eqx.is_inexact_array)):
                raise InvalidInput("keyword arguments of a solver have no derivative: pass traced arrays by position")
            template, arguments = start if like is None else like, frozen((start, *theta))
            call = functools.partial(solver, **options)
            found = call_on_host(call, arguments, template, has_aux) if callback else call(*arguments)
            x, aux = found if has_aux else (found, None)
            x = differentiable(frozen(as_template(x, template)), theta)
            return (x, frozen(aux)) if has_aux else x

        return solved

    return decorate


@eqx.filter_custom_jvp
def implicit_function(x: Any, theta: Any, rule: Any) -> Any:
    """x, with the derivative `rule.response(x, theta)[0](change of theta)`, a differentiable function of (x, θ).

    **Arguments:**

    - `x`: a pytree of real arrays, which carries no derivative of its own.
    - `theta`: what x depends on.
    - `rule`: a module, such as `ImplicitRule`. `response(x, theta)` returns two pytrees that are called: the
      derivative, and the same by less code, which may fail with NaN, or None. `refused(theta)` returns the exception
      for a derivative that is not finite outside `jit`, as a function of the name of an argument or None; or None to
      let it pass. `solver` is the linear solver.
    """
    return x


@implicit_function.def_jvp
def _(primals: tuple[Any, Any, Any], tangents: tuple[Any, Any, Any]) -> tuple[Any, Any]:
    x, theta, rule = primals
    x, theta = with_arrays((implicit_function(x, theta, rule), theta))
    response, attempt = rule.response(x, theta)
    return x, linear_map(response, tangents[1], x, rule.refused(theta), attempt, not is_direct(rule.solver))


class ImplicitRule(eqx.Module):
    """How the root x of a condition moves with θ: θ[0] is the condition, `rest` what x has besides real arrays."""

    rest: Any
    null_space: Any
    solver: lx.AbstractLinearSolver
    symmetric: bool = eqx.field(static=True)
    tolerance: float | None = None

    def response(self, x: Any, theta: Any) -> tuple[Callable[[Any], Any], None]:
        """dx along a change of θ; NaN where it is refused, and `SolveFailed` raised outside `jit`."""
        fixed = frozen((self, x, theta))
        concrete = is_concrete(fixed)
        with outside_trace(concrete):
            known = frozen(_linear(*fixed))
        if concrete and not bool(known.defined):
            raise Status.SOLVE_FAILED.raised(what="the response of a root to its parameters")
        return eqx.Partial(_response, self, known, x, theta), None

    def refused(self, theta: Any) -> Callable[[str | None], Exception | None]:
        """A θ that nothing balances has a derivative that is NaN; one beside it may have a finite one."""

        def failed(name: str | None) -> Exception | None:
            if name is not None:
                return None
            return Status.SOLVE_FAILED.raised(what="the response of a root along this change of its parameters")

        return failed

    def check(self, x: Any, theta: Any) -> Bool[Array, ""] | bool:
        """Whether the condition is met. **Raises** `InvalidInput`, and `NotConverged` outside `jit` where it is not."""
        if self.null_space is not None and not callable(self.null_space):
            _check_basis(self.null_space, x)
        fixed = frozen((self, x, theta))
        if self.tolerance is None:
            return True
        if not is_concrete(fixed):
            return _largest(*fixed) <= self.tolerance
        with outside_trace():
            value = float(_largest(*fixed))
        if not value <= float(self.tolerance):
            raise Status.CONDITION_NOT_MET.raised(value=value, tolerance=float(self.tolerance))
        return True

    def flat(self, x: Any) -> tuple[Vector, Callable[[Vector, Any], Vector], Callable[[Vector], Any]]:
        """x as a vector, the condition as a function of such a vector and θ, and the way back from a vector."""
        start, unravel = ravel_pytree(x)

        def condition(v: Vector, theta: Any) -> Vector:
            value = theta[0](eqx.combine(unravel(v), self.rest), *theta[1:])
            return ravel_pytree(_real(value))[0].astype(start.dtype)

        return start, condition, unravel

    def projection(self, x: Any, null: Float[Array, "k m"] | None) -> general.Multiply | None:
        """The projection off the null space, that which is given or else a known one; None without any."""
        if callable(self.null_space):
            unravel, whole = ravel_pytree(x)[1], eqx.combine(x, self.rest)
            return lambda u: ravel_pytree(self.null_space(whole, unravel(u)))[0]
        if self.null_space is not None:
            null = general.orthonormal(jax.vmap(lambda n: ravel_pytree(n)[0])(_real(self.null_space)))
        return None if null is None else lambda u: u - null @ (null.T @ u)

    def solve(self, state: Any, transposed: bool = False) -> Callable[[general.Multiply, Vector], Vector]:
        """A⁻¹ b, as a function of what multiplies by A and of b."""
        return lambda multiply, b: general.solve(self.solver, state, multiply, b, self.symmetric, transposed)


class Linear(eqx.Module):
    """What is found once about A at one point, without derivatives.

    `state` is that of a direct solver, `null` the null space that the dense solver has found, `size` a typical size of
    A. `defined`: A is regular off its null space, the null space is one, and the condition is met. `unbalanced` is how
    much each θ pushes along a direction of the null space, and `pushes` along one of the whole space.
    """

    state: Any
    null: Float[Array, "k m"] | None
    size: Float[Array, ""]
    defined: Bool[Array, ""]
    unbalanced: Any = None
    pushes: Any = None


@eqx.filter_jit
def _linear(rule: ImplicitRule, x: Any, theta: Any) -> Linear:
    flat, condition, _ = rule.flat(x)
    value, multiply = jax.linearize(lambda v: condition(v, theta), flat)
    transposed = jax.linear_transpose(multiply, flat)
    probe = jnp.cos(jnp.arange(1.0, flat.size + 1.0) ** 2).astype(flat.dtype)  # along every null space that may occur
    probe, length = probe / jnp.linalg.norm(probe), jnp.linalg.norm
    size = length(multiply(probe))
    size, state, null = jnp.where(size > 0.0, size, 1.0), None, None
    if isinstance(rule.solver, PseudoInverse) and rule.null_space is None:
        eigen = general.factorize(rule.solver, multiply, flat, rule.symmetric)
        state, null = general.without_null_space(eigen, size)
    project = rule.projection(x, null)
    regular = _regular(multiply, project, size)
    state = general.factorize(rule.solver, regular, flat, rule.symmetric) if state is None else state
    limit = float(jnp.finfo(flat.dtype).eps) ** NULL_EXPONENT
    met = jnp.all(jnp.isfinite(value)) & (rule.tolerance is None or jnp.max(jnp.abs(value)) <= rule.tolerance)
    defined = met & jnp.all(jnp.isfinite(rule.solve(state)(regular, probe)))
    if rule.symmetric:
        defined = defined & (length(multiply(probe) - transposed(probe)[0]) <= limit * size)
    if project is None:
        return Linear(state, null, size, defined)
    along = probe - project(probe)
    annihilated = (length(multiply(along)) <= limit * size) & (length(transposed(along)[0]) <= limit * size)
    push = eqx.filter_vjp(lambda theta: condition(flat, theta), theta)[1]
    return Linear(state, null, size, defined & annihilated, push(along)[0], push(probe)[0])


def _response(rule: ImplicitRule, known: Linear, x: Any, theta: Any, change: Any) -> Any:
    flat, condition, unravel = rule.flat(x)
    multiply = jax.linearize(lambda v: condition(v, theta), flat)[1]
    project = rule.projection(x, known.null)
    regular, off_null = _regular(multiply, project, known.size), project or (lambda u: u)
    transposed = None if rule.symmetric else rule.solve(known.state, transposed=True)

    def moved(change: Any) -> Vector:
        change = change if project is None else _balanced(known, change)
        push = eqx.filter_jvp(lambda theta: condition(flat, theta), (theta,), (change,))[1]
        b = jnp.zeros_like(flat) if push is None else off_null(push)  # None: it depends on nothing that changes
        solve = rule.solve(known.state)
        return -off_null(jax.lax.custom_linear_solve(regular, b, solve, transposed, symmetric=rule.symmetric))

    return unravel(nan_unless(known.defined, moved, change))


@eqx.filter_jit
def _largest(rule: ImplicitRule, x: Any, theta: Any) -> Float[Array, ""]:
    flat, condition, _ = rule.flat(x)
    return jnp.max(jnp.abs(condition(flat, theta)))


def _regular(multiply: general.Multiply, project: general.Multiply | None, size: Float[Array, ""]) -> general.Multiply:
    if project is None:
        return multiply

    def regular(u: Vector) -> Vector:
        stiff = project(u)
        return project(multiply(stiff)) + size * (u - stiff)

    return regular


def _balanced(known: Linear, change: Any) -> Any:
    """The change of θ, NaN if it pushes along the null space; in reverse mode NaN for every θ that does."""
    pick = functools.partial(jax.tree.map, lambda t, push: None if t is None else push, is_leaf=lambda t: t is None)
    pushes, unbalanced = pick(change, known.pushes), pick(change, known.unbalanced)

    def allowed(push: Array) -> Array:
        return float(jnp.finfo(push.dtype).eps) ** NULL_EXPONENT * jnp.max(jnp.abs(push), initial=0.0)

    def forward(_: Any, change: Any) -> Any:
        total, most = (
            sum(jax.tree.leaves(jax.tree.map(term, change, unbalanced, pushes)))
            for term in (lambda t, u, p: jnp.sum(t * u), lambda t, u, p: allowed(p) * jnp.linalg.norm(t))
        )
        return jax.tree.map(lambda t: jnp.where(jnp.abs(total) <= most, t, jnp.nan), change)

    def reverse(_: Any, cotangent: Any) -> Any:
        mask = lambda t, u, p: jnp.where(jnp.abs(u) <= allowed(p), t, jnp.nan)  # noqa: E731
        return jax.tree.map(mask, cotangent, unbalanced, pushes)

    return jax.lax.custom_linear_solve(lambda change: change, change, forward, reverse)


def nan_unless(defined: Bool[Array, ""], linear: Callable[[Any], Array], change: Any) -> Array:
    """A linear function of a change; NaN throughout, forward and reverse, unless it is defined.

    A factor 1 or NaN on inputs and outputs reaches both modes; a selection (`jnp.where`) reaches forward mode only. The
    last term carries NaN to the derivatives by those inputs on which the function does not depend.
    """
    nan_mask = jnp.where(defined, 1.0, jnp.nan)
    masked = jax.tree.map(lambda t: t * nan_mask.astype(t.dtype), change)
    value = linear(masked)
    nan_carrier = sum(0.0 * jnp.sum(t).astype(value.dtype) for t in jax.tree.leaves(masked))
    return value * nan_mask.astype(value.dtype) + nan_carrier


def _check_condition(result: Any, x: Any) -> None:
    found, expected = _shapes(result), _shapes(x)
    if jax.tree.flatten(found) != jax.tree.flatten(expected):
        raise InvalidInput(
            f"the condition has the shapes {found}, and x has {expected}: return one equation for each unknown, in the "
            "structure of x"
        )


def _check_basis(basis: Any, x: Any) -> None:
    counts = {leaf.shape[:1] for leaf in jax.tree.leaves(_real(basis))}
    if len(counts) != 1 or jax.tree.flatten(_shapes(basis, 1)) != jax.tree.flatten(_shapes(x)):
        raise InvalidInput(
            f"null_space has the shapes {_shapes(basis)}: a basis of m directions has those of x, {_shapes(x)}, with m "
            "in front"
        )


def _shapes(tree: Any, skip: int = 0) -> Any:
    """The shapes of the real arrays, without the first axes."""
    return jax.tree.map(lambda leaf: leaf.shape[skip:], _real(tree))


def _real(tree: Any) -> Any:
    """The arrays that are differentiated, and None for everything else."""
    return eqx.filter(tree, lambda leaf: jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.inexact))


def _check_options(solver: lx.AbstractLinearSolver | None, symmetric: bool) -> None:
    if solver is not None and not isinstance(solver, lx.AbstractLinearSolver):
        raise InvalidInput(f"linear_solver={solver!r} is no linear solver: take one of lineax or mdsens.linear_solvers")
    if isinstance(solver, Cholesky):
        raise InvalidInput("linear_solvers.cholesky() is for sums over pairs of particles: take dense() or minres()")
    if isinstance(solver, SymmetricSolver | lx.CG | lx.Cholesky) and not symmetric:
        raise InvalidInput(
            f"{type(solver).__name__} is for symmetric conditions, such as gradients: say so (symmetric=True), or take "
            "lineax.LU(), gmres() or bicgstab()"
        )


def _automatic(x: Vector, symmetric: bool) -> lx.AbstractLinearSolver:
    small = x.size <= linear_solvers.DENSE_UP_TO
    if symmetric:
        return linear_solvers.dense() if small else linear_solvers.minres()
    return lx.LU() if small else linear_solvers.gmres(float(jnp.finfo(x.dtype).eps) ** 0.5)
