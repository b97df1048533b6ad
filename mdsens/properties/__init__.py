"""Properties: functions of an Equilibrium, all differentiable through the minimum.

`mdsens.properties.pressure(eq)`; in reduced units, or in those of the input.
"""

from .counting import MaxwellCount, maxwell_count
from .elasticity import (
    affine_elastic_tensor,
    affine_moduli,
    bulk_modulus,
    elastic_tensor,
    isotropic_moduli,
    poisson_ratio,
    shear_modulus,
)
from .state import contact_number, energy, packing_fraction, pressure, stress, virial, volume
from .table import MODULI, REGISTRY, UNITS, Property, check_properties, measured, table
from .vibrations import VibrationalModes, density_of_states, vibrational_modes

__all__ = [
    "MODULI",
    "REGISTRY",
    "UNITS",
    "MaxwellCount",
    "Property",
    "VibrationalModes",
    "affine_elastic_tensor",
    "affine_moduli",
    "bulk_modulus",
    "check_properties",
    "contact_number",
    "density_of_states",
    "elastic_tensor",
    "energy",
    "isotropic_moduli",
    "maxwell_count",
    "measured",
    "packing_fraction",
    "poisson_ratio",
    "pressure",
    "shear_modulus",
    "stress",
    "table",
    "vibrational_modes",
    "virial",
    "volume",
]
