"""Walls that particles touch as they touch each other."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import InvalidInput
from ..geometry import scatter, sum_components
from ..runtime.compiled import compile_once
from ..system import System, name_particles
from .base import Scalar, parameter
from .bonds import TermParameter
from .local import LocalPotential, every_particle, typical
from .soft_sphere import power
from .terms import LocalTerms

CERTAIN = 10.0
"""A particle that a wall pushes with more than this multiple of the least force is no rattler, however few contacts it
has, as between two walls.
"""


class Wall(LocalPotential):
    """The base for walls: E = Σ ε/α (1 - h/R)^α over the particles with h < R, h the distance of a particle's center
    from the wall and R = D/2 its radius. Behind the wall h is negative and the energy goes on growing, so that
    particles are pushed back.

    A wall of another shape defines `height`, and has `epsilon` and `alpha` among its fields. Walls act on positions as
    they are, not wrapped into a periodic cell: nothing jumps where all periodic directions of the cell are parallel to
    the wall (`System.periodic`), and along others the particles must stay in one image. A strain of the cell does not
    move a wall.

    **Arguments:**

    - `epsilon` (energy; one number or [n]), `alpha` (a pure number; 2 harmonic, 2.5 Hertzian): as of `SoftSphere`.
    """

    epsilon: eqx.AbstractVar[TermParameter]
    alpha: eqx.AbstractVar[TermParameter]

    per_term: ClassVar[tuple[str, ...]] = ("epsilon", "alpha")
    _source: ClassVar[str] = "height(x)"
    contact: ClassVar[bool] = True

    @abc.abstractmethod
    def height(self, x: Float[Array, " d"]) -> Scalar:
        """The distance of one point from the wall, negative behind it."""

    def groups(self, system: System) -> Int[Array, "n 1"]:
        return every_particle(system)

    def term_energy(self, x: Float[Array, "1 d"], diameters: Float[Array, " 1"]) -> Scalar:
        overlap = 1.0 - self.height(x[0]) / (0.5 * diameters[0])
        touching = jnp.logical_not(overlap <= 0.0)  # NaN stays NaN
        energy = self.epsilon / self.alpha * power(jnp.where(touching, overlap, 1.0), self.alpha)
        return jnp.where(touching, energy, 0.0)

    def gaps(self, system: System) -> Float[Array, " n"]:
        return jax.vmap(self.height)(system.positions) - 0.5 * system.diameters

    def supports(self, system: System, terms: LocalTerms | None, least_force: Scalar) -> Int[Array, " n"]:
        """One contact on each particle pushed with more than the least force, d + 1 on one pushed far more."""
        assert terms is not None
        squared = sum_components(terms.gradients()[:, 0] ** 2)
        certain = squared > (CERTAIN * least_force) ** 2
        counts = jnp.where(certain, system.dim + 1, squared > least_force**2)
        return scatter(counts.astype(jnp.int32), terms.groups[:, 0], system.n)

    def typical_stiffness(self, system: System) -> Scalar:
        """ε/R² of the particles."""
        radii = 0.5 * self.local_terms(system).diameters[:, 0]
        return typical(jnp.abs(self.epsilon) / radii**2)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        self._refuse_negative("epsilon")
        behind = np.flatnonzero(np.asarray(_gaps(self, system)) < -np.asarray(system.diameters))
        if behind.size:
            all_of_them = "all particles are" if behind.size == system.n else f"{name_particles(behind)} would be"
            raise InvalidInput(
                f"a {type(self).__name__} cuts particles off: {all_of_them} wholly behind it. Turn it around (its "
                "normal points to the side where the particles are), or move it, or them"
            )


@compile_once
def _gaps(wall: Wall, system: System) -> Float[Array, " n"]:
    return wall.gaps(system)


class PlanarWall(Wall):
    """A flat wall: E = Σ ε/α (1 - h/R)^α over the particles with h < R, h = n·(x - p) the distance of a particle's
    center from the wall and R = D/2 its radius. Behind the wall h is negative and the energy goes on growing.

    It acts on positions as they are, not wrapped into a periodic cell.

    **Arguments:**

    - `position` ([d], length): p, any point of the wall.
    - `normal` ([d]): n, of any length, to the side where the particles are.
    - `epsilon` (energy; one number or [n]), `alpha` (a pure number; 2 harmonic, 2.5 Hertzian): as of `SoftSphere`.

    **Raises** `InvalidInput`, when it is relaxed, for vectors of other shapes, a normal without direction, a negative
    `epsilon`, and particles that are wholly behind it.
    """

    position: Float[Array, " d"] = parameter()
    normal: Float[Array, " d"] = parameter()
    epsilon: TermParameter = parameter(default=1.0)
    alpha: TermParameter = parameter(default=2.0)

    def height(self, x: Float[Array, " d"]) -> Scalar:
        return jnp.sum(self.normal * (x - self.position)) / jnp.sqrt(jnp.sum(self.normal**2))

    def groups(self, system: System) -> Int[Array, "n 1"]:
        for name in ("position", "normal"):
            _check_vector("PlanarWall", name, getattr(self, name), system.dim)
        return super().groups(system)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        if not np.any(np.asarray(self.normal)):
            raise InvalidInput("the normal of a PlanarWall is zero: it must point to the side where the particles are")


class CylindricalWall(Wall):
    """A container with the particles inside: a cylinder around an axis in three dimensions, a circle in two.

    E = Σ ε/α (1 - h/R)^α over the particles with h < R, h the distance of a particle's center from the wall, negative
    outside, and R = D/2 its radius. It acts on positions as they are, not wrapped into a periodic cell, which may
    repeat along the axis.

    **Arguments:**

    - `radius` (length): of the container.
    - `axis` ([3], of any length): its direction in three dimensions; the last axis if None.
    - `center` ([d], length): a point of the axis, the center of the circle; the origin if None.
    - `epsilon` (energy; one number or [n]), `alpha` (a pure number; 2 harmonic, 2.5 Hertzian): as of `SoftSphere`.

    **Raises** `InvalidInput`, when it is relaxed, for vectors of other shapes, an axis without direction or in two
    dimensions, a negative `epsilon`, a container narrower than a particle, and particles wholly outside.
    """

    radius: Scalar = parameter()
    axis: Float[Array, " 3"] | None = parameter(default=None)
    center: Float[Array, " d"] | None = parameter(default=None)
    epsilon: TermParameter = parameter(default=1.0)
    alpha: TermParameter = parameter(default=2.0)

    def height(self, x: Float[Array, " d"]) -> Scalar:
        away = x if self.center is None else x - self.center
        if self.axis is not None:
            along = self.axis / jnp.sqrt(jnp.sum(self.axis**2))
            away = away - jnp.sum(away * along) * along
        squared = jnp.sum(away[:2] ** 2 if self.axis is None else away**2)
        apart = squared > 0.0  # on the axis no wall is nearer than another
        return self.radius - jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)

    def groups(self, system: System) -> Int[Array, "n 1"]:
        if np.shape(self.radius) != ():
            raise InvalidInput(f"radius of CylindricalWall must be one number, not {list(np.shape(self.radius))}")
        if self.axis is not None and system.dim == 2:
            raise InvalidInput("a CylindricalWall has no axis in two dimensions: leave it out")
        for name in ("axis", "center"):
            if getattr(self, name) is not None:
                _check_vector("CylindricalWall", name, getattr(self, name), system.dim)
        return super().groups(system)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        super().check_for(system, cutoffs)
        if self.axis is not None and not np.any(np.asarray(self.axis)):
            raise InvalidInput("the axis of a CylindricalWall is zero: it must have a direction")
        large = np.flatnonzero(0.5 * np.asarray(system.diameters) >= float(self.radius))
        if large.size:
            raise InvalidInput(
                f"the radius {float(self.radius):.6g} of a CylindricalWall leaves no room for {name_particles(large)}"
            )


def _check_vector(kind: str, name: str, value: Array, d: int) -> None:
    if np.shape(value) != (d,):
        raise InvalidInput(f"{name} of {kind} must be a vector [{d}], not {list(np.shape(value))}")
