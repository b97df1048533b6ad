"""A response as a field of displacements: its affine part, who takes part, the soft modes in it, how far it reaches."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..geometry import minimum_image, reciprocal
from ..parameters import direction_of
from ..properties import VibrationalModes, vibrational_modes
from ..properties.vibrations import participation_ratio
from ..relaxation.equilibrium import Equilibrium
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from ..system import System
from .nearby import check_fixed_cell
from .sensitivity import Sensitivity

BINS_PER_DIAMETER = 3
"""Of the correlation function."""

REACH = 1.5
"""Particles within so many mean diameters count as neighbors of one, for the strain around it."""

ROWS_AT_ONCE = 512
"""Particles whose distances to all others are in memory together."""


@dataclasses.dataclass(frozen=True)
class ResponseField:
    """The displacements [n, d] of all particles, per unit of a parameter, or of a step along a direction of it.

    `gradient` [d, d], F with affine = x F: how the cell moves; zero where it does not. `affine` and `nonaffine` [n, d]
    sum to `displacements`. `participation_ratio` of the non-affine part, (Σ|u|²)²/(N Σ|u|⁴): 1 where all particles move
    alike far, 1/N where one does.

    `frequencies` [m] of the softest modes that are not zero, and `overlaps` [m], the share of Σ|u|² of the non-affine
    part along each: over all modes, without rattlers, they sum to one.

    `distances` [b] and `correlation` [b], C(r) = ⟨u_i·u_j⟩ over pairs at the distance r, divided by ⟨u²⟩, of the
    non-affine part; `correlation_length`, where C(r) first falls to zero, a length, or None where it does not.
    `local_nonaffinity` [n], D²_min of Falk and Langer, Phys. Rev. E 57, 7192 (1998): the mean square of what the
    displacements of the particles around one differ from their best affine fit.
    """

    displacements: np.ndarray
    gradient: np.ndarray
    affine: np.ndarray
    nonaffine: np.ndarray
    participation_ratio: float
    frequencies: np.ndarray
    overlaps: np.ndarray
    distances: np.ndarray
    correlation: np.ndarray
    correlation_length: float | None
    local_nonaffinity: np.ndarray

    def __str__(self) -> str:
        reach = "none found" if self.correlation_length is None else f"{self.correlation_length:.3g}"
        return (
            f"response of {len(self.nonaffine)} particles: participation ratio {self.participation_ratio:.2f}, "
            f"correlation length {reach}, {self.overlaps.sum():.0%} of it along the {len(self.overlaps)} softest modes"
        )

    __repr__ = __str__


def response_field(
    equilibrium: Equilibrium,
    sensitivity: Sensitivity,
    direction: ArrayLike | None = None,
    modes: int | VibrationalModes = 20,
) -> ResponseField:
    """What kind of motion a response is.

    **Arguments:** `sensitivity`, of this equilibrium (`mdsens.sensitivity`). `direction` [*shape of the parameter], by
    default all components growing alike, and for the box an isotropic dilation. `modes`, how many of the softest modes
    to compare with, or the modes themselves, if they are known (`mdsens.properties.vibrational_modes`); 0: none.

    **Raises** `InvalidInput` at constant pressure, for a direction that is none, where nothing moves, or too many
    particles for their modes.
    """
    check_fixed_cell(equilibrium)
    system = equilibrium.frozen.system
    if sensitivity.response.shape[:2] != system.positions.shape:
        raise InvalidInput("this is the response of another system: the numbers of particles differ")
    if system.fixed is not None and sensitivity.wrt == "box":
        raise InvalidInput("fixed particles do not follow the box: its affine motion is not that of the system")
    gradient, displacements = motion(system, sensitivity, direction)
    if _is_rounding(equilibrium, displacements, sensitivity, direction):
        raise InvalidInput(f"nothing moves with {sensitivity.wrt} so: the response is zero, but for rounding")
    x = np.asarray(system.positions)
    nonaffine = displacements - x @ gradient
    frequencies, overlaps = _overlaps(equilibrium, nonaffine, modes)
    distances, correlation = _correlation(system, nonaffine)
    return ResponseField(
        displacements=displacements,
        gradient=gradient,
        affine=x @ gradient,
        nonaffine=nonaffine,
        participation_ratio=float(participation_ratio(as_array(nonaffine))),
        frequencies=frequencies,
        overlaps=overlaps,
        distances=distances,
        correlation=correlation,
        correlation_length=_first_zero(distances, correlation),
        local_nonaffinity=_local_nonaffinity(system, nonaffine),
    )


def _is_rounding(
    equilibrium: Equilibrium, displacements: np.ndarray, sensitivity: Sensitivity, direction: ArrayLike | None
) -> bool:
    """Whether a parameter that doubles moves no particle further than the minimum may be away: |forces|/curvature."""
    along = np.max(np.abs(direction_of(sensitivity.wrt, sensitivity.value, direction)))
    doubled = (float(np.max(np.abs(sensitivity.value))) or 1.0) / along
    size, curvature = float(equilibrium.configuration.length), float(equilibrium.curvature)
    away = float(equilibrium.max_force) * np.sqrt(displacements.size) / max(curvature, 1e-300)
    rounding = 1e4 * float(jnp.finfo(equilibrium.max_force.dtype).eps) * size
    return bool(np.max(np.abs(displacements)) * doubled <= rounding + min(away, 1e-3 * size))


def motion(
    system: System, sensitivity: Sensitivity, direction: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Along a direction of the parameter: the gradient h⁻¹ dh of the affine motion [d, d], and all displacements."""
    along = direction_of(sensitivity.wrt, sensitivity.value, direction)
    displacements = np.tensordot(sensitivity.response, along, axes=along.ndim)
    if sensitivity.wrt != "box":
        return np.zeros((system.dim, system.dim)), displacements
    moved = system.replace(box=along)
    assert system.lattice is not None and moved.lattice is not None
    return np.asarray(reciprocal(system.lattice) @ moved.lattice), displacements


