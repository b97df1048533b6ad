"""Newton's method for the last digits, once a first-order minimizer has let the contacts settle."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..geometry import largest, largest_length
from ..landscape.configuration import Configuration
from ..landscape.hessian import Displacements, Hessian
from ..linear_solvers.fourier_preconditioner import fourier_preconditioner
from ..neighbors import Neighbors
from ..runtime.settings import Settings, number

Scalar = Float[Array, ""]

FORCING_POWER = 1.6
"""The residual of a step follows this power of what the last step gained."""

MOST_TRIALS = 12
"""Forces in one line search; two are common."""


class Newton(Settings):
    """Truncated Newton steps with a line search, on the Hessian plus a multiple of the forces.

    The multiple keeps soft modes from running away while contacts still change. An attempt that fails is discarded,
    and the next one made where the minimizer has brought the forces down to a hundredth.

    **Arguments:**

    - `begin`: the largest force component at which to try, in units of stiffness × diameter.
    - `loosest`, `tightest`: the relative residuals between which a step is solved for by conjugate gradients, the
      tighter the more the last step gained.
    - `damping`: the multiple, in units of the root mean square force over the diameter.
    - `patience`: the number of steps within which the norm of the forces has to halve. A step along soft modes opens
      and closes contacts, whose forces the next steps balance.
    - `max_steps`: of one attempt.
    - `precondition` (bool): whether to use the Fourier preconditioner in large periodic systems.

    **Reference:**

    - Dembo and Steihaug, Math. Program. 26, 190 (1983): truncation.
    - Li, Fukushima, Qi and Yamashita, Comput. Optim. Appl. 28, 131 (2004): damping.
    - Eisenstat and Walker, SIAM J. Sci. Comput. 17, 16 (1996), second choice: residuals.
    """

    begin: Scalar = number(1e-6)
    tightest: Scalar = number(1e-3)
    loosest: Scalar = number(0.3)
    damping: Scalar = number(10.0)
    patience: int = eqx.field(default=6, static=True)
    max_steps: Scalar = number(80)
    precondition: bool = eqx.field(default=True, static=True)


class NewtonState(eqx.Module):
    """The state of an attempt: `steps`, Hessian `products` and `forces` so far, the largest force `begun_at`, the
    norms of the forces `before` the last steps; `needs_rebuild` of the list; `lost` where no step leads downhill.
    """

    positions: Float[Array, "n d"]
    slope: Displacements
    steps: Int[Array, ""]
    products: Int[Array, ""]
    forces: Int[Array, ""]
    begun_at: Scalar
    before: Float[Array, " k"]
    needs_rebuild: Bool[Array, ""]
    lost: Bool[Array, ""]

    @property
    def max_force(self) -> Scalar:
        return largest(jnp.abs(self.slope))

    def given_up(self, newton: Newton) -> Bool[Array, ""]:
        hopeless = jnp.linalg.norm(self.slope) > 0.5 * self.before[0]
        return hopeless | self.lost | (self.steps >= newton.max_steps) | ~jnp.isfinite(self.max_force)


@eqx.filter_jit
def newton_descent(
    newton: Newton,
    configuration: Configuration,
    slope: Displacements,
    tolerance: Scalar,
    longest_move: Scalar,
) -> NewtonState:
    """Newton steps until the forces are below the tolerance, the attempt fails, or the list has to be rebuilt.

    `slope` [n, d] is the gradient of the energy at the start.
    """
    system, neighbors = configuration.system, configuration.neighbors
    assert isinstance(neighbors, Neighbors)
    size, dtype = configuration.length, system.positions.dtype
    damping_unit = newton.damping.astype(dtype) / size
    tightest, loosest = newton.tightest.astype(dtype), newton.loosest.astype(dtype)
    precondition = fourier_preconditioner(system.replace(positions=neighbors.reference), newton.precondition)

    def slope_at(x: Float[Array, "n d"]) -> Displacements:
        return configuration.at(x).gradient()

    def go_on(run: NewtonState) -> Bool[Array, ""]:
        return (run.max_force > tolerance) & ~run.given_up(newton) & ~run.needs_rebuild

    def step(run: NewtonState) -> NewtonState:
        hessian = configuration.at(run.positions).hessian()
        damping = damping_unit * jnp.sqrt(jnp.mean(run.slope**2))
        gained = jnp.where(run.steps > 0, jnp.linalg.norm(run.slope) / run.before[-1], 1.0)
        residual = jnp.clip(gained**FORCING_POWER, tightest, loosest)
        move, products = _newton_step(hessian, run.slope, damping, residual, precondition)
        longest = largest_length(move)
        allowed = jnp.minimum(longest_move, neighbors.room(run.positions))
        move = move * jnp.where(longest > allowed, allowed / jnp.where(longest > allowed, longest, 1.0), 1.0)
        x, slope, forces = _line_search(slope_at, run.positions, move, run.slope)
        return NewtonState(
            positions=x,
            slope=slope,
            steps=run.steps + 1,
            products=run.products + products,
            forces=run.forces + forces,
            begun_at=run.begun_at,
            before=jnp.append(run.before[1:], jnp.linalg.norm(run.slope)),
            needs_rebuild=neighbors.needs_rebuild(neighbors.room(x)),
            lost=forces == MOST_TRIALS,
        )

    x = system.positions
    none = jnp.asarray(0, jnp.int32)
    before, rebuild = jnp.full(newton.patience, jnp.inf, dtype), neighbors.needs_rebuild(neighbors.room(x))
    start = NewtonState(x, slope, none, none, none, largest(jnp.abs(slope)), before, rebuild, jnp.asarray(False))
    return jax.lax.while_loop(go_on, step, start)


class _Line(eqx.Module):
    """The trial point `x` at the fraction `there` of a move, and the slope `along` it; the `next` one is between `low`,
    where the move leads downhill, and `high`, where it leads uphill: each the fraction and the slope along the move.
    """

    there: Scalar
    next: Scalar
    x: Float[Array, "n d"]
    slope: Displacements
    along: Scalar
    low: Float[Array, "2"]
    high: Float[Array, "2"]
    forces: Int[Array, ""]


def _line_search(
    slope_at: Callable[[Float[Array, "n d"]], Displacements],
    x: Float[Array, "n d"],
    move: Displacements,
    slope: Displacements,
) -> tuple[Float[Array, "n d"], Displacements, Int[Array, ""]]:
    """Goes to where the slope along a downhill move has fallen to a third, or to its end.

    It compares forces, since the energies of large systems differ by less than their rounding.
    """
    first = jnp.sum(slope * move)

    def unfinished(line: _Line) -> Bool[Array, ""]:
        enough = (jnp.abs(line.along) <= 0.3 * jnp.abs(first)) | ((line.along < 0.0) & (line.there >= 1.0))
        return (line.forces == 0) | (~enough & (line.forces < MOST_TRIALS))

    def trial(line: _Line) -> _Line:
        there = x + line.next * move
        slope = slope_at(there)
        along = jnp.sum(slope * move)
        uphill, end = along > 0.0, jnp.stack([line.next, along])
        low, high = jnp.where(uphill, line.low, end), jnp.where(uphill, end, line.high)
        share = jnp.clip(-low[1] / (high[1] - low[1]), 0.1, 0.9)  # by the secant
        return _Line(line.next, low[0] + (high[0] - low[0]) * share, there, slope, along, low, high, line.forces + 1)

    one, none = jnp.ones_like(first), jnp.zeros_like(first)
    ends = jnp.stack([none, first]), jnp.stack([one, -first])
    start = _Line(none, one, x, slope, first, *ends, jnp.asarray(0, jnp.int32))
    line = jax.lax.while_loop(unfinished, trial, start)
    return line.x, line.slope, line.forces


class _Krylov(eqx.Module):
    x: Displacements
    residual: Displacements
    direction: Displacements
    along: Scalar
    curvature: Scalar
    products: Int[Array, ""]


def _newton_step(
    hessian: Hessian,
    slope: Displacements,
    damping: Scalar,
    residual: Scalar,
    precondition_waves: Callable[[Displacements], Displacements],
) -> tuple[Displacements, Int[Array, ""]]:
    """-(H + damping)⁻¹ slope to the residual, by conjugate gradients; they end at a direction without curvature."""
    stiffness = hessian.site_stiffness()[:, None] + damping
    weight = 1.0 / jnp.where(stiffness > 1e-2 * hessian.scale(), stiffness, hessian.scale())
    typical = jnp.mean(weight)
    enough = residual * jnp.linalg.norm(slope)
    most = 200 + int(10 * slope.size**0.5)

    def precondition(rest: Displacements) -> Displacements:
        return (weight - typical) * rest + typical * precondition_waves(rest)

    def unfinished(run: _Krylov) -> Bool[Array, ""]:
        return (jnp.linalg.norm(run.residual) > enough) & (run.products < most) & (run.curvature > 0.0)

    def step(run: _Krylov) -> _Krylov:
        scaled = precondition(run.residual)
        along = jnp.sum(run.residual * scaled)
        direction = scaled + along / run.along * run.direction
        bent = hessian.product(direction) + damping * direction
        curvature = jnp.sum(direction * bent)
        share = jnp.where(curvature > 0.0, along / jnp.where(curvature > 0.0, curvature, 1.0), 0.0)
        x, residual = run.x + share * direction, run.residual - share * bent
        return _Krylov(x, residual, direction, along, curvature, run.products + 1)

    none, one = jnp.zeros_like(slope), jnp.ones_like(damping)
    start = _Krylov(none, -slope, none, one, one, jnp.asarray(0, jnp.int32))
    run = jax.lax.while_loop(unfinished, step, start)
    return jnp.where(jnp.any(run.x != 0.0), run.x, run.direction), run.products
