"""Everything that is known to second order at one configuration at rest, computed once and shared by all that need
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int

from .errors import Status
from .geometry import largest, largest_length
from .landscape.configuration import Configuration
from .landscape.contacts import ContactAnalysis, analyze_contacts, with_indeterminate
from .landscape.curvature import Curvature, curvature_from_eigenvectors, lanczos
from .landscape.hessian import Displacements, Hessian
from .landscape.thresholds import curvature_uncertainty
from .landscape.zero_modes import ZeroModes, known_zero_modes
from .linear_solvers.cholesky import Cholesky
from .linear_solvers.dense import PseudoInverse, has_uncertain
from .linear_solvers.solve import factorize, solve, unit_of
from .runtime.compiled import compile_once
from .runtime.tracing import is_concrete


class Evidence(eqx.Module):
    """Numbers of zero modes, fixed degrees of freedom and contacts; `noise` and `rounding`, by which curvatures are
    off, energy per length².
    """

    translations: Int[Array, ""]
    rotations: Int[Array, ""]
    zero_modes: Int[Array, ""]
    fixed: Int[Array, ""]
    contact_number: Float[Array, ""]
    noise: Float[Array, ""]
    rounding: Float[Array, ""]


class Linearization(eqx.Module):
    """A configuration at rest to second order.

    - `configuration`: the point.
    - `forces`: -∂E/∂x there [n, d], energy per length, on fixed degrees of freedom, too.
    - `contacts`: rattlers, and contacts that the residual forces leave undetermined.
    - `modes`: the zero modes known beforehand, rattlers and rigid motions of clusters.
    - `hessian`: H, without the contacts of rattlers.
    - `curvature`: bounds for the ends of the spectrum, and the way down from a saddle.
    - `evidence`: for the certificate.
    - `solver` and `factors`: the linear solver, and what it keeps for further right-hand sides.
    """

    configuration: Configuration
    forces: Float[Array, "n d"]
    contacts: ContactAnalysis
    modes: ZeroModes
    hessian: Hessian
    curvature: Curvature
    evidence: Evidence
    solver: lx.AbstractLinearSolver
    factors: Any

    @property
    def backbone(self) -> Configuration:
        """The configuration without the contacts of rattlers."""
        return self.configuration.without(self.contacts.rattlers)

    @eqx.filter_jit
    def at(self, configuration: Configuration) -> Linearization:
        """The same point as a differentiable function of the configuration; all but the Hessian and the zero modes
        stays as it is.
        """
        backbone = configuration.without(self.contacts.rattlers)
        hessian = backbone.hessian()
        modes = known_zero_modes(backbone, self.contacts.rattlers, hessian)
        kept = self.curvature, self.evidence, self.solver, self.factors
        return Linearization(configuration, self.forces, self.contacts, modes, hessian, *kept)

    def attempts(self) -> tuple[Linearization, ...]:
        """This one, and before it, where the solver is sparse factors, one whose solves are half the code, and NaN
        where they take more than a refinement.
        """
        if not isinstance(self.solver, Cholesky):
            return (self,)
        in_short = dataclasses.replace(self.solver, falls_back=False, regular=True)
        return dataclasses.replace(self, solver=in_short), self

    def solve(self, b: Displacements) -> Displacements:
        """H⁺ b, the minimum-norm solution of H u = P b, P the projection off the zero modes; NaN if not to be trusted.

        Differentiable in H and b to any order, whatever the solver is.
        """
        project = self.modes.project
        frozen, modes, factors = jax.lax.stop_gradient((self.hessian, self.modes, self.factors))
        unit = unit_of(frozen)

        def multiply(u: Displacements) -> Displacements:
            stiff = project(u)
            return project(self.hessian.product(stiff)) + unit * (u - stiff)

        def inverse(_: Any, b: Displacements) -> Displacements:
            stiff = modes.project(b)  # in derivatives b has a part along the zero modes
            return solve(self.solver, factors, frozen, modes, unit, stiff) + (b - stiff) / unit

        return project(jax.lax.custom_linear_solve(multiply, project(b), inverse, symmetric=True))

    def strain_stiffness(self) -> tuple[Float[Array, "m m"], Float[Array, "m m"]]:
        """∂²E/∂ε² for the basis of symmetric strains: with the particles relaxing, and following affinely.

        **Reference:** Lutsko, J. Appl. Phys. 65, 2991 (1989).
        """
        affine, coupling = self.backbone.strain_derivatives()
        relaxing = jax.vmap(self.solve, -1, -1)(coupling)
        relaxed = affine - jnp.einsum("ndk,ndm->km", coupling, relaxing)
        return 0.5 * (relaxed + relaxed.T), affine

    @property
    def is_dense(self) -> bool:
        """Whether the factors are eigenvalues and eigenvectors."""
        return isinstance(self.solver, PseudoInverse)

    def eigenvalues(self) -> Float[Array, " k"]:
        """The eigenvalues of P H P, ascending."""
        if self.is_dense:
            return self.factors[0]
        return jnp.linalg.eigvalsh(self.modes.project_matrix(self.hessian))

    def eigenvectors(self) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
        """The eigenvalues of P H P, ascending, and its eigenvectors in columns; differentiable."""
        return jnp.linalg.eigh(self.modes.project_matrix(self.hessian))

    def status(self, one_sided: bool = False) -> Int[Array, ""]:
        """Whether the response is defined, as a `Status`; `one_sided`: contacts that just touch count as found."""
        found = self.contacts
        reasons = [
            (self.modes.weakly_held, Status.WEAKLY_HELD),
            (~found.resolved, Status.UNRESOLVED),
            (~found.rigid, Status.NOT_RIGID),
            (~(found.differentiable | one_sided), Status.INDETERMINATE),
        ]
        code = jnp.asarray(int(Status.OK), jnp.int32)
        for refused, reason in reversed(reasons):
            code = jnp.where(refused, int(reason), code)
        return code

    def check(self, one_sided: bool = False, rigid: bool = True) -> None:
        """**Raises**, on the host, where there is no response; `rigid`: also where no contacts constrain anything."""
        if not is_concrete(self.contacts):
            return
        status = status_on_host(self, one_sided)
        if status is not Status.OK and (status is not Status.NOT_RIGID or rigid):
            raise status.raised(**facts_of(self))
        if self.is_dense and is_concrete(self.factors) and has_uncertain(np.asarray(self.factors[0])):
            raise Status.SOLVE_FAILED.raised(what="a response of this equilibrium")


@compile_once
def linearize(
    configuration: Configuration,
    solver: lx.AbstractLinearSolver,
    curvature_bound: Float[Array, ""] | None = None,
) -> Linearization:
    """The linearization of a configuration at rest, by one compiled program.

    **Arguments:**

    - `curvature_bound` (energy per length²): the lowest curvature there, or a bound for it; computed if None, by
      eigenvalues where the solver is dense, else by Lanczos' method.
    """
    configuration = jax.lax.stop_gradient(configuration)
    here = configuration.evaluated()
    contacts = analyze_contacts(here)
    backbone = here.without(contacts.rattlers)
    hessian = backbone.hessian()
    modes = known_zero_modes(backbone, contacts.rattlers, hessian)
    factors, evidence = factorize(solver, hessian, modes), _evidence(here, contacts, modes)
    if curvature_bound is None:
        noise = evidence.noise + evidence.rounding
        if isinstance(solver, PseudoInverse):
            without_curvature, shape = evidence.zero_modes + evidence.fixed, configuration.system.positions.shape
            curvature = curvature_from_eigenvectors(factors[0], factors[1], without_curvature, noise, shape)
        else:
            curvature = lanczos(hessian, modes, noise)
    else:
        nothing, no = jnp.zeros_like(configuration.system.positions), jnp.asarray(False)
        curvature = Curvature(curvature_bound, curvature_bound, nothing, no)
    contacts = with_indeterminate(contacts, here, curvature.lowest)
    if configuration.potential.has_terms:  # not so two atoms that are a hundred ranges apart
        held = jnp.max(jnp.abs(hessian.site_stiffness())) > evidence.noise + evidence.rounding
        contacts = dataclasses.replace(contacts, constrained=contacts.constrained & held)
    else:
        rigid = jnp.where(contacts.rigid, modes.rigid, 0.0)
        modes = dataclasses.replace(modes, rattlers=contacts.rattlers, rigid=rigid)
    forces = -here.whole_gradient()
    return Linearization(configuration, forces, contacts, modes, hessian, curvature, evidence, solver, factors)


R = TypeVar("R")


def by_attempts(
    function: Callable[[Linearization], R], attempts: Sequence[Linearization]
) -> tuple[R, Sequence[Linearization]]:
    """What a function gives for the first of `Linearization.attempts` without a NaN, for the last of traced ones or if
    there is none; and the attempts from this one on, for the next call.
    """
    if not is_concrete(attempts):
        attempts = attempts[-1:]
    found = function(attempts[0])
    if is_concrete(found):
        jax.block_until_ready(found)  # where CHOLMOD raises, so that the caller can explain it
    if len(attempts) == 1 or not _has_nan(found):
        return found, attempts
    return by_attempts(function, attempts[1:])


def _has_nan(tree: Any) -> bool:
    return any(np.isnan(np.asarray(leaf)).any() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


class NewtonStep(eqx.Module):
    """The step to the true minimum from where the residual forces have left the particles, and how well it is known.

    - `step` [n, d]; `distance`, of the particle that moves most; `relative_length`, that over a typical length.
    - `max_force`: the largest force component before the step.
    - `solve_residual` and `null_part`: of the linear solve, and of the forces along the zero modes, relative to the
      forces.
    """

    step: Displacements
    distance: Float[Array, ""]
    relative_length: Float[Array, ""]
    max_force: Float[Array, ""]
    solve_residual: Float[Array, ""]
    null_part: Float[Array, ""]


@compile_once
def newton_step(linearization: Linearization) -> NewtonStep:
    """One Newton step of a linearization."""
    configuration, modes = linearization.configuration, linearization.modes
    slope = -configuration.system.relaxing(linearization.forces)
    step = linearization.solve(-slope)
    size = jnp.linalg.norm(slope)
    scale = jnp.where(size > 0.0, size, 1.0)
    distance = largest_length(step)
    return NewtonStep(
        step=step,
        distance=distance,
        relative_length=distance / configuration.length,
        max_force=largest(jnp.abs(slope)),
        solve_residual=jnp.linalg.norm(modes.project(linearization.hessian.product(step) + slope)) / scale,
        null_part=jnp.linalg.norm(slope - modes.project(slope)) / scale,
    )


def _evidence(configuration: Configuration, contacts: ContactAnalysis, modes: ZeroModes) -> Evidence:
    max_force, size = jnp.max(jnp.abs(configuration.gradient())), configuration.length
    noise, rounding = curvature_uncertainty(max_force, size, configuration.stiffness)
    counts = modes.translations, modes.rotations, modes.count, modes.fixed, contacts.contact_number
    return Evidence(*counts, noise, rounding)


def status_on_host(linearization: Linearization, one_sided: bool = False) -> Status:
    """`Linearization.status` of concrete arrays, without compiling anything."""
    contacts = linearization.contacts
    if np.asarray(linearization.modes.weakly_held).any():
        return Status.WEAKLY_HELD
    if np.asarray(contacts.unresolved).any():
        return Status.UNRESOLVED
    if not np.asarray(contacts.constrained).any():
        return Status.NOT_RIGID
    if not one_sided and (np.asarray(contacts.indeterminate).any() or np.asarray(contacts.at_jump).any()):
        return Status.INDETERMINATE
    return Status.OK


def facts_of(linearization: Linearization) -> dict[str, str]:
    """The particles and pairs that messages about a refused response name."""
    contacts, neighbors = linearization.contacts, linearization.configuration.neighbors
    unresolved, n = np.flatnonzero(contacts.unresolved), linearization.configuration.system.n
    particles = f"{len(unresolved)} of {n} particles, such as {unresolved[0]}" if len(unresolved) else ""
    pairs = np.flatnonzero(contacts.indeterminate)
    touching = ""
    if len(pairs):
        i, j = (int(np.asarray(end)[pairs[0]]) for end in (neighbors.i, neighbors.j))
        touching = f"particles {i} and {j}" + (f" and {len(pairs) - 1} other pairs" if len(pairs) > 1 else "")
    elif len(at_jump := np.flatnonzero(contacts.at_jump)):
        touching = f"particle {at_jump[0]} and a wall, or another term that sets in there,"
    rattlers = int(np.sum(np.asarray(contacts.rattlers)))
    return {"particles": particles, "pairs": touching, "state": f" ({rattlers} of {n} are rattlers)"}