def _overlaps(equilibrium: Equilibrium, u: np.ndarray, modes: int | VibrationalModes) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(modes, int) and modes == 0:
        return np.zeros(0), np.zeros(0)
    found = vibrational_modes(equilibrium) if isinstance(modes, int) else modes
    frequencies, vectors = np.asarray(found.frequencies), np.asarray(found.vectors)
    first = int(np.sum(frequencies <= 0.0))
    last = first + modes if isinstance(modes, int) else len(frequencies)
    along = np.einsum("mnd,nd->m", vectors[first:last], u)
    return frequencies[first:last], along**2 / (np.sum(u**2) or 1.0)


def _correlation(system: System, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C(r) up to half the cell, or half the extent of an open system."""
    x, size = np.asarray(system.positions), float(np.mean(np.asarray(system.diameters)))
    reach = float(np.min(np.asarray(system.heights))) if any(system.periodic) else float(np.ptp(x, axis=0).max())
    edges = np.arange(0.0, 0.5 * reach, size / BINS_PER_DIAMETER)
    products, numbers = np.zeros(max(len(edges) - 1, 0)), np.zeros(max(len(edges) - 1, 0))
    for first in range(0, len(u), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        apart = np.array(_distances(as_array(x[rows]), system.positions, system.lattice))
        apart[np.arange(len(apart)), first + np.arange(len(apart))] = np.inf
        products += np.histogram(apart, edges, weights=u[rows] @ u.T)[0]
        numbers += np.histogram(apart, edges)[0]
    some = numbers > 0
    mean_square = np.mean(np.sum(u**2, axis=-1)) or 1.0
    return 0.5 * (edges[1:] + edges[:-1])[some], products[some] / numbers[some] / mean_square


@compile_once
def _distances(
    from_: Float[Array, "m d"], to: Float[Array, "n d"], lattice: Float[Array, "k d"] | None
) -> Float[Array, "m n"]:
    """From each of some points to the nearest image of each of others."""
    return jnp.linalg.norm(minimum_image(to[None] - from_[:, None], lattice), axis=-1)


def _first_zero(distances: np.ndarray, correlation: np.ndarray) -> float | None:
    """Where the correlation first falls through zero, between two bins along a line."""
    below = np.flatnonzero(correlation <= 0.0)
    if not len(below):
        return None
    k = below[0]
    if k == 0:
        return float(distances[0])
    (a, b), (p, q) = distances[k - 1 : k + 1], correlation[k - 1 : k + 1]
    return float(a + (b - a) * p / (p - q))


def _local_nonaffinity(system: System, u: np.ndarray) -> np.ndarray:
    """D²_min over the particles around each, per particle; zero with fewer than d + 1 of them."""
    i, j, apart = _around(system, REACH * float(np.mean(np.asarray(system.diameters))))
    n, d = u.shape
    change = u[j] - u[i]

    def summed(values: np.ndarray) -> np.ndarray:
        total = np.zeros((n, *values.shape[1:]))
        np.add.at(total, i, values)
        return total

    number, shape = summed(np.ones(len(i))), summed(apart[:, :, None] * apart[:, None, :])
    fit = np.linalg.pinv(shape, hermitian=True) @ summed(apart[:, :, None] * change[:, None, :])
    off = summed(np.sum((change - np.einsum("pa,pab->pb", apart, fit[i])) ** 2, axis=-1))
    return np.where(number > d, off / np.maximum(number, 1.0), 0.0)


def _around(system: System, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) within reach, each both ways, and x_j - x_i; of each pair one image."""
    from scipy.spatial import cKDTree

    x, lattice = np.asarray(system.wrapped()), system.lattice
    images, owner = x, np.arange(len(x))
    if lattice is not None:
        around = np.stack(np.meshgrid(*[np.arange(-1, 2)] * len(lattice)), -1).reshape(-1, len(lattice))
        shifts = around @ np.asarray(lattice)
        images, owner = (shifts[:, None] + x).reshape(-1, system.dim), np.tile(owner, len(shifts))
    close = cKDTree(x).query_ball_tree(cKDTree(images), reach)
    i = np.repeat(np.arange(len(x)), [len(found) for found in close])
    k = np.concatenate([np.asarray(found, int) for found in close])
    apart = images[k] - x[i]
    other = np.any(apart != 0.0, axis=-1)
    return i[other], owner[k][other], apart[other]
