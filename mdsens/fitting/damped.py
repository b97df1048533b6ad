"""SciPy's least squares, kept to full rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import OptimizeResult, least_squares

DAMPING = 1e-6
"""What a relative change of a parameter weighs, so that those which the data do not determine stay where they are."""


def damped_least_squares(
    rows: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    scale: np.ndarray,
    xtol: float,
    ftol: float,
    gtol: float,
    most: int,
) -> OptimizeResult:
    """Minimizes Σ rows² within bounds; a vector where rows are not finite is avoided, but for the first.

    Without the damping a Jacobian of less than full rank would make every step as long as the trust region.
    """

    def damped(vector: np.ndarray) -> np.ndarray:
        return np.concatenate([rows(vector), DAMPING * (vector - start) / scale])

    def slopes(vector: np.ndarray) -> np.ndarray:
        return np.concatenate([jacobian(vector), np.diag(DAMPING / scale)])

    return least_squares(
        damped, start, jac=slopes, bounds=limits, x_scale=scale, xtol=xtol, ftol=ftol, gtol=gtol, max_nfev=most
    )
