"""How far equilibria are from their targets, and the implicit Jacobian, for one vector of unknowns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..cholesky import where_positive
from ..contacts import Standing, standing
from ..errors import MdsensError, NotConverged, NotRigid
from ..potentials import Potential
from ..relaxation import Equilibrium, Relaxation
from ..unknowns import Unknowns, as_function
from .target import Data, Target, differences


@dataclasses.dataclass(frozen=True)
class Look:
    """The equilibria at one vector of unknowns, and how far they are from the targets.

    `rows` [m] are the differences in natural units. `share` [m] is what each counts for: nothing for particles that
    nothing holds, and so much more for the others that a packing does not seem closer the fewer are held.
    """

    rests: tuple[Equilibrium | None, ...]
    rows: np.ndarray
    share: np.ndarray


class Problem:
    """Residuals and Jacobian as functions of the unknowns; every packing is relaxed from its measured positions.

    `weights` [m] are natural units over uncertainties. `failure` is the last reason why there was no equilibrium.
    """

    def __init__(self, potential: Potential, targets: list[Target], unknowns: Unknowns, relax: Relaxation) -> None:
        self.potential, self.targets, self.unknowns, self.relax = potential, targets, unknowns, relax
        self.data = [Data.of(target, potential) for target in targets]
        self.layout = [(target, kind, self._length(target, kind)) for target in targets for kind in target.kinds]
        scales = [
            target.scale(kind) / target.uncertainties.get(kind, target.scale(kind)) for target, kind, _ in self.layout
        ]
        self.weights = np.repeat(scales, [length for *_, length in self.layout])
        self.relaxations, self.failure = 0, NotConverged("nothing was relaxed yet")
        self._seen: dict[bytes, Look | None] = {}

    def look(self, vector: np.ndarray) -> Look | None:
        """The equilibria there; None where there are none, or nothing is held."""
        key = vector.tobytes()
        if key not in self._seen:
            self._seen = dict(list(self._seen.items())[-3:])
            try:
                self._seen[key] = self._relaxed(vector)
            except MdsensError as error:
                self.failure, self._seen[key] = error, None  # type: ignore[assignment]
        return self._seen[key]

    def weighted(self, look: Look) -> Float[np.ndarray, " m"]:
        """The rows whose squares are summed."""
        return look.rows * look.share * self.weights

    def jacobian(self, vector: np.ndarray) -> Float[np.ndarray, "m k"]:
        """Of the differences in natural units, where there are equilibria."""
        look = self.look(vector)
        assert look is not None
        parts = []
        for target, data, rest in zip(self.targets, self.data, look.rests, strict=True):
            with where_positive():
                slopes = _slopes(data, self.unknowns, jnp.asarray(vector), self.potential, rest)
                slopes = jax.block_until_ready(slopes)
            parts += [np.asarray(slopes[kind]) / target.scale(kind) for kind in target.kinds]
        return np.concatenate(parts)

    def pulled(self, vector: np.ndarray) -> Float[np.ndarray, " k"]:
        """The gradient of half the sum of the squared weighted rows, in reverse mode; NaN where not to be trusted."""
        look = self.look(vector)
        assert look is not None
        pull = self.weighted(look) * look.share * self.weights
        cotangents: list[dict[str, Array]] = [{} for _ in self.targets]
        for number, kind, part in self._parts(pull):
            cotangents[number][kind] = jnp.asarray(part / self.targets[number].scale(kind))
        slope = np.zeros(vector.shape)
        for data, rest, cotangent in zip(self.data, look.rests, cotangents, strict=True):
            with where_positive():
                slope += np.asarray(_pulled(data, self.unknowns, jnp.asarray(vector), self.potential, rest, cotangent))
        return slope

    def split(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        """Rows in natural units as differences in the data's own units, by kind, for every target."""
        found: list[dict[str, np.ndarray]] = [{} for _ in self.targets]
        for number, kind, part in self._parts(rows):
            target = self.targets[number]
            off = part * target.scale(kind)
            found[number][kind] = off.reshape(target.system.positions.shape) if self._is_field(kind) else off
        return tuple(found)

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
        """The rows of every target and kind of data."""
        place = {id(target): k for k, target in enumerate(self.targets)}
        for (target, kind, length), end in zip(self.layout, np.cumsum([n for *_, n in self.layout]), strict=True):
            yield place[id(target)], kind, rows[end - length : end]

    def _relaxed(self, vector: np.ndarray) -> Look:
        rests: list[Equilibrium | None] = []
        rows, share = [], []
        for target, data in zip(self.targets, self.data, strict=True):
            potential, system = self.unknowns.put(jnp.asarray(vector), self.potential, target.system)
            rest, of_particles = None, np.ones(system.n)
            if target.needs_rest:
                self.relaxations += 1
                rest = self.relax(potential, system).frozen
                held = ~np.asarray(_standing(rest).rattlers)
                if not held.any():
                    raise NotRigid("nothing holds the particles, as below jamming: their positions respond to nothing")
                of_particles = held * np.sqrt(held.size / held.sum())
            found = _differences(data, potential, system, rest)
            for kind in target.kinds:
                rows.append(np.asarray(found[kind]) / target.scale(kind))
                share.append(np.repeat(of_particles, system.dim) if kind == "positions" else np.ones(rows[-1].shape))
            rests.append(rest)
        look = Look(tuple(rests), np.concatenate(rows), np.concatenate(share))
        if not np.isfinite(look.rows).all():
            raise NotConverged("some of the differences between equilibria and data are not finite")
        return look

    @staticmethod
    def _is_field(kind: str) -> bool:
        return kind in ("positions", "forces")

    def _length(self, target: Target, kind: str) -> int:
        if self._is_field(kind):
            return target.system.positions.size
        return len(np.asarray(target.contacts)) + target.system.n if kind == "contacts" else 1


@eqx.filter_jit
def _standing(rest: Equilibrium) -> Standing:
    return standing(rest.potential, rest.system, rest.close, rest.curvature)


_differences = eqx.filter_jit(differences)


@eqx.filter_jit
def _slopes(
    data: Data, unknowns: Unknowns, vector: Float[Array, " k"], potential: Potential, rest: Equilibrium | None
) -> dict[str, Any]:
    return jax.jacfwd(lambda v: _as_function(data, unknowns, v, potential, rest))(vector)


@eqx.filter_jit
def _pulled(
    data: Data,
    unknowns: Unknowns,
    vector: Float[Array, " k"],
    potential: Potential,
    rest: Equilibrium | None,
    cotangents: dict[str, Array],
) -> Float[Array, " k"]:
    _, pull = jax.vjp(lambda v: _as_function(data, unknowns, v, potential, rest), vector)
    return pull(cotangents)[0]


def _as_function(
    data: Data, unknowns: Unknowns, vector: Float[Array, " k"], potential: Potential, rest: Equilibrium | None
) -> dict[str, Array]:
    """The differences at other unknowns, to be differentiated."""
    other, system = unknowns.put(vector, potential, data.system)
    return differences(data, other, system, None if rest is None else as_function(rest, unknowns, vector))
