import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import jammed, reference_of, settled

SPHERES = mdsens.SoftSphere()


def test_an_equilibrium_is_at_rest_by_the_references_forces():
    rest = mdsens.Relaxation(tolerance=1e-10)(SPHERES, mdsens.random_packing(64))
    assert bool(rest.converged)
    by_hand = reference_of(rest)
    assert np.abs(by_hand.gradient()).max() == pytest.approx(float(rest.max_force), rel=1e-3)
    assert by_hand.energy() == pytest.approx(float(rest.energy), rel=1e-12)
    np.testing.assert_allclose(rest.forces, -by_hand.gradient(), atol=1e-14)


@pytest.mark.parametrize("cell", ["periodic", "triclinic", "open"])
@pytest.mark.parametrize(
    "potential", [mdsens.LennardJones(), mdsens.Morse(), mdsens.Yukawa()], ids=lambda p: type(p).__name__
)
def test_other_potentials_and_cells_come_to_rest(cell, potential):
    if cell == "open" and isinstance(potential, mdsens.Yukawa):
        pytest.skip("repelling particles fly apart without a cell")
    system = mdsens.random_packing(60, 3, packing_fraction=0.12, seed=2)
    if cell == "triclinic":
        system = system.deform(system.box @ jnp.array([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [0.0, 0.2, 1.0]]))
    if cell == "open":
        system = system.replace(box=None)
    rest = mdsens.Relaxation(tolerance=1e-8)(potential, system)
    assert bool(rest.converged)
    assert rest.certificate.minimum


def test_units_do_not_matter_to_the_minimizer():
    """Lengths times s and energies times e: the same steps, to rounding the same packing."""
    system = settled(seed=3, n=48)
    s, e = 8.0, 2.0**10
    large = mdsens.System(s * system.positions, s * system.box, s * system.diameters, system.species)
    one = mdsens.Relaxation(tolerance=1e-8)(SPHERES, system)
    other = mdsens.Relaxation(tolerance=1e-8 * e / s)(mdsens.SoftSphere(e), large)
    assert int(one.steps) == pytest.approx(int(other.steps), rel=0.2)
    assert float(other.energy) == pytest.approx(e * float(one.energy), rel=1e-6)


def test_giving_up_raises_and_the_unfinished_result_is_there_for_the_asking():
    system = mdsens.random_packing(32)
    with pytest.raises(mdsens.NotConverged, match="after 20 steps"):
        mdsens.Relaxation(max_steps=20)(SPHERES, system)
    unfinished = mdsens.Relaxation(max_steps=20, throw=False)(SPHERES, system)
    assert not bool(unfinished.converged) and np.isfinite(unfinished.positions).all()
    assert int(unfinished.steps) == 20


def test_inside_jit_and_vmap_an_unfinished_result_is_not_a_number_and_nor_is_its_derivative():
    system = mdsens.random_packing(32)
    relax = mdsens.Relaxation(max_steps=20)
    inside = jax.jit(relax)(SPHERES, system)
    assert not bool(inside.converged) and np.isnan(inside.energy) and np.isnan(inside.positions).all()
    for result in (lambda eq: eq.energy, lambda eq: eq.positions[0, 0]):

        def loss(D, result=result):
            return result(relax(SPHERES, system.replace(diameters=D)))

        assert np.isnan(jax.jit(jax.grad(loss))(system.diameters)).all()
        assert np.isnan(jax.jit(lambda D, loss=loss: jax.jvp(loss, (D,), (D,))[1])(system.diameters))


def test_one_failing_member_of_a_batch_spoils_no_other():
    system = settled()
    diameters = jnp.stack([system.diameters, system.diameters * jnp.nan, 1.001 * system.diameters])
    batch = jax.vmap(lambda D: mdsens.Relaxation()(SPHERES, system.replace(diameters=D)))(diameters)
    np.testing.assert_array_equal(batch.converged, [True, False, True])
    np.testing.assert_array_equal(np.isfinite(batch.positions).all(axis=(1, 2)), [True, False, True])
    alone = mdsens.Relaxation()(SPHERES, system)
    assert float(batch.energy[0]) == pytest.approx(float(alone.energy), rel=1e-9)


def test_jit_gives_the_same_equilibrium():
    system = settled()
    outside, inside = mdsens.Relaxation()(SPHERES, system), jax.jit(mdsens.Relaxation())(SPHERES, system)
    assert int(outside.steps) == int(inside.steps)
    np.testing.assert_allclose(inside.positions, outside.positions, atol=1e-9)


def nan_position(system):
    return system.replace(positions=system.positions.at[3, 1].set(jnp.nan))


