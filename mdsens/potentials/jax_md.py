"""Any jax-md energy function as a potential whose parameters are differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ..geometry import PairList, minimum_image
from ..runtime.tracing import as_array
from ..system import System
from .base import Potential, Scalar, is_parameter


class JaxMD(Potential):
    """An energy of jax-md, pair or many-body: `JaxMD(energy.stillinger_weber, lam=21.0, epsilon=2.17)`.

    **Arguments:**

    - `factory`: called as `factory(displacement, **parameters)`, and returns `energy(positions)`, as
      `stillinger_weber`, `soft_sphere_pair`, `tersoff` … of `jax_md.energy` do. The displacement it is
      given follows the system's cell, so that the box is differentiable too.
    - `from_system`: a function of the System that returns further keyword arguments, such as
      `lambda system: {"sigma": system.diameters}`.
    - `range`: the distance beyond which nothing interacts, if known; a cell too small for it is then refused.
    - every other keyword is a parameter: a leaf of the pytree, made a float, if it is a number or an array of
      floats; passed on as it is if not. (`functools.partial` the factory with integers that must stay integers.)

    jax-md evaluates such a function over all pairs (or triples) of particles: for hundreds of
    particles, not for thousands.
    """

    parameters: dict[str, Any]
    factory: Callable[..., Any] = eqx.field(static=True)
    from_system: Callable[[System], dict[str, Any]] | None = eqx.field(static=True)
    range: float = eqx.field(static=True)

    def __init__(
        self,
        factory: Callable[..., Any],
        from_system: Callable[[System], dict[str, Any]] | None = None,
        range: float = math.inf,
        **parameters: Any,
    ) -> None:
        self.factory = factory
        self.from_system = from_system
        self.range = range
        self.parameters = {
            name: as_array(value, float)
            if is_parameter(value) or isinstance(value, np.ndarray | np.floating)
            else value
            for name, value in parameters.items()
        }

    def reach(self, system: System) -> Scalar:
        return jax.numpy.asarray(self.range, system.positions.dtype)

    def energy(self, system: System, neighbors: PairList) -> Scalar:
        def displacement(a: Array, b: Array, **_: Any) -> Array:
            return minimum_image(a - b, system.box)

        extra = {} if self.from_system is None else self.from_system(system)
        return self.factory(displacement, **self.parameters, **extra)(system.positions)

    def parameter_names(self) -> list[str]:
        return [name for name, value in self.parameters.items() if is_parameter(value)]

    def number_names(self) -> list[str]:
        return self.parameter_names()

    def get_parameter(self, name: str) -> Any:
        return self.parameters[name]
