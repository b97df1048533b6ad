"""What the registry knows about a file format."""

from __future__ import annotations

import fnmatch
import json
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
    - `names`: patterns of file names, such as `*.extxyz`, that are always this format.
    - `written_as`: patterns of further names under which it is written; what a file of such a name holds is read from
      its content.
    - `recognizes`: `recognizes(head)` tells from the first bytes of a file, decompressed, whether it has this format;
      None for a format that is recognized only by the name of the file or of the format.
    - `keeps_fixed` (bool): whether it says which particles are fixed.
    - `keeps_periodic` (bool): whether it says along which directions the cell is periodic.
    - `keeps`: the arrays that it can hold besides what a System has fields for, by patterns of their names.
    - `keeps_entries` (bool): whether it can hold entries.
    - `options`: further arguments of `read`, by name.
    """

    read: Callable[..., Atoms]
    write: Callable[[Path, System], None] | None = None
    names: tuple[str, ...] = ()
    written_as: tuple[str, ...] = ()
    recognizes: Callable[[bytes], bool] | None = None
    keeps_fixed: bool = False
    keeps_periodic: bool = False
    keeps: tuple[str, ...] = ()
    keeps_entries: bool = False
    options: tuple[str, ...] = ()

    def is_named(self, path: Path) -> bool:
        """Whether a file has a name that is always this format."""
        return _fits(path.name, self.names)

    def is_written_as(self, path: Path) -> bool:
        """Whether a file of this name is written in this format."""
        return self.write is not None and _fits(path.name, self.names + self.written_as)

    def lost(self, system: System) -> list[str]:
        """What a file of this format cannot say of a system."""
        lost = [] if system.fixed is None or self.keeps_fixed else ["which particles are fixed"]
        if len(set(system.periodic)) > 1 and not self.keeps_periodic:
            lost.append(f"along which directions the cell is periodic, {system.periodic}")
        if system.extras is not None:
            lost += [name for name, _, _ in system.extras.columns if not _fits(name, self.keeps)]
            lost += [] if self.keeps_entries else json.loads(system.extras.entries())
        return lost


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_index(index: int, frames: int) -> None:
    """**Raises** `InvalidInput` for a frame that a file with so many does not have."""
    if not -frames <= index < frames:
        has = "one frame, number 0" if frames == 1 else f"{frames} frames, from 0 to {frames - 1}"
        raise InvalidInput(f"it has no frame {index}: it has {has}, or counted from the end from -1 to {-frames}")
