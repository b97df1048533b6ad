"""Repulsive spheres that touch: harmonic, Hertzian, any power."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from .base import PairParameter, PairPotential, Scalar, parameter


class SoftSphere(PairPotential):
    """φ(r) = ε/α (1 - r/σ)^α for r < σ, else 0 (O'Hern et al., Phys. Rev. E 68, 011306 (2003), Eq. 1).

    **Arguments:** `epsilon`, an energy, and `alpha`, a pure number (2 harmonic, 2.5 Hertzian);
    each one number or a matrix per pair of species. `sigma`: see `PairPotential`.
    """

    epsilon: PairParameter = parameter(default=1.0)
    alpha: PairParameter = parameter(default=2.0)

    contact: ClassVar[bool] = True

    def pair_energy(self, r: Scalar, sigma: Scalar) -> Scalar:
        overlap = 1.0 - r / sigma
        touching = ~(overlap <= 0.0)  # NaN stays NaN
        return jnp.where(touching, self.epsilon / self.alpha * jnp.where(touching, overlap, 1.0) ** self.alpha, 0.0)

    def pair_stiffness(self, sigma: Scalar) -> Scalar:
        return self.epsilon / sigma**2

    def cutoff(self, sigma: Scalar) -> Scalar:
        return sigma
