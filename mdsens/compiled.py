"""What JAX has compiled is let go before a process has as many pieces of memory as Linux allows."""

from __future__ import annotations

import contextlib
import gc
import time

import jax

MAPS_AT_MOST = 40_000
"""Pieces of memory that a process may have before what it compiled is let go; Linux allows 65530, some 40 shapes."""

BETWEEN = 1.0
"""Seconds between two looks."""

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
