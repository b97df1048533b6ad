"""Small oscillations about an equilibrium."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..contacts import standing
from ..errors import InvalidInput
from ..hessian import hessian
from ..linear_solvers import projected, spectral_cut
from ..neighbors import Neighbors
from ..potentials import Potential
from ..relaxation import Equilibrium
from ..system import System
from ..zero_modes import known_zero_modes

MOST_DENSE = 12_000
"""Degrees of freedom up to which modes are computed: there the matrix takes 1.2 GB, and so do its eigenvectors."""


class VibrationalModes(eqx.Module):
    """The normal modes of particles of mass 1, softest first.

    `frequencies` [m], ω = √(eigenvalue of H), in units of √(energy/mass)/length; where the curvature is negative
    they are -√|curvature|. `vectors` [m, n, d] are orthonormal. `zero_modes` of them are exactly zero: translations,
    and d for each rattler.
    """

    frequencies: Float[Array, " m"]
    vectors: Float[Array, "m n d"]
    zero_modes: Array

    @property
    def participation_ratios(self) -> Float[Array, " m"]:
        """(Σ|u|²)²/(N Σ|u|⁴) of each mode: 1 where all particles take part alike, 1/N where one does."""
        squares = jnp.sum(self.vectors**2, axis=-1)
        return jnp.sum(squares, axis=-1) ** 2 / (squares.shape[-1] * jnp.sum(squares**2, axis=-1))


def vibrational_modes(equilibrium: Equilibrium) -> VibrationalModes:
    """All normal modes, by the dense Hessian.

    The frequencies are differentiable, the vectors only where no two frequencies agree: zero modes do, and give NaN.

    **Raises** `InvalidInput` for more than 12000 degrees of freedom; `NotConverged`, `NotAMinimum`.
    """
    equilibrium.check_seen()
    size = equilibrium.system.positions.size
    if size > MOST_DENSE:
        raise InvalidInput(
            f"all modes of {size} degrees of freedom want {8 * size**2 / 1e9:.0f} GB twice; for the softest one ask "
            "eq.certify(thorough=True)"
        )
    return _modes(equilibrium.potential, equilibrium.system, equilibrium.close, equilibrium.curvature)


def density_of_states(
    modes: VibrationalModes, bins: int = 40
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins+1"]]:
    """D(ω) per mode and unit of frequency, zero modes left out, and the edges of its bins: its integral is 1."""
    frequencies = np.asarray(modes.frequencies)
    return np.histogram(frequencies[frequencies != 0.0], bins=bins, density=True)


@eqx.filter_jit
def _modes(potential: Potential, system: System, neighbors: Neighbors, softest: Float[Array, ""]) -> VibrationalModes:
    loose = jax.lax.stop_gradient(standing(potential, system, neighbors, softest)).rattlers
    backbone = neighbors.only(~loose)
    known = known_zero_modes(potential, system, backbone, loose)
    values, vectors = jnp.linalg.eigh(projected(hessian(potential, system, backbone), known))
    zero = jnp.abs(values) <= spectral_cut(values)
    size = jnp.where(zero, 1.0, jnp.abs(values))
    frequencies = jnp.where(zero, 0.0, jnp.sign(values) * jnp.sqrt(size))
    return VibrationalModes(frequencies, vectors.T.reshape(-1, *system.positions.shape), jnp.sum(zero))
