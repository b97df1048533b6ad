"""Pruning of a network: bonds removed one after the other, by what each contributes to a property."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..potentials import Bonds
from ..properties import check_properties, measured
from ..relaxation.relaxation import Relaxation
from ..runtime.progress import with_progress
from ..system import System

Choice = Literal["largest", "smallest"]


@dataclasses.dataclass(frozen=True)
class Pruning:
    """A pruned network.

    - `bonds`: all bonds, those removed with the stiffness zero; `kept` (bool [m]).
    - `removed` (int [k]): the bonds removed, in order.
    - `history`: the property before each round of removals, and at the end, where so many bonds were `left`.
    """

    bonds: Bonds
    kept: np.ndarray
    removed: np.ndarray
    history: np.ndarray
    left: np.ndarray


LEAST_LEFT = 1e-9
"""Of a property, relative to its value at first: less is rounding, whose slopes choose bonds by noise."""


@with_progress("pruning", lambda done, all: (done / all, f"{done} of {all} bonds removed"))
def prune(
    bonds: Bonds,
    system: System,
    property: str,
    down_to: int,
    remove: Choice = "largest",
    at_once: int = 1,
    relax: Relaxation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pruning:
    """Remove bonds one after the other: each time the one whose stiffness contributes most, or least, to a property.

    The contribution of a bond is k ∂P/∂k, with its sign, of all bonds at once by one gradient. A bond stays where one
    of its ends would be left with no more than d bonds.

    **Arguments:**

    - `bonds`, `system`: the network, at rest, or close to it.
    - `property`: its name in `mdsens.properties.REGISTRY`, such as `bulk_modulus`.
    - `down_to`: the number of bonds to keep.
    - `remove`: whether to remove the `largest` or the `smallest` contribution.
    - `at_once`: how many bonds to remove for each gradient: more are faster, and further from the reference.
    - `relax`: how to relax; `Relaxation()` if None.

    **Returns:**

    - A `Pruning`.

    **Raises** `InvalidInput` for an unknown property, where no more bonds may go, and where nothing is left of the
    property, as below the isostatic number of bonds.

    **Reference:**

    - Goodrich, Liu and Nagel, Phys. Rev. Lett. 114, 225501 (2015).
    """
    (name,) = check_properties(property)
    relax, pairs, m = relax or Relaxation(), np.asarray(bonds.pairs), len(bonds.pairs)
    if not 0 < down_to <= m:
        raise InvalidInput(f"down_to is a number of bonds from 1 to {m}, not {down_to}")
    if at_once < 1:
        raise InvalidInput(f"at_once is a number of bonds, 1 or more, not {at_once}")
    if remove not in ("largest", "smallest"):
        raise InvalidInput(f"remove is 'largest' or 'smallest', not {remove!r}")
    stiffness = jnp.broadcast_to(bonds.stiffness, (m,)).astype(system.positions.dtype)
    kept = np.asarray(stiffness) > 0.0
    removed: list[int] = []
    history: list[float] = []
    left: list[int] = []
    total = int(kept.sum()) - down_to
    if total < 0:
        raise InvalidInput(f"down_to is {down_to}, and only {kept.sum()} of the bonds have a stiffness")
    while True:
        value, slope = _value_and_slope(stiffness, bonds, system, relax, name)
        history.append(float(value))
        left.append(int(kept.sum()))
        if len(removed) >= total:
            break
        if not np.isfinite(history[-1]) or abs(history[-1]) <= LEAST_LEFT * abs(history[0]):
            raise InvalidInput(
                f"without {len(removed)} of the bonds {name} is {history[-1]:.3g}, rounding beside {history[0]:.3g} at "
                f"first: nothing tells which bond to remove next. Keep more bonds (down_to={int(kept.sum())})"
            )
        share = np.asarray(stiffness * slope) * (-1.0 if remove == "largest" else 1.0)
        gone = _next_to_go(share, pairs, kept, system, min(at_once, total - len(removed)))
        kept[gone] = False
        removed.extend(gone)
        stiffness = jnp.where(kept, stiffness, 0.0)
        if progress is not None:
            progress(len(removed), total)
    pruned = eqx.tree_at(lambda b: b.stiffness, bonds, stiffness)
    return Pruning(pruned, kept, np.array(removed, int), np.array(history), np.array(left))


def _value_and_slope(
    stiffness: Float[Array, " m"], bonds: Bonds, system: System, relax: Relaxation, name: str
) -> tuple[Float[Array, ""], Float[Array, " m"]]:
    def value(stiffness: Float[Array, " m"]) -> Float[Array, ""]:
        network = eqx.tree_at(lambda b: b.stiffness, bonds, stiffness)
        return measured(relax(network, system), [name])[0]

    return jax.value_and_grad(value)(stiffness)


def _next_to_go(share: np.ndarray, pairs: np.ndarray, kept: np.ndarray, system: System, count: int) -> list[int]:
    """The bonds with the lowest share that leave more than d bonds at both of their ends, at most `count`."""
    degree = np.bincount(pairs[kept].ravel(), minlength=system.n)
    gone: list[int] = []
    for k in np.argsort(np.where(kept, share, np.inf), kind="stable")[: int(kept.sum())].tolist():
        if len(gone) == count:
            break
        if degree[pairs[k]].min() > system.dim + 1:
            gone.append(k)
            degree[pairs[k]] -= 1
    if not gone:
        raise InvalidInput(f"{kept.sum()} bonds are left, each at a particle with d + 1 bonds: none of them may go")
    return gone
