"""The lowest curvature of the energy at a point at rest, and its direction: is the point a minimum?"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..runtime.compiled import compile_once
from ..runtime.noise import white_noise
from .configuration import Configuration
from .contacts import find_rattlers
from .hessian import Displacements, Hessian
from .thresholds import curvature_uncertainty, zero_eigenvalue
from .zero_modes import ZeroModes, known_zero_modes

LANCZOS_STEPS = 100


class Curvature(eqx.Module):
    """Bounds for the extreme eigenvalues of H apart from the known zero modes, energy per length².

    The lowest eigenvalue lies at or below `lowest`, the highest at or above `highest`, up to rounding; in small systems
    the bounds are the eigenvalues. `direction` [n, d] is the unit vector along the lowest curvature where that is
    negative, else zero. `negative` is True where it is negative by more than the residual forces and rounding explain.
    """

    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    direction: Displacements
    negative: Bool[Array, ""]


@compile_once
def lowest_curvature(configuration: Configuration, max_force: Float[Array, ""]) -> Curvature:
    """The lowest curvature at a point at rest, by Lanczos' method, in a hundred products."""
    here = configuration.evaluated()
    rattlers = find_rattlers(here)
    backbone = here.without(rattlers)
    hessian = backbone.hessian()
    return lanczos(hessian, known_zero_modes(backbone, rattlers, hessian), noise_of(here, max_force))


def noise_of(configuration: Configuration, max_force: Float[Array, ""]) -> Float[Array, ""]:
    """By how much a curvature may be off, for the residual forces and for rounding together."""
    noise, rounding = curvature_uncertainty(max_force, configuration.length, configuration.stiffness)
    return noise + rounding


def curvature_from_eigenvectors(
    eigenvalues: Float[Array, " k"],
    vectors: Float[Array, "k k"],
    zero_modes: Int[Array, ""],
    noise: Float[Array, ""],
    shape: tuple[int, ...],
) -> Curvature:
    """The ends of the spectrum of P H P, of which all eigenvalues are known and so many zero modes.

    The lowest curvature is zero where there are further modes without curvature, and NaN where H is not finite.
    """
    cut = zero_eigenvalue(eigenvalues)
    positive = jnp.min(jnp.where(eigenvalues > cut, eigenvalues, jnp.inf))
    floppy = jnp.sum(jnp.abs(eigenvalues) <= cut) > zero_modes
    lowest = jnp.where(floppy | jnp.isinf(positive), 0.0, positive)
    lowest = jnp.where((eigenvalues[0] < -cut) | ~jnp.isfinite(eigenvalues[0]), eigenvalues[0], lowest)
    negative = eigenvalues[0] < -(noise + cut)
    direction = jnp.where(negative, vectors[:, 0], 0.0).reshape(shape)
    return Curvature(lowest, eigenvalues[-1], direction, negative)


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
    first = modes.project(white_noise(shape, dtype, 1))
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
    negative = values[0] < -(noise + zero_eigenvalue(values))
    return _Ends(values[0], values[-1], negative, jnp.where(alive, vectors[:, 0], 0.0))
