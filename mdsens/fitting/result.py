"""What a fit found, and what the data do not say."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult

from ..potentials import Potential
from ..relaxation import Equilibrium
from ..unknowns import Unknowns
from .problem import Look, Problem

POOR = 0.02
"""A root mean square difference in natural units, as of positions in mean diameters, that no rounding explains."""

WEAK = 1e-7
"""A relative change of a parameter that changes the data by less than this part of their natural units is no change."""


@dataclasses.dataclass(frozen=True)
class Combination:
    """A combination of parameters that the data do not determine: relative changes `weights` of `labels` together."""

    labels: tuple[str, ...]
    weights: tuple[float, ...]

    def __str__(self) -> str:
        if len(self.labels) == 1:
            return self.labels[0]
        shown = [f"{w:+.3g} {label}" for w, label in zip(self.weights, self.labels, strict=True)]
        return " ".join(shown[:8]) + (f" … ({len(shown)} parameters)" if len(shown) > 8 else "")


@dataclasses.dataclass(frozen=True)
class Fit:
    """Estimates with their evidence.

    `parameters` by name, each in its own shape, and their `standard_errors`; NaN for those that the data do not
    determine, alone or in combination with others: `undetermined`. `covariance` [k, k] is of the components `labels`.
    `loss` is half the sum of the squared residuals, in units of the uncertainties or of natural units. `residuals`,
    for every target, are what the equilibrium has less what was measured, by kind of data, in the data's own units.
    `potential` and `equilibria` are those with the estimates (with some possible value, where they are undetermined).

    `converged` says that no small change makes the loss smaller; `at_bounds` names components at a bound. `history` has
    loss and components at the start and after every step, or of every epoch in batches. `rearrangements` counts steps
    at which a packing went to another minimum than was predicted (None in batches, where nothing is predicted),
    `contact_changes` those at which its contacts changed. `warnings` say what to be careful about.
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
        """For JSON; what is undetermined is None."""
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


def concluded(
    problem: Problem,
    prior: Float[np.ndarray, "k 2"],
    scale: Float[np.ndarray, " k"],
    limits: tuple[np.ndarray, np.ndarray],
    found: OptimizeResult,
    way: Any,
) -> Fit:
    """The result of a fit that ended at `found`, after the `way` that counts steps and changes."""
    look, unknowns, vector = problem.look(found.x), problem.unknowns, found.x
    assert look is not None
    tells = look.share > 0.0
    natural = problem.jacobian(vector)[tells] * scale
    known = np.isfinite(prior[:, 1])
    from_priors = np.diag(scale / prior[:, 1])[known]
    combinations, basis = undetermined(np.concatenate([natural, from_priors]), unknowns.labels, int(tells.sum()))
    _, told = undetermined(natural, unknowns.labels, int(tells.sum()))
    weighted = natural @ (told @ told.T) * problem.weights[tells, None]  # so that rounding tells nothing
    rows = (look.rows * problem.weights)[tells]
    free = max(1, rows.size - basis.shape[1] + int(known.sum()) - _translations(problem))
    measured = all(kind in target.uncertainties for target in problem.targets for kind in target.kinds)
    spread = 1.0 if measured else max(np.linalg.norm(rows) / np.sqrt(free), np.finfo(float).eps)
    matrix = covariance(np.concatenate([weighted / spread, from_priors]), basis, scale)
    errors = np.sqrt(np.diag(matrix))
    at_bound = (vector - limits[0] <= 1e-6 * scale) | (limits[1] - vector <= 1e-6 * scale)
    settled, message = _settled(found, weighted @ basis, rows, at_bound.any())
    estimates = np.where(np.isfinite(errors), vector, np.nan)
    warnings = _warnings(problem, look, rows, free, measured, estimates)
    assert all(np.isfinite(vector))
    return Fit(
        parameters=by_name(unknowns, estimates),
        standard_errors=by_name(unknowns, errors),
        labels=unknowns.labels,
        covariance=matrix,
        undetermined=combinations,
        loss=way.loss(vector),
        residuals=problem.split(look.rows),
        converged=settled,
        at_bounds=tuple(label for label, at in zip(unknowns.labels, at_bound, strict=True) if at),
        iterations=int(found.njev) - 1,
        relaxations=problem.relaxations,
        rearrangements=way.rearrangements,
        contact_changes=way.contact_changes,
        history=tuple(way.history),
        warnings=warnings,
        message=message,
        potential=unknowns.put(vector, problem.potential, problem.targets[0].system)[0],
        equilibria=tuple(rest for rest in look.rests if rest is not None),
    )


