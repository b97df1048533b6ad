"""Parameters by name, and as a vector."""

from .names import check_name, direction_of, full_name, parameter_value, with_parameter
from .vector import ParameterVector, as_function, given_by_name

__all__ = [
    "ParameterVector",
    "as_function",
    "check_name",
    "direction_of",
    "full_name",
    "given_by_name",
    "parameter_value",
    "with_parameter",
]
