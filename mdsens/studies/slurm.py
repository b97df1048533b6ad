"""The executor `slurm`: job arrays on a cluster, through submitit."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, MdsensError
from .execution import Execution, Outcome, Started, Stop, places, planned_device
from .store import Store
from .tasks import Batch
from .workers import run_local

MOST_SUBMISSIONS = 5
"""Of a batch whose jobs end without a result."""

POLL_INTERVAL = 2.0
"""Seconds."""


class Share:
    """The batches of one job.

    SLURM requeues a job on preemption, and shortly before its time is over; it then continues with the batches that are
    not finished.
    """

    def __init__(self, folder: Path, batches: Sequence[Batch], device: str, workers: int | None) -> None:
        self.folder, self.batches, self.device, self.workers = folder, list(batches), device, workers

    def __call__(self) -> int:
        device, workers = places(self.device, self.workers)
        finished = Store(self.folder).finished()
        left = [batch for batch in self.batches if batch.id not in finished]
        trouble = [each.message for each in run_local(self.folder, left, device, workers, Stop()) if each.trouble]
        if trouble:
            raise MdsensError(trouble[0])
        return len(left)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_slurm(
    folder: Path, batches: Sequence[Batch], execution: Execution, stop: Stop, started: Started
) -> Iterator[Outcome]:
    """Submit the batches that no job is working on, and wait. The jobs go on if this process ends.

    **Arguments:**

    - `folder`: the folder of the study.
    - `batches`: the batches.
    - `execution`: number of jobs, device, workers, and the options of SLURM.
    - `stop`: ends the wait.
    - `started`: called with the batches that jobs are working on.

    **Raises:**

    - `InvalidInput` without submitit or SLURM; `MdsensError` if jobs repeatedly end without results.
    """
    store, left = Store(folder), {batch.id: batch for batch in batches}
    submissions: Counter[str] = Counter()
    while left and not stop.asked.is_set():
        jobs = _underway(store)
        if jobs is None:  # SLURM does not answer
            stop.asked.wait(5 * POLL_INTERVAL)
            continue
        underway = {id for ids in jobs.values() for id in ids}
        for batch in _finished(store, list(left.values()), halved_too=not underway >= set(left)):
            del left[batch.id]
            failed = sum(row["status"] == "failed" for row in store.rows_of(batch))
            yield Outcome(batch, len(batch.tasks) - failed, failed)
        missing = [batch for batch in left.values() if batch.id not in underway]
        hopeless = [batch for batch in missing if submissions[batch.id] == MOST_SUBMISSIONS]
        if hopeless:
            raise MdsensError(
                f"{len(hopeless)} batches have no result after {MOST_SUBMISSIONS} submissions; the output of their "
                f"jobs is in {folder}/slurm"
            )
        if missing:
            _submit(store, missing, execution)
            submissions.update(batch.id for batch in missing)
        started([batch for id, batch in left.items() if id in underway])
        stop.asked.wait(POLL_INTERVAL if left else 0.0)


def _finished(store: Store, batches: Sequence[Batch], halved_too: bool) -> list[Batch]:
    """The batches that have a file; with `halved_too` also those that were halved, whose files have other names."""
    finished = store.finished()
    rows = store.rows() if halved_too else {}
    return [each for each in batches if each.id in finished or all(task.id in rows for task in each.tasks)]


def _submit(store: Store, batches: list[Batch], execution: Execution) -> None:
    try:
        import submitit
    except ImportError as error:
        raise InvalidInput("the executor slurm needs submitit: pip install 'mdsens[slurm]'") from error
    log = store.folder.absolute() / "slurm"
    log.mkdir(exist_ok=True)
    count, options = min(execution.jobs, len(batches)), execution.options
    device = planned_device(execution)
    shares = [batches[k::count] for k in range(count)]
    workers = execution.workers or (options.get("cpus_per_task", 1) if device == "cpu" else None)
    try:
        executor = submitit.SlurmExecutor(folder=log, max_num_timeout=1000)
        executor.update_parameters(job_name="mdsens", array_parallelism=count, signal_delay_s=60, **options)
        with executor.batch():
            jobs = [executor.submit(Share(log.parent, share, device, workers)) for share in shares]
    except (RuntimeError, OSError, subprocess.SubprocessError, submitit.core.utils.FailedJobError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidInput(f"SLURM did not take the jobs: {reason}") from error
    known = store.read_json("slurm/jobs.json") or {}
    known |= {job.job_id: [batch.id for batch in share] for job, share in zip(jobs, shares, strict=True)}
    store.write_json("slurm/jobs.json", known)


def _underway(store: Store) -> dict[str, list[str]] | None:
    """The batches of every job that is pending or running; None if SLURM does not answer."""
    known: dict[str, list[str]] = store.read_json("slurm/jobs.json") or {}
    alive: set[str] = set()
    for array in sorted({job.partition("_")[0] for job in known}):
        ask = ["squeue", "--noheader", "--array", "--format=%i", "--jobs", array]
        try:
            answer = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired:
            return None
        except FileNotFoundError as error:
            raise InvalidInput("there is no SLURM here: squeue is not found") from error
        if answer.returncode and "Invalid job id" not in answer.stderr:
            return None
        alive |= set(answer.stdout.split())
    return {job: ids for job, ids in known.items() if job in alive}
