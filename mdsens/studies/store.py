"""The folder of a study: its finished batches, each a file that is complete or absent, and a lock.

DIR/study.toml            a copy of the study file
DIR/plan.json             the tasks, in order
DIR/batches/ID.SUM.h5     a finished batch; SUM is the checksum of the file's bytes (SHA-256, first half)
DIR/lock, progress.json   the run at work in the folder, and the tasks in flight
DIR/broken/               files whose content does not match their checksum
DIR/retried/              batches as they were before failed tasks were tried again
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import io
import json
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InvalidInput, MdsensError
from ..runtime.files import replacing
from .tasks import Batch

TEXT = ("task", "status", "reason", "message", "file", "varied")
"""Columns of text; all others are numbers."""


class FolderInUse(MdsensError):
    """Another run is at work in the folder."""


class DiskFull(MdsensError, OSError):
    """A result could not be written."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished batch.

    **Arguments:**

    - `rows`: rows of the table, one for each task.
    - `arrays`: arrays whose first axis runs over the tasks.
    - `origin`: where, when and with which versions the batch was computed.
    """

    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]
    origin: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Store:
    folder: Path

    @property
    def batches(self) -> Path:
        return self.folder / "batches"

    def prepare(self) -> None:
        """Make the folder. **Raises** `InvalidInput` if it cannot be written to."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InvalidInput(f"{self.folder} is a file; name a folder for the results")
        try:
            self.batches.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as test:
                test.write(b"yes")
        except OSError as error:
            raise InvalidInput(f"{self.folder} cannot be written to: {error.strerror or error}") from error

    def check_is_study(self) -> None:
        if not (self.folder / "plan.json").is_file():
            raise InvalidInput(f"{self.folder} holds no study: mdsens run STUDY.toml -o {self.folder} makes one")

    @contextlib.contextmanager
    def lock(self) -> Iterator[str | None]:
        """Lock the folder for one run at a time, on all machines; the system releases the lock when the run ends.

        Yields a description of the last run if it ended without releasing the lock. **Raises** `FolderInUse`.
        """
        import fcntl

        path = self.folder / "lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise MdsensError(
                    f"{path} cannot be locked ({error.strerror}): choose a folder where it can"
                ) from error
            raise FolderInUse(
                f"another run is at work in {self.folder}: {self.holder() or 'an unknown process'}; "
                f"mdsens status {self.folder} shows how far it is"
            ) from error
        try:
            stale = self.holder()
            with contextlib.suppress(OSError):  # a full disk does not affect the lock itself
                os.ftruncate(handle, 0)
                me = f"process {os.getpid()} on {socket.gethostname()}, since {_now()}"
                os.pwrite(handle, me.encode(), 0)
            yield stale
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def holder(self) -> str | None:
        """The run that has the lock, or the last one if it ended without releasing it."""
        with contextlib.suppress(OSError):
            return (self.folder / "lock").read_text().strip() or None
        return None

    def is_locked(self) -> bool:
        import fcntl

        try:
            handle = os.open(self.folder / "lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def clean(self) -> None:
        """Remove unfinished files of dead processes on this machine, and those of others that are an hour old."""
        for unfinished in self.batches.glob(".*-*-*.h5"):
            *host, pid = unfinished.stem.split("-")[1:]
            here = "-".join(host) == _host() and not Path(f"/proc/{pid}").exists()
            with contextlib.suppress(FileNotFoundError):
                if here or time.time() - unfinished.stat().st_mtime > 3600:
                    unfinished.unlink()

    def save(self, id: str, result: Result) -> Path:
        """Write the result of a batch: in memory, then to a temporary file, which is renamed.

        **Raises** `DiskFull` if that fails.
        """
        content = _file_of(result)
        path = self.batches / f"{id}.{_checksum(content)}.h5"
        unfinished = self.batches / f".{id}-{_host()}-{os.getpid()}.h5"
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            raise self._disk_full("a result", error) from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
        return path

    def files(self) -> list[Path]:
        return sorted(path for path in self.batches.glob("*.h5") if not path.name.startswith("."))

    def finished(self) -> set[str]:
        """The ids of the batches that have a file; its content is not checked."""
        return {path.name.partition(".")[0] for path in self.files()}

    def results(self, arrays: bool = True, paths: Sequence[Path] | None = None) -> Iterator[tuple[Path, Result]]:
        """All results whose checksum is right; other files are skipped."""
        for path in self.files() if paths is None else paths:
            content = path.read_bytes()
            if path.name.split(".")[1] == _checksum(content):
                yield path, _result_of(content, arrays)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The row of every finished task."""
        return self._rows(self.files())

    def _rows(self, paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
        return {row["task"]: row for _, result in self.results(False, paths) for row in result.rows}

    def forget_failed(self) -> None:
        """Remove failed tasks from the results, so that they are tried again; the old files go to DIR/retried."""
        for path, result in list(self.results()):
            kept = [k for k, row in enumerate(result.rows) if row["status"] != "failed"]
            if len(kept) == len(result.rows):
                continue
            if kept:
                rest = {name: values[kept] for name, values in result.arrays.items()}
                part = Result([result.rows[k] for k in kept], rest, result.origin)
                self.save(f"{path.name.partition('.')[0]}-part", part)
            (self.folder / "retried").mkdir(exist_ok=True)
            path.rename(self.folder / "retried" / path.name)

    def rows_of(self, batch: Batch) -> list[dict[str, Any]]:
        """The rows of one batch, all of whose tasks are finished."""
        found = self._rows(sorted(self.batches.glob(f"{batch.id}.*.h5"))) or self.rows()
        return [found[task.id] for task in batch.tasks if task.id in found]

    def set_aside_broken(self) -> list[Path]:
        """Move every file whose content does not match its checksum into DIR/broken, and return their new paths."""
        broken = []
        for path in self.files():
            if path.name.split(".")[1:2] != [_checksum(path.read_bytes())]:
                (self.folder / "broken").mkdir(exist_ok=True)
                broken.append(path.rename(self.folder / "broken" / path.name))
        return broken

    def write_json(self, name: str, content: Any) -> None:
        """**Raises** `DiskFull` if the file cannot be written."""
        try:
            with replacing(self.folder / name) as file:
                file.write_text(json.dumps(content) + "\n")
        except OSError as error:
            raise self._disk_full(name, error) from error

    def _disk_full(self, what: str, error: OSError) -> DiskFull:
        return DiskFull(
            f"{what} could not be written to {self.folder}: {error.strerror}. All earlier results are safe: make room, "
            "and give the same command again"
        )

    def read_json(self, name: str) -> Any:
        """The content of a file; None if it does not exist or cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / name).read_text())
        return None


