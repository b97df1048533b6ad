"""Least squares over relaxations, with the implicit Jacobian."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ..errors import InvalidInput, MdsensError, SolveFailed
from ..files import check_target, replacing
from ..nearby import network
from ..potentials import PairPotential, Potential
from ..progress import shows_progress
from ..relaxation import Equilibrium, Relaxation
from ..system import System
from ..unknowns import Unknowns, given_by_name
from . import balance, minibatches
from .damped import damped_least_squares
from .minibatches import Minibatches
from .problem import Look, Problem
from .result import Fit, concluded
from .target import Target

JUMP = 0.02
"""Of a particle, in mean diameters, beyond what was predicted: then it is another minimum."""

MOST_STEPS = 10_000
"""Of each relaxation: parameters with which more are needed are far from those sought."""

CLOSE = 1e-3
"""A root mean square difference, in natural units, with which a fit does not look for a better one."""


UNSETTLED = (
    "the epochs are used up, and the slope is not zero: give more of them, or go on without batches from the "
    "parameters found"
)


@shows_progress("fitting", lambda step, loss: (None, f"step {step}, loss {loss:.3e}"))
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
    """The parameters with which equilibria are closest to what was measured.

    Every packing is relaxed from the measured positions. Levenberg and Marquardt's method, with a trust region and
    bounds (Branch, Coleman and Li, SIAM J. Sci. Comput. 21, 1 (1999), as in SciPy), takes the Jacobian from the
    implicit response. It starts from the values given, or where the forces at the measured positions balance best, if
    that is closer. A step to where nothing is held, or no minimum is found, is taken back and shortened. Steps go
    beyond contact changes: with steps bounded by `validity` fits end at them (benchmarks/fits.py).

    **Arguments:**

    - `potential`, with starting values for its parameters; `targets`, one or many, a `System` for its positions.
    - `wrt`, the unknowns: `diameters` (of every particle), `species-diameter:K`, `box`, parameters of the potential.
    - `start`: other starting values, by the name of a parameter or of a component (`epsilon[0,1]`).
    - `bounds`: the least and the largest value, `priors`: mean and standard deviation, likewise by name.
    - `relax`: how to relax, to 1e-12 in at most 10000 steps if None. At constant pressure the cell is found, too. Where
      contacts are about to change, responses are one-sided: the way of a fit may lead to such a point.
    - `max_steps` of the method; `batches`: how to go down on a few targets at a time instead, for many.
    - `checkpoint`: a JSON file that holds the state after every step; if it is there, the fit goes on from it.
    - `progress(step, loss)`.

    **Raises** `InvalidInput` for data or bounds that cannot be meant, and what `Relaxation` raises where there is no
    equilibrium to start from. A fit that stops early is returned, with `converged` False.
    """
    chosen = [each if isinstance(each, Target) else Target(each) for each in _several(targets)]
    relax = dataclasses.replace(relax or Relaxation(tolerance=1e-12, max_steps=MOST_STEPS), one_sided=True)
    potential = potential.in_precision_of(chosen[0].system)
    unknowns = _shared(wrt, potential, chosen)
    first = np.array(unknowns.vector(potential, chosen[0].system), float)
    given = unknowns.spread(given_by_name("starting values", start), np.nan)
    first = np.where(np.isnan(given), first, given)
    limits = _limits(unknowns, given_by_name("bounds", bounds), first)
    prior = unknowns.spread(given_by_name("priors", priors), (np.nan, np.nan))
    if np.any(prior[:, 1] <= 0.0):
        raise InvalidInput("the standard deviation of a prior must be positive")
    if checkpoint is not None:
        check_target(Path(checkpoint))
        first = np.clip(_resumed(Path(checkpoint), unknowns, first), *limits)
    problem = Problem(potential, chosen, unknowns, relax)
    run = _Run(problem, prior, np.maximum(np.abs(first), 1e-3), limits, checkpoint, progress)
    return run.to_its_end(first, max_steps) if batches is None else run.in_batches(first, batches)


def _several(targets: Target | System | Sequence[Target | System]) -> list[Target | System]:
    several = [targets] if isinstance(targets, Target | System | Equilibrium) else list(targets)
    if not several:
        raise InvalidInput("there is no target to fit")
    return several


def _shared(wrt: str | Sequence[str], potential: Potential, targets: list[Target]) -> Unknowns:
    """The unknowns, the same for all targets."""
    unknowns = Unknowns.of(wrt, potential, targets[0].system)
    for number, target in enumerate(targets):
        if Unknowns.of(wrt, potential, target.system) != unknowns:
            raise InvalidInput(
                f"target {number} has {target.system.n} particles in {target.system.dim}D, target 0 "
                f"{targets[0].system.n} in {targets[0].system.dim}D: they cannot share {', '.join(unknowns.names)}"
            )
    return unknowns


def _limits(
    unknowns: Unknowns, bounds: dict[str, tuple[float, float]], first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds [k]; diameters are positive."""
    sizes = {name: (1e-3 * float(np.mean(part)), np.inf) for name, part in unknowns.diameters(first)}
    low, high = unknowns.spread(sizes | bounds, (-np.inf, np.inf)).T
    for label, value, least, largest in zip(unknowns.labels, first, low, high, strict=True):
        if not least < largest:
            raise InvalidInput(f"the bounds {least} and {largest} of {label} leave nothing between them")
        if not least < value < largest:
            raise InvalidInput(f"{label} starts at {value:.6g}, outside its bounds {least:.6g} and {largest:.6g}")
    return low, high


