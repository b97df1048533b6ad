"""The range of validity of a linear response: the first contact that opens or closes as a parameter moves."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..errors import MdsensError, Status
from ..geometry import PairList
from ..landscape.configuration import Configuration
from ..landscape.contacts import Gaps, contact_gaps
from ..linear_solvers.cholesky import explain_missing_factors
from ..linear_solvers.solve import is_direct
from ..linearization import Linearization, by_attempts
from ..parameters import check_name, direction_of, parameter_value, with_parameter
from ..relaxation.equilibrium import Equilibrium
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from .nearby import at_value, check_fixed_cell, name_contact, network
from .sensitivity import moved_by


@dataclasses.dataclass(frozen=True)
class ContactChange:
    """A contact that is predicted to open or to close: the pair, and the step from here, in units of the direction.

    The second of the pair is negative for a wall: -1 is the first wall of the potential.
    """

    pair: tuple[int, int]
    opens: bool
    step: float

    def __str__(self) -> str:
        return f"{name_contact(self.pair)} {'opens' if self.opens else 'closes'}"


@dataclasses.dataclass(frozen=True)
class Validity:
    """The interval of a parameter in which the contact network is predicted to stay as it is.

    The parameter is `value` + s `direction`; `below` and `above` are the first changes on either side
    (None: none in sight), and `lower` < 0 < `upper` the steps s up to which the network stays.
    Where `below` or `above` is None the interval ends where the neighbor list can no longer tell.
    """

    wrt: str
    value: np.ndarray
    direction: np.ndarray
    below: ContactChange | None
    above: ContactChange | None
    lower: float
    upper: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON; None stands for no end in sight."""

        def end(step: float, change: ContactChange | None) -> dict[str, Any]:
            return {
                "step": step if np.isfinite(step) else None,
                "pair": None if change is None else list(change.pair),
                "opens": None if change is None else change.opens,
            }

        return {"below": end(self.lower, self.below), "above": end(self.upper, self.above)}

    @property
    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The parameter at the lower and at the upper end."""
        return self.value + self.lower * self.direction, self.value + self.upper * self.direction

    def __str__(self) -> str:
        ends = [self._end(step, change) for step, change in ((self.lower, self.below), (self.upper, self.above))]
        what = "" if self.value.ndim == 0 else f", of {self._what_moves}"
        return f"predicted: no contact changes for {self.wrt} from {ends[0]} to {ends[1]}{what}"

    __repr__ = __str__

    def _end(self, step: float, change: ContactChange | None) -> str:
        if abs(step) > 1e6:
            return "anywhere" if step < 0 else "anywhere above"
        where = f"{float(self.value + step * self.direction):.8g}" if self.value.ndim == 0 else f"{step:+.3g}"
        return where if change is None else f"{where} ({change})"

    @property
    def _what_moves(self) -> str:
        if self.wrt == "box" and np.array_equal(self.value, self.direction):
            return "its relative dilation"
        return "all its components alike" if np.all(self.direction == 1.0) else "the direction given"


FARTHEST = 1e4
"""In values of a parameter, unless it is zero: a change predicted farther away is due to rounding, or never reached."""

MOST_PREDICTIONS = 30
"""Of one change, each from a point nearer to it. Those of a change that is never reached, such as a wall that lets go
as its stiffness grows without end, double in distance: that many lead beyond `FARTHEST`.
"""


def validity(equilibrium: Equilibrium, wrt: str, direction: ArrayLike | None = None) -> Validity:
    """How far `wrt` may move before the first contact opens or closes.

    Predicted to first order, and again from points on the way there, until that changes it by less than 1 %.

    Contacts are the pairs within their cutoff, without rattlers, since these bear no force. Where the stiffness does
    not jump at the cutoff and particles do not interact by contact, as with a smooth switch, nothing opens or closes:
    the interval has no ends, and how far the response holds is a matter of its curvature
    (`mdsens.uncertainty.predict` estimates the error).

    **Arguments:**

    - `wrt`: as in `sensitivity`.
    - `direction` ([*shape of the parameter]): by default all components grow alike, and the box dilates isotropically.

    **Raises:**

    - `NotRigid` where no contacts constrain the particles; `SolveFailed` where the response cannot be trusted.
    - `InvalidInput` for a potential without contacts, or at constant pressure.
    """
    potential, system, neighbors = equilibrium.potential, equilibrium.system, equilibrium.all_neighbors
    check_name(wrt, potential, system)
    equilibrium.check()
    check_fixed_cell(equilibrium)
    potential.require_contact_changes()
    value = np.asarray(parameter_value(wrt, potential, system))
    along = direction_of(wrt, value, direction)
    rates = contact_rates(equilibrium, wrt, along)
    far = FARTHEST * (float(np.max(np.abs(value)) / np.max(np.abs(along))) or np.inf)
    below, above = (_predicted(equilibrium, wrt, along, rates, sign, far) for sign in (-1, 1))
    limit = float(neighbors.skin) / max(2.0 * rates.speed + rates.fastest, 1e-300)
    limit = limit if potential.contact or len(rates.gap) else np.inf
    below, above = (change if change and abs(change.step) <= limit else None for change in (below, above))
    return Validity(
        wrt=wrt,
        value=value,
        direction=along,
        below=below,
        above=above,
        lower=below.step if below else -limit,
        upper=above.step if above else limit,
    )


def _predicted(
    equilibrium: Equilibrium, wrt: str, along: np.ndarray, rates: ContactRates, sign: int, far: float
) -> ContactChange | None:
    """The first change: predicted to first order, and again from points on the way where nothing has changed yet.

    None beyond `far`: the response is rounding then, as that to ε of a packing, or the change is never reached.
    """
    change = first_change(rates, sign)
    if change is None or abs(change.step) > far:
        return None
    value = np.asarray(parameter_value(wrt, equilibrium.potential, equilibrium.system))
    here, done, share, contacts = equilibrium, 0.0, 0.6, network(equilibrium).contacts
    for _ in range(MOST_PREDICTIONS):
        step = share * (change.step - done)
        guess = np.asarray(here.positions) + step * rates.response
        try:
            there = at_value(here, wrt, value + (done + step) * along, guess)
            if network(there).contacts != contacts:
                share *= 0.5
                continue
            ahead = contact_rates(there, wrt, along)
        except MdsensError:  # no minimum there: something changes before
            share *= 0.5
            continue
        here, done, rates, share = there, done + step, ahead, 0.8
        again = first_change(rates, sign)
        if again is None or abs(done + again.step) > far:
            return None
        settled = abs(again.step + done - change.step) < 0.01 * abs(change.step)
        change = dataclasses.replace(again, step=done + again.step)
        if settled:
            break
    return change


@dataclasses.dataclass(frozen=True)
class ContactRates:
    """Along a direction of a parameter: the response [n, d]; of every pair that can touch the gap and its rate."""

    response: np.ndarray
    i: np.ndarray
    j: np.ndarray
    gap: np.ndarray
    rate: np.ndarray
    touching: np.ndarray

    @property
    def speed(self) -> float:
        """That of the fastest particle."""
        return float(np.sqrt(np.max(np.sum(self.response**2, axis=-1))))

    @property
    def fastest(self) -> float:
        """The rate of the gap that changes fastest."""
        return float(np.max(np.abs(self.rate), initial=0.0))


def contact_rates(equilibrium: Equilibrium, wrt: str, direction: ArrayLike) -> ContactRates:
    """Response, gaps and their rates along a direction of a parameter.

    **Raises** what differentiating the positions raises, `SolveFailed` included, but not for indeterminate contacts,
    which count as found.
    """
    linearization = equilibrium.linearization
    if equilibrium.rule.refuse:
        linearization.check(one_sided=True)
    one_sided = dataclasses.replace(equilibrium.frozen, rule=dataclasses.replace(equilibrium.rule, one_sided=True))
    neighbors = equilibrium.all_neighbors
    with explain_missing_factors():
        rates = _rates.where(not is_direct(linearization.solver))
        compute = functools.partial(rates, wrt, one_sided, neighbors, as_array(direction))
        found, _ = by_attempts(compute, linearization.attempts())
    response, gaps, rate = jax.tree.map(np.asarray, found)
    if not np.isfinite(response).all():
        raise Status.SOLVE_FAILED.raised(what=f"the response to {wrt}")
    of_contacts = (gaps.i, gaps.j, gaps.gap, rate, gaps.touching)
    return ContactRates(response, *(each[gaps.changes] for each in of_contacts))


@compile_once
def _rates(
    wrt: str, equilibrium: Equilibrium, neighbors: PairList, direction: Array, linearization: Linearization
) -> tuple[Array, Gaps, Array]:
    rattlers = linearization.contacts.rattlers
    backbone = neighbors.only(~rattlers)
    potential, system = equilibrium.potential, equilibrium.system
    value = parameter_value(wrt, potential, system)
    along = direction.astype(value.dtype)

    def gaps(value: Array, x: Float[Array, "n d"]) -> tuple[Array, Gaps]:
        other: Any
        other, moved = with_parameter(wrt, value, potential, system)
        found = contact_gaps(Configuration(other, moved.replace(positions=x), backbone), rattlers)
        return found.gap, found

    response = moved_by(linearization, equilibrium, wrt, along)[0]
    _, rate, found = jax.jvp(gaps, (value, system.positions), (along, response), has_aux=True)
    return response, found, rate


def first_change(rates: ContactRates, sign: int) -> ContactChange | None:
    """The first change for steps of that sign, to first order."""
    opens = rates.touching & (sign * rates.rate > 0.0)
    closes = ~rates.touching & (sign * rates.rate < 0.0)
    steps = np.full(rates.gap.shape, np.inf)
    np.divide(np.abs(rates.gap), np.abs(rates.rate), out=steps, where=opens | closes)
    if not np.isfinite(steps).any():
        return None
    k = int(np.argmin(steps))
    return ContactChange((int(rates.i[k]), int(rates.j[k])), bool(opens[k]), sign * float(steps[k]))
