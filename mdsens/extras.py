"""What a file says about particles that no computation uses, kept to be written again."""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

WHOLE_TEXT = 1024
"""Bytes that the length of a text is rounded up to, so that texts of similar length compile one program."""


class Extras(eqx.Module):
    """Arrays of any type with a row for each particle, and entries in JSON, all as bytes.

    JAX knows neither text nor, without 64-bit mode, long numbers: as bytes they go unchanged through every
    transformation, and systems from different files with the same columns share compiled programs.

    - `rows` ([n, bytes]): the rows of all arrays, one behind the other; `columns`: their names, types and shapes.
    - `text`: the entries, as JSON of ASE (`ase.io.jsonio`) in UTF-8, with blanks at the end.
    """

    rows: UInt8[Array, "n bytes"]
    text: UInt8[Array, " bytes"]
    columns: tuple[tuple[str, str, tuple[int, ...]], ...] = eqx.field(static=True)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], text: str, n: int) -> Extras:
        """From arrays [n, …] by name."""
        content = text.encode()
        content += b" " * (-len(content) % WHOLE_TEXT)
        rows = [np.ascontiguousarray(values).reshape(n, -1).view(np.uint8).reshape(n, -1) for values in arrays.values()]
        return cls(
            jnp.asarray(np.concatenate(rows, axis=1) if rows else np.zeros((n, 0), np.uint8)),
            jnp.asarray(np.frombuffer(content, np.uint8)),
            tuple((name, values.dtype.str, values.shape[1:]) for name, values in arrays.items()),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        rows, found, place = np.asarray(self.rows), {}, 0
        for name, kind, shape in self.columns:
            width = np.dtype(kind).itemsize * int(np.prod(shape))
            part = np.ascontiguousarray(rows[:, place : place + width])
            found[name] = part.view(kind).reshape(len(rows), *shape)
            place += width
        return found

    def entries(self) -> str:
        """The entries, as JSON."""
        return np.asarray(self.text).tobytes().decode().rstrip(" ")

    def taken(self, order: Array | np.ndarray) -> Extras:
        """Those of the particles called order[k]."""
        return Extras(self.rows[order], self.text, self.columns)
