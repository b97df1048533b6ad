"""Displacements that cost no energy and are known beforehand: those of rattlers, and rigid motions of clusters."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..geometry import gather, scatter, sum_components
from ..runtime.noise import white_noise
from ..system import System
from .configuration import Configuration
from .hessian import Hessian
from .thresholds import INDEPENDENT_MOTION, NEGLIGIBLE_ON_FIXED, RIGID_RESISTANCE, WEAK_RESISTANCE

Displacements = Float[Array, "n d"]
Carry = tuple[Array, Array, Array, Array]


def find_clusters(backbone: Configuration) -> Int[Array, " n"]:
    """The connected cluster of each particle, labelled by its first member.

    Particles that interact are connected, and those that a term joins; all of them where the potential is no sum of
    terms.
    """
    n, edges = backbone.system.n, _connections(backbone)
    if edges is None:
        return jnp.zeros(n, jnp.int32)
    i, j, connects = edges
    nobody = jnp.asarray(n, jnp.int32)

    def merge(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        label, _ = carry
        lower = jnp.where(connects, jnp.minimum(gather(label, i), gather(label, j)), nobody)
        hooked = label
        for end in (i, j):
            hooked = hooked.at[gather(label, end)].min(lower, wrap_negative_indices=False)
        merged = gather(hooked, hooked)
        return merged, jnp.any(merged != label)

    start = (jnp.arange(n, dtype=jnp.int32), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[1], merge, start)[0]


def _connections(backbone: Configuration) -> tuple[Array, Array, Array] | None:
    """Pairs of particles, and whether they are connected; None where the potential is no sum of terms."""
    if not backbone.potential.has_terms:
        return None
    pairs = backbone.pairs
    edges = [] if pairs is None else [(pairs.i, pairs.j, pairs.interacts)]
    for _, terms in backbone.others():
        assert terms is not None
        size = terms.groups.shape[1]
        resists = terms.resists()
        edges += [(terms.groups[:, k - 1], terms.groups[:, k], resists) for k in range(1, size)]
    if not edges:
        alone = jnp.arange(backbone.system.n)
        edges.append((alone, alone, jnp.zeros(alone.shape, bool)))
    if len(edges) == 1:
        return edges[0]
    i, j, connects = (jnp.concatenate(each) for each in zip(*edges, strict=True))
    return i, j, connects


class ZeroModes(eqx.Module):
    """Rattlers, and the rigid motions of every cluster: translations, and rotations with open boundaries, or about the
    only direction along which a cell is periodic; with fixed degrees of freedom those of them that do not move these.

    `rigid` [m, n, d] holds each motion for all clusters at once, orthonormal within each cluster; a motion that moves
    nothing (a dimer turning about its axis) is zero there. `weakly_held`: whether the energy resists a rigid
    motion by so little that no linear solver finds how much. `movable` (bool [n, d]): the degrees of freedom that
    relax, None where all do.
    """

    rattlers: Bool[Array, " n"]
    cluster: Int[Array, " n"]
    rigid: Float[Array, "m n d"]
    weakly_held: Bool[Array, ""]
    movable: Bool[Array, "n d"] | None = None

    def project(self, u: Displacements) -> Displacements:
        """The part of u that is orthogonal to all of them, zero where degrees of freedom are fixed."""
        u = jnp.where(self.rattlers[:, None], 0.0, u)
        if self.movable is not None:
            u = jnp.where(self.movable, u, 0.0)
        amounts = _sum_clusters(sum_components(self.rigid * u).T, self.cluster)
        return u - sum(amounts[:, k, None] * motion for k, motion in enumerate(self.rigid))

    def project_matrix(self, hessian: Hessian) -> Float[Array, "k k"]:
        """The matrix of P H P, P the projection off these modes."""
        n, d = self.rigid.shape[1:]

        def project_rows(matrix: Float[Array, "k k"]) -> Float[Array, "k k"]:
            return jax.vmap(self.project)(matrix.reshape(n * d, n, d)).reshape(n * d, n * d)

        return project_rows(project_rows(hessian.dense().reshape(n * d, n * d)).T)

    @property
    def translations(self) -> Int[Array, ""]:
        """d for each cluster."""
        return jnp.sum(self._present[: self.rigid.shape[-1]])

    @property
    def rotations(self) -> Int[Array, ""]:
        return jnp.sum(self._present[self.rigid.shape[-1] :])

    @property
    def count(self) -> Int[Array, ""]:
        """The number of all zero modes, d for each rattler, without fixed degrees of freedom."""
        of_rattlers = self.rigid.shape[-1] * jnp.sum(self.rattlers)
        if self.movable is not None:
            of_rattlers = jnp.sum(self.movable & self.rattlers[:, None])
        return of_rattlers + jnp.sum(self._present)

    @property
    def fixed(self) -> Int[Array, ""]:
        """The number of fixed degrees of freedom."""
        return jnp.asarray(0 if self.movable is None else jnp.sum(~self.movable), jnp.int32)

    @property
    def _present(self) -> Bool[Array, "m n"]:
        """Whether a motion exists in the cluster that this particle labels."""
        sizes = jax.vmap(lambda motion: jax.ops.segment_sum(jnp.sum(motion**2, -1), self.cluster, self.cluster.size))
        return sizes(self.rigid) > 0.5


def known_zero_modes(backbone: Configuration, rattlers: Bool[Array, " n"], hessian: Hessian) -> ZeroModes:
    """The zero modes known beforehand, given a configuration without the pairs of rattlers.

    A sum over pairs depends on distances alone. With any other part of a potential the rigid motions of each cluster
    are tested: one that the energy resists, as a trap or a wall does, is no zero mode; a combination that it does not
    resist, such as a rotation about the one particle that is held, is one.

    **Arguments:**

    - `hessian`: that of `backbone`.
    """
    system = backbone.system
    cluster = find_clusters(backbone)
    present = jnp.where(rattlers, 0.0, 1.0).astype(system.positions.dtype)[:, None]
    d = system.dim
    members = jnp.maximum(_sum_clusters(present[:, 0], cluster), 1.0)
    translation = present / jnp.sqrt(members)[:, None]
    rigid = [jnp.stack([translation * unit for unit in np.eye(d, dtype=present.dtype)])]
    if rotates(system):
        center = jnp.stack(
            [_inner(present * x[:, None], present, cluster) / members for x in system.positions.T], axis=1
        )
        turns = [present * turn for turn in _turns(system, system.positions - center)]
        rigid.append(_orthonormal(turns, list(rigid[0]), cluster))
    motions, weakly_held = jnp.concatenate(rigid), jnp.asarray(False)
    if system.movable is not None:
        motions = _not_pinned(motions, system.movable, cluster)
    if backbone.potential.others():
        motions, weakly_held = _not_resisted(backbone, hessian, motions, cluster)
    return ZeroModes(rattlers, cluster, motions, weakly_held, system.movable)


def rotates(system: System) -> bool:
    """Whether the boundaries allow a rotation: there is a plane without a periodic direction."""
    return sum(system.periodic) <= system.dim - 2


def _turns(system: System, arm: Displacements) -> list[Displacements]:
    """The motion of points at given arms from their center as they turn about each axis that the boundaries allow."""
    if system.lattice is not None:
        axis = system.lattice[0] / jnp.linalg.norm(system.lattice[0])
        return [jnp.cross(axis, arm)]
    planes = [(0, 1), (0, 2), (1, 2)][: system.dim * (system.dim - 1) // 2]
    return [jnp.zeros_like(arm).at[:, a].set(-arm[:, b]).at[:, b].set(arm[:, a]) for a, b in planes]


def _not_pinned(
    motions: Float[Array, "m n d"], movable: Bool[Array, "n d"], cluster: Int[Array, " n"]
) -> Float[Array, "m n d"]:
    """A basis of those combinations of rigid motions that leave fixed degrees of freedom at rest, the others zero."""
    at_fixed = jnp.where(movable, 0.0, motions)
    negligible = NEGLIGIBLE_ON_FIXED * jnp.finfo(motions.dtype).eps * _sizes(at_fixed, cluster)
    free, _ = _without_image(motions, at_fixed, negligible, cluster)
    return jnp.where(movable, free, 0.0)


def _not_resisted(
    backbone: Configuration, hessian: Hessian, rigid: Float[Array, "m n d"], cluster: Int[Array, " n"]
) -> tuple[Float[Array, "m n d"], Bool[Array, ""]]:
    """A basis of those combinations of rigid motions that leave the energy unchanged, the others zero, and whether one
    is resisted, but hardly.

    A translation changes no difference of positions, so the change of force along it is zero to rounding where the
    energy has this symmetry; along a rotation it is the residual forces, turned. Each cluster is tested by itself.
    """
    x, eps = backbone.system.positions, float(jnp.finfo(rigid.dtype).eps)
    probe = white_noise(x.shape, x.dtype, 2)
    of_probe, length_of_probe = _sizes(jnp.stack([hessian.product(probe), probe]), cluster)
    typical = of_probe / length_of_probe
    limits = jnp.broadcast_to(RIGID_RESISTANCE * eps * typical, (len(rigid), len(x)))
    if rotates(backbone.system):
        members = _sum_clusters(jnp.ones_like(x), cluster)
        arm = x - _sum_clusters(x, cluster) / members
        residual = _sizes(backbone.gradient()[None], cluster)[0]
        turned = 2.0 * residual / _smallest_radius(backbone.system, arm, cluster)
        rounding = jnp.max(jnp.abs(x)) / backbone.length * limits[0]
        turns = np.arange(len(rigid)) >= backbone.system.dim
        limits = limits + jnp.where(turns[:, None], rounding + turned, 0.0)
    images = jax.lax.map(hessian.product, rigid)
    free, resistance = _without_image(rigid, images, limits, cluster)
    return free, jnp.any(resistance <= max(WEAK_RESISTANCE, eps**0.5) * typical)


def _without_image(
    motions: Float[Array, "m n d"],
    images: Float[Array, "m n d"],
    limits: Float[Array, "m n"],
    cluster: Int[Array, " n"],
) -> tuple[Float[Array, "m n d"], Float[Array, "m n"]]:
    """An orthonormal basis of those combinations of motions whose image vanishes, the others zero; and the images of
    the others, per length of the motion, infinite where there are no others.

    Gram-Schmidt on the images within each cluster, by which the motions are carried along: what is left of an image
    pins one combination, and a motion of which nothing is left beyond its limit is free. The largest image is next, as
    in a QR factorization with pivoting, so that a small one, which is known less exactly, is not divided by first;
    but all translations come before all rotations, so that a rotation about a point that is held counts as one.
    Differentiable: a motion that is free as it is, is changed by nothing, but its derivative is that of the
    combination.

    **Arguments:**

    - `motions`: orthonormal or zero, the translations, one along each axis, before the rotations.
    - `images`: a linear function of the motions, of each.
    - `limits` ([m, n], the same for all particles of a cluster): what rounding and residual forces make of each image.
    """
    (m, _, d), particles = motions.shape, jnp.arange(motions.shape[1])

    def pin_next(carry: Carry, may_be_next: Bool[Array, " m"]) -> tuple[Carry, Array]:
        motions, images, limits, pinned = carry
        left = _sizes(images, cluster)
        seen = ~pinned & (left > limits)
        candidates = jnp.where(seen & may_be_next[:, None], left, 0.0)
        chosen = jnp.argmax(candidates, axis=0)
        exists = jnp.max(candidates, axis=0) > 0.0
        length = jnp.where(exists, left[chosen, particles], 1.0)
        motion, image = (
            jnp.where(exists[:, None], each[chosen, particles] / length[:, None], 0.0) for each in (motions, images)
        )
        pinned = pinned | ((jnp.arange(m)[:, None] == chosen) & exists)
        overlap = jnp.where(pinned, 0.0, jax.vmap(lambda each: _inner(image, each, cluster))(images))
        amount = overlap - jnp.where(seen, 0.0, jax.lax.stop_gradient(overlap))
        limits = limits + jnp.abs(amount) * limits[chosen, particles] / length
        size = _sizes(motion[None], cluster)[0]
        resistance = jnp.where(exists, 1.0 / jnp.where(exists, size, 1.0), jnp.inf)
        motions, images = (each - amount[:, :, None] * pin for each, pin in ((motions, motion), (images, image)))
        return (motions, images, limits, pinned), resistance

    is_translation = np.arange(m) < d
    order = jnp.asarray(np.where(is_translation[:, None], is_translation, ~is_translation))
    start = motions, images, jax.lax.stop_gradient(limits), jnp.zeros(limits.shape, bool)
    (motions, _, _, pinned), resistance = jax.lax.scan(pin_next, start, order)
    free = jnp.where(pinned[:, :, None], 0.0, motions)
    free = free / jnp.maximum(_sizes(free, cluster), 1.0)[:, :, None]
    return _orthonormal(list(free), [], cluster), resistance


def _smallest_radius(system: System, arm: Float[Array, "n d"], cluster: Int[Array, " n"]) -> Float[Array, " n"]:
    """The length of the shortest rotation of each cluster by a unit angle, apart from one that moves nothing."""
    turns = _turns(system, arm)
    if len(turns) == 1:
        squares = _inner(turns[0], turns[0], cluster)
        return jnp.sqrt(jnp.where(squares > 0.0, squares, 1.0))
    squares = _inner(arm, arm, cluster)
    outer = _sum_clusters(arm[:, :, None] * arm[:, None, :], cluster)
    moments = jnp.linalg.eigvalsh(squares[:, None, None] * jnp.eye(3, dtype=arm.dtype) - outer)
    moments = jnp.where(moments > INDEPENDENT_MOTION * moments[:, -1:], moments, jnp.inf)
    smallest = jnp.min(moments, axis=1)
    return jnp.sqrt(jnp.where(jnp.isfinite(smallest), smallest, 1.0))


def _inner(u: Displacements, v: Displacements, cluster: Int[Array, " n"]) -> Float[Array, " n"]:
    """u·v summed over the cluster of each particle."""
    return _sum_clusters(sum_components(u * v), cluster)


def _sizes(motions: Float[Array, "m n d"], cluster: Int[Array, " n"]) -> Float[Array, "m n"]:
    """|u| of each motion, of the part in the cluster of each particle; differentiable where it is zero."""
    squared = jax.vmap(lambda u: _inner(u, u, cluster))(motions)
    return jnp.where(squared > 0.0, jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0)), 0.0)


def _sum_clusters(x: Float[Array, "n *m"], cluster: Int[Array, " n"]) -> Float[Array, "n *m"]:
    """For every particle the sum over its cluster."""
    return gather(scatter(x, cluster, cluster.size), cluster)


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
        independent = left > INDEPENDENT_MOTION * largest
        length = jnp.sqrt(jnp.where(independent, left, 1.0))
        rows.append(jnp.where(independent[:, None], rest / length[:, None], 0.0))
    return jnp.stack(rows)
