"""Pictures: a packing drawn to scale, and how it responds."""

from __future__ import annotations

import itertools
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from ..relaxation import Equilibrium
from ..response import Sensitivity
from ..studies.fields import motion
from ..system import System
from ..zero_modes import rattlers
from .style import ARROW, ARROW_CUT, COLORS, EDGES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TYPICAL_ARROW = 0.9
"""As long as so many mean diameters are nine of ten arrows at most."""

LONGEST_ARROW = 1.8
"""In typical arrows; longer ones are cut."""


def draw(what: System | Equilibrium, ax: Axes | None = None, colors: ArrayLike | None = None) -> Axes:
    """The packing, to scale, with the periodic images that reach into the cell; of an equilibrium rattlers are dotted.

    A three-dimensional packing is drawn in projection along z, the paler the farther away, without images.

    **Arguments:** `colors`, one for each particle, RGB or RGBA [n, 3 or 4]; by species if None.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 6))
    system, loose = _seen(what)
    _draw_particles(system, ax, colors, loose)
    _frame(system, ax)
    return ax


def draw_sensitivity(what: System | Equilibrium, sensitivity: Sensitivity, ax: Axes | None = None) -> Axes:
    """The packing with an arrow for every particle: the way it moves as the parameter grows.

    Where the parameter has components, the arrows show one direction of them: all diameters
    growing alike, every entry of a pair matrix growing alike, or, for the box, the non-affine part
    of the response to an isotropic dilation. The longest arrows are cut to a multiple of the
    typical one, and drawn in orange, so that one loose particle does not shrink all others.
    """
    ax, system = draw(what, ax), system_of(what)
    arrows, meaning = arrows_of(system, sensitivity)
    points = np.asarray(system.wrapped())
    diameter = float(np.mean(np.asarray(system.diameters)))
    shown, cut, typical = shortened(arrows, diameter)
    moving = np.any(shown != 0.0, axis=1)
    if moving.any():
        width = min(0.0045, 0.06 * diameter / np.ptp(ax.get_xlim()))
        style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "width": width, "zorder": 1e6}
        for chosen, color in ((moving & ~cut, ARROW), (moving & cut, ARROW_CUT)):
            if chosen.any():
                quiver = ax.quiver(*points[chosen, :2].T, *shown[chosen, :2].T, color=color, **style)
        _key(ax, quiver, typical, TYPICAL_ARROW * diameter / typical, sensitivity, int(cut.sum()))
    ax.set_title(f"{meaning}\nΣ|∂x/∂θ| = {sensitivity.l1:.4g}", fontsize=10)
    return ax


def shortened(arrows: np.ndarray, diameter: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Arrows of a length to be drawn, a typical one nearly a diameter long; which were cut; and what is typical.

    Those that are rounding against the longest are zero.
    """
    lengths = np.linalg.norm(arrows, axis=1)
    moving = lengths > 1e-9 * max(lengths.max(), 1e-300)
    typical = float(np.quantile(lengths[moving], 0.9)) if moving.any() else 1.0
    factor = np.where(moving, np.minimum(1.0, LONGEST_ARROW * typical / np.maximum(lengths, 1e-300)), 0.0)
    shown = arrows * (TYPICAL_ARROW * diameter / typical * factor)[:, None]
    return shown, lengths > LONGEST_ARROW * typical, typical


def packing_figure(what: System | Equilibrium, sensitivity: Sensitivity | None) -> Figure:
    """A figure of its own, with arrows if there is a response."""
    figure = new_figure()
    ax = figure.add_axes((0.03, 0.07, 0.94, 0.84))
    if sensitivity is None:
        draw(what, ax)
    else:
        draw_sensitivity(what, sensitivity, ax)
    return figure


def save_sensitivity(path: FilePath, what: System | Equilibrium, sensitivity: Sensitivity) -> None:
    """`draw_sensitivity` into a file."""
    packing_figure(what, sensitivity).savefig(path, dpi=160, facecolor="white")


def arrows_of(system: System, sensitivity: Sensitivity) -> tuple[np.ndarray, str]:
    """One displacement for each particle [n, d], and what it says."""
    gradient, moves = motion(system, sensitivity)
    response, name = sensitivity.response, sensitivity.wrt
    if name == "box":
        nonaffine = moves - np.asarray(system.positions) @ gradient
        return nonaffine, "non-affine response to an isotropic dilation of the box, ∂x/∂ln L - x"
    if response.ndim == 2:
        symbol = {"epsilon": "ε", "alpha": "α"}.get(name, name)
        if name.startswith("species-diameter:"):
            symbol = f"D, diameter of species {name.partition(':')[2]}"
        return moves, f"response ∂x/∂θ, θ = {symbol} = {float(sensitivity.value):.4g}"
    return moves, f"response to all {name} growing alike, Σₖ ∂x/∂θₖ"


