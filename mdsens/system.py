"""The particles and their cell: what is relaxed, and what a response is taken with respect to."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from .errors import InvalidInput


def is_concrete(tree: PyTree) -> bool:
    """Whether the host can look at every array: not so under `jit` and `vmap`."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


@jax.jit
def reciprocal(box: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The inverse of a cell in closed form, so that it costs nothing inside a loop.

    Column k of the result is normal to the other lattice vectors; `x @ reciprocal(box)` are
    the fractional coordinates of x.
    """
    if box.shape[0] == 2:
        (a, b), (c, d) = box
        return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)
    normals = jnp.stack([jnp.cross(box[1], box[2]), jnp.cross(box[2], box[0]), jnp.cross(box[0], box[1])], axis=1)
    return normals / (box[0] @ normals[:, 0])


def over_components(x: Float[Array, "... d"]) -> Float[Array, "..."]:
    """The sum over the last axis, a short one, term by term, which fuses with what is done to it: by `jnp.sum` it takes
    ten times as long with JAX 0.12 on a CPU.
    """
    return functools.reduce(jnp.add, (x[..., k] for k in range(x.shape[-1])))


def largest(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The maximum, of an array that is made before: fused with its making it takes up to twelve times as long with JAX
    0.12 on a CPU.
    """
    return jnp.max(jax.lax.optimization_barrier(x))


def largest_length(u: Float[Array, "n d"]) -> Float[Array, ""]:
    """The length of the longest of many vectors."""
    return jnp.sqrt(largest(over_components(u**2)))


def minimum_image(separation: Float[Array, "... d"], box: Float[Array, "d d"] | None) -> Float[Array, "... d"]:
    """The nearest periodic image of a separation, exact up to half the smallest height of the cell."""
    if box is None:
        return separation
    return jnp.stack(nearest_image(jnp.moveaxis(separation, -1, 0), box), axis=-1)


def nearest_image(separation: Sequence[Array] | Array, box: Float[Array, "d d"] | None) -> list[Array]:
    """The same by components, which compilers fuse into what is done with them."""
    if box is None:
        return list(separation)
    images = [jax.lax.stop_gradient(jnp.round(part)) for part in _times(separation, reciprocal(box))]
    return [part - shift for part, shift in zip(separation, _times(images, box), strict=True)]


def _times(row: Sequence[Array] | Array, matrix: Float[Array, "d d"]) -> list[Array]:
    d = matrix.shape[0]
    return [functools.reduce(jnp.add, (row[k] * matrix[k, a] for k in range(d))) for a in range(d)]


def symmetric_strains(d: int) -> tuple[np.ndarray, np.ndarray]:
    """A basis of symmetric strains [m, d, d], unit strains and shears, and the place of each component in it [d, d]."""
    first, second = np.triu_indices(d)
    basis, place = np.zeros((len(first), d, d)), np.zeros((d, d), int)
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        basis[k, a, b] += 0.5
        basis[k, b, a] += 0.5
        place[a, b] = place[b, a] = k
    return basis, place


class System(eqx.Module):
    """A set of particles: positions [n, d], box [d, d] or None, diameters [n], species int [n].

    Lengths are in the system's own unit (reduced units unless a file says otherwise). The rows of
    `box` are the lattice vectors, as in ASE; a scalar or a vector of edge lengths is accepted too;
    `None` means open boundaries. Positions may lie outside the cell: they are never wrapped by
    mdsens, so that a response is continuous. A System is a pytree, and works under every JAX
    transformation.

    **Raises** `InvalidInput` for what is no array of numbers, when shapes do not fit together, or d is neither 2 nor 3.
    """

    positions: Float[Array, "n d"]
    box: Float[Array, "d d"] | None
    diameters: Float[Array, " n"]
    species: Int[Array, " n"]

    def __init__(
        self,
        positions: ArrayLike,
        box: ArrayLike | None = None,
        diameters: ArrayLike = 1.0,
        species: ArrayLike = 0,
    ) -> None:
        x = _numbers("positions", positions)
        if x.ndim != 2 or x.shape[1] not in (2, 3) or x.shape[0] == 0:
            raise InvalidInput(f"positions must have shape [n, 2] or [n, 3] with n > 0, not {list(x.shape)}")
        n, d = x.shape
        lengths = _numbers("diameters", diameters)
        floats = [a.dtype for a in (x, lengths) if jnp.issubdtype(a.dtype, jnp.inexact)]
        dtype = jnp.result_type(*floats) if floats else jnp.result_type(float)
        self.positions = x.astype(dtype)
        self.box = None if box is None else _cell(_numbers("box", box).astype(dtype), d)
        self.diameters = _per_particle("diameters", lengths.astype(dtype), n)
        kinds = _numbers("species", species)
        if not jnp.issubdtype(kinds.dtype, jnp.integer):
            raise InvalidInput(f"species must be integers, not {kinds.dtype}")
        self.species = _per_particle("species", kinds, n)

    def replace(self, **changes: Any) -> System:
        """A copy with some fields changed. A new box alone does not move the particles: see `deform`.

        Of a batch of systems, whose arrays have leading axes, fields are taken as they are given.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        unknown = set(changes) - set(fields)
        if unknown:
            raise InvalidInput(f"a System has no {', '.join(sorted(unknown))}; it has {', '.join(fields)}")
        if self.positions.ndim > 2:
            names = list(changes)
            place = lambda system: [getattr(system, name) for name in names]  # noqa: E731
            return eqx.tree_at(place, self, [changes[name] for name in names], is_leaf=lambda leaf: leaf is None)
        return System(**(fields | changes))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(
                f"a System has no {name}: where that of an equilibrium is meant, relax the system first, "
                "mdsens.Relaxation()(potential, system)"
            )

    @eqx.filter_jit
    def in_order(self, order: Int[Array, " n"]) -> System:
        """The same particles, the one called order[k] in place k."""
        here = self.positions[order], self.diameters[order], self.species[order]
        return self.replace(positions=here[0], diameters=here[1], species=here[2])

    def deform(self, box: Float[Array, "d d"]) -> System:
        """A copy in another cell, every particle following it affinely: x' = x box⁻¹ box'."""
        if self.box is None:
            raise InvalidInput("a system with open boundaries has no box to deform")
        cell = _cell(jnp.asarray(box, dtype=self.positions.dtype), self.dim)
        return self.replace(box=cell, positions=self.positions @ reciprocal(self.box) @ cell)

    def repeat(self, *times: int) -> System:
        """The same cell side by side, `times` along each lattice vector (one number: along all of them).

        Particle k of the copy number c is particle n c + k; copies are counted along the last vector first.

        **Raises** `InvalidInput` with open boundaries, and for numbers that are not positive.
        """
        counts = times * self.dim if len(times) == 1 else times
        if self.box is None:
            raise InvalidInput("a system with open boundaries has no cell to repeat")
        if len(counts) != self.dim or not all(isinstance(m, int | np.integer) and m >= 1 for m in counts):
            raise InvalidInput(f"repeat takes one positive integer or {self.dim} of them, not {times}")
        shifts = jnp.asarray(np.indices(counts).reshape(self.dim, -1).T, self.positions.dtype) @ self.box
        return System(
            (shifts[:, None] + self.positions).reshape(-1, self.dim),
            self.box * jnp.asarray(counts, self.box.dtype)[:, None],
            jnp.tile(self.diameters, len(shifts)),
            jnp.tile(self.species, len(shifts)),
        )

    @property
    def n(self) -> int:
        return self.positions.shape[0]

    @property
    def dim(self) -> int:
        return self.positions.shape[1]

    @property
    def periodic(self) -> bool:
        return self.box is not None

    @property
    def volume(self) -> Float[Array, ""]:
        """Area (2D) or volume (3D) of the cell."""
        if self.box is None:
            raise InvalidInput("a system with open boundaries has no volume")
        return jnp.abs(jnp.linalg.det(self.box))

    @property
    def heights(self) -> Float[Array, " d"]:
        """Distance between opposite faces of the cell."""
        if self.box is None:
            raise InvalidInput("a system with open boundaries has no faces")
        return 1.0 / jnp.linalg.norm(reciprocal(self.box), axis=0)

    @property
    def packing_fraction(self) -> Float[Array, ""]:
        """The spheres' own volume over the volume of the cell; overlaps are counted twice."""
        unit_ball = math.pi / 4 if self.dim == 2 else math.pi / 6
        return unit_ball * jnp.sum(self.diameters**self.dim) / self.volume

    def wrapped(self) -> Float[Array, "n d"]:
        """The positions moved into the cell, for drawing and for files."""
        if self.box is None:
            return self.positions
        fractions = self.positions @ reciprocal(self.box)
        return self.positions - jnp.floor(fractions) @ self.box


def _numbers(name: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise InvalidInput(f"{name} must be numbers or an array of them, not {str(value)[:60]!r}") from error


def _cell(box: Array, d: int) -> Array:
    if box.ndim == 0:
        box = jnp.full(d, box)
    if box.ndim == 1 and box.shape == (d,):
        box = jnp.diag(box)
    if box.shape != (d, d):
        raise InvalidInput(f"box must be a length, {d} lengths or a [{d}, {d}] matrix, not {list(box.shape)}")
    return box


def _per_particle(name: str, values: Array, n: int) -> Array:
    if values.ndim == 0:
        return jnp.full(n, values)
    if values.shape != (n,):
        raise InvalidInput(f"{name} must be one value or one per particle ({n}), not {list(values.shape)}")
    return values
