"""An equilibrium followed as a parameter moves a long way, through every contact that opens or closes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike

from ..errors import InvalidInput, MdsensError, NotDifferentiable, Status
from ..parameters import check_name, parameter_value
from ..relaxation.equilibrium import Equilibrium
from ..runtime.progress import with_progress
from .nearby import Contact, Network, at_value, check_fixed_cell, name_contact, network
from .validity import ContactRates, contact_rates, first_change

MOST_POINTS = 10_000
"""Equilibria on one path."""

LOCATED_WITHIN = 1e-7
"""How closely a change of contacts is located, as a gap in mean diameters."""

FRACTION_LOCATED = 1e-6
"""How closely it is located at least, as a fraction of the way, where hardly a contact responds."""

MOST_DOUBLINGS = 12
"""Of the distance beyond a change, until the contacts of the particles that take part bear more than the residual
forces: 1e-7 diameters of overlap are enough where forces grow linearly; Hertzian spheres, whose forces grow as overlaps
to the power 3/2, need some 1e-6 to bear thirty times 1e-10.
"""

REARRANGEMENT = 1e-3
"""How far a particle may move across a change, in mean diameters, before it is a rearrangement."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A change of the contact network at `fraction` of the way.

    `opened` and `closed` are the pairs; `jump` is how far the farthest particle moved across it, a length. A
    `rearrangement` is a jump to another minimum: there the path is not continuous.
    """

    fraction: float
    opened: tuple[Contact, ...]
    closed: tuple[Contact, ...]
    jump: float
    rearrangement: bool

    def __str__(self) -> str:
        words = [
            f"{name_contact(c)} {verb}"
            for verb, all_ in (("opens", self.opened), ("closes", self.closed))
            for c in all_
        ]
        what = ", ".join(words[:6]) + (" …" if len(words) > 6 else "")
        return f"rearrangement ({len(words)} contacts change)" if self.rearrangement else what


@dataclasses.dataclass(frozen=True)
class Path:
    """The equilibria on the way of a parameter from one value to another, and what happened between.

    `fractions` [k] of the way, from 0 to 1, the value of the parameter at each `values` [k, *shape],
    `positions` [k, n, d], `energies` [k], and `responses` [k, n, d], the derivative of the positions along
    the whole way; at an event it is that of the far side. `last` is the equilibrium at the end. `ended` says why
    the path ends before its goal, None where it does not.
    """

    wrt: str
    fractions: np.ndarray
    values: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    responses: np.ndarray
    events: tuple[Event, ...]
    last: Equilibrium
    ended: str | None

    def __str__(self) -> str:
        jumps = sum(event.rearrangement for event in self.events)
        lines = [
            f"{self.wrt}: {len(self.fractions)} equilibria, {len(self.events)} contact changes, "
            f"{jumps} of them rearrangements"
        ]
        lines += [f"  at {self._value_at(event.fraction)}: {event}" for event in self.events[:20]]
        lines += [f"  … and {len(self.events) - 20} more"] if len(self.events) > 20 else []
        lines += [f"  ended at {self._value_at(float(self.fractions[-1]))}: {self.ended}"] if self.ended else []
        return "\n".join(lines)

    __repr__ = __str__

    def equilibrium(self, k: int) -> Equilibrium:
        """The k-th equilibrium of the path, relaxed from where it was found. **Raises** what `Relaxation` raises."""
        return at_value(self.last, self.wrt, self.values[k], self.positions[k])

    def value_at(self, fraction: float) -> np.ndarray:
        """The parameter at a fraction of the way."""
        first, span = self.values[0], self.fractions[-1] - self.fractions[0]
        return first + (self.values[-1] - first) * (fraction / span if span > 0 else 0.0)

    def _value_at(self, fraction: float) -> str:
        value = self.value_at(fraction)
        return f"{float(value):.8g}" if value.ndim == 0 else f"{100 * fraction:.6g} % of the way"


@with_progress("following", lambda s, events: (s, f"{events} contact changes"))
def follow(
    equilibrium: Equilibrium,
    wrt: str,
    to: ArrayLike,
    points: int = 10,
    progress: Callable[[float, int], None] | None = None,
) -> Path:
    """Follows an equilibrium while `wrt` goes in a straight line to the value `to`.

    Each step predicts the positions with the response, and the first contact that opens or closes with it (`validity`);
    it corrects them by Newton's method and relaxation, locates the change between two equilibria on either side of it,
    and continues beyond. Where no contact changes, as with smooth potentials, a step is halved until the positions at
    its ends agree with the responses there; where they never do, the particles have rearranged.

    **Arguments:**

    - `wrt`: as in `sensitivity`.
    - `to`: a value of its shape.
    - `points` (int): the least number of equilibria recorded, evenly spaced, besides those at the events.
    - `progress`: called as `progress(fraction, events)`.

    **Returns** the path; where no contacts constrain the particles any more, or no minimum is found, it ends early with
    the reason.

    **Raises** what `sensitivity` raises where there is no response at the start.
    """
    potential, system = equilibrium.potential, equilibrium.system
    check_name(wrt, potential, system)
    equilibrium.check()
    check_fixed_cell(equilibrium)
    potential.require_known_contacts()
    start = np.asarray(parameter_value(wrt, potential, system))
    goal = np.asarray(to, start.dtype)
    if goal.shape != start.shape or not np.isfinite(goal).all():
        raise InvalidInput(f"the goal for {wrt} must be finite and of shape {list(start.shape)}, as its value is")
    size = float(potential.length(system))
    return _Follower(wrt, start, goal - start, max(1, points), size, progress).run(equilibrium)


@dataclasses.dataclass(frozen=True)
class _Point:
    """An equilibrium at a fraction s of the way."""

    s: float
    rest: Equilibrium
    network: Network


@dataclasses.dataclass
class _Follower:
    wrt: str
    value: np.ndarray
    way: np.ndarray
    points: int
    size: float
    progress: Callable[[float, int], None] | None

    def run(self, start: Equilibrium) -> Path:
        here, ended = _Point(0.0, start, network(start)), None
        rates = contact_rates(start, self.wrt, self.way)
        visited = [(here, rates.response)]
        events: list[Event] = []
        while here.s < 1.0 and len(visited) < MOST_POINTS:
            try:
                there = self._at(here, self._target(here.s, rates), rates.response)
                if there.network.contacts != here.network.contacts:
                    here, there = self._locate(here, there, rates)
                    there, ahead = self._resolved(here, there, rates)
                    events.append(self._event(here, there))
                else:
                    before, (there, ahead) = self._up_to_a_jump(here, there, rates)
                    if before[0] is not here:
                        here, rates = before
                        visited.append((here, rates.response))
                    if self._jumps(here, there, rates, ahead):
                        events.append(self._event(here, there))
            except MdsensError as error:
                ended = str(error)
                break
            here, rates = there, ahead
            visited.append((here, rates.response))
            if self.progress is not None:
                self.progress(here.s, len(events))
        if visited[-1][0].s < 1.0 and ended is None:
            ended = f"{MOST_POINTS} equilibria are enough"
        return self._path(visited, events, ended)

    def _target(self, s: float, rates: ContactRates) -> float:
        """The next point to record, or just beyond the first change of contacts that is predicted."""
        target = min(1.0, (math.floor(s * self.points + 1e-9) + 1) / self.points)
        change = first_change(rates, 1)
        if change is None:
            return target
        return min(target, s + change.step + self._near(rates.fastest))

    def _near(self, rate: float) -> float:
        """The fraction of the way within which a change is located, where lengths change at a rate."""
        return min(FRACTION_LOCATED, LOCATED_WITHIN * self.size / max(rate, 1e-300))

    def _at(self, here: _Point, target: float, response: np.ndarray) -> _Point:
        """The equilibrium at a fraction of the way, predicted from here."""
        guess = np.asarray(here.rest.positions) + (target - here.s) * response
        rest = at_value(here.rest, self.wrt, self.value + target * self.way, guess)
        return _Point(target, rest, network(rest))

    def _locate(self, low: _Point, high: _Point, rates: ContactRates) -> tuple[_Point, _Point]:
        """Two equilibria close to each other, on either side of the first change between them."""
        contacts, near = low.network.contacts, self._near(rates.fastest)
        while high.s - low.s > max(near, 1e-15):
            width = high.s - low.s
            spread = min(max(0.02 * width, 0.4 * near), 0.45 * width)
            middle = min(max(_crossing(low, high), low.s + spread), high.s - spread)
            for trial in (middle - spread, middle + spread):
                if low.s < trial < high.s:
                    there = self._at(low, trial, rates.response)
                    low, high = (there, high) if there.network.contacts == contacts else (low, there)
        return low, high

    def _resolved(self, low: _Point, high: _Point, rates: ContactRates) -> tuple[_Point, ContactRates]:
        """The equilibrium beyond a change, or a little farther, where its contacts bear more than the residual forces.

        **Raises** what `contact_rates` does, where there is none.
        """
        width = high.s - low.s
        for _ in range(MOST_DOUBLINGS):
            try:
                return high, contact_rates(high.rest, self.wrt, self.way)
            except NotDifferentiable as error:
                if error.status is not Status.UNRESOLVED or high.s >= 1.0:
                    raise
            width *= 2.0
            high = self._at(low, min(1.0, low.s + width), rates.response)
        return high, contact_rates(high.rest, self.wrt, self.way)

    def _up_to_a_jump(
        self, low: _Point, high: _Point, rates: ContactRates
    ) -> tuple[tuple[_Point, ContactRates], tuple[_Point, ContactRates]]:
        """Two equilibria of one network between which the positions go as the responses at both say.

        Where they do not however close these are, the particles have jumped to another minimum between them.
        """
        ahead = contact_rates(high.rest, self.wrt, self.way)
        near = self._near(rates.speed)
        while self._jumps(low, high, rates, ahead) and high.s - low.s > max(near, 1e-15):
            middle = self._at(low, 0.5 * (low.s + high.s), rates.response)
            between = contact_rates(middle.rest, self.wrt, self.way)
            if self._jumps(low, middle, rates, between):
                high, ahead = middle, between
            else:
                low, rates = middle, between
        return (low, rates), (high, ahead)

    def _jumps(self, here: _Point, there: _Point, rates: ContactRates, ahead: ContactRates) -> bool:
        """Whether a particle has moved otherwise than the responses at both ends say, by the trapezoidal rule."""
        moved = np.asarray(there.rest.positions) - np.asarray(here.rest.positions)
        off = np.linalg.norm(moved - 0.5 * (there.s - here.s) * (rates.response + ahead.response), axis=1)
        off[here.network.rattlers | there.network.rattlers] = 0.0
        return bool(off.max() > REARRANGEMENT * self.size)

    def _event(self, before: _Point, beyond: _Point) -> Event:
        one, two = before.network.contacts, beyond.network.contacts
        moved = np.asarray(beyond.rest.positions) - np.asarray(before.rest.positions)
        move = np.linalg.norm(moved, axis=1)
        move[before.network.rattlers | beyond.network.rattlers] = 0.0
        opened, closed = tuple(sorted(one - two)), tuple(sorted(two - one))
        return Event(beyond.s, opened, closed, float(move.max()), bool(move.max() > REARRANGEMENT * self.size))

    def _path(self, visited: list[tuple[_Point, np.ndarray]], events: list[Event], ended: str | None) -> Path:
        fractions = np.array([point.s for point, _ in visited])
        return Path(
            wrt=self.wrt,
            fractions=fractions,
            values=self.value + np.multiply.outer(fractions, self.way),
            positions=np.stack([np.asarray(point.rest.positions) for point, _ in visited]),
            energies=np.array([float(point.rest.energy) for point, _ in visited]),
            responses=np.stack([response for _, response in visited]),
            events=tuple(events),
            last=visited[-1][0].rest,
            ended=ended,
        )


def _crossing(low: _Point, high: _Point) -> float:
    """Where the first of the contacts that differ crosses zero overlap, on a straight line between the two."""
    changed = sorted(low.network.contacts ^ high.network.contacts)
    before, after = (point.network.gaps_of(changed) for point in (low, high))
    crosses = before * after < 0.0
    if not crosses.any():
        return 0.5 * (low.s + high.s)
    share = before[crosses] / (before[crosses] - after[crosses])
    return low.s + float(share.min()) * (high.s - low.s)
