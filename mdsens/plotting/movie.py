"""Movies of a packing that moves as a parameter changes."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import InvalidInput
from ..parameters.names import with_parameter
from ..potentials import Potential
from ..relaxation.equilibrium import Equilibrium
from ..response.continuation import Path
from ..runtime.files import check_target
from ..system import System
from .packing import draw, system_of
from .style import new_figure


@dataclasses.dataclass(frozen=True)
class Movie:
    """A GIF or MP4 that was written to `file`, with so many `frames`; a notebook plays it."""

    file: FilePath
    frames: int

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.file.read_bytes()).decode()
        if self.file.suffix == ".gif":
            return f'<img src="data:image/gif;base64,{data}" alt="{self.file.name}">'
        return f'<video controls loop src="data:video/mp4;base64,{data}"></video>'


def animate(
    packings: Path | Sequence[System | Equilibrium],
    file: str | FilePath,
    frames_per_second: float = 12.0,
    exaggerate: float = 1.0,
    captions: Sequence[str] | None = None,
) -> Movie:
    """Write a movie of the packings along a path, or of any packings of the same particles.

    Paths and equilibria are drawn with the parts of their potential, as `draw` does.

    **Arguments:**

    - `packings`: a path from `mdsens.follow`, or packings of the same particles.
    - `file`: the movie; its name ends in .gif, or in .mp4 if matplotlib finds ffmpeg.
    - `frames_per_second`: frames per second.
    - `exaggerate`: factor for displacements from the first packing, since those along a path are often too small to be
      visible.
    - `captions`: one text for each packing; for a path the value of the parameter is shown instead.

    **Returns:**

    - The Movie.

    **Raises:**

    - `InvalidInput` without packings, if they have different particles, or if the movie cannot be written.
    """
    from matplotlib.animation import FFMpegWriter, PillowWriter

    file = FilePath(file)
    if isinstance(packings, Path):
        frames, captions = _along(packings)
    else:
        frames = [(each.potential if isinstance(each, Equilibrium) else None, system_of(each)) for each in packings]
        captions = captions or [""] * len(frames)
    systems = [system for _, system in frames]
    if not systems or len(captions) != len(systems) or len({system.positions.shape for system in systems}) > 1:
        raise InvalidInput("a movie is made of one or more packings of the same particles, with a caption for each")
    writers: dict[str, Any] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
    if file.suffix not in writers or not writers[file.suffix].isAvailable():
        raise InvalidInput(f"{file} cannot be written here: name a .gif (an .mp4 needs ffmpeg)")
    check_target(file)
    figure = new_figure((5.0, 5.3))
    ax = figure.add_axes((0.02, 0.01, 0.96, 0.9))
    writer = writers[file.suffix](fps=frames_per_second)
    with writer.saving(figure, str(file), dpi=80):
        for (potential, system), caption in zip(frames, captions, strict=True):
            ax.clear()
            moved = systems[0].positions + exaggerate * (system.positions - systems[0].positions)
            drawn = draw(system.replace(positions=moved), ax, potential=potential)
            drawn.set_title(caption, fontsize=10, family="monospace")
            writer.grab_frame()
    return Movie(file, len(systems))


def _along(path: Path) -> tuple[list[tuple[Potential | None, System]], list[str]]:
    """The potential and the packing along a path, and their captions: the value of the parameter, or the fraction of
    the path.
    """
    last, scalar = path.last.frozen, path.values.ndim == 1
    frames: list[tuple[Potential | None, System]] = []
    for value, positions in zip(path.values, path.positions, strict=True):
        potential, system = with_parameter(path.wrt, jnp.asarray(value), last.potential, last.system)
        frames.append((potential, system.replace(positions=positions)))
    digits = 3 + max(0, -int(np.floor(np.log10(max(np.ptp(path.values), 1e-12))))) if scalar else 0
    captions = [
        f"{path.wrt} = {float(value):.{digits}f}" if scalar else f"{path.wrt}, {fraction:.1%} of the way"
        for value, fraction in zip(path.values, path.fractions, strict=True)
    ]
    return frames, captions
