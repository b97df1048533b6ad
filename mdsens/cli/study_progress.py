"""The progress of a run: a bar in a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
"""Where the output is no terminal."""


@contextmanager
def study_progress(total: int, known: int) -> Iterator[Callable[[int, int], None]]:
    """Show the progress on standard error, with rate and time left.

    Yields a function of the number of tasks just finished and of the number of all that failed.
    """
    console = Console(stderr=True)
    rate, failed = (TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "failed"))
    columns = (
        SpinnerColumn(), TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), failed
    )  # fmt: skip
    start, count, last_line = time.monotonic(), 0, time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("tasks", total=total, completed=known, rate="compiling", failed="")

        def advance(more: int, failed: int) -> None:
            nonlocal count, last_line
            count, now = count + more, time.monotonic()
            rate = count / (now - start)
            left = (total - known - count) / rate if rate else math.inf
            bar.update(row, advance=more, rate=f"{rate:.3g}/s", failed=f"{failed} failed" if failed else "")
            if not console.is_terminal and now - last_line > SECONDS_BETWEEN_LINES:
                last_line = now
                so_far = f"{known + count} of {total} tasks, {failed} failed, {rate:.3g} per second"
                print(f"mdsens: {so_far}, {describe_duration(left)} left", file=sys.stderr)

        yield advance


def describe_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
