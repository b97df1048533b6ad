"""Least squares over relaxations, with the implicit Jacobian."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult

from ..errors import InvalidInput, MdsensError, Status
from ..parameters import ParameterVector, given_by_name
from ..potentials import Potential
from ..relaxation import Equilibrium, Relaxation
from ..response.nearby import network
from ..runtime.files import check_target, write_json
from ..runtime.progress import with_progress
from ..system import System
from . import minibatches
from .balance import balance_forces
from .damped import Limits, Vector, damped_least_squares
from .minibatches import Minibatches
from .problem import Comparison, Problem
from .result import Fit, Record, summarize
from .target import Target

REARRANGEMENT_ERROR = 0.02
"""A packing went to another minimum than predicted where a difference, in natural units such as mean diameters, is off
the prediction by more than this and the largest change predicted."""

MOST_STEPS_PER_RELAXATION = 10_000
"""Parameters with which a packing needs more are far from those sought."""

CLOSE_FIT_RMS = 1e-3
"""A fit with a root mean square difference below this, in natural units, does not look for a better one."""

EPOCHS_USED_UP = (
    "the epochs are used up, and the slope is not zero: give more of them, or go on without batches from the "
    "parameters found"
)


@with_progress("fitting", lambda step, loss: (None, f"step {step}, loss {loss:.3e}"))
def fit(
    potential: Potential,
    targets: Target | System | Sequence[Target | System],
    wrt: str | Sequence[str],
    start: Mapping[str, Any] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    relax: Relaxation | None = None,
    max_steps: int = 100,
    batches: Minibatches | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Finds the parameters with which equilibria are closest to what was measured.

    Every packing is relaxed from the measured positions. The method of Levenberg and Marquardt, with a trust region and
    bounds as in SciPy, takes the Jacobian from the implicit response. It starts from the given values, or from those
    with which the forces at the measured positions balance best, if these are closer. A step is taken back and made
    shorter if no minimum is found there, or no contacts constrain the particles. Steps go beyond contact changes: with
    steps bounded by `validity`, fits end at such changes (benchmarks/fits.py).

    **Arguments:**

    - `potential`: with starting values for its parameters.
    - `targets`: one or many; a `System` stands for its positions.
    - `wrt`: the parameters to find: `diameters` (of every particle), `species-diameter:K`, `box`, or parameters of the
      potential.
    - `start`: other starting values, by the name of a parameter or of a component (`epsilon[0,1]`).
    - `bounds`: the lower and the upper bound, likewise by name.
    - `priors`: mean and standard deviation, likewise by name.
    - `relax`: how to relax; to a tolerance of 1e-12 in at most 10000 steps if None. At constant pressure the cell is
      found, too. Where contacts are about to change, responses are one-sided, since a fit may pass such points.
    - `max_steps`: the largest number of steps of the method.
    - `batches`: for many targets, descend on a few of them at a time instead.
    - `checkpoint`: a JSON file with the state after every step; if it exists, the fit continues from it.
    - `progress`: called as `progress(step, loss)`.

    **Returns:**

    - The Fit. One that stopped early has `converged` False.

    **Raises:**

    - `InvalidInput` for data or bounds that make no sense.
    - What `Relaxation` raises where there is no equilibrium to start from.
    - `SolveFailed` where a response on the way cannot be trusted.

    **Reference:**

    - Branch, Coleman and Li, SIAM J. Sci. Comput. 21, 1 (1999).
    """
    chosen = [each if isinstance(each, Target) else Target(each) for each in _as_list(targets)]
    relax = relax or Relaxation(relative_tolerance=1e-12, max_steps=MOST_STEPS_PER_RELAXATION)
    relax = dataclasses.replace(relax, one_sided=True)
    potential = potential.prepared_for(chosen[0].system)
    parameters = _shared_parameters(wrt, potential, chosen)
    first = np.array(parameters.vector(potential, chosen[0].system), float)
    given = parameters.broadcast(given_by_name("starting values", start), np.nan)
    first = np.where(np.isnan(given), first, given)
    limits = _limits(parameters, given_by_name("bounds", bounds), first)
    prior = parameters.broadcast(given_by_name("priors", priors), (np.nan, np.nan))
    if np.any(prior[:, 1] <= 0.0):
        raise InvalidInput("the standard deviation of a prior must be positive")
    if checkpoint is not None:
        check_target(Path(checkpoint))
        first = np.clip(_resumed(Path(checkpoint), parameters, first), *limits)
    problem = Problem(potential, chosen, parameters, relax)
    run = _FitRun(problem, prior, np.maximum(np.abs(first), 1e-3), limits, checkpoint, progress)
    return run.run(first, max_steps) if batches is None else run.run_in_batches(first, batches)


