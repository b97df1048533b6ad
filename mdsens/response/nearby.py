"""Equilibria close to a known one, at other values of a parameter, and their contact networks."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput, SolveFailed
from ..landscape.configuration import Configuration
from ..landscape.contacts import can_touch, find_rattlers, of_backbone
from ..linear_solvers.cholesky import explain_missing_factors
from ..linearization import Linearization, linearize
from ..parameters import with_parameter
from ..potentials import Potential
from ..relaxation.equilibrium import Equilibrium
from ..relaxation.relaxation import Relaxation
from ..runtime.compiled import compile_once
from ..system import System

MOST_NEWTON_STEPS = 8
"""Before a relaxation does the rest."""

LONGEST_STEP = 0.1
"""Of a particle in a Newton step, as a fraction of the mean diameter."""


def at_value(equilibrium: Equilibrium, wrt: str, value: Array, guess: Float[Array, "n d"] | None = None) -> Equilibrium:
    """The equilibrium at another value of a parameter, from positions close to it.

    Newton's method, exact to second order while no contact changes, is followed by a relaxation.

    **Raises** what `Relaxation` raises.
    """
    check_fixed_cell(equilibrium)
    potential, system = with_parameter(wrt, value, equilibrium.potential, equilibrium.system)
    if guess is not None:
        system = system.replace(positions=system.with_relaxed(guess))
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
    size = float(potential.length(system))
    best, force = system, np.inf
    for _ in range(MOST_NEWTON_STEPS):
        here = Configuration(potential, system, equilibrium.neighbors)
        try:
            with explain_missing_factors():
                linearization = linearize(here, equilibrium.rule.solver)
                step, largest = jax.block_until_ready(_newton_step(linearization))
        except SolveFailed:
            break
        if not float(largest) < force:
            break
        best, force = system, float(largest)
        if not (force > float(equilibrium.tolerance) and np.abs(np.asarray(step)).max() < LONGEST_STEP * size):
            break
        system = system.replace(positions=system.positions - step)
    return best


@compile_once
def _newton_step(linearization: Linearization) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    slope = linearization.configuration.gradient()
    return linearization.solve(slope), abs(slope).max()


Contact = tuple[int, ...]
"""A pair (i, j); in a narrow cell, where it may touch in several images, the k-th such contact is (i, j, k)."""


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
    """The contact network. **Raises** `InvalidInput` for a potential that is no sum over pairs."""
    potential, system, neighbors = equilibrium.potential, equilibrium.system, equilibrium.all_neighbors
    potential.require_contact_changes()
    gap, touching, rattlers = (np.asarray(a) for a in _gaps(Configuration(potential, system, neighbors)))
    i, j, listed = (np.asarray(a) for a in (neighbors.i, neighbors.j, neighbors.valid))
    times: dict[Contact, int] = {}
    contacts: set[Contact] = set()
    for pair in zip(i[touching].tolist(), j[touching].tolist(), strict=True):
        times[pair] = times.get(pair, 0) + 1
        contacts.add(pair if times[pair] == 1 else (*pair, times[pair] - 1))
    return Network(frozenset(contacts), rattlers, i[listed], j[listed], gap[listed])


@compile_once
def _gaps(configuration: Configuration) -> tuple[Array, ...]:
    rattlers = find_rattlers(configuration)
    pairs = configuration.without(rattlers).pairs
    assert pairs is not None
    touching = pairs.interacts & of_backbone(configuration, pairs, rattlers) & can_touch(configuration, pairs)
    return pairs.gap, touching, rattlers
