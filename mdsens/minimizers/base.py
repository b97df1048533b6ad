"""The base class of minimizers: a state and a step, made from a force and a shift, as in jax-md."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ..runtime.settings import Settings
from ..system import System

Positions = Float[Array, "n d"]
ForceFunction = Callable[..., Positions]
ShiftFunction = Callable[..., Positions]
State = Any
StepFunctions = tuple[Callable[[Positions], State], Callable[[State], State]]


class Minimizer(Settings):
    """A recipe for steps downhill."""

    @abc.abstractmethod
    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""], system: System
    ) -> StepFunctions:
        """The pair (init, apply): the state at some positions, and the state one step later.

        A state is the positions themselves, or has them as `.position`; if it also has `.force`, that is taken to be
        the force at these positions.

        **Arguments:**

        - `force(x)` and `shift(x, move)`: functions of positions [n, d].
        - `stiffness` (energy per length²): a typical second derivative of the potential, by which a minimizer measures
          its steps, so that they suit any units.
        - `system`: the particles, at the positions where the neighbor list was made.
        """


class JaxMDMinimizer(Minimizer):
    """Any minimizer of jax-md: `JaxMDMinimizer(jax_md.minimize.fire_descent, dt_max=0.2)`.

    **Arguments:**

    - `factory`: called as `factory(force, shift, **options)`; it returns (init, apply). Its steps are in the units of
      the system.
    """

    factory: Callable[..., Any] = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(self, factory: Callable[..., Any], **options: Any) -> None:
        self.factory = factory
        self.options = tuple(sorted(options.items()))

    def build(
        self, force: ForceFunction, shift: ShiftFunction, stiffness: Float[Array, ""], system: System
    ) -> StepFunctions:
        return self.factory(force, shift, **dict(self.options))


def position_of(state: State) -> Positions:
    return state.position if hasattr(state, "position") else state
