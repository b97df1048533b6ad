"""What a notebook shows of systems, equilibria, certificates and results: a picture and a table."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..relaxation.certificate import Certificate
    from ..relaxation.equilibrium import Equilibrium
    from ..response.sensitivity import Sensitivity
    from ..studies.results import StudyResults
    from ..system import System

GOOD, BAD = "#2e7d32", "#b01e1e"

MOST_DRAWN = 20_000
"""Particles. Larger packings are shown as a table only."""


def system(content: System) -> str | None:
    """None for a traced system or a batch of systems, of which a notebook then shows the repr."""
    from ..runtime.tracing import is_concrete

    if not is_concrete(content) or content.positions.ndim != 2:
        return None
    return _beside(_picture_of(content), _table(_facts_of(content)))


def equilibrium(content: Equilibrium) -> str | None:
    from ..runtime.tracing import is_concrete

    if not is_concrete((content.energy, content.max_force)) or content.energy.ndim:
        return None
    packing = content.frozen.system
    if bool(content.minimum & content.converged):
        state = certificate(content.certificate)
    else:
        state = f"<p style='color: {BAD}'><b>{html.escape(repr(content))}</b></p>"
    return _beside(_picture_of(packing, content), _table(_facts_of(packing)) + state)


def certificate(content: Certificate) -> str:
    good = content.converged and content.minimum
    verdict = "a minimum" if good else "a saddle" if content.converged else "not at rest"
    color = GOOD if good else BAD
    lines = [(line[:18].strip(), line[18:]) for line in str(content).splitlines()]
    return f"<p style='color: {color}; margin: 4px 0'><b>{verdict}</b></p>{_table(lines)}"


def sensitivity(content: Sensitivity) -> str:
    moves = np.linalg.norm(content.response.reshape(*content.response.shape[:2], -1), axis=1)
    facts = [
        ("response to", f"{content.wrt}, {list(np.shape(content.value)) or 'one number'}"),
        ("∂x/∂θ", f"{list(content.response.shape)}, length per unit of the parameter"),
        ("Σ|∂x/∂θ|", f"{content.l1:.6g}"),
        ("largest of a particle", f"{moves.max():.4g} (particle {int(moves.max(axis=1).argmax())})"),
        ("linear solves", f"residual {content.residual:.1g}, part in the null space {content.null_part:.1g}"),
    ]
    return _table(facts)


def study(content: StudyResults) -> str:
    from . import draw_study

    table = content.table
    status = table["status"].value_counts().to_dict() if len(table) else {}
    counts = ", ".join(f"{number} {name}" for name, number in status.items()) or "nothing yet"
    title = f"<p><b>{html.escape(content.study.name)}</b>: {counts}</p>"
    figure = _image(draw_study(content)) if status.get("done") else ""
    return title + figure + table.head(5).to_html(border=0)


def text(content: Any) -> str:
    return f"<pre style='font-family: monospace'>{html.escape(str(content))}</pre>"


def _facts_of(packing: System) -> list[tuple[str, str]]:
    kinds, counts = np.unique(np.asarray(packing.species), return_counts=True)
    sizes, species = np.asarray(packing.diameters), np.asarray(packing.species)
    facts = [("particles", f"{packing.n}, in {packing.dim}D")]
    for kind, count in list(zip(kinds, counts, strict=True))[:6]:
        own = sizes[species == kind]
        spread = f"{own[0]:.6g}" if np.ptp(own) < 1e-12 * own.max() else f"{own.min():.4g} to {own.max():.4g}"
        facts.append((f"species {kind}", f"{count}, diameter {spread}"))
    if packing.lattice is None:
        return [*facts, ("cell", "none: open boundaries")]
    cell = "; ".join(" ".join(f"{c:.5g}" for c in row) for row in np.asarray(packing.lattice))
    if not all(packing.periodic):
        return [*facts, ("lattice", f"{cell}; open along the other directions")]
    return [*facts, ("cell", cell), ("packing fraction", f"{float(packing.packing_fraction):.6g}")]


def _picture_of(packing: System, equilibrium: Equilibrium | None = None) -> str:
    from . import draw, view
    from .style import new_figure

    if packing.n > MOST_DRAWN or not bool(np.isfinite(np.asarray(packing.positions)).all()):
        return ""
    if packing.dim == 3:
        return view(packing, height=300)._repr_mimebundle_()["text/html"]
    figure = new_figure((3.2, 3.2))
    draw(equilibrium or packing, figure.add_axes((0.01, 0.01, 0.98, 0.98)))
    return _image(figure)


def _image(figure: Figure) -> str:
    from .style import png_of

    return f'<img src="data:image/png;base64,{base64.b64encode(png_of(figure)).decode()}" alt="figure">'


def _beside(picture: str, facts: str) -> str:
    width = "300px" if "<iframe" in picture else "auto"
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 20px; align-items: center">'
        f'<div style="width: {width}">{picture}</div><div style="flex: 1; min-width: 320px">{facts}</div></div>'
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    style = "text-align: left; padding: 1px 12px 1px 0"
    body = "".join(
        f'<tr><th style="{style}">{html.escape(name)}</th><td style="{style}">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table style="font-size: 90%">{body}</table>'


SHOWN: dict[str, Callable[[Any], str | None]] = {
    "mdsens.system.System": system,
    "mdsens.relaxation.equilibrium.Equilibrium": equilibrium,
    "mdsens.relaxation.certificate.Certificate": certificate,
    "mdsens.response.sensitivity.Sensitivity": sensitivity,
    "mdsens.studies.results.StudyResults": study,
    "mdsens.response.continuation.Path": text,
    "mdsens.fitting.result.Fit": text,
    "mdsens.inverse_design.design.Design": text,
    "mdsens.inverse_design.independence.Independence": text,
    "mdsens.response.validity.Validity": text,
    "mdsens.preparation.jamming.Jamming": text,
    "mdsens.response.fields.ResponseField": text,
}
"""The function that shows each class. Classes are named, so that none of them is imported before it is used."""


def show_in_notebooks(shell: Any) -> None:
    """Register with IPython how to show the objects of mdsens.

    **Arguments:**

    - `shell`: the running IPython shell.
    """
    formatter = shell.display_formatter.formatters["text/html"]
    for name, as_html in SHOWN.items():
        module, _, kind = name.rpartition(".")
        formatter.for_type_by_name(module, kind, as_html)
