"""What a worker does: compute a batch, write its file, and describe what went wrong. Imported before JAX."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np

from .execution import Outcome
from .store import DiskFull, Result, Store, origin
from .tasks import Batch

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Failed to allocate")
"""Parts of the messages of XLA and of NumPy."""


def compute_and_save(folder: Path, batch: Batch, k: int = 0) -> Outcome:
    """Compute a batch on device number k and write its file. Never raises.

    **Arguments:**

    - `folder`: the folder of the study.
    - `batch`: the batch.
    - `k`: the number of the device, where there are several.
    """
    import jax

    from ..runtime.compiled import keep_compiled

    jax.config.update("jax_enable_x64", True)
    keep_compiled()
    device = jax.devices()[k % jax.device_count()]
    start = time.monotonic()
    try:
        with jax.default_device(device):
            rows, arrays = _rows_and_arrays(batch)
        seconds = time.monotonic() - start
        place = f"{device.device_kind} {device.id}"
        Store(folder).save(batch.id, Result(rows, arrays, origin(place, seconds, batch)))
        failed = sum(row["status"] == "failed" for row in rows)
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Outcome(batch, len(batch.tasks) - failed, failed, seconds, memory)
    except DiskFull as error:
        return Outcome(batch, trouble="disk", message=str(error))
    except Exception as error:
        if _is_out_of_memory(error):
            return Outcome(batch, trouble="memory", message=str(error)[:200])
        if len(batch.tasks) > 1:  # halve the batch, since a single one of its tasks may be the cause
            return Outcome(batch, trouble="memory", message=f"{type(error).__name__}: {error}")
        return record_failure(folder, batch, type(error).__name__, str(error))


def record_failure(folder: Path, batch: Batch, reason: str, message: str) -> Outcome:
    """Write rows, without arrays, for tasks that could not be computed at all."""
    from .kinds import kind_of

    kind = kind_of(batch)
    lost = kind.lost(reason, " ".join(message.split())[:500])
    rows = [kind.row(task, lost) for task in batch.tasks]
    try:
        Store(folder).save(batch.id, Result(rows, {}, origin("", 0.0, batch)))
    except DiskFull as error:
        return Outcome(batch, trouble="disk", message=str(error))
    return Outcome(batch, 0, len(batch.tasks))


def _rows_and_arrays(batch: Batch) -> tuple[list[dict], dict[str, np.ndarray]]:
    from .kinds import kind_of

    kind = kind_of(batch)
    results = list(zip(batch.tasks, kind.compute(batch), strict=True))
    rows = [kind.row(task, result) for task, result in results]
    arrays = [kind.arrays(task, result) for task, result in results]
    return rows, {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
