"""H = ∂²E/∂x² at given positions: products, the dense matrix, and the zero modes known beforehand."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .potentials.base import Pairs
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
    slope, curvature = pairs.derivatives()
    normal = pairs.separation / jnp.where(pairs.interacts, pairs.distance, 1.0)[:, None]
    tension = slope / pairs.distance
    along = (curvature - tension)[:, None, None] * normal[:, :, None] * normal[:, None, :]
    across = tension[:, None, None] * jnp.eye(system.dim, dtype=normal.dtype)
    blocks = jnp.where(pairs.interacts[:, None, None], along + across, 0.0)
    return PairHessian(pairs.i, pairs.j, blocks, system.n)


def rattlers(potential: Potential, system: System, neighbors: Neighbors) -> Bool[Array, " n"]:
    """Particles that nothing holds, found recursively.

    Where particles interact by contact, one with fewer than d + 1 contacts cannot be held in a
    stable equilibrium; it is a rattler unless its contacts bear force all the same, as they can at a
    saddle. The contacts of a rattler do not count (Donev, Torquato, Stillinger and Connelly, J. Comput.
    Phys. 197, 139 (2004)). For other pair potentials only a particle without any neighbor within its
    cutoff is one.
    """
    if not isinstance(potential, PairPotential):
        return jnp.zeros(system.n, bool)
    pairs = potential.pairs(system, neighbors)
    needed = system.dim + 1 if potential.contact else 1
    bears_force = _bears_force(potential, system, pairs)

    def contacts(held: Bool[Array, " n"]) -> Array:
        counted = (pairs.interacts & held[pairs.i] & held[pairs.j]).astype(jnp.int32)
        return jnp.zeros(system.n, jnp.int32).at[pairs.i].add(counted).at[pairs.j].add(counted)

    def shed(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        held, _ = carry
        still = held & ((contacts(held) >= needed) | bears_force)
        return still, jnp.any(still != held)

    everyone = (jnp.ones(system.n, bool), jnp.asarray(True))
    held, _ = jax.lax.while_loop(lambda carry: carry[1], shed, everyone)
    return ~held


def _bears_force(potential: PairPotential, system: System, pairs: Pairs) -> Bool[Array, " n"]:
    """Particles with a pair force well beyond what is left of the net forces."""
    slope = pairs.map(lambda one, r, sigma: jax.grad(one.pair_energy)(r, sigma))
    force = (slope / pairs.distance)[:, None] * pairs.separation
    net = jnp.zeros_like(system.positions).at[pairs.j].add(force).at[pairs.i].add(-force)
    noise = 1e3 * jnp.max(jnp.abs(net)) + 1e-8 * potential.stiffness(system) * jnp.mean(system.diameters)
    strong = (jnp.abs(slope) > noise).astype(jnp.int32)
    return jnp.zeros(system.n, jnp.int32).at[pairs.i].add(strong).at[pairs.j].add(strong) > 0


class ZeroModes(eqx.Module):
    """The displacements that are known to cost no energy: rattlers, and the body moving as one.

    With open boundaries the rotations belong to the latter. `rigid` are orthonormal rows [m, n, d];
    a row of zeros stands for a rotation that does nothing (a dimer about its axis).
    """

    rattlers: Bool[Array, " n"]
    rigid: Float[Array, "m n d"]

    def project(self, u: Displacements) -> Displacements:
        """The part of u that is orthogonal to all of them."""
        u = jnp.where(self.rattlers[:, None], 0.0, u)
        return u - jnp.tensordot(jnp.tensordot(self.rigid, u, axes=2), self.rigid, axes=1)

    @property
    def count(self) -> Array:
        d = self.rigid.shape[-1]
        return d * jnp.sum(self.rattlers) + jnp.sum(jnp.any(self.rigid != 0.0, axis=(1, 2)))


def known_zero_modes(system: System, loose: Bool[Array, " n"]) -> ZeroModes:
    """Translations, with open boundaries also rotations, of all that is not loose; and the loose ones."""
    held = jnp.where(loose, 0.0, 1.0).astype(system.positions.dtype)[:, None]
    d = system.dim
    motions = [held * unit for unit in jnp.eye(d, dtype=held.dtype)]
    if system.box is None:
        arm = system.positions - jnp.sum(held * system.positions, axis=0) / jnp.maximum(jnp.sum(held), 1.0)
        for a, b in [(0, 1), (0, 2), (1, 2)][: d * (d - 1) // 2]:
            turn = jnp.zeros_like(arm).at[:, a].set(-arm[:, b]).at[:, b].set(arm[:, a])
            motions.append(held * turn)
    return ZeroModes(loose, _orthonormal(motions))


def _orthonormal(motions: list[Displacements]) -> Float[Array, "m n d"]:
    """Gram-Schmidt, a dependent motion becoming zero; differentiable."""
    rows: list[Displacements] = []
    for motion in motions:
        rest = motion
        for row in rows:
            rest = rest - jnp.sum(row * rest) * row
        left = jnp.sum(rest**2)
        independent = left > 1e-6 * jnp.sum(motion**2)
        rows.append(jnp.where(independent, rest / jnp.sqrt(jnp.where(independent, left, 1.0)), 0.0))
    return jnp.stack(rows)
