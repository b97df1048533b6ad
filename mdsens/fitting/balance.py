"""A start for a fit: the parameters with which the forces at the measured positions balance best."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..parameters import ParameterVector
from ..potentials import Potential
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from .damped import Limits, Vector, damped_least_squares
from .problem import Problem
from .target import Data, differences

MOST_STEPS = 100


def balance_forces(problem: Problem, first: Vector, scale: Vector, limits: Limits) -> Vector | None:
    """The parameters that minimize Σ|net force|²/Σ(force in a contact)², and the errors of forces that were measured.

    Nothing is relaxed: rearrangements on the way to these parameters, and more stable packings, play no part.

    **Returns:**

    - The vector of parameters [k]; None where positions are no data, or no forces act at first.
    """
    chosen = [(target, data) for target, data in zip(problem.targets, problem.data, strict=True) if data.positions]
    potential, parameters = problem.potential, problem.parameters
    if not chosen or not potential.is_pairwise or problem.relax.pressure is not None:
        return None
    units = [as_array(target.scale("forces") if data.forces is not None else 1.0, float) for target, data in chosen]
    known = [(data, potential, parameters, unit) for (_, data), unit in zip(chosen, units, strict=True)]

    def rows(vector: Vector) -> np.ndarray:
        return np.concatenate([_imbalance(*each, as_array(vector)) for each in known])

    def jacobian(vector: Vector) -> np.ndarray:
        return np.concatenate([_slope(*each, as_array(vector)) for each in known])

    if not np.isfinite(rows(first)).all():
        return None
    tolerances = {"xtol": 1e-8, "ftol": 1e-8, "gtol": 1e-8}
    return damped_least_squares(rows, jacobian, first, limits, scale, MOST_STEPS, **tolerances).x


@compile_once
def _imbalance(
    data: Data, potential: Potential, parameters: ParameterVector, unit: Float[Array, ""], vector: Float[Array, " k"]
) -> Float[Array, " m"]:
    """Net forces in units of the typical one in a contact, errors of forces in their unit; NaN without contacts."""
    other, system = parameters.apply(vector, potential, data.system)
    listed = data.finder.build(*jax.lax.stop_gradient((other, system)))
    pairs = other.pair_terms(system, listed)
    assert pairs is not None
    typical = jnp.sqrt(jnp.sum(pairs.slope**2) / system.n)
    nan_mask = jnp.where((typical > 0.0) & ~listed.overflow, 1.0, jnp.nan)
    net = (system.relaxing(pairs.gradient(system.n)) * nan_mask / jnp.where(typical > 0.0, typical, 1.0)).ravel()
    errors = differences(data, other, system, None, None).get("forces", jnp.zeros(0, net.dtype))
    return jnp.concatenate([net, errors / unit])


@compile_once
def _slope(
    data: Data, potential: Potential, parameters: ParameterVector, unit: Float[Array, ""], vector: Float[Array, " k"]
) -> Float[Array, "m k"]:
    return jax.jacfwd(lambda v: _imbalance(data, potential, parameters, unit, v))(vector)
