"""Properties of an equilibrium, positions and cell as functions of parameters, to first order."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import Status
from ..linear_solvers.cholesky import explain_missing_factors
from ..linearization import Linearization
from ..parameters import ParameterVector, as_function
from ..properties import measured
from ..relaxation import Equilibrium
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from ..system import System

SMALLEST_SCALE = 1e-3
"""A change of a parameter is relative to its absolute value, or to this if that is smaller."""


def scale_of(vector: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """The values to which changes of parameters are relative."""
    return np.maximum(np.abs(vector), SMALLEST_SCALE)


def units_of(names: tuple[str, ...], values: Float[np.ndarray, " m"], least: float) -> Float[np.ndarray, " m"]:
    """The values to which changes of properties are relative; 1 for Poisson's ratio, whose changes are absolute."""
    return np.where([name.startswith("poisson_ratio") for name in names], 1.0, np.maximum(np.abs(values), least))


def responses(
    equilibrium: Equilibrium, parameters: ParameterVector, names: tuple[str, ...], also: tuple[str, ...] = ()
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "m k"]]:
    """The values of properties, and their derivatives with respect to parameters.

    **Arguments:**

    - `names`: of the m properties.
    - `also`: further properties, of which only the values are wanted.

    **Returns:**

    - The values [q] of `names` and `also`, and the derivatives [m, k] of `names`.

    **Raises:**

    - What the properties raise, and `NotRigid`, `NotDifferentiable` or `SolveFailed` where there is no response.
    """
    here = equilibrium.frozen
    linearization = here.linearization
    values = np.asarray(measured(here, (*names, *also), linearization))
    vector = parameters.vector(here.potential, here.system)
    with explain_missing_factors():
        slopes = np.asarray(jax.block_until_ready(_slopes(here, linearization, parameters, names, vector)))
    if not np.isfinite(slopes).all():
        linearization.check(here.rule.one_sided)
        raise Status.SOLVE_FAILED.raised(what="the responses of the properties")
    return values, slopes


def motion(
    equilibrium: Equilibrium, parameters: ParameterVector, vector: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """The root mean square displacement of the particles per unit of each parameter, a length."""
    here = equilibrium.frozen
    with explain_missing_factors():
        return np.asarray(_motion(here, here.linearization, parameters, as_array(vector)))


def moved_system(
    equilibrium: Equilibrium,
    parameters: ParameterVector,
    vector: Float[np.ndarray, " k"],
    change: Float[np.ndarray, " k"],
) -> System:
    """The system with positions and cell as predicted to first order for a change of the parameters.

    They stay where they are if there is no response.
    """
    here = equilibrium.frozen
    with explain_missing_factors():
        known = here, here.linearization, parameters
        return jax.block_until_ready(_moved_system(*known, as_array(vector), as_array(change)))


@eqx.filter_jit
def _slopes(
    equilibrium: Equilibrium,
    linearization: Linearization,
    parameters: ParameterVector,
    names: tuple[str, ...],
    vector: Float[Array, " k"],
) -> Float[Array, "m k"]:
    differentiate = jax.jacrev if len(names) < vector.size else jax.jacfwd

    def values(vector: Float[Array, " k"]) -> Float[Array, " m"]:
        return measured(as_function(equilibrium, parameters, vector, linearization), names)

    return differentiate(values)(vector)


@compile_once
def _motion(
    equilibrium: Equilibrium, linearization: Linearization, parameters: ParameterVector, vector: Float[Array, " k"]
) -> Float[Array, " k"]:
    def positions(vector: Float[Array, " k"]) -> Float[Array, "n d"]:
        return as_function(equilibrium, parameters, vector, linearization).positions

    return jnp.sqrt(jnp.mean(jnp.sum(jax.jacfwd(positions)(vector) ** 2, axis=1), axis=0))


@compile_once
def _moved_system(
    equilibrium: Equilibrium,
    linearization: Linearization,
    parameters: ParameterVector,
    vector: Float[Array, " k"],
    change: Float[Array, " k"],
) -> System:
    def at(vector: Float[Array, " k"]) -> tuple[Array, Array | None]:
        system = as_function(equilibrium, parameters, vector, linearization).system
        return system.positions, system.box

    (positions, box), (to_positions, to_box) = jax.jvp(at, (vector,), (change,))
    finite = jnp.all(jnp.isfinite(to_positions))
    moved = equilibrium.system.replace(positions=positions + jnp.where(finite, to_positions, 0.0))
    return moved if box is None else moved.replace(box=box + jnp.where(finite, to_box, 0.0))
