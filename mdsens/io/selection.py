"""Particles chosen by a text, such as those that a command or a study file fixes."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..errors import InvalidInput
from ..system import System

HOW = "numbers (0-31,40), species=1, or a chemical symbol, and :x or :xy for some components only"


def with_fixed(system: System, chosen: Iterable[str]) -> System:
    """The same system with particles fixed, besides those that are fixed already.

    **Arguments:**

    - `chosen`: each a choice of particles: their numbers (`0-31,40`), their species (`species=1`), or their element
      (`Si`); with `:x`, `:yz` … only these components are fixed.

    **Raises** `InvalidInput` for a choice that cannot be understood or is empty.
    """
    fixed = np.zeros((system.n, system.dim), bool)
    if system.fixed is not None:
        fixed |= np.asarray(system.fixed).reshape(system.n, -1)
    for text in chosen:
        who, _, which = text.partition(":")
        fixed[np.ix_(_particles(who.strip(), system), _components(which.strip(), system.dim, text))] = True
    by_particle = (fixed.any(axis=1) == fixed.all(axis=1)).all()
    return system.replace(fixed=fixed[:, 0] if by_particle else fixed)


def _particles(who: str, system: System) -> np.ndarray:
    if found := re.fullmatch(r"species\s*=\s*(\d+)", who):
        chosen = np.flatnonzero(np.asarray(system.species) == int(found[1]))
    elif re.fullmatch(r"\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*", who):
        ends = [[int(end) for end in part.split("-")] for part in who.split(",")]
        for each in ends:
            if each[0] > each[-1] or each[-1] >= system.n:
                raise InvalidInput(f"{who} names no particles here: they are numbered from 0 to {system.n - 1}")
        chosen = np.concatenate([np.arange(each[0], each[-1] + 1) for each in ends])
    else:
        chosen = np.flatnonzero(_elements(system) == who)
        if not chosen.size and not re.fullmatch(r"[A-Z][a-z]?", who):
            raise InvalidInput(f"particles to fix are given as {HOW}, not {who!r}")
    if not chosen.size:
        raise InvalidInput(f"there are no particles {who} to fix here")
    return chosen


def _elements(system: System) -> np.ndarray:
    from ase.data import chemical_symbols

    if system.numbers is None:
        return np.full(system.n, "")
    return np.array(chemical_symbols)[np.asarray(system.numbers)]


def _components(which: str, dim: int, text: str) -> np.ndarray:
    axes = "xyz"[:dim]
    if not set(which) <= set(axes) or len(set(which)) != len(which):
        raise InvalidInput(f"components to fix are {', '.join(axes)}, as in {text.partition(':')[0]}:x, not {which!r}")
    return np.array([axes.index(axis) for axis in which or axes])
