"""Reads a study file, TOML, and reports all its faults at once, each with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import InvalidInput
from .kinds import KINDS
from .names import BONDS_ALONE, did_you_mean, nearest
from .sections import METHODS, Study, pair_potentials

LARGEST_FILE = 1_000_000
"""Bytes of a study file."""

MOST_ROUNDS = 8
"""Of reading a file, each with what was wrong in those before put right."""


def read_study(path: Path) -> Study:
    """Read a study file.

    **Arguments:**

    - `path`: the file.

    **Returns:**

    - The Study, of the class that belongs to its kind.

    **Raises:**

    - `FileNotFoundError` if there is no such file.
    - `InvalidInput` with one line for every fault of the file: its place, and what is expected there.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no study file {path}; mdsens init {path} writes one to begin with")
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name a study file (mdsens init writes one)")
    if path.stat().st_size > LARGEST_FILE:
        raise InvalidInput(f"{path} is too large for a study file ({path.stat().st_size} bytes)")
    try:
        text = path.read_bytes().decode("utf-8")  # read_text would make a line's end of every carriage return
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number that is too large
        raise InvalidInput(f"{path} is no TOML: {error}") from error
    faults: list[str] = []
    for _ in range(MOST_ROUNDS):
        kind = content.get("kind")
        model = KINDS[kind].study if isinstance(kind, str) and kind in KINDS else Study
        try:
            study = model.model_validate(content, context={"kinds": list(KINDS)})
        except ValidationError as error:
            new = list(_faults(error, text, path, model))
            faults += [fault for fault in new if fault not in faults]
            if not _repair(content, error):
                break
        else:
            if not faults:
                return study
            break
    count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
    raise InvalidInput("\n  ".join([f"{path} has {count}, and nothing was started:", *faults]))


def _repair(content: dict[str, Any], error: ValidationError) -> bool:
    """Puts something right in place of what is wrong, so that faults behind it are found, too.

    A potential, a kind of study or a method that is unknown is taken for the one with the most similar name.

    **Returns** whether that can be done: not where no name is similar, since what else is right depends on these, nor
    where nothing is left to repair.
    """
    repaired = False
    names: dict[tuple[Any, ...], Any] = {
        ("potential", "name"): [*pair_potentials(), BONDS_ALONE],
        ("kind",): KINDS,
        ("sweep", "method"): METHODS,
    }
    for fault in error.errors():
        place: list[Any] = [part for part in fault["loc"] if part not in ("range", "values") and not _is_type(part)]
        if offered := names.get(tuple(place)):
            table = content if len(place) == 1 else content[place[0]]
            near = nearest(str(table[place[-1]]), offered)
            if near is None:
                return False
            repaired, table[place[-1]] = True, near
            continue
        if place[:2] == ["sweep", "samples"]:
            return False
        if place[:2] == ["sweep", "parameters"] and len(place) > 2:
            name = str(place[2])
            right = [1000] if name == "n" else {"low": 0.25, "high": 0.5, "count": 1}
            entries = content["sweep"]["parameters"]
            repaired |= entries.get(name) != right
            entries[name] = right
        else:
            repaired |= _removed(content, place)
    return repaired


def _removed(content: Any, place: list[Any]) -> bool:
    """Whether there was something at a place of nested tables; it is taken out."""
    *way, last = [*place[:2]] or [None]
    for part in way:
        content = content.get(part) if isinstance(content, dict) else None
    if not isinstance(content, dict) or last not in content:
        return False
    del content[last]
    return True


def _faults(error: ValidationError, text: str, path: Path, model: type[Study]) -> Iterator[str]:
    reported = set()
    for fault in error.errors():
        place = [str(part) for part in fault["loc"] if part not in ("range", "values") and not _is_type(part)]
        message, kind = fault["msg"].removeprefix("Value error, "), fault["type"]
        if tuple(place) in reported and kind != "value_error":
            continue  # a value that fits none of several types has one fault for each of them
        reported.add(tuple(place))
        if kind == "extra_forbidden":
            message = f"is unknown here{did_you_mean(place[-1], _names_at(place[:-1], model))}"
        elif kind != "value_error":
            message = f"{message[0].lower()}{message[1:]}, not {str(fault['input'])[:60]!r}"
        line = _line_of(place, text)
        for each in message.splitlines():
            yield f"{path.name}{f':{line}' if line else ''}: {'.'.join(place)}: {each}"


def _is_type(part: object) -> bool:
    """Whether this is pydantic's name for one of the types that a value may have."""
    return isinstance(part, str) and bool(re.match(r"(constrained-)?(int|float|list|finite-float|function)\b", part))


def _names_at(place: list[str], study: type[Study]) -> list[str]:
    model: Any = study
    for part in place:
        model = getattr(model.model_fields.get(part), "annotation", None) if hasattr(model, "model_fields") else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def _line_of(place: list[str], text: str) -> int | None:
    """The line of a key, or of the table that it belongs in, as well as a search through the lines can find it."""
    wanted, best, table = ".".join(place), None, ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = stripped.partition("#")[0].strip("[] ").replace('"', "")
            if f"{wanted}.".startswith(f"{table}.") or (best is None and table.startswith(f"{wanted}.")):
                best = number
            continue
        key = stripped.partition("=")[0].strip().strip("\"'")
        whole = f"{table}.{key}" if table else key
        if key and wanted == whole:
            return number
        if key and wanted.startswith(f"{whole}."):
            best = number
    return best
