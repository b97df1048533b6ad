"""Relaxation: validation, the descent and its drivers, cells at constant pressure, certificates, ensembles."""

from .certificate import Certificate
from .ensemble import relax_ensemble
from .equilibrium import Equilibrium
from .found import at_rest
from .relaxation import Relaxation
from .unrolled import Unrolled

__all__ = ["Certificate", "Equilibrium", "Relaxation", "Unrolled", "at_rest", "relax_ensemble"]
