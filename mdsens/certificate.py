"""The evidence for an equilibrium."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import implicit
from .cholesky import where_positive
from .contacts import Standing
from .curvature import Curvature, doubts, lanczos
from .errors import SolveFailed
from .hessian import Hessian, gradient
from .linear_solvers import DENSE_UP_TO, PseudoInverse, projected, spectral_cut
from .neighbors import Neighbors
from .potentials import PairPotential, Potential
from .system import System, largest_length
from .zero_modes import ZeroModes

if TYPE_CHECKING:
    from .relaxation import Equilibrium


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is known of a point at rest. Energies, forces and lengths in the system's own units.

    **At rest:** `converged`, `max_force` (the largest force component left), the `tolerance` and the
    `force_scale` (the mean force in a contact) it is compared with; `steps`, and `escapes`, the
    saddles left on the way; `energy`.

    **Stationary point:** `minimum` is False where a `negative` curvature was found. `softest` is the
    smallest positive curvature, `stiffest` the largest, energy per length², `condition` their ratio; None
    if there are none. `exact` says that they are eigenvalues; else `softest` is an upper bound, `stiffest` and
    `condition` lower ones, by Lanczos' method.

    **Zero modes:** `zero_modes` in all: `translations` and `rotations` of the `clusters`, d for each of the
    `rattlers` (their ids), and `floppy` others; None where they were not counted, for want of a dense matrix.

    **Contacts**, of a sum over pairs, rattlers left out: the mean `contact_number`, and the `isostatic` one
    of as many frictionless spheres, 2d - 2(d-1)/N (Goodrich, Liu and Nagel, Phys. Rev. Lett. 109, 095704
    (2012)); `smallest_overlap` and `smallest_gap`, as fractions of the contact distance (the gap among the
    pairs on the neighbor list); `marginal`, the pairs too near to touching to tell, where the
    response is one-sided. `hidden`, those of the rattlers that may be none: their contacts overlap, and bear
    hardly more than the forces left.

    **At constant pressure:** the `pressure`, and `pressure_error`, the largest deviation of the stress from it, of any
    component that was free to relax.

    **Thorough only:** `distance`, how far the particle that is farthest off is from the true minimum, by a Newton
    step; `solve_residual`, that of its linear solve, and `null_part`, the part of the forces in the
    null space, as on rattlers, which nothing can balance; both relative to the forces.
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
    marginal: tuple[tuple[int, int], ...]
    hidden: tuple[int, ...] = ()
    pressure: float | None = None
    pressure_error: float | None = None
    distance: float | None = None
    solve_residual: float | None = None
    null_part: float | None = None

    @property
    def kind(self) -> str:
        """`minimum`, `saddle`, `flat` where nothing is held, or `unknown`: not at rest, or the forces left hide it."""
        if not self.converged or self.hidden:
            return "unknown"
        if self.softest is None and self.minimum:
            return "flat"
        return "minimum" if self.minimum else "saddle"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not finite is None."""
        facts = dataclasses.asdict(self) | {"kind": self.kind}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        return "\n".join(f"{name:<17} {value}" for name, value in self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        scale = "" if self.force_scale is None else f", mean contact force {self.force_scale:.2g}"
        left = "" if not self.escapes else f", after leaving {_many(self.escapes, 'saddle')}"
        others = "others not counted" if self.floppy is None else f"{self.floppy} floppy"
        held = f"{_many(self.translations, 'translation')}, {_many(self.rotations, 'rotation')} of "
        held += f"{_many(self.clusters, 'cluster')}, {others}, {self.zero_modes - self._without_rattlers} of rattlers"
        rows = [
            ("at rest", f"{'yes' if self.converged else 'NO'} (largest force component {self.max_force:.2g}, "
                        f"tolerance {self.tolerance:.2g}{scale}; {self.steps} steps{left})"),
            ("energy", f"{self.energy:.12g}"),
            ("stationary point", self._verdict()),
            ("zero modes", f"{self.zero_modes}: {held}"),
            ("rattlers", _list(self.rattlers)),
        ]  # fmt: skip
        if self.pressure is not None:
            rows.append(("pressure", f"{self.pressure:.8g}, the stress off it by {self.pressure_error:.1g}"))
        if self.contact_number is not None:
            than = "" if self.isostatic is None else f" (isostatic: {self.isostatic:.4f})"
            rows.append(("contact number", f"{self.contact_number:.4f}{than}"))
        if self.smallest_overlap is not None:
            gap = "" if self.smallest_gap is None else f", smallest gap {self.smallest_gap:.2g}"
            rows.append(("contacts", f"smallest overlap {self.smallest_overlap:.2g}{gap}, of the contact distance"))
        if self.marginal:
            pairs = _list([f"{i}-{j}" for i, j in self.marginal])
            rows.append(("MARGINAL", f"{pairs} touch to within what the forces left tell: the response is one-sided"))
        if self.hidden:
            rows.append(("HIDDEN", f"{_list(self.hidden)} counted as rattlers, whose contacts overlap"))
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
            hidden = _many(len(self.hidden), "particle")
            return f"not known: the forces left hide what holds {hidden}; relax to a smaller tolerance"
        if self.kind == "flat":
            return "flat: nothing is held, and positions respond to nothing"
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


def certify(equilibrium: Equilibrium, thorough: bool = False) -> Certificate:
    """The certificate of an equilibrium; concrete arrays only."""
    equilibrium = equilibrium.frozen
    system, potential, close = equilibrium.system, equilibrium.potential, equilibrium.close
    held = implicit.hold(system, potential, close, equilibrium.rule.solver, equilibrium.curvature)
    found = _seen(potential, system, equilibrium.neighbors, equilibrium.max_force, held)
    more: dict[str, Any] = {}
    if thorough:
        newton = _newton(found.matrix, found.modes, gradient(potential, system, close), equilibrium.rule.solver)
        more = {key: float(value) for key, value in newton.items()}
    return certificate_of(equilibrium, found, thorough, more)


def certificate_of(
    equilibrium: Equilibrium,
    found: Evidence,
    thorough: bool = False,
    more: dict[str, Any] | None = None,
) -> Certificate:
    """The certificate that evidence makes, of what holds the equilibrium by its `close` pairs."""
    facts = _spectrum(found, equilibrium.rule, thorough) | _contacts(
        found, equilibrium.potential, equilibrium.system.dim
    )
    loose, marginal = np.asarray(found.standing.rattlers), np.flatnonzero(found.standing.marginal)
    close = equilibrium.close
    return Certificate(
        converged=bool(equilibrium.converged),
        max_force=float(equilibrium.max_force),
        tolerance=float(equilibrium.tolerance),
        steps=int(equilibrium.steps),
        escapes=int(equilibrium.escapes),
        energy=float(equilibrium.energy),
        translations=int(found.translations),
        rotations=int(found.rotations),
        clusters=len(np.unique(np.asarray(found.modes.cluster)[~loose])),
        rattlers=tuple(np.flatnonzero(loose).tolist()),
        hidden=tuple(np.flatnonzero(found.standing.hidden).tolist()),
        pressure=None if equilibrium.pressure is None else float(equilibrium.pressure),
        pressure_error=None if equilibrium.pressure_error is None else float(equilibrium.pressure_error),
        marginal=tuple((int(close.i[k]), int(close.j[k])) for k in marginal),
        **facts,
        **(more or {}),
    )


class Evidence(eqx.Module):
    """What the device finds out, of all that is held: `zero` of the known zero modes, and the size of an eigenvalue
    that is `noise`; in small systems all `curvatures`, in others `bounds` for them.
    """

    standing: Standing
    modes: ZeroModes
    matrix: Hessian
    translations: Array
    rotations: Array
    zero: Array
    noise: Float[Array, ""]
    rounding: Float[Array, ""]
    curvatures: Float[Array, " k"] | None
    bounds: Curvature | None
    contacts: dict[str, Array] | None


def evidence(
    potential: Potential, system: System, neighbors: Neighbors, max_force: Float[Array, ""], held: implicit.Held
) -> Evidence:
    """Traced: what a certificate says, given what holds the system, and pairs, of which it finds the smallest gap."""
    modes, contacts = held.modes, None
    if isinstance(potential, PairPotential):
        pairs = potential.pairs(system, neighbors.only(~held.standing.rattlers))
        contacts = {
            "touching": pairs.interacts,
            "listed": pairs.listed,
            "gap": pairs.gap / pairs.cutoff,
            "force": pairs.force,
        }
    small = system.positions.size <= DENSE_UP_TO
    noise, rounding = doubts(potential, system, max_force)
    return Evidence(
        held.standing,
        modes,
        held.matrix,
        translations=modes.translations,
        rotations=modes.rotations,
        zero=modes.count,
        noise=noise,
        rounding=rounding,
        curvatures=_curvatures(held) if small else None,
        bounds=None if small else lanczos(held.matrix, modes, noise + rounding),
        contacts=contacts,
    )


_seen = eqx.filter_jit(evidence)


def _curvatures(held: implicit.Held) -> Float[Array, " k"]:
    """The eigenvalues of P H P, rising."""
    solver = held.solver
    if isinstance(solver, PseudoInverse) and solver.known is not None:
        return solver.known[0]
    return jnp.linalg.eigvalsh(projected(held.matrix, held.modes))


def _spectrum(found: Evidence, rule: implicit.Rule, thorough: bool) -> dict[str, Any]:
    """Curvatures and the number of zero modes: by a dense matrix, or bounds by Lanczos' method."""
    known = int(found.zero)
    if found.curvatures is not None:
        curvatures = np.asarray(found.curvatures)
        cut = float(spectral_cut(jnp.asarray(curvatures))) + float(found.rounding)
        positive = curvatures[curvatures > cut]
        ends = (float(positive[0]), float(positive[-1])) if len(positive) else None
        lowest, exact = float(curvatures[0]), True
        minimum = lowest >= -(cut + float(found.noise))
        floppy = max(0, int(np.sum(np.abs(curvatures) <= cut)) - known)
    else:
        assert found.bounds is not None
        lowest, highest = float(found.bounds.lowest), float(found.bounds.highest)
        softest, minimum, exact, floppy = lowest, not bool(found.bounds.negative), False, None
        if thorough and highest > 0.0:
            softest, exact = _softest(found.matrix, found.modes, rule, lowest)
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


def _softest(matrix: Hessian, modes: ZeroModes, rule: implicit.Rule, bound: float) -> tuple[float, bool]:
    """The smallest curvature that is not zero, by SciPy's ARPACK on the inverse: some twenty solves; or the bound."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    shape = modes.rigid.shape[1:]
    size = shape[0] * shape[1]

    def apply(v: np.ndarray) -> np.ndarray:
        with where_positive():
            solved = np.asarray(_inverse(matrix, modes, jnp.asarray(v.reshape(shape)), rule.solver)).ravel()
        if not np.isfinite(solved).all():
            raise SolveFailed("a solve for the softest curvature cannot be trusted")
        return solved

    try:
        largest = eigsh(LinearOperator((size, size), apply, dtype=np.dtype(modes.rigid.dtype)), k=1, tol=1e-3)[0][0]
    except (ArpackError, SolveFailed):
        return bound, False
    return 1.0 / float(largest), True


@eqx.filter_jit
def _inverse(matrix: Hessian, modes: ZeroModes, b: Float[Array, "n d"], solver: Any) -> Float[Array, "n d"]:
    return implicit.solve(matrix, modes, b, solver)


@eqx.filter_jit
def _newton(matrix: Hessian, modes: ZeroModes, forces: Float[Array, "n d"], solver: Any) -> dict[str, Array]:
    """The step to the true minimum, and how well it was solved for."""
    step = implicit.solve(matrix, modes, forces, solver)
    size = jnp.linalg.norm(forces)
    scale = jnp.where(size > 0.0, size, 1.0)
    return {
        "distance": largest_length(step),
        "solve_residual": jnp.linalg.norm(modes.project(matrix.product(step) - forces)) / scale,
        "null_part": jnp.linalg.norm(forces - modes.project(forces)) / scale,
    }


def _contacts(found: Evidence, potential: Potential, d: int) -> dict[str, float | None]:
    """Numbers of the contact network, of the particles that are no rattlers."""
    nothing = dict.fromkeys(("force_scale", "contact_number", "isostatic", "smallest_overlap", "smallest_gap"))
    if found.contacts is None:
        return nothing
    touching, listed, gap, force = (np.asarray(found.contacts[name]) for name in ("touching", "listed", "gap", "force"))
    held, apart = int(np.sum(~np.asarray(found.standing.rattlers))), gap[listed & ~touching]
    facts = nothing | {"contact_number": 2.0 * float(touching.sum()) / max(1, held)}
    if touching.any():
        facts["force_scale"] = float(np.mean(force[touching]))
    if isinstance(potential, PairPotential) and potential.contact:
        facts["isostatic"] = 2.0 * d - 2.0 * (d - 1) / held if held else None
        facts["smallest_overlap"] = float(-gap[touching].max()) if touching.any() else None
        facts["smallest_gap"] = float(apart.min()) if apart.size else None
    return facts
