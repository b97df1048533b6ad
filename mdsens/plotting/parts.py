"""What a potential adds to the picture of its particles: bonds, walls, loads and tethers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array

from ..potentials import Bonds, CylindricalWall, Gravity, Load, LocalPotential, PlanarWall, Potential, Tethers
from ..runtime.compiled import compile_once
from ..system import System
from .cell import images_in_plane, outline
from .style import COMPRESSION, LOAD, TENSION, UNLOADED, WALL, WALL_HATCH, paler

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOND_WIDTH = 1.6
"""In points, of a bond of the median stiffness."""

WIDEST_BOND = 2.5
"""In units of the typical width; the thinnest is its inverse. The width grows as the square root of the stiffness."""

NODE_SHARE = 0.2
"""The diameter of a node, in lengths of bonds."""

LOAD_LENGTH = 0.9
"""The length of the arrow of the largest load, in diameters, or in lengths of bonds."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the parts of one picture have in common.

    - `system`, `ax`: the particles, and the axes that show them.
    - `network`: whether the particles are shown as nodes.
    - `length`: the mean diameter, or the median length of the bonds of a network.
    - `stiffness`, `force`: of the bonds, the median and nearly the largest.
    """

    system: System
    ax: Axes
    network: bool
    length: float
    stiffness: float
    force: float

    def include(self, points: np.ndarray) -> None:
        """Widen the view so that it shows the points."""
        margin = 0.1 * self.length
        for limits, widen, column in (
            (self.ax.get_xlim(), self.ax.set_xlim, points[:, 0]),
            (self.ax.get_ylim(), self.ax.set_ylim, points[:, 1]),
        ):
            widen(min(limits[0], column.min() - margin), max(limits[1], column.max() + margin))


def node_diameter(potential: Potential, system: System) -> float | None:
    """The diameter of the dots that stand for the nodes of a network; None if particles touch each other or a wall."""
    parts = potential.parts()
    if any(part.needs_pairs or part.contact for part in parts):
        return None
    lengths = [_bond_state(part, system)[1] for part in parts if isinstance(part, Bonds)]
    return NODE_SHARE * float(np.median(np.concatenate(lengths))) if lengths else None


def draw_parts(potential: Potential, system: System, ax: Axes) -> None:
    """Draw the parts of a potential into axes that show the particles."""
    node = node_diameter(potential, system)
    length = float(np.mean(np.asarray(system.diameters))) if node is None else node / NODE_SHARE
    scene = Scene(system, ax, node is not None, length, *_typical_bond(potential, system))
    for part in potential.parts():
        draw_part(part, scene)


def bond_lines(potential: Potential, system: System) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two ends of every bond [m, 2, d], with its images that pass through the cell, and their colors [m, 4]."""
    _, force = _typical_bond(potential, system)
    drawn = (_bonds_drawn(part, system, force) for part in potential.parts() if isinstance(part, Bonds))
    return [(lines, colors) for lines, colors, _ in drawn]


def _typical_bond(potential: Potential, system: System) -> tuple[float, float]:
    """The median stiffness of the bonds, and nearly their largest force."""
    bonds = [(_stiffness(part), _bond_state(part, system)[2]) for part in potential.parts() if isinstance(part, Bonds)]
    if bonds:
        k, force = (np.concatenate(each) for each in zip(*bonds, strict=True))
        if (k > 0.0).any():
            return float(np.median(k[k > 0.0])), float(np.quantile(np.abs(force[k > 0.0]), 0.95))
    return 1.0, 0.0


