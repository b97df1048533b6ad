"""Some parameters, by name, as one vector, and an equilibrium as a function of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..linearization import Linearization
from ..potentials import Potential
from ..relaxation.equilibrium import Equilibrium
from ..runtime.tracing import as_array, numpy_for
from ..system import System
from .names import check_name, parameter_value, with_parameter


@dataclasses.dataclass(frozen=True)
class ParameterVector:
    """Parameters called by `names`, of these `shapes`, as one vector.

    A matrix with one entry per pair of species is symmetric, and a component of it is a value for a pair: the upper
    triangle, `epsilon[0,1]` for both (0, 1) and (1, 0). The derivative by such a component is that of both entries
    together, twice what `jax.grad` gives for each of them.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    pair_matrices: tuple[bool, ...]

    @classmethod
    def from_names(cls, wrt: str | Iterable[str], potential: Potential, system: System) -> ParameterVector:
        """**Raises** `InvalidInput` for an unknown name, no name at all, or one that is given twice."""
        names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
        for name in names:
            check_name(name, potential, system)
        twice = "diameters" in names and any(name.startswith("species-diameter:") for name in names)
        if not names or len(set(names)) < len(names) or twice:
            raise InvalidInput(f"name one or more parameters, each once, not {', '.join(names) or 'none'}")
        own = set(potential.parameter_names())
        pair_matrices = tuple(name in own and potential.is_pair_matrix(name) for name in names)
        return cls(names, tuple(parameter_value(name, potential, system).shape for name in names), pair_matrices)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each component: `alpha`, `diameters[17]`, `epsilon[0,1]`."""
        return tuple(
            f"{name}[{','.join(map(str, place))}]" if place else name
            for name, places in zip(self.names, self._places, strict=True)
            for place in (zip(*places, strict=True) if places else [()])
        )

    def vector(self, potential: Potential, system: System) -> Float[Array, " k"]:
        """Their values."""
        values = []
        for name, places, symmetric in zip(self.names, self._places, self.pair_matrices, strict=True):
            value = parameter_value(name, potential, system)
            value = numpy_for(value).asarray(value)
            values.append((0.5 * (value + value.T) if symmetric else value)[places].reshape(-1))
        return as_array(numpy_for(values).concatenate(values))

    def split(self, vector: Any) -> list[Any]:
        """The components of each parameter."""
        sizes = [places[0].size if places else 1 for places in self._places]
        ends = np.cumsum(sizes).tolist()
        return [vector[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def diameters(self, vector: Any) -> list[tuple[str, Any]]:
        """The names and components of those that are diameters."""
        return [pair for pair in zip(self.names, self.split(vector), strict=True) if "diameter" in pair[0]]

    def by_name(self, vector: Any) -> dict[str, Any]:
        """Every parameter in its own shape."""
        shaped = map(self._shaped, self.pair_matrices, self.shapes, self.split(vector))
        return dict(zip(self.names, shaped, strict=True))

    def apply(self, vector: Float[Array, " k"], potential: Potential, system: System) -> tuple[Potential, System]:
        """The potential and the system with these values; differentiable."""
        for name, value in self.by_name(jnp.asarray(vector, system.positions.dtype)).items():
            potential, system = with_parameter(name, value, potential, system)
        return potential, system

    def broadcast(self, given: Mapping[str, Any], default: Any) -> np.ndarray:
        """A value for every component, from those given for parameters or for components by their name.

        Of a matrix a whole matrix may be given, or one value for all components, or a list of one for each. Where a
        value is a pair, (low, high), it may be a pair of matrices.
        """
        unknown = set(given) - set(self.names) - set(self.labels)
        if unknown:
            raise InvalidInput(f"{', '.join(sorted(unknown))}: the parameters are {', '.join(self.labels[:12])}")
        values: list[Any] = []
        for k, (name, part) in enumerate(zip(self.names, self.split(self.labels), strict=True)):
            whole = self._of_matrix(k, given.get(name, default), np.shape(default))
            each = whole if np.ndim(whole) > np.ndim(default) else [whole] * len(part)
            if len(each) != len(part):
                raise InvalidInput(f"{name} has {len(part)} components, and {len(each)} values were given for it")
            values += [given.get(label, value) for label, value in zip(part, each, strict=True)]
        try:
            return np.array(values, dtype=float).reshape(len(self.labels), *np.shape(default))
        except ValueError as error:
            wanted = "a number" if np.ndim(default) == 0 else f"{len(default)} numbers"
            raise InvalidInput(f"each of {', '.join(given)} wants {wanted}, not {given}") from error

    def _of_matrix(self, k: int, given: Any, each: tuple[int, ...]) -> Any:
        """The components of a matrix [*each, s, s] that is given for the k-th parameter; anything else as it is."""
        name, shape, places = self.names[k], self.shapes[k], self._places[k]
        if len(shape) < 2 or _shape_of(given) != (*each, *shape):
            return given
        matrix = np.asarray(given, dtype=float)
        if self.pair_matrices[k] and not np.array_equal(matrix, np.swapaxes(matrix, -1, -2), equal_nan=True):
            raise InvalidInput(f"{name} has one value for each pair of species: give a symmetric matrix")
        upper: Any = (..., *places)
        return np.moveaxis(matrix[upper], -1, 0)

    @staticmethod
    def _shaped(symmetric: bool, shape: tuple[int, ...], part: Any) -> Any:
        places, arrays = _places_of(symmetric, shape), jnp if isinstance(part, Array) else np
        if not places:
            return part[0]
        if not symmetric:
            return arrays.reshape(part, shape)
        index = np.zeros(shape, int)
        index[places] = index[places[::-1]] = np.arange(places[0].size)
        return part[index]

    @property
    def _places(self) -> list[tuple[np.ndarray, ...]]:
        return [_places_of(*each) for each in zip(self.pair_matrices, self.shapes, strict=True)]


def _shape_of(given: Any) -> tuple[int, ...] | None:
    """The shape of numbers; None of a list that is none, or ragged."""
    try:
        return np.shape(np.asarray(given, dtype=float))
    except (TypeError, ValueError):
        return None


def given_by_name(what: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is given for some parameters. **Raises** `InvalidInput` where it is not said for which."""
    if given is not None and not isinstance(given, Mapping):
        raise InvalidInput(f"{what} are given by the name of a parameter, {{'epsilon': …}}, not as {given!r}")
    return dict(given or {})


def _places_of(symmetric: bool, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The indices of the components that count; none for a number."""
    if symmetric:
        return np.triu_indices(shape[0])
    return tuple(np.indices(shape).reshape(len(shape), -1)) if shape else ()


def as_function(
    equilibrium: Equilibrium,
    parameters: ParameterVector,
    vector: Float[Array, " k"],
    linearization: Linearization | None = None,
) -> Equilibrium:
    """An equilibrium as a differentiable function of parameters, at their present values: nothing is relaxed.

    **Arguments:**

    - `vector` ([k]): the present values of the parameters.
    - `linearization`: that of the equilibrium, so that a compiled function need not compute it again.
    """
    still = equilibrium.frozen
    potential, system = parameters.apply(vector, equilibrium.potential, still.system)
    at_rest = still.at_rest(system, potential, linearization)
    return dataclasses.replace(equilibrium, source=at_rest, potential=potential, known_energy=None)
