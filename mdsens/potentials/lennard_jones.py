"""The 12-6 potential, and the switch that takes a potential smoothly to zero."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp

from .base import PairParameter, Scalar, parameter
from .pair import PairPotential


def smooth_switch(r: Scalar, onset: Scalar | float, cutoff: Scalar | float) -> Scalar:
    """1 up to `onset`, 0 from `cutoff` on, with two continuous derivatives between.

    The quintic 1 - 10 t³ + 15 t⁴ - 6 t⁵; two derivatives, so that the Hessian does not jump
    when a particle crosses the cutoff. 1 everywhere if the cutoff is the number infinity.
    """
    if isinstance(cutoff, float) and math.isinf(cutoff):
        return jnp.ones_like(r)
    t = jnp.clip((r - onset) / (cutoff - onset), 0.0, 1.0)
    return 1.0 - t**3 * (10.0 - t * (15.0 - 6.0 * t))


class LennardJones(PairPotential):
    """φ(r) = 4ε [(σ/r)¹² - (σ/r)⁶] S(r), S the quintic switch between `onset` σ and `range` σ.

    **Arguments:** `epsilon`, an energy: one number or a matrix per pair of species. `onset` and
    `range`, in units of σ, say where the potential is brought to zero. `sigma`: see
    `PairPotential`. Source: Jones, Proc. R. Soc. A 106, 463 (1924).
    """

    epsilon: PairParameter = parameter(default=1.0)
    onset: float = eqx.field(default=2.0, static=True)
    range: float = eqx.field(default=2.5, static=True)

    def pair_energy(self, r: Scalar, sigma: Scalar) -> Scalar:
        sixth = (sigma / r) ** 6
        return 4.0 * self.epsilon * (sixth**2 - sixth) * smooth_switch(r / sigma, self.onset, self.range)

    def cutoff(self, sigma: Scalar) -> Scalar:
        return self.range * sigma
