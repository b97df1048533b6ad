"""Where a fit starts: the parameters with which the forces at the measured positions balance best."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..potentials import PairPotential
from ..unknowns import Unknowns
from .damped import damped_least_squares
from .problem import Problem
from .target import Data, differences

MOST_STEPS = 100


def nearest(
    problem: Problem, first: np.ndarray, scale: np.ndarray, limits: tuple[np.ndarray, np.ndarray]
) -> np.ndarray | None:
    """The unknowns that minimize Σ|net force|²/Σ(force in a contact)², and the errors of forces that were measured.

    Nothing is relaxed, so it does not matter what lies between here and there, or that others are stabler. None
    where positions are no data, or there is no force to begin with.
    """
    chosen = [(target, data) for target, data in zip(problem.targets, problem.data, strict=True) if data.positions]
    potential, unknowns = problem.potential, problem.unknowns
    if not chosen or not isinstance(potential, PairPotential) or problem.relax.pressure is not None:
        return None
    units = [target.scale("forces") if data.forces is not None else 1.0 for target, data in chosen]

    def rows(vector: np.ndarray) -> np.ndarray:
        theta = jnp.asarray(vector)
        return np.concatenate(
            [_imbalance(data, potential, unknowns, theta, unit) for (_, data), unit in zip(chosen, units, strict=True)]
        )

    def jacobian(vector: np.ndarray) -> np.ndarray:
        theta = jnp.asarray(vector)
        return np.concatenate(
            [_slope(data, potential, unknowns, theta, unit) for (_, data), unit in zip(chosen, units, strict=True)]
        )

    if not np.isfinite(rows(first)).all():
        return None
    return damped_least_squares(
        rows, jacobian, first, limits, scale, xtol=1e-8, ftol=1e-8, gtol=1e-8, most=MOST_STEPS
    ).x


@eqx.filter_jit
def _imbalance(
    data: Data, potential: PairPotential, unknowns: Unknowns, vector: Float[Array, " k"], unit: float
) -> Float[Array, " m"]:
    """Net forces in units of the typical one in a contact, errors of forces in their unit; NaN without contacts."""
    other, system = unknowns.put(vector, potential, data.system)
    assert isinstance(other, PairPotential)
    listed = data.kind.build(*jax.lax.stop_gradient((other, system)))
    pairs = other.pairs(system, listed)
    typical = jnp.sqrt(jnp.sum(pairs.slope**2) / system.n)
    sound = jnp.where((typical > 0.0) & ~listed.overflow, 1.0, jnp.nan)
    net = (pairs.gradient(system.n) * sound / jnp.where(typical > 0.0, typical, 1.0)).ravel()
    errors = differences(data, other, system, None).get("forces", jnp.zeros(0, net.dtype))
    return jnp.concatenate([net, errors / unit])


@eqx.filter_jit
def _slope(
    data: Data, potential: PairPotential, unknowns: Unknowns, vector: Float[Array, " k"], unit: float
) -> Float[Array, "m k"]:
    return jax.jacfwd(lambda v: _imbalance(data, potential, unknowns, v, unit))(vector)
