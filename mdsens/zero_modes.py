"""The displacements that cost no energy and are known beforehand: rattlers, and clusters moving as one."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .system import System, over_components

Displacements = Float[Array, "n d"]


@eqx.filter_jit
def rattlers(potential: Potential, system: System, neighbors: Neighbors) -> Bool[Array, " n"]:
    """Particles that nothing holds, found recursively.

    Where particles interact by contact, one with fewer than d + 1 contacts cannot be held in a stable
    equilibrium; the contacts of a rattler do not count (Donev, Torquato, Stillinger and Connelly, J.
    Comput. Phys. 197, 139 (2004)). Nor do contacts whose force is no more than what is left of the
    net forces: a minimizer leaves a rattler, or a group of them, in touch with its cage. A particle that
    bears a force well beyond that is none, however few its contacts, as at a saddle. For other pair
    potentials only a particle without any neighbor within its cutoff is one.
    """
    if not isinstance(potential, PairPotential):
        return jnp.zeros(system.n, bool)
    pairs = potential.pairs(system, neighbors)
    counts, needed = pairs.interacts, 1
    bears_force = jnp.zeros(system.n, bool)
    if potential.contact:
        force, left = pairs.force, force_left(potential, system, neighbors)
        counts, needed = force > 30.0 * left, system.dim + 1
        bears_force = touched(force > 300.0 * left, pairs.i, pairs.j, system.n) > 0

    return ~held_by(counts, pairs.i, pairs.j, needed, bears_force)


def held_by(
    counts: Bool[Array, " p"], i: Int[Array, " p"], j: Int[Array, " p"], needed: int, spared: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    """The particles left when, one after another, those with fewer of these contacts than are needed have been taken
    away, but for the spared.
    """

    def shed(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        held, _ = carry
        contacts = touched(counts & held[i] & held[j], i, j, held.size)
        still = held & ((contacts >= needed) | spared)
        return still, jnp.any(still != held)

    everyone = (jnp.ones(spared.shape, bool), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[1], shed, everyone)[0]


def force_left(potential: PairPotential, system: System, neighbors: Neighbors) -> Float[Array, ""]:
    """The largest net force on a particle, and at least what rounding of the positions makes of it."""
    pairs = potential.pairs(system, neighbors)
    net = pairs.gradient(system.n)
    eps = jnp.finfo(net.dtype).eps
    rounding = eps * potential.stiffness(system) * (jnp.max(jnp.abs(system.positions)) + jnp.max(system.diameters))
    return jnp.max(jnp.abs(net)) + rounding


def touched(chosen: Bool[Array, " p"], i: Array, j: Array, n: int) -> Int[Array, " n"]:
    """How many of the chosen pairs each particle is in."""
    one = chosen.astype(jnp.int32)
    return jnp.zeros(n, jnp.int32).at[i].add(one).at[j].add(one)


def clusters(potential: Potential, system: System, backbone: Neighbors) -> Int[Array, " n"]:
    """The connected cluster of each particle, called by its first member.

    Particles are connected that interact; all of them, where the potential is no sum over pairs.
    """
    if not isinstance(potential, PairPotential):
        return jnp.zeros(system.n, jnp.int32)
    pairs = potential.pairs(system, backbone)
    nobody = jnp.asarray(system.n, jnp.int32)

    def merge(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        label, _ = carry
        lower = jnp.where(pairs.interacts, jnp.minimum(label[pairs.i], label[pairs.j]), nobody)
        hooked = label.at[label[pairs.i]].min(lower).at[label[pairs.j]].min(lower)
        merged = hooked[hooked]
        return merged, jnp.any(merged != label)

    start = (jnp.arange(system.n, dtype=jnp.int32), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[1], merge, start)[0]


class ZeroModes(eqx.Module):
    """Rattlers, and the rigid motions of every cluster: translations, with open boundaries also rotations.

    `rigid` [m, n, d] are the motions of all clusters at once, orthonormal within each; where one does
    nothing (a dimer turning about its axis) it is zero.
    """

    rattlers: Bool[Array, " n"]
    cluster: Int[Array, " n"]
    rigid: Float[Array, "m n d"]

    def project(self, u: Displacements) -> Displacements:
        """The part of u that is orthogonal to all of them."""
        u = jnp.where(self.rattlers[:, None], 0.0, u)
        overlaps = jnp.stack([over_components(motion * u) for motion in self.rigid], axis=-1)
        amounts = _over_clusters(overlaps, self.cluster)
        return u - sum(amounts[:, k, None] * motion for k, motion in enumerate(self.rigid))

    @property
    def translations(self) -> Int[Array, ""]:
        """d for each cluster."""
        return jnp.sum(self._present[: self.rigid.shape[-1]])

    @property
    def rotations(self) -> Int[Array, ""]:
        return jnp.sum(self._present[self.rigid.shape[-1] :])

    @property
    def count(self) -> Int[Array, ""]:
        """All of them, d for each rattler."""
        return self.rigid.shape[-1] * jnp.sum(self.rattlers) + jnp.sum(self._present)

    @property
    def _present(self) -> Bool[Array, "m n"]:
        """Whether the motion is one of the cluster that is called by this particle."""
        sizes = jax.vmap(lambda motion: jax.ops.segment_sum(jnp.sum(motion**2, -1), self.cluster, self.cluster.size))
        return sizes(self.rigid) > 0.5


def known_zero_modes(potential: Potential, system: System, backbone: Neighbors, loose: Bool[Array, " n"]) -> ZeroModes:
    """The zero modes known beforehand, given the pairs of which no particle is loose.

    A sum over pairs knows no places, only distances; of any other potential it is asked whether it resists a
    rigid motion, as a trap or a wall does, which then is none.
    """
    cluster = clusters(potential, system, backbone)
    held = jnp.where(loose, 0.0, 1.0).astype(system.positions.dtype)[:, None]
    d = system.dim
    rigid = [_orthonormal([held * unit for unit in jnp.eye(d, dtype=held.dtype)], [], cluster)]
    if system.box is None:
        members = jnp.maximum(_inner(held, held, cluster), 1.0)
        center = jnp.stack([_inner(held * x[:, None], held, cluster) / members for x in system.positions.T], axis=1)
        arm = system.positions - center
        turns = []
        for a, b in [(0, 1), (0, 2), (1, 2)][: d * (d - 1) // 2]:
            turns.append(held * jnp.zeros_like(arm).at[:, a].set(-arm[:, b]).at[:, b].set(arm[:, a]))
        rigid.append(_orthonormal(turns, list(rigid[0]), cluster))
    modes = ZeroModes(loose, cluster, jnp.concatenate(rigid))
    if isinstance(potential, PairPotential):
        return modes
    return eqx.tree_at(lambda modes: modes.rigid, modes, _not_resisted(potential, system, backbone, modes.rigid))


def _not_resisted(
    potential: Potential, system: System, neighbors: Neighbors, rigid: Float[Array, "m n d"]
) -> Float[Array, "m n d"]:
    """The motions that leave the forces as they are, zero for the others."""

    def slope(x: Displacements) -> Displacements:
        return jax.grad(lambda x: potential.energy(system.replace(positions=x), neighbors))(x)

    def resistance(motion: Displacements) -> Float[Array, ""]:
        return jnp.linalg.norm(jax.jvp(slope, (system.positions,), (motion,))[1])

    probe = jax.random.normal(jax.random.key(2), system.positions.shape, system.positions.dtype)
    typical = resistance(probe / jnp.linalg.norm(probe))
    small = jnp.finfo(probe.dtype).eps ** 0.4 * typical
    return rigid * (jax.lax.map(resistance, rigid) <= small)[:, None, None]


def _inner(u: Displacements, v: Displacements, cluster: Int[Array, " n"]) -> Float[Array, " n"]:
    """u·v over the cluster that a particle belongs to."""
    return _over_clusters(over_components(u * v), cluster)


def _over_clusters(x: Float[Array, "n *m"], cluster: Int[Array, " n"]) -> Float[Array, "n *m"]:
    """For every particle the sum over the cluster that it belongs to."""
    return jax.ops.segment_sum(x, cluster, cluster.size)[cluster]


def _orthonormal(
    motions: list[Displacements], others: list[Displacements], cluster: Int[Array, " n"]
) -> Float[Array, "m n d"]:
    """Gram-Schmidt within each cluster, a dependent motion becoming zero; differentiable."""
    rows: list[Displacements] = []
    largest = functools.reduce(jnp.maximum, (_inner(motion, motion, cluster) for motion in motions))
    for motion in motions:
        rest = motion
        for row in [*others, *rows]:
            rest = rest - _inner(row, rest, cluster)[:, None] * row
        left = _inner(rest, rest, cluster)
        independent = left > 1e-6 * largest
        length = jnp.sqrt(jnp.where(independent, left, 1.0))
        rows.append(jnp.where(independent[:, None], rest / length[:, None], 0.0))
    return jnp.stack(rows)
