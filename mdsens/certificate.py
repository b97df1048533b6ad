"""The evidence for an equilibrium."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .hessian import hessian, known_zero_modes, rattlers
from .linear_solvers import DENSE_UP_TO, spectral_cut
from .potentials import PairPotential

if TYPE_CHECKING:
    from .relaxation import Equilibrium


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is known of a point at rest. Energies and lengths in the system's own units.

    `zero_modes` counts the directions without curvature, d for each rattler and the global
    translations among them. `softest` is the smallest positive curvature, None if there is none, and
    `minimum` whether none is negative; both are None where the system is too large for a dense
    diagonalization, and `zero_modes` then counts those known without one. `contact_number` is the mean over the
    particles that are no rattlers; None for a potential that is no sum over pairs.
    """

    converged: bool
    max_force: float
    tolerance: float
    steps: int
    energy: float
    zero_modes: int
    rattlers: tuple[int, ...]
    contact_number: float | None
    softest: float | None
    minimum: bool | None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.rattlers[:8])) + (" …" if len(self.rattlers) > 8 else "")
        rows = [
            ("at rest", f"{'yes' if self.converged else 'NO'} (largest force component {self.max_force:.2g}, "
                        f"tolerance {self.tolerance:.2g}, {self.steps} steps)"),
            ("energy", f"{self.energy:.12g}"),
            ("stationary point", self._verdict()),
            ("zero modes", str(self.zero_modes)),
            ("rattlers", str(len(self.rattlers)) + (f" ({ids})" if self.rattlers else "")),
        ]  # fmt: skip
        if self.contact_number is not None:
            rows.append(("contact number", f"{self.contact_number:.4f}"))
        return "\n".join(f"{name:<17} {value}" for name, value in rows)

    def _verdict(self) -> str:
        if self.minimum is None:
            return "not known (too large to diagonalize)"
        if self.softest is None:
            return "flat: nothing is held, and nothing responds"
        return f"{'a' if self.minimum else 'not a'} minimum, softest curvature {self.softest:.3g}"


def certify(equilibrium: Equilibrium) -> Certificate:
    """The certificate of an equilibrium; concrete arrays only."""
    equilibrium = jax.lax.stop_gradient(equilibrium)
    system, potential, neighbors = equilibrium.system, equilibrium.potential, equilibrium.neighbors
    loose = rattlers(potential, system, neighbors)
    backbone = neighbors.only(~loose)
    zero_modes = int(known_zero_modes(system, loose).count)
    softest, minimum = None, None
    if system.positions.size <= DENSE_UP_TO:
        matrix = hessian(potential, system, backbone).dense().reshape(system.positions.size, -1)
        curvatures = np.linalg.eigvalsh(np.asarray(matrix))
        cut = float(spectral_cut(jnp.asarray(curvatures)))
        zero_modes = int(np.sum(np.abs(curvatures) <= cut))
        softest = float(min(curvatures[curvatures > cut])) if (curvatures > cut).any() else None
        minimum = bool(curvatures[0] >= -cut)
    contact_number = None
    if isinstance(potential, PairPotential):
        contacts = int(jnp.sum(potential.pairs(system, backbone).interacts))
        contact_number = 2.0 * contacts / max(1, int(jnp.sum(~loose)))
    return Certificate(
        converged=bool(equilibrium.converged),
        max_force=float(equilibrium.max_force),
        tolerance=float(equilibrium.tolerance),
        steps=int(equilibrium.steps),
        energy=float(equilibrium.energy),
        zero_modes=zero_modes,
        rattlers=tuple(int(i) for i in np.flatnonzero(loose)),
        contact_number=contact_number,
        softest=softest,
        minimum=minimum,
    )
