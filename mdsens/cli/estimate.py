"""The estimate of `mdsens run --dry-run`: how many tasks, how much time, and how much memory."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from ..errors import MdsensError
from ..studies.execution import Execution, Outcome, Stop, places
from ..studies.run import Plan
from ..studies.store import Store
from ..studies.tasks import Batch, batch_of
from ..studies.workers import run_local
from .study_progress import describe_duration, study_progress

TRIAL_TASKS = 4
"""Tasks in each of the two batches that an estimate rests on."""

TRIAL_SHAPES = 4
"""Shapes that are tried, at most."""

Shape = tuple[int, int]
"""Number of particles, and dimension."""


def print_estimate(todo: Plan, execution: Execution) -> None:
    """Print the size of a study, and its time and memory, estimated from two small batches of each shape.

    The first of the two also compiles.
    """
    shapes = Counter(task.shape[:2] for task in todo.tasks)
    sizes = Counter(len(batch.tasks) for batch in todo.batches)
    device, workers = places(execution.device, execution.workers)
    print(f"{'tasks':<17} {len(todo.tasks)}")
    for (n, dim), count in sorted(shapes.items()):
        print(f"{'':<17} {count} of {n} particles in {dim}D")
    print(f"{'batches':<17} {len(todo.batches)}, of {min(sizes)} to {max(sizes)} tasks")
    print(f"{'workers':<17} {workers} on the {device.upper()}")
    trials = {shape: _trial(todo, shape) for shape in sorted(shapes)}
    tried = dict(list(trials.items())[:: -(-len(trials) // TRIAL_SHAPES)])
    seconds, compiling, memory = _measure(tried, device)
    compiling = max(0.0, compiling * len(trials) / len(tried))
    total = compiling + sum(count * _of_nearest(shape, seconds) for shape, count in shapes.items()) / workers
    print(f"{'time':<17} about {describe_duration(total)}, {describe_duration(compiling)} of it compiling")
    print(f"{'memory':<17} {memory / 2**20:.0f} MB for each worker in a small batch, more in whole ones")
    print(f"{'':<17} (from {TRIAL_TASKS} tasks of {'each shape' if len(tried) == len(trials) else 'some shapes'})")


def _measure(tried: dict[Shape, tuple[Batch, Batch]], device: str) -> tuple[dict[Shape, float], float, int]:
    """The seconds per task of each shape, the seconds of all compiling, and the memory of a worker in bytes."""
    seconds, compiling, memory = dict[Shape, float](), 0.0, 0
    count = sum(len(batch.tasks) for trial in tried.values() for batch in trial)
    with tempfile.TemporaryDirectory() as folder, study_progress(count, 0) as advance:
        store = Store(Path(folder))
        store.prepare()
        for shape, (first, second) in tried.items():
            ended: list[Outcome] = []
            for outcome in run_local(store.folder, [first, second], device, 1, Stop()):
                ended.append(outcome)
                advance(len(outcome.batch.tasks), 0)
            if len(ended) != 2 or any(each.trouble for each in ended):
                raise MdsensError(
                    f"{TRIAL_TASKS} tasks of {shape[0]} particles could not be tried: {ended[-1].message}"
                )
            memory = max(memory, *(each.memory for each in ended))
            seconds[shape] = ended[1].seconds / len(second.tasks)
            compiling += ended[0].seconds - ended[1].seconds
    return seconds, compiling, memory


def _trial(todo: Plan, shape: Shape) -> tuple[Batch, Batch]:
    whole = next(batch for batch in todo.batches if batch.tasks[0].shape[:2] == shape)
    size = min(TRIAL_TASKS, len(whole.tasks))
    first, second = (batch_of(tasks, size, whole.fullest) for tasks in (whole.tasks[:size], whole.tasks[-size:]))
    return first, second


def _of_nearest(shape: Shape, seconds: dict[Shape, float]) -> float:
    """The time of the nearest shape that was tried, scaled by the square of the number of particles."""
    if shape in seconds:
        return seconds[shape]
    n, nearest = shape[0], min(seconds, key=lambda other: (other[1] != shape[1], abs(other[0] - shape[0])))
    return seconds[nearest] * (n / nearest[0]) ** 2