def _translations(problem: Problem) -> int:
    """Degrees of freedom that comparing positions up to a translation takes away."""
    return sum(target.system.dim for target in problem.targets if target.positions)


def _settled(found: OptimizeResult, jacobian: np.ndarray, rows: np.ndarray, bound: bool) -> tuple[bool, str]:
    """Whether no small step makes the loss smaller: the residuals have no part left along the Jacobian."""
    if found.status == 0:
        return False, "the steps allowed are used up (max_steps); the best so far is returned"
    size = np.linalg.norm(rows)
    along = np.linalg.norm(np.linalg.qr(jacobian)[0].T @ rows) if jacobian.size else 0.0
    if not bound and size > 1e-8 * np.sqrt(rows.size) and along > 0.03 * size:
        return False, found.get(
            "unsettled",
            "every smaller step meets a change of contacts that makes the loss larger, though the slope is not zero: "
            "start elsewhere, or give more data",
        )
    return True, "no small change of the parameters makes the loss smaller"


def _warnings(
    problem: Problem, look: Look, rows: np.ndarray, free: int, measured: bool, estimates: np.ndarray
) -> tuple[str, ...]:
    said = []
    poor = float(rows @ rows) / free > 4.0 if measured else float(np.sqrt(np.mean(look.rows**2))) > POOR
    if poor:
        how = "many standard deviations" if measured else "much"
        said.append(f"the data are {how} off what any of these parameters gives{_worst(problem, look)}")
    if not np.isfinite(estimates).any():
        said.append("the data determine none of these parameters")
    return tuple(said)


def _worst(problem: Problem, look: Look) -> str:
    """Which particles are farthest from where they were measured."""
    for number, each in enumerate(problem.split(look.rows)):
        if "positions" in each:
            far = np.linalg.norm(each["positions"], axis=1)
            worst = np.argsort(far)[::-1][:5]
            which = ", ".join(f"{k} ({far[k]:.2g})" for k in worst)
            return f"; the farthest particles{f' of target {number}' if len(problem.targets) > 1 else ''}: {which}"
    return ""


def undetermined(
    jacobian: Float[np.ndarray, "m k"], labels: tuple[str, ...], rows: int
) -> tuple[tuple[Combination, ...], Float[np.ndarray, "k r"]]:
    """The combinations that change nothing, and a basis [k, r] of the others.

    `jacobian` is in natural units of the data for relative changes of the parameters, of which `rows` tell something.
    """
    _, size, vectors = np.linalg.svd(jacobian, full_matrices=True)
    size = np.concatenate([size, np.zeros(len(labels) - len(size))])
    cut = max(1e-9 * size[0], WEAK * np.sqrt(max(rows, 1)))
    combinations = []
    for loose in vectors[size <= cut]:
        vector = loose * np.sign(loose[np.argmax(np.abs(loose))])
        large = np.flatnonzero(np.abs(vector) > 0.05 * np.abs(vector).max())
        combinations.append(Combination(tuple(labels[k] for k in large), tuple(float(vector[k]) for k in large)))
    return tuple(combinations), vectors[size > cut].T


def covariance(
    weighted: Float[np.ndarray, "m k"], basis: Float[np.ndarray, "k r"], scale: Float[np.ndarray, " k"]
) -> np.ndarray:
    """That of the components, from the Jacobian for relative changes in standard deviations of the data; NaN for those
    that the data do not determine.
    """
    within = np.linalg.svd(weighted @ basis, full_matrices=False)
    inverse = basis @ (within[2].T / np.maximum(within[1], 1e-300)) if basis.size else np.zeros((len(scale), 1))
    matrix = (inverse @ inverse.T) * np.outer(scale, scale)
    loose = 1.0 - np.sum(basis**2, axis=1) > 1e-6
    matrix[loose, :] = matrix[:, loose] = np.nan
    return matrix


def by_name(unknowns: Unknowns, vector: np.ndarray) -> dict[str, Any]:
    """Each parameter in its own shape, one number as a float."""
    return {name: float(v) if np.ndim(v) == 0 else v for name, v in unknowns.by_name(vector).items()}


def _rms(rows: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(rows)))) if rows.size else 0.0


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    return float(value) if np.isfinite(value) else None
