"""The folder of a study: finished batches, each a file that is whole or not there, and who is at work in it.

DIR/study.toml            the study, as it was given
DIR/plan.json             its tasks, in order
DIR/batches/ID.SUM.h5     a finished batch; SUM is the checksum of the file's bytes (SHA-256, first half)
DIR/lock, progress.json   who is at work, and what on
DIR/broken/               files that were not what their checksum says
DIR/retried/              batches as they were before failed tasks were tried again
DIR/compiled/             what JAX has compiled
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
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import InvalidInput, MdsensError
from ..files import replacing

if TYPE_CHECKING:
    from .tasks import Batch

TEXT = ("task", "status", "reason", "message", "file", "varied")
"""Columns of words; all others are numbers."""


class Held(MdsensError):
    """Another run is at work in the folder."""


class DiskFull(MdsensError, OSError):
    """A result could not be written."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished batch: rows of the table, arrays with a row for each, and where and how it was computed."""

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
        """Makes the folder. **Raises** `InvalidInput` where nothing can be written."""
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
        """For one run at a time, on whatever machine; the system lets go of it when the run ends, however that is.

        Yields who held it and did not end well, if so. **Raises** `Held`.
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
            raise Held(
                f"another run is at work in {self.folder}: {self.holder() or 'nobody says who'}; "
                f"mdsens status {self.folder} shows how far it is"
            ) from error
        try:
            stale = self.holder()
            with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
                os.ftruncate(handle, 0)
                me = f"process {os.getpid()} on {socket.gethostname()}, since {_now()}"
                os.pwrite(handle, me.encode(), 0)
            yield stale
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def holder(self) -> str | None:
        """Who holds the lock, or held it last and did not end well."""
        with contextlib.suppress(OSError):
            return (self.folder / "lock").read_text().strip() or None
        return None

    def is_held(self) -> bool:
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
        """Removes what processes of this machine that are no more, or any others an hour ago, left half-written."""
        for unfinished in self.batches.glob(".*-*-*.h5"):
            *host, pid = unfinished.stem.split("-")[1:]
            here = "-".join(host) == _host() and not Path(f"/proc/{pid}").exists()
            with contextlib.suppress(FileNotFoundError):
                if here or time.time() - unfinished.stat().st_mtime > 3600:
                    unfinished.unlink()

    def save(self, id: str, result: Result) -> Path:
        """The result of the batch of that id: written in memory, then beside, then moved to its place.

        **Raises** `DiskFull` where that cannot be done.
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
        """The batches of which there is a file; its content is not looked at."""
        return {path.name.partition(".")[0] for path in self.files()}

    def results(self, arrays: bool = True, paths: Sequence[Path] | None = None) -> Iterator[tuple[Path, Result]]:
        """All that are what their checksum says; the others are never read."""
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
        """Takes tasks that failed out of the results, to be tried again; the files as they were go to DIR/retried."""
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
        """Moves every file whose content is not what its name says into DIR/broken, and tells which."""
        broken = []
        for path in self.files():
            if path.name.split(".")[1:2] != [_checksum(path.read_bytes())]:
                (self.folder / "broken").mkdir(exist_ok=True)
                broken.append(path.rename(self.folder / "broken" / path.name))
        return broken

    def write_json(self, name: str, content: Any) -> None:
        """**Raises** `DiskFull` where that cannot be done."""
        try:
            with replacing(self.folder / name) as file:
                file.write_text(json.dumps(content) + "\n")
        except OSError as error:
            raise self._disk_full(name, error) from error

    def _disk_full(self, what: str, error: OSError) -> DiskFull:
        return DiskFull(
            f"{what} could not be written to {self.folder}: {error.strerror}. All before it is safe: make room, and "
            "give the same command again"
        )

    def read_json(self, name: str) -> Any:
        """None where it is not there, or cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / name).read_text())
        return None


def origin(device: str, seconds: float, batch: Batch) -> dict[str, Any]:
    """Where a batch comes from."""
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
    """HDF5, as bytes."""
    import h5py

    with h5py.File("batch.h5", "w", driver="core", backing_store=False) as file:
        for name, value in result.origin.items():
            file.attrs[name] = value
        file.create_group("table", track_order=True)
        for name in result.rows[0]:
            column = [row[name] for row in result.rows]
            words = name in TEXT
            file.create_dataset(
                f"table/{_escaped(name)}", data=column, dtype=h5py.string_dtype() if words else _number_type(column)
            )
        for name, values in result.arrays.items():
            file[f"arrays/{_escaped(name)}"] = values
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
        kept = (
            {_unescaped(name): data[()] for name, data in file["arrays"].items()} if arrays and "arrays" in file else {}
        )
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
