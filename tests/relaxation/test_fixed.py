"""Fixed degrees of freedom: minima, responses, zero modes and reactions, against NumPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from mdsens.response.nearby import network
from reference import SoftSpheres
from samples import RELAX, jammed, relative

SPHERES = mdsens.SoftSphere()


def partly_fixed(seed=0, n=32, dim=2, packing_fraction=0.98, share=0.2, by_component=False):
    """A packing with some particles, or components, fixed near their places at rest, relaxed again."""
    rng, system = np.random.default_rng(seed), jammed(seed, n, dim, packing_fraction).system
    fixed = rng.random(system.positions.shape if by_component else n) < share
    fixed.flat[rng.integers(fixed.size)] = True
    moved = system.positions + 0.02 * rng.normal(size=system.positions.shape)
    system = system.replace(positions=moved, fixed=fixed)
    return system, RELAX(SPHERES, system)


def reduced_responses(rest):
    """∂x*/∂D [n d, n] and ∂x*/∂(fixed positions) [n d, n d] by the pseudo-inverse of the movable block, in NumPy."""
    system, rattlers = rest.system, np.zeros(rest.system.n, bool)
    rattlers[list(rest.certificate.rattlers)] = True
    reference = SoftSpheres(system.positions, system.box, system.diameters, keep=~rattlers)
    movable = np.asarray(system.movable).ravel()
    free, fixed = np.flatnonzero(movable & ~np.repeat(rattlers, system.dim)), np.flatnonzero(~movable)
    hessian, push = reference.hessian(), reference.gradient_by_diameter()
    inverse = np.linalg.pinv(hessian[np.ix_(free, free)], rcond=1e-9, hermitian=True)
    to_diameters, to_positions = np.zeros_like(push), np.zeros_like(hessian)
    to_diameters[free] = -inverse @ push[free]
    to_positions[np.ix_(free, fixed)] = -inverse @ hessian[np.ix_(free, fixed)]
    to_positions[fixed, fixed] = 1.0
    return to_diameters, to_positions


def jacobians(system, relax=RELAX):
    size = system.positions.size
    by_diameter = jax.jacfwd(lambda D: relax(SPHERES, system.replace(diameters=D)).positions)(system.diameters)
    by_position = jax.jacfwd(lambda x: relax(SPHERES, system.replace(positions=x)).positions)(system.positions)
    return by_diameter.reshape(size, -1), by_position.reshape(size, size)


CASES = [
    (seed, dim, packing_fraction, share, by_component)
    for seed, (dim, packing_fraction) in enumerate(
        [(2, 0.86), (2, 0.9), (2, 0.98), (2, 1.1), (3, 0.7), (3, 0.75), (3, 0.8), (3, 0.9), (2, 0.84), (2, 1.05)]
    )
    for share, by_component in [(0.01, False), (0.1, False), (0.5, False), (0.3, True)]
]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "dim", "packing_fraction", "share", "by_component"), CASES)
def test_jacobians_are_those_of_the_reduced_pseudo_inverse(seed, dim, packing_fraction, share, by_component):
    system, rest = partly_fixed(seed, 32, dim, packing_fraction, share, by_component)
    fixed = ~np.asarray(system.movable)
    np.testing.assert_array_equal(np.asarray(rest.positions)[fixed], np.asarray(system.positions)[fixed])
    if not np.asarray(rest.linearization.contacts.constrained).any():
        with pytest.raises(mdsens.NotRigid):
            jacobians(system)
        return
    for found, expected in zip(jacobians(system), reduced_responses(rest), strict=True):
        assert np.abs(found - expected).max() < 1e-8 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("solver", ["dense", "minres", "cholesky", "cg"])
def test_every_solver_finds_the_response_of_what_is_not_fixed(solver):
    system, rest = partly_fixed(3, 128, share=0.15)
    relax = mdsens.Relaxation(tolerance=1e-12, linear_solver=getattr(linear_solvers, solver)())
    weights = jnp.asarray(np.random.default_rng(0).normal(size=rest.positions.shape)) + 1.0

    def loss(x):
        return jnp.sum(weights * relax(SPHERES, system.replace(positions=x)).positions)

    expected = np.asarray(weights).ravel() @ reduced_responses(rest)[1]
    assert relative(jax.grad(loss)(system.positions).ravel(), expected) < (1e-9 if solver == "dense" else 1e-6)


def test_the_energy_changes_with_fixed_positions_by_the_reactions():
    system, rest = partly_fixed(by_component=True)
    found = jax.grad(lambda x: RELAX(SPHERES, system.replace(positions=x)).energy)(system.positions)
    np.testing.assert_allclose(found, rest.reactions, atol=1e-11)
    assert not np.asarray(rest.reactions)[np.asarray(system.movable)].any()
    assert float(jnp.max(jnp.abs(rest.forces + rest.reactions))) <= 1e-12


def test_reactions_balance_each_other():
    _, rest = partly_fixed()
    assert float(jnp.max(jnp.abs(rest.reactions))) > 1e-3
    np.testing.assert_allclose(jnp.sum(rest.reactions, axis=0), 0.0, atol=1e-10)


def test_second_derivatives_agree_with_finite_differences():
    system, _ = partly_fixed(seed=1, packing_fraction=1.1)
    direction = jnp.where(system.movable, 0.0, jnp.cos(jnp.arange(64.0)).reshape(32, 2))
    relax = mdsens.Relaxation(tolerance=1e-13)

    def energy(s):
        return relax(SPHERES, system.replace(positions=system.positions + s * direction)).energy

    exact, step = jax.grad(jax.grad(energy))(0.0), 1e-5
    slopes = [jax.grad(energy)(k * step) for k in (-1, 1)]
    assert abs(float(exact) - float(slopes[1] - slopes[0]) / (2 * step)) < 1e-5 * abs(float(exact))


def test_jit_vmap_and_ensembles_give_the_same():
    system, rest = partly_fixed()
    at = lambda D: RELAX(SPHERES, system.replace(diameters=D)).positions  # noqa: E731
    direction = jnp.sin(jnp.arange(32.0))
    _, expected = jax.jvp(at, (system.diameters,), (direction,))
    _, compiled = jax.jit(lambda D, u: jax.jvp(at, (D,), (u,)))(system.diameters, direction)
    np.testing.assert_allclose(compiled, expected, atol=1e-9)
    together = mdsens.relax_ensemble(RELAX, SPHERES, [system, system])
    np.testing.assert_allclose(together[1].positions, rest.positions, atol=1e-9)
    assert together[0].certificate.fixed == rest.certificate.fixed


@pytest.mark.parametrize(("dim", "fixed", "expected"), [(2, 1, (0, 1)), (3, 1, (0, 3)), (3, 2, (0, 1)), (3, 3, (0, 0))])
def test_fixed_particles_pin_rigid_motions(dim, fixed, expected):
    """A cluster turns about what is fixed: about a point, or an axis."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, dim))
    system = mdsens.System(1.1 * x / np.linalg.norm(x, axis=1, keepdims=True) * np.arange(1, 8)[:, None] ** 0.4)
    potential, relax = mdsens.LennardJones(), mdsens.Relaxation(tolerance=1e-12)
    free = relax(potential, system)
    rest = relax(potential, free.system.replace(fixed=np.arange(7) < fixed))
    certificate = rest.certificate
    assert (certificate.translations, certificate.rotations) == expected
    assert certificate.floppy == 0
    assert certificate.fixed == dim * fixed
    response = jax.jacfwd(lambda e: relax(potential.with_parameter("sigma", e), rest.system).positions)
    moves = response(jnp.asarray(1.0)) if potential.sigma is not None else None
    assert moves is None or not np.asarray(moves)[:fixed].any()


