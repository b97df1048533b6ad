"""H = ∂²E/∂x² at given positions: products and the dense matrix."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .potentials.base import Pairs, at_both_ends
from .system import System, over_components

Displacements = Float[Array, "n d"]


def gradient(potential: Potential, system: System, neighbors: Neighbors) -> Displacements:
    """∂E/∂x, minus the forces."""
    if isinstance(potential, PairPotential):
        return potential.pairs(system, neighbors).gradient(system.n)
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

    @abc.abstractmethod
    def site_stiffness(self) -> Float[Array, " n"]:
        """How stiffly each particle is held by the others where they are: the mean of its part of the diagonal, or
        an estimate of it.
        """


class PairHessian(Hessian):
    """A sum over pairs: block k_ij = φ'' n nᵀ + (φ'/r)(1 - n nᵀ), which acts on u_j - u_i."""

    i: Array
    j: Array
    blocks: Float[Array, "p d d"]
    n: int = eqx.field(static=True)

    def product(self, u: Displacements) -> Displacements:
        change = over_components(self.blocks * (u[self.j] - u[self.i])[:, None, :])
        return at_both_ends(self.i, self.j, change, self.n)

    def dense(self) -> Float[Array, "n d n d"]:
        d = self.blocks.shape[-1]
        matrix = jnp.zeros((self.n, d, self.n, d), self.blocks.dtype)
        for a, b, sign in ((self.i, self.i, 1), (self.j, self.j, 1), (self.i, self.j, -1), (self.j, self.i, -1)):
            matrix = matrix.at[a, :, b, :].add(sign * self.blocks)
        return matrix

    def coordinates(self, added: Float[Array, ""]) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
        """Rows, columns and values of the upper triangle of H + added 1; pairs that do not interact take no place."""
        d = self.blocks.shape[-1]
        live = jnp.any(self.blocks != 0.0, axis=(1, 2)) & (self.i != self.j)
        blocks = jnp.where(live[:, None, None], self.blocks, 0.0)
        on_site = jnp.zeros((self.n, d, d), blocks.dtype).at[self.i].add(blocks).at[self.j].add(blocks)
        on_site = on_site + added * jnp.eye(d, dtype=blocks.dtype)
        low, high = (jnp.where(live, end(self.i, self.j), 0) for end in (jnp.minimum, jnp.maximum))
        a, b = (k.ravel() for k in jnp.meshgrid(jnp.arange(d), jnp.arange(d), indexing="ij"))
        sites, u, v = jnp.arange(self.n), *jnp.triu_indices(d)
        places = [(sites[:, None] * d + corner).ravel() for corner in (u, v)]
        between = [
            (site[:, None] * d + jnp.where(live[:, None], corner, 0)).ravel() for site, corner in ((low, a), (high, b))
        ]
        rows, columns = (jnp.concatenate(parts).astype(jnp.int32) for parts in zip(places, between, strict=True))
        return rows, columns, jnp.concatenate([on_site[:, u, v].ravel(), -blocks.ravel()])

    def scale(self) -> Float[Array, ""]:
        return jnp.mean(self.site_stiffness())

    def site_stiffness(self) -> Float[Array, " n"]:
        each = jnp.trace(self.blocks, axis1=1, axis2=2) / self.blocks.shape[-1]
        return jnp.zeros(self.n, each.dtype).at[self.i].add(each).at[self.j].add(each)


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

    def site_stiffness(self) -> Float[Array, " n"]:
        return jnp.broadcast_to(self.scale(), self.system.n)


def hessian(potential: Potential, system: System, neighbors: Neighbors) -> Hessian:
    """The Hessian at the positions of `system`, in the form that suits the potential."""
    if not isinstance(potential, PairPotential):
        return GeneralHessian(potential, system, neighbors)
    pairs = potential.pairs(system, neighbors)
    return PairHessian(pairs.i, pairs.j, pair_blocks(pairs), system.n)


def pair_blocks(pairs: Pairs) -> Float[Array, "p d d"]:
    """φ'' n nᵀ + (φ'/r)(1 - n nᵀ) of every pair, zero where it does not interact."""
    slope, curvature = pairs.slope, pairs.curvature
    normal = pairs.separation / jnp.where(pairs.interacts, pairs.distance, 1.0)[:, None]
    tension = slope / pairs.distance
    along = (curvature - tension)[:, None, None] * normal[:, :, None] * normal[:, None, :]
    across = tension[:, None, None] * jnp.eye(normal.shape[1], dtype=normal.dtype)
    return jnp.where(pairs.interacts[:, None, None], along + across, 0.0)
