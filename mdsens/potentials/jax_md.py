"""Any jax-md energy function as a potential whose parameters are differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..errors import InvalidInput, Status
from ..geometry import PairList, minimum_image
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from ..system import System
from .base import Potential, Scalar, is_parameter, shown
from .stiffness import forces_of_pairs, spacing, stiffness_along_signs, stiffness_of_pairs


class JaxMD(Potential):
    """An energy of jax-md, pair or many-body: `JaxMD(energy.stillinger_weber, lam=21.0, epsilon=2.17)`.

    **Arguments:**

    - `factory`: called as `factory(displacement, **parameters)`, and returns `energy(positions)`, as
      `stillinger_weber`, `soft_sphere_pair`, `tersoff` … of `jax_md.energy` do. The displacement it is
      given follows the system's cell, so that the box is differentiable too.
    - `from_system`: a function of the System that returns further keyword arguments, such as
      `lambda system: {"sigma": system.diameters}`.
    - `range`: the distance beyond which nothing interacts, if known; a cell too small for it is then refused. In a
      periodic cell pairs of particles are moved apart, to see that nothing interacts beyond half its height; only with
      a range may forces there grow with the distance, as those of bonds do.
    - every other keyword is a parameter, a leaf of the pytree, if it is a number, which is made a float, or an array of
      floats, or a dictionary of them. Whatever else there is, such as strings, functions and arrays of integers, is
      passed on as it is. (`functools.partial` the factory with single integers that must stay integers.)

    **Raises** `InvalidInput` for an energy that works with a neighbor list of jax-md, and, when it is relaxed, for a
    periodic cell in which particles interact with more than nearest images.

    jax-md evaluates such a function over all pairs (or triples) of particles: for hundreds of
    particles, not for thousands. Its typical stiffness is measured where a relaxation begins.
    """

    parameters: dict[str, Any]
    constants: _Constants = eqx.field(static=True)
    factory: Callable[..., Any] = eqx.field(static=True)
    from_system: Callable[[System], dict[str, Any]] | None = eqx.field(static=True)
    range: float = eqx.field(static=True)

    def __init__(
        self,
        factory: Callable[..., Any],
        from_system: Callable[[System], dict[str, Any]] | None = None,
        range: float = math.inf,
        **parameters: Any,
    ) -> None:
        self.factory = factory
        self.from_system = from_system
        self.range = range
        if getattr(factory, "__name__", "").endswith("_neighbor_list"):
            raise InvalidInput(_NEEDS_A_LIST.format(name=factory.__name__))
        differentiable, constant = eqx.partition(parameters, is_parameter)
        self.parameters = jax.tree.map(lambda value: as_array(value, float), differentiable)
        self.constants = _Constants(constant)

    def __repr__(self) -> str:
        name = getattr(self.factory, "__name__", repr(self.factory))
        given = {k: eqx.combine(value, self.constants.tree[k]) for k, value in self.parameters.items()}
        return f"JaxMD({', '.join([name, *(f'{k}={shown(value)}' for k, value in given.items())])})"

    def reach(self, system: System) -> Scalar:
        return jnp.asarray(self.range, system.positions.dtype)

    @property
    def is_verified(self) -> bool:
        return False

    def is_pair_matrix(self, name: str) -> bool:
        shape = np.shape(self.get_parameter(name))
        return len(shape) == 2 and shape[0] == shape[1]

    def measured_stiffness(self, system: System, neighbors: PairList | None) -> Scalar:
        apart = stiffness_of_pairs(self._in_open_space(system), system, self.length(system))
        return jnp.minimum(stiffness_along_signs(self, system, None), apart)

    def length(self, system: System) -> Scalar:
        """The spacing of as many particles in the same room."""
        return spacing(system)

    def energy(self, system: System, neighbors: PairList | None) -> Scalar:
        return self.energy_with(system, {} if self.from_system is None else self.from_system(system))

    def energy_with(self, system: System, extra: dict[str, Any]) -> Scalar:
        """The energy, given what `from_system` returns."""
        away = _far_away(system)

        def displacement(a: Array, b: Array, **_: Any) -> Array:
            apart = minimum_image(a - b, system.lattice)
            return jnp.where(jnp.all(apart == 0.0), away, apart)

        given = eqx.combine(self.parameters, self.constants.tree)
        function = self.factory(displacement, **given, **extra)
        if isinstance(function, tuple):
            raise InvalidInput(_NEEDS_A_LIST.format(name=getattr(self.factory, "__name__", "this factory")))
        found = function(system.positions)
        nan_carrier = jnp.where(_some_coincide(system), jnp.nan, 0.0) * jnp.sum(system.positions)
        return found + nan_carrier  # so that the forces are NaN, too

    def _in_open_space(self, system: System) -> Callable[[Array], Scalar]:
        """The energy of the particles elsewhere, without the cell."""
        extra = {} if self.from_system is None else self.from_system(system)
        return lambda x: self.energy_with(system.replace(positions=x, box=None), extra)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        if system.box is None or system.n < 2:
            return
        half, beyond, near, grows = (found.item() for found in _beyond_half_the_cell(self, system))
        reaches = not beyond <= SMALLEST_FORCE * near
        if math.isfinite(self.range):  # believed where forces grow, as those of bonds, or are no numbers far away
            reaches = beyond > SMALLEST_FORCE * near and not grows
        if reaches:
            raise Status.IMAGES_MISSED.raised(distance=half)

    def parameter_names(self) -> list[str]:
        return [name for name, value in self.parameters.items() if is_parameter(value)]

    def number_names(self) -> list[str]:
        return self.parameter_names()

    def get_parameter(self, name: str) -> Any:
        return self.parameters[name]


SMALLEST_FORCE = 1e-8
"""Relative to the force between neighbors: particles with less between them do not interact."""

NEAR = (1.0, 1.2, 1.5)
"""Distances of neighbors, in units of the typical spacing."""

BEYOND = (1.001, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0)
"""Distances at which interactions are looked for, in units of half of the cell's smallest height."""

