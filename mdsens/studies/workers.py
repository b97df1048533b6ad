"""Worker processes on this machine: one for each GPU, or several on the CPU, each with one batch at a time.

JAX is not imported here, since a worker must choose its device before JAX is imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ..runtime.collecting import collect_rarely
from ..runtime.progress import progress_bars
from .execution import Execution, Outcome, Started, Stop, places
from .record import compute_and_save, record_failure
from .tasks import Batch

DEATHS_BEFORE_HALVING = 3
"""Deaths of its worker, other than for lack of memory, after which a batch is halved and a single task given up."""

SECONDS_TO_FINISH = 8.0
"""For the batches in flight, after the run has been asked to stop."""

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def run_on_this_machine(
    folder: Path, batches: Sequence[Batch], execution: Execution, stop: Stop, started: Started
) -> Iterator[Outcome]:
    """The executor `local`."""
    device, workers = places(execution.device, execution.workers)
    yield from run_local(folder, batches, device, workers, stop, started)


def run_local(
    folder: Path,
    batches: Sequence[Batch],
    device: str,
    workers: int,
    stop: Stop,
    started: Started = lambda _: None,
) -> Iterator[Outcome]:
    """Compute batches in worker processes, and yield the outcomes as they end.

    **Arguments:**

    - `folder`: the folder of the study.
    - `batches`: the batches.
    - `device`: `cpu` or `gpu`.
    - `workers`: number of processes.
    - `stop`: ends the run early.
    - `started`: called with the batches in flight.
    """
    with contextlib.closing(_Workers(folder, device, min(workers, max(1, len(batches))))) as crew:
        yield from _flow(crew, deque(batches), stop, started)


def _flow(crew: _Workers, waiting: deque[Batch], stop: Stop, started: Started) -> Iterator[Outcome]:
    deaths: dict[str, int] = {}
    deadline = float("inf")
    while (waiting and not stop.asked.is_set()) or crew.flying:
        if stop.asked.is_set():
            deadline = min(deadline, time.monotonic() + SECONDS_TO_FINISH)
            if time.monotonic() > deadline:
                return
        while waiting and crew.idle and not stop.asked.is_set():
            crew.send(waiting)
            started([batch for _, batch in crew.flying.values()])
        for outcome in crew.landed(timeout=0.2):
            batch = outcome.batch
            if outcome.trouble == "death":
                deaths[batch.id] = deaths.get(batch.id, 0) + 1
                if deaths[batch.id] < DEATHS_BEFORE_HALVING:
                    waiting.appendleft(batch)
                    continue
            if outcome.trouble in ("memory", "death") and len(batch.tasks) > 1:
                waiting.extendleft(reversed(batch.halves()))
                continue
            yield crew.given_up(outcome) if outcome.trouble in ("memory", "death") else outcome
            if outcome.trouble == "disk":
                return


class _Workers:
    """A pool of one process for each worker: each keeps its device, and the death of one does not affect the others."""

    def __init__(self, folder: Path, device: str, count: int) -> None:
        self.folder, self.device = folder, device
        self.idle = list(reversed(range(count)))
        self.pools: dict[int, ProcessPoolExecutor] = {}
        self.flying: dict[Future[Outcome], tuple[int, Batch]] = {}
        self.compiled: dict[int, set[tuple[Any, ...]]] = {}
        self.kills: dict[int, int] = {}

    def send(self, waiting: deque[Batch]) -> None:
        """Send a waiting batch to an idle worker: of a shape that this worker has compiled, or that no other has."""
        k = self.idle.pop()
        others = set().union(*(shapes for worker, shapes in self.compiled.items() if worker != k))
        mine = self.compiled.setdefault(k, set())
        batch = min(waiting, key=lambda each: (each.shape not in mine, each.shape in others))
        waiting.remove(batch)
        mine.add(batch.shape)
        self.kills[k] = _kills_for_memory()
        while True:
            if k not in self.pools:
                context = multiprocessing.get_context("spawn")
                self.pools[k] = ProcessPoolExecutor(1, context, _begin, (self.device, k))
            try:
                self.flying[self.pools[k].submit(compute_and_save, self.folder, batch, k)] = k, batch
                return
            except BrokenProcessPool:  # the idle worker was killed
                self._bury(k)

    def _bury(self, k: int) -> None:
        self.pools.pop(k).shutdown(wait=False)
        self.compiled[k] = set()

    def landed(self, timeout: float) -> list[Outcome]:
        outcomes = []
        for future in wait(self.flying, timeout, FIRST_COMPLETED).done:
            k, batch = self.flying.pop(future)
            self.idle.append(k)
            try:
                outcomes.append(future.result())
            except BrokenProcessPool:
                self._bury(k)
                outcomes.append(Outcome(batch, trouble="memory" if _kills_for_memory() > self.kills[k] else "death"))
            except Exception as error:  # such as an outcome that cannot be pickled
                outcomes.append(Outcome(batch, trouble="death", message=f"{type(error).__name__}: {error}"))
        return outcomes

    def given_up(self, outcome: Outcome) -> Outcome:
        """Record a task as failed whose worker dies every time."""
        died = f"its worker died {DEATHS_BEFORE_HALVING} times"
        reason = "out of memory" if outcome.trouble == "memory" else died
        return record_failure(self.folder, outcome.batch, "WorkerDied", f"{reason}: {outcome.message}".rstrip(": "))

    def close(self) -> None:
        if self.flying:
            for child in multiprocessing.active_children():
                child.kill()
        for pool in self.pools.values():
            pool.shutdown(wait=not self.flying, cancel_futures=True)


def _kills_for_memory() -> int:
    """The number of processes that this machine has killed for lack of memory; 0 if it does not report it."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def _begin(device: str, k: int) -> None:
    """Prepare a worker before JAX is imported: its device, one thread, no bars, and an end when its parent ends."""
    progress_bars(False)
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA warns about its own settings in programs from the cache
    if device == "gpu":
        visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[k % len(visible)] if visible else str(k)
        os.environ["JAX_PLATFORMS"] = "cuda"
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ["XLA_FLAGS"] = f"{ONE_THREAD} {os.environ.get('XLA_FLAGS', '')}"
