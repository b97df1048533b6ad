"""The relaxed structure and energy at other parameters, without relaxing again.

Along dθ the particles move by their response: x(θ) = x* + ∂x*/∂θ dθ is right to first order. By the 2n+1 theorem
(Hylleraas 1930) the energy *at* these positions and the new parameters is right to third order, since the energy is
stationary; it takes one evaluation. One Newton step from there with the Hessian at x*, x - H⁺∇E(x, θ), makes the
positions right to second order and the energy to fifth. The next such step, which is not taken, estimates the error.
Maliyov, Grigorev and Swinburne (arXiv 2407.02414) predict in the same way.
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

from ..errors import InvalidInput, Status
from ..landscape.configuration import Configuration
from ..landscape.contacts import can_touch
from ..linear_solvers.cholesky import explain_missing_factors
from ..linear_solvers.solve import factorize
from ..linearization import Linearization
from ..neighbors import Neighbors, allocate, automatic
from ..parameters import ParameterVector, as_function
from ..properties import check_properties, measured
from ..relaxation import Equilibrium
from ..response.nearby import check_fixed_cell
from ..runtime.compiled import compile_once
from ..runtime.noise import white_noise
from ..runtime.tracing import as_array

SETS_AT_ONCE = 100
"""Parameter sets that are predicted together."""

WARN_ABOVE = 0.05
"""The fraction of many parameter sets beyond the contact changes above which a warning is given."""

LARGEST_RELATIVE_ERROR = 0.5
"""An estimated error of the positions above this fraction of the predicted motion: the series does not converge."""

NEGLIGIBLE_MOTION = 1e-6
"""A predicted motion below this fraction of the mean diameter is too short for a relative error."""


class Predicted(eqx.Module):
    """The prediction for one set of parameters, or with a leading axis [m] for many.

    - `values` [k]: the parameters.
    - `positions` ([n, d], length), `energy`.
    - `properties`: those asked for, by name.
    - `position_error` (length): the motion of the particle that would go farthest in the next Newton step;
      `energy_error`: the energy that this step would gain. Both are estimates, good as long as contacts stay.
    - `contact_changes`: where particles interact by contact, or the stiffness jumps at a cutoff, the number of pairs
      that touch here and did not, or the other way round.
    - `valid` (bool): whether the prediction can be used. It is not valid if a contact changes; if particles are so far
      from where they were that not all pairs are known; if the next step is not small against the predicted motion; or
      if the energy curves down, as with a negative stiffness.
    """

    values: Float[Array, "*m k"]
    positions: Float[Array, "*m n d"]
    energy: Float[Array, " *m"]
    properties: dict[str, Float[Array, " *m"]]
    position_error: Float[Array, " *m"]
    energy_error: Float[Array, " *m"]
    contact_changes: Int[Array, " *m"]
    valid: Bool[Array, " *m"]

    def warn_beyond(self, stacklevel: int = 3) -> float:
        """The fraction of many sets for which the prediction is invalid; **warns** of more than one in twenty."""
        beyond = float(np.mean(~np.asarray(self.valid)))
        if beyond > WARN_ABOVE:
            warnings.warn(
                f"{beyond:.0%} of the {np.size(self.valid)} parameter sets lie beyond a contact change, or too far: "
                "the prediction is invalid there. Take a smaller range, or relax these "
                "(mdsens.uncertainty.sample(..., relax=mdsens.Relaxation(...)))",
                stacklevel=stacklevel,
            )
        return beyond


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """An equilibrium as a function of some parameters, near their present values: `model(values)`.

    - `equilibrium`, `parameters`: the equilibrium, and the names of the parameters; `order`: that of the positions.
    - `labels`, `values` [k]: the names and the present values of the k components.
    - `response` ([n, d, k], length per unit of the parameter): the motion of the particles along each component.
    - `slope` [k], `curvature` [k, k]: first and second derivatives of the energy of the relaxed system.
    - `properties`: those asked for, at the equilibrium; `property_slopes` [p, k]: their derivatives.
    - `linearization`: that of the equilibrium, with its factors; `neighbors`: all pairs that may interact nearby.
    """

    equilibrium: Equilibrium
    parameters: ParameterVector
    order: Literal[1, 2]
    values: np.ndarray
    response: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    properties: dict[str, float]
    property_slopes: np.ndarray
    linearization: Linearization
    neighbors: Neighbors

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
        return self.parameters.labels

    def __call__(self, values: ArrayLike | Mapping[str, Any]) -> Predicted:
        """Predicts structure, energy and properties.

        **Arguments:**

        - `values`: of all components [k], of many sets of them [m, k], or those that change, by name.

        **Raises:**

        - `InvalidInput` for another number of components, or an unknown name.
        """
        wanted = self._vector(values)
        if wanted.ndim == 1:
            return jax.tree.map(lambda leaf: leaf[0], self._predict_many(wanted[None]))
        return self._predict_many(wanted)

    def _vector(self, values: ArrayLike | Mapping[str, Any]) -> np.ndarray:
        if isinstance(values, Mapping):
            here = dict(zip(self.labels, self.values, strict=True))
            unchanged = {label: value for label, value in here.items() if label.partition("[")[0] not in values}
            return self.parameters.broadcast({**unchanged, **values}, 0.0)
        wanted = np.asarray(values, dtype=float)
        wanted = wanted[None] if wanted.ndim == 0 and len(self.values) == 1 else wanted
        if wanted.ndim not in (1, 2) or wanted.shape[-1] != len(self.values):
            raise InvalidInput(
                f"values must have {len(self.values)} components ({', '.join(self.labels[:8])}), one set [k] or many "
                f"[m, k], not the shape {list(wanted.shape)}"
            )
        return wanted

    def _predict_many(self, wanted: Float[np.ndarray, "m k"]) -> Predicted:
        """A hundred sets at a time; the last hundred is filled up, so that one program serves all."""
        at_once, here = min(len(wanted), SETS_AT_ONCE), self.equilibrium.frozen
        known = here, self.parameters, self.order, as_array(self.response), self.linearization, self.neighbors
        dtype = self.response.dtype
        at_rest = {name: as_array(value, dtype) for name, value in self.properties.items()}
        slopes = dict(zip(self.properties, map(as_array, self.property_slopes), strict=True))
        parts = []
        for first in range(0, len(wanted), at_once):
            chosen = wanted[first : first + at_once]
            filled = np.concatenate([chosen, np.repeat(chosen[-1:], at_once - len(chosen), axis=0)])
            with explain_missing_factors():
                found = jax.device_get(_predict(*known, at_rest, slopes, as_array(filled)))
            parts.append([leaf[: len(chosen)] for leaf in jax.tree.leaves(found)])
        joined = [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(found), joined)


def predict(
    equilibrium: Equilibrium, wrt: str | Iterable[str], order: Literal[1, 2] = 1, properties: Iterable[str] = ()
) -> Prediction:
    """A model of how an equilibrium depends on parameters near their present values.

    **Arguments:**

    - `wrt`: names of parameters, as for `mdsens.sensitivity`.
    - `order`: that of the positions, 1 or 2. The energy is right to order 2 `order` + 1.
    - `properties`: names of properties to predict, to first order by their slopes. With `order` 2 they are computed at
      the second-order positions; for moduli this needs the Hessian there for each set of parameters.

    **Returns:**

    - The Prediction.

    **Raises:**

    - `InvalidInput` for an unknown name, or at constant pressure.
    - What `mdsens.sensitivity` raises where there is no response.

    **Reference:**

    - Gonze and Vigneron, Phys. Rev. B 39, 13120 (1989): the 2n+1 theorem.
    """
    if order not in (1, 2):
        raise InvalidInput(f"positions are predicted to order 1 or 2, not {order}")
    check_fixed_cell(equilibrium)
    names = check_properties(properties)
    equilibrium.check()
    here = equilibrium.frozen
    linearization = here.linearization
    if here.rule.refuse:
        linearization.check(here.rule.one_sided)
    parameters = ParameterVector.from_names(wrt, here.potential, here.system)
    values = parameters.vector(here.potential, here.system)
    with explain_missing_factors():
        found = jax.block_until_ready(_derivatives(here, linearization, parameters, names, values))
    response, slope, curvature, at_rest, property_slopes = map(np.asarray, found)
    if not (np.isfinite(response).all() and np.isfinite(curvature).all()):
        raise Status.SOLVE_FAILED.raised(what=f"the response to {', '.join(parameters.names)}")
    neighbors = allocate(automatic(here.potential, here.system), here.potential, here.system)
    return Prediction(
        equilibrium=equilibrium,
        parameters=parameters,
        order=order,
        values=np.asarray(values),
        response=response,
        slope=slope,
        curvature=0.5 * (curvature + curvature.T),
        properties=dict(zip(names, at_rest.tolist(), strict=True)),
        property_slopes=property_slopes,
        linearization=linearization,
        neighbors=neighbors.only(~np.asarray(linearization.contacts.rattlers)),
    )


@compile_once
def _derivatives(
    equilibrium: Equilibrium,
    linearization: Linearization,
    parameters: ParameterVector,
    names: tuple[str, ...],
    values: Float[Array, " k"],
) -> tuple[Array, ...]:
    """The response, the slope and curvature of the energy, the properties and their slopes."""

    def energy(values: Array) -> Array:
        return as_function(equilibrium, parameters, values, linearization).energy

    def positions(values: Array) -> Array:
        return as_function(equilibrium, parameters, values, linearization).positions

    def asked(values: Array) -> Array:
        moved = as_function(equilibrium, parameters, values, linearization)
        return measured(moved, names) if names else jnp.zeros(0, values.dtype)

    slope, curvature = jax.grad(energy)(values), jax.jacfwd(jax.grad(energy))(values)
    return jax.jacfwd(positions)(values), slope, curvature, asked(values), jax.jacfwd(asked)(values)


@eqx.filter_jit
def _predict(
    equilibrium: Equilibrium,
    parameters: ParameterVector,
    order: int,
    response: Float[Array, "n d k"],
    linearization: Linearization,
    neighbors: Neighbors,
    at_rest: dict[str, Float[Array, ""]],
    slopes: dict[str, Float[Array, " k"]],
    wanted: Float[Array, "m k"],
) -> Predicted:
    system, potential = equilibrium.system, equilibrium.potential
    start, touching = parameters.vector(potential, system), _touching(Configuration(potential, system, neighbors))
    probe = white_noise(system.positions.shape, system.positions.dtype)

    def one(values: Float[Array, " k"]) -> Predicted:
        other, moved = parameters.apply(values, potential, system)
        there = Configuration(other, moved, neighbors).at(system.positions + response @ (values - start))
        gradient = there.gradient()
        step = linearization.solve(gradient)
        for _ in range(1, order):
            there = there.at(there.system.positions - step)
            gradient = there.gradient()
            step = linearization.solve(gradient)
        energy, changes = there.energy(), jnp.sum(_touching(there) != touching)
        if order == 1:
            properties = {name: at_rest[name] + slopes[name] @ (values - start) for name in at_rest}
        else:
            properties = _properties(equilibrium, linearization, there, energy, at_rest)
        x = there.system.positions
        motion, error = _longest(x - system.positions), _longest(step)
        small = error <= LARGEST_RELATIVE_ERROR * motion + NEGLIGIBLE_MOTION * there.length
        change = jax.jvp(lambda x: there.at(x).gradient(), (x,), (probe,))[1]
        resists = (jnp.sum(probe * change) > 0.0) & jnp.all(jnp.isfinite(x))
        return Predicted(
            values=values,
            positions=x,
            energy=energy,
            properties=properties,
            position_error=error,
            energy_error=0.5 * jnp.abs(jnp.sum(step * gradient)),
            contact_changes=changes,
            valid=(changes == 0) & small & resists & ~neighbors.out_of_date(x),
        )

    return jax.vmap(one)(wanted)


def _touching(configuration: Configuration) -> Bool[Array, " p"]:
    """The pairs in contact, where there are contacts; and the terms, such as of walls, that set in."""
    pairs, found = configuration.pairs, [jnp.zeros(1, bool)]
    if pairs is not None:
        found.append(pairs.interacts & can_touch(configuration, pairs))
    for part, terms in configuration.others():
        if terms is not None and part.may_jump:
            found.append(terms.resists())
    return jnp.concatenate(found)


def _longest(moves: Float[Array, "n d"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.max(jnp.sum(moves**2, axis=-1)))


def _properties(
    equilibrium: Equilibrium,
    linearization: Linearization,
    there: Configuration,
    energy: Float[Array, ""],
    at_rest: dict[str, Float[Array, ""]],
) -> dict[str, Array]:
    """Properties at predicted positions, with the rattlers of the equilibrium; the contact number stays as it is."""
    names = [name for name in at_rest if name != "contact_number"]
    if not names:
        return at_rest
    assert isinstance(there.neighbors, Neighbors)
    moved = dataclasses.replace(
        equilibrium,
        source=there.system,
        potential=there.potential,
        known_energy=energy,
        neighbors=there.neighbors,
    )
    known = linearization.at(there)
    known = dataclasses.replace(known, factors=factorize(known.solver, known.hessian, known.modes))
    found = dict(zip(names, measured(moved, names, known), strict=True))
    return {name: found.get(name, value) for name, value in at_rest.items()}
