"""The potentials: pytrees whose leaves are the parameters."""

from .base import PairPotential, Potential
from .jax_md import JaxMD
from .lennard_jones import LennardJones, smooth_switch
from .morse import Morse
from .soft_sphere import SoftSphere
from .yukawa import Yukawa

NAMED: dict[str, type[PairPotential]] = {
    "soft-sphere": SoftSphere,
    "lennard-jones": LennardJones,
    "morse": Morse,
    "yukawa": Yukawa,
}
"""Those that commands and study files call by name."""

__all__ = [
    "NAMED",
    "JaxMD",
    "LennardJones",
    "Morse",
    "PairPotential",
    "Potential",
    "SoftSphere",
    "Yukawa",
    "smooth_switch",
]
