"""H = ∂²E/∂x² at given positions: products, the dense matrix, and the entries of a sparse one."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..geometry import PairList, gather, scatter, scatter_to_pairs, sum_components
from ..potentials import Potential
from ..runtime.noise import random_signs
from ..system import System

Displacements = Float[Array, "n d"]


class Hessian(eqx.Module):
    """A symmetric linear map from displacements [n, d] to changes of the gradient [n, d]."""

    has_entries: ClassVar[bool] = False

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
        """The stiffness of each particle's site with all others fixed: the mean of its part of the diagonal, or an
        estimate of it.
        """

    def entries(self, added: Float[Array, ""]) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
        """Rows, columns and values of the upper triangle of H + added 1, where `has_entries` is True."""
        raise NotImplementedError


class PairHessian(Hessian):
    """A sum over pairs: block k_ij = φ'' n nᵀ + (φ'/r)(1 - n nᵀ), which acts on u_j - u_i."""

    i: Array
    j: Array
    blocks: Float[Array, "p d d"]
    n: int = eqx.field(static=True)

    has_entries: ClassVar[bool] = True

    def product(self, u: Displacements) -> Displacements:
        change = sum_components(self.blocks * (gather(u, self.j) - gather(u, self.i))[:, None, :])
        return scatter_to_pairs(self.i, self.j, change, self.n)

    def dense(self) -> Float[Array, "n d n d"]:
        d = self.blocks.shape[-1]
        i, j, blocks = self.i, self.j, self.blocks
        rows, columns = jnp.concatenate([i, j, i, j]), jnp.concatenate([i, j, j, i])
        matrix = jnp.zeros((self.n, d, self.n, d), blocks.dtype)
        values = jnp.concatenate([blocks, blocks, -blocks, -blocks])
        return matrix.at[rows, :, columns, :].add(values, wrap_negative_indices=False)

    def entries(self, added: Float[Array, ""]) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
        """Pairs that do not interact have no entries."""
        d = self.blocks.shape[-1]
        live = jnp.any(self.blocks != 0.0, axis=(1, 2)) & (self.i != self.j)
        blocks = jnp.where(live[:, None, None], self.blocks, 0.0)
        on_site = scatter(blocks, self.i, self.n) + scatter(blocks, self.j, self.n)
        on_site = on_site + added * jnp.eye(d, dtype=blocks.dtype)
        low, high = (jnp.where(live, end(self.i, self.j), 0) for end in (jnp.minimum, jnp.maximum))
        a, b = (k.ravel() for k in np.indices((d, d)))
        sites, u, v = jnp.arange(self.n), *np.triu_indices(d)
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
        return scatter(each, self.i, self.n) + scatter(each, self.j, self.n)


class BlockHessian(Hessian):
    """A sum over groups of k particles: of each term all second derivatives by the positions of its particles."""

    groups: Int[Array, "m k"]
    blocks: Float[Array, "m k d k d"]
    n: int = eqx.field(static=True)

    has_entries: ClassVar[bool] = True

    def product(self, u: Displacements) -> Displacements:
        m, k, d = self.blocks.shape[:3]
        moves = gather(u, self.groups).reshape(m, 1, k * d)
        change = sum_components(self.blocks.reshape(m, k * d, k * d) * moves).reshape(m, k, d)
        return scatter(change, self.groups, self.n)

    def dense(self) -> Float[Array, "n d n d"]:
        d = self.blocks.shape[-1]
        matrix = jnp.zeros((self.n, d, self.n, d), self.blocks.dtype)
        rows, columns, between = self.groups[:, :, None], self.groups[:, None, :], jnp.swapaxes(self.blocks, 2, 3)
        return matrix.at[rows, :, columns, :].add(between, wrap_negative_indices=False)

    def entries(self, added: Float[Array, ""]) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
        """Particles of a group with no second derivative between them have no entries."""
        k, d = self.blocks.shape[1:3]
        on_site = self._on_sites() + added * jnp.eye(d, dtype=self.blocks.dtype)
        sites, u, v = jnp.arange(self.n), *np.triu_indices(d)
        a, b = (corner.ravel() for corner in np.indices((d, d)))
        first, second = np.triu_indices(k, 1)
        p, q = self.groups[:, first].T, self.groups[:, second].T
        block = self.blocks[:, first, :, second, :]  # [two members, m, d, d]
        block = jnp.where((p < q)[..., None, None], block, jnp.swapaxes(block, 2, 3))
        live = (jnp.any(block != 0.0, axis=(2, 3)) & (p != q))[..., None]
        between = [
            jnp.where(live, end[..., None] * d + corner, 0).ravel()
            for end, corner in ((jnp.minimum(p, q), a), (jnp.maximum(p, q), b))
        ]
        places = [(sites[:, None] * d + corner).ravel() for corner in (u, v)]
        rows, columns = (jnp.concatenate(parts).astype(jnp.int32) for parts in zip(places, between, strict=True))
        values = jnp.where(live[..., None], block, 0.0)
        return rows, columns, jnp.concatenate([on_site[:, u, v].ravel(), values.ravel()])

    def scale(self) -> Float[Array, ""]:
        return jnp.mean(self.site_stiffness())

    def site_stiffness(self) -> Float[Array, " n"]:
        return jnp.trace(self._on_sites(), axis1=1, axis2=2) / self.blocks.shape[-1]

    def _on_sites(self) -> Float[Array, "n d d"]:
        """The second derivatives by the position of each particle, which may be in a group more than once."""
        same = (self.groups[:, :, None] == self.groups[:, None, :])[:, :, None, :, None]
        of_members = jnp.sum(jnp.where(same, self.blocks, 0.0), axis=3)
        return scatter(of_members, self.groups, self.n)


class GeneralHessian(Hessian):
    """The Hessian of a potential that is no sum over pairs: products by differentiating the gradient."""

    potential: Potential
    system: System
    neighbors: PairList

    def product(self, u: Displacements) -> Displacements:
        def slope(x: Displacements) -> Displacements:
            return self.potential.gradient(self.system.replace(positions=x), self.neighbors)

        return jax.jvp(slope, (self.system.positions,), (u,))[1]

    def dense(self) -> Float[Array, "n d n d"]:
        n, d = self.system.positions.shape
        basis = jnp.eye(n * d, dtype=self.system.positions.dtype).reshape(n * d, n, d)
        return jax.lax.map(self.product, basis, batch_size=64).reshape(n, d, n, d)

    def scale(self) -> Float[Array, ""]:
        probe = random_signs(self.system.positions.shape, self.system.positions.dtype)
        return jnp.sum(probe * self.product(probe)) / probe.size

    def site_stiffness(self) -> Float[Array, " n"]:
        return jnp.broadcast_to(self.scale(), self.system.n)


class SumHessian(Hessian):
    """The sum of some Hessians."""

    parts: tuple[Hessian, ...]

    @property
    def has_entries(self) -> bool:  # type: ignore[override]
        return all(part.has_entries for part in self.parts)

    def product(self, u: Displacements) -> Displacements:
        return self._sum(part.product(u) for part in self.parts)

    def dense(self) -> Float[Array, "n d n d"]:
        return self._sum(part.dense() for part in self.parts)

    def scale(self) -> Float[Array, ""]:
        return self._sum(part.scale() for part in self.parts)

    def site_stiffness(self) -> Float[Array, " n"]:
        return self._sum(part.site_stiffness() for part in self.parts)

    def entries(self, added: Float[Array, ""]) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
        first, *others = self.parts
        found = [first.entries(added), *(part.entries(jnp.zeros_like(added)) for part in others)]
        rows, columns, values = (jnp.concatenate(each) for each in zip(*found, strict=True))
        return rows, columns, values

    def _sum(self, values: Iterable[Array]) -> Array:
        return functools.reduce(jnp.add, values)


class RestrictedHessian(Hessian):
    """A Hessian on the degrees of freedom that are movable: the rows and columns of the others are zero."""

    whole: Hessian
    movable: Bool[Array, "n d"]

    @property
    def has_entries(self) -> bool:  # type: ignore[override]
        return self.whole.has_entries

    def product(self, u: Displacements) -> Displacements:
        return self._restricted(self.whole.product(self._restricted(u)))

    def dense(self) -> Float[Array, "n d n d"]:
        both = self.movable[:, :, None, None] & self.movable
        return jnp.where(both, self.whole.dense(), 0.0)

    def scale(self) -> Float[Array, ""]:
        return self.whole.scale()

    def site_stiffness(self) -> Float[Array, " n"]:
        return self.whole.site_stiffness()

    def entries(self, added: Float[Array, ""]) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
        """Fixed degrees of freedom keep their place on the diagonal, so that the matrix is positive, and couple to
        none.
        """
        rows, columns, values = self.whole.entries(added)
        free, diagonal = self.movable.ravel(), rows == columns
        kept = diagonal | (free[rows] & free[columns])
        values = jnp.where(diagonal & ~free[rows], jnp.abs(values), jnp.where(kept, values, 0.0))
        return jnp.where(kept, rows, 0), jnp.where(kept, columns, 0), values

    def _restricted(self, u: Displacements) -> Displacements:
        return jnp.where(self.movable, u, 0.0)
