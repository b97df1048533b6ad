"""What the registry knows about a file format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInput
from ..system import System

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Format:
    """A file format that mdsens reads, or writes, by itself.

    **Arguments:**

    - `read`: `read(path, index)` returns frame number `index` of the file as ASE Atoms.
    - `write`: `write(path, system)` writes a System; None for a format that is only read.
    - `endings`: the endings of file names, such as `.extxyz`, that are always this format.
    - `recognizes`: `recognizes(head)` tells from the first bytes of a file, decompressed, whether it has this format;
      None for a format that is recognized only by its ending or by its name.
    - `keeps_fixed` (bool): whether it says which particles are fixed.
    - `keeps_periodic` (bool): whether it says along which directions the cell is periodic.
    - `options`: further arguments of `read`, by name.
    """

    read: Callable[..., Atoms]
    write: Callable[[Path, System], None] | None = None
    endings: tuple[str, ...] = ()
    recognizes: Callable[[bytes], bool] | None = None
    keeps_fixed: bool = False
    keeps_periodic: bool = False
    options: tuple[str, ...] = ()


def check_index(index: int, frames: int) -> None:
    """**Raises** `InvalidInput` for a frame that a file with so many does not have."""
    if not -frames <= index < frames:
        has = "one frame, number 0" if frames == 1 else f"{frames} frames, from 0 to {frames - 1}"
        raise InvalidInput(f"it has no frame {index}: it has {has}, or counted from the end from -1 to {-frames}")
