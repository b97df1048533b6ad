"""The certificate of an equilibrium: its evidence, as numbers and as a table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ..errors import SolveFailed
from ..landscape.configuration import Configuration
from ..landscape.contacts import analyze_contacts
from ..landscape.thresholds import ZERO_EIGENVALUE_EXPONENT
from ..linear_solvers import DENSE_UP_TO
from ..linear_solvers.cholesky import explain_missing_factors
from ..linearization import Linearization, by_attempts, newton_step
from ..neighbors import Neighbors
from ..runtime.compiled import compile_once
from ..runtime.tracing import as_array


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The evidence for a point at rest. Energies, forces and lengths in the system's own units.

    **At rest:** `converged`; `max_force`, the largest force component left, the `tolerance` and the `force_scale`
    (the mean force in a contact) to compare it with; `steps`; `escapes`, the saddles left on the way; `energy`.

    **Stationary point:** `minimum` is False where a `negative` curvature was found. `softest` is the smallest
    positive curvature, `stiffest` the largest, energy per length², `condition` their ratio; None if there are none.
    `exact` is True for eigenvalues; else `softest` is an upper bound, `stiffest` and `condition` lower ones, by
    Lanczos' method.

    **Zero modes:** `zero_modes` in all: `translations` and `rotations` of the `clusters`, d for each of the
    `rattlers` (their ids), and `floppy` others; None where these were not counted, without a dense matrix. `fixed`
    degrees of freedom are none of them.

    **Contacts** of a sum over pairs, without rattlers: the mean `contact_number` (None where no stiffness jumps at a
    cutoff, as with a smooth switch), and the `isostatic` one of as many
    frictionless spheres, 2d - 2(d-1)/N; `smallest_overlap` and `smallest_gap`, as fractions of the contact distance
    (the gap among the pairs of the neighbor list); `indeterminate`, the pairs too near to touching to tell, where the
    response is one-sided; `unresolved`, those of the rattlers that may be none: their contacts overlap, and bear
    hardly more than the residual forces.

    **At constant pressure:** the `pressure`, and `pressure_error`, the largest deviation of the stress from it, of
    any component that was free to relax.

    **Thorough only:** `distance`, how far the particle that is farthest off is from the true minimum, by a Newton
    step; `solve_residual`, that of its linear solve, and `null_part`, the part of the forces in the null space, as on
    rattlers, which nothing can balance; both relative to the forces.

    **Reference:**

    - Isostatic contact number: Goodrich, Liu and Nagel, Phys. Rev. Lett. 109, 095704 (2012).
    """

    converged: bool
    max_force: float
    tolerance: float
    force_scale: float | None
    steps: int
    escapes: int
    energy: float
    minimum: bool
    negative: float | None
    softest: float | None
    stiffest: float | None
    condition: float | None
    exact: bool
    zero_modes: int
    translations: int
    rotations: int
    clusters: int
    floppy: int | None
    rattlers: tuple[int, ...]
    contact_number: float | None
    isostatic: float | None
    smallest_overlap: float | None
    smallest_gap: float | None
    indeterminate: tuple[tuple[int, int], ...]
    unresolved: tuple[int, ...] = ()
    fixed: int = 0
    pressure: float | None = None
    pressure_error: float | None = None
    distance: float | None = None
    solve_residual: float | None = None
    null_part: float | None = None

    @property
    def kind(self) -> str:
        """`minimum`, `saddle`, `flat` where nothing is constrained, or `unknown`: not at rest, hidden by residual
        forces, or without finite second derivatives.
        """
        if not self.converged or self.unresolved or (self.negative is not None and np.isnan(self.negative)):
            return "unknown"
        if self.softest is None and self.minimum:
            return "flat"
        return "minimum" if self.minimum else "saddle"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; values that are not finite are None."""
        facts = dataclasses.asdict(self) | {"kind": self.kind}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        return "\n".join(f"{name:<17} {value}" for name, value in self._rows())

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str]]:
        scale = "" if self.force_scale is None else f", mean contact force {self.force_scale:.2g}"
        left = "" if not self.escapes else f", after leaving {_many(self.escapes, 'saddle')}"
        others = "others not counted" if self.floppy is None else f"{self.floppy} floppy"
        modes = f"{_many(self.translations, 'translation')}, {_many(self.rotations, 'rotation')} of "
        modes += f"{_many(self.clusters, 'cluster')}, {others}, {self.zero_modes - self._without_rattlers} of rattlers"
        rows = [
            ("at rest", f"{'yes' if self.converged else 'NO'} (largest force component {self.max_force:.2g}, "
                        f"tolerance {self.tolerance:.2g}{scale}; {self.steps} steps{left})"),
            ("energy", f"{self.energy:.12g}"),
            ("stationary point", self._verdict()),
            ("zero modes", f"{self.zero_modes}: {modes}"),
            ("rattlers", _list(self.rattlers)),
        ]  # fmt: skip
        if self.fixed:
            rows.append(("fixed", _many(self.fixed, "degree") + " of freedom"))
        if self.pressure is not None:
            rows.append(("pressure", f"{self.pressure:.8g}, the stress off it by {self.pressure_error:.1g}"))
        if self.contact_number is not None:
            than = "" if self.isostatic is None else f" (isostatic: {self.isostatic:.4f})"
            rows.append(("contact number", f"{self.contact_number:.4f}{than}"))
        if self.smallest_overlap is not None:
            gap = "" if self.smallest_gap is None else f", smallest gap {self.smallest_gap:.2g}"
            rows.append(("contacts", f"smallest overlap {self.smallest_overlap:.2g}{gap}, of the contact distance"))
        if self.indeterminate:
            pairs = _list([f"{i}-{j}" for i, j in self.indeterminate])
            rows.append(("INDETERMINATE", f"{pairs} touch to within the residual forces: the response is one-sided"))
        if self.unresolved:
            rows.append(("UNRESOLVED", f"{_list(self.unresolved)} counted as rattlers, but their contacts overlap"))
        if self.distance is not None:
            solve = f"solved to {self.solve_residual:.1g}, null part of the forces {self.null_part:.1g}"
            rows.append(("off the minimum", f"by {self.distance:.2g} at most ({solve})"))
        return rows

    @property
    def _without_rattlers(self) -> int:
        return self.translations + self.rotations + (self.floppy or 0)

    def _verdict(self) -> str:
        if self.kind == "unknown":
            if not self.converged:
                return "none: the system is not at rest"
            if self.negative is not None and np.isnan(self.negative):
                return "unknown: the second derivative of the energy is not finite"
            particles = _many(len(self.unresolved), "particle")
            return f"unknown: residual forces hide the contacts of {particles}; relax to a smaller tolerance"
        if self.kind == "flat":
            return "flat: no contacts constrain the particles, and positions have no defined response"
        down = "" if self.negative is None else f"NOT a minimum: a saddle, with a curvature of {self.negative:.3g}"
        if self.condition is None:
            return down or "a minimum"
        about = "" if self.exact else "about "
        ends = f"curvatures {about}{self.softest:.3g} to {self.stiffest:.3g}, condition {about}{self.condition:.2g}"
        return down + f" (positive {ends})" if down else f"a minimum ({ends})"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _list(items: Any) -> str:
    shown = ", ".join(map(str, items[:8])) + (" …" if len(items) > 8 else "")
    return f"{len(items)}" + (f" ({shown})" if len(items) else "")


def certify(
    linearization: Linearization,
    facts: dict[str, Any],
    bounds: tuple[float, float],
    all_neighbors: Callable[[], Neighbors],
    thorough: bool,
) -> Certificate:
    """The certificate that a linearization makes, on the host.

    **Arguments:**

    - `facts`: those fields of the certificate that belong to the relaxation.
    - `bounds` (energy per length²): of the ends of the spectrum, by Lanczos' method.
    - `all_neighbors`: called for the pairs within their cutoff plus a skin, where no pair is nearly in contact.
    """
    found = linearization.evidence
    if thorough:
        with explain_missing_factors():
            step, _ = by_attempts(newton_step, linearization.attempts())
        names = "distance", "solve_residual", "null_part"
        facts = facts | {name: float(getattr(step, name)) for name in names}
    contacts, neighbors = linearization.contacts, linearization.configuration.neighbors
    rattlers, i, j = (np.asarray(a) for a in (contacts.rattlers, neighbors.i, neighbors.j))
    indeterminate = np.flatnonzero(contacts.indeterminate)
    return Certificate(
        translations=int(found.translations),
        rotations=int(found.rotations),
        fixed=int(found.fixed),
        clusters=len(np.unique(np.asarray(linearization.modes.cluster)[np.asarray(contacts.constrained)])),
        rattlers=tuple(np.flatnonzero(rattlers).tolist()),
        unresolved=tuple(np.flatnonzero(contacts.unresolved).tolist()),
        indeterminate=tuple((int(i[k]), int(j[k])) for k in indeterminate),
        **facts,
        **_spectrum(linearization, bounds, thorough),
        **_contacts(linearization, all_neighbors),
    )


@compile_once
def _eigenvalues(linearization: Linearization) -> Float[Array, " k"]:
    return linearization.eigenvalues()


def _spectrum(linearization: Linearization, bounds: tuple[float, float], thorough: bool) -> dict[str, Any]:
    """Curvatures and the number of zero modes: by a dense matrix, or bounds by Lanczos' method."""
    found, known = linearization.evidence, int(linearization.evidence.zero_modes)
    if linearization.configuration.system.positions.size <= DENSE_UP_TO:
        values = np.asarray(linearization.factors[0] if linearization.is_dense else _eigenvalues(linearization))
        cut = float(np.finfo(values.dtype).eps ** ZERO_EIGENVALUE_EXPONENT * np.abs(values).max())
        cut += float(found.rounding)
        positive = values[values > cut]
        ends = (float(positive[0]), float(positive[-1])) if len(positive) else None
        lowest, exact = float(values[0]), True
        minimum = lowest >= -(cut + float(found.noise))
        floppy = max(0, int(np.sum(np.abs(values) <= cut)) - known - int(found.fixed))
    else:
        lowest, highest = bounds
        cut = float(np.finfo(float).eps ** ZERO_EIGENVALUE_EXPONENT * max(abs(lowest), abs(highest)))
        minimum = lowest >= -(float(found.noise) + float(found.rounding) + cut)
        softest, exact, floppy = lowest, False, None
        if thorough and highest > 0.0:
            softest, exact = _softest(linearization, lowest)
        ends = (softest, highest) if softest > 0.0 else None
    return {
        "minimum": minimum,
        "negative": None if minimum else lowest,
        "softest": ends and ends[0],
        "stiffest": ends and ends[1],
        "condition": ends and ends[1] / ends[0],
        "exact": exact,
        "floppy": floppy,
        "zero_modes": known + (floppy or 0),
    }


