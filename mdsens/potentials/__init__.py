"""Potentials: pytrees whose leaves are the parameters.

`REGISTRY` names the potentials that commands and study files offer; add a new one there.
"""

from .base import Potential
from .jax_md import JaxMD
from .lennard_jones import LennardJones, smooth_switch
from .morse import Morse
from .pair import PairPotential
from .soft_sphere import SoftSphere
from .stillinger_weber import StillingerWeber
from .yukawa import Yukawa

REGISTRY: dict[str, type[Potential]] = {
    "soft-sphere": SoftSphere,
    "lennard-jones": LennardJones,
    "morse": Morse,
    "yukawa": Yukawa,
    "stillinger-weber": StillingerWeber,
}

__all__ = [
    "REGISTRY",
    "JaxMD",
    "LennardJones",
    "Morse",
    "PairPotential",
    "Potential",
    "SoftSphere",
    "StillingerWeber",
    "Yukawa",
    "smooth_switch",
]
