"""Refusing, in one sentence, what cannot be relaxed. Concrete arrays only."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InvalidInput
from .hessian import gradient
from .minimizers import Minimizer
from .neighbors import AllPairs, Neighbors
from .potentials import PairPotential, Potential
from .potentials.base import is_parameter
from .system import System


def check_options(tolerance: float, max_steps: int) -> None:
    if not (isinstance(tolerance, int | float | np.number) and math.isfinite(tolerance) and tolerance > 0):
        raise InvalidInput(f"tolerance must be a positive force, not {tolerance}")
    if max_steps < 1:
        raise InvalidInput(f"max_steps must be at least 1, not {max_steps}")


def check_tension(potential: Potential, pressure: float) -> None:
    """**Raises** `InvalidInput` for a pressure at which a cell of particles that only repel has no minimum."""
    if isinstance(potential, PairPotential) and potential.contact and not pressure > 0.0:
        raise InvalidInput(
            f"{type(potential).__name__} only repels: at a pressure of {pressure:g} its cell grows without end; "
            "ask for a positive one"
        )


def check_kinds(minimizer: Any, linear_solver: Any) -> None:
    """Names, as on the command line, and classes that were not called are no minimizers and no solvers."""
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


def check_system(potential: Potential, system: System) -> None:
    """Raises `InvalidInput` with the first thing that is wrong."""
    positions, diameters = np.asarray(system.positions), np.asarray(system.diameters)
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if bad.size:
        raise InvalidInput(f"the position of {_particles(bad)} is not finite")
    bad = np.flatnonzero(~(np.isfinite(diameters) & (diameters > 0)))
    if bad.size:
        raise InvalidInput(f"the diameter of {_particles(bad)} is not a positive length")
    if system.box is not None:
        box = np.asarray(system.box)
        size = float(np.abs(box).max())
        if not 0.0 < size < np.inf or abs(np.linalg.det(box / size)) < 1e-12:
            raise InvalidInput(f"the box {box.tolist()} is not the cell of a lattice")
    for leaf in jax.tree.leaves(potential):
        if eqx.is_inexact_array(leaf) and not np.isfinite(np.asarray(leaf)).all():
            raise InvalidInput(f"the parameters of {type(potential).__name__} are not all finite")
    species = np.asarray(system.species)
    if species.min() < 0 or not bool(potential.covers(system)):
        raise InvalidInput(
            f"species reach from {species.min()} to {species.max()}, and the matrices of "
            f"{type(potential).__name__} have no row for each of them, from 0 on"
        )
    if (
        isinstance(potential, PairPotential)
        and potential.sigma is not None
        and np.any(np.asarray(potential.sigma) <= 0)
    ):
        raise InvalidInput("sigma must be a positive length")
    _check_cutoff(potential, system)
    images = isinstance(potential, PairPotential)
    if not bool(AllPairs(images).fits(potential, system)):
        raise InvalidInput(
            f"the cell is too small for the cutoff: its smallest height is {float(jnp.min(system.heights)):.6g}, "
            f"and it must be at least {'two thirds of' if images else 'twice'} the cutoff "
            f"{float(potential.reach(system)):.6g}; repeat the cell (system.repeat(2))"
        )


def _check_cutoff(potential: Potential, system: System) -> None:
    """That of pairs, which in a periodic cell must end somewhere; of one particle with its like."""
    if not isinstance(potential, PairPotential):
        return
    cutoffs = np.asarray(_own_cutoffs(potential, system))
    bad = np.flatnonzero(~(cutoffs > 0.0) | (np.isinf(cutoffs) & system.periodic))
    if bad.size:
        why = "; in a periodic cell it must be finite" if np.isinf(cutoffs[bad[0]]) else ", not a positive length"
        raise InvalidInput(f"the cutoff of {type(potential).__name__} for {_particles(bad)} is {cutoffs[bad[0]]}{why}")


@eqx.filter_jit
def _own_cutoffs(potential: PairPotential, system: System) -> Float[Array, " n"]:
    each = jnp.arange(system.n)
    return potential.cutoffs(system, each, each)


def check_potential(potential: Potential) -> None:
    """What can be told also under `jit`: the shapes of the parameters of a pair potential, and what its functions do
    with one pair.
    """
    if not isinstance(potential, PairPotential):
        return
    _check_shapes(potential)
    key = type(potential), jax.tree.structure(potential)
    if key not in _understood:
        _check_functions(potential)
        _understood.add(key)


def _check_shapes(potential: PairPotential) -> None:
    """Numbers, or square matrices of one size."""
    shapes = {leaf.shape for leaf in jax.tree.leaves(potential)} - {()}
    for shape in shapes:
        if len(shape) != 2 or shape[0] != shape[1] or len(shapes) > 1:
            raise InvalidInput(
                f"a parameter of {type(potential).__name__} has shape {list(shape)}; it must be one number, or a "
                "square matrix with a row for each species, of the same size for all parameters"
            )


_understood: set[Any] = set()


def _check_functions(potential: PairPotential) -> None:
    """`pair_energy` and `cutoff` make a number of numbers, and JAX can follow them."""
    number, kind = jax.ShapeDtypeStruct((), jnp.result_type(float)), type(potential)
    of_a_pair = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype) if is_parameter(leaf) else leaf, potential
    )
    for name, arguments in (("pair_energy", (number, number)), ("cutoff", (number,))):
        try:
            found = eqx.filter_eval_shape(getattr(kind, name), of_a_pair, *arguments)
        except Exception as error:
            raise InvalidInput(f"{name} of {kind.__name__} cannot be computed for one pair: {_why(error)}") from error
        shape = () if isinstance(found, int | float) else getattr(found, "shape", None)
        if shape != ():
            shown = "nothing" if found is None else found if shape is None else f"an array {list(shape)}"
            raise InvalidInput(f"{name} of {kind.__name__} must return one number for one pair, and returns {shown}")


def _why(error: Exception) -> str:
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "JAX cannot follow functions of NumPy; take those of jax.numpy (jnp.exp for np.exp)"
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return "it asks `if` about a distance, which JAX cannot follow; take jnp.where(r < …, …, …)"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def why_no_forces(system: System) -> InvalidInput:
    """The reason for forces that are not finite."""
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


def beyond_precision(
    tolerance: float, max_force: float, potential: Potential, system: System, neighbors: Neighbors
) -> InvalidInput | None:
    """What to say once rounding alone keeps the forces above the tolerance."""
    floor = float(_rounding_force(potential, system, neighbors))
    if tolerance < floor and max_force < 30.0 * floor:
        dtype = system.positions.dtype
        cure = "ask for a tolerance above that"
        if not (isinstance(potential, PairPotential) and dtype == jnp.float32):
            cure += " (or is there a force that jumps, as at a cutoff without a smooth switch?)"
        if dtype == jnp.float32:
            cure += ", or work in double precision (jax.config.update('jax_enable_x64', True); --precision double)"
        return InvalidInput(
            f"the tolerance {tolerance:.3g} cannot be reached in {dtype}: rounding the positions alone changes "
            f"the forces by {floor:.1g}; {cure}"
        )
    return None


@eqx.filter_jit
def _rounding_force(potential: Potential, system: System, neighbors: Neighbors) -> Float[Array, ""]:
    """How much the largest force component changes when the last bits of the positions do."""
    x = system.positions
    flips = jax.random.rademacher(jax.random.key(0), x.shape, x.dtype) * (0.5 * jnp.finfo(x.dtype).eps)
    change = gradient(potential, system.replace(positions=x * (1.0 + flips)), neighbors) - gradient(
        potential, system, neighbors
    )
    return 0.5 * jnp.max(jnp.abs(change))


def _particles(indices: Array | np.ndarray) -> str:
    shown = ", ".join(str(int(i)) for i in indices[:5])
    return f"particle{'s' if len(indices) > 1 else ''} {shown}{' …' if len(indices) > 5 else ''}"
