"""Which parameters matter: locally, over an ensemble of packings, and over a whole range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from ..errors import InvalidInput
from .prediction import Prediction

if TYPE_CHECKING:
    import pandas as pd


DIFFERENCE = 1e-3
"""The step of the finite differences of derivative-based measures, as a fraction of the range."""


def influence(
    models: Prediction | Sequence[Prediction], spread: ArrayLike | Mapping[str, Any], of: str = "energy"
) -> pd.DataFrame:
    """The elementary effects ∂Q/∂θ Δθ of every parameter on the energy or a property, the strongest first.

    **Arguments:**

    - `models`: predictions of one packing, or of many with the same parameters.
    - `spread`: the Δθ of each component [k], or by name; parameters that are not named do not vary. For a matrix with
      one entry per pair of species that is a symmetric matrix, or one number for all pairs. A component `epsilon[0,1]`
      is the value of a pair, and its effect that of both entries: twice the entry (0, 1) of `jax.grad`.
    - `of`: Q, `energy` or a property that the models predict.

    **Returns:**

    - A table with a row for each component, in units of Q: `mean` over the packings; `mean_abs`, the mean of the
      absolute values; and `std` between packings. These are μ, μ* and σ of Morris and of Campolongo, Cariboni and
      Saltelli, with exact slopes in place of differences.

    **Raises:**

    - `InvalidInput` for models of different parameters, an invalid spread, or an unknown property.

    **Reference:**

    - Morris (1991).
    - Campolongo, Cariboni and Saltelli (2007).
    """
    several = [models] if isinstance(models, Prediction) else list(models)
    if not several or len({model.labels for model in several}) > 1:
        raise InvalidInput("influence takes one model, or many with the same parameters")
    width = _per_component(several[0], spread)
    effects = np.array([_slope(model, of) for model in several]) * width
    many = len(effects) > 1
    columns = {
        "mean": effects.mean(axis=0),
        "mean_abs": np.abs(effects).mean(axis=0),
        "std": effects.std(axis=0, ddof=1) if many else np.zeros(len(width)),
    }
    return _sorted_table(columns, several[0].labels, "mean_abs")


def sobol(
    model: Prediction,
    ranges: Mapping[str, Sequence[float]],
    of: str = "energy",
    samples: int = 1024,
    seed: int = 0,
) -> pd.DataFrame:
    """Sobol' indices: the share of each parameter in the variance of the energy or a property over a range.

    Parameters are uniform and independent in their ranges. `samples` times (k + 2) sets of them are predicted, none
    relaxed. SALib computes the indices.

    **Arguments:**

    - `model`: from `predict`.
    - `ranges`: `(low, high)` of each component, by its name or its parameter's, numbers or matrices; every component
      needs one.
    - `of`: `energy` or a property that the model predicts.
    - `samples`: a power of two. `seed`: that of the random numbers.

    **Returns:**

    - A table with a row for each component, the largest first: `first`, the share due to it alone; `total`, with all
      its interactions; `first_error` and `total_error`, at 95 % confidence. `attrs["beyond"]` is the fraction of sets
      for which the prediction is invalid; there is a warning if it is more than one in twenty.

    **Raises:**

    - `InvalidInput` for invalid ranges, a number that is no power of two, or an unknown property.

    **Reference:**

    - Herman and Usher, J. Open Source Softw. 2, 97 (2017): SALib.
    - Saltelli et al., Comput. Phys. Commun. 181, 259 (2010): the estimators.
    """
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    if samples < 2 or samples & (samples - 1):
        raise InvalidInput(f"samples must be a power of two, so that Sobol' points fill the ranges, not {samples}")
    problem = _problem(model, ranges)
    values, beyond = _values(model, sampling.sample(problem, samples, calc_second_order=False, seed=seed), of)
    found = analysis.analyze(problem, values, calc_second_order=False, seed=seed)
    names = {"first": "S1", "first_error": "S1_conf", "total": "ST", "total_error": "ST_conf"}
    return _table_of(found, names, model, "total", beyond)


def derivative_measures(
    model: Prediction,
    ranges: Mapping[str, Sequence[float]],
    of: str = "energy",
    samples: int = 256,
    seed: int = 0,
) -> pd.DataFrame:
    """Derivative-based global measures: the mean square slope along each parameter over a range, for few samples.

    ν_i (Δ_i/π)²/V is an upper bound of the total Sobol' index, with ν_i the mean of (∂Q/∂θ_i)² over the ranges of width
    Δ_i, and V the variance of Q. It is cheaper: `samples` times (k + 1) sets are predicted. SALib computes it.

    **Arguments:**

    - `model`, `ranges`, `of`, `seed`: as for `sobol`.
    - `samples`: any number.

    **Returns:**

    - A table with a row for each component, the largest first: `bound` and `bound_error`, at 95 % confidence, and
      `mean_square_slope`. `attrs["beyond"]`, and the warning, as for `sobol`.

    **Raises:**

    - `InvalidInput` as `sobol`.

    **Reference:**

    - Sobol' and Kucherenko, Math. Comput. Simul. 79, 3009 (2009).
    """
    from SALib.analyze import dgsm
    from SALib.sample import finite_diff

    problem = _problem(model, ranges)
    sets = finite_diff.sample(problem, samples, delta=DIFFERENCE, seed=seed)
    values, beyond = _values(model, sets, of)
    found = dgsm.analyze(problem, sets, values, seed=seed)
    names = {"bound": "dgsm", "bound_error": "dgsm_conf", "mean_square_slope": "vi"}
    return _table_of(found, names, model, "bound", beyond)


def _problem(model: Prediction, ranges: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The problem as a dictionary for SALib."""
    if not all(np.ndim(each) > 0 and len(each) == 2 for each in ranges.values()):
        raise InvalidInput("ranges are pairs (low, high) by name, such as {'epsilon': (0.9, 1.1)}")
    bounds = np.stack(
        [model.parameters.broadcast({n: r[k] for n, r in ranges.items()}, np.nan) for k in (0, 1)], axis=1
    )
    if not (np.isfinite(bounds).all() and (bounds[:, 0] < bounds[:, 1]).all()):
        raise InvalidInput(f"a range (low, high) with low < high is needed of each of {', '.join(model.labels[:12])}")
    return {"num_vars": len(bounds), "names": list(model.labels), "bounds": bounds.tolist()}