def test_a_fixed_component_leaves_the_other_translation():
    system = jammed(0, 32).system
    fixed = np.zeros((32, 2), bool)
    fixed[5, 0] = True
    certificate = RELAX(SPHERES, system.replace(fixed=fixed)).certificate
    assert (certificate.translations, certificate.fixed, certificate.floppy) == (1, 1, 0)


def test_large_systems_with_newtons_end_and_factors_keep_what_is_fixed():
    system, rest = partly_fixed(0, 300, share=0.1)
    fixed = np.asarray(system.fixed)
    np.testing.assert_array_equal(np.asarray(rest.positions)[fixed], np.asarray(system.positions)[fixed])
    along = np.where(fixed[:, None], np.random.default_rng(1).normal(size=(300, 2)), 0.0)

    def at(s):
        return RELAX(SPHERES, system.replace(positions=system.positions + s * along)).positions

    _, found = jax.jvp(at, (0.0,), (1.0,))
    expected = reduced_responses(rest)[1] @ along.ravel()
    assert relative(found.ravel(), expected) < 1e-8


def test_moduli_are_those_of_a_cell_whose_fixed_particles_follow():
    _, rest = partly_fixed(2, packing_fraction=1.1)
    step, energies = 1e-4, []
    for k in (-1, 0, 1):
        gamma = np.eye(2) + k * step * np.array([[0.0, 0.5], [0.5, 0.0]])
        energies.append(float(RELAX(SPHERES, rest.system.deform(rest.system.box @ gamma)).energy))
    second = (energies[0] - 2 * energies[1] + energies[2]) / step**2 / float(rest.system.volume)
    assert abs(float(mdsens.properties.elastic_tensor(rest)[0, 1, 0, 1]) / second - 1.0) < 1e-4


