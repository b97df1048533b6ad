"""What is not known of the parameters, carried forward to energy, positions and properties."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ..ensemble import relax_ensemble
from ..errors import InvalidInput
from ..properties import measured
from ..relaxation import Relaxation
from .prediction import Predicted, Prediction


@dataclasses.dataclass(frozen=True)
class Propagated:
    """Means and standard deviations, linear in the uncertainty; of the energy's mean also the second-order term.

    `energy_mean`, `energy_std`; `positions_std` [n, d], length; `properties_std` by name; `shares` of the energy's
    variance by component, largest first, each the part that is gone where this component is known exactly: they sum to
    one where components are independent.
    """

    energy_mean: float
    energy_std: float
    positions_std: np.ndarray
    properties_std: dict[str, float]
    shares: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Of parameter sets drawn at random and predicted: means, standard deviations, and all that was `predicted`.

    `beyond` is the fraction of them where predictions do not hold, across a contact change or too far. They are left
    out of means and standard deviations (NaN where fewer than two are left) or, if that was asked for, relaxed instead:
    `relaxed` of them.
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
            f"Sampled({np.size(self.predicted.holds)} sets of parameters, {self.beyond:.1%} of them where the "
            f"prediction does not hold, {self.relaxed} relaxed: energy {self.energy_mean:.6g} ± "
            f"{self.energy_std:.2g}{''.join(names)})"
        )


def propagate(model: Prediction, uncertainty: ArrayLike | Mapping[str, Any]) -> Propagated:
    """What an uncertainty of the parameters makes of energy, positions and properties, to first order.

    **Arguments:** `uncertainty`, a covariance matrix [k, k], standard deviations [k], or standard deviations by name
    (others are known exactly).

    **Raises** `InvalidInput` for another shape, or what is no covariance.
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
    """Parameter sets drawn from a normal distribution around those of the model, and what it predicts for each.

    **Arguments:** `relax`, by which those sets are relaxed for which the prediction does not hold, from the predicted
    positions; each may come to rest in another minimum then.

    **Warns** where the prediction does not hold for more than one in twenty, and these are not relaxed. **Raises** as
    `propagate`.
    """
    covariance = covariance_of(model, uncertainty)
    values = np.random.default_rng(seed).multivariate_normal(model.values, covariance, members, method="eigh")
    predicted = model(values)
    beyond = ~np.asarray(predicted.holds)
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
    """Of those that are counted, along the first axis."""
    chosen = np.asarray(values)[counted]
    if len(chosen) < 2:
        nothing = np.full(np.shape(values)[1:], np.nan)
        return nothing, nothing
    return np.mean(chosen, axis=0), np.std(chosen, axis=0, ddof=1)


def _with_relaxed(model: Prediction, predicted: Predicted, chosen: np.ndarray, relax: Relaxation) -> Predicted:
    """The chosen members at rest, from where they were predicted to be; NaN for one that finds no rest."""
    here, names = model.equilibrium, tuple(model.properties)
    starts = [model.unknowns.put(values, here.potential, here.system) for values in predicted.values[chosen]]
    systems = [
        system.replace(positions=positions)
        for (_, system), positions in zip(starts, predicted.positions[chosen], strict=True)
    ]
    rest = relax_ensemble(relax, [potential for potential, _ in starts], systems)
    properties = np.asarray(jax.vmap(lambda each: measured(each, names))(rest)) if names else np.zeros((len(starts), 0))

    def filled(old: Any, new: Any) -> Array:
        whole = np.array(old)
        whole[chosen] = np.asarray(new)
        return jnp.asarray(whole)

    return dataclasses.replace(
        predicted,
        positions=filled(predicted.positions, rest.positions),
        energy=filled(predicted.energy, rest.energy),
        properties={name: filled(predicted.properties[name], properties[:, i]) for i, name in enumerate(names)},
    )


def covariance_of(model: Prediction, uncertainty: ArrayLike | Mapping[str, Any]) -> np.ndarray:
    """The covariance matrix [k, k] that is meant. **Raises** `InvalidInput` if there is none."""
    k = len(model.values)
    if isinstance(uncertainty, Mapping):
        uncertainty = model.unknowns.spread(uncertainty, 0.0)
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
