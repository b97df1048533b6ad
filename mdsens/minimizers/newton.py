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
    tolerance: Scalar,
    longest_move: Scalar,
) -> NewtonState:
    """Newton steps until the forces are below the tolerance, the attempt fails, or the list has to be rebuilt."""
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
    slope, none = slope_at(x), jnp.asarray(0, jnp.int32)
    before, rebuild = jnp.full(newton.patience, jnp.inf, dtype), neighbors.needs_rebuild(neighbors.room(x))
    start = NewtonState(x, slope, none, none, none, largest(jnp.abs(slope)), before, rebuild, jnp.asarray(False))
    return jax.lax.while_loop(go_on, step, start)


class _Line(eqx.Module):
    """A trial point at the fraction `there` of a move, between `low` (downhill) and `high` (uphill)."""

    there: Scalar
    x: Float[Array, "n d"]
    slope: Displacements
    along: Scalar
    low: tuple[Scalar, Scalar]
    high: tuple[Scalar, Scalar]
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

    def at(there: Scalar, low: tuple[Scalar, Scalar], high: tuple[Scalar, Scalar], forces: Array) -> _Line:
        here = x + there * move
        slope = slope_at(here)
        return _Line(there, here, slope, jnp.sum(slope * move), low, high, forces + 1)

    def unfinished(line: _Line) -> Bool[Array, ""]:
        enough = (jnp.abs(line.along) <= 0.3 * jnp.abs(first)) | ((line.along < 0.0) & (line.there >= 1.0))
        return ~enough & (line.forces < MOST_TRIALS)

    def narrow(line: _Line) -> _Line:
        uphill, here = line.along > 0.0, (line.there, line.along)
        low, high = (
            jax.tree.map(lambda new, old, choose=choose: jnp.where(choose, new, old), here, end)
            for choose, end in ((~uphill, line.low), (uphill, line.high))
        )
        share = jnp.clip(-low[1] / (high[1] - low[1]), 0.1, 0.9)  # by the secant
        return at(low[0] + (high[0] - low[0]) * share, low, high, line.forces)

    one, none = jnp.ones_like(first), jnp.zeros_like(first)
    start = at(one, (none, first), (one, -first), jnp.asarray(0, jnp.int32))
    line = jax.lax.while_loop(unfinished, narrow, start)
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
        bent = hessian.product(run.direction) + damping * run.direction
        curvature = jnp.sum(run.direction * bent)
        share = jnp.where(curvature > 0.0, run.along / jnp.where(curvature > 0.0, curvature, 1.0), 0.0)
        rest = run.residual - share * bent
        scaled = precondition(rest)
        along = jnp.sum(rest * scaled)
        direction = scaled + along / run.along * run.direction
        return _Krylov(run.x + share * run.direction, rest, direction, along, curvature, run.products + 1)

    first = -precondition(slope)
    start = _Krylov(
        jnp.zeros_like(slope), -slope, first, -jnp.sum(slope * first), jnp.ones_like(damping), jnp.asarray(0, jnp.int32)
    )
    run = jax.lax.while_loop(unfinished, step, start)
    return jnp.where(jnp.any(run.x != 0.0), run.x, first), run.products
