"""The minimizers: a state and a step each."""

from .base import JaxMDMinimizer, Minimizer, position_of
from .fire import FIRE
from .gradient_descent import GradientDescent

__all__ = ["FIRE", "GradientDescent", "JaxMDMinimizer", "Minimizer", "position_of"]
