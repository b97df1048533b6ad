"""The results of studies as curves, and the packing of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput
from ..properties import REGISTRY
from .packing import packing_figure
from .style import COLORS, EDGES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..studies.results import StudyResults


def draw_study(results: StudyResults) -> Figure:
    """Draw the results of a study against the first parameter that varies.

    On a grid, every value of the second parameter has a curve: the median over seeds and all other parameters, with a
    band that contains half of the packings. Sampled parameters give points.

    **Arguments:**

    - `results`: the results of a study, from `mdsens.load_study`.

    **Returns:**

    - A figure with one panel for each property and response, nine at most.

    **Raises:**

    - `InvalidInput` if no task is done yet.
    """
    table = results.table
    if not len(table) or not (table["status"] == "done").any():
        raise InvalidInput(f"no task of {results.folder} is done yet: there is nothing to draw")
    table, names = table[table["status"] == "done"], results.measured[:9]
    varying = [name for name in results.varied if table[name].nunique() > 1]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure((1.0 + 3.6 * columns, 1.0 + 2.9 * rows))
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
    unit = "Σ|∂x/∂θ|" if name.startswith("response") else REGISTRY[name].unit if name in REGISTRY else ""
    ax.set_title(name, fontsize=10)
    ax.set_ylabel(unit, fontsize=9)
    ax.tick_params(labelsize=8, which="both")
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
    """Draw the relaxed packing of one task, with the first of its responses as arrows.

    **Arguments:**

    - `results`: the results of a study, from `mdsens.load_study`.
    - `task`: the id of the task.

    **Returns:**

    - A figure.

    **Raises:**

    - `InvalidInput` if the positions of the task are not known.
    """
    system, responses = results.system(task), results.sensitivities(task)
    figure = packing_figure(system, responses[0] if responses else None)
    if not responses:
        figure.axes[0].set_title(f"task {task}", fontsize=10)
    return figure
