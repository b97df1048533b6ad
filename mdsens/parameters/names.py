"""Parameters by name: which there are, their values, and a system with other values."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ..errors import InvalidInput
from ..potentials import Potential
from ..runtime.tracing import as_array, numpy_for
from ..system import System


def check_name(name: str, potential: Potential, system: System) -> None:
    """**Raises** `InvalidInput` for an unknown name, with the names there are."""
    kinds = sorted(set(np.asarray(system.species).tolist()))
    offered = ["diameters", *(f"species-diameter:{kind}" for kind in kinds)]
    offered += ["box"] if any(system.periodic) else []
    offered += [] if system.fixed is None else ["positions"]
    offered += potential.parameter_names()
    if name not in offered:
        raise InvalidInput(f"there is no parameter {name!r} here; there are {', '.join(offered)}")


def full_name(name: str, potential: Potential) -> str:
    """The name of a parameter in a sum of potentials, `soft_sphere.epsilon`, where it is given without that of its
    term and only one term has it; and its name in a potential of one term where it is given with that of the term.
    """
    known = potential.parameter_names()
    if name in known:
        return name
    term, _, own = name.rpartition(".")
    if term.replace("_", "") == type(potential).__name__.lower() and own in known:
        return own
    possible = [each for each in known if each.rpartition(".")[2] == name]
    return possible[0] if len(possible) == 1 else name


def parameter_value(name: str, potential: Potential, system: System) -> Array:
    """The value of a named parameter; of `species-diameter:K`, the mean diameter of the species.

    Of `positions` the fixed degrees of freedom count.
    """
    if name in ("diameters", "box", "positions"):
        return getattr(system, name)
    if name.startswith("species-diameter:"):
        xp = numpy_for(system.diameters, system.species)
        sizes, members = xp.asarray(system.diameters), _of_species(name, system)
        smallest = xp.min(sizes, where=members, initial=np.inf)
        return as_array(smallest + xp.mean(sizes - smallest, where=members))  # exact where all are equal
    return potential.get_parameter(name)


def with_parameter(name: str, value: Array, potential: Potential, system: System) -> tuple[Potential, System]:
    """The potential and system with another value of a named parameter."""
    if name in ("diameters", "box"):
        return potential, system.replace(**{name: value})
    if name == "positions":
        moved = system.replace(positions=value)
        return potential, moved.replace(positions=moved.with_relaxed(system.positions))
    if name.startswith("species-diameter:"):
        mean = jax.lax.stop_gradient(parameter_value(name, potential, system))
        xp = numpy_for(value, mean, system.diameters)
        growth = xp.asarray(value) - xp.asarray(mean)
        grown = xp.asarray(system.diameters) + xp.where(_of_species(name, system), growth, 0.0)
        return potential, system.replace(diameters=as_array(grown))
    return potential.with_parameter(name, value), system


def _of_species(name: str, system: System) -> Any:
    """The particles whose diameters the parameter `species-diameter:K` is, bool [n]."""
    return numpy_for(system.species).asarray(system.species) == int(name.partition(":")[2])


def direction_of(wrt: str, value: ArrayLike, direction: ArrayLike | None) -> np.ndarray:
    """A direction of a parameter: by default all components growing alike, and for the box an isotropic dilation.

    **Raises** `InvalidInput` for a direction that is not finite, or zero.
    """
    value = np.asarray(value)
    if direction is None:
        return value if wrt == "box" else np.ones_like(value)
    along = np.broadcast_to(np.asarray(direction, value.dtype), value.shape)
    if not (np.isfinite(along).all() and (along != 0.0).any()):
        raise InvalidInput(f"the direction of {wrt} must be finite and not zero")
    return along
