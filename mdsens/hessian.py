"""H = ∂²E/∂x² at given positions: products and the dense matrix."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .system import System

Displacements = Float[Array, "n d"]


def gradient(potential: Potential, system: System, neighbors: Neighbors) -> Displacements:
    """∂E/∂x, minus the forces."""
    return jax.grad(lambda x: potential.energy(system.replace(positions=x), neighbors))(system.positions)


class Hessian(eqx.Module):
    """A symmetric linear map from displacements [n, d] to changes of the gradient [n, d]."""

    @abc.abstractmethod
    def product(self, u: Displacements) -> Displacements:
        """H u."""

    @abc.abstractmethod
    def dense(self) -> Float[Array, "n d n d"]:
        """H as an array."""

    @abc.abstractmethod
    def scale(self) -> Float[Array, ""]:
        """A typical eigenvalue: the mean of the diagonal, or an estimate of it."""


class PairHessian(Hessian):
    """A sum over pairs: block k_ij = φ'' n nᵀ + (φ'/r)(1 - n nᵀ), which acts on u_j - u_i."""

    i: Array
    j: Array
    blocks: Float[Array, "p d d"]
    n: int = eqx.field(static=True)

    def product(self, u: Displacements) -> Displacements:
        change = jnp.einsum("pab,pb->pa", self.blocks, u[self.j] - u[self.i])
        return jnp.zeros_like(u).at[self.j].add(change).at[self.i].add(-change)

    def dense(self) -> Float[Array, "n d n d"]:
        d = self.blocks.shape[-1]
        matrix = jnp.zeros((self.n, d, self.n, d), self.blocks.dtype)
        for a, b, sign in ((self.i, self.i, 1), (self.j, self.j, 1), (self.i, self.j, -1), (self.j, self.i, -1)):
            matrix = matrix.at[a, :, b, :].add(sign * self.blocks)
        return matrix

    def scale(self) -> Float[Array, ""]:
        d = self.blocks.shape[-1]
        return 2.0 * jnp.sum(jnp.trace(self.blocks, axis1=1, axis2=2)) / (self.n * d)


class GeneralHessian(Hessian):
    """For a potential that is no sum over pairs: products by differentiating the gradient."""

    potential: Potential
    system: System
    neighbors: Neighbors

    def product(self, u: Displacements) -> Displacements:
        def slope(x: Displacements) -> Displacements:
            return gradient(self.potential, self.system.replace(positions=x), self.neighbors)

        return jax.jvp(slope, (self.system.positions,), (u,))[1]

    def dense(self) -> Float[Array, "n d n d"]:
        n, d = self.system.positions.shape
        basis = jnp.eye(n * d, dtype=self.system.positions.dtype).reshape(n * d, n, d)
        return jax.lax.map(self.product, basis, batch_size=64).reshape(n, d, n, d)

    def scale(self) -> Float[Array, ""]:
        probe = jax.random.rademacher(jax.random.key(0), self.system.positions.shape, self.system.positions.dtype)
        return jnp.sum(probe * self.product(probe)) / probe.size


def hessian(potential: Potential, system: System, neighbors: Neighbors) -> Hessian:
    """The Hessian at the positions of `system`, in the form that suits the potential."""
    if not isinstance(potential, PairPotential):
        return GeneralHessian(potential, system, neighbors)
    pairs = potential.pairs(system, neighbors)
    slope, curvature = pairs.slope, pairs.curvature
    normal = pairs.separation / jnp.where(pairs.interacts, pairs.distance, 1.0)[:, None]
    tension = slope / pairs.distance
    along = (curvature - tension)[:, None, None] * normal[:, :, None] * normal[:, None, :]
    across = tension[:, None, None] * jnp.eye(system.dim, dtype=normal.dtype)
    blocks = jnp.where(pairs.interacts[:, None, None], along + across, 0.0)
    return PairHessian(pairs.i, pairs.j, blocks, system.n)
