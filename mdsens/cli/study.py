"""The commands about studies: to begin one, run it, see how far it is, and look at what came of it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from ..errors import InvalidInput, MdsensError
from ..files import check_target, replacing
from ..sweeps.run import Execution, Plan, execute, plan, planned_device, resumed
from ..sweeps.store import Store
from ..sweeps.tasks import Batch, batch_of
from ..sweeps.workers import Outcome, Stop, places, run_local

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUIET_FOR = 10.0
"""Seconds between two lines about the progress where nobody watches a bar."""

TRIAL = 4
"""Tasks in each of the two batches that an estimate rests on, for up to so many shapes, too."""

SHOWN = 10
"""Reasons of failures, at most."""


def init(path: Path) -> None:
    if path.exists():
        raise InvalidInput(f"{path} is there already; name another file, or remove it")
    check_target(path)
    with replacing(path) as file:
        file.write_text((Path(__file__).parent / "study.toml").read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{'written':<17} {path}; next: mdsens run {path} --dry-run, then mdsens run {path} -o OUT")


def run(path: Path, output: Path | None, data: Path | None, dry: bool, retry_failed: bool, execution: Execution) -> int:
    """The exit code: 0 where all tasks are done."""
    _leave_devices_alone()
    if dry:
        _estimate(plan(path, data, planned_device(execution)), execution)
        return 0
    if output is None:
        raise InvalidInput("name a folder for the results: -o OUT (or --dry-run for an estimate)")
    store = Store(output)
    fresh = plan(path, data, planned_device(execution))  # before there is a folder: a faulty study leaves none behind
    store.prepare()
    with store.lock() as stale:
        if stale:
            print(f"mdsens: the last run here ended early ({stale}); going on", file=sys.stderr)
        todo = resumed(fresh, store, retry_failed)
        for broken in todo.broken:
            print(f"mdsens: {broken.name} is damaged; set aside in {broken.parent}, computed anew", file=sys.stderr)
        return _carry_out(store, path, todo, execution)


def _leave_devices_alone() -> None:
    """What this process looks at itself, such as files, it looks at on the CPU: GPUs are for the workers."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _carry_out(store: Store, path: Path, todo: Plan, execution: Execution) -> int:
    stop, trouble, started = Stop(), "", time.monotonic()
    done = failed = 0
    with stop.on_signals() as stop, _progress(len(todo.tasks), len(todo.known)) as advance:
        for outcome in execute(store, path, todo, execution, stop):
            trouble = trouble or (outcome.message if outcome.trouble else "")
            done, failed = done + outcome.done, failed + outcome.failed
            advance(outcome.done + outcome.failed, todo.failed + failed)
    seconds = time.monotonic() - started
    left = len(todo.tasks) - len(todo.known) - done - failed
    print(f"{'tasks':<17} {len(todo.tasks)}, of which {len(todo.known)} were known")
    if done + failed:
        rate = (done + failed) / seconds
        print(f"{'computed':<17} {done + failed} in {_duration(seconds)} ({rate:.3g} per second)")
    print(f"{'failed':<17} {todo.failed + failed}")
    if todo.failed + failed and not stop.asked.is_set():
        rows = store.rows()
        _print_reasons([rows[task.id] for task in todo.tasks if task.id in rows])
    if trouble:
        print(f"mdsens: {trouble}", file=sys.stderr)
    if left:
        signalled = stop.asked.is_set()
        print(f"mdsens: {'stopped' if signalled else 'ended'} with {left} tasks left; what is finished is saved, and "
              "the same command goes on", file=sys.stderr)  # fmt: skip
        return 143 if signalled else 1
    print(f"{'results':<17} {store.folder}; next: mdsens collect, plot, status {store.folder}")
    return 1 if todo.failed + failed else 0


