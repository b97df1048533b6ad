"""Particles and interactions for wanted properties, and which properties can be had one without the other."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import lsq_linear

from .cholesky import where_positive
from .errors import InvalidInput, MdsensError, NotAMinimum, NotRigid, SolveFailed
from .files import check_target, replacing
from .progress import shows_progress
from .properties import MODULI, check_properties, measured
from .relaxation import Equilibrium, Relaxation
from .unknowns import Unknowns, as_function, given_by_name

FIRST_RADIUS = 0.05
"""How far particles may move in one step by each parameter, in mean diameters."""

LEAST_MOTION = 0.05
"""A parameter with which particles move less than this, in mean diameters for a change by its own value, is free to
change as if they did: by 40 % in one step.
"""

PATIENCE, ASIDE = 6, 1
"""Steps in a row that may lead nowhere better: where contacts change moduli jump, and the way leads on beyond. So often
a way is then tried beside the best place, with half the steps, before it is given up.
"""

LEAPS, WIDEST = 4, 0.5
"""Where a way is given up another begins: at the best of so many places in random directions, as far away as in so many
mean diameters of motion at most.
"""

FRUITLESS = 6
"""Ways in a row that may lead nowhere better than the best before it is as far as it goes."""

RESISTING = ("bulk_modulus", "shear_modulus")
"""Positive where a packing resists strains of its cell."""

GOAL = str | float
"""A value, or `max` or `min`."""


@dataclasses.dataclass(frozen=True)
class Design:
    """A packing designed for wanted properties.

    `equilibrium` is the packing and `parameters` what it took, by name. `properties` are those wanted and those held,
    as they are now, and `before` as they were; `goals` what was wanted. `reached` says that the goals were met, or for
    `max` and `min` that the end of the way was; `message` why it ended there and `binding` the components at a bound.
    `trail` has for every step taken the components of the parameters, then the properties: [steps, k + m], named by
    `columns`. `relaxations` counts them all, `refused` those of steps taken back.
    """

    equilibrium: Equilibrium
    parameters: dict[str, Any]
    goals: dict[str, GOAL]
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
        """For JSON."""
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
            what = "held" if goal is None else goal if isinstance(goal, str) else f"wanted {goal:.8g}"
            rows.append((name, f"{self.before[name]:.8g} → {value:.8g} ({what})"))
        for name, value in self.parameters.items():
            array = np.asarray(value)
            text = f"{array:.8g}" if array.ndim == 0 else f"{array.size} values, {array.min():.6g} to {array.max():.6g}"
            rows.append((name, text if array.size > 9 or array.ndim == 0 else np.array2string(array, precision=8)))
        rows += [("at a bound", ", ".join(self.binding))] if self.binding else []
        taken = f"{len(self.trail) - 1} steps, {self.relaxations} relaxations, {self.refused} of them taken back"
        return "\n".join(f"{name:<17} {text}" for name, text in [*rows, ("work", taken)])

    __repr__ = __str__


def _described(step: int, now: dict[str, float]) -> tuple[None, str]:
    return None, f"step {step}, {', '.join(f'{name} {value:.5g}' for name, value in now.items())}"


@shows_progress("designing", _described)
def design(
    equilibrium: Equilibrium,
    goals: Mapping[str, GOAL],
    wrt: str | Sequence[str],
    bounds: Mapping[str, tuple[float, float]] | None = None,
    hold: Iterable[str] = (),
    tolerance: float = 1e-6,
    max_steps: int = 300,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Design:
    """Changes parameters until an equilibrium has the properties wanted, or as far as it goes.

    Each step is the least relative change of the parameters that the responses of the properties ask for (Gauss and
    Newton, within bounds and a trust region), followed by relaxing from the positions predicted; one to where nothing
    is held is taken back and shortened. Where contacts change properties jump, and responses lead nowhere: then another
    way begins farther off, at the best of some random places (Wales and Doye, J. Phys. Chem. A 101, 5111 (1997), hop
    between basins likewise). Responses are exact, through the minimum (after Zu
    and Goodrich, arXiv 2404.15101).

    **Arguments:** `goals`, by the names in `mdsens.properties.NAMED`, a value, or `max` or `min` of one property.
    `wrt` and `bounds` as in `fit`; diameters stay positive. `hold`, properties that must stay as they are. `tolerance`
    on each property, relative to its value (absolute for Poisson's ratio). An equilibrium at constant pressure stays
    at its pressure, and where moduli are goals one that resists strains of its cell goes on to do so. `checkpoint`, a
    JSON file with the parameters after every step; `progress(step, properties)`.

    **Raises** `InvalidInput` for goals that cannot be meant, and what the properties raise at the start. What ends on
    the way is returned, with `reached` False.
    """
    equilibrium.check()
    goals, held = dict(goals), check_properties(hold)
    names = check_properties([*goals, *held])
    _check_goals(goals, held)
    unknowns = Unknowns.of(wrt, equilibrium.potential, equilibrium.system)
    value = np.asarray(unknowns.vector(equilibrium.potential, equilibrium.system), float)
    positive = {name: (1e-3 * float(np.mean(part)), np.inf) for name, part in unknowns.diameters(value)}
    low, high = unknowns.spread(positive | given_by_name("bounds", bounds), (-np.inf, np.inf)).T
    outside = [label for label, v, a, b in zip(unknowns.labels, value, low, high, strict=True) if not a <= v <= b]
    if outside:
        raise InvalidInput(f"{', '.join(outside)} is outside its bounds to begin with")
    if checkpoint is not None:
        check_target(Path(checkpoint))
    designer = _Designer(unknowns, names, goals, (low, high), tolerance, checkpoint, progress)
    return designer.run(equilibrium, value, max_steps)


def _check_goals(goals: dict[str, GOAL], held: tuple[str, ...]) -> None:
    if not goals or set(goals) & set(held):
        raise InvalidInput("name one or more properties to reach, none of them among those to hold")
    extreme = [name for name, goal in goals.items() if isinstance(goal, str)]
    if extreme and (len(goals) > 1 or goals[extreme[0]] not in ("max", "min")):
        raise InvalidInput("a goal is a value, or 'max' or 'min' of one property alone; others can be held")
    for name, goal in goals.items():
        if name == "contact_number" or (not isinstance(goal, str) and not np.isfinite(goal)):
            raise InvalidInput(f"{name} cannot be designed to be {goal}")


@dataclasses.dataclass
class _Place:
    """An equilibrium on the way: the parameters, the properties, and their responses to relative changes."""

    rest: Equilibrium
    vector: np.ndarray
    values: np.ndarray
    slopes: np.ndarray


@dataclasses.dataclass
class _Designer:
    unknowns: Unknowns
    names: tuple[str, ...]
    goals: dict[str, GOAL]
    limits: tuple[np.ndarray, np.ndarray]
    tolerance: float
    checkpoint: str | Path | None
    progress: Callable[[int, dict[str, float]], None] | None
    relaxations: int = 0
    refused: int = 0
    failure: str = ""
    stable: bool = False
    trail: list[np.ndarray] = dataclasses.field(default_factory=list)

    def run(self, rest: Equilibrium, vector: np.ndarray, max_steps: int) -> Design:
        self.scale = np.maximum(np.abs(vector), 1e-3) * self._ease(rest, vector)
        self.start = here = best = self._place(rest, vector)
        self.units = np.where(np.array(self.names) == "poisson_ratio", 1.0, np.maximum(np.abs(here.values), 1e-12))
        self.stable = bool(set(self.names) & set(MODULI)) and bool(np.all(measured(rest.frozen, RESISTING) > 0.0))
        self.random, self.allowed, fruitless = np.random.default_rng(0), max_steps, 0
        self._note(here)
        while True:
            end = self._way_from(here)
            best, fruitless = (end, 0) if self._worth(end) < self._worth(best) else (best, fruitless + 1)
            if self._is_over(best) or fruitless >= FRUITLESS or self._is_idle(best, FIRST_RADIUS):
                return self._concluded(best, self.relaxations >= self.allowed)
            here = self._leap(best)

    def _way_from(self, here: _Place) -> _Place:
        """By the responses, as far as they lead: the best place on the way."""
        best, radius, longest, stalled, asides = here, FIRST_RADIUS, FIRST_RADIUS, 0, 0
        while not self._is_over(best) and not self._is_idle(best, radius):
            there = self._tried(here, self._step(here, radius))
            if there is None:
                radius, self.refused = 0.5 * radius, self.refused + 1
            else:
                here, radius = there, min(1.5 * radius, longest)
                self._note(here)
            better = self._worth(here) < self._worth(best)
            best, stalled = (here, 0) if better else (best, stalled + 1)
            if stalled >= PATIENCE:
                if asides == ASIDE:
                    break
                asides, stalled, longest = asides + 1, 0, 0.5 * longest
                here, radius = self._tried(best, self._aside(best, longest)) or best, longest
        return best

    def _leap(self, best: _Place) -> _Place:
        """The best of some places far from the best one."""
        wide = np.exp(self.random.uniform(np.log(FIRST_RADIUS), np.log(WIDEST), LEAPS))
        found = [there for w in wide if (there := self._tried(best, self._aside(best, w))) is not None]
        if not found:
            return best
        self._note(there := min(found, key=self._worth))
        return there

    def _is_over(self, best: _Place) -> bool:
        return self._reached(best) or self.relaxations >= self.allowed

    def _ease(self, rest: Equilibrium, vector: np.ndarray) -> np.ndarray:
        """How much more than others a parameter may change, relative to its value: the less particles move with it."""
        moves = np.asarray(_motion(rest.frozen, self.unknowns, jnp.asarray(vector))) * np.maximum(np.abs(vector), 1e-3)
        return 1.0 / np.maximum(moves / float(jnp.mean(rest.system.diameters)), LEAST_MOTION)

    def _wanted(self, place: _Place, radius: float) -> np.ndarray:
        """How much each property is to change, in its unit; an extreme one as far as the radius might take it."""
        wanted = self.start.values.copy()
        for k, goal in enumerate(self.goals.values()):
            reach = radius * np.abs(place.slopes[k]).sum()
            wanted[k] = place.values[k] + {"max": reach, "min": -reach}[goal] if isinstance(goal, str) else goal
        return (wanted - place.values) / self.units

    def _step(self, place: _Place, radius: float) -> np.ndarray:
        """The least relative change of the parameters that does it, within bounds and radius."""
        wanted, slopes = self._wanted(place, radius), place.slopes / self.units[:, None]
        damping = 1e-3 * np.linalg.norm(slopes, 2)
        low = np.maximum((self.limits[0] - place.vector) / self.scale, -radius)
        high = np.minimum((self.limits[1] - place.vector) / self.scale, radius)
        system = np.concatenate([slopes, damping * np.eye(slopes.shape[1])])
        right = np.concatenate([wanted, np.zeros(slopes.shape[1])])
        free = high - low > 1e-14
        step = np.zeros(len(low))
        if free.any():
            step[free] = lsq_linear(system[:, free], right, (low[free], high[free])).x
        return step

    def _is_idle(self, place: _Place, radius: float) -> bool:
        """Whether a step brings nearly nothing of what is wanted: bounds, or flat responses, leave nowhere to go."""
        wanted, step = self._wanted(place, radius), self._step(place, radius)
        return bool(np.linalg.norm(place.slopes @ step / self.units) < 1e-3 * np.linalg.norm(wanted))

    def _aside(self, place: _Place, radius: float) -> np.ndarray:
        """A step in any direction, to find another way from here."""
        low, high = ((limit - place.vector) / self.scale for limit in self.limits)
        step = self.random.normal(size=place.vector.size)
        return np.clip(radius * step / np.linalg.norm(step), low, high)

    def _tried(self, here: _Place, step: np.ndarray) -> _Place | None:
        """Where a step leads; None where there is no equilibrium, or nothing that holds it."""
        vector = np.clip(here.vector + self.scale * step, *self.limits)
        old = here.rest
        relax = Relaxation(
            tolerance=float(old.tolerance),
            pressure=None if old.pressure is None else float(old.pressure),
            cell=old.rule.cell,
            linear_solver=old.rule.solver,
            neighbors=old.kind,
        )
        try:
            self.relaxations += 1
            guess = _moved(old, self.unknowns, jnp.asarray(here.vector), jnp.asarray(vector - here.vector))
            potential, system = self.unknowns.put(jnp.asarray(vector), old.potential, guess)
            rest = relax(potential, system)
            return self._place(rest, vector)
        except MdsensError as error:
            self.failure = str(error)
            return None

    def _place(self, rest: Equilibrium, vector: np.ndarray) -> _Place:
        also = RESISTING if self.stable else ()
        values, slopes = responses(rest, self.unknowns, self.names, also)
        values, resisting = np.split(values, [len(self.names)])
        if not np.all(resisting > 0.0):
            raise NotAMinimum("the packing would give way to a strain of its cell: a modulus is not positive")
        return _Place(rest.frozen, vector, values, slopes * self.scale)

    def _worth(self, place: _Place) -> float:
        """What is to be made small: the distance to the goals, or what is to be large, taken negative."""
        off = self._wanted(place, 0.0)
        extremes = [{"max": -1.0, "min": 1.0}[g] * place.values[k] / self.units[k]
                    for k, g in enumerate(self.goals.values()) if isinstance(g, str)]  # fmt: skip
        return float(np.sum(extremes) + (100.0 if extremes else 1.0) * np.linalg.norm(off))

    def _reached(self, place: _Place) -> bool:
        extreme = any(isinstance(goal, str) for goal in self.goals.values())
        return not extreme and bool(np.abs(self._wanted(place, 0.0)).max() <= self.tolerance)

    def _note(self, place: _Place) -> None:
        step = len(self.trail)
        self.trail.append(np.concatenate([place.vector, place.values]))
        if self.checkpoint is not None:
            state = {"labels": self.unknowns.labels, "values": place.vector.tolist(), "steps": step}
            state |= {"properties": dict(zip(self.names, place.values.tolist(), strict=True))}
            with replacing(Path(self.checkpoint)) as file:
                file.write_text(json.dumps(state, indent=2) + "\n")
        if self.progress is not None:
            self.progress(step, dict(zip(self.names, place.values.tolist(), strict=True)))

    def _concluded(self, place: _Place, used_up: bool) -> Design:
        at = (place.vector <= self.limits[0] + 1e-9 * self.scale) | (place.vector >= self.limits[1] - 1e-9 * self.scale)
        binding = tuple(label for label, bound in zip(self.unknowns.labels, at, strict=True) if bound)
        extreme = next((goal for goal in self.goals.values() if isinstance(goal, str)), None)
        met = self._reached(place)
        if met:
            message = "the properties are those wanted"
        elif used_up:
            message = "the steps allowed are used up (max_steps); the best so far is returned"
        else:
            end = f"the {extreme}imum within reach" if extreme else "as far as it goes"
            message = f"{end}: {self._what_binds(place, binding)}"
        values, before = (dict(zip(self.names, v.values.tolist(), strict=True)) for v in (place, self.start))
        return Design(
            equilibrium=place.rest,
            parameters={k: float(v) if np.ndim(v) == 0 else v for k, v in self.unknowns.by_name(place.vector).items()},
            goals=self.goals,
            properties=values,
            before=before,
            reached=met or (extreme is not None and not used_up),
            message=message,
            binding=binding,
            columns=(*self.unknowns.labels, *self.names),
            trail=np.array(self.trail),
            relaxations=self.relaxations,
            refused=self.refused,
        )

    def _what_binds(self, place: _Place, binding: tuple[str, ...]) -> str:
        """Why there is no better step."""
        reasons = []
        if binding:
            reasons.append(f"{', '.join(binding[:6])} {'are' if len(binding) > 1 else 'is'} at a bound")
        if self.failure:
            reasons.append(f"beyond, {re.split('[:;]', self.failure)[0]}")
        if not reasons:
            steep = float(np.abs(place.slopes / self.units[:, None]).max())
            flat = "no parameter changes the properties any more" if steep < 1e-4 else "every further step leads away"
            reasons.append(f"{flat}, as contacts change")
        return "; ".join(reasons)


@dataclasses.dataclass(frozen=True)
class Independence:
    """How several properties respond to parameters, and which can be moved alone.

    `matrix` [m, k]: relative changes of the `properties` for relative changes of the parameters' components, `labels`;
    `singular_values` [m] of it. `alone` [m] is the part of a property's response that no combination of the others has:
    1 where it is free, 0 where it follows from them. `directions` [m, k] are the least relative changes of the
    parameters that change one property by 1 and the others not; NaN where there is none.
    """

    properties: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray
    matrix: np.ndarray
    singular_values: np.ndarray
    alone: np.ndarray
    directions: np.ndarray

    def __str__(self) -> str:
        width = max(map(len, self.properties)) + 2
        shown = self.labels[:6]
        more = f"  … {len(self.labels)} components" if len(self.labels) > len(shown) else ""
        header = f"{'':<{width}}{'value':>12}{'alone':>8}   " + "".join(f"{label:>20}" for label in shown) + more
        rows = [header]
        for k, name in enumerate(self.properties):
            slopes = "".join(f"{s:>20.4g}" for s in self.matrix[k, : len(shown)])
            rows.append(f"{name:<{width}}{self.values[k]:>12.6g}{self.alone[k]:>8.3f}   {slopes}")
        rows.append("singular values: " + ", ".join(f"{s:.4g}" for s in self.singular_values))
        return "\n".join(rows)

    __repr__ = __str__


def independence(equilibrium: Equilibrium, properties: Iterable[str], wrt: str | Sequence[str]) -> Independence:
    """The responses of properties to parameters, and how far the properties are independent of each other.

    After Zu and Goodrich (arXiv 2412.05031): properties whose responses are linearly independent can be tuned
    separately. Changes are relative, of Poisson's ratio absolute. **Raises** what the properties raise.
    """
    names = check_properties(properties)
    unknowns = Unknowns.of(wrt, equilibrium.potential, equilibrium.system)
    equilibrium.check()
    scale = np.maximum(np.abs(np.asarray(unknowns.vector(equilibrium.potential, equilibrium.system))), 1e-3)
    values, slopes = responses(equilibrium, unknowns, names)
    units = np.where(np.array(names) == "poisson_ratio", 1.0, np.maximum(np.abs(values), 1e-300))
    matrix = slopes * scale / units[:, None]
    directions, alone = np.full(matrix.shape, np.nan), np.zeros(len(names))
    for k, row in enumerate(matrix):
        others = np.delete(matrix, k, axis=0)
        rest = row - np.linalg.pinv(others) @ (others @ row) if len(others) else row
        size = np.linalg.norm(row)
        alone[k] = np.linalg.norm(rest) / size if size > 0.0 else 0.0
        if alone[k] > 1e-6:
            directions[k] = rest / (rest @ row)
    return Independence(
        names, unknowns.labels, values, matrix, np.linalg.svd(matrix, compute_uv=False), alone, directions
    )


def responses(
    equilibrium: Equilibrium, unknowns: Unknowns, names: tuple[str, ...], also: tuple[str, ...] = ()
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "m k"]]:
    """Properties, those wanted `also` after them, and the derivatives of the former with respect to unknowns.

    **Raises** `NotRigid`, `SolveFailed`.
    """
    at_rest = equilibrium.frozen
    values = np.asarray(measured(at_rest, (*names, *also)))  # raises where there are none
    vector = unknowns.vector(at_rest.potential, at_rest.system)
    with where_positive():
        slopes = np.asarray(jax.block_until_ready(_responses(at_rest, unknowns, names, vector)))
    if not np.isfinite(slopes).all():
        if float(at_rest.energy) == 0.0:
            raise NotRigid("nothing holds the particles, as below jamming: their properties respond to nothing")
        raise SolveFailed("the responses of the properties are not finite: a contact just touches, or the solve failed")
    return values, slopes


@eqx.filter_jit
def _responses(
    equilibrium: Equilibrium, unknowns: Unknowns, names: tuple[str, ...], vector: Float[Array, " k"]
) -> Float[Array, "m k"]:
    differentiate = jax.jacrev if len(names) < vector.size else jax.jacfwd
    return differentiate(lambda theta: measured(as_function(equilibrium, unknowns, theta), names))(vector)


@eqx.filter_jit
def _motion(equilibrium: Equilibrium, unknowns: Unknowns, vector: Float[Array, " k"]) -> Float[Array, " k"]:
    """How far particles move with each unknown, root mean square."""
    response = jax.jacfwd(lambda theta: as_function(equilibrium, unknowns, theta).positions)(vector)
    return jnp.sqrt(jnp.mean(jnp.sum(response**2, axis=1), axis=0))


@eqx.filter_jit
def _moved(equilibrium: Equilibrium, unknowns: Unknowns, vector: Float[Array, " k"], change: Float[Array, " k"]) -> Any:
    """The system with positions and cell as predicted to first order after a change."""

    def at(theta: Float[Array, " k"]) -> tuple[Array, Array | None]:
        system = as_function(equilibrium, unknowns, theta).system
        return system.positions, system.box

    (positions, box), (to_positions, to_box) = jax.jvp(at, (vector,), (change,))
    sound = jnp.all(jnp.isfinite(to_positions))
    moved = equilibrium.system.replace(positions=positions + jnp.where(sound, to_positions, 0.0))
    return moved if box is None else moved.replace(box=box + jnp.where(sound, to_box, 0.0))
