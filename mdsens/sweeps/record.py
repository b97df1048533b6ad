"""In a worker: a batch computed, its file written, and what went wrong put into words."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np

from .store import DiskFull, Result, Store, origin
from .tasks import Batch
from .workers import Outcome


def compute_and_save(folder: Path, batch: Batch, k: int = 0) -> Outcome:
    """Never raises. Runs on device k, where there are several."""
    import jax

    from ..compiled import remember

    jax.config.update("jax_enable_x64", True)
    remember(folder / "compiled")
    device = jax.devices()[k % jax.device_count()]
    start = time.monotonic()
    try:
        with jax.default_device(device):
            result = _result(batch)
        seconds = time.monotonic() - start
        named = f"{device.device_kind} {device.id}"
        Store(folder).save(batch.id, Result(*result, origin(named, seconds, batch)))
        failed = sum(row["status"] == "failed" for row in result[0])
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Outcome(batch, len(batch.tasks) - failed, failed, seconds, memory)
    except DiskFull as error:
        return Outcome(batch, trouble="disk", message=str(error))
    except Exception as error:
        if _is_memory(error):
            return Outcome(batch, trouble="memory", message=str(error)[:200])
        if len(batch.tasks) > 1:  # one of them alone may be the cause
            return Outcome(batch, trouble="memory", message=f"{type(error).__name__}: {error}")
        return record_failure(folder, batch, type(error).__name__, str(error))


def record_failure(folder: Path, batch: Batch, reason: str, message: str) -> Outcome:
    """Rows, without arrays, for tasks that could not be computed at all."""
    from .compute import Found, row_of

    found = Found(reason=reason, message=" ".join(message.split())[:500])
    rows = [row_of(task, found) for task in batch.tasks]
    try:
        Store(folder).save(batch.id, Result(rows, {}, origin("", 0.0, batch)))
    except DiskFull as error:
        return Outcome(batch, trouble="disk", message=str(error))
    return Outcome(batch, 0, len(batch.tasks))


def _result(batch: Batch) -> tuple[list[dict], dict[str, np.ndarray]]:
    from .compute import arrays_of, compute, row_of

    found = compute(batch)
    arrays = [arrays_of(task, each) for task, each in zip(batch.tasks, found, strict=True)]
    rows = [row_of(task, each) for task, each in zip(batch.tasks, found, strict=True)]
    return rows, {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Failed to allocate")
    )
