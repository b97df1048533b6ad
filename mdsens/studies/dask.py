"""The executor `dask`: a cluster of Dask that is already running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .execution import Execution, Outcome, Started, Stop
from .record import compute_and_save, record_failure
from .tasks import Batch

DEATHS_ALLOWED = 3
"""Deaths of its worker after which Dask gives up a batch."""

POLL_INTERVAL = 0.2
"""Seconds."""


def run_dask(
    folder: Path, batches: Sequence[Batch], execution: Execution, stop: Stop, started: Started
) -> Iterator[Outcome]:
    """Give each worker of the cluster one batch at a time. All workers must see the same folder.

    **Arguments:**

    - `folder`: the folder of the study.
    - `batches`: the batches.
    - `execution`: its `scheduler` is the address of the cluster's scheduler.
    - `stop`: ends the run early.
    - `started`: called with the batches in flight.

    **Raises:**

    - `InvalidInput` without Dask, without a scheduler at the address, or with options that Dask's workers do not have.
    """
    if execution.scheduler is None:
        raise InvalidInput("the executor dask needs the address of a scheduler: --scheduler tcp://…")
    if execution.device != "auto" or execution.workers is not None:
        raise InvalidInput("Dask's workers have the devices that they were given: leave out --device and --workers")
    try:
        from distributed import Client
    except ImportError as error:
        raise InvalidInput("the executor dask needs Dask: pip install 'mdsens[dask]'") from error
    try:
        client = Client(execution.scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InvalidInput(f"there is no Dask scheduler at {execution.scheduler}: {error}") from error
    folder = folder.absolute()

    def submit(batch: Batch) -> Any:  # pure=False: never a result that Dask remembers
        return client.submit(compute_and_save, folder, batch, pure=False, retries=DEATHS_ALLOWED)

    with client:
        flying = {submit(batch): batch for batch in batches}
        while flying and not stop.asked.wait(POLL_INTERVAL):
            for future in [each for each in flying if each.done()]:
                batch = flying.pop(future)
                outcome = future.result() if future.status == "finished" else _died(future, batch)
                if outcome.trouble in ("memory", "death") and len(batch.tasks) > 1:
                    flying |= {submit(half): half for half in batch.halves()}
                elif outcome.trouble in ("memory", "death"):
                    yield record_failure(folder, batch, "WorkerDied", outcome.message)
                else:
                    yield outcome
            started(list(flying.values()))
        client.cancel(list(flying))


def _died(future: Any, batch: Batch) -> Outcome:
    return Outcome(batch, trouble="death", message=str(future.exception()))
