"""What a batch of tasks comes to: a row of numbers for each, and arrays. A task that fails is a row with its reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .. import implicit, minimizers, potentials, validation
from ..certificate import Certificate, Evidence, certificate_of, evidence
from ..contacts import Standing
from ..ensemble import ALL_PAIRS_UP_TO, relax_ensemble
from ..errors import InvalidInput, MdsensError
from ..io import read
from ..neighbors import AllPairs, NeighborList, automatic
from ..packings import random_packing
from ..parameters import with_parameter
from ..properties import measured
from ..relaxation import Equilibrium, Relaxation
from ..response import Sensitivity, judged, sensitivity, sensitivity_columns
from ..system import System
from .tasks import ALONE_FROM, Batch, Task, digest_of

FACTS = ("minimum", "softest", "stiffest", "condition", "zero_modes", "floppy", "contact_number", "isostatic",
         "smallest_overlap", "smallest_gap")  # fmt: skip
"""Of a certificate, in the table."""


@dataclasses.dataclass
class Found:
    """What is known of one task: `reason` and `message` where it failed, and all that is known all the same."""

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
        """Whether the positions are those of a minimum, be there a response or not."""
        return self.reason not in ("NotConverged", "NotAMinimum", "InvalidInput", "WorkerDied")

    def failed(self, reason: str, message: str) -> None:
        if not self.reason:
            self.reason, self.message = reason, " ".join(message.split())


def compute(batch: Batch) -> list[Found]:
    """All tasks of a batch, together where that can be, else one after another."""
    found, ready = {}, []
    for task in batch.tasks:
        try:
            potential, system = potential_of(task), system_of(task)
            validation.check_potential(potential)
            validation.check_system(potential, system)
            ready.append((task, potential, system))
        except MdsensError as error:
            found[task.id] = Found()
            found[task.id].failed(type(error).__name__, str(error))
    together = ready and all(_joins(*each) for each in ready)
    results = _together(ready, batch) if together else [alone(*each) for each in ready]
    found |= {task.id: each for (task, _, _), each in zip(ready, results, strict=True)}
    return [found[task.id] for task in batch.tasks]


def potential_of(task: Task) -> potentials.PairPotential:
    return potentials.PAIRWISE[task.potential["name"]](**{k: v for k, v in task.potential.items() if k != "name"})


def system_of(task: Task) -> System:
    """The packing of a task before it is relaxed."""
    given = task.system
    if "file" not in given:
        return random_packing(**given)
    if digest_of(task.folder / given["file"]) != given["sha256"]:
        raise InvalidInput(f"{given['file']} is not the file any more that it was when the study was planned")
    system = read(task.folder / given["file"], diameters=given["diameters"], dim=given["dim"])
    for name, value in given.items():
        if name.startswith("species-diameter:"):
            _, system = with_parameter(name, jnp.asarray(value), potential_of(task), system)
    return system


def relaxation_of(task: Task) -> Relaxation:
    wanted = task.study.relaxation
    return Relaxation(
        minimizer=minimizers.NAMED[wanted.minimizer](),
        tolerance=wanted.tolerance,
        max_steps=wanted.max_steps,
        one_sided=wanted.one_sided,
        pressure=task.pressure,
    )


def _joins(task: Task, potential: potentials.PairPotential, system: System) -> bool:
    """Whether a task is computed together with others: a small one, in a fixed cell, without images but the nearest."""
    small = system.n <= ALONE_FROM.get(jax.default_backend(), ALONE_FROM["gpu"])
    return small and task.pressure is None and bool(_nearest_suffices(potential, system))


@eqx.filter_jit
def _nearest_suffices(potential: potentials.PairPotential, system: System) -> Bool[Array, ""]:
    return AllPairs().fits(potential, system)


def _together(ready: Sequence[tuple[Task, potentials.PairPotential, System]], batch: Batch) -> list[Found]:
    """A batch of fewer tasks than it was planned for is filled up with copies, so that its shapes are the same."""
    filled = [ready[k % len(ready)] for k in range(max(batch.size, len(ready)))]
    task = filled[0][0]
    relaxation, wanted = relaxation_of(task), task.study.compute
    if batch.fullest is not None:
        relaxation = dataclasses.replace(relaxation, neighbors=_roomy(batch.fullest, len(filled)))
    same = all(each.potential == task.potential for each, _, _ in filled)
    potential: Any = filled[0][1] if same else [potential for _, potential, _ in filled]
    equilibria = relax_ensemble(relaxation, potential, [system for _, _, system in filled])
    members, facts = jax.device_get(
        (equilibria, _facts(equilibria, tuple(wanted.properties), tuple(wanted.response), wanted.certificate))
    )

    def one(k: int) -> Found:
        rest: Equilibrium = jax.tree.map(lambda leaf: leaf[k], members)
        found = Found(filled[k][2], float(rest.energy), float(rest.max_force), int(rest.steps), int(rest.escapes))
        _refuse(found, rest, relaxation)
        if found.reason:
            return found
        mine: _Facts = jax.tree.map(lambda leaf: leaf[k], facts)
        found.system = rest.system
        found.properties = dict(zip(wanted.properties, mine.properties.tolist(), strict=True))
        found.certificate = None if mine.evidence is None else certificate_of(rest, mine.evidence)
        _judge(found, mine, relaxation.one_sided)
        return found

    return [one(k) for k in range(len(ready))]


class _Facts(eqx.Module):
    """What the device finds out about an equilibrium."""

    standing: Standing
    properties: Array
    responses: dict[str, tuple[Array, ...]]
    evidence: Evidence | None


@eqx.filter_jit
def _facts(equilibria: Equilibrium, properties: tuple[str, ...], wrt: tuple[str, ...], certified: bool) -> _Facts:
    """Of every member [m]; what holds it, and the eigenvectors of its Hessian, are found once."""

    def one(rest: Equilibrium) -> _Facts:
        potential, system, close = rest.potential, rest.system, rest.close
        held = implicit.hold(system, potential, close, rest.rule.solver, rest.curvature).decomposed()
        values = measured(rest, properties, held) if properties else jnp.zeros(0)
        responses = {name: sensitivity_columns(rest, name, held) for name in wrt}
        seen = evidence(potential, system, close, rest.max_force, held) if certified else None
        if seen is not None:  # the matrix is no news
            seen = eqx.tree_at(lambda seen: seen.matrix, seen, None)
        return _Facts(held.standing, values, responses, seen)

    return jax.vmap(one)(equilibria.frozen)


HIDDEN = "the forces left hide what holds the particles: a smaller tolerance tells"


def _judge(found: Found, facts: _Facts, one_sided: bool) -> None:
    """The responses that can be had, or why not."""
    standing = facts.standing
    for name, columns in facts.responses.items():
        response = judged(name, *(np.asarray(each) for each in columns))
        if not standing.told:
            found.failed("NotDifferentiable", HIDDEN)
        elif not standing.rigid:
            found.failed("NotRigid", "nothing holds the particles: their positions respond to nothing")
        elif not (standing.differentiable or one_sided):
            pairs = int(np.sum(standing.marginal))
            found.failed(
                "NotDifferentiable",
                f"{pairs} pair{'s touch' if pairs > 1 else ' touches'} to within what the residual forces can tell",
            )
        elif not response.sound:
            found.failed("SolveFailed", f"the linear solve for the response to {name} cannot be trusted")
        else:
            found.responses[name] = response
    moduli = [found.properties[name] for name in ("bulk_modulus", "shear_modulus") if name in found.properties]
    if not found.reason and moduli and not standing.told:
        found.failed("NotDifferentiable", HIDDEN)
    if not found.reason and standing.rigid and not np.isfinite(moduli).all():
        reason = "SolveFailed" if standing.differentiable or one_sided else "NotDifferentiable"
        found.failed(reason, "the moduli are no numbers: contacts just touch, or the linear solve failed")


def _roomy(fullest: Task, members: int) -> AllPairs | NeighborList:
    """Pairs with room for the most crowded of all batches that are alike, so that all are compiled once."""
    return automatic(potential_of(fullest), system_of(fullest), ALL_PAIRS_UP_TO, members)


def _refuse(found: Found, rest: Equilibrium, relaxation: Relaxation) -> None:
    if not rest.converged:
        found.failed(
            "NotConverged",
            f"the largest force component is {float(rest.max_force):.3g} after {int(rest.steps)} steps, not below the "
            f"tolerance {relaxation.tolerance:.3g}",
        )
    elif not rest.minimum:
        found.failed("NotAMinimum", f"a saddle: along one direction the curvature is {float(rest.curvature):.3g}")


def alone(task: Task, potential: potentials.PairPotential, system: System) -> Found:
    """One task by itself."""
    found, wanted = Found(system), task.study.compute
    try:
        rest = relaxation_of(task)(potential, system)
        found = Found(rest.system, float(rest.energy), float(rest.max_force), int(rest.steps), int(rest.escapes))
        if wanted.certificate:
            found.certificate = rest.certificate
        values = measured(rest, wanted.properties).tolist() if wanted.properties else []
        found.properties = dict(zip(wanted.properties, values, strict=True))
        for name in wanted.response:
            found.responses[name] = sensitivity(rest, name)
    except MdsensError as error:
        found.failed(type(error).__name__, str(error))
    return found


def row_of(task: Task, found: Found) -> dict[str, Any]:
    """The numbers of a task, by the columns of the table; the same columns for every task of a study. What varies is
    one column, since a task may belong to other studies, in which other parameters do.
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
    """Of a particle's motion, over particles and components of θ."""
    n, d = response.response.shape[:2]
    return float(np.sqrt(np.mean(np.sum(response.response.reshape(n, d, -1) ** 2, axis=1))))