def _as_list(targets: Target | System | Sequence[Target | System]) -> list[Target | System]:
    several = [targets] if isinstance(targets, Target | System | Equilibrium) else list(targets)
    if not several:
        raise InvalidInput("there is no target to fit")
    return several


def _shared_parameters(wrt: str | Sequence[str], potential: Potential, targets: list[Target]) -> ParameterVector:
    """The parameters to find, the same for all targets."""
    parameters = ParameterVector.from_names(wrt, potential, targets[0].system)
    for number, target in enumerate(targets):
        if ParameterVector.from_names(wrt, potential, target.system) != parameters:
            raise InvalidInput(
                f"target {number} has {target.system.n} particles in {target.system.dim}D, target 0 "
                f"{targets[0].system.n} in {targets[0].system.dim}D: they cannot share {', '.join(parameters.names)}"
            )
    return parameters


def _limits(parameters: ParameterVector, bounds: dict[str, tuple[float, float]], first: Vector) -> Limits:
    """Lower and upper bounds [k]; diameters are positive."""
    positive = {name: (1e-3 * float(np.mean(part)), np.inf) for name, part in parameters.diameters(first)}
    low, high = parameters.broadcast(positive | bounds, (-np.inf, np.inf)).T
    for label, value, least, largest in zip(parameters.labels, first, low, high, strict=True):
        if not least < largest:
            raise InvalidInput(f"the bounds {least} and {largest} of {label} leave nothing between them")
        if not least < value < largest:
            raise InvalidInput(f"{label} starts at {value:.6g}, outside its bounds {least:.6g} and {largest:.6g}")
    return low, high


def _resumed(file: Path, parameters: ParameterVector, first: Vector) -> Vector:
    if not file.exists():
        return first
    try:
        kept = json.loads(file.read_text())
        labels, values = kept["labels"], np.array(kept["values"], float)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{file} is no checkpoint of a fit: remove it, or name another file") from error
    if labels != list(parameters.labels) or values.shape != first.shape or not np.isfinite(values).all():
        raise InvalidInput(f"{file} is the checkpoint of another fit: remove it, or name another file")
    return values


