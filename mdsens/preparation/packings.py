"""Random packings, the starting points of relaxations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InvalidInput
from ..system import System


def random_packing(
    n: int,
    dim: int = 2,
    diameters: Sequence[float] = (1.0, 0.6),
    packing_fraction: float = 0.98,
    seed: int = 0,
    polydispersity: float = 0.0,
) -> System:
    """Place particles uniformly at random in a periodic square or cube, without relaxing them.

    The same seed gives the same packing on every machine and, up to rounding, in either precision.

    **Arguments:**

    - `n`: number of particles, split evenly and in order over `diameters`: the first part has diameter `diameters[0]`
      and species 0, the second part `diameters[1]` and species 1, and so on.
    - `dim`: 2 or 3.
    - `diameters`: one length for each species.
    - `packing_fraction`: the spheres' own volume over the volume of the cell.
    - `seed`: seed of the random positions and of the polydispersity, not negative.
    - `polydispersity`: standard deviation of the diameters of a species over their mean, between 0 and 1; they are
      drawn from a log-normal distribution of mean `diameters[k]`.

    **Returns:**

    - The System, in a cubic cell whose volume gives the packing fraction.

    **Raises:**

    - `InvalidInput` for numbers that describe no packing.
    """
    sizes = np.atleast_1d(np.asarray(diameters, dtype=float))
    if dim not in (2, 3):
        raise InvalidInput(f"dim must be 2 or 3, not {dim}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise InvalidInput(f"n must be a whole number of particles, not {n!r}")
    if n < len(sizes):
        raise InvalidInput(f"{n} particles cannot have {len(sizes)} different diameters")
    if sizes.ndim != 1 or not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        raise InvalidInput(f"diameters must be positive lengths, not {tuple(diameters)}")
    if seed < 0:
        raise InvalidInput(f"seed must not be negative, as {seed} is")
    if not (math.isfinite(packing_fraction) and packing_fraction > 0):
        raise InvalidInput(f"packing_fraction must be positive, not {packing_fraction}")
    if not 0 <= polydispersity <= 1:
        raise InvalidInput(f"polydispersity must lie between 0 and 1, not be {polydispersity}")
    species = np.concatenate([np.full(len(part), k) for k, part in enumerate(np.array_split(np.arange(n), len(sizes)))])
    unit_ball = math.pi / 4 if dim == 2 else math.pi / 6
    random = np.random.default_rng(seed)
    fractions, width = random.uniform(size=(n, dim)), math.sqrt(math.log1p(polydispersity**2))
    each = sizes[species] * np.exp(width * random.normal(size=n) - 0.5 * width**2)
    edge = (unit_ball * np.sum(each**dim) / packing_fraction) ** (1 / dim)
    return System(edge * fractions, box=edge, diameters=each, species=species.astype(np.int32))
