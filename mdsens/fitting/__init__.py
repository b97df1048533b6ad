"""Fits of parameters to measured packings."""

from .least_squares import fit
from .minibatches import Minibatches
from .result import Combination, Fit
from .target import Target

__all__ = ["Combination", "Fit", "Minibatches", "Target", "fit"]