def coincident(system):
    return system.replace(positions=system.positions.at[5].set(system.positions[2]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_position, "position of particle 3 is not finite"),
        (coincident, "particles 2 and 5 are on the same point"),
        (lambda s: s.replace(box=1.5), "cell is too small for the cutoff"),
        (lambda s: s.replace(box=jnp.ones((2, 2))), "not the cell of a lattice"),
        (lambda s: s.replace(diameters=s.diameters.at[0].set(0.0)), "diameter of particle 0"),
        (lambda s: s.replace(diameters=s.diameters.at[:2].set(jnp.inf)), "diameter of particles 0, 1"),
    ],
)
def test_what_cannot_be_relaxed_is_refused_in_one_sentence(spoil, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.Relaxation()(SPHERES, spoil(mdsens.random_packing(32)))


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (mdsens.SoftSphere(epsilon=jnp.ones((1, 1)), alpha=jnp.ones((2, 2))), "same size"),
        (mdsens.SoftSphere(sigma=-1.0), "sigma must be"),
        (mdsens.SoftSphere(epsilon=[1.0, 2.0]), "one number"),
        (mdsens.SoftSphere(alpha=float("nan")), "not all finite"),
    ],
)
def test_parameters_that_fit_no_system_are_refused(potential, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.Relaxation()(potential, mdsens.random_packing(32))


def test_species_beyond_the_matrices_are_refused_and_inside_jit_not_a_number():
    system, potential = (
        mdsens.random_packing(32, diameters=(1.0, 0.8, 0.6)),
        mdsens.SoftSphere(epsilon=jnp.ones((2, 2))),
    )
    with pytest.raises(mdsens.InvalidInput, match="species reach from 0 to 2"):
        mdsens.Relaxation()(potential, system)
    assert np.isnan(jax.jit(mdsens.Relaxation())(potential, system).energy)


def test_integers_are_numbers_too_and_a_stiffness_of_zero_is_none():
    class Hertz(mdsens.PairPotential):
        epsilon: float

        def pair_energy(self, r, sigma):
            return self.epsilon * jnp.maximum(1 - r / sigma, 1e-30) ** 2.5

        def cutoff(self, sigma):
            return sigma

    rest = mdsens.Relaxation(tolerance=1e-9)(Hertz(2), settled())
    assert bool(rest.converged)


def test_throw_false_never_raises():
    beyond = mdsens.Relaxation(tolerance=1e-30, max_steps=3000, throw=False)(SPHERES, mdsens.random_packing(32))
    assert not bool(beyond.converged)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"max_steps": 0}])
def test_options_without_sense_are_refused(options):
    with pytest.raises(mdsens.InvalidInput):
        mdsens.Relaxation(**options)


def test_a_tolerance_that_single_precision_cannot_reach_is_said():
    with jax.enable_x64(False):
        system = mdsens.random_packing(64)
        with pytest.raises(mdsens.InvalidInput, match=r"cannot be reached in float32.*jax_enable_x64"):
            mdsens.Relaxation(tolerance=1e-10)(SPHERES, system)
        assert bool(mdsens.Relaxation(tolerance=2e-5)(SPHERES, system).converged)


def test_progress_is_reported_and_ends_below_the_tolerance():
    seen = []
    relax = mdsens.Relaxation(tolerance=1e-9, progress=lambda steps, force: seen.append((steps, force)))
    rest = relax(SPHERES, mdsens.random_packing(32, packing_fraction=0.86, seed=1))
    steps, forces = zip(*seen, strict=True)
    assert list(steps) == sorted(steps) and steps[-1] == int(rest.steps)
    assert forces[-1] == float(rest.max_force) < 1e-9


def test_the_certificate_tells_and_exports_what_is_known():
    rest = jammed(seed=5, packing_fraction=0.9)
    by_hand = reference_of(rest)
    certificate = rest.certificate
    eigenvalues = np.linalg.eigvalsh(by_hand.hessian())
    assert certificate.softest == pytest.approx(eigenvalues[eigenvalues > 1e-9].min(), rel=1e-6)
    assert certificate.minimum and certificate.converged
    held = rest.system.n - len(certificate.rattlers)
    assert certificate.contact_number == pytest.approx(2 * len(by_hand.network) / held)
    assert certificate.as_dict()["zero_modes"] == certificate.zero_modes
    text = str(certificate)
    assert "a minimum" in text and f"rattlers          {len(certificate.rattlers)}" in text


def test_a_chain_that_could_buckle_is_a_saddle_and_not_a_set_of_rattlers():
    """Three disks in a row across the cell, pressed together: two contacts each, and force in all of them."""
    chain = mdsens.System([[0.0, 1.0], [0.95, 1.0], [1.9, 1.0]], [2.85, 5.0], 1.0)
    rest = mdsens.Relaxation()(SPHERES, chain)
    assert float(rest.energy) == pytest.approx(3 * 0.5 * 0.05**2)
    assert rest.certificate.rattlers == () and not rest.certificate.minimum
    moved = jax.jacfwd(lambda D: mdsens.Relaxation()(SPHERES, chain.replace(diameters=D)).positions)(chain.diameters)
    # each contact has stiffness 1/σ², and the middle one of three equal springs in series gives way
    assert np.abs(moved).max() > 0.1


def test_a_saddle_is_called_one():
    """By symmetry four particles stay on the corners of a square, though a rhombus is lower."""
    square = mdsens.System([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], None, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-10)(mdsens.Morse(alpha=3.0), square)
    assert not rest.certificate.minimum
    assert "not a minimum" in str(rest.certificate)
