"""The potential of Stillinger and Weber: pairs, and the angles between them."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..geometry import PairList, sum_components
from ..system import System
from .base import Potential, Scalar, parameter


class StillingerWeber(Potential):
    """E = Σ_{i<j} ε A [B (σ/r)^p - (σ/r)^q] f₁(r) + Σ_i Σ_{j<k} λ ε (cos θ_jik - cos θ₀)² f_γ(r_ij) f_γ(r_ik), with
    f_γ(r) = exp(γ σ/(r - a σ)) for r < a σ, else 0.

    **Arguments:** `epsilon`, an energy, and `sigma`, a length; the others are pure numbers: `lam` (λ), `gamma` (γ),
    `a`, `A`, `B`, `p`, `q` and `cos_angle` (cos θ₀). The defaults are silicon's, in eV and Å. One species; diameters
    have no part in it. In a periodic cell at least two cutoffs `a` σ wide.

    The sum over triples is done by moments of the bonds about each particle, Σ_jk (n_j·n_k)² f_j f_k =
    |Σ_j f_j n_j n_jᵀ|² and so on: it costs no more than one over pairs. Source: Stillinger and Weber, Phys. Rev. B 31,
    5262 (1985); ε in eV as in Balamane, Halicioglu and Tiller, Phys. Rev. B 46, 2250 (1992).
    """

    listed: ClassVar[bool] = True
    names_particles: ClassVar[bool] = False

    epsilon: Scalar = parameter(default=2.1683)
    sigma: Scalar = parameter(default=2.0951)
    lam: Scalar = parameter(default=21.0)
    gamma: Scalar = parameter(default=1.2)
    a: Scalar = parameter(default=1.8)
    A: Scalar = parameter(default=7.049556277)
    B: Scalar = parameter(default=0.6022245584)
    cos_angle: Scalar = parameter(default=-1.0 / 3.0)
    p: Scalar = parameter(default=4.0)
    q: Scalar = parameter(default=0.0)

    def energy(self, system: System, neighbors: PairList) -> Scalar:
        separation = neighbors.separations(system.positions, system.lattice)
        squared, reach = sum_components(separation**2), self.a * self.sigma
        bonded = neighbors.valid & ~(squared >= reach**2)
        r = jnp.sqrt(jnp.where(bonded, squared, jax.lax.stop_gradient((0.9 * reach) ** 2)))
        pairs = jnp.sum(jnp.where(bonded, jax.vmap(self._pair)(r), 0.0))
        weight = jnp.where(bonded, self._decay(self.gamma, r), 0.0)
        return pairs + self.lam * self.epsilon * self._angles(system, neighbors, separation / r[:, None], weight)

    def reach(self, system: System) -> Scalar:
        return self.a * self.sigma

    def typical_stiffness(self, system: System) -> Scalar:
        """φ'' of a bond at rest, σ 2^(1/6) long in silicon, or as stiff as ε/σ² where it would not be positive."""
        at_rest = jax.grad(jax.grad(self._pair))(2.0 ** (1.0 / 6.0) * self.sigma)
        return jnp.maximum(at_rest, self.epsilon / self.sigma**2)

    def length(self, system: System) -> Scalar:
        return self.sigma

    def _decay(self, gamma: Scalar | float, r: Array) -> Array:
        inside = r < self.a * self.sigma
        beyond = jnp.where(inside, r - self.a * self.sigma, -1.0)
        return jnp.where(inside, jnp.exp(gamma * self.sigma / beyond), 0.0)

    def _pair(self, r: Scalar) -> Scalar:
        ratio = self.sigma / r
        return self.epsilon * self.A * (self.B * ratio**self.p - ratio**self.q) * self._decay(1.0, r)

    def _angles(
        self, system: System, neighbors: PairList, normal: Float[Array, "p d"], weight: Float[Array, " p"]
    ) -> Scalar:
        """Σ_i Σ_{j<k} (cos θ_jik - cos θ₀)² f f."""

        def about(at_i: Array, at_j: Array) -> Array:
            zero = jnp.zeros((system.n, *at_i.shape[1:]), at_i.dtype)
            return zero.at[neighbors.i].add(at_i).at[neighbors.j].add(at_j)

        along = weight[:, None] * normal
        outer = along[:, :, None] * normal[:, None, :]
        number, vector, tensor = about(weight, weight), about(along, -along), about(outer, outer)
        twice = jnp.sum(tensor**2) - 2.0 * self.cos_angle * jnp.sum(vector**2) + self.cos_angle**2 * jnp.sum(number**2)
        with_itself = 2.0 * jnp.sum(weight**2) * (1.0 - self.cos_angle) ** 2
        return 0.5 * (twice - with_itself)
