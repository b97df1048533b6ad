"""Networks of bonds, made from the contacts of a packing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import InvalidInput
from ..linearization import Linearization
from ..potentials import Bonds
from ..relaxation.equilibrium import Equilibrium
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array


def network(equilibrium: Equilibrium, stressed: bool = False) -> Bonds:
    """The contacts of an equilibrium, without rattlers, as bonds of the same stiffness φ''.

    **Arguments:**

    - `equilibrium`: of a potential with a sum over pairs.
    - `stressed`: whether each bond bears the force of its contact, so that its rest length is r - φ'/φ''. By default
      it is r, as long as the bond is now: a network without forces, in which only stiffnesses count.

    **Returns:**

    - The `Bonds`, at rest at the positions of the equilibrium.

    **Raises:**

    - `InvalidInput` for a potential without a sum over pairs, a pair that pulls back less the further it is stretched,
      or a cell so narrow that a pair touches in several images.
    - `NotConverged` or `NotAMinimum` for a point that is no minimum at rest.
    """
    equilibrium.check()
    equilibrium.potential.require_contacts()
    others = ", ".join(type(part).__name__ for part in equilibrium.potential.others())
    if stressed and others:
        raise InvalidInput(f"the forces of {others} balance those of the contacts: such a network has to be unstressed")
    if equilibrium.neighbors.shift is not None:
        raise InvalidInput("a pair touches in several periodic images: repeat the cell (system.repeat(2)), and relax")
    i, j, length, slope, stiffness, touching = (np.asarray(each) for each in _of_pairs(equilibrium.linearization))
    i, j, length, slope, stiffness = (each[touching] for each in (i, j, length, slope, stiffness))
    if not touching.any() or not (stiffness > 0.0).all():
        found = f"the stiffness of a pair is {stiffness.min():.3g}" if touching.any() else "no particles interact"
        raise InvalidInput(f"{found}: bonds have a positive stiffness")
    rest_length = length - slope / stiffness if stressed else length
    return Bonds(as_array(np.stack([i, j], axis=1)), as_array(stiffness), as_array(rest_length))


@compile_once
def _of_pairs(linearization: Linearization) -> tuple[Array, ...]:
    """Of the listed pairs: ends, distance, φ', φ'' (of all sums over pairs together), and whether they touch."""
    pairs, neighbors = linearization.configuration.pairs, linearization.configuration.neighbors
    assert pairs is not None
    slope, stiffness = (jnp.sum(pairs.by_sum(each), axis=0) for each in (pairs.slope, pairs.curvature))
    length = jnp.max(pairs.by_sum(jnp.where(pairs.interacts, pairs.distance, 0.0)), axis=0)
    return neighbors.i, neighbors.j, length, slope, stiffness, pairs.any(linearization.contacts.touching)
