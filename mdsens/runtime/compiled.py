"""Compiled programs: kept for the next process, compiled quickly where they run once, released before they are too
many.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import platform
import stat
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import equinox as eqx
import jax

from .tracing import is_concrete, outside_trace

P = ParamSpec("P")
R = TypeVar("R")

MOST_MAPS = 40_000
"""Memory maps that a process may have before its compiled programs are released; Linux allows 65530, some 40 shapes."""

SECONDS_BETWEEN_CHECKS = 1.0
"""Between two counts of the memory maps."""

MOST_BYTES = 500_000_000
"""That a folder of compiled programs may hold; the programs of one shape take some 2 million."""

SECONDS_WORTH_KEEPING = 0.02
"""Of compile time from which on a program is kept."""

CACHE_FOLDER = "jax_compilation_cache_dir"
"""JAX's own setting of where compiled programs are kept."""

_next_check = 0.0


def compile_once(function: Callable[P, R]) -> Program[P, R]:
    """Compile a function at XLA's lowest optimization level: in 0.6 of the time, for programs that run once.

    Within another compiled program the function is traced as it is.
    """
    return Program(function)


class Program(Generic[P, R]):
    """A function that is compiled quickly, or well where it iterates long."""

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._quick, self._optimized = eqx.filter_jit(function, **_quick_options()), eqx.filter_jit(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not is_concrete((args, kwargs)):
            return self._optimized(*args, **kwargs)
        with outside_trace():
            return self._quick(*args, **kwargs)

    def where(self, iterates: bool) -> Callable[P, R]:
        """The same, compiled with all optimizations where it iterates long."""
        return self._optimized if iterates else self


def _quick_options() -> dict[str, Any]:
    """XLA's older emitters together with the lowest level have given a NaN derivative (JAX 0.10): then none."""
    if "xla_cpu_use_fusion_emitters=false" in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {"compiler_options": {"xla_backend_optimization_level": 0}}


def release_when_full() -> None:
    """Releases all compiled programs when a process has nearly as many memory maps as Linux allows.

    Beyond that limit XLA ends in a segmentation fault; sessions with many shapes reach it.
    """
    global _next_check  # noqa: PLW0603
    now = time.monotonic()
    if now < _next_check:
        return
    _next_check = now + SECONDS_BETWEEN_CHECKS
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        if sum(1 for _ in maps) > MOST_MAPS:
            jax.clear_caches()
            gc.collect()


def keep_compiled(folder: str | os.PathLike[str] | None = None) -> None:
    """Keep compiled programs on disk, so that the next session need not compile them again.

    **Arguments:**

    - `folder`: where; the user's cache folder if None, which the commands of mdsens use, too. JAX's own setting
      (`JAX_COMPILATION_CACHE_DIR`, or `jax_compilation_cache_dir`), where there is one, takes precedence.

    Programs are shared by all processes on processors of the same kind. Nothing happens where the folder cannot be
    written to.
    """
    if folder is None:
        from platformdirs import user_cache_path

        with contextlib.suppress(RuntimeError):  # without a home there is no cache folder
            keep_compiled_in(user_cache_path("mdsens", appauthor=False) / "compiled")
        return
    keep_compiled_in(Path(folder))


def keep_compiled_in(folder: Path) -> None:
    """Keeps the programs compiled from now on in a folder, apart for each kind of processor."""
    place = folder / _processor()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or getattr(jax.config, CACHE_FOLDER):
        return
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    if os.access(place, os.W_OK):
        # after a full disk JAX finds a truncated program, warns, and compiles it again
        warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
        jax.config.update(CACHE_FOLDER, str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_WORTH_KEEPING)
        with contextlib.suppress(OSError):
            _remove_least_recently_used(folder)


def _processor() -> str:
    """A name shared by all processors with the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    return hashlib.sha256(flags.encode()).hexdigest()[:8]


def _remove_least_recently_used(folder: Path) -> None:
    """Removes files beyond `MOST_BYTES`, by when they were last read, where the file system knows, or written."""
    files, total = [], 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may remove it, too
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                files.append((max(about.st_atime, about.st_mtime), about.st_size, path))
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > MOST_BYTES:
            with contextlib.suppress(OSError):
                path.unlink()
