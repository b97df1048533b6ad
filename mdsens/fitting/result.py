"""The result of a fit: estimates, their errors, and what the data leave undetermined."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult

from ..parameters import ParameterVector
from ..potentials import Potential
from ..relaxation import Equilibrium
from .damped import Limits, Vector
from .problem import Comparison, Problem

POOR_FIT_RMS = 0.02
"""A root mean square difference above this, in natural units such as mean diameters, is warned of: no rounding explains
it."""

POOR_FIT_CHI_SQUARED = 4.0
"""Where uncertainties are given, a mean squared residual above this is warned of: two standard deviations."""

NEGLIGIBLE_EFFECT = 1e-7
"""A parameter whose relative change by 1 changes the data by less than this, in natural units, is undetermined."""

NEGLIGIBLE_SLOPE = 0.03
"""A fit has converged where the residuals have less than this fraction of their length along the Jacobian."""


@dataclasses.dataclass(frozen=True)
class Combination:
    """A combination of parameters that the data do not determine: together, `labels` change relatively by `weights`."""

    labels: tuple[str, ...]
    weights: tuple[float, ...]

    def __str__(self) -> str:
        if len(self.labels) == 1:
            return self.labels[0]
        shown = [f"{w:+.3g} {label}" for w, label in zip(self.weights, self.labels, strict=True)]
        return " ".join(shown[:8]) + (f" … ({len(shown)} parameters)" if len(shown) > 8 else "")


@dataclasses.dataclass(frozen=True)
class Fit:
    """Estimates of parameters with their evidence.

    - `parameters`, `standard_errors`: by name, each in its own shape; NaN for those that the data do not determine,
      alone or in combination with others.
    - `undetermined`: the combinations of parameters that the data do not determine.
    - `labels`, `covariance` [k, k]: the names of the components and their covariance.
    - `loss`: half the sum of the squared residuals, in units of the uncertainties or in natural units.
    - `residuals`: for every target, the values of the equilibrium minus those measured, by kind of data, in the data's
      own units.
    - `converged` (bool): no small change of the parameters makes the loss smaller.
    - `at_bounds`: the names of components at a bound.
    - `iterations`, `relaxations`: their numbers.
    - `rearrangements`: the number of steps at which a packing went to another minimum than predicted; None in batches,
      where nothing is predicted. `contact_changes`: the number of steps at which contacts changed.
    - `history`: loss and components at the start and after every step, or of every epoch in batches.
    - `warnings`: what to be careful about. `message`: why the fit ended.
    - `potential`, `equilibria`: those with the estimates; parameters that are undetermined have some possible value.
    """

    parameters: dict[str, Any]
    standard_errors: dict[str, Any]
    labels: tuple[str, ...]
    covariance: np.ndarray
    undetermined: tuple[Combination, ...]
    loss: float
    residuals: tuple[dict[str, np.ndarray], ...]
    converged: bool
    at_bounds: tuple[str, ...]
    iterations: int
    relaxations: int
    rearrangements: int | None
    contact_changes: int
    history: tuple[tuple[float, np.ndarray], ...]
    warnings: tuple[str, ...]
    message: str
    potential: Potential
    equilibria: tuple[Equilibrium, ...]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON; undetermined values are None."""
        return {
            "converged": self.converged,
            "parameters": {name: _plain(value) for name, value in self.parameters.items()},
            "standard_errors": {name: _plain(value) for name, value in self.standard_errors.items()},
            "undetermined": [str(c) for c in self.undetermined],
            "undetermined_weights": [dict(zip(c.labels, c.weights, strict=True)) for c in self.undetermined],
            "loss": self.loss,
            "root_mean_square": [{kind: _rms(rows) for kind, rows in each.items()} for each in self.residuals],
            "at_bounds": list(self.at_bounds),
            "iterations": self.iterations,
            "relaxations": self.relaxations,
            "rearrangements": self.rearrangements,
            "contact_changes": self.contact_changes,
            "warnings": list(self.warnings),
            "message": self.message,
        }

    def __str__(self) -> str:
        rows = [("fit", f"{'converged' if self.converged else 'NOT converged'}: {self.message}")]
        rows += [(name, self._estimate(name)) for name in self.parameters]
        rows += [("UNDETERMINED", f"{combination}: the data do not tell") for combination in self.undetermined]
        residuals: dict[str, list[np.ndarray]] = {}
        for each in self.residuals:
            for kind, values in each.items():
                residuals.setdefault(kind, []).append(values)
        rows += [
            (f"off {kind}", f"{_rms(np.concatenate(values)):.3g} (root mean square)")
            for kind, values in residuals.items()
        ]
        rows.append(("loss", f"{self.loss:.6g} after {self.iterations} steps, {self.relaxations} relaxations"))
        changes = f"contacts changed at {self.contact_changes} steps"
        if self.rearrangements is not None:
            changes += f", another minimum was reached at {self.rearrangements}"
        rows.append(("on the way", changes))
        rows += [("at a bound", ", ".join(self.at_bounds))] if self.at_bounds else []
        rows += [("WARNING", warning) for warning in self.warnings]
        return "\n".join(f"{name:<17} {text}" for name, text in rows)

    __repr__ = __str__

    def _estimate(self, name: str) -> str:
        value, error = np.asarray(self.parameters[name]), np.asarray(self.standard_errors[name])
        if value.ndim == 0:
            return f"{value:.10g} ± {error:.2g}" if np.isfinite(value) else "not determined by the data"
        finite = np.isfinite(value)
        if not finite.any():
            return f"{value.size} values, not determined by the data"
        some = "" if finite.all() else f", {int((~finite).sum())} not determined"
        if value.size <= 9:
            each = ", ".join(f"{v:.8g} ± {e:.2g}" for v, e in zip(value.ravel(), error.ravel(), strict=True))
            return f"[{each}]{some}"
        spread = f"{value[finite].min():.6g} to {value[finite].max():.6g}"
        return f"{value.size} values from {spread}, standard errors up to {error[finite].max():.2g}{some}"