def test_the_position_of_what_is_fixed_is_a_parameter_by_name():
    system, rest = partly_fixed()
    found = mdsens.sensitivity(rest, "positions")
    assert found.residual < 1e-9
    np.testing.assert_allclose(found.response.reshape(64, 64), reduced_responses(rest)[1], atol=1e-9)
    along = np.where(system.movable, 0.0, np.cos(np.arange(64.0)).reshape(32, 2))
    validity = mdsens.validity(rest, "positions", along)
    for share, same in ((0.9, True), (1.1, False)):
        moved = rest.system.replace(positions=rest.positions + share * validity.upper * along)
        assert (network(RELAX(SPHERES, moved)).contacts == network(rest).contacts) == same


def test_a_particle_in_a_cage_of_fixed_ones_is_a_rattler_unless_they_press_on_it():
    angles = np.array([0.1, 2.2, 4.3])
    cage = np.stack([np.cos(angles), np.sin(angles)], 1)
    fixed = [True] * 3 + [False]
    pressed = mdsens.System([*(0.9 * cage), [0.01, 0.02]], diameters=1.0, fixed=fixed)
    certificate = RELAX(SPHERES, pressed).certificate
    assert certificate.rattlers == ()
    assert certificate.contact_number == 3.0
    loose = pressed.replace(positions=[*(1.05 * cage), [0.01, 0.02]])
    rest = RELAX(SPHERES, loose)
    assert rest.certificate.rattlers == (3,)
    with pytest.raises(mdsens.NotRigid, match="1 of 4 are rattlers"):
        jax.jacfwd(lambda D: RELAX(SPHERES, loose.replace(diameters=D)).positions)(loose.diameters)


def test_bad_input_is_refused_in_a_sentence():
    system = jammed(0, 32).system
    with pytest.raises(mdsens.InvalidInput, match="every particle is fixed"):
        RELAX(SPHERES, system.replace(fixed=np.ones(32, bool)))
    with pytest.raises(mdsens.InvalidInput, match=r"fixed must be True or False for each particle, \[32\]"):
        system.replace(fixed=np.ones(31, bool))
    with pytest.raises(mdsens.InvalidInput, match="fixed must be True or False"):
        system.replace(fixed=[0, 1])
    with pytest.raises(mdsens.InvalidInput, match="at constant pressure none can be fixed"):
        mdsens.Relaxation(pressure=0.1)(SPHERES, system.replace(fixed=np.arange(32) < 3))


def test_fixed_particles_are_kept_by_every_copy_of_a_system():
    fixed = np.arange(8) < 3
    system = mdsens.random_packing(8).replace(fixed=fixed)
    np.testing.assert_array_equal(system.repeat(2).fixed, np.tile(fixed, 4))
    np.testing.assert_array_equal(system.in_order(np.arange(8)[::-1]).fixed, fixed[::-1])
    np.testing.assert_array_equal(system.deform(1.1 * system.box).fixed, fixed)
    by_component = system.replace(fixed=np.stack([fixed, ~fixed], 1)).repeat(2)
    assert by_component.fixed.shape == (32, 2)
