"""Minimizers: a state and a step each. `REGISTRY` names those that commands and study files offer; add a new one
there.
"""

from .base import JaxMDMinimizer, Minimizer, position_of
from .fire import FIRE
from .gradient_descent import GradientDescent
from .newton import Newton

REGISTRY: dict[str, type[Minimizer]] = {"fire": FIRE, "gradient-descent": GradientDescent}

__all__ = ["FIRE", "REGISTRY", "GradientDescent", "JaxMDMinimizer", "Minimizer", "Newton", "position_of"]
