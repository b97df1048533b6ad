"""The cell as pictures show it."""

from __future__ import annotations

import itertools

import numpy as np

from ..geometry import reciprocal
from ..system import System


def outline(system: System) -> tuple[np.ndarray, np.ndarray]:
    """A corner [d] and the vectors [d, d] of the cell; along directions in which it is open, of a box around all
    particles.
    """
    corner, box = system.enclosing_box(system.diameters.max())
    return np.asarray(corner), np.asarray(box)


def edges(system: System) -> np.ndarray:
    """The edges [e, 2, d] of the faces that have periodic images, each from one corner to another."""
    corner, box = outline(system)
    found = []
    for corners in itertools.product((0, 1), repeat=system.dim):
        for k in range(system.dim):
            others = [along for m, along in enumerate(system.periodic) if m != k]
            if not corners[k] and any(others):
                start = corner + np.array(corners) @ box
                found.append([start, start + box[k]])
    return np.array(found)


def images_in_plane(system: System) -> tuple[np.ndarray, np.ndarray]:
    """The lattice vectors [m, d] along which a picture in the plane of the first two shows images, and the matrix
    [d, m] of the fractional coordinates along them.
    """
    if system.lattice is None:
        return np.zeros((0, system.dim)), np.zeros((system.dim, 0))
    shown = sum(system.periodic[:2])
    return np.asarray(system.lattice)[:shown], np.asarray(reciprocal(system.lattice))[:, :shown]
