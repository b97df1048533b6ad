"""Names that a user gives, looked up in a registry."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..errors import InvalidInput

T = TypeVar("T")

BONDS_ALONE = "bonds"
"""The name of the potential that consists of the bonds and angles of a file."""


def look_up(name: str, registry: Mapping[str, T], what: str) -> T:
    """The entry of a registry.

    **Raises** `InvalidInput`, with all names of the registry and the one nearest to it, for a name that is not there.
    """
    for fault in faults_of_name(name, registry, what):
        raise InvalidInput(fault)
    return registry[name]


def faults_of_name(name: str, offered: Iterable[str], what: str) -> list[str]:
    """One message for a name that is not offered, else none."""
    offered = list(offered)
    if name in offered:
        return []
    shown = ", ".join([each for each in offered if not each.startswith("species-diameter:")] or offered)
    kinds = [each for each in offered if each.startswith("species-diameter:")]
    more = "" if not kinds else f", {kinds[0]} …" if len(kinds) > 1 else f", {kinds[0]}"
    return [f"there is no {what} {name!r}{did_you_mean(name, offered)}; there are {shown}{more}"]


def nearest(name: str, offered: Iterable[str]) -> str | None:
    """The name that is spelled most like another one, if any is."""
    return next(iter(difflib.get_close_matches(name, list(offered), 1)), None)


def did_you_mean(name: str, offered: Iterable[str]) -> str:
    near = nearest(name, offered)
    return f" (did you mean {near}?)" if near else ""


def is_of_bonds(name: str) -> bool:
    """Whether a parameter belongs to the bonds or angles of a file, as `bonds.stiffness`."""
    return "." in name


def of_bonds(parameters: Mapping[str, T]) -> dict[str, T]:
    """The parameters of bonds and angles among those of a potential."""
    return {name: value for name, value in parameters.items() if is_of_bonds(name)}


def of_pairs(parameters: Mapping[str, T]) -> dict[str, T]:
    """The others, but for the `name` of the potential."""
    return {name: value for name, value in parameters.items() if name != "name" and not is_of_bonds(name)}
