"""Interactive views of a packing in three dimensions, in a notebook or as a page of HTML."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInput
from ..potentials import Potential
from ..relaxation.equilibrium import Equilibrium
from ..response.sensitivity import Sensitivity
from ..system import System
from .cell import edges
from .packing import arrows_of, packing_figure, shortened, system_of
from .parts import bond_lines, node_diameter
from .style import ARROW, ARROW_CUT, COLORS, EDGES, png_of

MOST_PARTICLES = 20_000
"""That a browser rotates smoothly."""


@dataclasses.dataclass(frozen=True)
class View:
    """A view that can be rotated: a self-contained page of HTML, which notebooks display."""

    page: str
    packing: System | Equilibrium
    sensitivity: Sensitivity | None
    height: int

    def save(self, path: str | Path) -> None:
        """Save the view as a page of HTML.

        **Arguments:**

        - `path`: the file; its name ends in .html.

        **Raises:**

        - `InvalidInput` for another ending.
        """
        if Path(path).suffix not in (".html", ".htm"):
            raise InvalidInput(
                f"a view is a page of HTML: save it as .html, not {Path(path).suffix or 'without an ending'}; for a "
                "picture use mdsens.plotting.draw(…).figure.savefig"
            )
        Path(path).write_text(self.page)

    @cached_property
    def picture(self) -> bytes:
        """The view from the front as PNG, for readers that do not display HTML."""
        return png_of(packing_figure(self.packing, self.sensitivity), dpi=80)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        style = f"width: 100%; height: {self.height}px; border: 0"
        return {
            "text/html": f'<iframe srcdoc="{html.escape(self.page)}" style="{style}"></iframe>',
            "image/png": base64.b64encode(self.picture).decode(),
            "text/plain": f"View of {system_of(self.packing).n} particles",
        }


def view(packing: System | Equilibrium, sensitivity: Sensitivity | None = None, height: int = 460) -> View:
    """Show a packing in three dimensions, so that it can be rotated; an equilibrium with its bonds.

    **Arguments:**

    - `packing`: the system, or the equilibrium.
    - `sensitivity`: a response, drawn as one arrow for every particle.
    - `height`: the height in a notebook, in pixels.

    **Returns:**

    - A View, which a notebook displays; `View.save` writes it as a page of its own.

    **Raises:**

    - `InvalidInput` for more than 20000 particles.
    """
    system = system_of(packing)
    if system.n > MOST_PARTICLES:
        raise InvalidInput(f"{system.n} particles are too many for a browser (at most {MOST_PARTICLES}): draw them")
    template = files(__package__).joinpath("viewer.html").read_text()
    potential = packing.frozen.potential if isinstance(packing, Equilibrium) else None
    scene = json.dumps(_scene(system, potential, sensitivity)).replace("</", "<\\/")
    page = template.replace("TITLE", f"{system.n} particles").replace("SCENE", scene)
    return View(page, packing, sensitivity, height)


def _scene(system: System, potential: Potential | None, sensitivity: Sensitivity | None) -> dict[str, Any]:
    node = None if potential is None else node_diameter(potential, system)
    points = _in_space(np.asarray(system.wrapped()))
    sizes = np.asarray(system.diameters) if node is None else np.full(system.n, node)
    kinds, frame = np.asarray(system.species), _frame(system)
    corners = np.array(frame).reshape(-1, 3) if frame else points
    center = 0.5 * (corners.min(axis=0) + corners.max(axis=0))
    radius = float(np.linalg.norm(corners - center, axis=1).max() + 0.5 * sizes.max())
    about = f"{system.n} particles" + (f", φ = {float(system.packing_fraction):.4g}" if all(system.periodic) else "")
    particles = [
        {"x": x.tolist(), "d": d, "c": k % len(COLORS), "about": f"particle {i}, species {k}, diameter {d:.5g}"}
        for i, (x, d, k) in enumerate(zip(points.round(6), sizes.tolist(), kinds.tolist(), strict=True))
    ]
    return {
        "about": about if sensitivity is None else f"{about}; {arrows_of(system, sensitivity)[1]}",
        "flat": system.dim == 2,
        "center": center.tolist(),
        "radius": radius,
        "diameter": float(sizes.mean()),
        "colors": list(zip(COLORS, EDGES, strict=True)),
        "particles": particles,
        "edges": frame,
        "bonds": [] if potential is None else _bonds(potential, system),
        "arrows": [] if sensitivity is None else _arrows(system, sensitivity, points),
    }


def _in_space(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.zeros((len(x), 3 - x.shape[1]))], axis=1)


def _frame(system: System) -> list[list[list[float]]]:
    """The edges of the cell, each from one corner to another."""
    return [] if system.box is None else [_in_space(edge).tolist() for edge in edges(system)]


def _bonds(potential: Potential, system: System) -> list[list[Any]]:
    """Bonds as lines from one end to the other with their colors."""
    from matplotlib.colors import to_hex

    return [
        [*_in_space(ends).round(6).tolist(), to_hex(color)]
        for lines, colors in bond_lines(potential, system)
        for ends, color in zip(lines, colors, strict=True)
    ]


def _arrows(system: System, sensitivity: Sensitivity, points: np.ndarray) -> list[list[Any]]:
    shown, cut, _ = shortened(arrows_of(system, sensitivity)[0], float(np.mean(np.asarray(system.diameters))))
    ends = points + _in_space(shown)
    moving = np.any(shown != 0.0, axis=1)
    return [
        [points[k].round(6).tolist(), ends[k].round(6).tolist(), ARROW_CUT if cut[k] else ARROW]
        for k in np.flatnonzero(moving)
    ]
