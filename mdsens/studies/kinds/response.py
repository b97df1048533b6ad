"""The kind `response`: relax packings, measure properties, and compute how they respond to parameters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ... import minimizers
from ...errors import MdsensError, Status
from ...linearization import Linearization, facts_of, status_on_host
from ...neighbors import AllPairs, NeighborList, PairFinder, automatic
from ...neighbors.allocation import fitting
from ...parameters.names import full_name
from ...potentials import Potential
from ...properties import measured
from ...relaxation import validation
from ...relaxation.certificate import Certificate
from ...relaxation.ensemble import relax_ensemble
from ...relaxation.equilibrium import Equilibrium
from ...relaxation.relaxation import Relaxation
from ...response.sensitivity import Sensitivity, assemble_sensitivity, sensitivity, sensitivity_columns
from ...runtime.batching import member
from ...system import System
from ..sections import Study
from ..sources import load
from ..tasks import LARGEST_IN_ENSEMBLE, Batch, Task, tasks_of
from .base import Kind

FACTS = ("minimum", "softest", "stiffest", "condition", "zero_modes", "floppy", "contact_number", "isostatic",
         "smallest_overlap", "smallest_gap")  # fmt: skip
"""Facts of a certificate that are columns of the table."""

NOT_AT_REST = ("NotConverged", "NotAMinimum", "InvalidInput", "WorkerDied")
"""Reasons of failures for which the positions are not those of a minimum."""


@dataclasses.dataclass
class Found:
    """The result of one task: `reason` and `message` if it failed, and everything that is known all the same."""

    system: System | None = None
    energy: float = np.nan
    max_force: float = np.nan
    steps: int = -1
    escapes: int = -1
    reason: str = ""
    message: str = ""
    properties: dict[str, float] = dataclasses.field(default_factory=dict)
    certificate: Certificate | None = None
    responses: dict[str, Sensitivity] = dataclasses.field(default_factory=dict)

    @property
    def at_rest(self) -> bool:
        """Whether the positions are those of a minimum, with or without a response."""
        return self.reason not in NOT_AT_REST

    def failed(self, reason: str, message: str) -> None:
        """Note a failure; the first one counts."""
        if not self.reason:
            self.reason, self.message = reason, " ".join(message.split())

    def refused(self, status: Status, **facts: Any) -> None:
        self.failed(status.error.__name__, status.describe(**facts))


def compute(batch: Batch) -> list[Found]:
    """Compute all tasks of a batch: together if all of them can be members of an ensemble, else one after another."""
    found, ready, separate = {}, [], False
    for task in batch.tasks:
        try:
            potential, system = load(task.system, task.potential, task.folder)
            needs_images = _check(potential, system)
            ready.append((task, potential, system))
            separate = separate or needs_images or task.bonded or not _is_small(task)
        except MdsensError as error:
            found[task.id] = lost(type(error).__name__, str(error))
    together = ready and not separate
    results = _compute_together(ready, batch) if together else [compute_alone(*each) for each in ready]
    found |= {task.id: each for (task, _, _), each in zip(ready, results, strict=True)}
    return [found[task.id] for task in batch.tasks]


def _check(potential: Potential, system: System) -> bool:
    """Whether particles interact with more than the nearest image of another one.

    **Raises** `InvalidInput` for a potential or a system that cannot be relaxed.
    """
    potential = potential.prepared_for(system)
    potential.check()
    surveyed = validation.surveyed(potential, system, NeighborList().skin)
    return fitting(AllPairs(), potential, system, surveyed) != AllPairs()


def _is_small(task: Task) -> bool:
    """Whether a packing is small enough to be a member of an ensemble, and its cell fixed."""
    largest = LARGEST_IN_ENSEMBLE.get(jax.default_backend(), LARGEST_IN_ENSEMBLE["gpu"])
    return task.shape[0] <= largest and task.pressure is None


def lost(reason: str, message: str) -> Found:
    """The result of a task that could not be computed at all."""
    found = Found()
    found.failed(reason, message)
    return found


def relaxation_of(task: Task) -> Relaxation:
    wanted = task.study.relaxation
    return Relaxation(
        minimizer=minimizers.REGISTRY[wanted.minimizer](),
        tolerance=wanted.tolerance,
        relative_tolerance=wanted.relative_tolerance,
        max_steps=wanted.max_steps,
        one_sided=wanted.one_sided,
        pressure=task.pressure,
    )


def _compute_together(ready: Sequence[tuple[Task, Potential, System]], batch: Batch) -> list[Found]:
    """Compute tasks as one ensemble, filled up with copies to the size of the whole batch to keep its shape."""
    members = [ready[k % len(ready)] for k in range(max(batch.size, len(ready)))]
    task = members[0][0]
    relaxation, wanted = relaxation_of(task), task.study.compute
    if batch.fullest is not None:
        relaxation = dataclasses.replace(relaxation, neighbors=_with_room_for(batch.fullest, len(members)))
    same = all(each.potential == task.potential for each, _, _ in members)
    potential: Any = members[0][1] if same else [potential for _, potential, _ in members]
    equilibria = relax_ensemble(relaxation, potential, [system for _, _, system in members])
    on_host, measurements = jax.device_get(
        (equilibria, _measure(equilibria, tuple(wanted.properties), tuple(wanted.response)))
    )

    def one(k: int) -> Found:
        rest: Equilibrium = on_host[k]
        found = Found(members[k][2], float(rest.energy), float(rest.max_force), int(rest.steps), int(rest.escapes))
        if rest.status is not Status.OK:
            found.refused(
                rest.status,
                max_force=found.max_force,
                steps=found.steps,
                tolerance=float(rest.tolerance),
                curvature=float(rest.curvature),
            )
            return found
        mine: _Measurements = member(measurements, k)
        found.system = rest.system
        found.properties = dict(zip(wanted.properties, mine.properties.tolist(), strict=True))
        if wanted.certificate:
            found.certificate = rest.with_linearization(mine.linearization).certificate
        _check_responses(found, mine, relaxation.one_sided)
        return found

    return [one(k) for k in range(len(ready))]


class _Measurements(eqx.Module):
    """What the device computes of an equilibrium."""

    linearization: Linearization
    properties: Array
    responses: dict[str, tuple[Array, ...]]


@eqx.filter_jit
def _measure(equilibria: Equilibrium, properties: tuple[str, ...], wrt: tuple[str, ...]) -> _Measurements:
    """Properties and responses of every member [m], from one linearization of each."""

    def one(rest: Equilibrium) -> _Measurements:
        linearization = rest.linearization
        values = measured(rest, properties, linearization) if properties else jnp.zeros(0)
        responses = {name: sensitivity_columns(rest, name, linearization) for name in wrt}
        return _Measurements(_for_certificate(linearization), values, responses)

    return jax.vmap(one)(equilibria.frozen)


def _for_certificate(linearization: Linearization) -> Linearization:
    """The same without eigenvectors, which would take most of the memory and which a certificate does not need."""
    factors = (linearization.factors[0], None) if linearization.is_dense else None
    return dataclasses.replace(linearization, factors=factors)


def _check_responses(found: Found, measurements: _Measurements, one_sided: bool) -> None:
    """Enter the responses that are defined and can be trusted, or why there are none."""
    linearization = measurements.linearization
    status, facts = status_on_host(linearization, one_sided), facts_of(linearization)
    for name, columns in measurements.responses.items():
        response = assemble_sensitivity(name, *(np.asarray(each) for each in columns))
        if status is not Status.OK:
            found.refused(status, **facts)
        elif not response.trustworthy:
            found.refused(Status.SOLVE_FAILED, what=f"the response to {name}")
        else:
            found.responses[name] = response
    moduli = [found.properties[name] for name in ("bulk_modulus", "shear_modulus") if name in found.properties]
    if moduli and status is Status.UNRESOLVED:
        found.refused(status, **facts)
    if status is not Status.NOT_RIGID and not np.isfinite(moduli).all():
        found.refused(Status.SOLVE_FAILED if status is Status.OK else status, what="the elastic moduli", **facts)


def _with_room_for(fullest: Task, members: int) -> PairFinder:
    """A pair finder with room for the most crowded of all similar batches, so that they share one compiled program."""
    potential, system = load(fullest.system, fullest.potential, fullest.folder)
    return automatic(potential.prepared_for(system), system, members=members)


def compute_alone(task: Task, potential: Potential, system: System) -> Found:
    """Compute one task by itself."""
    found, wanted = Found(system), task.study.compute
    try:
        rest = relaxation_of(task)(potential, system)
        found = Found(rest.system, float(rest.energy), float(rest.max_force), int(rest.steps), int(rest.escapes))
        if wanted.certificate:
            found.certificate = rest.certificate
        values = measured(rest, wanted.properties).tolist() if wanted.properties else []
        found.properties = dict(zip(wanted.properties, values, strict=True))
        for name in wanted.response:
            found.responses[name] = sensitivity(rest, full_name(name, rest.potential))
    except MdsensError as error:
        found.failed(type(error).__name__, str(error))
    return found


def row_of(task: Task, found: Found) -> dict[str, Any]:
    """The columns of the table; the same for all tasks of a study.

    All parameters that vary share one column, since other parameters may vary in other studies with the same task.
    """
    certificate, wanted = found.certificate, task.study.compute
    row: dict[str, Any] = {"task": task.id, "status": "failed" if found.reason else "done"}
    row |= {"reason": found.reason, "message": found.message}
    row |= {"file": task.system["file"]} if "file" in task.system else {"seed": task.seed}
    row |= {"n": task.shape[0], "dim": task.shape[1], "varied": json.dumps(task.varied)}
    asked = {name: found.properties.get(name, np.nan) for name in wanted.properties if name != "energy"}
    row |= {
        "energy": found.energy,
        **asked,
        "max_force": found.max_force,
        "steps": found.steps,
        "escapes": found.escapes,
    }
    if wanted.certificate:
        facts = {} if certificate is None else certificate.as_dict()
        facts |= {"rattlers": np.nan if certificate is None else len(certificate.rattlers)}
        known = {name: facts.get(name) for name in (*FACTS, "rattlers")}
        row |= {name: np.nan if value is None else float(value) for name, value in known.items() if name not in row}
    for name in wanted.response:
        response = found.responses.get(name)
        row |= {
            f"response_l1[{name}]": np.nan if response is None else response.l1,
            f"response_rms[{name}]": np.nan if response is None else _rms(response),
            f"residual[{name}]": np.nan if response is None else response.residual,
        }
    return row


def _rms(response: Sensitivity) -> float:
    """The root mean square displacement per unit of θ, over particles and components of θ."""
    n, d = response.response.shape[:2]
    return float(np.sqrt(np.mean(np.sum(response.response.reshape(n, d, -1) ** 2, axis=1))))


def arrays_of(task: Task, found: Found) -> dict[str, np.ndarray]:
    """The arrays that the study keeps of a task, NaN where they are unknown."""
    n, dim, periodic = task.shape[:3]
    keep, wanted, system = task.study.keep, task.study.compute, found.system
    arrays: dict[str, np.ndarray] = {}
    if keep.positions:
        arrays["positions"] = np.full((n, dim), np.nan)
        arrays["diameters"], arrays["species"] = np.full(n, np.nan), np.full(n, -1, np.int32)
        if any(periodic):
            arrays["box"] = np.full((dim, dim), np.nan)
        if len(set(periodic)) > 1:
            arrays["periodic"] = np.array(periodic, np.int32)
        if system is not None:
            known = {name: np.asarray(getattr(system, name), value.dtype) for name, value in arrays.items()}
            if not found.at_rest:
                known["positions"] = arrays["positions"]
            arrays |= known
    if keep.response:
        for name in wanted.response:
            shape = (n, dim, *task.shape_of(name))
            response = found.responses.get(name)
            arrays[f"response/{name}"] = np.full(shape, np.nan) if response is None else response.response
            arrays[f"value/{name}"] = np.full(shape[2:], np.nan) if response is None else response.value
    return arrays


def measured_columns(study: Study) -> list[str]:
    """The columns with properties, and with the sizes of responses."""
    return [*study.compute.properties, *(f"response_l1[{name}]" for name in study.compute.response)]


RESPONSE = Kind(
    study=Study,
    plan=tasks_of,
    compute=compute,
    lost=lost,
    row=row_of,
    arrays=arrays_of,
    measured=measured_columns,
)
