"""Parameters for wanted properties, properties that can be tuned one without the other, and pruned networks."""

from .design import Design, design
from .independence import Independence, independence
from .pruning import Pruning, prune

__all__ = ["Design", "Independence", "Pruning", "design", "independence", "prune"]
