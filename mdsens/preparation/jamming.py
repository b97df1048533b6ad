"""The onset of jamming, and packings at a wanted distance or pressure above it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ..errors import InvalidInput, NotConverged
from ..landscape.contacts import find_rattlers
from ..potentials import Potential
from ..properties import pressure as pressure_of
from ..relaxation import Equilibrium, Relaxation
from ..runtime.progress import with_progress
from ..system import System

MOST_RELAXATIONS = 400


@dataclasses.dataclass(frozen=True)
class Jamming:
    """A packing prepared from its onset of jamming.

    - `packing_fraction`: the onset, known to within `accuracy`.
    - `equilibrium`: the packing asked for; `distance`: its packing fraction minus that of the onset.
    - `trail` [k, 2]: packing fraction and pressure (energy per volume) of all relaxations, in their order; the pressure
      is zero for a packing that is not jammed.
    """

    packing_fraction: float
    accuracy: float
    equilibrium: Equilibrium
    trail: np.ndarray

    @property
    def distance(self) -> float:
        return float(self.equilibrium.system.packing_fraction) - self.packing_fraction

    def __str__(self) -> str:
        return (
            f"jams at φ = {self.packing_fraction:.8g} ± {self.accuracy:.1g} ({len(self.trail)} relaxations); the "
            f"packing is {self.distance:.3g} above, at φ = {float(self.equilibrium.system.packing_fraction):.8g}"
        )

    __repr__ = __str__


@with_progress("jamming", lambda phi, step: (None, f"φ = {phi:.6f}, step {step:.1e}"))
def jam(
    potential: Potential,
    system: System,
    distance: float | None = None,
    pressure: float | None = None,
    relax: Relaxation | None = None,
    step: float = 0.01,
    accuracy: float = 1e-6,
    progress: Callable[[float, float], None] | None = None,
) -> Jamming:
    """Finds the onset of jamming by compressing and decompressing a packing, and relaxes the packing above it.

    The packing is compressed in steps, or decompressed if it is jammed; its particles follow affinely and then relax.
    When it jams or unjams, the direction is reversed and the step is halved. The search ends when the step is smaller
    than the accuracy. A packing is jammed if contacts constrain any particle.

    **Arguments:**

    - `potential`: one whose particles interact by contact, such as `SoftSphere`.
    - `system`: a periodic system, from whose packing fraction the search starts.
    - `distance`: the packing fraction above the onset of the packing to return, or
    - `pressure` (energy per volume): its pressure. Without either, it is the jammed one closest to the onset.
    - `relax`: the relaxation; to a tolerance of 1e-12 if None.
    - `step`: the first change of the packing fraction.
    - `accuracy`: that of the packing fraction at the onset.
    - `progress`: called as `progress(packing_fraction, step)` after each relaxation.

    **Returns:**

    - The Jamming.

    **Raises:**

    - `InvalidInput` for a potential without contacts, open boundaries, or numbers that make no sense.
    - `NotConverged` where no onset was found.

    **Reference:**

    - O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68, 011306 (2003), Sec. II.
    """
    _check(potential, system, distance, pressure, step, accuracy)
    relax_or_raise = dataclasses.replace(relax or Relaxation(relative_tolerance=1e-12), throw=True)
    relax = dataclasses.replace(relax_or_raise, throw=False)
    trail: list[tuple[float, float]] = []
    latest: dict[bool, Equilibrium] = {}
    here, was_jammed, width = system, None, step
    while width > accuracy:
        equilibrium = relax(potential, here)
        jammed = _is_jammed(equilibrium)
        if jammed and not bool(equilibrium.converged):
            equilibrium = relax_or_raise(potential, here)  # raises the reason
        # a list of the same capacity at the next packing fraction, and so the same programs
        relax, relax_or_raise = (
            dataclasses.replace(each, neighbors=equilibrium.pair_finder) for each in (relax, relax_or_raise)
        )
        here = equilibrium.frozen.system
        latest[jammed] = equilibrium
        phi = float(here.packing_fraction)
        trail.append((phi, float(pressure_of(equilibrium.frozen)) if jammed else 0.0))
        if progress is not None:
            progress(phi, width)
        if was_jammed is not None and jammed != was_jammed:
            width *= 0.5
        was_jammed = jammed
        if len(trail) >= MOST_RELAXATIONS:
            raise NotConverged(
                f"no onset of jamming after {len(trail)} relaxations, at φ = {phi:.6g}: start closer to it"
            )
        here = _at_packing_fraction(here, phi - width if jammed else phi + width)
    onset = 0.5 * sum(float(each.system.packing_fraction) for each in latest.values())
    last_jammed = latest[True].frozen.system
    if pressure is not None:
        final = dataclasses.replace(relax_or_raise, pressure=pressure)(potential, last_jammed)
    elif distance is not None:
        final = relax_or_raise(potential, _at_packing_fraction(last_jammed, onset + distance))
    else:
        final = relax_or_raise(potential, last_jammed)
    return Jamming(onset, accuracy, final, np.array(trail))


def _check(
    potential: Potential, system: System, distance: float | None, pressure: float | None, step: float, accuracy: float
) -> None:
    if not (potential.contact and potential.is_pairwise):
        raise InvalidInput(f"{type(potential).__name__} is no sum over pairs in contact: it does not jam")
    if system.fixed is not None:
        raise InvalidInput("fixed particles have no onset of jamming: free them (system.replace(fixed=None))")
    system.require_cell("packing fraction")
    if distance is not None and pressure is not None:
        raise InvalidInput("give a distance or a pressure above jamming, not both")
    for name, value in (("distance", distance), ("pressure", pressure), ("step", step), ("accuracy", accuracy)):
        if value is not None and not (np.isfinite(value) and value > 0.0):
            raise InvalidInput(f"{name} must be positive, not {value}")
    if accuracy >= step:
        raise InvalidInput(f"the accuracy {accuracy} must be smaller than the first step {step}")


def _is_jammed(equilibrium: Equilibrium) -> bool:
    return not bool(np.asarray(find_rattlers(equilibrium.frozen.configuration)).all())


def _at_packing_fraction(system: System, phi: float) -> System:
    assert system.box is not None
    return system.deform(system.box * (float(system.packing_fraction) / phi) ** (1.0 / system.dim))
