"""MINRES, as a solver for lineax: symmetric systems, definite or not, singular or not."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .base import SymmetricSolver

Vector = Float[Array, " k"]
Scalar = Float[Array, ""]


class Minres(SymmetricSolver):
    """The minimum residual method of Paige and Saunders (SIAM J. Numer. Anal. 12, 617 (1975)).

    With a right-hand side that has a part in the null space its residual ends as that part, while conjugate gradients
    diverge. It needs one product a step, as they do. The result is `max_steps_reached` where the steps ran out.

    **Arguments:**

    - `tolerance`: of the residual relative to the right-hand side; the root of machine precision if None.
    - `max_steps`: ten for each unknown if None.

    lineax's `options` may hold `flat`, the curvature relative to the largest below which the rest counts as a part in
    the null space, and `floor`, the length of a residual that is rounding.

    **Reference:**

    - Singular systems: Choi, Paige and Saunders, SIAM J. Sci. Comput. 33, 1810 (2011).
    """

    tolerance: float | None = None
    max_steps: int | None = None

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> lx.AbstractLinearOperator:
        return lx.linearise(operator)

    def compute(
        self, state: lx.AbstractLinearOperator, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        eps = float(jnp.finfo(vector.dtype).eps)
        tolerance = eps**0.5 if self.tolerance is None else self.tolerance
        most = 10 * vector.size if self.max_steps is None else self.max_steps
        size = jnp.linalg.norm(vector)
        enough = jnp.maximum(tolerance * size, options.get("floor", 0.0))
        flat = options.get("flat", eps**0.6)

        def unsolved(run: _Run) -> Array:
            return (run.residual > enough) & (run.slope > flat * run.largest)

        def unfinished(run: _Run) -> Array:
            return unsolved(run) & (run.steps < most)

        def step(run: _Run) -> _Run:
            after = _step(run, state.mv)
            at_rest = after.slope <= flat * after.largest  # then the step would divide by nothing
            return eqx.tree_at(lambda run: run.x, after, jnp.where(at_rest, run.x, after.x))

        run = jax.lax.while_loop(unfinished, step, _begin(vector))
        finite = jnp.all(jnp.isfinite(run.x))
        result = lx.RESULTS.where(unsolved(run), lx.RESULTS.max_steps_reached, lx.RESULTS.successful)
        result = lx.RESULTS.where(finite, result, lx.RESULTS.breakdown)
        return run.x, result, {"num_steps": run.steps}


class _Lanczos(NamedTuple):
    """Two unnormalized Lanczos vectors and their lengths."""

    before: Vector
    here: Vector
    beta_before: Scalar
    beta: Scalar


class _Run(eqx.Module):
    x: Vector
    w: tuple[Vector, Vector]
    lanczos: _Lanczos
    cos: Scalar
    sin: Scalar
    dbar: Scalar
    epsilon: Scalar
    residual: Scalar
    slope: Scalar
    """|A r| / |r| before the last step."""
    largest: Scalar
    steps: Array


def _begin(b: Vector) -> _Run:
    zero, size = jnp.zeros((), b.dtype), jnp.linalg.norm(b)
    nothing = jnp.zeros_like(b)
    lanczos = _Lanczos(nothing, b, jnp.ones_like(zero), size)
    far = jnp.asarray(jnp.inf, b.dtype)
    steps = jnp.asarray(0, jnp.int32)
    return _Run(nothing, (nothing, nothing), lanczos, zero - 1.0, zero, zero, zero, size, far, zero, steps)


def _step(run: _Run, multiply: Any) -> _Run:
    """One step of the Lanczos process, one Givens rotation, one update; the names are those of the paper."""
    before, here, beta_before, beta = run.lanczos
    v = here / beta
    along = multiply(v) - jnp.where(run.steps > 0, beta / beta_before, 0.0) * before
    alpha = v @ along
    after = along - (alpha / beta) * here
    beta_after = jnp.linalg.norm(after)

    delta = run.cos * run.dbar + run.sin * alpha
    gbar = run.sin * run.dbar - run.cos * alpha
    epsilon, dbar = run.sin * beta_after, -run.cos * beta_after
    slope = jnp.hypot(gbar, dbar)
    gamma = jnp.maximum(jnp.hypot(gbar, beta_after), jnp.finfo(v.dtype).tiny)
    cos, sin = gbar / gamma, beta_after / gamma
    w = (v - run.epsilon * run.w[0] - delta * run.w[1]) / gamma
    return _Run(
        x=run.x + cos * run.residual * w,
        w=(run.w[1], w),
        lanczos=_Lanczos(here, after, beta, beta_after),
        cos=cos,
        sin=sin,
        dbar=dbar,
        epsilon=epsilon,
        residual=jnp.abs(sin) * run.residual,
        slope=slope,
        largest=jnp.maximum(run.largest, jnp.hypot(jnp.abs(alpha), beta_after)),
        steps=run.steps + 1,
    )
