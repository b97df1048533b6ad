"""The potentials: pytrees whose leaves are the parameters."""

from .base import PairPotential, Potential
from .jax_md import JaxMD
from .lennard_jones import LennardJones, smooth_switch
from .morse import Morse
from .soft_sphere import SoftSphere
from .stillinger_weber import StillingerWeber
from .yukawa import Yukawa

PAIRWISE: dict[str, type[PairPotential]] = {
    "soft-sphere": SoftSphere,
    "lennard-jones": LennardJones,
    "morse": Morse,
    "yukawa": Yukawa,
}
"""Those that study files call by name."""

NAMED: dict[str, type[Potential]] = {**PAIRWISE, "stillinger-weber": StillingerWeber}
"""Those that commands call by name."""

__all__ = [
    "NAMED",
    "PAIRWISE",
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
