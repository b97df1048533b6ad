"""How a study is executed, how a run is stopped, and the outcome of a batch. Imported before JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .tasks import Batch


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where the work is done.

    **Arguments:**

    - `executor`: a name from `studies.executors.EXECUTORS`.
    - `device`: `auto`, `cpu` or `gpu`.
    - `workers`: number of worker processes; None for one per GPU or core.
    - `scheduler`: the address of Dask's scheduler.
    - `jobs`: the most jobs in a SLURM array.
    - `options`: options of SLURM, by submitit's names.
    """

    executor: str = "local"
    device: str = "auto"
    workers: int | None = None
    scheduler: str | None = None
    jobs: int = 16
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a batch.

    **Arguments:**

    - `batch`: the batch.
    - `done`, `failed`: numbers of tasks.
    - `seconds`: the time it took.
    - `memory`: the peak memory of its worker, in bytes.
    - `trouble`: why there is no result: `memory`, `disk` or `death`; empty if there is one.
    - `message`: the error behind it.
    """

    batch: Batch
    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    memory: int = 0
    trouble: str = ""
    message: str = ""


class Stop:
    """A request to stop, set by a signal and checked between batches."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        before = {each: signal.signal(each, lambda *_: self.asked.set()) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


Started = Callable[[list[Batch]], None]
"""Called with the batches in flight whenever they change."""

Executor = Callable[[Path, Sequence[Batch], Execution, Stop, Started], Iterator[Outcome]]
"""Computes batches into a folder, and yields their outcomes as they end."""


@functools.cache
def count_gpus() -> int:
    """The number of GPUs that JAX can use, found by another process, since this one must not reserve their memory."""
    if not (Path("/dev/nvidia0").exists() or "CUDA_VISIBLE_DEVICES" in os.environ):
        return 0
    ask = "import jax; print(len(jax.devices('cuda')))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0


def places(device: str, workers: int | None) -> tuple[str, int]:
    """The kind of device to compute on, `gpu` or `cpu`, and the number of workers.

    **Raises** `InvalidInput` if a GPU was asked for and there is none.
    """
    gpus = count_gpus() if device in ("auto", "gpu") else 0
    if device == "gpu" and not gpus:
        raise InvalidInput(
            "there is no GPU that JAX can use here; leave --device out, or install mdsens[cuda] where there is one"
        )
    if gpus:
        return "gpu", min(workers or gpus, gpus)
    return "cpu", workers or len(os.sched_getaffinity(0))


def planned_device(execution: Execution) -> str:
    """The kind of device that batches are sized for; on other machines, the one that was asked for."""
    if execution.executor == "local":
        return places(execution.device, execution.workers)[0]
    asked = "gpu" in execution.options.get("gres", "") and execution.device == "auto"
    return "gpu" if asked or execution.device == "gpu" else "cpu"
