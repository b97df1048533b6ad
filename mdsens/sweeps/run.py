"""A study run in a folder: planned, what is there already found, and the rest computed by one of the executors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidInput
from ..files import replacing
from .store import Store
from .study import Study, read_study
from .tasks import Batch, Task, batch_of, batches_of, tasks_of
from .workers import Outcome, Stop, places, run_local


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where the work is done. `options` are SLURM's, by submitit's names."""

    executor: Literal["local", "slurm", "dask"] = "local"
    device: str = "auto"
    workers: int | None = None
    scheduler: str | None = None
    jobs: int = 16
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run has to do: all `tasks` of the study, the rows of those that are `known`, and `batches` of the rest."""

    study: Study
    tasks: list[Task]
    known: dict[str, dict[str, Any]]
    batches: list[Batch]
    broken: list[Path]

    @property
    def failed(self) -> int:
        return sum(row["status"] == "failed" for row in self.known.values())


def plan(path: Path, data: Path | None = None, device: str = "cpu") -> Plan:
    """Reads a study, of which nothing is known yet. Batches are always the same for the same study."""
    study = read_study(path)
    tasks = tasks_of(study, (data or path.parent).resolve())
    if not tasks:
        raise InvalidInput(f"{path} has no tasks")
    return Plan(study, tasks, {}, batches_of(tasks, device), [])


def resumed(fresh: Plan, store: Store, retry_failed: bool = False) -> Plan:
    """What is left to do, given what the folder knows already. Of a batch that is partly known, as after a change of
    the study, the rest is computed.
    """
    broken = store.set_aside_broken()
    if retry_failed:
        store.forget_failed()
    rows = store.rows()
    known = {task.id: rows[task.id] for task in fresh.tasks if task.id in rows}
    batches = [_rest(batch, known) for batch in fresh.batches]
    return Plan(fresh.study, fresh.tasks, known, [batch for batch in batches if batch.tasks], broken)


def _rest(batch: Batch, known: dict[str, Any]) -> Batch:
    left = [task for task in batch.tasks if task.id not in known]
    return batch if len(left) == len(batch.tasks) else batch_of(left, batch.size, batch.fullest)


def execute(store: Store, path: Path, plan: Plan, execution: Execution, stop: Stop) -> Iterator[Outcome]:
    """What becomes of every batch, as they end; the folder is locked by the caller."""
    store.clean()
    text = path.read_text(encoding="utf-8")
    with replacing(store.folder / "study.toml") as file:
        file.write_text(text, encoding="utf-8")
    tasks = {task.id: task.varied for task in plan.tasks}
    store.write_json("plan.json", {"tasks": tasks})
    started = _reporter(store)
    try:
        yield from _outcomes(store, plan, execution, stop, started)
    finally:
        (store.folder / "progress.json").unlink(missing_ok=True)


def _outcomes(
    store: Store, plan: Plan, execution: Execution, stop: Stop, started: Callable[[list[Batch]], None]
) -> Iterator[Outcome]:
    folder, batches = store.folder, plan.batches
    if execution.executor == "slurm":
        from .slurm import run_slurm

        yield from run_slurm(folder, batches, planned_device(execution), stop, execution, started)
    elif execution.executor == "dask":
        from .dask import run_dask

        if execution.scheduler is None:
            raise InvalidInput("the executor dask needs the address of a scheduler: --scheduler tcp://…")
        if execution.device != "auto" or execution.workers is not None:
            raise InvalidInput("Dask's workers have the devices that they were given: leave out --device and --workers")
        yield from run_dask(folder, batches, execution.scheduler, stop, started)
    else:
        device, workers = places(execution.device, execution.workers)
        yield from run_local(folder, batches, device, workers, stop, started)


def _reporter(store: Store) -> Callable[[list[Batch]], None]:
    """Leaves a note of what is in flight, for `mdsens status`."""

    def started(batches: list[Batch]) -> None:
        with contextlib.suppress(OSError, InvalidInput):
            store.write_json("progress.json", {"running": sum(len(batch.tasks) for batch in batches)})

    return started


def planned_device(execution: Execution) -> str:
    """For which kind of device batches are made; of another machine's it is what was asked for."""
    if execution.executor == "local":
        return places(execution.device, execution.workers)[0]
    asked = "gpu" in execution.options.get("gres", "") and execution.device == "auto"
    return "gpu" if asked or execution.device == "gpu" else "cpu"
