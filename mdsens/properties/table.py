"""Properties by name, in a registry: `REGISTRY`. Add a new property there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..linearization import Linearization
from ..relaxation.equilibrium import Equilibrium
from ..runtime.tracing import as_array, numpy_for
from . import elasticity, state


@dataclasses.dataclass(frozen=True)
class Property:
    """A property of an equilibrium that is one number.

    **Arguments:**

    - `function`: of an Equilibrium, to a number; differentiable. None for those of `elasticity.isotropic_moduli`.
    - `unit`: in words, such as `energy/length^d`; empty for pure numbers.
    - `needs_cell`, `needs_contacts`: whether it exists only in cells periodic along all directions, or for sums over
      pairs.
    """

    function: Callable[[Equilibrium], Float[Array, ""]] | None
    unit: str = ""
    needs_cell: bool = True
    needs_contacts: bool = False


PRESSURE = "energy/length^d"

REGISTRY: dict[str, Property] = {
    "energy": Property(state.energy, "energy", needs_cell=False),
    "volume": Property(state.volume, "length^d"),
    "packing_fraction": Property(state.packing_fraction),
    "pressure": Property(state.pressure, PRESSURE),
    "contact_number": Property(state.contact_number, needs_cell=False, needs_contacts=True),
    "bulk_modulus": Property(None, PRESSURE),
    "shear_modulus": Property(None, PRESSURE),
    "young_modulus": Property(None, PRESSURE),
    "poisson_ratio": Property(None),
    "bulk_modulus_without_pressure": Property(None, PRESSURE),
    "shear_modulus_without_pressure": Property(None, PRESSURE),
    "young_modulus_without_pressure": Property(None, PRESSURE),
    "poisson_ratio_without_pressure": Property(None),
}

MODULI = tuple(name for name, each in REGISTRY.items() if each.function is None)
"""The properties that need the elastic tensor."""

UNITS = {name: each.unit for name, each in REGISTRY.items() if each.unit}


def measured(
    equilibrium: Equilibrium, names: Iterable[str], linearization: Linearization | None = None
) -> Float[Array, " m"]:
    """Properties by name, in one vector; the elastic tensor is computed once.

    **Arguments:**

    - `linearization`: that of the equilibrium, where it is known already.

    **Raises** `InvalidInput` for an unknown name, with the names there are, and what the properties raise.
    """
    names = check_properties(names)
    moduli = elasticity.isotropic_moduli(equilibrium, linearization) if set(names) & set(MODULI) else {}
    values = []
    for name in names:
        function = REGISTRY[name].function
        values.append(moduli[name] if function is None else function(equilibrium))
    xp = numpy_for(values)
    return as_array(xp.stack([xp.asarray(value) for value in values]), equilibrium.max_force.dtype)


def check_properties(names: Iterable[str]) -> tuple[str, ...]:
    """**Raises** `InvalidInput` for an unknown name."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in REGISTRY:
            raise InvalidInput(f"there is no property {name!r}; there are {', '.join(REGISTRY)}")
    return names


class Table(dict[str, float]):
    """Properties by name; prints as a table with units."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(
            f"{name:<{width}} {value:<22.12g} {UNITS.get(name, '')}".rstrip() for name, value in self.items()
        )

    __repr__ = __str__


def table(equilibrium: Equilibrium) -> Table:
    """All properties that are one number, as far as the equilibrium has them."""
    has_cell, pairwise = all(equilibrium.system.periodic), equilibrium.potential.has_contacts
    names = [
        name
        for name, each in REGISTRY.items()
        if (has_cell or not each.needs_cell)
        and (pairwise or not each.needs_contacts)
        and not (equilibrium.potential.tied_to_space and name in ("pressure", *MODULI))
    ]
    return Table(zip(names, measured(equilibrium, names).tolist(), strict=True))
