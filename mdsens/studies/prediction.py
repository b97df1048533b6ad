"""The relaxed structure and energy at other parameters, without relaxing again.

Along dθ the particles move by their response, x(θ) = x* + ∂x*/∂θ dθ, which is right to first order. By the 2n+1 theorem
(Hylleraas 1930) the energy *at* these positions and the new parameters is right to third order, since it is stationary:
nothing but one evaluation is needed. One Newton step from there with the Hessian that is known already,
x - H⁺∇E(x, θ), makes positions right to second order and the energy to fifth, and the next such step, not taken, tells
how far off they are. It is what Maliyov, Grigorev and Swinburne (arXiv 2407.02414) predict with.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .. import implicit
from ..errors import InvalidInput
from ..hessian import gradient, hessian
from ..nearby import check_fixed_cell
from ..neighbors import Neighbors, automatic, sized
from ..potentials import PairPotential, Potential
from ..properties import check_properties, measured
from ..relaxation import Equilibrium
from ..system import System
from ..unknowns import Unknowns, as_function

ALL_PAIRS_UP_TO = 32
"""Particles; beyond, predictions look at those that are close to each other only."""

MEMBERS_AT_ONCE = 100
"""Parameter sets that are predicted together."""

MANY_BEYOND = 0.05
"""The fraction of many parameter sets beyond the contact changes from which on a warning is given."""

LARGEST_ERROR = 0.5
"""Of positions, as a fraction of the way that they went: beyond, the series is no approximation."""

NO_WAY = 1e-6
"""A way so short, as a fraction of the mean diameter, that nothing is said about the error on it."""


class Predicted(eqx.Module):
    """What is predicted for one set of parameters, or with a leading axis [m] for many.

    `positions` [n, d] and `energy`; `properties`, those asked for, by name; `position_error`, how far the particle that
    is farthest off would go in the next Newton step, and `energy_error`, what it would gain: estimates, good while
    contacts stay. `contact_changes` are the pairs that touch here and did not, or the other way, where particles
    interact by contact. With any of them, with particles so far from where they were that not all pairs are known, or
    where the next step is not small against the way gone, the prediction does not hold, and `holds` is False; nor does
    it where particles give way instead of being held, as with a negative stiffness.
    """

    values: Float[Array, "*m k"]
    positions: Float[Array, "*m n d"]
    energy: Float[Array, " *m"]
    properties: dict[str, Float[Array, " *m"]]
    position_error: Float[Array, " *m"]
    energy_error: Float[Array, " *m"]
    contact_changes: Int[Array, " *m"]
    holds: Bool[Array, " *m"]

    def warn_beyond(self, stacklevel: int = 3) -> float:
        """The fraction of many sets where the prediction does not hold; **warns** of more than one in twenty."""
        beyond = float(np.mean(~np.asarray(self.holds)))
        if beyond > MANY_BEYOND:
            warnings.warn(
                f"{beyond:.0%} of the {np.size(self.holds)} parameter sets lie beyond a contact change, or too far: "
                "the prediction does not hold there. Take a smaller range, or relax these "
                "(mdsens.studies.sample(..., relax=mdsens.Relaxation(...)))",
                stacklevel=stacklevel,
            )
        return beyond


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """An equilibrium as a function of some parameters, near the values that they have: `model(values)`.

    `labels` are the names of the k components, `values` [k] what they are at the equilibrium, `response` [n, d, k]
    the motion of particles along each, `slope` [k] and `curvature` [k, k] the first and second derivatives of the
    energy of the relaxed system. `properties` are those asked for, at the equilibrium, and `property_slopes` [p, k]
    their derivatives.
    """

    equilibrium: Equilibrium
    unknowns: Unknowns
    order: Literal[1, 2]
    values: np.ndarray
    response: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    properties: dict[str, float]
    property_slopes: np.ndarray
    held: implicit.Held
    pairs: Neighbors

    def __repr__(self) -> str:
        shown = [f"{label} = {value:.6g}" for label, value in zip(self.labels[:6], self.values, strict=False)]
        more = f" … ({len(self.labels)} components)" if len(self.labels) > len(shown) else ""
        also = f", and {', '.join(self.properties)}" if self.properties else ""
        return (
            f"Prediction(positions of {self.equilibrium.system.n} particles to order {self.order}{also}, near "
            f"{', '.join(shown)}{more})"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.unknowns.labels

    def __call__(self, values: ArrayLike | Mapping[str, Any]) -> Predicted:
        """What is predicted.

        **Arguments:** `values`, of all components [k], of many sets of them [m, k], or those that change, by name.

        **Raises** `InvalidInput` for another number of components, or a name that is none.
        """
        wanted = self._vector(values)
        if wanted.ndim == 1:
            return jax.tree.map(lambda leaf: leaf[0], self._together(wanted[None]))
        return self._together(wanted)

    def _vector(self, values: ArrayLike | Mapping[str, Any]) -> np.ndarray:
        if isinstance(values, Mapping):
            here = dict(zip(self.labels, self.values, strict=True))
            kept = {label: value for label, value in here.items() if label.partition("[")[0] not in values}
            return self.unknowns.spread({**kept, **values}, 0.0)
        wanted = np.asarray(values, dtype=float)
        wanted = wanted[None] if wanted.ndim == 0 and len(self.values) == 1 else wanted
        if wanted.ndim not in (1, 2) or wanted.shape[-1] != len(self.values):
            raise InvalidInput(
                f"values must have {len(self.values)} components ({', '.join(self.labels[:8])}), one set [k] or many "
                f"[m, k], not the shape {list(wanted.shape)}"
            )
        return wanted

    def _together(self, wanted: np.ndarray) -> Predicted:
        """A hundred sets at a time, the last hundred filled up, so that all are compiled once."""
        at_once, here = min(len(wanted), MEMBERS_AT_ONCE), self.equilibrium.frozen
        known = here, self.unknowns, self.order, jnp.asarray(self.response), self.held, self.pairs
        slopes = dict(zip(self.properties, jnp.asarray(self.property_slopes), strict=True))
        parts = []
        for first in range(0, len(wanted), at_once):
            chosen = wanted[first : first + at_once]
            filled = np.concatenate([chosen, np.repeat(chosen[-1:], at_once - len(chosen), axis=0)])
            found = jax.device_get(_predicted(*known, self.properties, slopes, jnp.asarray(filled)))
            parts.append([leaf[: len(chosen)] for leaf in jax.tree.leaves(found)])
        joined = [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(found), joined)


def predict(
    equilibrium: Equilibrium, wrt: str | Iterable[str], order: Literal[1, 2] = 1, properties: Iterable[str] = ()
) -> Prediction:
    """A model of how an equilibrium depends on parameters near the values that they have.

    **Arguments:** `wrt`, the names of parameters (as for `mdsens.sensitivity`). `order`, that of the positions; the
    energy is right to order 2 `order` + 1 (the 2n+1 theorem: Gonze and Vigneron, Phys. Rev. B 39, 13120 (1989)).
    `properties`, names of properties, to be predicted to first order by their slopes; with `order` 2 they are computed
    at the second-order positions, which for moduli wants the Hessian there for each set of parameters.

    **Raises** `InvalidInput` for an unknown name or at constant pressure, and what `mdsens.sensitivity` raises where
    there is no response.
    """
    if order not in (1, 2):
        raise InvalidInput(f"positions are predicted to order 1 or 2, not {order}")
    check_fixed_cell(equilibrium)
    names = check_properties(properties)
    equilibrium.check()
    here = equilibrium.frozen
    held = implicit.hold(here.system, here.potential, here.close, here.rule.solver, here.curvature)
    implicit.refuse(held, here.system, here.potential, here.close, here.rule)
    unknowns = Unknowns.of(wrt, here.potential, here.system)
    values = unknowns.vector(here.potential, here.system)
    response, slope, curvature, at_rest, property_slopes = map(np.asarray, _model(here, unknowns, names, values))
    held = _decomposed(held)
    pairs = sized(automatic(here.potential, here.system, ALL_PAIRS_UP_TO), here.potential, here.system)
    return Prediction(
        equilibrium=equilibrium,
        unknowns=unknowns,
        order=order,
        values=np.asarray(values),
        response=response,
        slope=slope,
        curvature=0.5 * (curvature + curvature.T),
        properties=dict(zip(names, at_rest.tolist(), strict=True)),
        property_slopes=property_slopes,
        held=held,
        pairs=pairs.only(~held.standing.rattlers),
    )


@eqx.filter_jit
def _decomposed(held: implicit.Held) -> implicit.Held:
    return held.decomposed()


@eqx.filter_jit
def _model(
    equilibrium: Equilibrium, unknowns: Unknowns, names: tuple[str, ...], values: Float[Array, " k"]
) -> tuple[Array, ...]:
    def energy(values: Array) -> Array:
        return as_function(equilibrium, unknowns, values).energy

    def asked(values: Array) -> Array:
        return measured(as_function(equilibrium, unknowns, values), names) if names else jnp.zeros(0, values.dtype)

    response = jax.jacfwd(lambda values: as_function(equilibrium, unknowns, values).positions)(values)
    slope, curvature = jax.grad(energy)(values), jax.jacfwd(jax.grad(energy))(values)
    return response, slope, curvature, asked(values), jax.jacfwd(asked)(values)


@eqx.filter_jit
def _predicted(
    equilibrium: Equilibrium,
    unknowns: Unknowns,
    order: int,
    response: Float[Array, "n d k"],
    held: implicit.Held,
    pairs: Neighbors,
    at_rest: dict[str, float],
    slopes: dict[str, Float[Array, " k"]],
    wanted: Float[Array, "m k"],
) -> Predicted:
    system, potential = equilibrium.system, equilibrium.potential
    start, touching = unknowns.vector(potential, system), _touching(potential, system, pairs)
    anyhow = jax.random.normal(jax.random.key(0), system.positions.shape, system.positions.dtype)

    def one(values: Float[Array, " k"]) -> Predicted:
        there, moved = unknowns.put(values, potential, system)
        here = moved.replace(positions=system.positions + response @ (values - start))
        slope = gradient(there, here, pairs)
        step = held.solve(slope)
        for _ in range(1, order):
            here = here.replace(positions=here.positions - step)
            slope = gradient(there, here, pairs)
            step = held.solve(slope)
        energy, changes = there.energy(here, pairs), jnp.sum(_touching(there, here, pairs) != touching)
        if order == 1:
            properties = {name: at_rest[name] + slopes[name] @ (values - start) for name in at_rest}
        else:
            guess = dataclasses.replace(equilibrium, at_rest=here, potential=there, energy=energy, close=pairs)
            properties = _properties(guess, held, at_rest)
        way, error = _longest(here.positions - system.positions), _longest(step)
        small = error <= LARGEST_ERROR * way + NO_WAY * jnp.mean(system.diameters)
        bent = jax.jvp(lambda x: gradient(there, here.replace(positions=x), pairs), (here.positions,), (anyhow,))[1]
        sound = (jnp.sum(anyhow * bent) > 0.0) & jnp.all(jnp.isfinite(here.positions))
        return Predicted(
            values=values,
            positions=here.positions,
            energy=energy,
            properties=properties,
            position_error=error,
            energy_error=0.5 * jnp.abs(jnp.sum(step * slope)),
            contact_changes=changes,
            holds=(changes == 0) & small & sound & ~pairs.stale(here.positions),
        )

    return jax.vmap(one)(wanted)


def _touching(potential: Potential, system: System, pairs: Neighbors) -> Bool[Array, " p"]:
    """The pairs in contact, where particles interact by contact."""
    if isinstance(potential, PairPotential) and potential.contact:
        return potential.pairs(system, pairs).interacts
    return jnp.zeros(pairs.valid.shape, bool)


def _longest(moves: Float[Array, "n d"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.max(jnp.sum(moves**2, axis=-1)))


def _properties(guess: Equilibrium, held: implicit.Held, at_rest: dict[str, float]) -> dict[str, Array]:
    """At predicted positions, where particles are held as at rest; the contact number stays while contacts do."""
    names = [name for name in at_rest if name != "contact_number"]
    if not names:
        return {name: jnp.asarray(value) for name, value in at_rest.items()}
    matrix = hessian(guess.potential, guess.system, held.backbone)
    there = dataclasses.replace(held, matrix=matrix, solver=guess.rule.solver)
    found = dict(zip(names, measured(guess, names, there), strict=True))
    return {name: jnp.asarray(found.get(name, value)) for name, value in at_rest.items()}
