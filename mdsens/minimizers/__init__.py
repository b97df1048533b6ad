"""The minimizers: a state and a step each."""

from .base import JaxMDMinimizer, Minimizer, position_of
from .fire import FIRE
from .gradient_descent import GradientDescent

NAMED: dict[str, type[Minimizer]] = {"fire": FIRE, "gradient-descent": GradientDescent}
"""Those that commands and study files call by name."""

__all__ = ["FIRE", "NAMED", "GradientDescent", "JaxMDMinimizer", "Minimizer", "position_of"]
