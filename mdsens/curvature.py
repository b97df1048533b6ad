"""The lowest curvature of the energy at a point at rest, and the way along it: is it a minimum?"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .hessian import Hessian, hessian
from .linear_solvers import spectral_cut
from .neighbors import Neighbors
from .potentials import Potential
from .system import System
from .zero_modes import Displacements, ZeroModes, known_zero_modes, rattlers

LANCZOS_STEPS = 100


class Curvature(eqx.Module):
    """Bounds for the extreme eigenvalues of H off the known zero modes, energy per length².

    The lowest lies at or below `lowest`, the highest at or above `highest`, up to rounding; in small
    systems they are the eigenvalues. `direction` [n, d], a unit vector, is the way along the lowest
    where that is negative, else zero. `negative` says that it is so by more than the residual forces and
    rounding explain.
    """

    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    direction: Displacements
    negative: Bool[Array, ""]


@eqx.filter_jit
def lowest_curvature(
    potential: Potential, system: System, neighbors: Neighbors, max_force: Float[Array, ""]
) -> Curvature:
    """The lowest curvature at a point at rest, by Lanczos' method, in a hundred products."""
    loose = rattlers(potential, system, neighbors)
    backbone = neighbors.only(~loose)
    modes = known_zero_modes(potential, system, backbone, loose)
    noise, rounding = doubts(potential, system, max_force)
    return lanczos(hessian(potential, system, backbone), modes, noise + rounding)


def doubts(potential: Potential, system: System, max_force: Float[Array, ""]) -> tuple[Array, Array]:
    """By how much a curvature may be off: for the forces left, and for rounding."""
    rounding = 1e3 * jnp.finfo(max_force.dtype).eps * potential.stiffness(system)
    return 10.0 * max_force / jnp.mean(system.diameters), rounding


class _Pass(eqx.Module):
    """Where a pass over the Lanczos vectors stands; `summed` is their sum with the weights given."""

    before: Displacements
    here: Displacements
    beta: Float[Array, ""]
    summed: Displacements


class _Ends(eqx.Module):
    """The ends of the spectrum found in the first pass, and the Lanczos vectors' weights in the lowest eigenvector."""

    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    negative: Bool[Array, ""]
    weights: Float[Array, " k"]


def lanczos(matrix: Hessian, modes: ZeroModes, noise: Float[Array, ""]) -> Curvature:
    """The ends of the spectrum of P H P (Lanczos, J. Res. Natl. Bur. Stand. 45, 255 (1950)).

    Without reorthogonalization: it brings copies of eigenvalues, no wrong ones (Paige 1980). The
    vector comes from a second pass, made only where there is a negative curvature: nothing is stored.
    """
    shape, dtype = modes.rigid.shape[1:], modes.rigid.dtype
    steps = min(LANCZOS_STEPS, shape[0] * shape[1])
    first = modes.project(jax.random.normal(jax.random.key(1), shape, dtype))
    size = jnp.linalg.norm(first)
    zero, nothing = jnp.zeros((), dtype), jnp.zeros(shape, dtype)
    start = _Pass(nothing, first / jnp.where(size > 0.0, size, 1.0), zero, nothing)

    def step(run: _Pass, weight: Float[Array, ""]) -> tuple[_Pass, tuple[Array, Array]]:
        along = modes.project(matrix.product(run.here)) - run.beta * run.before
        alpha = jnp.sum(run.here * along)
        rest = modes.project(along - alpha * run.here)
        beta = jnp.linalg.norm(rest)
        beta = jnp.where(beta > 1e-12 * jnp.abs(alpha), beta, 0.0)
        after = rest / jnp.where(beta > 0.0, beta, 1.0) * (beta > 0.0)
        return _Pass(run.here, after, beta, run.summed + weight * run.here), (alpha, beta)

    def once(carry: tuple[_Ends, Displacements, Array]) -> tuple[_Ends, Displacements, Array]:
        ends, _, passes = carry
        run, (alpha, beta) = jax.lax.scan(step, start, ends.weights)
        return _ends(alpha, beta, noise), run.summed, passes + 1

    def unfinished(carry: tuple[_Ends, Displacements, Array]) -> Bool[Array, ""]:
        ends, _, passes = carry
        return (passes == 0) | ((passes == 1) & ends.negative)

    unknown = _Ends(zero, zero, jnp.asarray(False), jnp.zeros(steps, dtype))
    ends, along, _ = jax.lax.while_loop(unfinished, once, (unknown, nothing, jnp.asarray(0, jnp.int32)))
    length = jnp.linalg.norm(along)
    return Curvature(ends.lowest, ends.highest, along / jnp.where(length > 0.0, length, 1.0), ends.negative)


def _ends(alpha: Float[Array, " k"], beta: Float[Array, " k"], noise: Float[Array, ""]) -> _Ends:
    """From the tridiagonal matrix, which ends where beta vanishes."""
    alive = jnp.concatenate([jnp.ones(1, bool), jnp.cumprod(beta[:-1] > 0.0).astype(bool)])
    diagonal = jnp.where(alive, alpha, alpha[0])  # within the spectrum, so that it is no end of it
    off = beta[:-1] * alive[1:]
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1))
    negative = values[0] < -(noise + spectral_cut(values))
    return _Ends(values[0], values[-1], negative, jnp.where(alive, vectors[:, 0], 0.0))
