"""Equilibria compared with their targets, and the implicit Jacobian, for one vector of parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ..errors import MdsensError, NotConverged, Status
from ..linear_solvers.cholesky import explain_missing_factors
from ..linearization import Linearization, facts_of
from ..parameters import ParameterVector, as_function
from ..potentials import Potential
from ..relaxation import Equilibrium, Relaxation
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array
from .target import Data, Target, differences

COMPARISONS_KEPT = 4
"""Of the last vectors of parameters, so that none is relaxed twice in a row."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The equilibria at one vector of parameters, and how far they are from the targets.

    - `equilibria`: one for each target; None for a target of forces alone.
    - `differences` [m]: equilibrium minus data, in natural units.
    - `factors` [m]: by which each difference counts. They are zero for the positions of rattlers, and for those of the
      other particles √(n / number of others): a packing with more rattlers is no better a fit.
    """

    equilibria: tuple[Equilibrium | None, ...]
    differences: np.ndarray
    factors: np.ndarray


class Problem:
    """Residuals and their Jacobian as functions of the parameters; each packing is relaxed from its measured positions.

    `weights` [m] are natural units over uncertainties. `failure` is the last reason why there was no equilibrium.
    """

    def __init__(
        self, potential: Potential, targets: list[Target], parameters: ParameterVector, relax: Relaxation
    ) -> None:
        self.potential, self.targets, self.parameters, self.relax = potential, targets, parameters, relax
        self.data = [Data.from_target(target, potential) for target in targets]
        self.layout = [(target, kind, self._length(target, kind)) for target in targets for kind in target.kinds]
        scales = [
            target.scale(kind) / target.uncertainties.get(kind, target.scale(kind)) for target, kind, _ in self.layout
        ]
        self.weights = np.repeat(scales, [length for *_, length in self.layout])
        self.relaxations, self.failure = 0, NotConverged("nothing was relaxed yet")
        self._kept: dict[bytes, Comparison | None] = {}

    def compare(self, vector: Float[np.ndarray, " k"]) -> Comparison | None:
        """The equilibria there; None where there are none, or where no contacts constrain the particles."""
        key = vector.tobytes()
        if key not in self._kept:
            self._kept = dict(list(self._kept.items())[1 - COMPARISONS_KEPT :])
            try:
                self._kept[key] = self._relaxed(vector)
            except MdsensError as error:
                self.failure, self._kept[key] = error, None  # type: ignore[assignment]
        return self._kept[key]

    def residuals(self, comparison: Comparison) -> Float[np.ndarray, " m"]:
        """The weighted differences, whose squares are summed."""
        return comparison.differences * comparison.factors * self.weights

    def jacobian(self, vector: Float[np.ndarray, " k"]) -> Float[np.ndarray, "m k"]:
        """∂(differences)/∂θ in natural units; NaN where it cannot be trusted."""
        comparison = self.compare(vector)
        assert comparison is not None
        parts = []
        for target, data, equilibrium in zip(self.targets, self.data, comparison.equilibria, strict=True):
            point = _Point(data, self.parameters, self.potential, equilibrium, _linearization_of(equilibrium))
            with explain_missing_factors():
                slopes = jax.block_until_ready(_jacobian(point, as_array(vector)))
            parts += [np.asarray(slopes[kind]) / target.scale(kind) for kind in target.kinds]
        return np.concatenate(parts)

    def gradient(self, vector: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """The gradient of half the sum of the squared residuals, in reverse mode; NaN where it cannot be trusted."""
        comparison = self.compare(vector)
        assert comparison is not None
        pull = self.residuals(comparison) * comparison.factors * self.weights
        cotangents: list[dict[str, Array]] = [{} for _ in self.targets]
        for number, kind, part in self._parts(pull):
            cotangents[number][kind] = as_array(part / self.targets[number].scale(kind))
        slope = np.zeros(vector.shape)
        for data, equilibrium, cotangent in zip(self.data, comparison.equilibria, cotangents, strict=True):
            point = _Point(data, self.parameters, self.potential, equilibrium, _linearization_of(equilibrium))
            with explain_missing_factors():
                slope += np.asarray(_gradient(point, as_array(vector), cotangent))
        return slope

    def split(self, differences: Float[np.ndarray, " m"]) -> tuple[dict[str, np.ndarray], ...]:
        """Differences in natural units as differences in the data's own units, by kind, for every target."""
        found: list[dict[str, np.ndarray]] = [{} for _ in self.targets]
        for number, kind, part in self._parts(differences):
            target = self.targets[number]
            off = part * target.scale(kind)
            found[number][kind] = off.reshape(target.system.positions.shape) if self._is_field(kind) else off
        return tuple(found)

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
        """The rows of every target and kind of data."""
        place = {id(target): k for k, target in enumerate(self.targets)}
        for (target, kind, length), end in zip(self.layout, np.cumsum([n for *_, n in self.layout]), strict=True):
            yield place[id(target)], kind, rows[end - length : end]

    def _relaxed(self, vector: np.ndarray) -> Comparison:
        equilibria: list[Equilibrium | None] = []
        rows, factors = [], []
        for target, data in zip(self.targets, self.data, strict=True):
            potential, system = self.parameters.apply(as_array(vector), self.potential, target.system)
            equilibrium, of_particles = None, np.ones(system.n)
            if target.needs_equilibrium:
                self.relaxations += 1
                equilibrium = self.relax(potential, system).frozen
                of_particles = _factors_of_particles(equilibrium.linearization)
            found = _differences(data, potential, system, equilibrium, _linearization_of(equilibrium))
            for kind in target.kinds:
                rows.append(np.asarray(found[kind]) / target.scale(kind))
                each = np.repeat(of_particles, system.dim) if kind == "positions" else np.ones(rows[-1].shape)
                factors.append(each)
            equilibria.append(equilibrium)
        comparison = Comparison(tuple(equilibria), np.concatenate(rows), np.concatenate(factors))
        if not np.isfinite(comparison.differences).all():
            raise NotConverged("some of the differences between equilibria and data are not finite")
        return comparison

    @staticmethod
    def _is_field(kind: str) -> bool:
        return kind in ("positions", "forces")

    def _length(self, target: Target, kind: str) -> int:
        if self._is_field(kind):
            return target.system.positions.size
        return len(np.asarray(target.contacts)) + target.system.n if kind == "contacts" else 1


