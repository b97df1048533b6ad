"""Response fields, and rankings of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..relaxation.equilibrium import Equilibrium
from ..response.fields import ResponseField
from ..system import System
from .packing import draw, shortened, system_of
from .style import ARROW, COLORS, EDGES, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw_field(packing: System | Equilibrium, field: ResponseField) -> Figure:
    """Draw a response field in three panels.

    The first shows the non-affine displacements as arrows, on particles colored by how non-affinely their surroundings
    move; the second the correlation of the displacements over distance; the third how much of them lies along the
    softest modes.

    **Arguments:**

    - `packing`: the system, or the equilibrium that responds.
    - `field`: its response field, from `mdsens.response_field`.

    **Returns:**

    - A figure.
    """
    system = system_of(packing)
    figure = new_figure((10.5, 5.2))
    ax = figure.add_axes((0.01, 0.06, 0.47, 0.84))
    beside, below = figure.add_axes((0.58, 0.63, 0.39, 0.29)), figure.add_axes((0.58, 0.12, 0.39, 0.29))
    _draw_nonaffine(system, field, ax)
    beside.axhline(0.0, color="#bbbbbb", linewidth=0.8)
    beside.plot(field.distances, field.correlation, ".-", color=EDGES[0], linewidth=1.0)
    if field.correlation_length is not None:
        beside.axvline(field.correlation_length, color=ARROW, linestyle="--", linewidth=0.9)
        beside.set_title(f"correlation length {field.correlation_length:.3g}", fontsize=10)
    beside.set(xlabel="distance", ylabel="⟨u·u⟩ / ⟨u²⟩")
    if len(field.overlaps):
        below.step(np.arange(1, len(field.overlaps) + 1), np.cumsum(field.overlaps), where="mid", color=EDGES[0])
        below.set_title(f"{field.overlaps.sum():.0%} of Σ|u|² along {len(field.overlaps)} modes", fontsize=10)
        below.set(xlabel="softest modes", ylabel="share of Σ|u|²", ylim=(0.0, 1.05))
        below.locator_params(axis="x", integer=True)
    else:
        below.set_axis_off()
    return figure


def _draw_nonaffine(system: System, field: ResponseField, ax: Any) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    share = field.local_nonaffinity / max(float(np.quantile(field.local_nonaffinity, 0.95)), 1e-300)
    warm = LinearSegmentedColormap.from_list("warm", ["#ffffff", "#f6c28b", "#d1495b"])
    draw(system, ax, warm(np.clip(share, 0.0, 1.0)))
    shown, _, typical = shortened(field.nonaffine, float(np.mean(np.asarray(system.diameters))))
    points = np.asarray(system.wrapped())
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "width": 0.004, "zorder": 5}
    ax.quiver(*points[:, :2].T, *shown[:, :2].T, color="#222222", **style)
    title = f"non-affine response, arrows |u| ~ {typical:.2g}; red: D²min\nparticipation ratio "
    ax.set_title(f"{title}{field.participation_ratio:.2f}", fontsize=10)


def draw_ranking(table: pd.DataFrame) -> Figure:
    """Draw the first twenty rows of a ranking of parameters as bars.

    **Arguments:**

    - `table`: from `mdsens.uncertainty.influence`, `sobol` or `derivative_measures`.

    **Returns:**

    - A figure.
    """
    shown = table.head(20)
    figure = new_figure((6.4, 1.2 + 0.32 * len(shown)))
    figure.set_layout_engine("constrained")
    ax, places = figure.subplots(), np.arange(len(shown))[::-1]
    if "total" in table:
        ax.barh(places + 0.19, shown["total"], 0.38, xerr=shown["total_error"], color=COLORS[0], label="total")
        ax.barh(places - 0.19, shown["first"], 0.38, xerr=shown["first_error"], color=COLORS[1], label="first order")
        ax.set_xlabel("share of the variance (Sobol' index)")
        ax.legend(fontsize=8, frameon=False)
    elif "bound" in table:
        ax.barh(places, shown["bound"], 0.6, xerr=shown["bound_error"], color=COLORS[0])
        ax.set_xlabel("upper bound of the share of the variance")
    else:
        ax.barh(places, shown["mean"], 0.6, xerr=shown["std"], color=COLORS[0])
        ax.axvline(0.0, color="#777777", linewidth=0.8)
        ax.set_xlabel("∂Q/∂θ Δθ, mean and standard deviation over packings")
    ax.set_yticks(places, shown.index, fontsize=8)
    return figure
