"""The Fast Inertial Relaxation Engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float

from .base import ForceFunction, Minimizer, Positions, ShiftFunction, State


class FIRE(Minimizer):
    """FIRE as in jax-md's `fire_descent` (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)).

    **Arguments:** `dt_start` and `dt_max`, the first and the longest time step, in units of
    (mass / stiffness)^½, the stiffness being the pair potential's own: the same numbers serve soft
    and hard potentials. The others are the constants of the paper: N_min, f_inc, f_dec, α_start, f_α.
    """

    dt_start: float = eqx.field(default=0.1, static=True)
    dt_max: float = eqx.field(default=0.5, static=True)
    n_min: int = eqx.field(default=5, static=True)
    f_inc: float = eqx.field(default=1.1, static=True)
    f_dec: float = eqx.field(default=0.5, static=True)
    alpha_start: float = eqx.field(default=0.1, static=True)
    f_alpha: float = eqx.field(default=0.99, static=True)

    def shorter(self) -> FIRE:
        return dataclasses.replace(self, dt_start=0.5 * self.dt_start, dt_max=0.5 * self.dt_max)

    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""]
    ) -> tuple[Callable[[Positions], State], Callable[[State], State]]:
        from jax_md.minimize import fire_descent

        init, apply = fire_descent(
            force,
            shift,
            dt_start=self.dt_start,
            dt_max=self.dt_max,
            n_min=self.n_min,
            f_inc=self.f_inc,
            f_dec=self.f_dec,
            alpha_start=self.alpha_start,
            f_alpha=self.f_alpha,
        )
        return lambda positions: init(positions, mass=stiffness), apply
