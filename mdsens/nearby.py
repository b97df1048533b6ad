"""The equilibrium next to one that is known, at another value of a parameter."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import implicit
from .cholesky import where_positive
from .errors import InvalidInput, SolveFailed
from .hessian import gradient, hessian
from .neighbors import Neighbors, sized
from .parameters import with_parameter
from .potentials import PairPotential, Potential
from .relaxation import Equilibrium, Relaxation
from .system import System
from .zero_modes import known_zero_modes, rattlers

MOST_NEWTON_STEPS = 8
LONGEST_STEP = 0.1
"""Of a particle, as a fraction of the mean diameter."""


def at_value(equilibrium: Equilibrium, wrt: str, value: Array, guess: Float[Array, "n d"] | None = None) -> Equilibrium:
    """The equilibrium at another value of a parameter, from positions nearby.

    Newton's method, which is exact to second order while no contact changes, and then a relaxation, which
    finds little left to do, or does it. **Raises** what `Relaxation` raises.
    """
    check_fixed_cell(equilibrium)
    potential, system = with_parameter(wrt, value, equilibrium.potential, equilibrium.system)
    if guess is not None:
        system = system.replace(positions=guess)
    relax = Relaxation(
        tolerance=float(equilibrium.tolerance),
        linear_solver=equilibrium.rule.solver,
        neighbors=equilibrium.kind,
        one_sided=True,
    )
    return relax(potential, _newton(equilibrium, potential, system))


def check_fixed_cell(equilibrium: Equilibrium) -> None:
    """**Raises** `InvalidInput` at constant pressure."""
    if equilibrium.pressure is not None:
        raise InvalidInput(
            "at constant pressure contact changes are not followed: relax in a fixed cell (Relaxation(pressure=None))"
        )


def _newton(equilibrium: Equilibrium, potential: Potential, system: System) -> System:
    """Down to the tolerance by Newton's method, or as far as every step makes the forces smaller."""
    size = float(jnp.mean(system.diameters))
    best, force = system, np.inf
    for _ in range(MOST_NEWTON_STEPS):
        neighbors = sized(equilibrium.kind, potential, system)
        try:
            with where_positive():
                step, largest = jax.block_until_ready(
                    _newton_step(potential, system, neighbors, equilibrium.rule.solver)
                )
        except SolveFailed:
            break
        if not float(largest) < force:
            break
        best, force = system, float(largest)
        if not (force > float(equilibrium.tolerance) and float(jnp.max(jnp.abs(step))) < LONGEST_STEP * size):
            break
        system = system.replace(positions=system.positions - step)
    return best


@eqx.filter_jit
def _newton_step(
    potential: Potential, system: System, neighbors: Neighbors, solver: Any
) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    loose = rattlers(potential, system, neighbors)
    backbone = neighbors.only(~loose)
    slope = gradient(potential, system, neighbors)
    modes = known_zero_modes(potential, system, backbone, loose)
    step = implicit.solve(hessian(potential, system, backbone), modes, slope, solver)
    return step, jnp.max(jnp.abs(slope))


Contact = tuple[int, ...]
"""A pair (i, j); in a narrow cell, where it may touch in several images, the k-th such contact is (i, j, k)."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The contacts of an equilibrium: pairs that interact, rattlers left out; gaps of all listed pairs."""

    contacts: frozenset[Contact]
    rattlers: np.ndarray
    i: np.ndarray
    j: np.ndarray
    gap: np.ndarray

    def gaps_of(self, contacts: list[Contact]) -> np.ndarray:
        """The gap of each, negative in contact, NaN for one that is not listed."""

        def gap(i: int, j: int, k: int = 0) -> float:
            gaps = np.sort(self.gap[(self.i == i) & (self.j == j)])
            return float(gaps[k]) if k < len(gaps) else np.nan

        return np.array([gap(*contact) for contact in contacts])


def network(equilibrium: Equilibrium) -> Network:
    """**Raises** `InvalidInput` for a potential that is no sum over pairs."""
    potential, system, neighbors = equilibrium.potential, equilibrium.system, equilibrium.neighbors
    if not isinstance(potential, PairPotential):
        raise InvalidInput(f"{type(potential).__name__} is no sum over pairs: it has no contacts")
    i, j, gap, touching, listed, loose = (np.asarray(a) for a in _gaps(potential, system, neighbors))
    times: dict[Contact, int] = {}
    contacts: set[Contact] = set()
    for pair in zip(i[touching].tolist(), j[touching].tolist(), strict=True):
        times[pair] = times.get(pair, 0) + 1
        contacts.add(pair if times[pair] == 1 else (*pair, times[pair] - 1))
    return Network(frozenset(contacts), loose, i[listed], j[listed], gap[listed])


@eqx.filter_jit
def _gaps(potential: PairPotential, system: System, neighbors: Neighbors) -> tuple[Array, ...]:
    loose = rattlers(potential, system, neighbors)
    pairs = potential.pairs(system, neighbors.only(~loose))
    return pairs.i, pairs.j, pairs.gap, pairs.interacts, neighbors.valid, loose