def _linearization_of(equilibrium: Equilibrium | None) -> Linearization | None:
    return None if equilibrium is None else equilibrium.linearization


def _factors_of_particles(linearization: Linearization) -> Float[np.ndarray, " n"]:
    constrained = np.asarray(linearization.contacts.constrained)
    if not constrained.any():
        raise Status.NOT_RIGID.raised(**facts_of(linearization))
    return constrained * np.sqrt(constrained.size / constrained.sum())


_differences = compile_once(differences)


class _Point(eqx.Module):
    """A target at its equilibrium, where the differences are a function of the parameters."""

    data: Data
    parameters: ParameterVector
    potential: Potential
    equilibrium: Equilibrium | None
    linearization: Linearization | None

    def differences(self, vector: Float[Array, " k"]) -> dict[str, Array]:
        other, system = self.parameters.apply(vector, self.potential, self.data.system)
        moved = None
        if self.equilibrium is not None:
            moved = as_function(self.equilibrium, self.parameters, vector, self.linearization)
        return differences(self.data, other, system, moved, self.linearization)


@eqx.filter_jit
def _jacobian(point: _Point, vector: Float[Array, " k"]) -> dict[str, Any]:
    return jax.jacfwd(point.differences)(vector)


@eqx.filter_jit
def _gradient(point: _Point, vector: Float[Array, " k"], cotangents: dict[str, Array]) -> Float[Array, " k"]:
    return jax.vjp(point.differences, vector)[1](cotangents)[0]
