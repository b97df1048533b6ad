"""Parameters called by name: which there are, their values, and a system with other ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from .errors import InvalidInput
from .potentials import JaxMD, Potential
from .potentials.base import is_parameter
from .system import System


def check_name(name: str, potential: Potential, system: System) -> None:
    """**Raises** `InvalidInput`, with the names there are, for a name that is none of them."""
    kinds = sorted(set(np.asarray(system.species).tolist()))
    offered = ["diameters", *(f"species-diameter:{kind}" for kind in kinds)]
    offered += ["box"] if system.periodic else []
    offered += parameters_of(potential)
    if name not in offered:
        raise InvalidInput(f"there is no parameter {name!r} here; there are {', '.join(offered)}")


def parameters_of(potential: Potential) -> list[str]:
    """The names of a potential's parameters: what it can be differentiated in."""
    if isinstance(potential, JaxMD):
        return [key for key, leaf in potential.parameters.items() if is_parameter(leaf)]
    static = {f.name for f in dataclasses.fields(potential) if f.metadata.get("static")}
    return [name for name in settings_of(potential) if name not in static]


def settings_of(potential: Potential) -> list[str]:
    """The names of all numbers that a potential has, also of those that are fixed, such as where it is cut off."""
    return [f.name for f in dataclasses.fields(potential) if is_parameter(getattr(potential, f.name))]


def parameter_value(name: str, potential: Potential, system: System) -> Array:
    """The value of a named parameter; of `species-diameter:K`, the mean diameter of the species."""
    if name in ("diameters", "box"):
        return getattr(system, name)
    if name.startswith("species-diameter:"):
        members = system.species == int(name.partition(":")[2])
        smallest = jnp.min(system.diameters, where=members, initial=jnp.inf)
        return smallest + jnp.mean(system.diameters - smallest, where=members)  # exact where all are equal
    return _leaf(name)(potential)


def with_parameter(name: str, value: Array, potential: Potential, system: System) -> tuple[Potential, System]:
    """The potential and system with another value of a named parameter."""
    if name in ("diameters", "box"):
        return potential, system.replace(**{name: value})
    if name.startswith("species-diameter:"):
        members = system.species == int(name.partition(":")[2])
        growth = value - jax.lax.stop_gradient(parameter_value(name, potential, system))
        return potential, system.replace(diameters=system.diameters + jnp.where(members, growth, 0.0))
    return eqx.tree_at(_leaf(name), potential, value), system


def direction_of(wrt: str, value: Array, direction: ArrayLike | None) -> Array:
    """A direction of a parameter: by default all components growing alike, and for the box an isotropic dilation.

    **Raises** `InvalidInput` for one that is none.
    """
    if direction is None:
        return value if wrt == "box" else jnp.ones_like(value)
    along = jnp.broadcast_to(jnp.asarray(direction, value.dtype), value.shape)
    if not bool(jnp.all(jnp.isfinite(along)) & jnp.any(along != 0.0)):
        raise InvalidInput(f"the direction of {wrt} must be finite and not zero")
    return along


def _leaf(name: str) -> Callable[[Any], Array]:
    return lambda potential: potential.parameters[name] if isinstance(potential, JaxMD) else getattr(potential, name)
