"""Parameters for wanted properties, and properties that can be tuned one without the other."""

from .design import Design, design
from .independence import Independence, independence

__all__ = ["Design", "Independence", "design", "independence"]