def _bonds_drawn(part: Bonds, system: System, largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two ends of each line [m, 2, d], its color [m, 4], and the stiffness of its bond [m]; bonds without any are
    left out.
    """
    stiffness, pairs = _stiffness(part), np.asarray(part.pairs)
    shown = stiffness > 0.0
    step, length, force = (each[shown] for each in _bond_state(part, system))
    lines, bonds = _images(np.asarray(system.wrapped())[pairs[shown, 0]], step, system)
    return lines, _tension_colors(force, stiffness[shown] * length, largest)[bonds], stiffness[shown][bonds]


@functools.singledispatch
def draw_part(part: Any, scene: Scene) -> None:
    """Draw one part of a potential. A kind of part without a drawing is left out."""


@draw_part.register
def _(part: Bonds, scene: Scene) -> None:
    from matplotlib.collections import LineCollection

    lines, colors, stiffness = _bonds_drawn(part, scene.system, scene.force)
    if not len(lines):
        return
    drawn = LineCollection(
        list(lines[..., :2]),
        colors=colors if scene.system.dim == 2 else paler(colors, lines[..., 2].mean(axis=1)),
        linewidths=BOND_WIDTH * np.clip(np.sqrt(stiffness / scene.stiffness), 1.0 / WIDEST_BOND, WIDEST_BOND),
        zorder=0.9 if scene.network else 1.5,
    )
    scene.ax.add_collection(drawn, autolim=False)
    _clip_to_cell(drawn, scene)


@draw_part.register
def _(part: Tethers, scene: Scene) -> None:
    from matplotlib.collections import LineCollection

    terms = _terms(part, scene.system)
    particles, stiffness = np.asarray(terms.groups)[:, 0], _stiffness(part)
    ends = np.asarray(scene.system.wrapped())[particles]
    anchors = ends + np.asarray(part.anchors) - np.asarray(terms.positions)[:, 0]
    lines = np.stack([ends, anchors], axis=1)[stiffness > 0.0, :, :2]
    if len(lines):
        style: dict[str, Any] = {"colors": WALL, "linewidths": 1.0, "linestyles": ":", "zorder": 3}
        scene.ax.add_collection(LineCollection(list(lines), **style), autolim=False)
        x, y = lines[:, 1].T
        scene.ax.scatter(x, y, s=14, c=WALL, marker="x", linewidths=0.9, zorder=3)
        scene.include(lines[:, 1])


@draw_part.register
def _(part: Load, scene: Scene) -> None:
    forces, points = np.asarray(part.forces), np.asarray(scene.system.wrapped())
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > 0.0:
        loaded = np.linalg.norm(forces, axis=1) > 1e-9 * largest
        _arrows(points[loaded], forces[loaded] * LOAD_LENGTH * scene.length / largest, scene)


@draw_part.register
def _(part: Gravity, scene: Scene) -> None:
    """One arrow beside the upper left corner."""
    acceleration, d = np.asarray(part.acceleration), scene.system.dim
    down = (-acceleration * np.eye(d)[-1] if acceleration.ndim == 0 else acceleration)[:2]
    if np.linalg.norm(down) > 0.0:
        corner = np.array([scene.ax.get_xlim()[0], scene.ax.get_ylim()[1]])
        arrow = LOAD_LENGTH * scene.length * down / np.linalg.norm(down)
        middle = corner - [0.0, 0.5 * LOAD_LENGTH * scene.length]
        _arrows((middle - 0.5 * arrow)[None], arrow[None], scene)
        scene.ax.annotate("g", tuple(middle), (6.0, 0.0), "data", "offset points", color=LOAD, va="center")


@draw_part.register
def _(part: PlanarWall, scene: Scene) -> None:
    """A line with hatches behind it, in two dimensions, as far as the picture goes."""
    from matplotlib.patches import Polygon

    if scene.system.dim != 2:
        return
    normal = np.asarray(part.normal) / np.linalg.norm(np.asarray(part.normal))
    points, tangent = np.asarray(scene.system.wrapped()), np.array([-normal[1], normal[0]])
    heights = (points - np.asarray(part.position)) @ normal
    nearest = points[np.argmin(np.abs(heights))] - heights[np.argmin(np.abs(heights))] * normal
    scene.include((nearest - 0.5 * scene.length * normal)[None])
    far = float(np.hypot(np.ptp(scene.ax.get_xlim()), np.ptp(scene.ax.get_ylim())))
    line = nearest + far * np.stack([-tangent, tangent])
    behind = np.concatenate([line, line[::-1] - 0.5 * scene.length * normal])
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": WALL_HATCH, "hatch": "/////", "linewidth": 0.0}
    scene.ax.add_patch(Polygon(behind, zorder=3, **style))
    scene.ax.plot(*line.T, color=WALL, linewidth=1.5, zorder=11)


@draw_part.register
def _(part: CylindricalWall, scene: Scene) -> None:
    """A circle with hatches around it, in two dimensions."""
    from matplotlib.patches import Annulus, Circle

    if scene.system.dim != 2:
        return
    x, y = (0.0, 0.0) if part.center is None else np.asarray(part.center).tolist()
    radius, width = float(part.radius), 0.5 * scene.length
    scene.include(np.array([x, y]) + (radius + width) * np.array([[-1.0, -1.0], [1.0, 1.0]]))
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": WALL_HATCH, "hatch": "/////", "linewidth": 0.0}
    scene.ax.add_patch(Annulus((x, y), radius + width, width, zorder=3, **style))
    scene.ax.add_patch(Circle((x, y), radius, fill=False, edgecolor=WALL, linewidth=1.5, zorder=11))


@compile_once
def _terms(part: LocalPotential, system: System) -> Any:
    return part.local_terms(system)


@compile_once
def _bond_terms(bonds: Bonds, system: System) -> tuple[Array, Array, Array]:
    x = bonds.local_terms(system).positions
    return x[:, 1] - x[:, 0], bonds.lengths(system), bonds.tensions(system)


def _bond_state(bonds: Bonds, system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the first to the second particle of each bond [m, d], its length, and its force, positive where it pulls."""
    step, length, force = (np.nan_to_num(np.asarray(each)) for each in _bond_terms(bonds, system))
    return step, length, force


def _stiffness(part: Bonds | Tethers) -> np.ndarray:
    count = len(part.pairs) if isinstance(part, Bonds) else len(part.anchors)
    return np.broadcast_to(np.asarray(part.stiffness), (count,))


def _tension_colors(force: np.ndarray, scale: np.ndarray, largest: float) -> np.ndarray:
    """Red where a bond pulls, blue where it pushes, the stronger the fuller; gray where its force is but rounding."""
    from matplotlib.colors import to_rgba_array

    rounding = np.sqrt(np.finfo(force.dtype).eps) * scale
    share = np.where(np.abs(force) > rounding, 0.35 + 0.65 * np.minimum(np.abs(force) / (largest or 1.0), 1.0), 0.0)
    full = to_rgba_array([TENSION if f > 0.0 else COMPRESSION for f in force])
    return np.clip(share[:, None] * full + (1.0 - share[:, None]) * to_rgba_array(UNLOADED), 0.0, 1.0)


def _images(start: np.ndarray, step: np.ndarray, system: System) -> tuple[np.ndarray, np.ndarray]:
    """The lines from `start` along `step`, and all of their images that pass through the cell, and the bond of each."""
    lines, bonds = np.stack([start, start + step], axis=1), np.arange(len(start))
    lattice, inverse = images_in_plane(system)
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=len(lattice)))) @ lattice
    images = (lines + shifts[:, None, None]).reshape(-1, *lines.shape[1:])
    fractions = images @ inverse
    inside = ((fractions.max(axis=1) > 0.0) & (fractions.min(axis=1) < 1.0)).all(axis=1)
    return images[inside], np.tile(bonds, len(shifts))[inside]


def _clip_to_cell(drawn: Any, scene: Scene) -> None:
    from matplotlib.patches import Polygon

    if scene.system.box is not None:
        corner, box = (found[..., :2] for found in outline(scene.system))
        a, b = box[:2]
        drawn.set_clip_path(Polygon([corner, corner + a, corner + a + b, corner + b], transform=scene.ax.transData))


def _arrows(points: np.ndarray, arrows: np.ndarray, scene: Scene) -> None:
    from matplotlib.patheffects import withStroke

    scene.include(np.concatenate([points, points + arrows])[:, :2])
    width = min(0.006, 0.08 * scene.length / float(np.ptp(scene.ax.get_xlim())))
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "width": width, "zorder": 12}
    drawn = scene.ax.quiver(*points[:, :2].T, *arrows[:, :2].T, color=LOAD, **style)
    drawn.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
