"""Particles and interactions for wanted properties."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear

from ..errors import InvalidInput, MdsensError, NotAMinimum
from ..parameters import ParameterVector, given_by_name
from ..properties import MODULI, check_properties, measured
from ..relaxation import Equilibrium, Relaxation
from ..runtime.files import check_target, write_json
from ..runtime.progress import with_progress
from ..runtime.tracing import as_array
from .responses import motion, moved_system, responses, scale_of, units_of

Vector = Float[np.ndarray, " k"]

Goal = str | float
"""A value, or `max` or `min`."""

FIRST_RADIUS = 0.05
"""The first radius of the trust region: the motion of particles by each parameter in one step, in mean diameters."""

LARGEST_EASE = 20.0
"""Parameters change in inverse proportion to the motion of particles that they cause, up to this factor: one that moves
them by less than a twentieth of a mean diameter, for a change by its own value, may change by 100 % in one step."""

DAMPING = 1e-3
"""The weight of the parameters' changes in a step, relative to the largest singular value of the responses."""

GROWTH_OF_RADIUS = 1.5
"""After every step that leads to an equilibrium; after any other the radius is halved."""

MOST_STEPS_WITHOUT_GAIN = 6
"""In a row, before a descent starts again near its best place, or ends. Where contacts change, moduli jump, and a
descent may go on beyond such a jump."""

RESTARTS_PER_DESCENT = 1
"""The number of times that a descent starts again near its best place, with half the radius."""

TRIALS_PER_HOP = 4
"""Random places that are tried when a descent has ended; the next one starts from the best of them."""

LONGEST_HOP = 0.5
"""The largest motion of particles in a hop, in mean diameters; the smallest is the first radius."""

MOST_DESCENTS_WITHOUT_GAIN = 6
"""In a row, before the search ends."""

NEGLIGIBLE_GAIN = 1e-3
"""A step that brings less than this fraction of the wanted changes leads nowhere: bounds or flat responses stop it."""

NEGLIGIBLE_RESPONSE = 1e-4
"""Of a property to a parameter, both in the units of a step."""

PENALTY_OF_KEPT_PROPERTIES = 100.0
"""The weight of relative changes of the properties to keep, against those of one that is to be extreme."""

AT_A_BOUND = 1e-9
"""A parameter is at a bound if it is no farther from it than this, relative to the scale of its changes."""

STABILITY_MODULI = ("bulk_modulus", "shear_modulus")
"""Positive where a packing resists strains of its cell."""


@dataclasses.dataclass(frozen=True)
class Design:
    """A packing designed for wanted properties.

    - `equilibrium`: the packing. `parameters`: its parameters, by name.
    - `goals`: the properties to reach. `properties`: these, and those to keep, as they are now; `before`: as they were.
    - `reached` (bool): the goals were met; for `max` and `min`, the search ended by itself.
    - `message`: why the search ended. `binding`: the components of parameters at a bound.
    - `trail` [steps, k + m]: for every step taken the components of the parameters, then the properties; `columns` are
      their names.
    - `relaxations`: the number of all relaxations. `refused`: the number of steps that were taken back.
    """

    equilibrium: Equilibrium
    parameters: dict[str, Any]
    goals: dict[str, Goal]
    properties: dict[str, float]
    before: dict[str, float]
    reached: bool
    message: str
    binding: tuple[str, ...]
    columns: tuple[str, ...]
    trail: np.ndarray
    relaxations: int
    refused: int

    def as_dict(self) -> dict[str, Any]:
        """The design for JSON."""
        return {
            "converged": self.reached,
            "message": self.message,
            "goals": self.goals,
            "properties": self.properties,
            "before": self.before,
            "parameters": {name: np.asarray(value).tolist() for name, value in self.parameters.items()},
            "binding": list(self.binding),
            "steps": len(self.trail) - 1,
            "relaxations": self.relaxations,
            "steps_taken_back": self.refused,
        }

    def __str__(self) -> str:
        rows = [("design", f"{'reached' if self.reached else 'NOT reached'}: {self.message}")]
        for name, value in self.properties.items():
            goal = self.goals.get(name)
            wanted = "kept" if goal is None else goal if isinstance(goal, str) else f"wanted {goal:.8g}"
            rows.append((name, f"{self.before[name]:.8g} → {value:.8g} ({wanted})"))
        for name, value in self.parameters.items():
            array = np.asarray(value)
            text = f"{array:.8g}" if array.ndim == 0 else f"{array.size} values, {array.min():.6g} to {array.max():.6g}"
            rows.append((name, text if array.size > 9 or array.ndim == 0 else np.array2string(array, precision=8)))
        rows += [("at a bound", ", ".join(self.binding))] if self.binding else []
        taken = f"{len(self.trail) - 1} steps, {self.relaxations} relaxations, {self.refused} of them taken back"
        return "\n".join(f"{name:<17} {text}" for name, text in [*rows, ("work", taken)])

    __repr__ = __str__


