"""The onset of jamming, and packings at a wanted distance or pressure above it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from .contacts import standing
from .errors import InvalidInput, NotConverged
from .potentials import PairPotential, Potential
from .progress import shows_progress
from .relaxation import Equilibrium, Relaxation
from .strain import first
from .system import System

MOST_RELAXATIONS = 400


@dataclasses.dataclass(frozen=True)
class Jamming:
    """A packing prepared from its onset of jamming.

    `packing_fraction` is the onset, known to within `accuracy`; `equilibrium` the packing asked for, and `distance` how
    far it lies above the onset in packing fraction. `trail` [k, 2] are packing fraction and pressure of all
    relaxations on the way, in their order; the pressure is zero where nothing was held.
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


@shows_progress("jamming", lambda phi, step: (None, f"φ = {phi:.6f}, step {step:.1e}"))
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
    """Finds the onset of jamming by compressing and decompressing a packing, and quenches it above.

    From the packing fraction it has the system is compressed, or decompressed where it is jammed, by `step`, its
    particles following affinely and then relaxing, and by half of it in the other direction as soon as it is no
    longer what it was, until the step is smaller than `accuracy` (O'Hern, Silbert, Liu and Nagel, Phys. Rev. E 68,
    011306 (2003), Sec. II). It is jammed where anything is held.

    **Arguments:** `distance` above the onset in packing fraction, or `pressure`, energy per volume, of the packing
    to be returned; by default the jammed one nearest to the onset. `relax`, the relaxation, to a tolerance of 1e-12 if
    None. `progress(packing_fraction, step)` is called after each relaxation.

    **Raises** `InvalidInput` for a potential without contacts, open boundaries, or numbers that cannot be meant;
    `NotConverged` where no onset was found.
    """
    _check(potential, system, distance, pressure, step, accuracy)
    strict = dataclasses.replace(relax or Relaxation(tolerance=1e-12), throw=True)
    relax = dataclasses.replace(strict, throw=False)
    trail: list[tuple[float, float]] = []
    here, before, ends, width = system, None, {}, step
    while width > accuracy:
        rest = relax(potential, here)
        jammed = _is_jammed(rest)
        if jammed and not bool(rest.converged):
            rest = strict(potential, here)  # which says why, as where the precision does not allow it
        here = rest.frozen.system
        ends[jammed] = rest
        phi = float(here.packing_fraction)
        trail.append((phi, _pressure(rest) if jammed else 0.0))
        if progress is not None:
            progress(phi, width)
        if before is not None and jammed != before:
            width *= 0.5
        before = jammed
        if len(trail) >= MOST_RELAXATIONS:
            raise NotConverged(
                f"no onset of jamming after {len(trail)} relaxations, at φ = {phi:.6g}: start closer to it"
            )
        here = _at_packing_fraction(here, phi - width if jammed else phi + width)
    onset = 0.5 * sum(float(rest.system.packing_fraction) for rest in ends.values())
    last = ends[True].frozen.system
    if pressure is not None:
        final = dataclasses.replace(strict, pressure=pressure)(potential, last)
    elif distance is not None:
        final = strict(potential, _at_packing_fraction(last, onset + distance))
    else:
        final = strict(potential, last)
    return Jamming(onset, accuracy, final, np.array(trail))


def _check(
    potential: Potential, system: System, distance: float | None, pressure: float | None, step: float, accuracy: float
) -> None:
    if not (isinstance(potential, PairPotential) and potential.contact):
        raise InvalidInput(f"{type(potential).__name__} has no contacts: it does not jam")
    if not system.periodic:
        raise InvalidInput("a system with open boundaries has no packing fraction")
    if distance is not None and pressure is not None:
        raise InvalidInput("give a distance or a pressure above jamming, not both")
    for name, value in (("distance", distance), ("pressure", pressure), ("step", step), ("accuracy", accuracy)):
        if value is not None and not (np.isfinite(value) and value > 0.0):
            raise InvalidInput(f"{name} must be positive, not {value}")
    if accuracy >= step:
        raise InvalidInput(f"the accuracy {accuracy} must be smaller than the first step {step}")


def _is_jammed(rest: Equilibrium) -> bool:
    here = rest.frozen
    return bool(standing(here.potential, here.system, here.close, here.curvature).rigid)


def _pressure(rest: Equilibrium) -> float:
    here = rest.frozen
    return -float(jnp.trace(first(here.potential, here.system, here.close)) / (here.system.dim * here.system.volume))


def _at_packing_fraction(system: System, phi: float) -> System:
    assert system.box is not None
    return system.deform(system.box * (float(system.packing_fraction) / phi) ** (1.0 / system.dim))
