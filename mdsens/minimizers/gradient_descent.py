"""The plainest way downhill."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Float

from ..system import System
from .base import ForceFunction, Minimizer, ShiftFunction, StepFunctions


class GradientDescent(Minimizer):
    """x ← x - step_size ∇E / stiffness, by jax-md's `gradient_descent`.

    **Arguments:** `step_size`, a pure number, the stiffness being the pair potential's own; stable
    below 2 over the largest curvature of the energy in units of it, which is about 10.
    """

    step_size: float = eqx.field(default=0.1, static=True)

    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""], system: System
    ) -> StepFunctions:
        from jax_md.minimize import gradient_descent

        return gradient_descent(force, shift, step_size=self.step_size / stiffness)
