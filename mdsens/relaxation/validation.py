"""Refusing, in one sentence, what cannot be relaxed."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ..errors import InvalidInput, MdsensError, Status
from ..geometry import is_lattice
from ..landscape.configuration import Configuration
from ..landscape.consistency import Probe, faulty_derivatives, single_precision
from ..landscape.thresholds import RIGID_RESISTANCE
from ..minimizers import Minimizer
from ..neighbors import NeighborList, Neighbors, allocate
from ..neighbors.allocation import Survey, survey
from ..potentials import Potential
from ..runtime.compiled import compile_once
from ..runtime.noise import random_signs
from ..runtime.tracing import as_array
from ..system import System, name_particles

LARGEST_TOLERANCE = 1e-2
"""Relative to a typical stiffness times a typical length: a larger force is none that is nearly zero."""


def check_options(tolerance: Any, relative_tolerance: float, max_steps: int) -> None:
    if not (tolerance is None or isinstance(tolerance, jax.core.Tracer) or _is_positive(tolerance)):
        raise InvalidInput(f"tolerance must be a positive force, not {tolerance}")
    if not _is_positive(relative_tolerance) or relative_tolerance > LARGEST_TOLERANCE:
        raise InvalidInput(
            f"relative_tolerance must be positive and at most {LARGEST_TOLERANCE}, not {relative_tolerance}"
        )
    if max_steps < 1:
        raise InvalidInput(f"max_steps must be at least 1, not {max_steps}")


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) or (isinstance(value, jax.Array) and value.ndim == 0)
    return number and math.isfinite(value) and bool(value > 0)


def check_force_scale(potential: Potential, force_scale: float) -> None:
    """**Raises** `InvalidInput` for a potential without any stiffness."""
    if not force_scale > 0.0:
        raise InvalidInput(
            f"nothing resists a motion of the particles: {type(potential).__name__} has no stiffness here; add what "
            "holds them, such as particles that touch, bonds, tethers or walls"
        )


def check_tolerance(potential: Potential, tolerance: Any, force_scale: Any) -> None:
    """**Raises** `InvalidInput` for a tolerance that is no small force for a potential whose stiffness is known."""
    known = all(
        getattr(type(part), name) is not getattr(Potential, name)
        for part in potential.parts()
        for name in (("measured_stiffness",) if part.is_measured else ("typical_stiffness",))
    )
    if known and tolerance > LARGEST_TOLERANCE * force_scale:
        raise Status.TOLERANCE_TOO_LARGE.raised(tolerance=tolerance, force_scale=force_scale)


def check_tension(potential: Potential, pressure: float) -> None:
    """**Raises** `InvalidInput` for a pressure at which a cell of particles that only repel has no minimum."""
    if potential.contact and potential.is_pairwise and not pressure > 0.0:
        raise InvalidInput(
            f"{type(potential).__name__} only repels: at a pressure of {pressure:g} its cell grows without end; "
            "ask for a positive one"
        )


def check_kinds(minimizer: Any, linear_solver: Any) -> None:
    """Names, as on the command line, and classes that were not called are neither minimizers nor solvers."""
    if not isinstance(minimizer, Minimizer):
        raise InvalidInput(f"minimizer must be one, such as mdsens.FIRE(), not {minimizer!r}")
    if linear_solver is not None and not isinstance(linear_solver, lx.AbstractLinearSolver):
        raise InvalidInput(f"linear_solver must be one, such as mdsens.linear_solvers.dense(), not {linear_solver!r}")


def check_arguments(potential: Any, system: Any) -> None:
    if not isinstance(potential, Potential) or not isinstance(system, System):
        given = ", ".join(
            each.__name__ if isinstance(each, type) else type(each).__name__ for each in (potential, system)
        )
        raise InvalidInput(
            f"a Relaxation is called with a potential and a system, relax(mdsens.SoftSphere(), system), not {given}; "
            "a potential of your own is an instance of a class derived from mdsens.PairPotential"
        )


def check_pressure(pressure: ArrayLike | None, cell: str) -> None:
    if cell not in ("isotropic", "full"):
        raise InvalidInput(f"a cell relaxes 'isotropic' or 'full', not {cell!r}")
    if pressure is None or isinstance(pressure, jax.core.Tracer):
        return
    if np.ndim(pressure) != 0 or not math.isfinite(float(pressure)):  # type: ignore[arg-type]
        raise InvalidInput(f"pressure must be one number, an energy per volume, not {pressure}")


def check_numbers(potential: Potential, system: System) -> None:
    """**Raises** `InvalidInput` for the first number of a concrete system that makes no sense."""
    positions, diameters = np.asarray(system.positions), np.asarray(system.diameters)
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if bad.size:
        raise InvalidInput(f"the position of {name_particles(bad)} is not finite")
    bad = np.flatnonzero(~(np.isfinite(diameters) & (diameters > 0)))
    if bad.size:
        raise InvalidInput(f"the diameter of {name_particles(bad)} is not a positive length")
    if system.movable is not None and not np.asarray(system.movable).any():
        raise InvalidInput("every particle is fixed: nothing is left to relax; free some of them (System.fixed)")
    if system.lattice is not None and not is_lattice(np.asarray(system.lattice)):
        raise InvalidInput(f"the box {np.asarray(system.box).tolist()} is not the cell of a lattice")
    for leaf in jax.tree.leaves(potential):
        if eqx.is_inexact_array(leaf) and not np.isfinite(np.asarray(leaf)).all():
            raise InvalidInput(f"the parameters of {type(potential).__name__} are not all finite")


def surveyed(potential: Potential, system: System, skin: Float[Array, ""]) -> Survey:
    """The survey of a concrete system; **raises** `InvalidInput` for one that cannot be relaxed."""
    check_numbers(potential, system)
    potential.check_functions(system)
    found = survey(potential, system, skin, as_array(1.0, float))
    check_surveyed(potential, system, found)
    check_reach(potential, system)
    return found


def check_surveyed(potential: Potential, system: System, surveyed: Survey) -> None:
    """**Raises** `InvalidInput` for a potential that does not fit the system."""
    species = np.asarray(system.species)
    if species.min() < 0 or not bool(surveyed.covers):
        raise InvalidInput(
            f"species reach from {species.min()} to {species.max()}, and the matrices of "
            f"{type(potential).__name__} have no row for each of them, from 0 on"
        )
    potential.check_for(system, np.asarray(surveyed.own_cutoffs))
    if bool(surveyed.jumps):
        raise Status.JUMPS_AT_CUTOFF.raised(potential=type(potential).__name__)


def check_reach(potential: Potential, system: System) -> None:
    """**Raises** `InvalidInput` for an energy over the pairs of a list, written by somebody else, that changes where
    the list reaches farther.
    """
    for part in potential.parts():
        if not part.listed or part.is_pairwise or part.is_verified:
            continue
        lists = NeighborList(), NeighborList(skin=as_array(WIDE_SKIN, float))
        near, far = (float(_energy(part, system, allocate(each, part, system))) for each in lists)
        if not abs(far - near) <= MISSED_ENERGY * (abs(near) + abs(far)):
            raise Status.REACH_TOO_SHORT.raised(
                potential=type(part).__name__,
                reach=float(part.reach(system)),
                factor=1.0 + WIDE_SKIN,
                far=far,
                near=near,
            )


WIDE_SKIN = 1.5
"""Of a list that holds pairs far beyond the reach."""

MISSED_ENERGY = 1e-9
"""Relative: what rounding makes of a sum in another order is less."""


@compile_once
def _energy(part: Potential, system: System, neighbors: Neighbors) -> Float[Array, ""]:
    return part.energy(system, neighbors)


def check_images(potential: Potential, system: System, start: System) -> None:
    """**Raises** `InvalidInput` for bonds that have grown beyond half the cell on the way to rest."""
    parts = potential.others() if any(system.periodic) else ()
    flipped = [part for part in parts if not bool(_keeps_images(part, system, start))]
    if flipped:
        raise InvalidInput(
            f"a term of {type(flipped[0]).__name__} has grown beyond half the cell, so that it joins another periodic "
            "image than at the start: take a larger cell"
        )


def check_derivatives(here: Configuration, one_sided: bool = False, first: Probe | None = None) -> None:
    """**Raises** `InvalidInput` for a potential of somebody else's whose forces or second derivatives are not those of
    its energy, or whose energy contains tables in single precision; `NotDifferentiable`, unless `one_sided`, for one
    whose second derivatives jump here. `first` is what the first path says, if that is known already.
    """
    if here.potential.is_verified:
        return
    name = type(here.potential).__name__
    if what := single_precision(here):
        raise Status.SINGLE_PRECISION.raised(potential=name, what=what)
    if fault := faulty_derivatives(here, first):
        status, facts = fault
        if not (one_sided and status is Status.JUMPS_AT_REST):
            raise status.raised(potential=name, **facts)


@compile_once
def _keeps_images(part: Potential, system: System, start: System) -> Bool[Array, ""]:
    return part.keeps_images(system, start)


def why_no_forces(system: System) -> InvalidInput:
    """The reason for forces that are not finite at the start."""
    from scipy.spatial import cKDTree

    points = np.asarray(system.wrapped())
    try:
        together = cKDTree(points).query_pairs(1e-9 * float(np.max(system.diameters)))
    except ValueError:  # numbers too large to square
        return InvalidInput("the positions are too large for distances between them to be computed")
    if together:
        i, j = min(together)
        return InvalidInput(f"particles {i} and {j} are on the same point {points[i].tolist()}; move one of them")
    return InvalidInput("the forces are not finite at the start; check the potential's parameters")


FORCE_NEAR_ROUNDING = 30.0
"""Forces below this multiple of the force that rounding makes cannot fall much further."""


def beyond_precision(tolerance: float, max_force: float, here: Configuration) -> MdsensError | None:
    """The error to raise where rounding alone keeps the forces above the tolerance; None where it does not."""
    floor = float(_rounding_force(here))
    if tolerance < floor and max_force < FORCE_NEAR_ROUNDING * floor:
        dtype = here.system.positions.dtype
        cure = "ask for a tolerance above that"
        if not (here.potential.has_terms and dtype == jnp.float32):
            cure += " (or is there a force that jumps, as at a cutoff without a smooth switch?)"
        if dtype == jnp.float32:
            cure += ", or work in double precision (jax.config.update('jax_enable_x64', True); --precision double)"
        return Status.TOLERANCE_BELOW_ROUNDING.raised(tolerance=tolerance, dtype=dtype, floor=floor, cure=cure)
    return None


def unbalanced_force(here: Configuration) -> float:
    """The largest component of the mean force on a particle, if moving all of them along it changes no force."""
    if not here.potential.others():
        return 0.0
    force, resistance, typical = (float(found) for found in _mean_force(here))
    rounding = RIGID_RESISTANCE * float(jnp.finfo(here.system.positions.dtype).eps) * typical
    return force if resistance <= rounding else 0.0


@compile_once
def _mean_force(here: Configuration) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Its largest component, and the change of force along it and along a random motion, for motions of one length."""
    mean, x = jnp.mean(here.gradient(), axis=0), here.system.positions
    hessian, size = here.hessian(), jnp.linalg.norm

    def resistance(motion: Float[Array, "n d"]) -> Float[Array, ""]:
        return size(hessian.product(motion)) / jnp.maximum(size(motion), jnp.finfo(x.dtype).tiny)

    along, probe = jnp.broadcast_to(mean, x.shape), random_signs(x.shape, x.dtype)
    return jnp.max(jnp.abs(mean)), resistance(along), resistance(probe)


@compile_once
def _rounding_force(here: Configuration) -> Float[Array, ""]:
    """How much the largest force component changes when the last bits of the positions do."""
    x = here.system.positions
    flips = random_signs(x.shape, x.dtype) * (0.5 * jnp.finfo(x.dtype).eps)
    change = here.at(x * (1.0 + flips)).gradient() - here.gradient()
    return 0.5 * jnp.max(jnp.abs(change))
