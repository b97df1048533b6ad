"""Everything that mdsens refuses: one exception class, one status and one message for each reason."""

from __future__ import annotations

import enum
from typing import Any


class MdsensError(Exception):
    """The base of every error that mdsens raises on purpose. `status` says why a result is refused, if that has one."""

    status: Status | None = None


class InvalidInput(MdsensError, ValueError):
    """The system, the file or an option makes no sense as given."""


class NotConverged(MdsensError, RuntimeError):
    """The minimizer stopped before the forces fell below the tolerance."""


class NotAMinimum(MdsensError, RuntimeError):
    """The forces vanish where the energy curves down: a saddle."""


class NotRigid(MdsensError, RuntimeError):
    """No contacts constrain the particles, as below jamming: their positions have no defined response."""


class NotDifferentiable(MdsensError, RuntimeError):
    """Two particles are within rounding of touching: the response from one side is not that from the other."""


class NeighborOverflow(MdsensError, RuntimeError):
    """More pairs than a neighbor list of fixed capacity can hold."""


class SolveFailed(MdsensError, RuntimeError):
    """The linear solve behind a derivative left a residual too large to trust."""


class Status(enum.IntEnum):
    """Why a result is refused, or OK.

    The host raises `status.raised(**facts)`; `jit` and `vmap` carry the integer, with NaN for the numbers; studies
    write it in a column; commands print `status.describe(**facts)`.
    """

    OK = 0
    NOT_CONVERGED = 1
    NOT_FINITE = 2
    NOT_A_MINIMUM = 3
    PRESSURE_NOT_REACHED = 4
    CELL_UNSTABLE = 5
    UNRESOLVED = 6
    NOT_RIGID = 7
    INDETERMINATE = 8
    NO_FACTORS = 9
    SOLVE_FAILED = 10
    NEIGHBOR_OVERFLOW = 11
    WEAKLY_HELD = 12
    CURVATURE_NOT_FINITE = 13
    UNBALANCED = 14
    CONDITION_NOT_MET = 15
    NOT_AT_REST = 16
    INCONSISTENT = 17
    SINGLE_PRECISION = 18
    DERIVATIVE_NOT_FINITE = 19
    CELL_UNBOUNDED = 20
    JUMPS_AT_REST = 21
    JUMPS_AT_CUTOFF = 22
    REACH_TOO_SHORT = 23
    IMAGES_MISSED = 24
    TOLERANCE_TOO_LARGE = 25
    TOLERANCE_BELOW_ROUNDING = 26
    FILE_NOT_READ = 27

    @property
    def error(self) -> type[MdsensError]:
        """The exception that is raised on the host."""
        return _TABLE[self][0]

    def describe(self, **facts: Any) -> str:
        """The reason in a sentence, and what to do next. Facts that are not given are left out."""
        return _TABLE[self][1].format_map(_Facts(facts))

    def raised(self, **facts: Any) -> MdsensError:
        """The exception to raise, with its message, and with this as its `status`."""
        error = self.error(self.describe(**facts))
        error.status = self
        return error


class _Facts(dict):
    def __missing__(self, name: str) -> _Unknown:
        return _Unknown()


class _Unknown:
    """A fact that is not given: nothing, in every format."""

    def __format__(self, how: str) -> str:
        return ""


_CURES_OF_SOLVES = (
    "it did not converge, or there are modes so soft that they may be floppy. Use the dense solver "
    "(linear_solvers.dense(), --linear-solver dense), and relax to a smaller tolerance; for a condition of your own, "
    "pass its null space (implicit.root(…, null_space=…))"
)

