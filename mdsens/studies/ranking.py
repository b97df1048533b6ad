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
"""Of derivative-based measures, as a fraction of the range."""


def influence(
    models: Prediction | Sequence[Prediction], spread: ArrayLike | Mapping[str, Any], of: str = "energy"
) -> pd.DataFrame:
    """The elementary effects ∂Q/∂θ Δθ of every parameter on the energy or a property, the strongest first.

    **Arguments:** `models`, of one packing, or of many with the same unknowns; `spread`, the Δθ of each component [k],
    or by name (others do not vary); `of`, `energy` or a property that the models predict.

    **Returns** a table with a row for each component: `mean` over the packings, `mean_abs`, the mean of the absolute
    values, and `std`, between packings: μ, μ* and σ of Morris (1991) and Campolongo, Cariboni and Saltelli (2007), with
    exact slopes in place of differences. In units of Q.

    **Raises** `InvalidInput` for models of different unknowns, a spread that is none, or an unknown property.
    """
    all_of_them = [models] if isinstance(models, Prediction) else list(models)
    if not all_of_them or len({model.labels for model in all_of_them}) > 1:
        raise InvalidInput("influence is told of one model, or of many with the same unknowns")
    width = _per_component(all_of_them[0], spread)
    effects = np.array([_slope(model, of) for model in all_of_them]) * width
    many = len(effects) > 1
    columns = {
        "mean": effects.mean(axis=0),
        "mean_abs": np.abs(effects).mean(axis=0),
        "std": effects.std(axis=0, ddof=1) if many else np.zeros(len(width)),
    }
    return _table(columns, all_of_them[0].labels, "mean_abs")


def sobol(
    model: Prediction,
    ranges: Mapping[str, Sequence[float]],
    of: str = "energy",
    samples: int = 1024,
    seed: int = 0,
) -> pd.DataFrame:
    """Sobol' indices: which share of the variance of the energy or a property is due to which parameter, over a range.

    Parameters are uniform and independent in their ranges; `samples`, a power of two, times (k + 2) sets of them are
    predicted, none relaxed. Indices by SALib (Herman and Usher, J. Open Source Softw. 2, 97 (2017)), with the
    estimators of Saltelli et al., Comput. Phys. Commun. 181, 259 (2010).

    **Arguments:** `ranges`, of each component `(low, high)`, by its name or its parameter's; all unknowns need one.

    **Returns** a table with a row for each component, the largest first: `first`, the share that is due to it alone,
    `total`, with all its interactions, and `first_error` and `total_error`, 95 % confidence. `attrs["beyond"]` is the
    fraction of sets where the prediction does not hold.

    **Raises** `InvalidInput` for ranges that are none, a number that is no power of two, or an unknown property;
    **warns** as `sample`.
    """
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    if samples < 2 or samples & (samples - 1):
        raise InvalidInput(f"samples must be a power of two, so that Sobol' points fill the ranges, not {samples}")
    problem = _problem(model, ranges)
    values, beyond = _values(model, sampling.sample(problem, samples, calc_second_order=False, seed=seed), of)
    found = analysis.analyze(problem, values, calc_second_order=False, seed=seed)
    names = {"first": "S1", "first_error": "S1_conf", "total": "ST", "total_error": "ST_conf"}
    return _found(found, names, model, "total", beyond)


def derivative_measures(
    model: Prediction,
    ranges: Mapping[str, Sequence[float]],
    of: str = "energy",
    samples: int = 256,
    seed: int = 0,
) -> pd.DataFrame:
    """Derivative-based global measures: the mean square slope along each parameter over a range, for few samples.

    ν_i (Δ_i/π)²/V, with ν_i the mean of (∂Q/∂θ_i)² over the ranges of width Δ_i and V the variance of Q, is an upper
    bound of the total Sobol' index (Sobol' and Kucherenko, Math. Comput. Simul. 79, 3009 (2009)), and cheaper:
    `samples` times (k + 1) sets are predicted. By SALib.

    **Arguments** as of `sobol`; `samples` may be any number.

    **Returns** a table with a row for each component, the largest first: `bound` and `bound_error`, 95 % confidence,
    and `mean_square_slope`. `attrs["beyond"]` as of `sobol`. **Raises** and **warns** as `sobol`.
    """
    from SALib.analyze import dgsm
    from SALib.sample import finite_diff

    problem = _problem(model, ranges)
    sets = finite_diff.sample(problem, samples, delta=DIFFERENCE, seed=seed)
    values, beyond = _values(model, sets, of)
    found = dgsm.analyze(problem, sets, values, seed=seed)
    names = {"bound": "dgsm", "bound_error": "dgsm_conf", "mean_square_slope": "vi"}
    return _found(found, names, model, "bound", beyond)


def _problem(model: Prediction, ranges: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """As SALib wants it."""
    if not all(np.shape(each) == (2,) for each in ranges.values()):
        raise InvalidInput("ranges are pairs (low, high) by name, such as {'epsilon': (0.9, 1.1)}")
    bounds = np.stack([model.unknowns.spread({n: r[k] for n, r in ranges.items()}, np.nan) for k in (0, 1)], axis=1)
    if not (np.isfinite(bounds).all() and (bounds[:, 0] < bounds[:, 1]).all()):
        raise InvalidInput(f"a range (low, high) with low < high is needed of each of {', '.join(model.labels[:12])}")
    return {"num_vars": len(bounds), "names": list(model.labels), "bounds": bounds.tolist()}


def _values(model: Prediction, sets: np.ndarray, of: str) -> tuple[np.ndarray, float]:
    """The energy or a property of every set, and the fraction of them where the prediction does not hold."""
    predicted = model(sets)
    values = np.asarray(predicted.energy if of == "energy" else predicted.properties[_known(model, of)])
    if not np.ptp(values) > 1e-14 * np.abs(values).max():
        raise InvalidInput(f"{of} does not vary in these ranges: there is nothing to attribute")
    return values, predicted.warn_beyond(stacklevel=5)


def _found(
    found: Mapping[str, Any], names: Mapping[str, str], model: Prediction, by: str, beyond: float
) -> pd.DataFrame:
    """What SALib says, by our names of its columns."""
    columns = {column: np.asarray(found[name], float) for column, name in names.items()}
    table = _table(columns, model.labels, by)
    table.attrs["beyond"] = beyond
    return table


def _slope(model: Prediction, of: str) -> np.ndarray:
    return model.slope if of == "energy" else model.property_slopes[list(model.properties).index(_known(model, of))]


def _known(model: Prediction, of: str) -> str:
    if of not in model.properties:
        offered = ", ".join(["energy", *(name for name in model.properties if name != "energy")])
        raise InvalidInput(f"this model predicts {offered}, not {of!r}: name it in predict(..., properties=[...])")
    return of


def _per_component(model: Prediction, spread: ArrayLike | Mapping[str, Any]) -> np.ndarray:
    given = model.unknowns.spread(spread, 0.0) if isinstance(spread, Mapping) else np.asarray(spread, dtype=float)
    if np.shape(given) not in ((), (len(model.values),)) or not np.isfinite(given).all() or np.any(given < 0.0):
        raise InvalidInput(f"a spread of {len(model.values)} components is as many numbers, none negative")
    return np.broadcast_to(given, len(model.values))


def _table(columns: dict[str, np.ndarray], labels: tuple[str, ...], by: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns, index=pd.Index(labels, name="parameter")).sort_values(by, ascending=False)