def _describe(step: int, now: dict[str, float]) -> tuple[None, str]:
    return None, f"step {step}, {', '.join(f'{name} {value:.5g}' for name, value in now.items())}"


@with_progress("designing", _describe)
def design(
    equilibrium: Equilibrium,
    goals: Mapping[str, Goal],
    wrt: str | Sequence[str],
    bounds: Mapping[str, tuple[float, float]] | None = None,
    keep: Iterable[str] = (),
    tolerance: float = 1e-6,
    max_steps: int = 300,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Design:
    """Changes parameters until an equilibrium has the wanted properties, or is as close to them as it gets.

    Each step is the smallest relative change of the parameters that the responses of the properties ask for (the method
    of Gauss and Newton, within bounds and a trust region), followed by a relaxation from the predicted positions. The
    responses are exact, through the minimum. A step is taken back and shortened if there is no equilibrium, or if no
    contacts constrain the particles. Where contacts change, properties jump, and responses lead nowhere: then another
    descent starts from the best of some random places farther away, as in basin hopping.

    An equilibrium at constant pressure stays at its pressure. If moduli are goals, or to be kept, and the equilibrium
    resists strains of its cell, the designed one does so, too.

    **Arguments:**

    - `goals`: for properties by name, of `mdsens.properties.REGISTRY`, a value; or `max` or `min` of one property.
    - `wrt`, `bounds`: parameters and their bounds by name, as in `fit`; diameters stay positive.
    - `keep`: names of properties that must stay as they are.
    - `tolerance`: on each property, relative to its value (absolute for Poisson's ratio).
    - `max_steps`: the largest number of relaxations.
    - `checkpoint`: a JSON file with the parameters after every step.
    - `progress`: called as `progress(step, properties)`.

    **Returns:**

    - The Design. If the goals were not met, `reached` is False.

    **Raises:**

    - `InvalidInput` for goals that make no sense.
    - What the properties and their responses raise at the start.

    **Reference:**

    - Zu and Goodrich, arXiv 2404.15101: designs with exact responses.
    - Wales and Doye, J. Phys. Chem. A 101, 5111 (1997): basin hopping.
    """
    equilibrium.check()
    goals, kept = dict(goals), check_properties(keep)
    names = check_properties([*goals, *kept])
    _check_goals(goals, kept)
    parameters = ParameterVector.from_names(wrt, equilibrium.potential, equilibrium.system)
    value = np.asarray(parameters.vector(equilibrium.potential, equilibrium.system), float)
    positive = {name: (1e-3 * float(np.mean(part)), np.inf) for name, part in parameters.diameters(value)}
    low, high = parameters.broadcast(positive | given_by_name("bounds", bounds), (-np.inf, np.inf)).T
    outside = [label for label, v, a, b in zip(parameters.labels, value, low, high, strict=True) if not a <= v <= b]
    if outside:
        raise InvalidInput(f"{', '.join(outside)} is outside its bounds to begin with")
    if checkpoint is not None:
        check_target(Path(checkpoint))
    designer = _Designer(parameters, names, goals, (low, high), tolerance, max_steps, checkpoint, progress)
    return designer.run(equilibrium, value)


def _check_goals(goals: dict[str, Goal], kept: tuple[str, ...]) -> None:
    if not goals or set(goals) & set(kept):
        raise InvalidInput("name one or more properties to reach, none of them among those to keep")
    extreme = [name for name, goal in goals.items() if isinstance(goal, str)]
    if extreme and (len(goals) > 1 or goals[extreme[0]] not in ("max", "min")):
        raise InvalidInput("a goal is a value, or 'max' or 'min' of one property alone; others can be kept")
    for name, goal in goals.items():
        if name == "contact_number" or (not isinstance(goal, str) and not np.isfinite(goal)):
            raise InvalidInput(f"{name} cannot be designed to be {goal}")


@dataclasses.dataclass
class _State:
    """An equilibrium on the way: parameters [k], properties [m], and their responses to relative changes [m, k]."""

    equilibrium: Equilibrium
    vector: Vector
    values: Float[np.ndarray, " m"]
    slopes: Float[np.ndarray, "m k"]


@dataclasses.dataclass
class _Designer:
    """The search. `scale` is the unit of a step of each parameter, `units` those of the properties."""

    parameters: ParameterVector
    names: tuple[str, ...]
    goals: dict[str, Goal]
    limits: tuple[Vector, Vector]
    tolerance: float
    max_relaxations: int
    checkpoint: str | Path | None
    progress: Callable[[int, dict[str, float]], None] | None
    relaxations: int = 0
    refused: int = 0
    failure: str = ""
    must_resist: bool = False
    trail: list[np.ndarray] = dataclasses.field(default_factory=list)

    def run(self, equilibrium: Equilibrium, vector: Vector) -> Design:
        """Descents, each from the best of some random places around the best place so far."""
        self.random = np.random.default_rng(0)
        self.scale = scale_of(vector) * self._ease(equilibrium, vector)
        self.start = state = best = self._evaluate(equilibrium, vector)
        self.units = units_of(self.names, state.values, least=1e-12)
        if set(self.names) & set(MODULI):
            self.must_resist = bool(np.all(np.asarray(measured(equilibrium.frozen, STABILITY_MODULI)) > 0.0))
        self._record(state)
        without_gain = 0
        while True:
            end = self._descend(state)
            better = self._cost(end) < self._cost(best)
            best, without_gain = (end, 0) if better else (best, without_gain + 1)
            stuck = without_gain >= MOST_DESCENTS_WITHOUT_GAIN or self._is_stationary(best, FIRST_RADIUS)
            if stuck or self._is_done(best):
                return self._result(best)
            state = self._hop(best)

    def _descend(self, state: _State) -> _State:
        """By the responses, as far as they lead: the best place on the way."""
        best, radius, largest_radius, without_gain, restarts = state, FIRST_RADIUS, FIRST_RADIUS, 0, 0
        while not self._is_done(best) and not self._is_stationary(best, radius):
            following = self._attempt(state, self._step(state, radius))
            if following is None:
                radius, self.refused = 0.5 * radius, self.refused + 1
            else:
                state, radius = following, min(GROWTH_OF_RADIUS * radius, largest_radius)
                self._record(state)
            better = self._cost(state) < self._cost(best)
            best, without_gain = (state, 0) if better else (best, without_gain + 1)
            if without_gain >= MOST_STEPS_WITHOUT_GAIN:
                if restarts == RESTARTS_PER_DESCENT:
                    break
                restarts, without_gain, largest_radius = restarts + 1, 0, 0.5 * largest_radius
                state, radius = self._attempt(best, self._random_step(best, largest_radius)) or best, largest_radius
        return best

    def _hop(self, best: _State) -> _State:
        """The best of some random places around the best one."""
        lengths = np.exp(self.random.uniform(np.log(FIRST_RADIUS), np.log(LONGEST_HOP), TRIALS_PER_HOP))
        attempts = [self._attempt(best, self._random_step(best, length)) for length in lengths]
        found = [state for state in attempts if state is not None]
        if not found:
            return best
        state = min(found, key=self._cost)
        self._record(state)
        return state

    def _is_done(self, best: _State) -> bool:
        return self._reached(best) or self._used_up

    @property
    def _used_up(self) -> bool:
        return self.relaxations >= self.max_relaxations

    def _ease(self, equilibrium: Equilibrium, vector: Vector) -> Vector:
        """The factor by which each parameter may change more than others: the larger, the less particles move."""
        moves = motion(equilibrium, self.parameters, vector) * scale_of(vector)
        return 1.0 / np.maximum(moves / float(np.mean(equilibrium.system.diameters)), 1.0 / LARGEST_EASE)

    def _remaining(self, state: _State, radius: float) -> Float[np.ndarray, " m"]:
        """The wanted change of each property, in its unit; of an extreme one the largest that the radius allows."""
        wanted = self.start.values.copy()
        for k, goal in enumerate(self.goals.values()):
            reach = radius * np.abs(state.slopes[k]).sum()
            wanted[k] = state.values[k] + {"max": reach, "min": -reach}[goal] if isinstance(goal, str) else goal
        return (wanted - state.values) / self.units

    def _step(self, state: _State, radius: float) -> Vector:
        """The smallest relative change of the parameters that brings the wanted change, within bounds and radius."""
        wanted, slopes = self._remaining(state, radius), state.slopes / self.units[:, None]
        damping = DAMPING * np.linalg.norm(slopes, 2)
        low = np.maximum((self.limits[0] - state.vector) / self.scale, -radius)
        high = np.minimum((self.limits[1] - state.vector) / self.scale, radius)
        matrix = np.concatenate([slopes, damping * np.eye(slopes.shape[1])])
        right = np.concatenate([wanted, np.zeros(slopes.shape[1])])
        free = high - low > 1e-14
        step = np.zeros(len(low))
        if free.any():
            step[free] = lsq_linear(matrix[:, free], right, (low[free], high[free])).x
        return step

    def _is_stationary(self, state: _State, radius: float) -> bool:
        """Whether a step brings nearly nothing of the wanted change."""
        wanted, step = self._remaining(state, radius), self._step(state, radius)
        gain = np.linalg.norm(state.slopes @ step / self.units)
        return bool(gain < NEGLIGIBLE_GAIN * np.linalg.norm(wanted))

    def _random_step(self, state: _State, radius: float) -> Vector:
        """A step of this length in a random direction, within bounds."""
        low, high = ((limit - state.vector) / self.scale for limit in self.limits)
        step = self.random.normal(size=state.vector.size)
        return np.clip(radius * step / np.linalg.norm(step), low, high)

    def _attempt(self, state: _State, step: Vector) -> _State | None:
        """The state after a step; None where there is no equilibrium, or no response."""
        vector, before = np.clip(state.vector + self.scale * step, *self.limits), state.equilibrium
        relax = Relaxation(
            tolerance=float(before.tolerance),
            pressure=None if before.pressure is None else float(before.pressure),
            cell=before.rule.cell,
            linear_solver=before.rule.solver,
            neighbors=before.pair_finder,
        )
        try:
            self.relaxations += 1
            guess = moved_system(before, self.parameters, state.vector, vector - state.vector)
            potential, system = self.parameters.apply(as_array(vector), before.potential, guess)
            return self._evaluate(relax(potential, system), vector)
        except MdsensError as error:
            self.failure = str(error)
            return None

    def _evaluate(self, equilibrium: Equilibrium, vector: Vector) -> _State:
        """**Raises** `NotAMinimum` where the packing must resist strains and does not."""
        moduli = STABILITY_MODULI if self.must_resist else ()
        values, slopes = responses(equilibrium, self.parameters, self.names, moduli)
        values, resisting = np.split(values, [len(self.names)])
        if not np.all(resisting > 0.0):
            raise NotAMinimum("the packing would give way to a strain of its cell: a modulus is not positive")
        return _State(equilibrium.frozen, vector, values, slopes * self.scale)

    @property
    def _extreme(self) -> str | None:
        """`max` or `min`, if that is the goal."""
        return next((goal for goal in self.goals.values() if isinstance(goal, str)), None)

    def _cost(self, state: _State) -> float:
        """The distance to the goals; for an extreme one its value, and a penalty for changes of the others."""
        distance = np.linalg.norm(self._remaining(state, 0.0))
        if self._extreme is None:
            return float(distance)
        sign = {"max": -1.0, "min": 1.0}[self._extreme]
        return float(sign * state.values[0] / self.units[0] + PENALTY_OF_KEPT_PROPERTIES * distance)

    def _reached(self, state: _State) -> bool:
        return self._extreme is None and bool(np.abs(self._remaining(state, 0.0)).max() <= self.tolerance)

    def _record(self, state: _State) -> None:
        """Appends a step to the trail, writes the checkpoint, and calls `progress`."""
        step, properties = len(self.trail), self._by_name(state)
        self.trail.append(np.concatenate([state.vector, state.values]))
        if self.checkpoint is not None:
            content = {"labels": self.parameters.labels, "values": state.vector.tolist(), "steps": step}
            write_json(Path(self.checkpoint), content | {"properties": properties})
        if self.progress is not None:
            self.progress(step, properties)

    def _by_name(self, state: _State) -> dict[str, float]:
        return dict(zip(self.names, state.values.tolist(), strict=True))

    def _result(self, best: _State) -> Design:
        near = AT_A_BOUND * self.scale
        at = (best.vector <= self.limits[0] + near) | (best.vector >= self.limits[1] - near)
        binding = tuple(label for label, bound in zip(self.parameters.labels, at, strict=True) if bound)
        met, by_name = self._reached(best), self.parameters.by_name(best.vector)
        return Design(
            equilibrium=best.equilibrium,
            parameters={name: float(v) if np.ndim(v) == 0 else v for name, v in by_name.items()},
            goals=self.goals,
            properties=self._by_name(best),
            before=self._by_name(self.start),
            reached=met or (self._extreme is not None and not self._used_up),
            message=self._message(best, met, binding),
            binding=binding,
            columns=(*self.parameters.labels, *self.names),
            trail=np.array(self.trail),
            relaxations=self.relaxations,
            refused=self.refused,
        )

    def _message(self, best: _State, met: bool, binding: tuple[str, ...]) -> str:
        """Why the search ended."""
        if met:
            return "the properties are those wanted"
        if self._used_up:
            return "the steps allowed are used up (max_steps); the best so far is returned"
        end = f"the {self._extreme}imum within reach" if self._extreme else "no step leads closer"
        reasons = []
        if binding:
            reasons.append(f"{', '.join(binding[:6])} {'are' if len(binding) > 1 else 'is'} at a bound")
        if self.failure:
            reasons.append(f"beyond, {re.split('[:;]', self.failure)[0]}")
        if not reasons:
            steepest = float(np.abs(best.slopes / self.units[:, None]).max())
            flat = steepest < NEGLIGIBLE_RESPONSE
            what = "no parameter changes the properties any more" if flat else "every further step leads away"
            reasons.append(f"{what}, as contacts change")
        return f"{end}: {'; '.join(reasons)}"
