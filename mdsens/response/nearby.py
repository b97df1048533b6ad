"""Equilibria close to a known one, at other values of a parameter, and their contact networks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ..errors import InvalidInput, SolveFailed
from ..landscape.configuration import Configuration
from ..landscape.contacts import Gaps, contact_gaps
from ..linear_solvers.cholesky import explain_missing_factors
from ..linearization import by_attempts, linearize, newton_step
from ..parameters import with_parameter
from ..potentials import Potential
from ..relaxation.equilibrium import Equilibrium
from ..relaxation.relaxation import Relaxation
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from ..system import System

MOST_NEWTON_STEPS = 8
"""Before a relaxation does the rest."""

LONGEST_STEP = 0.1
"""Of a particle in a Newton step, as a fraction of a typical length."""


def at_value(
    equilibrium: Equilibrium, wrt: str, value: ArrayLike, guess: Float[np.ndarray, "n d"] | None = None
) -> Equilibrium:
    """The equilibrium at another value of a parameter, from positions close to it.

    Newton's method, exact to second order while no contact changes, is followed by a relaxation.

    **Raises** what `Relaxation` raises.
    """
    check_fixed_cell(equilibrium)
    potential, system = with_parameter(wrt, as_array(value), equilibrium.potential, equilibrium.system)
    if guess is not None:
        system = system.replace(positions=system.with_relaxed(as_array(guess)))
    relax = Relaxation(
        tolerance=float(equilibrium.tolerance),
        linear_solver=equilibrium.rule.solver,
        neighbors=equilibrium.pair_finder,
        one_sided=True,
    )
    return relax(potential, _by_newton(equilibrium, potential, system))


def check_fixed_cell(equilibrium: Equilibrium) -> None:
    """**Raises** `InvalidInput` at constant pressure."""
    if equilibrium.pressure is not None:
        raise InvalidInput(
            "at constant pressure contact changes are not followed: relax in a fixed cell (Relaxation(pressure=None))"
        )


def _by_newton(equilibrium: Equilibrium, potential: Potential, system: System) -> System:
    """Newton's method down to the tolerance, or as long as every step makes the forces smaller.

    It uses the pairs that are in contact or nearly so at the equilibrium, so that the linearization there and here are
    one compiled program. The relaxation that follows counts all pairs.
    """
    best, force = system, np.inf
    for _ in range(MOST_NEWTON_STEPS):
        here = Configuration(potential, system, equilibrium.neighbors)
        try:
            with explain_missing_factors():
                linearization = linearize(here, equilibrium.rule.solver)
                found, _ = by_attempts(newton_step, linearization.attempts())
        except SolveFailed:
            break
        if not float(found.max_force) < force:
            break
        best, force = system, float(found.max_force)
        if not (force > float(equilibrium.tolerance) and float(found.relative_length) < LONGEST_STEP):
            break
        system = system.replace(positions=np.asarray(system.positions) + np.asarray(found.step))
    return best


Contact = tuple[int, ...]
"""A pair (i, j); in a narrow cell, where it may touch in several images, or with several cutoffs, the k-th such contact
is (i, j, k). A negative j is a wall: -1 the first wall of the potential, -2 the second.
"""


def name_contact(contact: Contact) -> str:
    """`3-7`, or `3-wall`."""
    i, j = contact[:2]
    return f"{i}-{j}" if j >= 0 else f"{i}-wall" + (f" {-j}" if j < -1 else "")


@dataclasses.dataclass(frozen=True)
class Network:
    """The contacts of an equilibrium, without rattlers and between fixed particles; the gaps of all listed pairs.

    A smooth potential, of which no stiffness jumps at a cutoff, has none.
    """

    contacts: frozenset[Contact]
    rattlers: np.ndarray
    i: np.ndarray
    j: np.ndarray
    gap: np.ndarray

    def gaps_of(self, contacts: list[Contact]) -> np.ndarray:
        """The gap of each contact, negative where it touches, NaN where it is not listed."""

        def gap(i: int, j: int, k: int = 0) -> float:
            gaps = np.sort(self.gap[(self.i == i) & (self.j == j)])
            return float(gaps[k]) if k < len(gaps) else np.nan

        return np.array([gap(*contact) for contact in contacts])


def network(equilibrium: Equilibrium) -> Network:
    """The contact network, empty without contacts. **Raises** `InvalidInput` where not all of them are known."""
    potential, system, neighbors = equilibrium.potential, equilibrium.system, equilibrium.all_neighbors
    potential.require_known_contacts()
    rattlers = equilibrium.linearization.contacts.rattlers
    gaps, listed = jax.tree.map(np.asarray, _gaps(Configuration(potential, system, neighbors), rattlers))
    times: dict[Contact, int] = {}
    contacts: set[Contact] = set()
    touching = gaps.touching & gaps.changes
    for pair in zip(gaps.i[touching].tolist(), gaps.j[touching].tolist(), strict=True):
        times[pair] = times.get(pair, 0) + 1
        contacts.add(pair if times[pair] == 1 else (*pair, times[pair] - 1))
    of_pairs = (each[listed] for each in (gaps.i, gaps.j, gaps.gap))
    return Network(frozenset(contacts), np.asarray(rattlers), *of_pairs)


@compile_once
def _gaps(configuration: Configuration, rattlers: Bool[Array, " n"]) -> tuple[Gaps, Bool[Array, " c"]]:
    """All gaps, and whether they are not those of empty slots of the list."""
    gaps, pairs = contact_gaps(configuration.without(rattlers), rattlers), configuration.pairs
    listed = jnp.ones(gaps.gap.shape, bool)
    if pairs is not None:
        listed = listed.at[: pairs.listed.size].set(pairs.listed)
    return gaps, listed
