"""SciPy's least squares, kept to full rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult, least_squares

Vector = Float[np.ndarray, " k"]

Limits = tuple[Vector, Vector]
"""The lower and the upper bound of each parameter."""

DAMPING = 1e-6
"""The weight of a relative change of a parameter: those that the data do not determine stay where they are."""


def damped_least_squares(
    rows: Callable[[Vector], np.ndarray],
    jacobian: Callable[[Vector], np.ndarray],
    start: Vector,
    limits: Limits,
    scale: Vector,
    max_steps: int,
    xtol: float,
    ftol: float,
    gtol: float,
) -> OptimizeResult:
    """Minimizes Σ rows² within bounds; a vector where rows are not finite is avoided, but for the first.

    Without the damping a Jacobian of less than full rank would make every step as long as the trust region.
    """

    def damped(vector: Vector) -> np.ndarray:
        return np.concatenate([rows(vector), DAMPING * (vector - start) / scale])

    def slopes(vector: Vector) -> np.ndarray:
        return np.concatenate([jacobian(vector), np.diag(DAMPING / scale)])

    return least_squares(
        damped, start, jac=slopes, bounds=limits, x_scale=scale, xtol=xtol, ftol=ftol, gtol=gtol, max_nfev=max_steps
    )
