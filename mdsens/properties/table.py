"""Properties called by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..implicit import Held
from ..potentials import PairPotential
from ..relaxation import Equilibrium
from . import elasticity, state

OF_A_STATE: dict[str, Callable[[Equilibrium], Float[Array, ""]]] = {
    "energy": state.energy,
    "volume": state.volume,
    "packing_fraction": state.packing_fraction,
    "pressure": state.pressure,
    "contact_number": state.contact_number,
}
MODULI = ("bulk_modulus", "shear_modulus", "young_modulus", "poisson_ratio")

NAMED = (*OF_A_STATE, *MODULI)
"""The properties that are one number."""

UNITS = {
    "energy": "energy",
    "volume": "length^d",
    "pressure": "energy/length^d",
    "bulk_modulus": "energy/length^d",
    "shear_modulus": "energy/length^d",
    "young_modulus": "energy/length^d",
}
"""Of those that are no pure numbers."""


def measured(equilibrium: Equilibrium, names: Iterable[str], held: Held | None = None) -> Float[Array, " m"]:
    """Properties by name, in one vector; the elastic tensor is computed once, and what holds the equilibrium not at all
    if it is given.

    **Raises** `InvalidInput`, with the names there are, for one that is none of them, and what the properties raise.
    """
    names = check_properties(names)
    moduli = elasticity.isotropic_moduli(equilibrium, held) if set(names) & set(MODULI) else {}
    values = [moduli[name] if name in MODULI else OF_A_STATE[name](equilibrium) for name in names]
    return jnp.stack([jnp.asarray(value, equilibrium.max_force.dtype) for value in values])


def check_properties(names: Iterable[str]) -> tuple[str, ...]:
    """**Raises** `InvalidInput` for a name that is none."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in NAMED:
            raise InvalidInput(f"there is no property {name!r}; there are {', '.join(NAMED)}")
    return names


def table(equilibrium: Equilibrium) -> dict[str, float]:
    """All properties that are one number, as far as the equilibrium has them."""
    names = list(NAMED) if equilibrium.system.periodic else ["energy", "contact_number"]
    if not isinstance(equilibrium.potential, PairPotential):
        names.remove("contact_number")
    return dict(zip(names, measured(equilibrium, names).tolist(), strict=True))