_TABLE: dict[Status, tuple[type[MdsensError], str]] = {
    Status.OK: (MdsensError, "no reason to refuse it"),
    Status.NOT_CONVERGED: (
        NotConverged,
        "the largest force component is {max_force:.3g} after {steps} steps{of_minimizer}, not below the tolerance "
        "{tolerance:.3g}{more}; allow more steps (max_steps, --max-steps), shorter ones where forces do not fall "
        "(FIRE(dt_max=0.2)), or a larger tolerance; in Python, throw=False returns the unfinished result",
    ),
    Status.NOT_FINITE: (
        NotConverged,
        "the energy or the forces are not finite after {steps} steps{of_minimizer}; the steps are too long for this "
        "potential (dt_max, step_size), or its energy or its derivative is not finite somewhere",
    ),
    Status.NOT_A_MINIMUM: (
        NotAMinimum,
        "the forces vanish at a saddle{met}: along one direction the curvature is {curvature:.3g}; move some "
        "particles off their symmetric places, or ask for a smaller tolerance; in Python, throw=False returns the "
        "saddle",
    ),
    Status.PRESSURE_NOT_REACHED: (
        NotConverged,
        "the stress is still {error:.3g} off the pressure {pressure:.6g} after {rounds} strains of the cell, not "
        "within {allowed:.3g}: start from a cell closer to it, or ask for a larger tolerance",
    ),
    Status.CELL_UNSTABLE: (
        NotAMinimum,
        "the cell gives way: E + pV curves down along a strain of it ({curvature:.3g}), so there is no minimum at this "
        "pressure close by; relax at fixed shape (cell='isotropic'), or at another pressure",
    ),
    Status.CELL_UNBOUNDED: (
        NotAMinimum,
        "the cell {grows} without end at the pressure {pressure:.6g}: after {rounds} strains it has {ratio:.3g} times "
        "its volume at the start, {bears}: there is no minimum of E + pV, or none close by; ask for another pressure, "
        "or start from a denser system",
    ),
    Status.UNRESOLVED: (
        NotDifferentiable,
        "the residual forces hide which contacts constrain {particles}: these overlap, and bear hardly more than the "
        "residual forces, or less. Relax to a smaller tolerance (tolerance, --tolerance)",
    ),
    Status.NOT_RIGID: (
        NotRigid,
        "no contacts constrain the particles{state}: their positions have no defined response to a parameter. Compress "
        "the packing (packing_fraction), or ask for the energy alone; a packing so close to jamming that its forces "
        "are no larger than the tolerance needs a smaller one (tolerance, --tolerance)",
    ),
    Status.INDETERMINATE: (
        NotDifferentiable,
        "{pairs} touch to within the residual forces, and the stiffness jumps there: the response differs from side to "
        "side. Relax to a smaller tolerance, or ask for one side: mdsens.sensitivity(…, side=+1), "
        "Relaxation(one_sided=True), --one-sided",
    ),
    Status.JUMPS_AT_REST: (
        NotDifferentiable,
        "the stiffness of {potential} jumps where particle {particle} rests, by {jump:.1g} of a typical one: responses "
        "differ from side to side. Write an energy that is twice differentiable there. Where positions alone are asked "
        "for, or one side, pass Relaxation(one_sided=True), --one-sided; throw=False returns everything as it is",
    ),
    Status.NO_FACTORS: (
        SolveFailed,
        "the Hessian has no Cholesky factors, since it is not positive: this is a saddle, or no point at rest. Use "
        "another solver (linear_solvers.minres(), --linear-solver minres)",
    ),
    Status.SOLVE_FAILED: (SolveFailed, "the linear solve for {what} cannot be trusted: " + _CURES_OF_SOLVES),
    Status.DERIVATIVE_NOT_FINITE: (
        SolveFailed,
        "the derivative{by} is not finite: either the energy has no finite derivative by it here (a power whose base "
        "may be zero or negative has none by its exponent), and then differentiate by other parameters, or the linear "
        "solve cannot be trusted. Then use the dense solver (linear_solvers.dense(), --linear-solver dense), and relax "
        "to a smaller tolerance",
    ),
    Status.UNBALANCED: (
        NotConverged,
        "a net force of {force:.3g} on each particle pulls all of them the same way, {steps} steps on as before, and "
        "nothing balances it: there is no point at rest. Take the net force out of the potential, or add what holds "
        "the particles",
    ),
    Status.NOT_AT_REST: (
        NotConverged,
        "the particles are not at rest where they are given: the largest force component is {max_force:.3g}, not below "
        "the tolerance {tolerance:.3g}; relax them (mdsens.Relaxation, mdsens relax), or pass the tolerance that they "
        "were relaxed to (tolerance, --tolerance); in Python, throw=False returns them as they are",
    ),
    Status.INCONSISTENT: (
        InvalidInput,
        "the {derivative} of {potential} are not the derivatives of its {of}: along a short random path they differ by "
        "{error:.1g} of the change. Is there a derivative of its own (jax.custom_jvp, custom_vjp), a stop_gradient, or "
        "a table that is not smooth in it? Responses would be wrong",
    ),
    Status.SINGLE_PRECISION: (
        InvalidInput,
        "the energy of {potential} contains {what} in single precision, while the positions are in double: second "
        "derivatives of it may be noise. Make it in double precision (the splines of jax_md.interpolate have knots in "
        "single precision: give the function itself, or a spline of your own in jnp.float64)",
    ),
    Status.JUMPS_AT_CUTOFF: (
        InvalidInput,
        "the energy or the force of a pair of {potential} jumps at its cutoff: no particles come to rest there, and "
        "derivatives would be wrong. Multiply pair_energy by mdsens.potentials.smooth_switch(r, onset, cutoff), or "
        "move the cutoff to where both have vanished",
    ),
    Status.REACH_TOO_SHORT: (
        InvalidInput,
        "{potential} says that nothing interacts beyond {reach:.4g} (reach), and with pairs up to {factor:g} times "
        "as far its energy is {far:.6g} instead of {near:.6g}: let reach return the distance at which its energy ends, "
        "or end it there",
    ),
    Status.IMAGES_MISSED: (
        InvalidInput,
        "two particles still interact at {distance:.4g}, half of the cell's smallest height, and jax-md's energies "
        "meet only the nearest image of each particle: repeat the cell (system.repeat(2)), give the energy a cutoff, "
        "or, if it names its pairs as bonds do, say how long these are (range=…)",
    ),
    Status.TOLERANCE_TOO_LARGE: (
        InvalidInput,
        "the tolerance {tolerance:.3g} is no small force here: stiffness times length is {force_scale:.3g} in the "
        "units of this potential. Leave the tolerance out, or give one far below that",
    ),
    Status.TOLERANCE_BELOW_ROUNDING: (
        InvalidInput,
        "the tolerance {tolerance:.3g} cannot be reached in {dtype}: rounding the positions alone changes the forces "
        "by {floor:.1g}; {cure}",
    ),
    Status.FILE_NOT_READ: (InvalidInput, "{path} cannot be read: {reason}"),
    Status.CONDITION_NOT_MET: (
        NotConverged,
        "the largest component of the condition at what the solver has found is {value:.3g}, not below the tolerance "
        "{tolerance:.3g}: solve more exactly, or allow more (implicit.root(…, tolerance=…))",
    ),
    Status.CURVATURE_NOT_FINITE: (
        NotAMinimum,
        "the forces vanish where the second derivative of the energy is not finite, so that this is neither a minimum "
        "nor a saddle: check the potential there (a square root of zero, a power of a negative number?)",
    ),
    Status.WEAKLY_HELD: (
        NotRigid,
        "the energy resists a rigid motion of all particles, or of a cluster of them, but so weakly (less than 1e-8 of "
        "the typical stiffness) that no linear solver finds how much: their positions have no response that can be "
        "trusted. Make the trap or wall stiffer, or leave it out, so that the motion is a symmetry",
    ),
    Status.NEIGHBOR_OVERFLOW: (
        NeighborOverflow,
        "the neighbor list still overflows with {finder}; the particles are packed far denser than the cutoff allows "
        "for: check the diameters and the box",
    ),
}
