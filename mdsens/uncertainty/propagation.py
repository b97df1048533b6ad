"""Uncertainties of parameters, propagated to energy, positions and properties."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ..errors import InvalidInput
from ..properties import measured
from ..relaxation import Relaxation, relax_ensemble
from ..runtime.tracing import as_array
from .prediction import Predicted, Prediction


@dataclasses.dataclass(frozen=True)
class Propagated:
    """Standard deviations, to first order in the uncertainty, and the mean energy to second order.

    - `energy_mean`, `energy_std`.
    - `positions_std` ([n, d], length).
    - `properties_std`: by name.
    - `shares`: the fraction of the energy's variance due to each component, largest first: the part that vanishes if
      this component is known exactly. The shares of independent components sum to one.
    """

    energy_mean: float
    energy_std: float
    positions_std: np.ndarray
    properties_std: dict[str, float]
    shares: dict[str, float]

    def __str__(self) -> str:
        rows = [("energy", f"{self.energy_mean:.10g} ± {self.energy_std:.3g}")]
        rows += [(name, f"± {std:.3g}") for name, std in self.properties_std.items()]
        rows.append(("positions", f"± {self.positions_std.max():.3g} at most"))
        rows += [(f"share of {name}", f"{share:.3f}") for name, share in list(self.shares.items())[:8]]
        return "\n".join(f"{name:<25} {text}" for name, text in rows)

    __repr__ = __str__


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Means and standard deviations over parameter sets that were drawn at random and predicted.

    - `energy_mean`, `energy_std`; `positions_mean`, `positions_std` ([n, d], length); `properties_mean`,
      `properties_std`, by name.
    - `beyond`: the fraction of sets for which the prediction is invalid, across a contact change or too far. They are
      left out of means and standard deviations (NaN if fewer than two are left), or relaxed if that was asked for.
    - `relaxed`: the number of sets that were relaxed.
    - `predicted`: the predictions for all sets.
    """

    energy_mean: float
    energy_std: float
    positions_mean: np.ndarray
    positions_std: np.ndarray
    properties_mean: dict[str, float]
    properties_std: dict[str, float]
    beyond: float
    relaxed: int
    predicted: Predicted

    def __repr__(self) -> str:
        names = [
            f", {name} {mean:.6g} ± {self.properties_std[name]:.2g}" for name, mean in self.properties_mean.items()
        ]
        return (
            f"Sampled({np.size(self.predicted.valid)} sets of parameters, {self.beyond:.1%} of them where the "
            f"prediction is invalid, {self.relaxed} relaxed: energy {self.energy_mean:.6g} ± "
            f"{self.energy_std:.2g}{''.join(names)})"
        )


def propagate(model: Prediction, uncertainty: ArrayLike | Mapping[str, Any]) -> Propagated:
    """Propagates an uncertainty of the parameters to energy, positions and properties, to first order.

    **Arguments:**

    - `model`: from `predict`.
    - `uncertainty`: a covariance matrix [k, k], standard deviations [k], or standard deviations by name; parameters
      that are not named are known exactly.

    **Returns:**

    - The Propagated means and standard deviations.

    **Raises:**

    - `InvalidInput` for another shape, or a matrix that is no covariance.
    """
    covariance = covariance_of(model, uncertainty)
    variance = float(model.slope @ covariance @ model.slope)
    along = covariance @ model.slope
    known = np.diag(covariance) > 0.0
    parts = np.divide(along**2, np.diag(covariance), out=np.zeros_like(along), where=known) / (variance or 1.0)
    order = np.argsort(-parts, kind="stable")
    moves = np.einsum("ndk,kl,ndl->nd", model.response, covariance, model.response)
    spread = np.einsum("pk,kl,pl->p", model.property_slopes, covariance, model.property_slopes)
    return Propagated(
        energy_mean=float(model.equilibrium.energy) + 0.5 * float(np.sum(model.curvature * covariance)),
        energy_std=float(np.sqrt(variance)),
        positions_std=np.sqrt(np.maximum(moves, 0.0)),
        properties_std=dict(zip(model.properties, np.sqrt(np.maximum(spread, 0.0)).tolist(), strict=True)),
        shares={model.labels[i]: float(parts[i]) for i in order},
    )


