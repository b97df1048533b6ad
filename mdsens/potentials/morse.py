"""A well of adjustable width."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from .base import PairParameter, Scalar, parameter
from .lennard_jones import smooth_switch
from .pair import PairPotential


class Morse(PairPotential):
    """φ(r) = ε {[1 - exp(-α (r/σ - 1))]² - 1} S(r), S the quintic switch between `onset` σ and `range` σ.

    **Arguments:** `epsilon`, the depth, an energy; `alpha`, the steepness, a pure number, which
    multiplies the distance from the minimum in units of σ; each one number or a matrix per pair
    of species. `sigma` is here the distance of the minimum. Source: Morse, Phys. Rev. 34, 57 (1929).
    """

    epsilon: PairParameter = parameter(default=1.0)
    alpha: PairParameter = parameter(default=6.0)
    onset: float = eqx.field(default=2.0, static=True)
    range: float = eqx.field(default=2.5, static=True)

    def pair_energy(self, r: Scalar, sigma: Scalar) -> Scalar:
        decay = jnp.exp(-self.alpha * (r / sigma - 1.0))
        return self.epsilon * decay * (decay - 2.0) * smooth_switch(r / sigma, self.onset, self.range)

    def cutoff(self, sigma: Scalar) -> Scalar:
        return self.range * sigma