@dataclasses.dataclass
class Record:
    """The history of a fit: loss and parameters after every step, and how often packings and contacts changed."""

    history: list[tuple[float, np.ndarray]] = dataclasses.field(default_factory=list)
    rearrangements: int = 0
    contact_changes: int = 0


def summarize(
    problem: Problem,
    prior: Float[np.ndarray, "k 2"],
    scale: Vector,
    limits: Limits,
    end: OptimizeResult,
    loss: float,
    record: Record,
) -> Fit:
    """The result of a fit that ended at the parameters `end.x`."""
    comparison, parameters, vector = problem.compare(end.x), problem.parameters, end.x
    assert comparison is not None
    counted = comparison.factors > 0.0
    natural = problem.jacobian(vector)[counted] * scale
    with_prior = np.isfinite(prior[:, 1])
    prior_rows, labels = np.diag(scale / prior[:, 1])[with_prior], parameters.labels
    combinations, basis = find_undetermined(np.concatenate([natural, prior_rows]), labels, int(counted.sum()))
    _, by_data = find_undetermined(natural, labels, int(counted.sum()))
    weighted = natural @ (by_data @ by_data.T) * problem.weights[counted, None]  # so that rounding determines nothing
    residuals = (comparison.differences * problem.weights)[counted]
    free = max(1, residuals.size - basis.shape[1] + int(with_prior.sum()) - _translations(problem))
    weighed = all(kind in target.uncertainties for target in problem.targets for kind in target.kinds)
    spread = 1.0 if weighed else max(np.linalg.norm(residuals) / np.sqrt(free), np.finfo(float).eps)
    matrix = covariance(np.concatenate([weighted / spread, prior_rows]), basis, scale)
    errors = np.sqrt(np.diag(matrix))
    at_bound = (vector - limits[0] <= 1e-6 * scale) | (limits[1] - vector <= 1e-6 * scale)
    converged, message = _convergence(end, weighted @ basis, residuals, at_bound.any())
    estimates = np.where(np.isfinite(errors), vector, np.nan)
    chi_squared = float(residuals @ residuals) / free if weighed else None
    assert all(np.isfinite(vector))
    return Fit(
        parameters=_by_name(parameters, estimates),
        standard_errors=_by_name(parameters, errors),
        labels=labels,
        covariance=matrix,
        undetermined=combinations,
        loss=loss,
        residuals=problem.split(comparison.differences),
        converged=converged,
        at_bounds=tuple(label for label, at in zip(labels, at_bound, strict=True) if at),
        iterations=int(end.njev) - 1,
        relaxations=problem.relaxations,
        rearrangements=record.rearrangements,
        contact_changes=record.contact_changes,
        history=tuple(record.history),
        warnings=_warnings(problem, comparison, chi_squared, estimates),
        message=message,
        potential=parameters.apply(vector, problem.potential, problem.targets[0].system)[0],
        equilibria=tuple(each for each in comparison.equilibria if each is not None),
    )


def _translations(problem: Problem) -> int:
    """The degrees of freedom lost because positions are compared up to a translation."""
    return sum(target.system.dim for target in problem.targets if target.positions)


