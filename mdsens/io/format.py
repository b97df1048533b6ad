"""What the registry knows about a file format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    """

    read: Callable[[Path, int], Atoms]
    write: Callable[[Path, System], None] | None = None
    endings: tuple[str, ...] = ()
    recognizes: Callable[[bytes], bool] | None = None
