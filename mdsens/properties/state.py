"""Energy, stress and contacts of an equilibrium."""

from __future__ import annotations

from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..landscape.configuration import Configuration
from ..landscape.contacts import analyze_contacts
from ..relaxation.equilibrium import Equilibrium
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array, numpy_for


def energy(equilibrium: Equilibrium) -> Float[Array, ""]:
    """The potential energy of the whole system."""
    return equilibrium.energy


def volume(equilibrium: Equilibrium) -> Float[Array, ""]:
    """Area (2D) or volume (3D) of the cell."""
    return equilibrium.system.volume


def packing_fraction(equilibrium: Equilibrium) -> Float[Array, ""]:
    """The spheres' own volume over that of the cell; overlaps count twice."""
    return equilibrium.system.packing_fraction


def virial(equilibrium: Equilibrium) -> Float[Array, "d d"]:
    """W = -∂E/∂ε [d, d], an energy, the particles following the strain ε of the cell; of pairs -Σ φ' r rᵀ/r.

    Fixed particles follow the strain, too.

    **Raises** `InvalidInput` with open boundaries, and with walls, loads or tethers, which do not follow a strain.
    """
    if not any(equilibrium.system.periodic):
        raise InvalidInput("a system with open boundaries has no virial: it has no cell to strain")
    equilibrium.potential.check_strain("stress and no elastic modulus")
    return _virial(equilibrium.configuration)


def stress(equilibrium: Equilibrium) -> Float[Array, "d d"]:
    """The Cauchy stress σ = (1/V) ∂E/∂ε [d, d], energy per volume; tension is positive, as in ASE.

    Fixed particles follow the strain ε.

    **Raises** `InvalidInput` with boundaries that are open along some direction, walls, loads or tethers.
    """
    equilibrium.system.require_cell("stress: it has no volume")
    pull, size = virial(equilibrium), volume(equilibrium)
    xp = numpy_for(pull, size)
    return as_array(-xp.asarray(pull) / xp.asarray(size))


def pressure(equilibrium: Equilibrium) -> Float[Array, ""]:
    """p = -tr σ / d = -∂E/∂V at fixed shape of the cell, energy per volume."""
    tension = stress(equilibrium)
    return as_array(-numpy_for(tension).trace(tension) / equilibrium.system.dim)


def contact_number(equilibrium: Equilibrium) -> Float[Array, ""]:
    """The mean number of contacts of a particle, without rattlers; a count, whose derivative is zero.

    **Raises** `InvalidInput` for a potential that is no sum over pairs.
    """
    equilibrium.potential.require_contacts()
    return _contact_number(equilibrium.frozen.configuration)


@compile_once
def _virial(configuration: Configuration) -> Float[Array, "d d"]:
    return -configuration.strain_gradient()


@compile_once
def _contact_number(configuration: Configuration) -> Float[Array, ""]:
    return analyze_contacts(configuration).contact_number
