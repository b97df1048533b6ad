"""What an equilibrium and its response tell of other parameters: prediction, uncertainty, ranking, response fields."""

from .fields import ResponseField, response_field
from .prediction import Predicted, Prediction, predict
from .ranking import derivative_measures, influence, sobol
from .uncertainty import Propagated, Sampled, propagate, sample

__all__ = [
    "Predicted",
    "Prediction",
    "Propagated",
    "ResponseField",
    "Sampled",
    "derivative_measures",
    "influence",
    "predict",
    "propagate",
    "response_field",
    "sample",
    "sobol",
]
