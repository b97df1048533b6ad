"""Potentials: pytrees whose leaves are the parameters.

`REGISTRY` names the potentials that commands and study files offer; add a new one there.
"""

from .angles import Angles
from .base import Potential
from .bonds import Bonds
from .jax_md import JaxMD
from .lennard_jones import LennardJones, smooth_switch
from .loads import Gravity, Load
from .local import LocalPotential
from .morse import Morse
from .pair import PairPotential
from .soft_sphere import SoftSphere
from .stillinger_weber import StillingerWeber
from .sums import Sum
from .tethers import Tethers
from .topology import bonded, topology_of
from .walls import CylindricalWall, PlanarWall, Wall
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
    "Angles",
    "Bonds",
    "CylindricalWall",
    "Gravity",
    "JaxMD",
    "LennardJones",
    "Load",
    "LocalPotential",
    "Morse",
    "PairPotential",
    "PlanarWall",
    "Potential",
    "SoftSphere",
    "StillingerWeber",
    "Sum",
    "Tethers",
    "Wall",
    "Yukawa",
    "bonded",
    "smooth_switch",
    "topology_of",
]
