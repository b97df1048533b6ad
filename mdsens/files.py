"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InvalidInput


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, moved onto it at the end, removed if anything goes wrong."""
    check_target(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o666 & ~_umask())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """**Raises** `InvalidInput` if a file of this name cannot be written, before the work that it is to hold."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no folder {path.parent} to write {path.name} into")
    if not os.access(path.parent, os.W_OK):
        raise InvalidInput(f"the folder {path.parent} cannot be written to")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
