import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import jammed, jammed_with_rattlers, reference_of, settled

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
        (lambda s: s.replace(box=0.5), "cell is too small for the cutoff"),
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
    assert certificate.stiffest == pytest.approx(eigenvalues.max(), rel=1e-9)
    assert certificate.condition == pytest.approx(certificate.stiffest / certificate.softest)
    assert json.loads(certificate.to_json())["kind"] == "minimum"


def test_the_certificate_counts_and_measures_the_contacts():
    rest = jammed_with_rattlers(0.86)
    by_hand, certificate = reference_of(rest), rest.certificate
    held = np.setdiff1d(np.arange(128), certificate.rattlers)
    among = np.isin(by_hand.i, held) & np.isin(by_hand.j, held)
    assert certificate.smallest_overlap == pytest.approx(by_hand.overlap[among].min(), rel=1e-6)
    assert certificate.force_scale == pytest.approx(np.mean(by_hand.overlap[among] / by_hand.sigma[among]), rel=1e-9)
    bonds = len(held) * certificate.isostatic / 2
    assert bonds == pytest.approx(2 * len(held) - 1)  # one more than there are forces to balance, less translations
    x = by_hand.x[held]
    apart = x[:, None] - x[None]
    apart -= np.round(apart @ np.linalg.inv(by_hand.box)) @ by_hand.box
    D = by_hand.diameters[held]
    gap = np.linalg.norm(apart, axis=-1) / (0.5 * (D[:, None] + D[None])) - 1 + np.eye(len(held))
    assert certificate.smallest_gap == pytest.approx(gap[gap > 0].min(), rel=1e-6)


def test_a_thorough_certificate_knows_the_distance_to_the_minimum():
    sharp = jammed(seed=0, n=64)
    rough = mdsens.Relaxation(tolerance=1e-6)(SPHERES, sharp.system.replace(positions=sharp.positions + 1e-4))
    rough = rough if int(rough.steps) else mdsens.Relaxation(tolerance=1e-6)(SPHERES, settled(seed=0, n=64))
    certificate = rough.certify(thorough=True)
    truth = reference_of(rough).relaxed().x - np.asarray(rough.positions)
    assert certificate.distance == pytest.approx(np.linalg.norm(truth, axis=1).max(), rel=1e-2)
    assert certificate.solve_residual < 1e-9
    assert rough.certificate.distance is None


@pytest.mark.slow
def test_the_certificate_of_a_large_system_bounds_its_curvatures_and_a_thorough_one_knows_them():
    rest = mdsens.Relaxation(tolerance=1e-10)(SPHERES, mdsens.random_packing(700, packing_fraction=0.95, seed=1))
    quick, thorough = rest.certificate, rest.certify(thorough=True)
    held = ~np.isin(np.arange(700), quick.rattlers)  # one may touch its cage
    eigenvalues = np.linalg.eigvalsh(reference_of(rest).changed(keep=held).hessian())
    softest = eigenvalues[eigenvalues > 1e-9].min()
    assert not quick.exact and softest < quick.softest < 3 * softest
    assert thorough.exact and thorough.softest == pytest.approx(softest, rel=1e-2)
    assert quick.stiffest == pytest.approx(eigenvalues.max(), rel=1e-6)
    assert quick.zero_modes == np.sum(np.abs(eigenvalues) < 1e-9)


def test_the_certificate_of_a_large_system_is_of_the_particles_that_are_held():
    """However large the forces left: without contacts of rattlers others would be taken for rattlers, too."""
    rest = mdsens.Relaxation(tolerance=1e-4)(SPHERES, mdsens.random_packing(700, packing_fraction=1.0, seed=3))
    found = rest.certificate
    held = ~np.isin(np.arange(700), found.rattlers)
    eigenvalues = np.linalg.eigvalsh(reference_of(rest).changed(keep=held).hessian())
    assert found.stiffest == pytest.approx(eigenvalues.max(), rel=1e-6)
    assert eigenvalues[eigenvalues > 1e-9].min() < found.softest


CHAIN = mdsens.System([[0.0, 1.0], [0.95, 1.0], [1.9, 1.0]], [2.85, 5.0], 1.0)
"""Three disks in a row across the cell, pressed together: two contacts each, and force in all of them."""

SQUARE = mdsens.System([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], None, 1.0)
"""By symmetry four particles stay on the corners of a square, though a rhombus is lower."""


