"""The Fast Inertial Relaxation Engine."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..linear_solvers.fourier_preconditioner import fourier_preconditioner
from ..runtime.settings import number
from ..system import System
from .base import ForceFunction, Minimizer, Positions, ShiftFunction, StepFunctions

SHORTENING_UPHILL = 0.9
"""The longest time step is multiplied by this where a step led uphill."""

STEPS_TO_RECOVER = 20
"""Steps downhill in which the longest time step grows back by as much: with fewer between two steps uphill it is too
long.
"""

Scalar = Float[Array, ""]


class FireState(eqx.Module):
    """`pull` is the preconditioned force; `dt_longest` limits `dt`; `downhill` counts steps since one led uphill."""

    position: Positions
    velocity: Float[Array, "n d"]
    force: Float[Array, "n d"]
    pull: Float[Array, "n d"]
    dt: Float[Array, ""]
    dt_longest: Float[Array, ""]
    alpha: Float[Array, ""]
    downhill: Int[Array, ""]


class FIRE(Minimizer):
    """The Fast Inertial Relaxation Engine.

    Every particle has the same mass, the stiffness of the potential, so that the same numbers serve soft and hard
    potentials. In large periodic systems a Fourier preconditioner accelerates long waves. Where steps lead uphill again
    and again, as in a packing squeezed until it is stiffer than its potential suggests, the longest time step shrinks.

    **Arguments:**

    - `dt_start`, `dt_max`: the first and the longest time step, in units of (mass / stiffness)^½.
    - `n_min`, `f_inc`, `f_dec`, `alpha_start`, `f_alpha`: the constants of the paper.
    - `precondition` (bool): whether to use the Fourier preconditioner in large periodic systems.

    **Reference:**

    - Bitzek, Koskinen, Gähler, Moseler and Gumbsch, Phys. Rev. Lett. 97, 170201 (2006).
    """

    dt_start: Scalar = number(0.1)
    dt_max: Scalar = number(0.5)
    n_min: Scalar = number(5)
    f_inc: Scalar = number(1.1)
    f_dec: Scalar = number(0.5)
    alpha_start: Scalar = number(0.1)
    f_alpha: Scalar = number(0.99)
    precondition: bool = eqx.field(default=True, static=True)

    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""], system: System
    ) -> StepFunctions:
        precondition = fourier_preconditioner(system, self.precondition)

        def init(x: Positions) -> FireState:
            dt, longest, alpha = (k.astype(x.dtype) for k in (self.dt_start, self.dt_max, self.alpha_start))
            f = force(x)
            return FireState(x, jnp.zeros_like(x), f, precondition(f), dt, longest, alpha, jnp.asarray(0, jnp.int32))

        def apply(state: FireState) -> FireState:
            half = 0.5 * state.dt / stiffness
            velocity = state.velocity + half * state.pull
            x = shift(state.position, state.dt * velocity)
            f = force(x)
            pull = precondition(f)
            velocity = velocity + half * pull
            return self._steered(x, velocity, f, pull, state)

        return init, apply

    def _steered(
        self,
        x: Positions,
        velocity: Float[Array, "n d"],
        f: Float[Array, "n d"],
        pull: Float[Array, "n d"],
        before: FireState,
    ) -> FireState:
        """Turns the velocity towards the force, or stops where it leads uphill, and adapts the time step."""
        dt_max, f_inc, f_dec, alpha_start, f_alpha = (
            k.astype(x.dtype) for k in (self.dt_max, self.f_inc, self.f_dec, self.alpha_start, self.f_alpha)
        )
        power = jnp.sum(f * velocity)
        uphill = power < 0.0
        downhill = jnp.where(uphill, 0, before.downhill + 1)
        faster = (power > 0.0) & (downhill > self.n_min)
        turned = (1.0 - before.alpha) * velocity + before.alpha * _length(velocity) * _direction(pull)
        change = jnp.where(uphill, SHORTENING_UPHILL, SHORTENING_UPHILL ** (-1.0 / STEPS_TO_RECOVER)).astype(x.dtype)
        longest = jnp.minimum(before.dt_longest * change, dt_max)
        dt = jnp.where(uphill, f_dec, jnp.where(faster, f_inc, 1.0)) * before.dt
        alpha = jnp.where(uphill, alpha_start, jnp.where(faster, f_alpha, 1.0) * before.alpha)
        velocity = jnp.where(uphill, 0.0, turned)
        return FireState(x, velocity, f, pull, jnp.minimum(dt, longest), longest, alpha, downhill)


def _length(u: Float[Array, "n d"]) -> Float[Array, ""]:
    squared = jnp.sum(u**2)
    return jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0)) * (squared > 0.0)  # differentiable at zero, for Unrolled


def _direction(u: Float[Array, "n d"]) -> Float[Array, "n d"]:
    size = _length(u)
    return u / jnp.where(size > 0.0, size, 1.0)
