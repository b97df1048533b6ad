"""Text files to the letter: lines, words and numbers, and nothing that merely resembles them.

Python reads `1_0` as ten, `١` as one and a no-break space as a blank; no format does. What stands where a number is
expected and is none is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InvalidInput

BLANKS = re.compile(r"[ \t]+")
OF_NUMBERS = re.compile(r"[0-9eE+.\-]*")
OF_WHOLE_NUMBERS = re.compile(r"[0-9+\-]*")


def read_text(path: Path) -> str:
    """The text of a file, decompressed by its ending.

    **Raises** `InvalidInput` for what is no text in UTF-8.
    """
    from ase.io.formats import open_with_compression

    try:
        with open_with_compression(str(path), "rb") as file:
            text = file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"its byte {error.start} is of no text in UTF-8") from None
    if "\0" in text:
        raise InvalidInput("it has a byte that is zero, so it is no text")
    return str(text)


def lines_of(text: str) -> list[str]:
    """The lines without their ends."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def without_empty_end(lines: list[str]) -> list[str]:
    """The lines up to the last one that is not blank."""
    last = max((k for k, line in enumerate(lines) if line.strip(" \t")), default=-1)
    return lines[: last + 1]


def words_of(line: str) -> list[str]:
    """The words between blanks and tabs."""
    return [word for word in BLANKS.split(line) if word]


def reals(words: Iterable[str]) -> np.ndarray:
    """Finite numbers [k]. **Raises** `InvalidInput` with the first word that is none."""
    return _parsed(list(words), OF_NUMBERS, np.dtype(float), "a number")


def wholes(words: Iterable[str]) -> np.ndarray:
    """Whole numbers [k]. **Raises** `InvalidInput` with the first word that is none."""
    return _parsed(list(words), OF_WHOLE_NUMBERS, np.dtype(np.int64), "a whole number")


def _parsed(words: list[str], alphabet: re.Pattern[str], dtype: np.dtype, what: str) -> np.ndarray:
    if alphabet.fullmatch("".join(words)):
        try:
            values = np.array(words, dtype=str).astype(dtype)
            if np.isfinite(values).all():
                return values
        except (ValueError, OverflowError):
            pass
    wrong = next((word for word in words if not _is(word, alphabet, dtype)), "")
    raise InvalidInput(f"{wrong!r} stands where {what} is expected")


def _is(word: str, alphabet: re.Pattern[str], dtype: np.dtype) -> bool:
    try:
        return alphabet.fullmatch(word) is not None and bool(np.isfinite(np.array([word]).astype(dtype)).all())
    except (ValueError, OverflowError):
        return False


def is_real(word: str) -> bool:
    return _is(word, OF_NUMBERS, np.dtype(float))


def is_whole(word: str) -> bool:
    return _is(word, OF_WHOLE_NUMBERS, np.dtype(np.int64))


def atomic_numbers(symbols: Iterable[str]) -> np.ndarray:
    """The atomic numbers of chemical symbols; X, of no element, has 0.

    **Raises** `InvalidInput` with the first word that is no chemical symbol.
    """
    from ase.data import atomic_numbers as known

    symbols = list(symbols)
    for symbol in set(symbols) - set(known):
        raise InvalidInput(f"{symbol!r} is no chemical symbol; kinds of particles that are no elements have numbers, "
                           "in the column species_id")  # fmt: skip
    return np.array([known[symbol] for symbol in symbols], int)


RESULTS = (
    *("energy", "energies", "free_energy", "forces", "force", "fx", "fy", "fz"),
    *("stress", "stresses", "virial", "virials", "dipole", "magmom"),
)
"""What a calculator has found at the positions of a file: it does not hold where the particles come to rest."""
