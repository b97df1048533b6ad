"""Maxwell's count of a network: its zero modes and states of self-stress."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput
from ..landscape.configuration import Configuration
from ..linearization import Linearization
from ..potentials import Bonds, Gravity, Load, Potential
from ..relaxation.equilibrium import Equilibrium
from ..runtime.compiled import compile_once
from .vibrations import MOST_DENSE

SMALLEST_SINGULAR_VALUE = 1e-10
"""Relative to the largest: singular values of the compatibility matrix below this are zero."""


@dataclasses.dataclass(frozen=True)
class MaxwellCount:
    """Degrees of freedom and constraints of a network: N₀ - N_s = N_dof - N_b.

    - `degrees_of_freedom`: of the particles that relax and are no rattlers.
    - `bonds`: contacts and bonds that bear something.
    - `zero_modes`: N₀, motions that to first order stretch no bond, rigid motions included; `floppy_modes`: the others.
    - `self_stresses`: N_s, the independent sets of forces in the bonds that balance on every particle.

    **Reference:**

    - Maxwell, Phil. Mag. 27, 294 (1864); Calladine, Int. J. Solids Struct. 14, 161 (1978).
    """

    degrees_of_freedom: int
    bonds: int
    zero_modes: int
    floppy_modes: int
    self_stresses: int

    def __str__(self) -> str:
        return (
            f"{self.degrees_of_freedom} degrees of freedom and {self.bonds} bonds: {self.zero_modes} zero modes "
            f"({self.floppy_modes} floppy) and {self.self_stresses} states of self-stress"
        )


def maxwell_count(equilibrium: Equilibrium) -> MaxwellCount:
    """Zero modes and states of self-stress of a network of contacts and bonds, by the rank of its compatibility matrix.

    The forces that the bonds bear have no part in it: a floppy mode may be stiffened by them.

    **Raises:**

    - `InvalidInput` for a potential that is no sum over pairs and bonds, and for more than 12000 degrees of freedom.
    - `NotConverged` or `NotAMinimum` for a point that is no minimum at rest.
    """
    equilibrium.check()
    linearization, system = equilibrium.linearization, equilibrium.system
    if system.positions.size > MOST_DENSE:
        raise InvalidInput(
            f"{system.positions.size} degrees of freedom are too many to count, {MOST_DENSE} are the most"
        )
    others = [type(part).__name__ for part in equilibrium.potential.parts() if not _is_counted(part)]
    if others:
        raise InvalidInput(f"{', '.join(others)} is no sum over pairs or bonds: zero modes are counted of these alone")
    matrix, relaxes = _compatibility(linearization)
    singular = np.linalg.svd(matrix, compute_uv=False) if matrix.size else np.zeros(0)
    rank = int(np.sum(singular > SMALLEST_SINGULAR_VALUE * max(singular, default=0.0)))
    rigid = int(linearization.evidence.translations) + int(linearization.evidence.rotations)
    zero = int(relaxes.sum()) - rank
    return MaxwellCount(int(relaxes.sum()), len(matrix), zero, zero - rigid, len(matrix) - rank)


def _is_counted(part: Potential) -> bool:
    """Whether a part of a potential is a sum over pairs or bonds, or loads that resist nothing."""
    return part.is_pairwise or isinstance(part, Bonds | Load | Gravity)


def _compatibility(linearization: Linearization) -> tuple[Float[np.ndarray, "b f"], np.ndarray]:
    """The change of length of each bond with each degree of freedom that relaxes, and which do [n d]."""
    here = linearization.configuration
    n, d = here.system.positions.shape
    relaxes = np.repeat(~np.asarray(linearization.contacts.rattlers), d)
    if here.system.movable is not None:
        relaxes &= np.asarray(here.system.movable).ravel()
    rows = []
    for *ends_and_separation, bears in _bonds(linearization.backbone):
        i, j, separation = (np.asarray(each)[np.asarray(bears)] for each in ends_and_separation)
        normal = separation / np.linalg.norm(separation, axis=1, keepdims=True)
        matrix, each = np.zeros((len(i), n, d)), np.arange(len(i))
        matrix[each, j], matrix[each, i] = normal, -normal
        rows.append(matrix.reshape(len(i), n * d))
    matrix = np.concatenate(rows) if rows else np.zeros((0, n * d))
    matrix = matrix[:, relaxes]
    return matrix[matrix.any(axis=1)], relaxes


@compile_once
def _bonds(here: Configuration) -> list[tuple[Array, Array, Array, Array]]:
    """Contacts, and groups of two particles: their ends, separation, and whether they resist anything."""
    pairs, found = here.pairs, []
    if pairs is not None:
        touching, m = pairs.any(pairs.interacts), len(here.neighbors.i)
        found.append((pairs.i[:m], pairs.j[:m], pairs.separation[:m], touching))
    for _, terms in here.others():
        if terms is not None and terms.groups.shape[1] == 2:
            separation = terms.positions[:, 1] - terms.positions[:, 0]
            found.append((terms.groups[:, 0], terms.groups[:, 1], separation, terms.resists()))
    return found
