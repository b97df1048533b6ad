"""Figures of packings and of how they respond, in two and three dimensions and moving, and curves of results.

Names are loaded when they are first used, so that `import mdsens` stays fast in a notebook, where it registers how its
objects are shown.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fields import draw_field, draw_ranking
    from .movie import Movie, animate
    from .packing import arrows_of, draw, draw_sensitivity, save_sensitivity
    from .results import draw_design, draw_fit, draw_path
    from .studies import draw_study, draw_task
    from .viewer import View, view

_MODULE_OF = {
    "Movie": "movie",
    "View": "viewer",
    "animate": "movie",
    "arrows_of": "packing",
    "draw": "packing",
    "draw_design": "results",
    "draw_field": "fields",
    "draw_fit": "results",
    "draw_path": "results",
    "draw_ranking": "fields",
    "draw_sensitivity": "packing",
    "draw_study": "studies",
    "draw_task": "studies",
    "save_sensitivity": "packing",
    "view": "viewer",
}

__all__ = [
    "Movie",
    "View",
    "animate",
    "arrows_of",
    "draw",
    "draw_design",
    "draw_field",
    "draw_fit",
    "draw_path",
    "draw_ranking",
    "draw_sensitivity",
    "draw_study",
    "draw_task",
    "save_sensitivity",
    "view",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
