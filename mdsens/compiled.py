"""What JAX has compiled: kept for the next process, and let go before one has more of it than Linux allows."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import platform
import stat
import time
import warnings
from pathlib import Path

import jax

MAPS_AT_MOST = 40_000
"""Pieces of memory that a process may have before what it compiled is let go; Linux allows 65530, some 40 shapes."""

BETWEEN = 1.0
"""Seconds between two looks."""

KEPT = 500_000_000
"""Bytes that a folder of compiled programs may hold; one shape has some 2 million."""

WORTH_KEEPING = 0.02
"""Seconds of compiling from which on a program is kept."""

_next_look = 0.0


def make_room() -> None:
    """Many shapes in one process would run into the system's limit, and then XLA into a segmentation fault."""
    global _next_look  # noqa: PLW0603
    now = time.monotonic()
    if now < _next_look:
        return
    _next_look = now + BETWEEN
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        if sum(1 for _ in maps) > MAPS_AT_MOST:
            jax.clear_caches()
            gc.collect()


def by_the_host(seen: bool = True) -> contextlib.AbstractContextManager[None]:
    """What is computed in here, of concrete arrays, is so as outside of every transformation: within `vmap`, and so
    within `jacfwd` and `jacrev`, JAX would compile it once more. Nothing that is traced may enter, but where it is not
    `seen` by the host anyway: then nothing is changed.
    """
    return jax.core.eval_context() if seen else contextlib.nullcontext()


def remember(folder: Path) -> None:
    """What is compiled from now on is kept in the folder, for processors of one kind together, and found there by other
    processes; unless `JAX_COMPILATION_CACHE_DIR` says where else, or nothing can be written there.
    """
    place, already = folder / _processor(), getattr(jax.config, "jax_compilation_cache_dir", None)
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or already == str(place):
        return
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    if os.access(place, os.W_OK):
        # where a disk was full JAX finds a piece of a program, says so, and compiles it again
        warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
        with contextlib.suppress(OSError):
            _let_go_of_the_oldest(folder)


def _processor() -> str:
    """A name for all processors with the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    return hashlib.sha256(flags.encode()).hexdigest()[:8]


def _let_go_of_the_oldest(folder: Path) -> None:
    """Beyond `KEPT` bytes, by when they were last read, where the file system knows, or written."""
    held, total = [], 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may let go of it, too
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                held.append((max(about.st_atime, about.st_mtime), about.st_size, path))
    for _, size, path in sorted(held, reverse=True):
        total += size
        if total > KEPT:
            with contextlib.suppress(OSError):
                path.unlink()