def sample(
    model: Prediction,
    uncertainty: ArrayLike | Mapping[str, Any],
    members: int = 1000,
    seed: int = 0,
    relax: Relaxation | None = None,
) -> Sampled:
    """Draws parameter sets from a normal distribution around those of the model, and predicts each.

    **Arguments:**

    - `model`, `uncertainty`: as for `propagate`.
    - `members`: the number of sets; `seed`: that of the random numbers.
    - `relax`: relaxes those sets for which the prediction is invalid, from the predicted positions. Each of them may
      come to rest in another minimum.

    **Returns:**

    - The Sampled means and standard deviations, with all predictions. There is a warning if the prediction is invalid
      for more than one set in twenty, and these are not relaxed.

    **Raises:**

    - `InvalidInput` as `propagate`.
    """
    covariance = covariance_of(model, uncertainty)
    values = np.random.default_rng(seed).multivariate_normal(model.values, covariance, members, method="eigh")
    predicted = model(values)
    beyond = ~np.asarray(predicted.valid)
    if relax is not None and beyond.any():
        predicted = _with_relaxed(model, predicted, beyond, relax)
    elif relax is None:
        predicted.warn_beyond()
    counted = np.ones_like(beyond) if relax is not None else ~beyond
    energy, positions = (_mean_and_std(values, counted) for values in (predicted.energy, predicted.positions))
    properties = {name: _mean_and_std(values, counted) for name, values in predicted.properties.items()}
    return Sampled(
        energy_mean=float(energy[0]),
        energy_std=float(energy[1]),
        positions_mean=positions[0],
        positions_std=positions[1],
        properties_mean={name: float(mean) for name, (mean, _) in properties.items()},
        properties_std={name: float(std) for name, (_, std) in properties.items()},
        beyond=float(beyond.mean()),
        relaxed=int(beyond.sum()) if relax is not None else 0,
        predicted=predicted,
    )


def _mean_and_std(values: ArrayLike, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of the counted values, along the first axis."""
    chosen = np.asarray(values)[counted]
    if len(chosen) < 2:
        undefined = np.full(np.shape(values)[1:], np.nan)
        return undefined, undefined
    return np.mean(chosen, axis=0), np.std(chosen, axis=0, ddof=1)


def _with_relaxed(model: Prediction, predicted: Predicted, chosen: np.ndarray, relax: Relaxation) -> Predicted:
    """The chosen sets relaxed from their predicted positions; NaN for one without a minimum."""
    here, names = model.equilibrium, tuple(model.properties)
    starts = [model.parameters.apply(values, here.potential, here.system) for values in predicted.values[chosen]]
    systems = [
        system.replace(positions=positions)
        for (_, system), positions in zip(starts, predicted.positions[chosen], strict=True)
    ]
    relaxed = relax_ensemble(relax, [potential for potential, _ in starts], systems)
    properties = np.zeros((len(starts), 0))
    if names:
        properties = np.asarray(jax.vmap(lambda each: measured(each, names))(relaxed))

    def filled(old: Any, new: Any) -> Array:
        whole = np.array(old)
        whole[chosen] = np.asarray(new)
        return as_array(whole)

    return dataclasses.replace(
        predicted,
        positions=filled(predicted.positions, relaxed.positions),
        energy=filled(predicted.energy, relaxed.energy),
        properties={name: filled(predicted.properties[name], properties[:, i]) for i, name in enumerate(names)},
    )


def covariance_of(model: Prediction, uncertainty: ArrayLike | Mapping[str, Any]) -> np.ndarray:
    """The covariance matrix [k, k] of an uncertainty. **Raises** `InvalidInput` if it has none."""
    k = len(model.values)
    if isinstance(uncertainty, Mapping):
        uncertainty = model.parameters.broadcast(uncertainty, 0.0)
    given = np.asarray(uncertainty, dtype=float)
    if given.ndim < 2 and np.any(given < 0.0):
        raise InvalidInput(f"standard deviations must not be negative, as {given.min():g} is")
    covariance = np.diag(np.atleast_1d(given) ** 2) if given.ndim < 2 else given
    if covariance.shape != (k, k) or not np.isfinite(covariance).all():
        raise InvalidInput(f"an uncertainty of {k} components is {k} standard deviations or a matrix [{k}, {k}]")
    if np.min(np.linalg.eigvalsh(0.5 * (covariance + covariance.T))) < -1e-12 * np.max(np.abs(covariance)):
        raise InvalidInput("this matrix is no covariance: along some direction the variance would be negative")
    if not np.allclose(covariance, covariance.T):
        raise InvalidInput("a covariance is symmetric, and this matrix is not")
    return covariance
