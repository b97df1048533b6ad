"""Elasticity of an equilibrium: the elastic tensor, affine and relaxed, and the moduli of an isotropic solid."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import InvalidInput, Status
from ..geometry import symmetric_strains
from ..linear_solvers.cholesky import explain_missing_factors
from ..linearization import Linearization, by_attempts
from ..relaxation.cell import strain_stiffness
from ..relaxation.equilibrium import Equilibrium
from ..relaxation.rule import Rule
from ..runtime.compiled import compile_once
from ..runtime.tracing import is_concrete
from .state import pressure, stress

Tensor = Float[Array, "d d d d"]


def elastic_tensor(equilibrium: Equilibrium) -> Tensor:
    """C = (1/V) d²E/dε² of the relaxed system [d, d, d, d], energy per volume.

    ε is symmetric and deforms the cell by 1 + ε: E(ε)/V = E/V + σ_ab ε_ab + ½ C_abcd ε_ab ε_cd + …, the
    convention of jax-md's `elasticity`. The particles follow affinely and then relax (Lutsko, J. Appl. Phys.
    65, 2991 (1989)): C = (1/V)[∂²E/∂ε² - Ξ·H⁺Ξ], Ξ = ∂²E/∂x∂ε. Without forces between the particles C is zero.

    **Raises** `InvalidInput` with boundaries that are open along some direction; `NotConverged`, `NotAMinimum`;
    `NotDifferentiable` where a contact is about to open or close, since C jumps there; `SolveFailed`.
    """
    return _tensors(equilibrium)[0]


def affine_elastic_tensor(equilibrium: Equilibrium) -> Tensor:
    """The part of `elastic_tensor` [d, d, d, d] before the particles relax, the Born term (1/V) ∂²E/∂ε²."""
    return _tensors(equilibrium)[1]


def bulk_modulus(equilibrium: Equilibrium) -> Float[Array, ""]:
    """K = -V dp/dV at fixed shape of the cell, energy per volume.

    K = [C_aabb + d(d-1) p]/d²: a packing under pressure p is stiffer than C alone says (Wallace, Solid State
    Physics 25, 301 (1970)).
    """
    tensor = elastic_tensor(equilibrium)
    return _bulk_modulus(tensor, pressure(equilibrium))


def shear_modulus(equilibrium: Equilibrium, plane: tuple[int, int] | None = None) -> Float[Array, ""]:
    """G, the change of shear stress with a shear γ at fixed volume, energy per volume.

    Averaged over all orientations, or for shear along the axes of one `plane`, such as (0, 1) for xy:
    G = C_xyxy + (σ_xx + σ_yy)/4 (Wallace 1970). Negative where a small packing, a minimum in its cell, would shear
    if the cell were free to (Dagois-Bohy et al., Phys. Rev. Lett. 109, 095703 (2012)): relax at constant pressure with
    `cell="full"` then.

    **Raises** `InvalidInput` for a plane that does not exist, and what `elastic_tensor` raises.
    """
    d = equilibrium.system.dim
    if plane is None:
        return _shear_modulus(elastic_tensor(equilibrium), pressure(equilibrium))
    a, b = plane
    if a == b or not {a, b} <= set(range(d)):
        raise InvalidInput(f"a plane is two different axes out of {', '.join(map(str, range(d)))}, not {plane}")
    tension = stress(equilibrium)
    return elastic_tensor(equilibrium)[a, b, a, b] + 0.25 * (tension[a, a] + tension[b, b])


def poisson_ratio(equilibrium: Equilibrium) -> Float[Array, ""]:
    """ν = (dK - 2G)/(d(d-1)K + 2G) from the moduli averaged over orientations; in 2D (K - G)/(K + G).

    Of the stress-strain moduli K and G. That of the elastic tensor alone, which leaves the pressure out, is
    `isotropic_moduli(equilibrium)["poisson_ratio_without_pressure"]`.
    """
    return isotropic_moduli(equilibrium)["poisson_ratio"]


def isotropic_moduli(
    equilibrium: Equilibrium, linearization: Linearization | None = None
) -> dict[str, Float[Array, ""]]:
    """`bulk_modulus`, `shear_modulus`, `young_modulus` and `poisson_ratio`, averaged over orientations.

    These are what an experiment measures under pressure, stress over strain. The same names with `_without_pressure`
    are those of `elastic_tensor` alone, as jax-md's `extract_isotropic_moduli` has them. Without pressure they agree.

    **Arguments:**

    - `linearization`: that of the equilibrium, where it is known already.
    """
    tensor, p = _tensors(equilibrium, linearization)[0], pressure(equilibrium)
    return _with_and_without_pressure(tensor, p)


def affine_moduli(equilibrium: Equilibrium) -> dict[str, Float[Array, ""]]:
    """The same moduli before the particles relax: of `affine_elastic_tensor`, under the same pressure."""
    return _moduli_of(_tensors(equilibrium)[1], pressure(equilibrium))


@compile_once
def _with_and_without_pressure(tensor: Tensor, p: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
    alone = _moduli_of(tensor, jnp.zeros_like(p))
    return _moduli_of(tensor, p) | {f"{name}_without_pressure": value for name, value in alone.items()}


@compile_once
def _moduli_of(tensor: Tensor, p: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
    """Where no contacts constrain the particles they are zero, and Poisson's ratio and Young's modulus are NaN."""
    d = tensor.shape[0]
    p = jnp.where(jnp.any(tensor != 0.0), p, 0.0)
    bulk, shear = _bulk_modulus(tensor, p), _shear_modulus(tensor, p)
    stiff = d * (d - 1) * bulk + 2.0 * shear
    return {
        "bulk_modulus": bulk,
        "shear_modulus": shear,
        "young_modulus": 2.0 * d * d * bulk * shear / stiff,
        "poisson_ratio": (d * bulk - 2.0 * shear) / stiff,
    }


def _bulk_modulus(tensor: Tensor, p: Float[Array, ""]) -> Float[Array, ""]:
    d = tensor.shape[0]
    return (jnp.einsum("aabb->", tensor) + d * (d - 1) * p) / d**2


def _shear_modulus(tensor: Tensor, p: Float[Array, ""]) -> Float[Array, ""]:
    """The average of C over traceless strains, less half the pressure."""
    d = tensor.shape[0]
    return (jnp.einsum("abab->", tensor) - jnp.einsum("aabb->", tensor) / d) / ((d - 1) * (d + 2)) - 0.5 * p


def _tensors(equilibrium: Equilibrium, linearization: Linearization | None = None) -> tuple[Tensor, Tensor]:
    equilibrium.check_concrete()
    rule = equilibrium.rule
    equilibrium.system.require_cell("elastic moduli: it has no volume")
    equilibrium.potential.check_strain("stress and no elastic modulus")
    linearization = equilibrium.linearization if linearization is None else linearization
    if rule.refuse:
        linearization.check(rule.one_sided, rigid=False)
    with explain_missing_factors():
        found, _ = by_attempts(functools.partial(_elastic_tensors, rule), linearization.attempts())
    if rule.refuse and is_concrete(found) and not np.isfinite(found[0]).all():
        raise Status.SOLVE_FAILED.raised(what="the elastic moduli")
    return found


@compile_once
def _elastic_tensors(rule: Rule, linearization: Linearization) -> tuple[Tensor, Tensor]:
    """The relaxed tensor and the affine one."""
    system = linearization.configuration.system
    place = symmetric_strains(system.dim)[1]
    relaxed, affine = strain_stiffness(linearization, rule)
    total, born = ((k / system.volume)[place[:, :, None, None], place] for k in (relaxed, affine))
    return total, born
