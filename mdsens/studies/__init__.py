"""What an equilibrium and its response tell of other parameters: prediction, uncertainty."""

from .prediction import Predicted, Prediction, predict
from .uncertainty import Propagated, Sampled, propagate, sample

__all__ = ["Predicted", "Prediction", "Propagated", "Sampled", "predict", "propagate", "sample"]
