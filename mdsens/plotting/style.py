"""Colors, and figures that a notebook shows without pyplot."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#a9c4e4", "#f3cf9b", "#b7dcb2", "#e3b5cf", "#d7d7d7", "#f2eaa0")
EDGES = ("#5f7fa8", "#b98a45", "#6b9a66", "#a0668a", "#888888", "#a79c3e")
FIXED_EDGE = "#111111"
ARROW = "#b01e1e"
ARROW_CUT = "#e0662c"
"""The color of an arrow that was shortened."""
TENSION, COMPRESSION, UNLOADED = "#c0392b", "#2c62a8", "#8a8a8a"
"""The colors of bonds that pull, that push, and that bear nothing."""
LOAD = "#2f7d4f"
WALL, WALL_HATCH = "#333333", "#999999"


def png_of(figure: Figure, dpi: int = 90) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white")
    return file.getvalue()


def new_figure(size: tuple[float, float] = (7.2, 7.6)) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that pyplot does not manage, and that a notebook shows all the same."""

        def _repr_png_(self) -> bytes:
            return png_of(self)

    figure = Picture(figsize=size)
    FigureCanvasAgg(figure)
    return figure


def paler(colors: np.ndarray, height: np.ndarray) -> np.ndarray:
    """The colors mixed with white: the lower a particle, the paler."""
    depth = (height.max() - height) / (np.ptp(height) or 1.0)
    mixed = np.array(colors, dtype=float)
    mixed[:, :3] += (0.75 * depth)[:, None] * (1.0 - mixed[:, :3])
    return mixed
