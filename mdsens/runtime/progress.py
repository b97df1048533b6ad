"""Progress bars for long computations, in a terminal or a notebook, or a callback instead of a bar."""

from __future__ import annotations

import functools
import html
import inspect
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ..errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")

FIRST_SHOWN_AFTER = 1.0
"""Seconds after which a computation shows its bar."""

UPDATE_INTERVAL = 0.1
"""Seconds between two updates of a bar in a notebook."""

Described = tuple[float | None, str]
"""The fraction that is done, None if it is not known, and a text."""


class _Bars:
    """Whether the user wants bars, and whether one is shown: nested computations share the outermost bar."""

    wanted = os.environ.get("MDSENS_PROGRESS", "1") != "0"
    shown = False


def progress_bars(wanted: bool) -> None:
    """Switch progress bars on or off.

    By default, computations that take longer than one second show a bar in notebooks and terminals. The environment
    variable MDSENS_PROGRESS=0 switches them off, for notebooks whose outputs are stored and for batch jobs.

    **Arguments:**

    - `wanted`: whether to show bars.
    """
    _Bars.wanted = wanted


@contextmanager
def reporting(
    task: str, callback: Callable[..., None] | None, describe: Callable[..., Described]
) -> Iterator[Callable[..., None]]:
    """Yield the function that a computation calls with its progress.

    This is `callback` if there is one. Otherwise it updates a bar, or does nothing where no bar can be seen.

    **Arguments:**

    - `task`: the name of the computation, shown beside the bar.
    - `callback`: the user's function, or None.
    - `describe`: turns the arguments of a report into a fraction and a text for the bar.

    **Raises:**

    - `InvalidInput` for a callback that is not callable.
    """
    if callback is not None:
        if not callable(callback):
            raise InvalidInput(
                f"progress is a function that is called with the progress of the computation, not {callback!r}; "
                "mdsens.progress_bars(False) switches the bars off"
            )
        yield callback
        return
    bar = None if _Bars.shown or not _Bars.wanted else _bar_for(task)
    if bar is None:
        yield lambda *_: None
        return
    _Bars.shown = True
    try:
        yield lambda *facts: bar.show(*describe(*facts))
    finally:
        _Bars.shown = False
        bar.close()


def with_progress(task: str, describe: Callable[..., Described]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that has an argument `progress`, a callback, so that it shows a bar without one."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def reporting_function(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            with reporting(task, given.arguments.get("progress"), describe) as report:
                given.arguments["progress"] = report
                return function(*given.args, **given.kwargs)

        return reporting_function

    return decorate


class Falling:
    """Describes how far a force has decreased to a tolerance, on a logarithmic scale."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.highest, self.lowest = tolerance, 0.0, math.inf

    def __call__(self, steps: int, force: float) -> Described:
        self.highest, self.lowest = max(self.highest, force), min(self.lowest, max(force, self.tolerance))
        way = math.log(self.highest / self.tolerance) if self.highest > self.tolerance else 1.0
        done = 1.0 - math.log(self.lowest / self.tolerance) / way
        return done, f"step {steps}, largest force {force:.1e} → {self.tolerance:.0e}"


def _bar_for(task: str) -> _TerminalBar | _NotebookBar | None:
    """None if the output is neither a notebook nor a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        return _NotebookBar(task)
    return _TerminalBar(task) if sys.stderr is not None and sys.stderr.isatty() else None


class _TerminalBar:
    """A bar of rich on standard error; its spinner turns while JAX compiles, and it disappears at the end."""

    def __init__(self, task: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

        name, text = TextColumn("{task.description}"), TextColumn("{task.fields[text]}")
        columns: list[ProgressColumn] = [SpinnerColumn(), name, BarColumn(), text, TimeElapsedColumn()]
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.row = self.progress.add_task(task, total=1.0, text="compiling")
        self.lock, self.closed = threading.Lock(), False
        self.timer = threading.Timer(FIRST_SHOWN_AFTER, self._start)
        self.timer.daemon = True
        self.timer.start()

    def _start(self) -> None:
        with self.lock:
            if not self.closed:
                self.progress.start()

    def show(self, fraction: float | None, text: str) -> None:
        self.progress.update(self.row, completed=fraction, text=text)

    def close(self) -> None:
        self.timer.cancel()
        with self.lock:
            self.closed = True
            self.progress.stop()


class _NotebookBar:
    """HTML that is updated in place, and emptied at the end."""

    def __init__(self, task: str) -> None:
        self.task, self.began, self.updated, self.handle = task, time.monotonic(), 0.0, None

    def show(self, fraction: float | None, text: str) -> None:
        now = time.monotonic()
        if now - self.began < FIRST_SHOWN_AFTER or now - self.updated < UPDATE_INTERVAL:
            return
        self.updated, value = now, "" if fraction is None else f"value='{fraction:.3f}'"
        bar = f"{html.escape(self.task)} <progress max='1' {value}></progress> {html.escape(text)}"
        self._put(f"<span style='font-family: monospace'>{bar}, {now - self.began:.0f} s</span>", text)

    def close(self) -> None:
        if self.handle is not None:
            self._put("", "")

    def _put(self, as_html: str, as_text: str) -> None:
        from IPython.display import display

        content = {"text/html": as_html, "text/plain": as_text}
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)
