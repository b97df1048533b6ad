"""Derivatives of the energy with respect to a strain that cell and particles follow: first, second, and mixed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .errors import InvalidInput
from .hessian import gradient, pair_blocks
from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .system import System, symmetric_strains


def first(potential: Potential, system: System, neighbors: Neighbors) -> Float[Array, "d d"]:
    """∂E/∂ε, symmetric."""
    if isinstance(potential, PairPotential):
        pairs = potential.pairs(system, neighbors)
        pull = (pairs.slope / pairs.distance)[:, None] * pairs.separation
        return jnp.einsum("pa,pb->ab", pull, pairs.separation)
    zero = jnp.zeros((system.dim, system.dim), system.positions.dtype)
    slope = jax.grad(lambda strain: potential.energy(_strained(system, strain), neighbors))(zero)
    return 0.5 * (slope + slope.T)


def second(
    potential: Potential, system: System, neighbors: Neighbors
) -> tuple[Float[Array, "m m"], Float[Array, "n d m"]]:
    """∂²E/∂ε², and Ξ = ∂²E/∂x∂ε, for the basis of symmetric strains; at rest, where no net force adds to Ξ."""
    basis = jnp.asarray(symmetric_strains(system.dim)[0], system.positions.dtype)
    if isinstance(potential, PairPotential):
        pairs = potential.pairs(system, neighbors)
        moves = jnp.einsum("mab,pb->pma", basis, pairs.separation)
        changes = jnp.einsum("pab,pmb->pam", pair_blocks(pairs), moves)
        affine = jnp.einsum("pma,pan->mn", moves, changes)
        coupling = jnp.zeros((*system.positions.shape, len(basis)), changes.dtype)
        return affine, coupling.at[pairs.j].add(changes).at[pairs.i].add(-changes)
    zero = jnp.zeros(len(basis), basis.dtype)

    def strained(amounts: Float[Array, " m"]) -> System:
        return _strained(system, jnp.einsum("m,mab->ab", amounts, basis))

    affine = jax.hessian(lambda amounts: potential.energy(strained(amounts), neighbors))(zero)
    return affine, jax.jacfwd(lambda amounts: gradient(potential, strained(amounts), neighbors))(zero)


def _strained(system: System, strain: Float[Array, "d d"]) -> System:
    if system.box is None:
        raise InvalidInput("a system with open boundaries has no cell to strain")
    deformation = jnp.eye(system.dim, dtype=strain.dtype) + strain
    return system.replace(positions=system.positions @ deformation, box=system.box @ deformation)
