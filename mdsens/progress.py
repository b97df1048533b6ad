"""Bars for long work, in a terminal or a notebook, where nobody has asked for the numbers instead."""

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

from .errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")

AFTER = 1.0
"""Seconds from which on work counts as long."""

BETWEEN = 0.1
"""Seconds between two looks of a bar in a notebook."""

Described = tuple[float | None, str]
"""The fraction that is done, if it is known, and what to say."""


class _Bars:
    """Whether bars are wanted, and whether there is one: within long work there is more, and one bar is enough."""

    wanted = os.environ.get("MDSENS_PROGRESS", "1") != "0"
    open = False


def progress_bars(wanted: bool) -> None:
    """Whether work that takes longer than a second shows a bar, in notebooks and terminals; without a word, it does.

    Where the environment has MDSENS_PROGRESS=0, it does not: for notebooks whose outputs are stored, and batch jobs.
    """
    _Bars.wanted = wanted


@contextmanager
def watched(
    task: str, callback: Callable[..., None] | None, describe: Callable[..., Described]
) -> Iterator[Callable[..., None]]:
    """Where work tells how far it is: the callback that was given, or else a bar, where somebody looks.

    `describe` makes of what the work tells what a bar shows.
    """
    if callback is not None:
        if not callable(callback):
            raise InvalidInput(
                f"progress is a function that is told how far the work is, not {callback!r}; "
                "mdsens.progress_bars(False) switches the bars off"
            )
        yield callback
        return
    bar = None if _Bars.open or not _Bars.wanted else _bar_for(task)
    if bar is None:
        yield lambda *_: None
        return
    _Bars.open = True
    try:
        yield lambda *facts: bar.show(*describe(*facts))
    finally:
        _Bars.open = False
        bar.close()


def shows_progress(task: str, describe: Callable[..., Described]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function with an argument `progress`, a callback: without one it shows a bar."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def watching(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            with watched(task, given.arguments.get("progress"), describe) as report:
                given.arguments["progress"] = report
                return function(*given.args, **given.kwargs)

        return watching

    return decorate


class Falling:
    """How far a force has come down to a tolerance, on a logarithmic scale."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.highest, self.lowest = tolerance, 0.0, math.inf

    def __call__(self, steps: int, force: float) -> Described:
        self.highest, self.lowest = max(self.highest, force), min(self.lowest, max(force, self.tolerance))
        way = math.log(self.highest / self.tolerance) if self.highest > self.tolerance else 1.0
        done = 1.0 - math.log(self.lowest / self.tolerance) / way
        return done, f"step {steps}, largest force {force:.1e} → {self.tolerance:.0e}"


def _bar_for(task: str) -> _InTerminal | _InNotebook | None:
    """None where nobody looks."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        return _InNotebook(task)
    return _InTerminal(task) if sys.stderr is not None and sys.stderr.isatty() else None


class _InTerminal:
    """rich's, on standard error; it turns while something is compiled, and is gone when the work is done."""

    def __init__(self, task: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

        text, what = TextColumn("{task.description}"), TextColumn("{task.fields[what]}")
        columns: list[ProgressColumn] = [SpinnerColumn(), text, BarColumn(), what, TimeElapsedColumn()]
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.row = self.progress.add_task(task, total=1.0, what="compiling")
        self.lock, self.closed = threading.Lock(), False
        self.timer = threading.Timer(AFTER, self._start)
        self.timer.daemon = True
        self.timer.start()

    def _start(self) -> None:
        with self.lock:
            if not self.closed:
                self.progress.start()

    def show(self, fraction: float | None, what: str) -> None:
        self.progress.update(self.row, completed=fraction, what=what)

    def close(self) -> None:
        self.timer.cancel()
        with self.lock:
            self.closed = True
            self.progress.stop()


class _InNotebook:
    """HTML that is updated where it is, and emptied when the work is done."""

    def __init__(self, task: str) -> None:
        self.task, self.began, self.shown, self.handle = task, time.monotonic(), 0.0, None

    def show(self, fraction: float | None, what: str) -> None:
        now = time.monotonic()
        if now - self.began < AFTER or now - self.shown < BETWEEN:
            return
        self.shown, value = now, "" if fraction is None else f"value='{fraction:.3f}'"
        bar = f"{html.escape(self.task)} <progress max='1' {value}></progress> {html.escape(what)}"
        self._put(f"<span style='font-family: monospace'>{bar}, {now - self.began:.0f} s</span>", what)

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
