"""Pictures: a packing drawn to scale, and how it responds."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InvalidInput
from .fitting import Fit, Target
from .inverse_design import Design
from .path import Path
from .properties import UNITS
from .response import Sensitivity
from .studies.fields import motion
from .system import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .sweeps.results import StudyResults

COLORS = ("#a9c4e4", "#f3cf9b", "#b7dcb2", "#e3b5cf", "#d7d7d7", "#f2eaa0")
EDGES = ("#5f7fa8", "#b98a45", "#6b9a66", "#a0668a", "#888888", "#a79c3e")
ARROW = "#b01e1e"


def draw(system: System, ax: Axes | None = None) -> Axes:
    """The packing, to scale, species by color, with the periodic images that reach into the cell.

    A three-dimensional packing is drawn in projection along z, translucent, without images.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 6))
    _draw_particles(system, ax)
    _frame(system, ax)
    return ax


def draw_sensitivity(system: System, sensitivity: Sensitivity, ax: Axes | None = None) -> Axes:
    """The packing with an arrow for every particle: the way it moves as the parameter grows.

    Where the parameter has components, the arrows show one direction of them: all diameters
    growing alike, every entry of a pair matrix growing alike, or, for the box, the non-affine part
    of the response to an isotropic dilation. The longest arrows are cut to a multiple of the
    typical one, and then drawn open-headed, so that one loose particle does not shrink all others.
    """
    ax = draw(system, ax)
    arrows, meaning = arrows_of(system, sensitivity)
    points = np.asarray(system.wrapped())
    lengths = np.linalg.norm(arrows, axis=1)
    moving = lengths > 1e-9 * max(lengths.max(), 1e-300)
    if moving.any():
        typical = float(np.quantile(lengths[moving], 0.9))
        diameter = float(np.mean(np.asarray(system.diameters)))
        scale = 0.9 * diameter / typical
        shown = arrows * (scale * np.minimum(1.0, 1.8 * typical / np.maximum(lengths, 1e-300)))[:, None]
        cut = lengths > 1.8 * typical
        width = min(0.0045, 0.06 * diameter / np.ptp(ax.get_xlim()))
        style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "width": width, "zorder": 1e6}
        for chosen, color in ((moving & ~cut, ARROW), (moving & cut, "#e0662c")):
            if chosen.any():
                quiver = ax.quiver(*points[chosen, :2].T, *shown[chosen, :2].T, color=color, **style)
        _key(ax, quiver, typical, scale, sensitivity, int(cut.sum()))
    ax.set_title(f"{meaning}\nΣ|∂x/∂θ| = {sensitivity.l1:.4g}", fontsize=10)
    return ax


def save_sensitivity(path: FilePath, system: System, sensitivity: Sensitivity) -> None:
    """`draw_sensitivity` into a file."""
    figure = _figure()
    draw_sensitivity(system, sensitivity, figure.add_axes((0.03, 0.07, 0.94, 0.84)))
    figure.savefig(path, dpi=160, facecolor="white")


def draw_path(path: Path) -> Figure:
    """The energy and the size of the response along a path, with a tick wherever contacts change.

    Contacts that close are blue, those that open orange; a rearrangement is a red line across.
    """
    import matplotlib.pyplot as plt

    scalar = path.values.ndim == 1
    along = path.values if scalar else path.fractions
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    above.plot(along, path.energies, color="#333333", marker=".", markersize=4, linewidth=1.0)
    above.set_ylabel("energy")
    size = np.sqrt(np.mean(np.sum(path.responses**2, axis=-1), axis=-1))
    unit = abs(path.values[-1] - path.values[0]) / max(path.fractions[-1], 1e-300) if scalar else 1.0
    # a response jumps where contacts change: each holds until the next point
    below.step(along, size / (unit or 1.0), where="post", color="#333333", linewidth=1.0)
    below.set_ylabel("response, rms |∂x/∂θ|" if scalar else "response, rms |dx/ds|")
    below.set_xlabel(path.wrt if scalar else f"fraction of the way of {path.wrt}")
    for event in path.events:
        where = float(path.value_at(event.fraction)) if scalar else event.fraction
        color = ARROW if event.rearrangement else "#b9702a" if event.opened else "#3c6fb0"
        height = 1.0 if event.rearrangement else 0.06
        for ax in (above, below):
            ax.axvline(where, 0.0, height, color=color, linewidth=0.9)
    jumps = sum(event.rearrangement for event in path.events)
    above.set_title(f"{len(path.events)} contact changes, {jumps} of them rearrangements", fontsize=10)
    return figure


