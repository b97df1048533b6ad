"""Every threshold of the analysis of equilibria: what it compares, and why it has this value.

A minimizer stops with net forces of the size of its tolerance. Whatever is smaller than these residual forces, or than
rounding, cannot be distinguished from zero; the thresholds below say by how much a quantity must exceed them to count.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

CONTACT_FORCE_ABOVE_RESIDUAL = 30.0
"""A contact counts where its force exceeds the residual force by this factor. A minimizer leaves a rattler in touch
with its cage by forces of the size of the residual; those of the backbone are far larger at any sensible tolerance.
"""

CERTAIN_FORCE_ABOVE_RESIDUAL = 300.0
"""A particle with a contact force above the residual by this factor is no rattler, however few contacts it has (as at a
saddle)."""

DEEP_OVERLAP = 1e-3
"""An overlap, as a fraction of the contact distance, that no rattler has: residual forces that hide it are too large.
"""

SHALLOW_OVERLAP = 1e-5
"""A particle that overlaps by this fraction of the contact distance with d + 1 others may be constrained by them."""

INDETERMINATE_GAP = 10.0
"""A contact is indeterminate where its gap is below this multiple of residual force / stiffness: the last steps of a
minimizer move particles by about that much."""

STIFFNESS_JUMP = 0.01
"""A second derivative at the cutoff below this fraction of the typical stiffness is no jump: the response is continuous
there to better than the residual forces are."""

CURVATURE_PER_FORCE = 10.0
"""Residual forces change curvatures by about force / diameter; a negative curvature counts beyond this multiple."""

CURVATURE_ROUNDING = 1e3
"""Rounding changes curvatures by this multiple of machine precision times the typical stiffness."""

ZERO_EIGENVALUE_EXPONENT = 0.6
"""An eigenvalue below machine precision to this power, relative to the largest, is zero: 4e-10 in double precision,
above the error of symmetric eigensolvers (a few hundred times machine precision) and below the softest modes of
packings.
"""

UNCERTAIN_EIGENVALUE = 0.02
"""An eigenvalue between this fraction of the cut and the cut itself may be zero as well as soft: no solve is trusted.
"""

RIGID_RESISTANCE = 10.0
"""A rigid motion is a zero mode where the change of force along it, relative to that along a random motion, is below
this multiple of machine precision: because the energy has that symmetry, not because it resists little. A trap of 1e-12
of the typical stiffness is none.
"""

WEAK_RESISTANCE = 1e-8
"""A rigid motion that the energy resists, but by less than this fraction of the resistance to a random motion, can be
told neither from a symmetry nor from a soft mode by a linear solver: `ZERO_EIGENVALUE_EXPONENT` and a margin. In single
precision the fraction is the square root of the machine's precision.
"""

INDEPENDENT_MOTION = 1e-6
"""A rigid motion is dependent on others where less than this fraction of its square length is left after projection."""

NEGLIGIBLE_ON_FIXED = 1e3
"""What is left of a rigid motion at fixed degrees of freedom is rounding below this multiple of machine precision."""

PROBED_PATH = 1e-4
"""The length of the path, relative to a typical distance, along which forces are compared with the energy: long enough
that rounding hides no disagreement above 1e-5 of the forces, short enough that few contacts open on the way. In single
precision the fourth root of the machine's precision.
"""

EXPLAINED_BY_KINKS = 3.0
"""A quadrature over a path on which contacts open or close is off by less than this multiple of the largest third
difference of its values: by up to 0.34 for one contact, by more than 3 in 5 of 10 000 cases for many."""

PROBES = 2
"""Paths on all of which two parts of a potential have to disagree, so that chance accuses none."""

JUMP_AT_REST = 2e-6
"""A Hessian product jumps where its components differ from side to side by more than this fraction of their typical
size: far above rounding, and small enough to find jumps of 1e-5 of the stiffness, along whatever direction.
"""

SAME_JUMP_FARTHER = 0.5
"""What is found at a distance is a jump where ten times as far away there is less than twice as much. Smooth Hessians
give ten times as much there, and those that set in as a square root, as of Hertzian contacts, three times as much.
"""

ROUNDING_OF_SUMS = 100.0
"""A sum over particles is off by rounding by less than this multiple of machine precision."""

NEAR_CONTACT_GAP = 0.05
"""Pairs up to this fraction of their cutoff apart are kept with an equilibrium, as the neighbors in contact or
nearly.
"""


def zero_eigenvalue(eigenvalues: Float[Array, " k"]) -> Float[Array, ""]:
    """The magnitude up to which an eigenvalue counts as zero."""
    return jnp.finfo(eigenvalues.dtype).eps ** ZERO_EIGENVALUE_EXPONENT * jnp.max(jnp.abs(eigenvalues))


def curvature_uncertainty(
    max_force: Float[Array, ""], length: Float[Array, ""], stiffness: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """By how much a curvature may be off: due to the residual forces, and due to rounding; energy per length²."""
    rounding = CURVATURE_ROUNDING * jnp.finfo(max_force.dtype).eps * stiffness
    return CURVATURE_PER_FORCE * max_force / length, rounding