_NEEDS_A_LIST = (
    "{name} of jax-md works with a neighbor list of its own, and mdsens takes energies of positions alone: give it the "
    "function of the same name without _neighbor_list, where there is one"
)


class _Constants:
    """The arguments of a factory that are no parameters, compared by content so that equal ones share programs."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._content = structure, tuple(map(_content, leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constants) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


def _content(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | jax.Array):
        array = np.asarray(leaf)
        return array.shape, array.dtype.str, array.tobytes()
    return leaf if isinstance(leaf, Hashable) else id(leaf)


@compile_once
def _beyond_half_the_cell(potential: JaxMD, system: System) -> tuple[Scalar, Scalar, Scalar, Bool[Array, ""]]:
    """Half of the smallest height, the largest forces of pairs far from all others, farther apart than that and as
    neighbors are, and whether these grow with the distance, as those of bonds do.
    """
    half, length, energy = 0.5 * jnp.min(system.heights), potential.length(system), potential._in_open_space(system)
    distances = jnp.concatenate([half * jnp.asarray(BEYOND, half.dtype), length * jnp.asarray(NEAR, half.dtype)])
    found = jnp.abs(jax.lax.map(lambda r: forces_of_pairs(energy, system, length, r), distances))
    of_each = jnp.max(found.reshape(len(found), -1), axis=1)
    beyond, near = of_each[: len(BEYOND)], of_each[len(BEYOND) :]
    return half, jnp.max(beyond), jnp.max(near), beyond[-1] > beyond[0]


def _far_away(system: System) -> Float[Array, " d"]:
    """A separation beyond every range, to stand for that of a particle from itself.

    jax-md computes the energy of a particle with itself and then takes its product with zero; at the distance zero that
    makes derivatives NaN in reverse mode (jax-md issue 258).
    """
    lengths = [] if system.lattice is None else [jnp.abs(system.lattice)]
    lengths += [] if all(system.periodic) else [jnp.abs(system.positions)]
    far = 1e3 * (sum(jnp.sum(jnp.max(each, axis=0)) for each in lengths) + jnp.max(system.diameters))
    return jax.lax.stop_gradient(far) * jnp.eye(system.dim, dtype=system.positions.dtype)[0]


def _some_coincide(system: System) -> Bool[Array, ""]:
    """Whether two particles are on the same point."""
    x = system.positions
    same = jnp.all(minimum_image(x[:, None] - x, system.lattice) == 0.0, axis=-1)
    return jnp.sum(same) > system.n