def _resumed(file: Path, unknowns: Unknowns, first: np.ndarray) -> np.ndarray:
    if not file.exists():
        return first
    try:
        kept = json.loads(file.read_text())
        labels, values = kept["labels"], np.array(kept["values"], float)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{file} is no checkpoint of a fit: remove it, or name another file") from error
    if labels != list(unknowns.labels) or values.shape != first.shape or not np.isfinite(values).all():
        raise InvalidInput(f"{file} is the checkpoint of another fit: remove it, or name another file")
    return values


@dataclasses.dataclass
class _Run:
    """A fit on its way, and what happened."""

    problem: Problem
    prior: np.ndarray
    scale: np.ndarray
    limits: tuple[np.ndarray, np.ndarray]
    checkpoint: str | Path | None
    progress: Callable[[int, float], None] | None
    history: list[tuple[float, np.ndarray]] = dataclasses.field(default_factory=list)
    rearrangements: int = 0
    contact_changes: int = 0
    before: tuple[np.ndarray, Look, np.ndarray] | None = None

    def to_its_end(self, first: np.ndarray, max_steps: int) -> Fit:
        balanced = balance.nearest(self.problem, first, self.scale, self.limits)
        starts = [first] if balanced is None else [first, balanced]
        ranked = sorted((self.loss(vector), k) for k, vector in enumerate(starts))
        if not np.isfinite(ranked[0][0]):
            raise self._no_start()
        given = [(self.loss(first), first)] if np.isfinite(self.loss(first)) else []
        best = self._descend(starts[ranked[0][1]], max_steps, given)
        for loss, k in ranked[1:]:
            if np.isfinite(loss) and self._distance(best.x) > CLOSE:
                before, other = self.history, self._descend(starts[k], max_steps, given)
                best, self.history = (other, self.history) if other.cost < best.cost else (best, before)
        return concluded(self.problem, self.prior, self.scale, self.limits, best, self)

    def _no_start(self) -> MdsensError:
        return type(self.problem.failure)(f"there is no fit from the starting values: {self.problem.failure}")

    def in_batches(self, first: np.ndarray, batches: Minibatches) -> Fit:
        """On a few targets at a time; all are looked at before and after."""
        if not np.isfinite(self.loss(first)):
            raise self._no_start()
        whole = self.problem
        each = [Problem(whole.potential, [target], whole.unknowns, whole.relax) for target in whole.targets]
        self.history.append((self.loss(first), first.copy()))
        end = minibatches.descend(batches, each, first, self.scale, self.limits, self.prior, self._contacts, self._tell)
        whole.relaxations += sum(problem.relaxations for problem in each)
        self.contact_changes = end.contact_changes
        ways = [end.vector, *(vector for _, vector in reversed(self.history))]
        best = next(vector for vector in ways if self.loss(vector) <= self.history[0][0])
        found = OptimizeResult(x=best, njev=batches.steps(len(each)) + 1, status=1, unsettled=UNSETTLED)
        fit = concluded(whole, self.prior, self.scale, self.limits, found, self)
        return dataclasses.replace(fit, rearrangements=None)  # nothing was predicted

    def _descend(self, start: np.ndarray, max_steps: int, history: list[tuple[float, np.ndarray]]) -> OptimizeResult:
        """From a start, with a history of its own."""
        self.before, self.history = None, list(history)
        return damped_least_squares(
            self.rows, self.jacobian, start, self.limits, self.scale, xtol=1e-10, ftol=1e-12, gtol=1e-15, most=max_steps
        )

    def rows(self, vector: np.ndarray) -> np.ndarray:
        """Weighted; NaN where there is no equilibrium, so that the step is taken back."""
        look, held = self.problem.look(vector), np.isfinite(self.prior[:, 1])
        if look is None:
            return np.full(self.problem.weights.size + held.sum(), np.nan)
        from_priors = ((vector - self.prior[:, 0]) / self.prior[:, 1])[held]
        return np.concatenate([self.problem.weighted(look), from_priors])

    def jacobian(self, vector: np.ndarray) -> np.ndarray:
        """Weighted; SciPy asks for it once after every step that it takes."""
        look, natural = self.problem.look(vector), self.problem.jacobian(vector)
        assert look is not None
        if not np.isfinite(natural).all():
            raise SolveFailed(
                "the response of a packing on the way of this fit cannot be trusted: use the dense solver "
                "(relax=mdsens.Relaxation(linear_solver=mdsens.linear_solvers.dense(), ...)), or other starting values"
            )
        self._note(vector, look, natural)
        from_priors = np.diag(1.0 / self.prior[:, 1])[np.isfinite(self.prior[:, 1])]
        return np.concatenate([natural * (look.share * self.problem.weights)[:, None], from_priors])

    def loss(self, vector: np.ndarray) -> float:
        """Half the sum of the squares; infinite where there is no equilibrium."""
        rows = self.rows(vector)
        return 0.5 * float(rows @ rows) if np.isfinite(rows).all() else np.inf

    def _distance(self, vector: np.ndarray) -> float:
        look = self.problem.look(vector)
        return np.inf if look is None else float(np.sqrt(np.mean(look.rows**2)))

    def _note(self, vector: np.ndarray, look: Look, jacobian: np.ndarray) -> None:
        """After a step: what changed."""
        if self.before is not None:
            old, seen, slope = self.before
            step = slope @ (vector - old)
            off = np.abs(look.rows - seen.rows - step)[(look.share > 0.0) & (seen.share > 0.0)]
            self.rearrangements += bool(off.max(initial=0.0) > JUMP + np.abs(step).max(initial=0.0))
            self.contact_changes += self._contacts(look) != self._contacts(seen)
        self.before = vector.copy(), look, jacobian
        self._tell(self.loss(vector), vector)

    def _tell(self, loss: float, vector: np.ndarray) -> None:
        """The state for a checkpoint, and the news for who waits."""
        self.history.append((loss, vector.copy()))
        if self.checkpoint is not None:
            state = {
                "labels": self.problem.unknowns.labels,
                "values": vector.tolist(),
                "loss": loss,
                "steps": len(self.history),
            }
            with replacing(Path(self.checkpoint)) as file:
                file.write_text(json.dumps(state, indent=2) + "\n")
        if self.progress is not None:
            self.progress(len(self.history), loss)

    def _contacts(self, look: Look) -> list[Any]:
        pairwise = isinstance(self.problem.potential, PairPotential)
        return [network(rest).contacts if pairwise and rest is not None else None for rest in look.rests]
