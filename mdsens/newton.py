"""Newton's method for the last digits, where a first-order minimizer has let the contacts settle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .hessian import Displacements, Hessian, gradient, hessian
from .long_waves import amplifier
from .neighbors import Neighbors
from .potentials import Potential
from .system import System, largest, largest_length

Scalar = Float[Array, ""]

POWER = 1.6
"""By which residuals follow what the last step brought."""


@dataclasses.dataclass(frozen=True)
class Newton:
    """How the last digits are found: by truncated Newton steps with a line search (Dembo and Steihaug, Math.
    Program. 26, 190 (1983)), on the Hessian plus `damping` times the forces, so that soft modes do not run away
    while contacts still change (Li, Fukushima, Qi and Yamashita, Comput. Optim. Appl. 28, 131 (2004)).

    **Arguments:** `begin`, the largest force component at which to try, in units of stiffness × diameter;
    `residual`, relative, to which a step is solved for by conjugate gradients: between the two given, the closer the
    more the last step brought (Eisenstat and Walker, SIAM J. Sci. Comput. 17, 16 (1996), their second choice);
    `damping`, in units of the root mean square of the forces over the diameter; `patience`, the steps within which the
    forces have to fall to a half, all together: a step along soft modes opens and closes contacts, whose forces the
    next ones balance; `max_steps` of one try; `long_waves`, whether those of large periodic systems are hastened
    (`mdsens.long_waves`). A try that fails is forgotten, and the next one made where the minimizer has brought the
    forces down to a hundredth.
    """

    begin: float = 1e-6
    residual: tuple[float, float] = (1e-3, 0.3)
    damping: float = 10.0
    patience: int = 6
    max_steps: int = 80
    long_waves: bool = True


class Finish(eqx.Module):
    """Where Newton's method stands: `steps` of this try, Hessian `products` and `forces` computed in all, the largest
    force it was `begun_at`, the norms of those of the last steps `before`; `outgrown` where it wants a new list, `lost`
    where there was no lower slope along a step.
    """

    positions: Float[Array, "n d"]
    slope: Displacements
    steps: Int[Array, ""]
    products: Int[Array, ""]
    forces: Int[Array, ""]
    begun_at: Scalar
    before: Float[Array, " k"]
    outgrown: Bool[Array, ""]
    lost: Bool[Array, ""]

    @property
    def max_force(self) -> Scalar:
        return largest(jnp.abs(self.slope))

    def given_up(self, newton: Newton) -> Bool[Array, ""]:
        hopeless = jnp.linalg.norm(self.slope) > 0.5 * self.before[0]
        return hopeless | self.lost | (self.steps >= newton.max_steps) | ~jnp.isfinite(self.max_force)


@eqx.filter_jit
def finish(
    newton: Newton,
    potential: Potential,
    system: System,
    list_: Neighbors,
    highest: Scalar,
    tolerance: Scalar,
    longest_move: Scalar,
) -> Finish:
    """Newton steps until the forces are small, it is given up, or the list has to be made anew; none where a force
    is larger than `highest`.
    """
    size = jnp.mean(system.diameters)
    amplify = amplifier(system.replace(positions=list_.reference), newton.long_waves)

    def slope_at(x: Float[Array, "n d"]) -> Displacements:
        return gradient(potential, system.replace(positions=x), list_)

    def go_on(run: Finish) -> Bool[Array, ""]:
        return (run.begun_at <= highest) & (run.max_force > tolerance) & ~run.given_up(newton) & ~run.outgrown

    def step(run: Finish) -> Finish:
        matrix = hessian(potential, system.replace(positions=run.positions), list_)
        damping = newton.damping * jnp.sqrt(jnp.mean(run.slope**2)) / size
        brought = jnp.where(run.steps > 0, jnp.linalg.norm(run.slope) / run.before[-1], 1.0)
        move, products = _newton_step(matrix, run.slope, damping, jnp.clip(brought**POWER, *newton.residual), amplify)
        longest = largest_length(move)
        allowed = jnp.minimum(longest_move, list_.room(run.positions))
        move = move * jnp.where(longest > allowed, allowed / jnp.where(longest > allowed, longest, 1.0), 1.0)
        x, slope, forces = _line_search(slope_at, run.positions, move, run.slope)
        return Finish(
            positions=x,
            slope=slope,
            steps=run.steps + 1,
            products=run.products + products,
            forces=run.forces + forces,
            begun_at=run.begun_at,
            before=jnp.append(run.before[1:], jnp.linalg.norm(run.slope)),
            outgrown=list_.worn(list_.room(x)),
            lost=forces == MOST_TRIALS,
        )

    slope = slope_at(system.positions)
    begun_at, none = largest(jnp.abs(slope)), jnp.asarray(0, jnp.int32)
    before, worn = jnp.full(newton.patience, jnp.inf, size.dtype), list_.worn(list_.room(system.positions))
    start = Finish(system.positions, slope, none, none, none, begun_at, before, worn, jnp.asarray(False))
    return jax.lax.while_loop(go_on, step, start)


class _Line(eqx.Module):
    """A point on the way, at the fraction `there` of it, between `low` (downhill) and `high` (uphill)."""

    there: Scalar
    x: Float[Array, "n d"]
    slope: Displacements
    along: Scalar
    low: tuple[Scalar, Scalar]
    high: tuple[Scalar, Scalar]
    forces: Int[Array, ""]


MOST_TRIALS = 12
"""Forces in one line search; two are common."""


def _line_search(
    slope_at: Callable[[Float[Array, "n d"]], Displacements],
    x: Float[Array, "n d"],
    move: Displacements,
    slope: Displacements,
) -> tuple[Float[Array, "n d"], Displacements, Int[Array, ""]]:
    """To where the slope along a downhill move has fallen to a third, or to its end: by forces, since energies of
    large systems differ by less than their rounding.
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
    matrix: Hessian,
    slope: Displacements,
    damping: Scalar,
    residual: Scalar,
    amplify: Callable[[Displacements], Displacements],
) -> tuple[Displacements, Int[Array, ""]]:
    """-(H + damping)⁻¹ slope, roughly, by conjugate gradients; until there is a direction of no curvature."""
    stiffness = matrix.site_stiffness()[:, None] + damping
    weight = 1.0 / jnp.where(stiffness > 1e-2 * matrix.scale(), stiffness, matrix.scale())
    typical = jnp.mean(weight)
    enough = residual * jnp.linalg.norm(slope)
    most = 200 + int(10 * slope.size**0.5)

    def precondition(rest: Displacements) -> Displacements:
        return (weight - typical) * rest + typical * amplify(rest)

    def unfinished(run: _Krylov) -> Bool[Array, ""]:
        return (jnp.linalg.norm(run.residual) > enough) & (run.products < most) & (run.curvature > 0.0)

    def step(run: _Krylov) -> _Krylov:
        bent = matrix.product(run.direction) + damping * run.direction
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
