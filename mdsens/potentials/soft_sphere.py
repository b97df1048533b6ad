"""Repulsive spheres that touch: harmonic, Hertzian, any power."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from ..errors import InvalidInput
from .base import PairParameter, Scalar, parameter
from .pair import PairPotential


def power(x: Scalar, exponent: Scalar) -> Scalar:
    """x^exponent for x > 0; without logarithms where spheres are harmonic or Hertzian, and in their derivatives.

    On a CPU a power takes longer than the rest of a pair's force, so all derivatives share one.
    """
    fixed_x, fixed_exponent = jax.lax.stop_gradient((x, exponent))
    two, five_halves, three_halves = (fixed_exponent == special for special in (2.0, 2.5, 1.5))

    def by_roots(x: Scalar) -> Scalar:
        return jnp.where(two, x * x, jnp.where(five_halves, x * x, x) * jnp.sqrt(x))

    special = two | five_halves | three_halves
    value = jax.lax.cond(special, by_roots, lambda x: x**fixed_exponent, fixed_x)
    return _lowered_power(x, exponent, value, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _lowered_power(x: Scalar, exponent: Scalar, value: Scalar, k: int) -> Scalar:
    """x^(exponent - k), given the value of x^exponent."""
    return functools.reduce(jnp.divide, [x] * k, value)


@functools.partial(_lowered_power.defjvp, symbolic_zeros=True)
def _(k: int, primals: tuple[Scalar, Scalar, Scalar], tangents: tuple[Any, Any, Any]) -> tuple[Scalar, Any]:
    (x, exponent, value), (dx, dexponent, _) = primals, tangents
    result, change = _lowered_power(x, exponent, value, k), jnp.zeros_like(x)
    if not isinstance(dx, SymbolicZero):
        change = change + (exponent - k) * _lowered_power(x, exponent, value, k + 1) * dx
    if not isinstance(dexponent, SymbolicZero):
        change = change + jnp.log(x) * result * dexponent
    return result, change


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
        touching = jnp.logical_not(overlap <= 0.0)  # NaN stays NaN
        return jnp.where(
            touching, self.epsilon / self.alpha * power(jnp.where(touching, overlap, 1.0), self.alpha), 0.0
        )

    def pair_stiffness(self, sigma: Scalar) -> Scalar:
        return self.epsilon / sigma**2

    def cutoff(self, sigma: Scalar) -> Scalar:
        return sigma

    def check_values(self) -> None:
        super().check_values()
        if np.any(np.asarray(self.epsilon) < 0.0):
            raise InvalidInput("epsilon of SoftSphere must not be negative: these particles repel each other")
