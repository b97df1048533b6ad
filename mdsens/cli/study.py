"""The commands about studies: begin one, run it, follow it, and look at its results."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidInput
from ..runtime.files import check_target, replacing
from .options import Device, DeviceOption, JsonOption
from .study_progress import describe_duration, study_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..studies.execution import Execution
    from ..studies.run import Plan
    from ..studies.store import Store

REASONS_SHOWN = 10
"""Reasons of failures that are printed, the most frequent ones first."""

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="A study file; mdsens init writes one.")]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study that mdsens run has made.")]
PictureOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT.png", help="The picture; by default in DIR.")
]


def init(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The file to write.")] = Path("study.toml"),
) -> None:
    """Write a study file to begin with, with comments."""
    if study.exists():
        raise InvalidInput(f"{study} is there already; name another file, or remove it")
    check_target(study)
    with replacing(study) as file:
        file.write_text((Path(__file__).parent / "study.toml").read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{'written':<17} {study}; next: mdsens run {study} --dry-run, then mdsens run {study} -o OUT")


def run(
    study: StudyFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder for the results.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate the number of tasks and the time.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed tasks again, too.")] = False,
    device: DeviceOption = Device.auto,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of processes; by default one for each GPU or core.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder of the study's files.")] = None,
    executor: Annotated[str, typer.Option(help="The executor: {studies.executors.EXECUTORS}.")] = "local",
    jobs: Annotated[int, typer.Option(min=1, max=10_000, help="SLURM: the most jobs in an array.")] = 16,
    partition: Annotated[str | None, typer.Option(help="SLURM: the partition.")] = None,
    gres: Annotated[str | None, typer.Option(help="SLURM: resources of each job, such as gpu:1.")] = None,
    time: Annotated[str | None, typer.Option(help="SLURM: time for each job, minutes or HH:MM:SS.")] = None,
    account: Annotated[str | None, typer.Option(help="SLURM: the account to charge.")] = None,
    qos: Annotated[str | None, typer.Option(help="SLURM: quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="SLURM: required features of the nodes.")] = None,
    mem: Annotated[str | None, typer.Option(help="SLURM: memory of each job, such as 8G.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="SLURM: cores, and workers, of each job.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask: the address of the scheduler, tcp://…")
    ] = None,
) -> None:
    """Run a study; the same command on the same DIR computes only what is missing. Exit code 1 if any task failed."""
    from ..studies.execution import Execution, planned_device
    from ..studies.executors import EXECUTORS
    from ..studies.names import look_up
    from ..studies.run import plan, resumed
    from ..studies.store import Store
    from .estimate import print_estimate

    limit = None if time is None else minutes(time)
    of_slurm = {"partition": partition, "gres": gres, "time": limit, "account": account, "qos": qos,
                "constraint": constraint, "mem": mem, "cpus_per_task": cpus_per_task}  # fmt: skip
    look_up(executor, EXECUTORS, "executor")
    execution = Execution(executor, device.value, workers, scheduler, jobs, _given(of_slurm, executor))
    _leave_gpus_to_the_workers()
    if dry_run:
        print_estimate(plan(study, data, planned_device(execution)), execution)
        return
    if output is None:
        raise InvalidInput("name a folder for the results: -o OUT (or --dry-run for an estimate)")
    store = Store(output)
    fresh = plan(study, data, planned_device(execution))  # first, so that a faulty study leaves no folder behind
    store.prepare()
    with store.lock() as stale:
        if stale:
            print(f"mdsens: the last run here ended early ({stale}); going on", file=sys.stderr)
        todo = resumed(fresh, store, retry_failed)
        for broken in todo.broken:
            print(f"mdsens: {broken.name} is damaged; set aside in {broken.parent}, computed anew", file=sys.stderr)
        code = _carry_out(store, study, todo, execution)
    raise typer.Exit(code)


def _given(of_slurm: dict[str, Any], executor: str) -> dict[str, Any]:
    """The options of SLURM that were given. **Raises** `InvalidInput` if another executor was chosen."""
    given = {name: value for name, value in of_slurm.items() if value is not None}
    if executor != "slurm" and given:
        raise InvalidInput(f"--{next(iter(given)).replace('_', '-')} is for SLURM: give --executor slurm, too")
    return given


def _leave_gpus_to_the_workers() -> None:
    """Let this process, which only reads files, use the CPU."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _carry_out(store: Store, path: Path, todo: Plan, execution: Execution) -> int:
    """Compute what is missing, and print a summary.

    **Returns** the exit code: 0 if all tasks are done, 1 if some failed or are left, 143 after a signal.
    """
    from ..studies.execution import Stop
    from ..studies.run import execute

    stop, trouble, started = Stop(), "", time.monotonic()
    done = failed = 0
    with stop.on_signals() as stop, study_progress(len(todo.tasks), len(todo.known)) as advance:
        for outcome in execute(store, path, todo, execution, stop):
            trouble = trouble or (outcome.message if outcome.trouble else "")
            done, failed = done + outcome.done, failed + outcome.failed
            advance(outcome.done + outcome.failed, todo.failed + failed)
    seconds = time.monotonic() - started
    left = len(todo.tasks) - len(todo.known) - done - failed
    print(f"{'tasks':<17} {len(todo.tasks)}, of which {len(todo.known)} were known")
    if done + failed:
        rate = (done + failed) / seconds
        print(f"{'computed':<17} {done + failed} in {describe_duration(seconds)} ({rate:.3g} per second)")
    print(f"{'failed':<17} {todo.failed + failed}")
    if todo.failed + failed and not stop.asked.is_set():
        rows = store.rows()
        _print_reasons([rows[task.id] for task in todo.tasks if task.id in rows])
    if trouble:
        print(f"mdsens: {trouble}", file=sys.stderr)
    if left:
        signalled = stop.asked.is_set()
        ended = f"{'stopped' if signalled else 'ended'} with {left} tasks left"
        print(f"mdsens: {ended}; what is finished is saved, and the same command goes on", file=sys.stderr)
        return 143 if signalled else 1
    print(f"{'results':<17} {store.folder}; next: mdsens collect, plot, status {store.folder}")
    return 1 if todo.failed + failed else 0