def draw_fit(fit: Fit, targets: Sequence[Target]) -> Figure:
    """The first target, outlined where the fitted packing has its particles, with the differences as arrows, enlarged;
    and the loss after every step.
    """
    from matplotlib.collections import EllipseCollection

    figure = _figure((11.0, 6.0))
    ax, way = figure.add_axes((0.02, 0.06, 0.5, 0.86)), figure.add_axes((0.62, 0.12, 0.35, 0.78))
    target, residuals = targets[0].system, fit.residuals[0]
    draw(target, ax)
    off = residuals.get("positions")
    if fit.equilibria and off is not None:
        fitted, points = fit.equilibria[0].system, np.asarray(target.wrapped())
        sizes = np.asarray(fitted.diameters)
        outline = EllipseCollection(
            sizes, sizes, np.zeros(len(sizes)), units="x", offsets=(points + off)[:, :2], transOffset=ax.transData,
            facecolors="none", edgecolors="#222222", linewidths=0.8, zorder=5,
        )  # fmt: skip
        ax.add_collection(outline)
        lengths = np.linalg.norm(off, axis=1)
        rms = float(np.sqrt(np.mean(lengths**2)))
        if rms > 1e-9 * float(sizes.mean()):
            times = 0.6 * float(sizes.mean()) / max(float(np.quantile(lengths, 0.9)), 1e-300)
            style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "zorder": 10, "color": ARROW}
            ax.quiver(*points[:, :2].T, *(times * off[:, :2]).T, width=0.004, **style)
            ax.set_title(f"fitted less measured positions, {times:.3g} times enlarged (rms {rms:.2g})", fontsize=10)
        else:
            ax.set_title(f"fitted (outlines) on measured positions (rms {rms:.1g})", fontsize=10)
    losses = np.array([loss for loss, _ in fit.history])
    way.plot(np.arange(len(losses)), np.maximum(losses, 1e-32), color="#333333", marker=".")
    way.locator_params(axis="x", integer=True)
    way.set(xlabel="step", ylabel="loss, half the sum of squares", yscale="log")
    way.set_title("converged" if fit.converged else "NOT converged", fontsize=10)
    return figure


def draw_design(design: Design) -> Figure:
    """The way of the properties, with what was wanted, and of the parameters, relative to where they started."""
    figure = _figure((7.2, 6.4))
    above, below = figure.add_axes((0.13, 0.56, 0.62, 0.37)), figure.add_axes((0.13, 0.1, 0.62, 0.37))
    steps, count = np.arange(len(design.trail)), len(design.properties)
    parameters, properties = design.trail[:, :-count], design.trail[:, -count:]
    single = count == 1
    for k, (name, start) in enumerate(design.before.items()):
        unit = 1.0 if single else abs(start) or 1.0
        (line,) = above.plot(steps, properties[:, k] / unit, marker=".", linewidth=1.0, label=name)
        goal = design.goals.get(name)
        if goal is not None and not isinstance(goal, str):
            above.axhline(goal / unit, color=line.get_color(), linestyle="--", linewidth=0.9)
    above.set_ylabel(next(iter(design.before)) if single else "property / its first value")
    above.set_title("reached" if design.reached else "NOT reached", fontsize=10)
    shown = np.argsort(-np.ptp(parameters / np.where(parameters[0] == 0.0, 1.0, parameters[0]), axis=0))[:8]
    for k in sorted(shown):
        below.plot(
            steps, parameters[:, k] / (parameters[0, k] or 1.0), marker=".", linewidth=1.0, label=design.columns[k]
        )
    below.set(xlabel="step", ylabel="parameter / its first value")
    for ax in (above, below):
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
        ax.locator_params(axis="x", integer=True)
    return figure


