"""Properties that can be tuned one without the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from ..parameters import ParameterVector
from ..properties import check_properties
from ..relaxation import Equilibrium
from .responses import responses, scale_of, units_of

INDEPENDENT_SHARE = 1e-6
"""A property can be moved alone where more than this fraction of its response is none of the others'."""


@dataclasses.dataclass(frozen=True)
class Independence:
    """How several properties respond to parameters, and which can be moved alone.

    - `properties`: the names of the m properties; `values` [m]: their values.
    - `labels`: the names of the k components of the parameters.
    - `matrix` [m, k]: relative changes of the properties for relative changes of the components.
    - `singular_values`: those of the matrix.
    - `alone` [m]: the fraction of the response of each property that no combination of the others has: 1 where it is
      independent of them, 0 where it follows from them.
    - `directions` [m, k]: the smallest relative changes of the components that change one property by 1 and the others
      not; NaN where there are none.
    """

    properties: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray
    matrix: np.ndarray
    singular_values: np.ndarray
    alone: np.ndarray
    directions: np.ndarray

    def __str__(self) -> str:
        width = max(map(len, self.properties)) + 2
        shown = self.labels[:6]
        more = f"  … {len(self.labels)} components" if len(self.labels) > len(shown) else ""
        header = f"{'':<{width}}{'value':>12}{'alone':>8}   " + "".join(f"{label:>20}" for label in shown) + more
        rows = [header]
        for k, name in enumerate(self.properties):
            slopes = "".join(f"{s:>20.4g}" for s in self.matrix[k, : len(shown)])
            rows.append(f"{name:<{width}}{self.values[k]:>12.6g}{self.alone[k]:>8.3f}   {slopes}")
        rows.append("singular values: " + ", ".join(f"{s:.4g}" for s in self.singular_values))
        return "\n".join(rows)

    __repr__ = __str__


def independence(equilibrium: Equilibrium, properties: Iterable[str], wrt: str | Sequence[str]) -> Independence:
    """Computes the responses of properties to parameters, and how independent the properties are of each other.

    Properties with linearly independent responses can be tuned separately. Changes are relative, those of Poisson's
    ratio absolute.

    **Arguments:**

    - `properties`: names, of `mdsens.properties.REGISTRY`.
    - `wrt`: names of parameters, as for `mdsens.sensitivity`.

    **Returns:**

    - The Independence.

    **Raises:**

    - `InvalidInput` for an unknown name, and what the properties and their responses raise.

    **Reference:**

    - Zu and Goodrich, arXiv 2412.05031.
    """
    names = check_properties(properties)
    parameters = ParameterVector.from_names(wrt, equilibrium.potential, equilibrium.system)
    equilibrium.check()
    scale = scale_of(np.asarray(parameters.vector(equilibrium.potential, equilibrium.system)))
    values, slopes = responses(equilibrium, parameters, names)
    matrix = slopes * scale / units_of(names, values, least=1e-300)[:, None]
    directions, alone = _each_alone(matrix)
    singular_values = np.linalg.svd(matrix, compute_uv=False)
    return Independence(names, parameters.labels, values, matrix, singular_values, alone, directions)


def _each_alone(
    matrix: Float[np.ndarray, "m k"],
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, " m"]]:
    """The directions that change one row alone, and the fraction of each row that is none of the others'."""
    directions, alone = np.full(matrix.shape, np.nan), np.zeros(len(matrix))
    for k, row in enumerate(matrix):
        others = np.delete(matrix, k, axis=0)
        rest = row - np.linalg.pinv(others) @ (others @ row) if len(others) else row
        size = np.linalg.norm(row)
        alone[k] = np.linalg.norm(rest) / size if size > 0.0 else 0.0
        if alone[k] > INDEPENDENT_SHARE:
            directions[k] = rest / (rest @ row)
    return directions, alone
