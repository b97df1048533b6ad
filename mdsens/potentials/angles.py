"""Angles between two bonds that meet at a particle."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import InvalidInput
from ..geometry import sum_components
from ..system import System
from .base import Scalar, parameter
from .bonds import TermParameter
from .local import LocalPotential, along_lattice, half_height, members, positions_on_host, refuse_repeated

SMALL_ANGLE = 0.1
"""An angle this near to straight, or to zero, in radians: its square is then summed as a series."""

SERIES = tuple((-1) ** (n - 1) / n * sum(1.0 / (2 * k - 1) for k in range(1, n + 1)) for n in range(1, 12))
"""arctan(√t)² = t - 2/3 t² + 23/45 t³ - …: at t = 0.01 the terms left out of its second derivative are below 1e-16."""


class Angles(LocalPotential):
    """E = Σ ½ k (θ - θ₀)² over given angles, θ in [0, π] the angle at the middle particle of three.

    The energy has a cusp where an angle is straight (θ = π) or folded (θ = 0), unless θ₀ is that very angle: there the
    energy is smooth, and so are all its derivatives by positions. Where it has a cusp the forces are not defined, and
    are NaN. The derivative by θ₀ of the force at an angle that is exactly straight with θ₀ = π is not defined either,
    since a bend may begin to either side: it is zero here, the mean of both.

    **Arguments:**

    - `triples` (int [m, 3]): the particles of each angle, its vertex in the middle. In a periodic cell each of the two
      arms is taken to the nearest image.
    - `stiffness` (energy per radian²; one number or [m]): k.
    - `rest_angle` (radians; one number or [m]): θ₀.

    **Raises**, here or when it is relaxed:

    - `InvalidInput` for an angle with a particle twice or one that is not there, a stiffness that is negative, a rest
      angle outside of [0, π], an arm longer than half the cell's smallest height, where the nearest image is
      ambiguous, and an angle that starts at a cusp.
    """

    triples: Int[Array, "m 3"] = members(3, "[[0, 1, 2], [1, 2, 3]]")
    stiffness: TermParameter = parameter(default=1.0)
    rest_angle: TermParameter = parameter(default=np.pi)

    per_term: ClassVar[tuple[str, ...]] = ("stiffness", "rest_angle")
    may_jump: ClassVar[bool] = False
    tied_to_space: ClassVar[bool] = False

    def __check_init__(self) -> None:
        refuse_repeated("the angle", self.triples)
        self._check_rows(len(self.triples))

    def groups(self, system: System) -> Int[Array, "m 3"]:
        return self.triples

    def term_energy(self, x: Float[Array, "3 d"], diameters: Float[Array, " 3"]) -> Scalar:
        """½ k (δ - δ₀)², δ the angle from the nearer end: θ, or π - θ where θ > π/2.

        Near that end δ² is a series in tan²θ, which is smooth where δ, a square root of it, is not. Only the square is
        left where δ₀ = 0.
        """
        a, b = x[0] - x[1], x[2] - x[1]
        cosine, squared_sine = sum_components(a * b), _squared_cross(a, b)  # times the lengths of the arms
        obtuse = cosine < 0.0
        target = jnp.where(obtuse, jnp.pi - self.rest_angle, self.rest_angle)
        p = jnp.where(obtuse, -cosine, cosine)  # not |cosine|, whose derivative is wrong at right angles
        small = squared_sine < SMALL_ANGLE**2 * p**2
        t = jnp.where(small, squared_sine, 0.0) / jnp.where(small, p, 1.0) ** 2
        square = jnp.zeros_like(t)
        for coefficient in reversed(SERIES):
            square = t * (coefficient + square)
        eps = float(jnp.finfo(p.dtype).eps)
        straight = (squared_sine <= (eps * p) ** 2) & (p > 0.0) & (target == 0.0)
        deviation = jnp.arctan2(jnp.sqrt(jnp.where(straight, 1.0, squared_sine)), p)
        linear = jnp.where(straight, 0.0, target * deviation)
        near_the_end = square - 2.0 * linear + target**2
        return 0.5 * self.stiffness * jnp.where(small, near_the_end, (deviation - target) ** 2)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        refuse_repeated("the angle", self.triples)
        self._refuse_negative("stiffness")
        rest, triples = np.asarray(self.rest_angle, np.float64), np.asarray(self.triples)
        largest = float(np.asarray(self.rest_angle).dtype.type(np.pi))
        outside = (rest < 0.0) | (rest > largest)
        if outside.any():
            value = rest[outside][0] if rest.ndim else float(rest)
            raise InvalidInput(f"rest_angle of Angles is in radians, from 0 to π, and is {value:.6g}")
        x, half = positions_on_host(self, system), half_height(system)
        a, b = x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]
        arm = np.maximum(along_lattice(system, a), along_lattice(system, b))
        if np.any(arm > half):
            k = int(np.argmax(arm > half))
            raise InvalidInput(
                f"an arm of the angle {triples[k].tolist()} is {arm[k]:.4g} long, and half of the cell's smallest "
                f"height is {half:.4g}: its nearest image is ambiguous; repeat the cell, and the angles with it"
            )
        sine, cosine = np.sqrt(_squared_cross(a.T, b.T)), np.sum(a * b, axis=1)
        end = np.where(cosine < 0.0, largest, 0.0)
        cusp = (sine == 0.0) & (cosine != 0.0) & (rest != end)
        if cusp.any():
            k = int(np.argmax(cusp))
            raise InvalidInput(
                f"the angle {triples[k].tolist()} is {'straight' if cosine[k] < 0.0 else 'folded'}, and its rest angle "
                f"{np.broadcast_to(rest, cusp.shape)[k]:.6g} is another: no force says to which side it bends; move "
                "one of the particles to a side"
            )


def _squared_cross(a: Any, b: Any) -> Any:
    """|a × b|², components along the first axis."""
    crossed = [a[i] * b[j] - a[j] * b[i] for i, j in ((0, 1), (0, 2), (1, 2)) if j < len(a)]
    return sum(part**2 for part in crossed)
