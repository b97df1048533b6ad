"""On a cluster that SLURM runs: job arrays, through submitit."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, MdsensError
from .store import Store
from .tasks import Batch
from .workers import Outcome, Stop, places, run_local

if TYPE_CHECKING:
    from .run import Execution

ATTEMPTS = 5
"""How often batches are submitted, whose jobs ended without a result."""

POLL = 2.0


class Share:
    """The batches of one job. A job that is requeued, on preemption or shortly before its time is over, goes on with
    those that are not finished.
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
    folder: Path,
    batches: Sequence[Batch],
    device: str,
    stop: Stop,
    execution: Execution,
    started: Callable[[list[Batch]], None],
) -> Iterator[Outcome]:
    """Submits what no job is at work on already, and waits. Where this process ends, the jobs go on.

    **Raises** `InvalidInput` where submitit or SLURM is not there, `MdsensError` where jobs end without results.
    """
    store, left = Store(folder), {batch.id: batch for batch in batches}
    attempts: Counter[str] = Counter()
    while left and not stop.asked.is_set():
        jobs = _underway(store)
        if jobs is None:  # SLURM does not answer
            stop.asked.wait(5 * POLL)
            continue
        underway = {id for ids in jobs.values() for id in ids}
        for batch in _landed(store, list(left.values()), every_file=not underway >= set(left)):
            del left[batch.id]
            failed = sum(row["status"] == "failed" for row in store.rows_of(batch))
            yield Outcome(batch, len(batch.tasks) - failed, failed)
        missing = [batch for batch in left.values() if batch.id not in underway]
        hopeless = [batch for batch in missing if attempts[batch.id] == ATTEMPTS]
        if hopeless:
            raise MdsensError(
                f"{len(hopeless)} batches have no result after {ATTEMPTS} submissions; what their jobs said is in "
                f"{folder}/slurm"
            )
        if missing:
            _submit(store, missing, device, execution)
            attempts.update(batch.id for batch in missing)
        started([batch for id, batch in left.items() if id in underway])
        stop.asked.wait(POLL if left else 0.0)


def _landed(store: Store, batches: Sequence[Batch], every_file: bool) -> list[Batch]:
    """Those of which there is a file; with `every_file` also those that were halved, whose files have other names."""
    finished = store.finished()
    rows = store.rows() if every_file else {}
    return [each for each in batches if each.id in finished or all(task.id in rows for task in each.tasks)]


def _submit(store: Store, batches: list[Batch], device: str, execution: Execution) -> None:
    try:
        import submitit
    except ImportError as error:
        raise InvalidInput("the executor slurm needs submitit: pip install 'mdsens[slurm]'") from error
    log = store.folder.absolute() / "slurm"
    log.mkdir(exist_ok=True)
    count, options = min(execution.jobs, len(batches)), execution.options
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
    """The batches of every job that SLURM still has, pending or running; None where it does not answer."""
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
