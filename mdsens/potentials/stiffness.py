"""How stiff an energy is, of which nothing is known but its values: measured at given positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..runtime.noise import random_signs
from ..system import System

Scalar = Float[Array, ""]

BONDED = (0.9, 1.0, 1.2)
"""Distances of neighbors, in units of the typical spacing, at which the stiffness of a pair is measured."""


def stiffness_along_signs(potential: Any, system: System, neighbors: Any) -> Scalar:
    """The root mean square of the change of the forces along a random motion; infinite where it is zero or none."""
    signs = random_signs(system.positions.shape, system.positions.dtype)

    def energy(x: Array) -> Scalar:
        return potential.energy(system.replace(positions=x), neighbors)

    change = jax.jvp(jax.grad(energy), (system.positions,), (signs,))[1]
    return _or_infinite(jnp.sqrt(jnp.mean(change**2)))


def stiffness_of_pairs(energy: Callable[[Array], Scalar], system: System, length: Scalar) -> Scalar:
    """The largest change of the forces of pairs as far apart as neighbors are; infinite where it is zero or none."""

    def slope(r: Scalar) -> Scalar:
        forces = lambda r: forces_of_pairs(energy, system, length, r)  # noqa: E731
        return jnp.max(jnp.abs(jax.jvp(forces, (r,), (jnp.ones_like(r),))[1]))

    return _or_infinite(jnp.max(jax.lax.map(slope, length * jnp.asarray(BONDED, system.positions.dtype))))


def forces_of_pairs(energy: Callable[[Array], Scalar], system: System, length: Scalar, r: Scalar) -> Array:
    """The forces along pairs at a distance r, far from all others: each particle with the one before and after it."""
    n, extent = system.n, 30.0 * (r + length)

    def of_pairing(shift: int) -> Array:
        member = np.roll(np.arange(n), shift)
        place = extent * (member // 2) + r * (member % 2)
        return jax.grad(energy)(jnp.zeros((n, system.dim), place.dtype).at[:, 0].set(place))[:, 0]

    return jnp.stack([of_pairing(0), of_pairing(1)])


def spacing(system: System) -> Scalar:
    """That of as many particles in the same room; the mean diameter where they are all on one point."""
    if all(system.periodic):
        return (system.volume / system.n) ** (1.0 / system.dim)
    if system.lattice is not None:
        k = len(system.lattice)
        if_flat = (jnp.prod(jnp.linalg.norm(system.lattice, axis=1)) / system.n) ** (1.0 / k)
        room = jnp.abs(jnp.linalg.det(system.enclosing_box(if_flat)[1]))
        return (room / system.n) ** (1.0 / system.dim)
    extent = jnp.max(jnp.ptp(system.positions, axis=0))
    return jnp.where(extent > 0.0, extent / system.n ** (1.0 / system.dim), jnp.mean(system.diameters))


def _or_infinite(stiffness: Scalar) -> Scalar:
    return jnp.where(jnp.isfinite(stiffness) & (stiffness > 0.0), stiffness, jnp.inf)