def status(folder: Path, as_json: bool) -> None:
    store = Store(folder)
    store.check_is_study()
    order, rows = (store.read_json("plan.json") or {"tasks": []})["tasks"], store.rows()
    known = [rows[id] for id in order if id in rows]
    held = store.is_held()
    reasons = Counter(row["reason"] for row in known if row["status"] == "failed")
    facts = {
        "total": len(order),
        "done": sum(row["status"] == "done" for row in known),
        "failed": sum(reasons.values()),
        "running": (store.read_json("progress.json") or {"running": 0})["running"] if held else 0,
        "left": len(order) - len(known),
        "held_by": store.holder() if held else None,
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
    print(f"{'at work':<17} {facts['held_by'] or 'nobody'}")
    _print_reasons(known)


def _print_reasons(rows: list[dict[str, Any]]) -> None:
    failed = [row for row in rows if row["status"] == "failed"]
    for reason, count in Counter(row["reason"] for row in failed).most_common(SHOWN):
        example = next(row for row in failed if row["reason"] == reason)
        print(f"  {reason:<15} {count}, such as {example['task']}: {example['message']}")


def collect(folder: Path) -> None:
    from ..sweeps.results import load_study

    results = load_study(folder)
    if not len(results.table):
        raise InvalidInput(f"no task of {folder} is finished yet")
    written = results.write(folder)
    failed = int((results.table["status"] == "failed").sum())
    print(
        f"{'collected':<17} {len(results.table)} tasks, {failed} of them failed, {len(results.table.columns)} columns"
    )
    print(f"{'written':<17} {folder}/{', '.join(path.name for path in written)}")


def plot(folder: Path, output: Path | None) -> None:
    from ..plotting import draw_study
    from ..sweeps.results import load_study

    results = load_study(folder)
    path = _drawn(output or folder / "study.png", lambda: draw_study(results))
    print(f"{'written':<17} {path}")


def _drawn(path: Path, draw: Callable[[], Figure]) -> Path:
    """The path of a picture, drawn once it is clear that it can be written."""
    check_target(path)
    figure = draw()
    with replacing(path) as file:
        figure.savefig(file, dpi=160, facecolor="white")
    return path


def show(folder: Path, task: str, output: Path | None) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    from ..plotting import draw_task
    from ..sweeps.results import load_study

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
    path = _drawn(output or folder / f"{row['task']}.png", lambda: draw_task(results, row["task"]))
    print(f"{'written':<32} {path}")


def _estimate(todo: Plan, execution: Execution) -> None:
    """What a study takes, from two small batches of each shape, the first of which compiles."""
    shapes = Counter(task.shape[:2] for task in todo.tasks)
    sizes = Counter(len(batch.tasks) for batch in todo.batches)
    device, workers = places(execution.device, execution.workers)
    print(f"{'tasks':<17} {len(todo.tasks)}")
    for (n, dim), count in sorted(shapes.items()):
        print(f"{'':<17} {count} of {n} particles in {dim}D")
    print(f"{'batches':<17} {len(todo.batches)}, of {min(sizes)} to {max(sizes)} tasks")
    print(f"{'workers':<17} {workers} on the {device.upper()}")
    trials = {shape: _trial(todo, shape) for shape in sorted(shapes)}
    tried = dict(list(trials.items())[:: -(-len(trials) // TRIAL)])
    seconds, compiling, memory = dict[Any, float](), 0.0, 0
    with (
        tempfile.TemporaryDirectory() as folder,
        _progress(sum(len(b.tasks) for t in tried.values() for b in t), 0) as bar,
    ):
        store = Store(Path(folder))
        store.prepare()
        for shape, (first, second) in tried.items():
            ended: list[Outcome] = []
            for outcome in run_local(store.folder, [first, second], device, 1, Stop()):
                ended.append(outcome)
                bar(len(outcome.batch.tasks), 0)
            if len(ended) != 2 or any(each.trouble for each in ended):
                raise MdsensError(f"{TRIAL} tasks of {shape[0]} particles could not be tried: {ended[-1].message}")
            memory = max(memory, *(each.memory for each in ended))
            seconds[shape] = ended[1].seconds / len(second.tasks)
            compiling += ended[0].seconds - ended[1].seconds
    compiling *= len(trials) / len(tried)
    total = sum(count * _nearest(shape, seconds) for shape, count in shapes.items()) / workers
    print(
        f"{'time':<17} about {_duration(total + max(0.0, compiling))}, {_duration(max(0.0, compiling))} of it compiling"
    )
    print(f"{'memory':<17} {memory / 2**20:.0f} MB for each worker in a small batch, more in whole ones")
    print(f"{'':<17} (from {TRIAL} tasks of {'each shape' if len(tried) == len(trials) else 'some shapes'})")


def _trial(todo: Plan, shape: tuple[int, int]) -> tuple[Batch, Batch]:
    whole = next(batch for batch in todo.batches if batch.tasks[0].shape[:2] == shape)
    size = min(TRIAL, len(whole.tasks))
    first, second = (batch_of(tasks, size, whole.fullest) for tasks in (whole.tasks[:size], whole.tasks[-size:]))
    return first, second


def _nearest(shape: tuple[int, int], seconds: dict[tuple[int, int], float]) -> float:
    """Of the shape tried that is nearest, as much longer as the square of the number of particles."""
    if shape in seconds:
        return seconds[shape]
    n, near = shape[0], min(seconds, key=lambda other: (other[1] != shape[1], abs(other[0] - shape[0])))
    return seconds[near] * (n / near[0]) ** 2


@contextmanager
def _progress(total: int, known: int) -> Iterator[Any]:
    """A bar on standard error with rate and time left; where nobody looks, a line now and then."""
    console = Console(stderr=True)
    rate, failed = (TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "failed"))
    what = SpinnerColumn(), TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), failed
    start, count, spoken = time.monotonic(), 0, time.monotonic()
    with Progress(*what, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("tasks", total=total, completed=known, rate="compiling", failed="")

        def advance(more: int, failed: int) -> None:
            nonlocal count, spoken
            count, now = count + more, time.monotonic()
            rate = count / (now - start)
            left = (total - known - count) / rate if rate else math.inf
            bar.update(row, advance=more, rate=f"{rate:.3g}/s", failed=f"{failed} failed" if failed else "")
            if not console.is_terminal and now - spoken > QUIET_FOR:
                spoken = now
                print(f"mdsens: {known + count} of {total} tasks, {failed} failed, {rate:.3g} per second, "
                      f"{_duration(left)} left", file=sys.stderr)  # fmt: skip

        yield advance


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def minutes(text: str) -> int:
    """Of SLURM's `--time`: minutes, HH:MM:SS or D-HH:MM:SS."""
    days, _, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        if len(parts) == 1 and not days:
            return max(1, parts[0])
        parts = [*parts, 0, 0][:3] if days else [0, *parts][-3:]
        return max(1, int(days or 0) * 1440 + parts[0] * 60 + parts[1] + (parts[2] > 0))
    except (ValueError, IndexError):
        raise InvalidInput(f"--time takes minutes, HH:MM:SS or D-HH:MM:SS, not {text!r}") from None


def execution_of(given: dict[str, Any]) -> Execution:
    """From the options of the command; those of SLURM by submitit's names."""
    names = ("partition", "gres", "account", "qos", "constraint", "mem", "cpus_per_task")
    options = {name: given.pop(name) for name in names}
    limit = given.pop("time")
    chosen = {name: value for name, value in options.items() if value is not None}
    if limit is not None:
        chosen["time"] = minutes(limit)
    if given["executor"] != "slurm" and chosen:
        raise InvalidInput(f"--{next(iter(chosen)).replace('_', '-')} is for SLURM: give --executor slurm, too")
    return dataclasses.replace(Execution(**given), options=chosen)
