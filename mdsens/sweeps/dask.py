"""On a cluster of Dask that is running already."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import InvalidInput
from .tasks import Batch
from .workers import Outcome, Stop, work

DEATHS_ALLOWED = 3


def run_dask(
    folder: Path, batches: Sequence[Batch], scheduler: str, stop: Stop, started: Callable[[list[Batch]], None]
) -> Iterator[Outcome]:
    """One batch at a time to each of the cluster's workers, which must see the same folder.

    **Raises** `InvalidInput` where there is no Dask, or no cluster at the address.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise InvalidInput("the executor dask needs Dask: pip install 'mdsens[dask]'") from error
    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InvalidInput(f"there is no Dask scheduler at {scheduler}: {error}") from error
    with client:
        compute = functools.partial(work, folder.absolute())
        futures = client.map(compute, batches, key=[f"mdsens-{batch.id}" for batch in batches], retries=DEATHS_ALLOWED)
        started(list(batches))
        ended = as_completed(futures, loop=client.loop, with_results=True)
        while not stop.asked.is_set() and ended.count():
            for _, outcome in ended.next_batch(block=True):
                yield outcome
        client.cancel(futures)
