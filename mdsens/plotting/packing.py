"""A packing drawn to scale, and its response as arrows."""

from __future__ import annotations

import itertools
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from ..potentials import Potential
from ..relaxation.equilibrium import Equilibrium
from ..response.fields import motion
from ..response.sensitivity import Sensitivity
from ..system import System
from .cell import edges, images_in_plane
from .parts import draw_parts, node_diameter
from .style import ARROW, ARROW_CUT, COLORS, EDGES, FIXED_EDGE, new_figure, paler

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TYPICAL_ARROW = 0.9
"""The length, in mean diameters, that nine of ten arrows do not exceed."""

LONGEST_ARROW = 1.8
"""In units of the typical arrow; longer ones are shortened."""


def draw(
    packing: System | Equilibrium,
    ax: Axes | None = None,
    colors: ArrayLike | None = None,
    potential: Potential | None = None,
) -> Axes:
    """Draw a packing to scale, with the periodic images that overlap the cell.

    The outlines of rattlers are dotted if the packing is an equilibrium; those of fixed particles are black. A
    three-dimensional packing is projected along z, without images; particles farther away are paler.

    Of an equilibrium the parts of its potential are drawn, too. Bonds are lines, wider if stiffer, red where they pull,
    blue where they push, gray without force; those of stiffness zero are left out. Tethers are dotted, loads are
    arrows, and in two dimensions walls are lines with hatches behind. The particles of a network, which touch nothing,
    are shown as nodes: small dots, fixed ones black, and rattlers, at which no bond resists, open.

    **Arguments:**

    - `packing`: the system, or the equilibrium.
    - `ax`: the axes to draw into; new ones if None.
    - `colors`: one for each particle, RGB or RGBA [n, 3 or 4]; by species if None.
    - `potential`: the potential whose parts are drawn; that of an equilibrium if None.

    **Returns:**

    - The axes.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 6))
    system = system_of(packing)
    if potential is None and isinstance(packing, Equilibrium):
        potential = packing.frozen.potential
    node = None if potential is None else node_diameter(potential, system)
    shown = system if node is None else system.replace(diameters=node)
    _draw_particles(shown, ax, colors, _rattlers_of(packing), nodes=node is not None)
    _frame(shown, ax)
    if potential is not None:
        draw_parts(potential, system, ax)
    return ax


def draw_sensitivity(packing: System | Equilibrium, sensitivity: Sensitivity, ax: Axes | None = None) -> Axes:
    """Draw a packing with an arrow for every particle: its displacement as the parameter grows.

    If the parameter has components, the arrows show one direction of it: all diameters growing alike, all entries of a
    pair matrix growing alike, or, for the box, the non-affine part of the response to an isotropic dilation. The
    longest arrows are shortened to a multiple of the typical one and drawn in orange, so that one soft particle does
    not shrink the arrows of all others.

    **Arguments:**

    - `packing`: the system, or the equilibrium.
    - `sensitivity`: its response, from `mdsens.sensitivity`.
    - `ax`: the axes to draw into; new ones if None.

    **Returns:**

    - The axes.
    """
    ax, system = draw(packing, ax), system_of(packing)
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
    """Arrows scaled for drawing, so that a typical one is nearly a diameter long.

    **Returns:**

    - The arrows [n, d], zero where their length is only rounding compared with the longest; which of them were
      shortened [n]; and the typical length before scaling.
    """
    lengths = np.linalg.norm(arrows, axis=1)
    moving = lengths > 1e-9 * max(lengths.max(), 1e-300)
    typical = float(np.quantile(lengths[moving], 0.9)) if moving.any() else 1.0
    factor = np.where(moving, np.minimum(1.0, LONGEST_ARROW * typical / np.maximum(lengths, 1e-300)), 0.0)
    shown = arrows * (TYPICAL_ARROW * diameter / typical * factor)[:, None]
    return shown, lengths > LONGEST_ARROW * typical, typical


def packing_figure(packing: System | Equilibrium, sensitivity: Sensitivity | None) -> Figure:
    """A new figure of a packing, with arrows if there is a response."""
    figure = new_figure()
    ax = figure.add_axes((0.03, 0.07, 0.94, 0.84))
    if sensitivity is None:
        draw(packing, ax)
    else:
        draw_sensitivity(packing, sensitivity, ax)
    return figure


def save_sensitivity(path: FilePath, packing: System | Equilibrium, sensitivity: Sensitivity) -> None:
    """Save a picture of a packing and its response, as `draw_sensitivity` draws it.

    **Arguments:**

    - `path`: the file; its ending gives the format.
    - `packing`: the system, or the equilibrium.
    - `sensitivity`: its response.
    """
    packing_figure(packing, sensitivity).savefig(path, dpi=160, facecolor="white")


def arrows_of(system: System, sensitivity: Sensitivity) -> tuple[np.ndarray, str]:
    """One displacement for each particle, as `draw_sensitivity` draws it.

    **Arguments:**

    - `system`: the relaxed system.
    - `sensitivity`: its response.

    **Returns:**

    - The displacements [n, d], length per unit of the parameter, and a caption.
    """
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


def system_of(packing: System | Equilibrium) -> System:
    return packing if isinstance(packing, System) else packing.frozen.system


def _rattlers_of(packing: System | Equilibrium) -> np.ndarray:
    """Which particles are rattlers; none of a system, whose contacts are not known."""
    if isinstance(packing, System):
        return np.zeros(packing.n, bool)
    return np.asarray(packing.frozen.linearization.contacts.rattlers)


def _draw_particles(
    system: System, ax: Axes, colors: ArrayLike | None, rattlers: np.ndarray, nodes: bool = False
) -> None:
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgba_array

    points, particles = _with_images(system) if system.dim == 2 else _far_to_near(system)
    kinds, sizes = np.asarray(system.species) % len(COLORS), np.asarray(system.diameters)[particles]
    faces = np.asarray(colors) if colors is not None else to_rgba_array(COLORS)[kinds]
    edges = to_rgba_array(EDGES)[kinds] if colors is None else to_rgba_array(["#777777"] * system.n)
    fixed = np.zeros(system.n, bool)
    if system.movable is not None:
        fixed = np.logical_not(np.any(np.asarray(system.movable), axis=1))
    edges = np.where(fixed[:, None], to_rgba_array(FIXED_EDGE), edges)
    dotted = rattlers & (not nodes)
    if nodes:
        faces = np.where(rattlers[:, None], 1.0, np.where(fixed[:, None], edges, edges if colors is None else faces))
    if system.dim == 3:
        faces, edges = (paler(each, np.asarray(system.wrapped())[:, 2]) for each in (faces, edges))
    ax.add_collection(
        EllipseCollection(
            sizes,
            sizes,
            np.zeros(len(sizes)),
            units="x",
            offsets=points[:, :2],
            transOffset=ax.transData,
            facecolors=faces[particles],
            edgecolors=edges[particles],
            linewidths=np.where(dotted | fixed, 1.6, 0.7)[particles],
            linestyles=[":" if each else "-" for each in dotted[particles]],
            alpha=0.85 if system.dim == 2 else None,
        )
    )


def _with_images(system: System) -> tuple[np.ndarray, np.ndarray]:
    """The positions of all particles and of their images that overlap the cell, and the particle of each."""
    points, sizes = np.asarray(system.wrapped()), np.asarray(system.diameters)
    lattice, inverse = images_in_plane(system)
    images, particles = [], []
    for shift in itertools.product((-1, 0, 1), repeat=len(lattice)):
        image = points + np.array(shift) @ lattice
        fractions = image @ inverse
        margin = 0.5 * sizes[:, None] * np.linalg.norm(inverse, axis=0)
        touches = ((fractions > -margin) & (fractions < 1 + margin)).all(axis=1)
        images.append(image[touches])
        particles.append(np.flatnonzero(touches))
    return np.concatenate(images), np.concatenate(particles)


def _far_to_near(system: System) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(system.wrapped())
    order = np.argsort(points[:, 2])
    return points[order], order


def _frame(system: System, ax: Axes) -> None:
    """Draw the outline of the cell, and set equal axes without ticks, since the particles show the scale."""
    points, radius = np.asarray(system.wrapped()), 1.05 * float(np.max(np.asarray(system.diameters)))
    corners = points
    style: dict[str, Any] = {"color": "#333333", "linewidth": 1.0, "zorder": 10}
    if all(system.periodic):
        a, b = np.asarray(system.box)[:2, :2]
        corners = np.array([0 * a, a, a + b, b, 0 * a])
        ax.plot(*corners.T, **style)
    elif system.box is not None:
        frame = edges(system)[..., :2]
        corners = np.concatenate(frame)
        ax.plot(*frame.T, **style)
    low, high = corners[:, :2].min(axis=0) - radius, corners[:, :2].max(axis=0) + radius
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _key(ax: Axes, quiver: Any, typical: float, scale: float, sensitivity: Sensitivity, cut: int) -> None:
    size = float(f"{typical:.1g}")
    symbol = "∂x/∂θ" if sensitivity.response.ndim == 2 else "∂x/∂ln L - x" if sensitivity.wrt == "box" else "Σₖ ∂x/∂θₖ"
    label = f"|{symbol}| = {size:g}" + (f"   ({cut} longer, shortened, in orange)" if cut else "")
    place = (0.14, -0.03)
    ax.quiverkey(quiver, *place, size * scale, "", labelpos="E", coordinates="axes", color=ARROW)
    # unlike the label of the key, a text is taken into account when a notebook crops the figure
    ax.annotate(label, place, (7.2, 0.0), "axes fraction", "offset points", va="center")
