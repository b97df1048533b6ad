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
    rounding = 1e3 * jnp.finfo(max_force.dtype).eps * potential.stiffness(system)
    noise = 10.0 * max_force / jnp.mean(system.diameters) + rounding
    return lanczos(hessian(potential, system, backbone), modes, noise)


class _Step(eqx.Module):
    before: Displacements
    here: Displacements
    beta: Float[Array, ""]
    summed: Displacements


def lanczos(matrix: Hessian, modes: ZeroModes, noise: Float[Array, ""]) -> Curvature:
    """The ends of the spectrum of P H P (Lanczos, J. Res. Natl. Bur. Stand. 45, 255 (1950)).

    Without reorthogonalization: it brings copies of eigenvalues, no wrong ones (Paige 1980). The
    vector comes from a second pass, made only where there is a negative curvature: nothing is stored.
    """
    shape = modes.rigid.shape[1:]
    dtype = modes.rigid.dtype
    steps = min(LANCZOS_STEPS, shape[0] * shape[1])
    first = modes.project(jax.random.normal(jax.random.key(1), shape, dtype))
    size = jnp.linalg.norm(first)
    nothing = jnp.zeros(shape, dtype)
    start = _Step(nothing, first / jnp.where(size > 0.0, size, 1.0), jnp.zeros((), dtype), nothing)

    def step(run: _Step, weight: Float[Array, ""]) -> tuple[_Step, tuple[Array, Array]]:
        along = modes.project(matrix.product(run.here)) - run.beta * run.before
        alpha = jnp.sum(run.here * along)
        rest = modes.project(along - alpha * run.here)
        beta = jnp.linalg.norm(rest)
        beta = jnp.where(beta > 1e-12 * jnp.abs(alpha), beta, 0.0)
        after = rest / jnp.where(beta > 0.0, beta, 1.0) * (beta > 0.0)
        return _Step(run.here, after, beta, run.summed + weight * run.here), (alpha, beta)

    _, (alpha, beta) = jax.lax.scan(step, start, jnp.zeros(steps, dtype))
    alive = jnp.concatenate([jnp.ones(1, bool), jnp.cumprod(beta[:-1] > 0.0).astype(bool)])
    diagonal = jnp.where(alive, alpha, alpha[0])  # within the spectrum, so that it is no end of it
    off = beta[:-1] * alive[1:]
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1))
    negative = values[0] < -(noise + spectral_cut(values))
    weights = jnp.where(alive, vectors[:, 0], 0.0)

    def add(carry: tuple[_Step, Array]) -> tuple[_Step, Array]:
        run, k = carry
        return step(run, weights[k])[0], k + 1

    most = jnp.where(negative, steps, 0)
    again, _ = jax.lax.while_loop(lambda carry: carry[1] < most, add, (start, jnp.asarray(0)))
    length = jnp.linalg.norm(again.summed)
    return Curvature(values[0], values[-1], again.summed / jnp.where(length > 0.0, length, 1.0), negative)
