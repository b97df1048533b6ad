"""Worker processes on this machine: one for each GPU, or several on the CPU, each with one batch at a time.

Nothing heavy is imported here, since a worker must know its device before JAX is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..progress import progress_bars
from .tasks import Batch

DEATHS = 3
"""After so many deaths of its worker, not for want of memory, a batch is halved; a single task is given up."""

GRACE = 8.0
"""Seconds for batches in flight to be finished, once the run is asked to stop."""

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a batch: the numbers of tasks done and failed, how long it took, and the most memory its worker
    has had, in bytes; or `trouble`: memory, disk, or death.
    """

    batch: Batch
    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    memory: int = 0
    trouble: str = ""
    message: str = ""


class Stop:
    """Set by a signal, and looked at between batches."""

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


@functools.cache
def count_gpus() -> int:
    """The GPUs that JAX can use, asked of another process, since this one shall not hold their memory."""
    if not (Path("/dev/nvidia0").exists() or "CUDA_VISIBLE_DEVICES" in os.environ):
        return 0
    ask = "import jax; print(len(jax.devices('cuda')))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0


def places(device: str, workers: int | None) -> tuple[str, int]:
    """Where to compute, `gpu` or `cpu`, and with how many workers. **Raises** `InvalidInput` for want of a GPU."""
    gpus = count_gpus() if device in ("auto", "gpu") else 0
    if device == "gpu" and not gpus:
        raise InvalidInput(
            "there is no GPU that JAX can use here; leave --device out, or install mdsens[cuda] where there is one"
        )
    if gpus:
        return "gpu", min(workers or gpus, gpus)
    return "cpu", workers or len(os.sched_getaffinity(0))


def run_local(
    folder: Path,
    batches: Sequence[Batch],
    device: str,
    workers: int,
    stop: Stop,
    started: Callable[[list[Batch]], None] = lambda _: None,
) -> Iterator[Outcome]:
    """What becomes of batches, as they end. `started` is told what is in flight."""
    with contextlib.closing(_Workers(folder, device, min(workers, max(1, len(batches))))) as crew:
        yield from _flow(crew, deque(batches), stop, started)


def _flow(
    crew: _Workers, waiting: deque[Batch], stop: Stop, started: Callable[[list[Batch]], None]
) -> Iterator[Outcome]:
    deaths: dict[str, int] = {}
    deadline = float("inf")
    while (waiting and not stop.asked.is_set()) or crew.flying:
        if stop.asked.is_set():
            deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                return
        while waiting and crew.idle and not stop.asked.is_set():
            crew.send(waiting)
            started([batch for _, batch in crew.flying.values()])
        for outcome in crew.landed(timeout=0.2):
            batch = outcome.batch
            if outcome.trouble == "death":
                deaths[batch.id] = deaths.get(batch.id, 0) + 1
                if deaths[batch.id] < DEATHS:
                    waiting.appendleft(batch)
                    continue
            if outcome.trouble in ("memory", "death") and len(batch.tasks) > 1:
                waiting.extendleft(reversed(batch.halves()))
                continue
            yield crew.given_up(outcome) if outcome.trouble in ("memory", "death") else outcome
            if outcome.trouble == "disk":
                return


class _Workers:
    """A pool of one process for each worker, so that each keeps its device, and the death of one is that of one."""

    def __init__(self, folder: Path, device: str, count: int) -> None:
        self.folder, self.device = folder, device
        self.idle = list(reversed(range(count)))
        self.pools: dict[int, ProcessPoolExecutor] = {}
        self.flying: dict[Future[Outcome], tuple[int, Batch]] = {}
        self.compiled: dict[int, set[tuple[Any, ...]]] = {}
        self.kills: dict[int, int] = {}

    def send(self, waiting: deque[Batch]) -> None:
        """One of the waiting batches to an idle worker: of a shape that it has compiled, or that no other has."""
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
                self.flying[self.pools[k].submit(work, self.folder, batch, k)] = k, batch
                return
            except BrokenProcessPool:  # killed while it had nothing to do
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
            except Exception as error:  # what a worker could not put into words
                outcomes.append(Outcome(batch, trouble="death", message=f"{type(error).__name__}: {error}"))
        return outcomes

    def given_up(self, outcome: Outcome) -> Outcome:
        """A task that ends its worker every time is recorded as failed."""
        from .record import record_failure

        reason = "out of memory" if outcome.trouble == "memory" else f"its worker died {DEATHS} times"
        return record_failure(self.folder, outcome.batch, "WorkerDied", f"{reason}: {outcome.message}".rstrip(": "))

    def close(self) -> None:
        if self.flying:
            for child in multiprocessing.active_children():
                child.kill()
        for pool in self.pools.values():
            pool.shutdown(wait=not self.flying, cancel_futures=True)


def _kills_for_memory() -> int:
    """How many processes this machine has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def _begin(device: str, k: int) -> None:
    """In a worker, before JAX: its device, one thread, no bars of its own, and an end when its parent ends."""
    progress_bars(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA warns of its own settings in what it has compiled before
    if device == "gpu":
        visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[k % len(visible)] if visible else str(k)
        os.environ["JAX_PLATFORMS"] = "cuda"
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ["XLA_FLAGS"] = f"{ONE_THREAD} {os.environ.get('XLA_FLAGS', '')}"


def work(folder: Path, batch: Batch, k: int = 0) -> Outcome:
    """In a worker: a batch computed and written."""
    from .record import compute_and_save

    return compute_and_save(folder, batch, k)
