"""Pictures: packings to scale and how they respond, in two and three dimensions, moving; curves of what was found."""

from .fields import draw_field, draw_ranking
from .movie import Movie, animate
from .packing import arrows_of, draw, draw_sensitivity, save_sensitivity
from .results import draw_design, draw_fit, draw_path
from .studies import draw_study, draw_task
from .viewer import View, view

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
