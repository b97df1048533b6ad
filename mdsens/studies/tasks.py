"""From a study to its tasks, and to batches of tasks of one shape. The same study always gives the same ones.

Neither JAX nor anything that needs it is imported here: a worker imports this module before it knows its device.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .names import is_of_bonds
from .sections import MOST_TASKS, Range, Study

FORMAT = 1
"""Part of the id of every task. A higher number computes everything anew."""

BYTES_PER_BATCH = {"cpu": 1e9, "gpu": 2e10}
"""Memory of a batch, by a rough estimate; a batch that runs out of memory all the same is halved."""

MEMBERS_PER_BATCH = {"cpu": 64, "gpu": 4096}

LARGEST_IN_ENSEMBLE = {"cpu": 500, "gpu": 5000}
"""Particles. Larger packings are relaxed one after another, with Newton's method for the last digits."""

MEMBERS_ONE_BY_ONE = 4
"""Size of a batch whose packings are relaxed one after another: an interruption loses at most so many."""

CROWDING_RATIO = 1.2
"""Packings whose numbers of neighbors differ by more than this factor get neighbor lists of different lengths."""

LARGEST_DENSE = 1200
"""Degrees of freedom beyond which no dense matrices are made."""

MEMBERS_WITH_ONE_POTENTIAL = 16
"""From so many tasks with the same potential on, they make batches of their own."""