def draw_study(results: StudyResults) -> Figure:
    """What was measured against the first parameter that varies, a curve for every value of the second: the median over
    seeds and all others, and the band that half of them lie in. Where parameters are sampled, points.
    """
    table = results.table
    if not len(table) or not (table["status"] == "done").any():
        raise InvalidInput(f"no task of {results.folder} is done yet: there is nothing to draw")
    table, names = table[table["status"] == "done"], results.measured[:9]
    varying = [name for name in results.varied if table[name].nunique() > 1]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure((1.0 + 3.6 * columns, 1.0 + 2.9 * rows))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        _draw_measured(ax, table, name, varying, results.study.sweep.method == "grid")
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    failed = int((results.table["status"] == "failed").sum())
    title = f"{results.study.name}: {len(table)} packings" + (f", {failed} failed and left out" if failed else "")
    figure.suptitle(title, fontsize=11)
    if len(varying) > 1 and results.study.sweep.method == "grid":
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, title=varying[1], loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _draw_measured(ax: Axes, table: Any, name: str, varying: list[str], grid: bool) -> None:
    unit = "Σ|∂x/∂θ|" if name.startswith("response") else UNITS.get(name, "")
    ax.set_title(name, fontsize=10)
    ax.set_ylabel(unit, fontsize=9)
    ax.tick_params(labelsize=8)
    if not varying:
        ax.hist(table[name].dropna(), bins="auto", color=COLORS[0], edgecolor=EDGES[0])
        ax.set(xlabel=unit, ylabel="packings")
        return
    x = varying[0]
    ax.set_xlabel(x, fontsize=9)
    if not grid:
        ax.plot(table[x], table[name], ".", color=EDGES[0], markersize=4, alpha=0.6)
        return
    curves = [("", table)] if len(varying) == 1 else [(f"{v:.4g}", part) for v, part in table.groupby(varying[1])]
    for k, (label, part) in enumerate(curves):
        color = EDGES[k % len(EDGES)]
        spread = part.groupby(x)[name].quantile([0.25, 0.5, 0.75]).unstack()
        ax.fill_between(spread.index, spread[0.25], spread[0.75], color=color, alpha=0.25, linewidth=0)
        ax.plot(spread.index, spread[0.5], ".-", color=color, linewidth=1.0, label=label)
    if name.startswith("response"):
        ax.set_yscale("log")


def draw_task(results: StudyResults, task: str) -> Figure:
    """The relaxed packing of one task, with the first response that was kept as arrows."""
    system, responses = results.system(task), results.sensitivities(task)
    figure = _figure()
    ax = figure.add_axes((0.03, 0.07, 0.94, 0.84))
    if not responses:
        draw(system, ax).set_title(f"task {task}", fontsize=10)
    else:
        draw_sensitivity(system, responses[0], ax)
    return figure


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


def _figure(size: tuple[float, float] = (7.2, 7.6)) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that pyplot does not know, and that shows itself in a notebook all the same."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=90, facecolor="white")
            return file.getvalue()

    figure = Picture(figsize=size)
    FigureCanvasAgg(figure)
    return figure


def _draw_particles(system: System, ax: Axes) -> None:
    from matplotlib.collections import EllipseCollection

    points, sizes, kinds = _with_images(system) if system.dim == 2 else _far_to_near(system)
    ax.add_collection(
        EllipseCollection(
            sizes,
            sizes,
            np.zeros(len(sizes)),
            units="x",
            offsets=points[:, :2],
            transOffset=ax.transData,
            facecolors=[COLORS[k % len(COLORS)] for k in kinds],
            edgecolors=[EDGES[k % len(EDGES)] for k in kinds],
            linewidths=0.7,
            alpha=0.85 if system.dim == 2 else 0.15,
        )
    )


def _with_images(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, diameters and species of all particles and of the images that overlap the cell."""
    points, sizes, kinds = _particles(system)
    if system.box is None:
        return points, sizes, kinds
    box, heights = np.asarray(system.box), np.asarray(system.heights)
    every, which = [], []
    for shift in itertools.product((-1, 0, 1), repeat=2):
        image = points + np.array(shift) @ box
        fractions = image @ np.linalg.inv(box)
        margin = 0.5 * sizes[:, None] / heights
        touches = ((fractions > -margin) & (fractions < 1 + margin)).all(axis=1)
        every.append(image[touches])
        which.append(np.flatnonzero(touches))
    chosen = np.concatenate(which)
    return np.concatenate(every), sizes[chosen], kinds[chosen]


def _far_to_near(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, sizes, kinds = _particles(system)
    order = np.argsort(points[:, 2])
    return points[order], sizes[order], kinds[order]


def _particles(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.asarray(system.wrapped()), np.asarray(system.diameters), np.asarray(system.species)


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
