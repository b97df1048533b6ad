"""Predictions at other parameters, propagation of uncertainties, and ranking of parameters."""

from .prediction import Predicted, Prediction, predict
from .propagation import Propagated, Sampled, propagate, sample
from .ranking import derivative_measures, influence, sobol

__all__ = [
    "Predicted",
    "Prediction",
    "Propagated",
    "Sampled",
    "derivative_measures",
    "influence",
    "predict",
    "propagate",
    "sample",
    "sobol",
]