@dataclass(frozen=True)
class Task:
    """One packing, and what to compute of it.

    **Arguments:**

    - `id`: a digest of everything that determines the result.
    - `varied`: the values of the parameters that vary.
    - `system`: arguments of `random_packing`, or a file and its checksum.
    - `potential`: the name and the parameters of the potential.
    - `shape`: tasks with the same shape can be computed in one batch.
    - `study`: the study.
    - `folder`: the folder of the study's files.
    """

    id: str
    varied: dict[str, float]
    system: dict[str, Any]
    potential: dict[str, Any]
    shape: tuple[Any, ...]
    study: Study = field(repr=False)
    folder: Path = field(repr=False, compare=False, default=Path())

    @property
    def seed(self) -> int | None:
        """The seed of the initial positions; None for a packing from a file."""
        return self.system.get("seed")

    @property
    def bonded(self) -> bool:
        """Whether the packing comes with bonds or angles, which only packings from the same file share."""
        return self.shape[5]

    def shape_of(self, parameter: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        n, dim = self.shape[:2]
        known = {"diameters": (n,), "box": (dim, dim), **dict(self.shape[6])}
        value = self.potential.get(parameter, 0.0)
        return known[parameter] if parameter in known else tuple(_lengths(value))

    @property
    def pressure(self) -> float | None:
        """The pressure at which the cell relaxes too; None for a fixed cell."""
        return self.varied.get("pressure", self.study.relaxation.pressure)


@dataclass(frozen=True)
class Batch:
    """Tasks that are computed together.

    **Arguments:**

    - `id`: a digest of the ids of the tasks.
    - `tasks`: the tasks.
    - `size`: number of tasks in the whole batch as it was planned, before any of them were done.
    - `fullest`: the most crowded of all tasks of this shape, where that is known beforehand.
    """

    id: str
    tasks: tuple[Task, ...]
    size: int
    fullest: Task | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """Batches with the same shape share their compiled programs."""
        return (*self.tasks[0].shape, self.size, self.fullest and self.fullest.id)

    def halves(self) -> list[Batch]:
        middle = (len(self.tasks) + 1) // 2
        return [batch_of(half, len(half), self.fullest) for half in (self.tasks[:middle], self.tasks[middle:])]


def batch_of(tasks: Sequence[Task], size: int, fullest: Task | None = None) -> Batch:
    return Batch(_digest([task.id for task in tasks]), tuple(tasks), size, fullest)


def tasks_of(study: Study, folder: Path) -> list[Task]:
    """All tasks of a study, in order: parameters as in the file, the last one fastest, then seeds.

    **Arguments:**

    - `study`: the study.
    - `folder`: the folder of its files.

    **Raises:**

    - `InvalidInput` if a file is missing or cannot be read, or if there are too many tasks.
    """
    sources = list(_sources(study, folder))
    if study.sweep.points * len(sources) > MOST_TASKS:
        raise InvalidInput(
            f"{study.sweep.points} combinations of {len(sources)} files are more than {MOST_TASKS} tasks"
        )
    shared = {key: getattr(study, key).model_dump() for key in ("relaxation", "compute", "keep")}
    tasks = [_task(study, folder, point, source, shared) for point in _points(study) for source in sources]
    return list({task.id: task for task in tasks}.values())


def batches_of(tasks: Sequence[Task], device: str) -> list[Batch]:
    """Batches of nearly equal size, each of tasks of one shape, for a `device`, `cpu` or `gpu`."""
    batches = []
    for fullest, members in _groups(tasks):
        count = -(-len(members) // _members_per_batch(members[0], device))
        size = -(-len(members) // count)
        for k in range(count):
            chosen = members[k * len(members) // count : (k + 1) * len(members) // count]
            batches.append(batch_of(chosen, size, fullest))
    return batches


def _groups(tasks: Sequence[Task]) -> Iterator[tuple[Task | None, list[Task]]]:
    """Tasks of one shape and similar crowding, each group with its most crowded task.

    Where many tasks have the same potential they form groups of their own, since the same function then applies to
    every pair.
    """
    shapes: dict[tuple[Any, ...], list[Task]] = {}
    for task in tasks:
        shapes.setdefault(task.shape, []).append(task)
    for members in shapes.values():
        crowding = {task.id: _crowding(task) for task in members}
        highest, similar = max(crowding.values()), dict[int, list[Task]]()
        for task in members:
            steps = int(math.log(highest / crowding[task.id]) / math.log(CROWDING_RATIO)) if crowding[task.id] else 0
            similar.setdefault(steps, []).append(task)
        for group in similar.values():
            fullest = max(group, key=lambda task: crowding[task.id]) if highest else None
            yield from ((fullest, part) for part in _by_potential(group))


def _by_potential(tasks: list[Task]) -> list[list[Task]]:
    potentials: dict[str, list[Task]] = {}
    for task in tasks:
        potentials.setdefault(json.dumps(task.potential), []).append(task)
    fewest = min(map(len, potentials.values()))
    return list(potentials.values()) if fewest >= MEMBERS_WITH_ONE_POTENTIAL else [tasks]


def _crowding(task: Task) -> float:
    """The expected number of neighbors in a random packing, up to a factor; zero if that is not known."""
    if "file" in task.system:
        return 0.0
    sizes, d = task.system["diameters"], task.system["dim"]
    volume = sum(size**d for size in sizes) / len(sizes) / task.system["packing_fraction"]
    spread = math.sqrt(math.log1p(task.system.get("polydispersity", 0.0) ** 2))
    volume *= math.exp(0.5 * d * (d - 1) * spread**2)
    largest = max(sizes) * math.exp(3.0 * spread)
    reaches = [(0.5 * (a + b) + 0.25 * largest) ** d for a in sizes for b in sizes]
    return sum(reaches) / len(reaches) / volume


def _members_per_batch(task: Task, device: str) -> int:
    given = task.study.execution.batch_size
    if given is not None:
        return given
    n, dim = task.shape[:2]
    if n > LARGEST_IN_ENSEMBLE[device] or task.pressure is not None:
        return MEMBERS_ONE_BY_ONE
    freedoms = min(n * dim, LARGEST_DENSE)
    bytes_each = 8.0 * (8.0 * freedoms**2 + 400.0 * n * dim) + task.study.compute.bytes_of(n, dim)
    return max(1, min(MEMBERS_PER_BATCH[device], int(BYTES_PER_BATCH[device] / bytes_each)))


def _points(study: Study) -> Iterator[dict[str, float]]:
    """The values of the parameters that vary, one combination after another."""
    sweep, names = study.sweep, list(study.sweep.parameters)
    if sweep.method == "grid":
        for values in itertools.product(*(_grid(each) for each in sweep.parameters.values())):
            yield dict(zip(names, values, strict=True))
        return
    if not names:
        yield {}
        return
    for fractions in _samples(study):
        ranges = [each for each in sweep.parameters.values() if isinstance(each, Range)]
        yield {name: each.at(u) for name, each, u in zip(names, ranges, fractions, strict=True)}


def _grid(varied: Range | list[float]) -> list[float]:
    if not isinstance(varied, Range):
        return varied
    assert varied.count is not None
    return [varied.at(k / max(1, varied.count - 1)) for k in range(varied.count)]


def _samples(study: Study) -> list[list[float]]:
    """Points of the unit cube: pseudo-random, or a scrambled Sobol' sequence (Owen 1998)."""
    import warnings

    import numpy as np

    sweep = study.sweep
    shape, generator = (sweep.samples or 0, len(sweep.parameters)), np.random.default_rng(sweep.seed)
    if sweep.method == "random":
        return generator.uniform(size=shape).tolist()
    from scipy.stats import qmc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # any number of samples is allowed, not only powers of two
        return qmc.Sobol(shape[1], rng=generator).random(shape[0]).tolist()


def _sources(study: Study, folder: Path) -> Iterator[dict[str, Any]]:
    """The sources of packings: seeds, or files."""
    if study.system.files is None:
        yield from ({"seed": seed} for seed in study.every_seed)
        return
    root = folder.resolve()
    for pattern in study.system.files:
        try:
            paths = sorted(path for path in root.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError) as error:
            raise InvalidInput(f"system.files: {pattern} is no pattern of names: {error}") from error
        if not paths:
            raise InvalidInput(f"system.files: there is no file {pattern} in {folder}")
        for path in paths:
            if not path.resolve().is_relative_to(root):
                raise InvalidInput(f"system.files: {path} leads out of {folder}")
            yield _file(study, path, path.relative_to(root).as_posix())


def _file(study: Study, path: Path, name: str) -> dict[str, Any]:
    import numpy as np

    from ..parameters.names import full_name
    from .sources import digest_of, load

    dim = study.system.dim if "dim" in study.system.model_fields_set else None
    given = {"file": name, "sha256": digest_of(path), "diameters": study.system.diameters, "dim": dim}
    of_potential = _potential(study, _first_point(study))
    potential, system = load(_fixed(study, given), of_potential, path.parents[name.count("/")])
    at_pressure = "pressure" in study.sweep.parameters or study.relaxation.pressure is not None
    wanted = [*study.compute.needs_cell, *(["pressure"] if at_pressure else [])]
    missing = [each for each in wanted if not (any if each == "box" else all)(system.periodic)]
    if missing:
        some = "open boundaries along some directions" if any(system.periodic) else "open boundaries"
        raise InvalidInput(f"{name} has {some}, and so no {', '.join(missing)}: leave that out of the study")
    kinds, known = int(system.species.max()) + 1, potential.parameter_names()
    for each in [*study.sweep.parameters, *study.compute.parameters]:
        if each.startswith("species-diameter:") and int(each.partition(":")[2]) >= kinds:
            raise InvalidInput(f"{name} has {kinds} species, from 0 on: there is no {each} in it")
        if is_of_bonds(each) and full_name(each, potential) not in known:
            raise InvalidInput(f"{name} has no {each.partition('.')[0]}: there is no {each} in it")
    of_terms = {each: full_name(each, potential) for each in study.compute.parameters if is_of_bonds(each)}
    shapes = {each: np.shape(potential.get_parameter(own)) for each, own in of_terms.items()}
    fixed = 0 if system.fixed is None else system.fixed.ndim
    bonded = any(not part.is_pairwise for part in potential.parts())
    return {"system": given, "shape": (system.n, system.dim, system.periodic), "more": (fixed, bonded, shapes)}


def _first_point(study: Study) -> dict[str, float]:
    """The first value of each parameter of the sweep."""
    first = {}
    for name, varied in study.sweep.parameters.items():
        first[name] = varied.low if isinstance(varied, Range) else varied[0]
    return first


def _potential(study: Study, varied: dict[str, float]) -> dict[str, Any]:
    """The name and the parameters of the potential."""
    known = study.potential.differentiable
    own = {name: value for name, value in varied.items() if name in known or is_of_bonds(name)}
    return {"name": study.potential.name, **study.potential.parameters, **own}


def _fixed(study: Study, system: dict[str, Any]) -> dict[str, Any]:
    return system | {"fixed": study.system.fixed} if study.system.fixed else system


def _task(study: Study, folder: Path, point: dict[str, float], source: dict[str, Any], shared: dict[str, Any]) -> Task:
    varied = {name: int(value) if name == "n" else value for name, value in point.items()}
    kinds = {name: value for name, value in varied.items() if name.startswith("species-diameter:")}
    potential = _potential(study, varied)
    if "system" in source:
        system = source["system"] | kinds
        n, dim, periodic = source["shape"]
    else:
        sizes = [kinds.get(f"species-diameter:{k}", size) for k, size in enumerate(study.system.sizes)]
        n, dim, periodic = varied.get("n", study.system.n), study.system.dim, (True,) * study.system.dim
        fraction = varied.get("packing_fraction", study.system.packing_fraction)
        spread = varied.get("polydispersity", study.system.polydispersity)
        system = {"n": n, "dim": dim, "diameters": sizes, "packing_fraction": fraction, "seed": source["seed"]}
        system |= {"polydispersity": spread} if spread else {}
    relaxation = shared["relaxation"] | {"pressure": varied.get("pressure", study.relaxation.pressure)}
    system = _fixed(study, system)
    content = {**shared, "relaxation": relaxation, "system": system, "potential": potential}
    matrices = tuple(len(value) if isinstance(value, list) else 0 for value in potential.values())
    fixed, bonded, shapes = source.get("more", (0, False, {}))
    return Task(
        id=_digest({**content, "kind": study.kind, "format": FORMAT}),
        varied=varied,
        system=system,
        potential=potential,
        shape=(n, dim, periodic, matrices, fixed, bonded, tuple(shapes.items())),
        study=study,
        folder=folder,
    )


def _lengths(value: Any) -> list[int]:
    """The shape of a number or of a matrix as nested lists."""
    return [len(value), *_lengths(value[0])] if isinstance(value, list) else []


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
