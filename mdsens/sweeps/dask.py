"""On a cluster of Dask that is running already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .record import record_failure
from .tasks import Batch
from .workers import Outcome, Stop, work

DEATHS_ALLOWED = 3

POLL = 0.2


def run_dask(
    folder: Path, batches: Sequence[Batch], scheduler: str, stop: Stop, started: Callable[[list[Batch]], None]
) -> Iterator[Outcome]:
    """One batch at a time to each of the cluster's workers, which must see the same folder.

    **Raises** `InvalidInput` where there is no Dask, or no cluster at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InvalidInput("the executor dask needs Dask: pip install 'mdsens[dask]'") from error
    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InvalidInput(f"there is no Dask scheduler at {scheduler}: {error}") from error
    folder = folder.absolute()

    def submit(batch: Batch) -> Any:  # never from what Dask remembers
        return client.submit(work, folder, batch, pure=False, retries=DEATHS_ALLOWED)

    with client:
        flying = {submit(batch): batch for batch in batches}
        while flying and not stop.asked.wait(POLL):
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