def test_a_chain_that_could_buckle_is_a_saddle_and_not_a_set_of_rattlers():
    stay = mdsens.Relaxation(escape=False, throw=False)
    rest = stay(SPHERES, CHAIN)
    assert float(rest.energy) == pytest.approx(3 * 0.5 * 0.05**2)
    assert rest.certificate.rattlers == () and rest.certificate.kind == "saddle" and not bool(rest.minimum)
    by_hand = np.linalg.eigvalsh(reference_of(rest).hessian())
    assert float(rest.curvature) == pytest.approx(by_hand.min(), rel=1e-9) == rest.certificate.negative
    moved = jax.jacfwd(lambda D: stay(SPHERES, CHAIN.replace(diameters=D)).positions)(CHAIN.diameters)
    # each contact has stiffness 1/σ², and the middle one of three equal springs in series gives way
    assert np.abs(moved).max() > 0.1


def test_a_saddle_is_refused_where_it_may_not_be_left():
    stay = mdsens.Relaxation(escape=False)
    with pytest.raises(mdsens.NotAMinimum, match=r"curvature is -0\.1.*throw=False"):
        stay(SPHERES, CHAIN)
    inside = jax.jit(stay)(SPHERES, CHAIN)
    assert not bool(inside.minimum) and bool(inside.converged) and np.isnan(inside.positions).all()


def test_a_saddle_is_left_along_its_soft_direction_inside_jit_as_outside():
    potential, relax = mdsens.Morse(alpha=3.0), mdsens.Relaxation(tolerance=1e-10)
    outside, inside = relax(potential, SQUARE), jax.jit(relax)(potential, SQUARE)
    for rest in (outside, inside):
        assert int(rest.escapes) == 1 and bool(rest.minimum)
        sides = np.linalg.norm(rest.positions[:, None] - rest.positions[None], axis=-1)[np.triu_indices(4, 1)]
        assert np.sort(sides)[:5] == pytest.approx(1.0, abs=0.05)  # a rhombus has five short distances
        assert rest.certificate.kind == "minimum" and "after leaving 1 saddle" in str(rest.certificate)
    assert int(outside.steps) == int(inside.steps)
    assert float(outside.energy) == pytest.approx(float(inside.energy), rel=1e-12)


def test_a_minimum_is_left_alone():
    assert int(jammed(seed=0).escapes) == 0 and bool(jammed(seed=0).minimum)


def test_an_equilibrium_may_be_copied_pickled_and_used_inside_and_outside_of_jit():
    system = settled()
    rest = mdsens.Relaxation()(SPHERES, system)
    again = pickle.loads(pickle.dumps(rest))
    inside = jax.jit(lambda a: a * jnp.sum(rest.positions))(1.0)
    assert float(inside) == pytest.approx(float(jnp.sum(rest.positions)))
    np.testing.assert_array_equal(again.positions, rest.positions)
    assert len(jax.tree.leaves(rest)) == len(jax.tree.leaves(again))
    assert "a minimum" in repr(rest)


def test_what_came_unfinished_out_of_jit_is_said_to_be_unfinished():
    rest = jax.jit(mdsens.Relaxation(max_steps=20))(SPHERES, mdsens.random_packing(32))
    for ask in (mdsens.sensitivity, mdsens.validity):
        with pytest.raises(mdsens.NotConverged, match="no equilibrium"):
            ask(rest, "diameters")
    unfinished = mdsens.Relaxation(max_steps=20, throw=False)(SPHERES, mdsens.random_packing(32))
    assert unfinished.certificate.kind == "unknown" and "not at rest" in str(unfinished.certificate)


@pytest.mark.parametrize("tolerance", [1e-10, 1e-5])
def test_the_softest_curvature_of_a_cluster_is_no_rotation(tolerance):
    cluster = mdsens.System(np.random.default_rng(1).uniform(0, 2.2, size=(9, 3)), None, 1.0)
    rest = mdsens.Relaxation(tolerance=tolerance)(mdsens.LennardJones(), cluster)
    assert rest.certificate.softest == pytest.approx(13.2, rel=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mdsens.Relaxation()(mdsens.random_packing(8), mdsens.SoftSphere()), "not System, SoftSphere"),
        (lambda: mdsens.Relaxation()(mdsens.SoftSphere, mdsens.random_packing(8)), "not SoftSphere, System"),
        (lambda: mdsens.Relaxation(minimizer=mdsens.FIRE), "minimizer must be one"),
        (lambda: mdsens.Relaxation(linear_solver="dense"), r"linear_solvers\.dense\(\)"),
        (lambda: mdsens.Relaxation(tolerance="1e-10"), "tolerance"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(make, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        make()
