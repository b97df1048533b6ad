"""A system of particles in a cell."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from .errors import InvalidInput
from .extras import Extras
from .geometry import carried, enclosing_box, reciprocal
from .runtime.compiled import compile_once
from .runtime.tracing import as_array, is_concrete, numpy_for

OF_AN_EQUILIBRIUM = (
    "system",
    "energy",
    "forces",
    "max_force",
    "converged",
    "minimum",
    "certificate",
    "potential",
    "curvature",
)
"""Attributes of an Equilibrium that users look for in a System."""


class System(eqx.Module):
    """A set of particles in a cell. A System is a pytree, and works under every JAX transformation.

    Lengths are in the system's own unit (reduced units unless a file says otherwise).

    **Arguments:**

    - `positions` ([n, d], length; d is 2 or 3). They may lie outside the cell: mdsens never wraps them, so that a
      response is continuous.
    - `box` ([d, d], length): the lattice vectors in rows, as in ASE. One length or d edge lengths are accepted, too.
      None means open boundaries.
    - `diameters` ([n] or one number, length).
    - `species` (int [n] or one number), counted from 0.
    - `numbers` (int [n]): atomic numbers, for files and pictures; None for particles that are no atoms.
    - `fixed` (bool [n], or [n, d] by component): the degrees of freedom that do not relax, and whose positions are
      parameters; None where all do.
    - `periodic` (d of bool, as `pbc` in ASE): the lattice vectors along which the cell is periodic; all of them if
      None. (True, True, False) is a slab, (True, False) a channel in two dimensions. The other vectors of `box` are
      kept for files and have no influence on anything, nor a derivative. Without any the box is None.
    - `extras`: what else a file says of the particles, which `mdsens.write` writes again; None without a file.

    **Raises:**

    - `InvalidInput` for values that are not numbers, shapes that do not fit together, or d other than 2 and 3.
    """

    positions: Float[Array, "n d"]
    box: Float[Array, "d d"] | None
    diameters: Float[Array, " n"]
    species: Int[Array, " n"]
    numbers: Int[Array, " n"] | None
    fixed: Bool[Array, "n *d"] | None
    periodic: tuple[bool, ...] = eqx.field(static=True)
    extras: Extras | None

    def __init__(
        self,
        positions: ArrayLike,
        box: ArrayLike | None = None,
        diameters: ArrayLike = 1.0,
        species: ArrayLike = 0,
        numbers: ArrayLike | None = None,
        fixed: ArrayLike | None = None,
        periodic: Sequence[bool] | None = None,
        extras: Extras | None = None,
    ) -> None:
        x = _numbers("positions", positions)
        if x.ndim != 2 or x.shape[1] not in (2, 3) or x.shape[0] == 0:
            raise InvalidInput(f"positions must have shape [n, 2] or [n, 3] with n > 0, not {list(x.shape)}")
        n, d = x.shape
        lengths = _numbers("diameters", diameters)
        floats = [a.dtype for a in (x, lengths) if jnp.issubdtype(a.dtype, jnp.inexact)]
        dtype = jnp.result_type(*floats) if floats else jnp.result_type(float)
        self.positions = x.astype(dtype)
        self.periodic = _directions(periodic, box, d)
        self.box = None if box is None or not any(self.periodic) else _cell(_numbers("box", box).astype(dtype), d)
        self.diameters = _per_particle("diameters", lengths.astype(dtype), n)
        self.species = _integers("species", species, n)
        self.numbers = None if numbers is None else _integers("numbers", numbers, n)
        self.fixed = None if fixed is None else _flags("fixed", fixed, (n, d))
        self.extras = extras

    def replace(self, **changes: Any) -> System:
        """A copy with some fields changed. A new box alone does not move the particles: see `deform`.

        Of a batch of systems, whose arrays have leading axes, fields are taken as they are given.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        unknown = set(changes) - set(fields)
        if unknown:
            raise InvalidInput(f"a System has no {', '.join(sorted(unknown))}; it has {', '.join(fields)}")
        if (self.box is None) != (changes.get("box", self.box) is None):
            fields["periodic"] = None  # along all vectors of a new box, along none without one
        if self.positions.ndim > 2:
            if changes.get("periodic", fields["periodic"]) != self.periodic:
                raise InvalidInput("a batch stays periodic along the same directions: change its members first")
            names = [name for name in changes if name != "periodic"]
            place = lambda system: [getattr(system, name) for name in names]  # noqa: E731
            return eqx.tree_at(place, self, [changes[name] for name in names], is_leaf=lambda leaf: leaf is None)
        return System(**(fields | changes))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            close = difflib.get_close_matches(name, [k for k in dir(type(self)) if k[0] != "_"], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            if name in OF_AN_EQUILIBRIUM:
                hint = ": relax the system first, eq = mdsens.Relaxation()(potential, system), and take eq." + name
            raise AttributeError(f"a System has no attribute {name!r}{hint}")

    @eqx.filter_jit
    def in_order(self, order: Int[Array, " n"]) -> System:
        """The same particles, the one called order[k] in place k."""
        per_particle = ("positions", "diameters", "species", "numbers", "fixed")
        values = {name: getattr(self, name) for name in per_particle}
        extras = None if self.extras is None else self.extras.taken(order)
        return self.replace(
            **{name: None if value is None else value[order] for name, value in values.items()}, extras=extras
        )

    def deform(self, box: Float[Array, "d d"]) -> System:
        """A copy in another cell, every particle following it affinely: x' = x box⁻¹ box'.

        Normal to the lattice vectors along which the cell is periodic the particles stay where they are.
        """
        if self.box is None:
            raise InvalidInput("a system with open boundaries has no box to deform")
        moved = self.replace(box=_cell(jnp.asarray(box, dtype=self.positions.dtype), self.dim))
        assert self.lattice is not None and moved.lattice is not None
        return moved.replace(positions=carried(self.positions, self.lattice, moved.lattice))

    def repeat(self, *times: int) -> System:
        """The same cell side by side, `times` along each lattice vector (one number: along all periodic ones).

        Particle k of the copy number c is particle n c + k; copies are counted along the last vector first.

        **Raises** `InvalidInput` with open boundaries, and for numbers that are not positive, or not 1 where the cell
        is not periodic.
        """
        if self.box is None or self.lattice is None:
            raise InvalidInput("a system with open boundaries has no cell to repeat")
        counts = times if len(times) != 1 else tuple(times[0] if along else 1 for along in self.periodic)
        if len(counts) != self.dim or not all(isinstance(m, int | np.integer) and m >= 1 for m in counts):
            raise InvalidInput(f"repeat takes one positive integer or {self.dim} of them, not {times}")
        if any(m > 1 and not along for m, along in zip(counts, self.periodic, strict=True)):
            raise InvalidInput(f"a cell is repeated along its periodic vectors, {self.periodic}, alone, not {times}")
        places = np.indices([m for m, along in zip(counts, self.periodic, strict=True) if along])
        shifts = jnp.asarray(places.reshape(len(places), -1).T, self.positions.dtype) @ self.lattice
        return System(
            (shifts[:, None] + self.positions).reshape(-1, self.dim),
            self.box * jnp.asarray(counts, self.box.dtype)[:, None],
            jnp.tile(self.diameters, len(shifts)),
            jnp.tile(self.species, len(shifts)),
            None if self.numbers is None else jnp.tile(self.numbers, len(shifts)),
            None if self.fixed is None else jnp.concatenate([self.fixed] * len(shifts)),
            periodic=self.periodic,
            extras=None if self.extras is None else self.extras.taken(np.tile(np.arange(self.n), len(shifts))),
        )

    @property
    def n(self) -> int:
        return self.positions.shape[0]

    @property
    def dim(self) -> int:
        return self.positions.shape[1]

    @property
    def lattice(self) -> Float[Array, "k d"] | None:
        """The lattice vectors along which the cell is periodic; None with open boundaries."""
        if self.box is None or all(self.periodic):
            return self.box
        return jnp.stack([self.box[..., k, :] for k, along in enumerate(self.periodic) if along], axis=-2)

    def require_cell(self, missing: str) -> None:
        """**Raises** `InvalidInput` for a system that has no such thing, since it is open along some direction."""
        if not all(self.periodic):
            kind = "periodic along some directions only" if any(self.periodic) else "with open boundaries"
            raise InvalidInput(f"a system {kind} has no {missing}")

    @property
    def movable(self) -> Bool[Array, "n d"] | None:
        """The degrees of freedom that relax; None where all do."""
        if self.fixed is None:
            return None
        xp = numpy_for(self.fixed)
        return as_array(~xp.broadcast_to(xp.asarray(self.fixed).reshape(self.n, -1), self.positions.shape))

    def relaxing(self, u: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Forces or displacements, zero where degrees of freedom are fixed."""
        return u if self.movable is None else jnp.where(self.movable, u, 0.0)

    def with_relaxed(self, positions: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Other positions, with fixed degrees of freedom as they are here."""
        movable = self.movable
        xp = numpy_for(movable, positions, self.positions)
        return positions if movable is None else as_array(xp.where(movable, positions, self.positions))

    @property
    def volume(self) -> Float[Array, ""]:
        """Area (2D) or volume (3D) of the cell."""
        self.require_cell("volume")
        assert self.box is not None
        xp = numpy_for(self.box)
        return as_array(xp.abs(xp.linalg.det(self.box)))

    @property
    def heights(self) -> Float[Array, " k"]:
        """Distances between opposite faces of the cell, along which it is periodic."""
        if self.lattice is None:
            raise InvalidInput("a system with open boundaries has no faces")
        return _heights(self.lattice)

    def enclosing_box(self, margin: ArrayLike = 0.0) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """A corner and the vectors of a box around all particles: the cell, where it is periodic along all directions.

        Along the others its vectors are normal to all other vectors, and as long as the positions extend that way, with
        half of the margin on each side.
        """
        if self.box is None or self.lattice is None:
            raise InvalidInput("a system with open boundaries has no cell")
        if all(self.periodic):
            return jnp.zeros_like(self.box[0]), self.box
        return enclosing_box(self.positions, self.lattice, self.periodic, jnp.asarray(margin, self.box.dtype))

    @property
    def packing_fraction(self) -> Float[Array, ""]:
        """The spheres' own volume over the volume of the cell; overlaps are counted twice."""
        unit_ball = math.pi / 4 if self.dim == 2 else math.pi / 6
        volume = self.volume
        xp = numpy_for(self.diameters, volume)
        return as_array(unit_ball * xp.sum(xp.asarray(self.diameters) ** self.dim) / xp.asarray(volume))

    def wrapped(self) -> Float[Array, "n d"]:
        """The positions moved into the cell, for drawing and for files."""
        if self.lattice is None:
            return self.positions
        return _wrapped(self.positions, self.lattice)


@compile_once
def _heights(lattice: Float[Array, "k d"]) -> Float[Array, " k"]:
    return 1.0 / jnp.linalg.norm(reciprocal(lattice), axis=0)


@compile_once
def _wrapped(positions: Float[Array, "n d"], lattice: Float[Array, "k d"]) -> Float[Array, "n d"]:
    return positions - jnp.floor(positions @ reciprocal(lattice)) @ lattice


def _numbers(name: str, value: Any) -> Array:
    try:
        array = as_array(value)
        if array.dtype == bool or not jnp.issubdtype(array.dtype, jnp.number):
            raise TypeError
        return array
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise InvalidInput(f"{name} must be numbers or an array of them, not {str(value)[:60]!r}") from error


def _integers(name: str, value: ArrayLike, n: int) -> Array:
    values = _numbers(name, value)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise InvalidInput(f"{name} must be integers, not {values.dtype}")
    return _per_particle(name, values, n)


def _flags(name: str, value: ArrayLike, shape: tuple[int, int]) -> Array:
    flags = as_array(value)
    if flags.dtype != bool or flags.shape not in (shape[:1], shape):
        raise InvalidInput(
            f"{name} must be True or False for each particle, [{shape[0]}], or for each component, {list(shape)}, not "
            f"{flags.dtype} {list(flags.shape)}"
        )
    return flags


def _directions(periodic: Sequence[bool] | None, box: Any, d: int) -> tuple[bool, ...]:
    if periodic is None:
        return (box is not None,) * d
    along = tuple(np.asarray(periodic).tolist()) if np.shape(periodic) == (d,) else ()
    if not along or not all(isinstance(each, bool) for each in along):
        raise InvalidInput(f"periodic must be True or False for each of {d} lattice vectors, not {periodic!r}")
    if any(along) and box is None:
        raise InvalidInput("a system is periodic along lattice vectors: give its box, too")
    return along


def _cell(box: Array, d: int) -> Array:
    if box.shape == (d, d):
        return box
    arrays, given = (np, np.asarray(box)) if is_concrete(box) else (jnp, box)
    if given.ndim == 0:
        return as_array(given * np.eye(d, dtype=box.dtype))
    if given.shape == (d,):
        return as_array(arrays.diag(given))
    raise InvalidInput(f"box must be a length, {d} lengths or a [{d}, {d}] matrix, not {list(box.shape)}")


def _per_particle(name: str, values: Array, n: int) -> Array:
    if values.ndim == 0:
        return as_array(np.full(n, values)) if is_concrete(values) else jnp.full(n, values)
    if values.shape != (n,):
        raise InvalidInput(f"{name} must be one value or one per particle ({n}), not {list(values.shape)}")
    return values


def name_particles(indices: Array | np.ndarray) -> str:
    """Particles by their numbers, for messages: the first five."""
    shown = ", ".join(str(int(i)) for i in indices[:5])
    return f"particle{'s' if len(indices) > 1 else ''} {shown}{' …' if len(indices) > 5 else ''}"