def status(folder: StudyFolder, as_json: JsonOption = False) -> None:
    """Print how many tasks of a study are done, failed and running, and why they failed."""
    from ..studies.store import Store

    store = Store(folder)
    store.check_is_study()
    order, rows = (store.read_json("plan.json") or {"tasks": []})["tasks"], store.rows()
    known = [rows[id] for id in order if id in rows]
    in_use = store.is_locked()
    reasons = Counter(row["reason"] for row in known if row["status"] == "failed")
    facts = {
        "total": len(order),
        "done": sum(row["status"] == "done" for row in known),
        "failed": sum(reasons.values()),
        "running": (store.read_json("progress.json") or {"running": 0})["running"] if in_use else 0,
        "left": len(order) - len(known),
        "locked_by": store.holder() if in_use else None,
        "reasons": dict(reasons),
        "failures": [
            {"task": row["task"], "reason": row["reason"], "message": row["message"]}
            for row in known
            if row["status"] == "failed"
        ],
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name in ("total", "done", "failed", "running", "left"):
        print(f"{name:<17} {facts[name]}")
    print(f"{'at work':<17} {facts['locked_by'] or 'nobody'}")
    _print_reasons(known)


def _print_reasons(rows: list[dict[str, Any]]) -> None:
    failed = [row for row in rows if row["status"] == "failed"]
    for reason, count in Counter(row["reason"] for row in failed).most_common(REASONS_SHOWN):
        example = next(row for row in failed if row["reason"] == reason)
        print(f"  {reason:<15} {count}, such as {example['task']}: {example['message']}")


def collect(folder: StudyFolder) -> None:
    """Gather a study's results in DIR: table.csv, table.parquet, results.h5."""
    from ..studies.results import load_study

    results = load_study(folder)
    table = results.table
    if not len(table):
        raise InvalidInput(f"no task of {folder} is finished yet")
    written = results.write(folder)
    failed = int((table["status"] == "failed").sum())
    print(f"{'collected':<17} {len(table)} tasks, {failed} of them failed, {len(table.columns)} columns")
    print(f"{'written':<17} {folder}/{', '.join(path.name for path in written)}")


def plot(folder: StudyFolder, output: PictureOption = None) -> None:
    """Draw the results of a study against the parameters that vary, with the spread over seeds."""
    from ..plotting import draw_study
    from ..studies.results import load_study

    results = load_study(folder)
    path = _write_picture(output or folder / "study.png", lambda: draw_study(results))
    print(f"{'written':<17} {path}")


def show(
    folder: StudyFolder,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The id of a task, or its beginning.")],
    output: PictureOption = None,
) -> None:
    """Print all results of one task, and draw its packing."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from ..plotting import draw_task
    from ..studies.results import load_study

    results = load_study(folder)
    chosen = results.table[results.table["task"].str.startswith(task)] if len(results.table) else results.table
    if len(chosen) != 1:
        raise InvalidInput(
            f"{'no finished task' if not len(chosen) else f'{len(chosen)} tasks'} of {folder} begin with {task!r}; "
            "mdsens collect lists them in table.csv"
        )
    row = chosen.iloc[0]
    for name, value in row.items():
        if isinstance(value, float) and not math.isnan(value):
            print(f"{name:<32} {value:.12g}")
        elif not isinstance(value, float) and value != "":
            print(f"{name:<32} {value}")
    if row["status"] != "done":
        return
    path = _write_picture(output or folder / f"{row['task']}.png", lambda: draw_task(results, row["task"]))
    print(f"{'written':<32} {path}")


def _write_picture(path: Path, draw: Callable[[], Figure]) -> Path:
    """Draw a picture, after checking that it can be written, and write it."""
    check_target(path)
    figure = draw()
    with replacing(path) as file:
        figure.savefig(file, dpi=160, facecolor="white")
    return path


def minutes(text: str) -> int:
    """SLURM's notation of a time, minutes, HH:MM:SS or D-HH:MM:SS, in minutes, rounded up."""
    days, _, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        if len(parts) == 1 and not days:
            return max(1, parts[0])
        parts = [*parts, 0, 0][:3] if days else [0, *parts][-3:]
        return max(1, int(days or 0) * 1440 + parts[0] * 60 + parts[1] + (parts[2] > 0))
    except (ValueError, IndexError):
        raise InvalidInput(f"--time takes minutes, HH:MM:SS or D-HH:MM:SS, not {text!r}") from None