def system_of(what: System | Equilibrium) -> System:
    return what if isinstance(what, System) else what.frozen.system


def _seen(what: System | Equilibrium) -> tuple[System, np.ndarray]:
    """The system, and which of its particles are known to be loose."""
    if isinstance(what, System):
        return what, np.zeros(what.n, bool)
    here = what.frozen
    return here.system, np.asarray(rattlers(here.potential, here.system, here.close))


def _draw_particles(system: System, ax: Axes, colors: ArrayLike | None, loose: np.ndarray) -> None:
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgba_array

    points, who = _with_images(system) if system.dim == 2 else _far_to_near(system)
    kinds, sizes = np.asarray(system.species) % len(COLORS), np.asarray(system.diameters)[who]
    faces = np.asarray(colors) if colors is not None else to_rgba_array(COLORS)[kinds]
    edges = to_rgba_array(EDGES)[kinds] if colors is None else to_rgba_array(["#777777"] * system.n)
    if system.dim == 3:
        faces, edges = (_paler(each, np.asarray(system.wrapped())[:, 2]) for each in (faces, edges))
    ax.add_collection(
        EllipseCollection(
            sizes,
            sizes,
            np.zeros(len(sizes)),
            units="x",
            offsets=points[:, :2],
            transOffset=ax.transData,
            facecolors=faces[who],
            edgecolors=edges[who],
            linewidths=np.where(loose, 1.6, 0.7)[who],
            linestyles=[":" if each else "-" for each in loose[who]],
            alpha=0.85 if system.dim == 2 else None,
        )
    )


def _paler(colors: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Mixed with white, the more the lower."""
    depth = (height.max() - height) / (np.ptp(height) or 1.0)
    mixed = np.array(colors, dtype=float)
    mixed[:, :3] += (0.75 * depth)[:, None] * (1.0 - mixed[:, :3])
    return mixed


def _with_images(system: System) -> tuple[np.ndarray, np.ndarray]:
    """All particles and those of their images that overlap the cell: where, and whose."""
    points, sizes = np.asarray(system.wrapped()), np.asarray(system.diameters)
    if system.box is None:
        return points, np.arange(len(points))
    box, heights = np.asarray(system.box), np.asarray(system.heights)
    every, which = [], []
    for shift in itertools.product((-1, 0, 1), repeat=2):
        image = points + np.array(shift) @ box
        fractions = image @ np.linalg.inv(box)
        margin = 0.5 * sizes[:, None] / heights
        touches = ((fractions > -margin) & (fractions < 1 + margin)).all(axis=1)
        every.append(image[touches])
        which.append(np.flatnonzero(touches))
    return np.concatenate(every), np.concatenate(which)


def _far_to_near(system: System) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(system.wrapped())
    order = np.argsort(points[:, 2])
    return points[order], order


def _frame(system: System, ax: Axes) -> None:
    """The outline of the cell, equal axes, and no ticks: the scale is in the particles."""
    points, radius = np.asarray(system.wrapped()), 1.05 * float(np.max(np.asarray(system.diameters)))
    corners = points
    if system.box is not None:
        a, b = np.asarray(system.box)[:2, :2]
        corners = np.array([0 * a, a, a + b, b, 0 * a])
        ax.plot(*corners.T, color="#333333", linewidth=1.0, zorder=10)
    low, high = corners[:, :2].min(axis=0) - radius, corners[:, :2].max(axis=0) + radius
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _key(ax: Axes, quiver: Any, typical: float, scale: float, sensitivity: Sensitivity, cut: int) -> None:
    size = float(f"{typical:.1g}")
    symbol = "∂x/∂θ" if sensitivity.response.ndim == 2 else "∂x/∂ln L - x" if sensitivity.wrt == "box" else "Σₖ ∂x/∂θₖ"
    label = f"|{symbol}| = {size:g}" + (f"   ({cut} longer, cut, in orange)" if cut else "")
    place = (0.14, -0.03)
    ax.quiverkey(quiver, *place, size * scale, "", labelpos="E", coordinates="axes", color=ARROW)
    # a text, unlike the key's own label, is seen where a notebook crops the figure
    ax.annotate(label, place, (7.2, 0.0), "axes fraction", "offset points", va="center")
