"""Paths, fits and designs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fitting import Fit, Target
from ..inverse_design.design import Design
from ..response.continuation import Path
from .packing import draw
from .style import ARROW, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_path(path: Path) -> Figure:
    """Draw the energy and the size of the response along a path, with a tick wherever contacts change.

    The ticks of contacts that close are blue, those of contacts that open orange; a rearrangement is a red line.

    **Arguments:**

    - `path`: from `mdsens.follow`.

    **Returns:**

    - A figure.
    """
    scalar = path.values.ndim == 1
    along = path.values if scalar else path.fractions
    figure = new_figure((7.0, 5.0))
    figure.set_layout_engine("constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(along, path.energies, color="#333333", marker=".", markersize=4, linewidth=1.0)
    above.set_ylabel("energy")
    size = np.sqrt(np.mean(np.sum(path.responses**2, axis=-1), axis=-1))
    unit = abs(path.values[-1] - path.values[0]) / max(path.fractions[-1], 1e-300) if scalar else 1.0
    # a response jumps where contacts change, so each is drawn constant up to the next point
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
    """Draw the first target of a fit with its residuals, and the loss after every step, or every epoch.

    Outlines show the particles of the fitted packing, and arrows the enlarged differences of the positions.

    **Arguments:**

    - `fit`: from `mdsens.fit`.
    - `targets`: the targets of the fit.

    **Returns:**

    - A figure.
    """
    from matplotlib.collections import EllipseCollection

    figure = new_figure((11.0, 6.0))
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
    way.set(
        xlabel="step" if fit.rearrangements is not None else "epoch",
        ylabel="loss, half the sum of squares",
        yscale="log",
    )
    way.set_title("converged" if fit.converged else "NOT converged", fontsize=10)
    return figure


def draw_design(design: Design) -> Figure:
    """Draw the properties of a design, with their goals, and its parameters, relative to their first values.

    **Arguments:**

    - `design`: from `mdsens.design`.

    **Returns:**

    - A figure. If there are more than eight parameters, it shows those that changed most.
    """
    figure = new_figure((7.2, 6.4))
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
