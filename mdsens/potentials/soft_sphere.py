"""Repulsive spheres that touch: harmonic, Hertzian, any power."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .base import PairParameter, Scalar, parameter
from .pair import PairPotential


@jax.custom_jvp
def power(x: Scalar, exponent: Scalar) -> Scalar:
    """x^exponent for x > 0; without logarithms where spheres are harmonic or Hertzian, and in their derivatives.

    On a CPU a power takes longer than the rest of a pair's force.
    """
    cases: list[tuple[float, Callable[[Scalar], Scalar]]] = [
        (0.0, jnp.ones_like),
        (1.0, lambda x: x),
        (2.0, jnp.square),
        (0.5, jnp.sqrt),
        (1.5, lambda x: x * jnp.sqrt(x)),
        (2.5, lambda x: x * x * jnp.sqrt(x)),
    ]
    special = jnp.stack([exponent == value for value, _ in cases])
    which = jnp.where(jnp.any(special), jnp.argmax(special), len(cases))
    return jax.lax.switch(which, [*(f for _, f in cases), lambda x: x**exponent], x)


@functools.partial(power.defjvp, symbolic_zeros=True)
def _(primals: tuple[Scalar, Scalar], tangents: tuple[Any, Any]) -> tuple[Scalar, Any]:
    (x, exponent), (dx, dexponent) = primals, tangents
    value, change = power(x, exponent), jnp.zeros_like(x)
    if not isinstance(dx, SymbolicZero):
        change = change + exponent * power(x, exponent - 1.0) * dx
    if not isinstance(dexponent, SymbolicZero):
        change = change + jnp.log(x) * value * dexponent
    return value, change


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
