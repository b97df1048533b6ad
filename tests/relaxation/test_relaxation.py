"""Relaxations: on the host, under jit and vmap, in several units and precisions."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from samples import jacobians_under_jit, reference_of, settled

SPHERES = mdsens.SoftSphere()


def test_an_equilibrium_is_at_rest_by_the_references_forces():
    rest = mdsens.Relaxation(tolerance=1e-10)(SPHERES, mdsens.random_packing(128))
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
    system = mdsens.random_packing(60, 3, packing_fraction=0.12, seed=2)  # the cell is two cutoffs wide
    if cell == "triclinic":
        system = system.deform(system.box @ jnp.array([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [0.0, 0.2, 1.0]]))
    if cell == "open":
        system = system.replace(box=None)
    rest = mdsens.Relaxation(tolerance=1e-8)(potential, system)
    assert bool(rest.converged)
    assert rest.certificate.minimum


def test_units_do_not_matter_to_the_minimizer():
    """Lengths times s and energies times e: the same steps, and the same packing to within rounding."""
    system = settled(seed=3, n=128)
    s, e = 8.0, 2.0**10
    large = mdsens.System(s * system.positions, s * system.box, s * system.diameters, system.species)
    one = mdsens.Relaxation(tolerance=1e-8)(SPHERES, system)
    other = mdsens.Relaxation(tolerance=1e-8 * e / s)(mdsens.SoftSphere(e), large)
    assert int(one.steps) == pytest.approx(int(other.steps), rel=0.2)
    assert float(other.energy) == pytest.approx(e * float(one.energy), rel=1e-6)


def test_a_relaxation_that_does_not_converge_raises_or_returns_the_unfinished_result():
    system = mdsens.random_packing(32)
    with pytest.raises(mdsens.NotConverged, match="after 20 steps"):
        mdsens.Relaxation(max_steps=20)(SPHERES, system)
    unfinished = mdsens.Relaxation(max_steps=20, throw=False)(SPHERES, system)
    assert not bool(unfinished.converged) and np.isfinite(unfinished.positions).all()
    assert int(unfinished.steps) == 20


def test_an_unfinished_result_and_its_derivative_are_nan_under_jit_and_vmap():
    system = mdsens.random_packing(32)
    relax = mdsens.Relaxation(max_steps=20)
    inside = jax.jit(relax)(SPHERES, system)
    assert not bool(inside.converged) and np.isnan(inside.energy) and np.isnan(inside.positions).all()

    def energy_and_position(D):
        rest = relax(SPHERES, system.replace(diameters=D))
        return jnp.stack([rest.energy, rest.positions[0, 0]])

    forward, reverse = jacobians_under_jit(energy_and_position)(system.diameters)
    assert np.isnan(forward).all() and np.isnan(reverse).all()


def test_a_failing_member_of_a_batch_does_not_affect_the_others():
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


def test_integer_parameters_and_a_potential_without_stiffness_at_the_cutoff():
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


def test_progress_is_reported_and_ends_below_the_tolerance():
    reports = []
    relax = mdsens.Relaxation(tolerance=1e-9, progress=lambda steps, force: reports.append((steps, force)))
    rest = relax(SPHERES, mdsens.random_packing(32, packing_fraction=0.86, seed=1))
    steps, forces = zip(*reports, strict=True)
    assert list(steps) == sorted(steps) and steps[-1] == int(rest.steps)
    assert forces[-1] == float(rest.max_force) < 1e-9


def test_an_equilibrium_can_be_pickled_and_used_inside_and_outside_of_jit():
    system = settled()
    rest = mdsens.Relaxation()(SPHERES, system)
    again = pickle.loads(pickle.dumps(rest))
    inside = jax.jit(lambda a: a * jnp.sum(rest.positions))(1.0)
    assert float(inside) == pytest.approx(float(jnp.sum(rest.positions)))
    np.testing.assert_array_equal(again.positions, rest.positions)
    assert len(jax.tree.leaves(rest)) == len(jax.tree.leaves(again))
    assert "a minimum" in repr(rest)


def test_forces_that_stop_being_finite_on_the_way_end_the_relaxation():
    """Two particles attract each other to a distance at which their energy is no number any more."""

    class Fragile(mdsens.PairPotential):
        def pair_energy(self, r, sigma):
            beyond = r / sigma - 1.0
            return jnp.sqrt(0.35 + beyond) - 0.35**0.5 - 0.5 * 0.35**-0.5 * beyond

        def cutoff(self, sigma):
            return sigma

    pair = mdsens.System([[0.0, 0.0], [0.9, 0.0]], None, 1.0)
    with pytest.raises(mdsens.NotConverged, match="are not finite after"):
        mdsens.Relaxation()(Fragile(), pair)


class Broken(mdsens.Potential):
    """An energy that is not a number where its derivative is one."""

    def energy(self, system, neighbors):
        energy = jnp.sum((system.positions - 1.0) ** 2)
        return jnp.where(jnp.all(system.positions < 10.0), jnp.nan, energy)


def test_an_energy_that_is_not_a_number_is_refused_though_its_forces_vanish():
    start = mdsens.System(np.array([[0.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(mdsens.NotConverged, match="the energy or the forces are not finite"):
        mdsens.Relaxation()(Broken(), start)
    assert not bool(
        jax.jit(lambda x: mdsens.Relaxation()(Broken(), start.replace(positions=x)).converged)(start.positions)
    )


@jax.custom_jvp
def slope_without_derivative(x):
    return x


slope_without_derivative.defjvp(lambda primals, tangents: (primals[0], jnp.nan * tangents[0]))


@jax.custom_jvp
def half_square(x):
    return 0.5 * x**2


half_square.defjvp(lambda primals, tangents: (half_square(*primals), slope_without_derivative(*primals) * tangents[0]))


class Kinked(mdsens.Potential):
    """Forces of a well, and second derivatives that are not numbers."""

    def energy(self, system, neighbors):
        return jnp.sum(half_square(system.positions))


@pytest.mark.parametrize("n", [3, 301])
def test_a_curvature_that_is_not_a_number_is_no_minimum(n):
    start = mdsens.System(np.random.default_rng(0).normal(size=(n, 2)))
    with pytest.raises(mdsens.NotAMinimum, match="second derivative of the energy is not finite"):
        mdsens.Relaxation(newton=None)(Kinked(), start)
    rest = mdsens.Relaxation(throw=False, newton=None)(Kinked(), start)
    assert bool(rest.converged) and not bool(rest.minimum)
    assert "of unknown curvature" in repr(rest)
    assert rest.certificate.kind == "unknown" and "not finite" in str(rest.certificate)
    with pytest.raises(mdsens.NotAMinimum):
        jax.jit(lambda x: mdsens.Relaxation(newton=None)(Kinked(), start.replace(positions=x)))(start.positions).check()


class Windy(mdsens.Potential):
    """Springs between all particles, and a force on each."""

    wind: jax.Array

    def energy(self, system, neighbors):
        i, j = np.triu_indices(system.n, 1)
        lengths = jnp.linalg.norm(system.positions[i] - system.positions[j], axis=1)
        return 0.5 * jnp.sum((lengths - 1.0) ** 2) - self.wind * jnp.sum(system.positions[:, 0])


def test_a_net_force_that_nothing_balances_is_seen_long_before_the_steps_are_used_up():
    triangle = mdsens.System(np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.8]]))
    with pytest.raises(mdsens.NotConverged, match=r"a net force of 0\.1 on each particle .* 2000 steps on"):
        mdsens.Relaxation()(Windy(jnp.asarray(0.1)), triangle)
    assert bool(mdsens.Relaxation()(Windy(jnp.asarray(0.0)), triangle).minimum)


def test_a_weak_trap_is_slow_and_balances():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.8]])

    class Trapped(Windy):
        def energy(self, system, neighbors):
            return super().energy(system, neighbors) + 0.5 * 3e-3 * jnp.sum((system.positions - 5.0) ** 2)

    descent = mdsens.Relaxation(minimizer=mdsens.GradientDescent(), max_steps=5000)
    with pytest.raises(mdsens.NotConverged, match="after 5000 steps of GradientDescent"):
        descent(Trapped(jnp.asarray(0.0)), mdsens.System(x))
