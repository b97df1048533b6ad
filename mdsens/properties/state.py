"""Energy, stress and contacts of an equilibrium."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import strain
from ..errors import InvalidInput
from ..neighbors import Neighbors
from ..potentials import PairPotential
from ..relaxation import Equilibrium
from ..system import System
from ..zero_modes import rattlers


def energy(equilibrium: Equilibrium) -> Float[Array, ""]:
    """The potential energy of the whole system."""
    return equilibrium.energy


def volume(equilibrium: Equilibrium) -> Float[Array, ""]:
    """Area (2D) or volume (3D) of the cell."""
    return equilibrium.system.volume


def packing_fraction(equilibrium: Equilibrium) -> Float[Array, ""]:
    """The spheres' own volume over that of the cell; overlaps count twice."""
    return equilibrium.system.packing_fraction


def virial(equilibrium: Equilibrium) -> Float[Array, "d d"]:
    """W = -∂E/∂ε [d, d], an energy, the particles following the strain ε of the cell; of pairs -Σ φ' r rᵀ/r.

    **Raises** `InvalidInput` with open boundaries.
    """
    if not equilibrium.system.periodic:
        raise InvalidInput("a system with open boundaries has no stress: it has no cell to strain")
    return -_first(equilibrium.potential, equilibrium.system, equilibrium.close)


def stress(equilibrium: Equilibrium) -> Float[Array, "d d"]:
    """The Cauchy stress σ = (1/V) ∂E/∂ε [d, d], energy per volume; tension is positive, as in ASE.

    **Raises** `InvalidInput` with open boundaries.
    """
    return -virial(equilibrium) / volume(equilibrium)


def pressure(equilibrium: Equilibrium) -> Float[Array, ""]:
    """p = -tr σ / d = -∂E/∂V at fixed shape of the cell, energy per volume."""
    return -jnp.trace(stress(equilibrium)) / equilibrium.system.dim


def contact_number(equilibrium: Equilibrium) -> Float[Array, ""]:
    """The mean number of particles that one interacts with, rattlers left out; a count, so its derivative is zero.

    **Raises** `InvalidInput` for a potential that is no sum over pairs.
    """
    if not isinstance(equilibrium.potential, PairPotential):
        raise InvalidInput(f"{type(equilibrium.potential).__name__} is no sum over pairs: it has no contacts")
    potential, system = jax.lax.stop_gradient((equilibrium.potential, equilibrium.frozen.system))
    return _contact_number(potential, system, equilibrium.close)


_first = eqx.filter_jit(strain.first)


@eqx.filter_jit
def _contact_number(potential: PairPotential, system: System, neighbors: Neighbors) -> Float[Array, ""]:
    held = ~rattlers(potential, system, neighbors)
    touching = jnp.sum(potential.pairs(system, neighbors.only(held)).interacts)
    return (2.0 * touching / jnp.maximum(1, jnp.sum(held))).astype(system.positions.dtype)
