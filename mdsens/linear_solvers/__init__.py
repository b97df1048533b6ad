"""Linear solvers behind derivatives: those of lineax, three of our own in its form, and the choice between them.

`tolerance` is that of the residual relative to the right-hand side in each of a few rounds of iterative refinement.
`REGISTRY` names the solvers that commands offer; add a new one there.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx

from ..potentials import Potential
from ..system import System
from .cholesky import Cholesky
from .dense import PseudoInverse
from .minres import Minres
from .solve import DENSE_UP_TO

FACTORS_FROM = 500
"""Degrees of freedom from which sparse factors are chosen, where available: below, some hundred solves by eigenvectors
take no longer than the additional seconds of compiling that factors take.
"""

FACTORS_UP_TO = 12_000
"""Particles up to which sparse factors are chosen in 3D, where they fill up; in 2D they always are."""


def dense() -> lx.AbstractLinearSolver:
    """Eigenvectors of the dense Hessian: certain, and the choice for small systems."""
    return PseudoInverse()


def cg(tolerance: float = 1e-8, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """Conjugate gradients (Hestenes and Stiefel 1952), for a minimum."""
    return lx.CG(rtol=tolerance, atol=tolerance, max_steps=max_steps)


def bicgstab(tolerance: float = 1e-8, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """BiCGSTAB (van der Vorst 1992), which Blondel et al. (2021) use for this problem."""
    return lx.BiCGStab(rtol=tolerance, atol=tolerance, max_steps=max_steps)


def gmres(tolerance: float = 1e-8, max_steps: int | None = None, restart: int = 100) -> lx.AbstractLinearSolver:
    """Restarted GMRES (Saad and Schultz 1986)."""
    return lx.GMRES(rtol=tolerance, atol=tolerance, max_steps=max_steps, restart=restart)


def minres(tolerance: float | None = None, max_steps: int | None = None) -> lx.AbstractLinearSolver:
    """MINRES (Paige and Saunders 1975): as cheap as conjugate gradients, and right with any zero modes."""
    return Minres(tolerance, max_steps)


def cholesky() -> lx.AbstractLinearSolver:
    """Sparse Cholesky factors (CHOLMOD) in double precision on a CPU, for sums over pairs at a minimum.

    The fastest solver in 2D, and in 3D up to some 12000 particles and for many right-hand sides. Where H is not
    positive, CHOLMOD's error is raised, even from within `jit`.
    """
    return Cholesky()


REGISTRY: dict[str, Callable[[], lx.AbstractLinearSolver]] = {
    "dense": dense,
    "minres": minres,
    "cholesky": cholesky,
    "cg": cg,
    "bicgstab": bicgstab,
    "gmres": gmres,
}


def automatic(potential: Potential, system: System, minimum_only: bool = True) -> lx.AbstractLinearSolver:
    """Sparse Cholesky factors where they are available and win; else dense for small systems and MINRES beyond.

    Where a solve with factors cannot be trusted, MINRES takes its place, and for a small system the dense solver after
    that.

    **Arguments:**

    - `minimum_only`: whether only minima are to be differentiated, where H is positive.
    """
    size = system.positions.size
    if minimum_only and size >= FACTORS_FROM and _factors_win(potential, system):
        return Cholesky(falls_back=True)
    return dense() if size <= DENSE_UP_TO else minres()


def _factors_win(potential: Potential, system: System) -> bool:
    """On a CPU, in double precision, for sums over pairs; in 3D up to a size, with a fast CHOLMOD."""
    if not potential.has_terms or system.positions.dtype != jnp.float64:
        return False
    if jax.default_backend() != "cpu" or importlib.util.find_spec("sparsax") is None:
        return False
    small = system.positions.size <= DENSE_UP_TO
    return system.dim == 2 or small or (system.n <= FACTORS_UP_TO and _fast_cholmod())


@functools.cache
def _fast_cholmod() -> bool:
    """Whether sparsax has CHOLMOD 5 with OpenBLAS, as from 0.11 on (Python 3.12), not CHOLMOD 3 with ATLAS, which takes
    eight times as long in 3D.
    """
    version = importlib.metadata.version("sparsax")
    return tuple(int(part) for part in version.split(".")[:2]) >= (0, 11)


__all__ = ["REGISTRY", "PseudoInverse", "automatic", "bicgstab", "cg", "cholesky", "dense", "gmres", "minres"]