@dataclasses.dataclass
class _FitRun:
    """A fit in progress. `previous` has the parameters, the comparison and the Jacobian of the last step."""

    problem: Problem
    prior: Float[np.ndarray, "k 2"]
    scale: Vector
    limits: Limits
    checkpoint: str | Path | None
    progress: Callable[[int, float], None] | None
    record: Record = dataclasses.field(default_factory=Record)
    previous: tuple[Vector, Comparison, np.ndarray] | None = None

    def run(self, first: Vector, max_steps: int) -> Fit:
        """From the start with the smaller loss; also from the other one, if the fit is not close."""
        balanced = balance_forces(self.problem, first, self.scale, self.limits)
        starts = [first] if balanced is None else [first, balanced]
        ranked = sorted((self.loss(vector), k) for k, vector in enumerate(starts))
        if not np.isfinite(ranked[0][0]):
            raise self._no_start()
        given = [(self.loss(first), first)] if np.isfinite(self.loss(first)) else []
        best = self._descend(starts[ranked[0][1]], max_steps, given)
        for loss, k in ranked[1:]:
            if np.isfinite(loss) and self._rms_difference(best.x) > CLOSE_FIT_RMS:
                history, other = self.record.history, self._descend(starts[k], max_steps, given)
                if other.cost < best.cost:
                    best = other
                else:
                    self.record.history = history
        return self._summary(best)

    def _no_start(self) -> MdsensError:
        return type(self.problem.failure)(f"there is no fit from the starting values: {self.problem.failure}")

    def run_in_batches(self, first: Vector, batches: Minibatches) -> Fit:
        """On a few targets at a time; all are compared before and after."""
        if not np.isfinite(self.loss(first)):
            raise self._no_start()
        whole, record = self.problem, self.record
        each = [Problem(whole.potential, [target], whole.parameters, whole.relax) for target in whole.targets]
        record.history.append((self.loss(first), first.copy()))
        bounded = first, self.scale, self.limits, self.prior
        end = minibatches.descend(batches, each, *bounded, self._contacts, self._report)
        whole.relaxations += sum(problem.relaxations for problem in each)
        record.contact_changes = end.contact_changes
        candidates = [end.vector, *(vector for _, vector in reversed(record.history))]
        best = next(vector for vector in candidates if self.loss(vector) <= record.history[0][0])
        steps = batches.steps(len(each))
        found = self._summary(OptimizeResult(x=best, njev=steps + 1, status=1, not_converged=EPOCHS_USED_UP))
        return dataclasses.replace(found, rearrangements=None)  # nothing was predicted

    def _descend(self, start: Vector, max_steps: int, history: list[tuple[float, np.ndarray]]) -> OptimizeResult:
        """From a start, with a history of its own."""
        self.previous, self.record.history = None, list(history)
        tolerances = {"xtol": 1e-10, "ftol": 1e-12, "gtol": 1e-15}
        return damped_least_squares(self.rows, self.jacobian, start, self.limits, self.scale, max_steps, **tolerances)

    def _summary(self, end: OptimizeResult) -> Fit:
        return summarize(self.problem, self.prior, self.scale, self.limits, end, self.loss(end.x), self.record)

    def rows(self, vector: Vector) -> np.ndarray:
        """Residuals, then those of the priors; NaN where there is no equilibrium, so that the step is taken back."""
        comparison, with_prior = self.problem.compare(vector), np.isfinite(self.prior[:, 1])
        if comparison is None:
            return np.full(self.problem.weights.size + int(with_prior.sum()), np.nan)
        of_prior = ((vector - self.prior[:, 0]) / self.prior[:, 1])[with_prior]
        return np.concatenate([self.problem.residuals(comparison), of_prior])

    def jacobian(self, vector: Vector) -> np.ndarray:
        """That of `rows`; SciPy asks for it once after every step that it takes."""
        comparison, natural = self.problem.compare(vector), self.problem.jacobian(vector)
        assert comparison is not None
        if not np.isfinite(natural).all():
            raise Status.SOLVE_FAILED.raised(what="the response of a packing in this fit")
        self._note(vector, comparison, natural)
        of_prior = np.diag(1.0 / self.prior[:, 1])[np.isfinite(self.prior[:, 1])]
        return np.concatenate([natural * (comparison.factors * self.problem.weights)[:, None], of_prior])

    def loss(self, vector: Vector) -> float:
        """Half the sum of the squares; infinite where there is no equilibrium."""
        rows = self.rows(vector)
        return 0.5 * float(rows @ rows) if np.isfinite(rows).all() else np.inf

    def _rms_difference(self, vector: Vector) -> float:
        comparison = self.problem.compare(vector)
        return np.inf if comparison is None else float(np.sqrt(np.mean(comparison.differences**2)))

    def _note(self, vector: Vector, comparison: Comparison, jacobian: np.ndarray) -> None:
        """Counts changes since the previous step."""
        if self.previous is not None:
            previous_vector, previous, slope = self.previous
            predicted = slope @ (vector - previous_vector)
            error = np.abs(comparison.differences - previous.differences - predicted)
            error = error[(comparison.factors > 0.0) & (previous.factors > 0.0)]
            allowed = REARRANGEMENT_ERROR + np.abs(predicted).max(initial=0.0)
            self.record.rearrangements += bool(error.max(initial=0.0) > allowed)
            self.record.contact_changes += self._contacts(comparison) != self._contacts(previous)
        self.previous = vector.copy(), comparison, jacobian
        self._report(self.loss(vector), vector)

    def _report(self, loss: float, vector: Vector) -> None:
        """Appends a step to the history, writes the checkpoint, and calls `progress`."""
        history = self.record.history
        history.append((loss, vector.copy()))
        if self.checkpoint is not None:
            labels = self.problem.parameters.labels
            state = {"labels": labels, "values": vector.tolist(), "loss": loss, "steps": len(history)}
            write_json(Path(self.checkpoint), state)
        if self.progress is not None:
            self.progress(len(history), loss)

    def _contacts(self, comparison: Comparison) -> list[Any]:
        known = self.problem.potential.has_contact_changes
        return [network(each).contacts if known and each is not None else None for each in comparison.equilibria]