def origin(device: str, seconds: float, batch: Batch) -> dict[str, Any]:
    """Where, when and with which versions a batch was computed."""
    import jax

    return {
        "mdsens": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
        "study": batch.tasks[0].study.model_dump_json(),
        "tasks": len(batch.tasks),
        "planned_size": batch.size,
        "seconds": round(seconds, 3),
        "written": _now(),
    }


def _file_of(result: Result) -> bytes:
    """The bytes of an HDF5 file."""
    import h5py

    with h5py.File("batch.h5", "w", driver="core", backing_store=False) as file:
        for name, value in result.origin.items():
            file.attrs[name] = value
        file.create_group("table", track_order=True)
        for name in result.rows[0]:
            column = [row[name] for row in result.rows]
            kind = h5py.string_dtype() if name in TEXT else _number_type(column)
            file.create_dataset(f"table/{_escaped(name)}", data=column, dtype=kind)
        arrays = file.create_group("arrays", track_order=True)
        for name, values in result.arrays.items():
            arrays[_escaped(name)] = values
        file.flush()
        return file.id.get_file_image()


def _number_type(column: Sequence[Any]) -> Any:
    return np.int64 if all(isinstance(value, int) for value in column) else np.float64


def _result_of(content: bytes, arrays: bool) -> Result:
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        columns = {
            _unescaped(name): (data.asstr()[()] if _unescaped(name) in TEXT else data[()]).tolist()
            for name, data in file["table"].items()
        }
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        kept = {_unescaped(name): data[()] for name, data in file["arrays"].items()} if arrays else {}
        return Result(rows, kept, dict(file.attrs))


def _escaped(name: str) -> str:
    return name.replace("/", "|")


def _unescaped(name: str) -> str:
    return name.replace("|", "/")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("studies need a system with fcntl, such as Linux or macOS")
