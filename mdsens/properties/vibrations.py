"""Small oscillations about an equilibrium."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..landscape.thresholds import zero_eigenvalue
from ..linearization import Linearization
from ..relaxation.equilibrium import Equilibrium
from ..runtime.compiled import compile_once

MOST_DENSE = 12_000
"""Degrees of freedom up to which modes are computed: there the matrix takes 1.2 GB, and so do its eigenvectors."""


class VibrationalModes(eqx.Module):
    """The normal modes of particles of mass 1, softest first.

    `frequencies` [m], ω = √(eigenvalue of H), in units of √(energy/mass)/length; where the curvature is negative
    they are -√|curvature|. `vectors` [m, n, d] are orthonormal. `zero_modes` of them are exactly zero: translations,
    and d for each rattler; fixed degrees of freedom, whose frequencies are zero, too, do not count.
    """

    frequencies: Float[Array, " m"]
    vectors: Float[Array, "m n d"]
    zero_modes: Array

    @property
    def participation_ratios(self) -> Float[Array, " m"]:
        """(Σ|u|²)²/(N Σ|u|⁴) of each mode: 1 where all particles take part alike, 1/N where one does."""
        return participation_ratio(self.vectors)


@compile_once
def participation_ratio(u: Float[Array, "*m n d"]) -> Float[Array, "*m"]:
    """(Σ|u|²)²/(N Σ|u|⁴) of displacements: 1 where all particles move alike far, 1/N where one does, NaN where none."""
    u = u / jnp.max(jnp.abs(u), axis=(-2, -1), keepdims=True)
    squares = jnp.sum(u**2, axis=-1)
    return jnp.sum(squares, axis=-1) ** 2 / (squares.shape[-1] * jnp.sum(squares**2, axis=-1))


def vibrational_modes(equilibrium: Equilibrium) -> VibrationalModes:
    """All normal modes, by the dense Hessian.

    The frequencies are differentiable, the vectors only where no two frequencies agree: zero modes do, and give NaN.

    **Raises** `InvalidInput` for more than 12000 degrees of freedom; `NotConverged`, `NotAMinimum`.
    """
    equilibrium.check_concrete()
    size = equilibrium.system.positions.size
    if size > MOST_DENSE:
        raise InvalidInput(
            f"all modes of {size} degrees of freedom want {8 * size**2 / 1e9:.0f} GB twice; for the softest one use "
            "eq.certify(thorough=True)"
        )
    return _modes(equilibrium.linearization)


def density_of_states(
    modes: VibrationalModes, bins: int = 40
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins+1"]]:
    """D(ω) per mode and unit of frequency, zero modes left out, and the edges of its bins: its integral is 1."""
    frequencies = np.asarray(modes.frequencies)
    return np.histogram(frequencies[frequencies != 0.0], bins=bins, density=True)


@compile_once
def _modes(linearization: Linearization) -> VibrationalModes:
    values, vectors = linearization.eigenvectors()
    zero = jnp.abs(values) <= zero_eigenvalue(values)
    size = jnp.where(zero, 1.0, jnp.abs(values))
    frequencies = jnp.where(zero, 0.0, jnp.sign(values) * jnp.sqrt(size))
    shape = linearization.configuration.system.positions.shape
    found = jnp.sum(zero) - linearization.evidence.fixed
    return VibrationalModes(frequencies, vectors.T.reshape(-1, *shape), found)
