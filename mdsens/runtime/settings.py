"""Settings whose numbers may vary without compiling anew."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np

from .tracing import as_array, is_concrete


def number(default: float) -> Any:
    """A field with a number that is passed to compiled programs as an array."""
    return eqx.field(default=default, converter=lambda value: as_array(value, float))


class Settings(eqx.Module):
    """A pytree of numbers that compares, hashes and prints by their values."""

    def _values(self) -> tuple[Any, ...]:
        return tuple(
            (name, float(value) if eqx.is_array(value) and is_concrete(value) and not np.ndim(value) else value)
            for name, value in vars(self).items()
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = (
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self._values()
        )
        return f"{type(self).__name__}({', '.join(shown)})"
