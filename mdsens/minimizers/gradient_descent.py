"""Gradient descent with a fixed step."""

from __future__ import annotations

from jaxtyping import Array, Float

from ..runtime.settings import number
from ..system import System
from .base import ForceFunction, Minimizer, Positions, ShiftFunction, StepFunctions


class GradientDescent(Minimizer):
    """x ← x - step_size ∇E / stiffness.

    **Arguments:**

    - `step_size` (pure number): the stiffness is the potential's own. Stable below 2 over the largest curvature of the
      energy in units of that stiffness, which is about 10.
    """

    step_size: Float[Array, ""] = number(0.1)

    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""], system: System
    ) -> StepFunctions:
        step = self.step_size.astype(stiffness.dtype) / stiffness

        def apply(x: Positions) -> Positions:
            return shift(x, step * force(x))

        return lambda x: x, apply