def _values(model: Prediction, sets: np.ndarray, of: str) -> tuple[np.ndarray, float]:
    """The energy or a property of every set, and the fraction of them where the prediction is invalid."""
    predicted = model(sets)
    values = np.asarray(predicted.energy if of == "energy" else predicted.properties[_checked_name(model, of)])
    if not np.ptp(values) > 1e-14 * np.abs(values).max():
        raise InvalidInput(f"{of} does not vary in these ranges: there is nothing to attribute")
    return values, predicted.warn_beyond(stacklevel=5)


def _table_of(
    found: Mapping[str, Any], names: Mapping[str, str], model: Prediction, by: str, beyond: float
) -> pd.DataFrame:
    """The results of SALib, with columns renamed."""
    columns = {column: np.asarray(found[name], float) for column, name in names.items()}
    table = _sorted_table(columns, model.labels, by)
    table.attrs["beyond"] = beyond
    return table


def _slope(model: Prediction, of: str) -> np.ndarray:
    if of == "energy":
        return model.slope
    return model.property_slopes[list(model.properties).index(_checked_name(model, of))]


def _checked_name(model: Prediction, of: str) -> str:
    """**Raises** `InvalidInput` for a property that the model does not predict."""
    if of not in model.properties:
        offered = ", ".join(["energy", *(name for name in model.properties if name != "energy")])
        raise InvalidInput(f"this model predicts {offered}, not {of!r}: name it in predict(..., properties=[...])")
    return of


def _per_component(model: Prediction, spread: ArrayLike | Mapping[str, Any]) -> np.ndarray:
    given = model.parameters.broadcast(spread, 0.0) if isinstance(spread, Mapping) else np.asarray(spread, dtype=float)
    if np.shape(given) not in ((), (len(model.values),)) or not np.isfinite(given).all() or np.any(given < 0.0):
        raise InvalidInput(f"a spread of {len(model.values)} components is as many numbers, none negative")
    return np.broadcast_to(given, len(model.values))


def _sorted_table(columns: dict[str, np.ndarray], labels: tuple[str, ...], by: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns, index=pd.Index(labels, name="parameter")).sort_values(by, ascending=False)