def arrays_of(task: Task, found: Found) -> dict[str, np.ndarray]:
    """The arrays that the study keeps of a task; NaN where there are none."""
    n, dim, periodic = task.shape[:3]
    keep, wanted, system = task.study.keep, task.study.compute, found.system
    arrays: dict[str, np.ndarray] = {}
    if keep.positions:
        arrays["positions"] = np.full((n, dim), np.nan)
        arrays["diameters"], arrays["species"] = np.full(n, np.nan), np.full(n, -1, np.int32)
        if periodic:
            arrays["box"] = np.full((dim, dim), np.nan)
        if system is not None:
            known = {name: np.asarray(getattr(system, name)) for name in arrays}
            if not found.at_rest:
                known["positions"] = arrays["positions"]
            arrays |= known
    if keep.response:
        for name in wanted.response:
            shape = (n, dim, *_shape_of(name, task))
            response = found.responses.get(name)
            arrays[f"response/{name}"] = np.full(shape, np.nan) if response is None else response.response
            arrays[f"value/{name}"] = np.full(shape[2:], np.nan) if response is None else response.value
    return arrays


def _shape_of(name: str, task: Task) -> tuple[int, ...]:
    n, dim = task.shape[:2]
    return {"diameters": (n,), "box": (dim, dim)}.get(name, np.shape(task.potential.get(name, 0.0)))