def _convergence(end: OptimizeResult, jacobian: np.ndarray, residuals: np.ndarray, bound: bool) -> tuple[bool, str]:
    """Whether no small step makes the loss smaller: the residuals have no part left along the Jacobian."""
    if end.status == 0:
        return False, "the steps allowed are used up (max_steps); the best so far is returned"
    size = np.linalg.norm(residuals)
    along = np.linalg.norm(np.linalg.qr(jacobian)[0].T @ residuals) if jacobian.size else 0.0
    if not bound and size > 1e-8 * np.sqrt(residuals.size) and along > NEGLIGIBLE_SLOPE * size:
        return False, end.get(
            "not_converged",
            "every smaller step meets a change of contacts that makes the loss larger, though the slope is not zero: "
            "start elsewhere, or give more data",
        )
    return True, "no small change of the parameters makes the loss smaller"


def _warnings(
    problem: Problem, comparison: Comparison, chi_squared: float | None, estimates: np.ndarray
) -> tuple[str, ...]:
    """**Arguments:** `chi_squared`, the mean squared residual where uncertainties are given."""
    warnings = []
    poor = _rms(comparison.differences) > POOR_FIT_RMS if chi_squared is None else chi_squared > POOR_FIT_CHI_SQUARED
    if poor:
        how_far = "far" if chi_squared is None else "many standard deviations"
        warnings.append(f"the data are {how_far} from those of the best parameters{_farthest(problem, comparison)}")
    if not np.isfinite(estimates).any():
        warnings.append("the data determine none of these parameters")
    return tuple(warnings)


def _farthest(problem: Problem, comparison: Comparison) -> str:
    """The particles farthest from their measured positions."""
    for number, each in enumerate(problem.split(comparison.differences)):
        if "positions" in each:
            far = np.linalg.norm(each["positions"], axis=1)
            worst = np.argsort(far)[::-1][:5]
            which = ", ".join(f"{k} ({far[k]:.2g})" for k in worst)
            return f"; the farthest particles{f' of target {number}' if len(problem.targets) > 1 else ''}: {which}"
    return ""


def find_undetermined(
    jacobian: Float[np.ndarray, "m k"], labels: tuple[str, ...], rows: int
) -> tuple[tuple[Combination, ...], Float[np.ndarray, "k r"]]:
    """The combinations of parameters that change nothing, and a basis [k, r] of the others.

    **Arguments:**

    - `jacobian` [m, k]: changes of the data, in natural units, for relative changes of the parameters.
    - `rows`: the number of data that count.
    """
    _, size, vectors = np.linalg.svd(jacobian, full_matrices=True)
    size = np.concatenate([size, np.zeros(len(labels) - len(size))])
    cut = max(1e-9 * size[0], NEGLIGIBLE_EFFECT * np.sqrt(max(rows, 1)))
    combinations = []
    for free in vectors[size <= cut]:
        vector = free * np.sign(free[np.argmax(np.abs(free))])
        large = np.flatnonzero(np.abs(vector) > 0.05 * np.abs(vector).max())
        combinations.append(Combination(tuple(labels[k] for k in large), tuple(float(vector[k]) for k in large)))
    return tuple(combinations), vectors[size > cut].T


def covariance(weighted: Float[np.ndarray, "m k"], basis: Float[np.ndarray, "k r"], scale: Vector) -> np.ndarray:
    """The covariance of the components [k, k]; NaN for those that the data do not determine.

    **Arguments:**

    - `weighted` [m, k]: changes of the data, in standard deviations, for relative changes of the parameters.
    - `basis` [k, r]: of the combinations that the data determine.
    - `scale` [k]: by which a change is relative.
    """
    within = np.linalg.svd(weighted @ basis, full_matrices=False)
    inverse = basis @ (within[2].T / np.maximum(within[1], 1e-300)) if basis.size else np.zeros((len(scale), 1))
    matrix = (inverse @ inverse.T) * np.outer(scale, scale)
    undetermined = 1.0 - np.sum(basis**2, axis=1) > 1e-6
    matrix[undetermined, :] = matrix[:, undetermined] = np.nan
    return matrix


def _by_name(parameters: ParameterVector, vector: Vector) -> dict[str, Any]:
    """Each parameter in its own shape, one number as a float."""
    return {name: float(v) if np.ndim(v) == 0 else v for name, v in parameters.by_name(vector).items()}


def _rms(rows: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(rows)))) if rows.size else 0.0


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    return float(value) if np.isfinite(value) else None
