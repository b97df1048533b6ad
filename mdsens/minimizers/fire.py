"""The Fast Inertial Relaxation Engine."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..long_waves import amplifier
from ..system import System
from .base import ForceFunction, Minimizer, Positions, ShiftFunction, StepFunctions

EASE = 0.9
"""What the longest time step is multiplied by where a step led uphill; it grows again by as much in `UNTROUBLED`."""

UNTROUBLED = 20
"""Steps downhill between two uphill, with which the longest time step stays as it is: with fewer it is too long."""


class FireState(eqx.Module):
    """`pull` is the force, its long waves amplified; `dt_longest` is what `dt` may grow to here; `downhill` counts the
    steps since one led uphill.
    """

    position: Positions
    velocity: Float[Array, "n d"]
    force: Float[Array, "n d"]
    pull: Float[Array, "n d"]
    dt: Float[Array, ""]
    dt_longest: Float[Array, ""]
    alpha: Float[Array, ""]
    downhill: Int[Array, ""]


class FIRE(Minimizer):
    """The Fast Inertial Relaxation Engine of Bitzek et al. (Phys. Rev. Lett. 97, 170201 (2006)).

    Every particle has the same mass, the stiffness of the pair potential, so that the same numbers serve soft and hard
    potentials; in large periodic systems long waves have less. Where steps lead uphill again and again, as in a packing
    squeezed until it is stiffer than its potential promised, the longest time step becomes shorter.

    **Arguments:** `dt_start` and `dt_max`, the first and the longest time step, in units of
    (mass / stiffness)^½; the constants of the paper: N_min, f_inc, f_dec, α_start, f_α; and `long_waves`, whether those
    of large periodic systems are hastened (`mdsens.long_waves`).
    """

    dt_start: float = eqx.field(default=0.1, static=True)
    dt_max: float = eqx.field(default=0.5, static=True)
    n_min: int = eqx.field(default=5, static=True)
    f_inc: float = eqx.field(default=1.1, static=True)
    f_dec: float = eqx.field(default=0.5, static=True)
    alpha_start: float = eqx.field(default=0.1, static=True)
    f_alpha: float = eqx.field(default=0.99, static=True)
    long_waves: bool = eqx.field(default=True, static=True)

    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""], system: System
    ) -> StepFunctions:
        amplify = amplifier(system, self.long_waves)

        def init(x: Positions) -> FireState:
            dt, longest, alpha = (jnp.asarray(k, x.dtype) for k in (self.dt_start, self.dt_max, self.alpha_start))
            f = force(x)
            return FireState(x, jnp.zeros_like(x), f, amplify(f), dt, longest, alpha, jnp.asarray(0, jnp.int32))

        def apply(state: FireState) -> FireState:
            half = 0.5 * state.dt / stiffness
            velocity = state.velocity + half * state.pull
            x = shift(state.position, state.dt * velocity)
            f = force(x)
            pull = amplify(f)
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
        """The velocity turned towards the force, or none where it leads uphill, and the time step that suits."""
        power = jnp.sum(f * velocity)
        uphill = power < 0.0
        downhill = jnp.where(uphill, 0, before.downhill + 1)
        faster = (power > 0.0) & (downhill > self.n_min)
        turned = (1.0 - before.alpha) * velocity + before.alpha * _length(velocity) * _direction(pull)
        longest = before.dt_longest * jnp.where(uphill, EASE, EASE ** (-1.0 / UNTROUBLED))
        longest = jnp.minimum(longest, self.dt_max)
        dt = jnp.where(uphill, self.f_dec, jnp.where(faster, self.f_inc, 1.0)) * before.dt
        alpha = jnp.where(uphill, self.alpha_start, jnp.where(faster, self.f_alpha, 1.0) * before.alpha)
        velocity = jnp.where(uphill, 0.0, turned)
        return FireState(x, velocity, f, pull, jnp.minimum(dt, longest), longest, alpha, downhill)


def _length(u: Float[Array, "n d"]) -> Float[Array, ""]:
    squared = jnp.sum(u**2)
    return jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0)) * (squared > 0.0)  # differentiable at zero, for Unrolled


def _direction(u: Float[Array, "n d"]) -> Float[Array, "n d"]:
    size = _length(u)
    return u / jnp.where(size > 0.0, size, 1.0)