def _softest(linearization: Linearization, bound: float) -> tuple[float, bool]:
    """The smallest curvature that is not zero, by SciPy's ARPACK on the inverse: some twenty solves; or the bound."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    x = linearization.configuration.system.positions

    def apply(v: np.ndarray) -> np.ndarray:
        with explain_missing_factors():
            solved = np.asarray(_inverse(linearization, as_array(v.reshape(x.shape), x.dtype))).ravel()
        if not np.isfinite(solved).all():
            raise SolveFailed("a solve for the softest curvature cannot be trusted")
        return solved

    try:
        largest = eigsh(LinearOperator((x.size, x.size), apply, dtype=np.dtype(x.dtype)), k=1, tol=1e-3)[0][0]
    except (ArpackError, SolveFailed):
        return bound, False
    return 1.0 / float(largest), True


@eqx.filter_jit
def _inverse(linearization: Linearization, b: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return linearization.solve(b)


def _contacts(linearization: Linearization, all_neighbors: Callable[[], Neighbors]) -> dict[str, Any]:
    """Numbers of the contact network, without rattlers."""
    here, contacts = linearization.configuration, linearization.contacts
    nothing: dict[str, Any] = dict.fromkeys(
        ("force_scale", "contact_number", "isostatic", "smallest_overlap", "smallest_gap")
    )
    if not here.potential.has_contacts:
        return nothing
    touching, gap, force = (np.asarray(a) for a in (contacts.touching, contacts.gap, contacts.force))
    constrained, d = int(np.sum(np.asarray(contacts.constrained))), here.system.dim
    number = float(linearization.evidence.contact_number)
    facts = nothing | {"contact_number": number if number > 0.0 or here.potential.contact else None}
    if touching.any():
        facts["force_scale"] = float(np.mean(force[touching]))
    if here.potential.contact:
        apart = gap[~touching & np.isfinite(gap)]
        if not apart.size:
            apart = _wider_gaps(linearization, all_neighbors())
        free = constrained and here.system.fixed is None and not here.potential.others()
        facts["isostatic"] = 2.0 * d - 2.0 * (d - 1) / constrained if free else None
        facts["smallest_overlap"] = float(-gap[touching].max()) if touching.any() else None
        facts["smallest_gap"] = float(apart.min()) if apart.size else None
    return facts


def _wider_gaps(linearization: Linearization, neighbors: Neighbors) -> np.ndarray:
    """The gaps of pairs that do not touch, among all that are listed."""
    here = linearization.configuration
    contacts = _analyzed(Configuration(here.potential, here.system, neighbors))
    gap = np.asarray(contacts.gap)
    return gap[~np.asarray(contacts.touching) & np.isfinite(gap)]


@compile_once
def _analyzed(configuration: Configuration) -> Any:
    return analyze_contacts(configuration)
