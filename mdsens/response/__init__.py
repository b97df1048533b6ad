"""The response of an equilibrium to its parameters: sensitivities, their range of validity, continuation, fields."""

from .continuation import Event, Path, follow
from .fields import ResponseField, response_field
from .sensitivity import Sensitivity, sensitivity
from .validity import Validity, validity

__all__ = [
    "Event",
    "Path",
    "ResponseField",
    "Sensitivity",
    "Validity",
    "follow",
    "response_field",
    "sensitivity",
    "validity",
]
