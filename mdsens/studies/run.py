"""Plans a study, finds what its folder already has, and computes the rest with one of the executors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..runtime.files import replacing
from .execution import Execution, Outcome, Stop
from .executors import EXECUTORS
from .kinds import KINDS
from .names import look_up
from .sections import Study
from .store import Store
from .study import read_study
from .tasks import Batch, Task, batch_of, batches_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of a run.

    **Arguments:**

    - `study`: the study.
    - `tasks`: all its tasks, in order.
    - `known`: the rows of the tasks that are finished.
    - `batches`: batches of the other tasks.
    - `broken`: damaged files that were set aside.
    """

    study: Study
    tasks: list[Task]
    known: dict[str, dict[str, Any]]
    batches: list[Batch]
    broken: list[Path]

    @property
    def failed(self) -> int:
        return sum(row["status"] == "failed" for row in self.known.values())


def plan(path: Path, data: Path | None = None, device: str = "cpu") -> Plan:
    """Read a study and plan all its tasks. The same study always gives the same batches.

    **Arguments:**

    - `path`: the study file.
    - `data`: the folder of the study's files; by default that of the study file.
    - `device`: `cpu` or `gpu`, for which batches are sized.

    **Raises:**

    - `InvalidInput` for a faulty study, and for one without tasks.
    """
    study = read_study(path)
    tasks = KINDS[study.kind].plan(study, (data or path.parent).resolve())
    if not tasks:
        raise InvalidInput(f"{path} has no tasks")
    return Plan(study, tasks, {}, batches_of(tasks, device), [])


def resumed(fresh: Plan, store: Store, retry_failed: bool = False) -> Plan:
    """The part of a plan that is not finished in a folder.

    If a batch is partly known, as after a change of the study, the rest of it is computed.
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
    """Compute the batches of a plan into a folder, which the caller has locked, and yield the outcomes as they end."""
    executor = look_up(execution.executor, EXECUTORS, "executor")
    store.clean()
    text = path.read_text(encoding="utf-8")
    with replacing(store.folder / "study.toml") as file:
        file.write_text(text, encoding="utf-8")
    tasks = {task.id: task.varied for task in plan.tasks}
    store.write_json("plan.json", {"tasks": tasks})
    try:
        yield from executor(store.folder, plan.batches, execution, stop, _reporter(store))
    finally:
        (store.folder / "progress.json").unlink(missing_ok=True)


def _reporter(store: Store) -> Callable[[list[Batch]], None]:
    """A function that notes which tasks are in flight, for `mdsens status`."""

    def started(batches: list[Batch]) -> None:
        with contextlib.suppress(OSError, InvalidInput):
            store.write_json("progress.json", {"running": sum(len(batch.tasks) for batch in batches)})

    return started
