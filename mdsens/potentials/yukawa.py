"""Screened charges."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from .base import PairParameter, Scalar, parameter
from .lennard_jones import smooth_switch
from .pair import PairPotential


class Yukawa(PairPotential):
    """φ(r) = ε (σ/r) exp[-κ (r/σ - 1)] S(r), S the quintic switch between `onset` σ and `range` σ.

    **Arguments:** `epsilon`, the energy at contact; `kappa`, the inverse screening length in
    units of 1/σ; each one number or a matrix per pair of species. `sigma`: see `PairPotential`.
    Source: Yukawa, Proc. Phys.-Math. Soc. Japan 17, 48 (1935).
    """

    epsilon: PairParameter = parameter(default=1.0)
    kappa: PairParameter = parameter(default=5.0)
    onset: float = eqx.field(default=2.0, static=True)
    range: float = eqx.field(default=2.5, static=True)

    def pair_energy(self, r: Scalar, sigma: Scalar) -> Scalar:
        screened = self.epsilon * (sigma / r) * jnp.exp(-self.kappa * (r / sigma - 1.0))
        return screened * smooth_switch(r / sigma, self.onset, self.range)

    def cutoff(self, sigma: Scalar) -> Scalar:
        return self.range * sigma
