import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import energy_and_gradient
from mdsens.potentials.soft_sphere import power
from samples import jammed, reference_of, silicon

BUILT_IN = [mdsens.SoftSphere(), mdsens.SoftSphere(2.0, 2.5), mdsens.LennardJones(), mdsens.Morse(), mdsens.Yukawa()]


def pair(potential, distance, diameters=(1.0, 1.0), species=(0, 1)):
    """The energy of two particles at a distance."""
    system = mdsens.System([[0.0, 0.0], [distance, 0.0]], None, diameters, species)
    return float(potential.energy(system, mdsens.AllPairs().build(potential, system)))


def test_values_in_closed_form():
    assert pair(mdsens.SoftSphere(3.0, 2.0), 0.75) == pytest.approx(3.0 / 2 * 0.25**2)
    assert pair(mdsens.SoftSphere(3.0, 2.5), 0.75) == pytest.approx(3.0 / 2.5 * 0.25**2.5)
    assert pair(mdsens.SoftSphere(), 0.7, (1.0, 0.6)) == pytest.approx(0.5 * (1 - 0.7 / 0.8) ** 2)
    assert pair(mdsens.LennardJones(2.0), 2 ** (1 / 6)) == pytest.approx(-2.0)
    assert pair(mdsens.LennardJones(), 1.0) == pytest.approx(0.0, abs=1e-14)
    assert pair(mdsens.Morse(1.5, 4.0), 1.0) == pytest.approx(-1.5)
    assert pair(mdsens.Morse(1.0, 4.0), 1.2) == pytest.approx((1 - np.exp(-0.8)) ** 2 - 1)
    assert pair(mdsens.Yukawa(1.5, 4.0), 1.3) == pytest.approx(1.5 / 1.3 * np.exp(-4.0 * 0.3))


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.7])
def test_powers_without_logarithms_have_the_values_and_derivatives_of_powers(exponent):
    """To third order in the base, to second in the exponent, and mixed."""
    x, a = jnp.linspace(0.1, 0.9, 4), jnp.full(4, exponent)
    for order in ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (0, 2), (2, 1)):
        ours, theirs = (derivative(f, order)(x, a) for f in (power, jnp.power))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@functools.cache
def derivative(function, order):
    for argnum, times in enumerate(order):
        for _ in range(times):
            function = jax.grad(function, argnum)
    return jax.jit(jax.vmap(function))


@pytest.mark.parametrize(
    "potential", [*BUILT_IN, mdsens.SoftSphere([[1.0, 2.0], [2.0, 5.0]], [[2.0, 2.5], [2.5, 3.0]])]
)
def test_forces_summed_over_pairs_are_the_derivative_of_the_energy(potential):
    system = mdsens.random_packing(40, 3, (1.0, 0.7), 0.4, seed=4)
    pairs = mdsens.AllPairs(images=True).build(potential, system)
    expected = jax.jit(jax.grad(lambda x: potential.energy(system.replace(positions=x), pairs)))(system.positions)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(
        energy_and_gradient(mdsens.Configuration(potential, system, pairs))[1], expected, atol=1e-12 * scale
    )


@pytest.mark.parametrize("potential", BUILT_IN, ids=lambda p: type(p).__name__)
def test_the_energy_vanishes_smoothly_at_the_cutoff(potential):
    reach = float(potential.cutoff(1.0))
    assert pair(potential, reach) == 0.0
    assert pair(potential, reach * 1.01) == 0.0
    assert abs(pair(potential, reach * (1 - 1e-5))) < 1e-9


def test_the_hessian_does_not_jump_where_the_switch_begins_and_ends():
    curvature = jax.grad(jax.grad(lambda r: mdsens.LennardJones().pair_energy(r, 1.0)))
    for r in (2.0, 2.5):
        assert abs(curvature(r - 1e-7) - curvature(r + 1e-7)) < 1e-4


def test_a_matrix_gives_a_parameter_for_each_pair_of_species():
    potential = mdsens.SoftSphere(epsilon=[[1.0, 2.0], [2.0, 5.0]], alpha=[[2.0, 2.5], [2.5, 3.0]])
    for species, epsilon, alpha in (((0, 0), 1.0, 2.0), ((0, 1), 2.0, 2.5), ((1, 1), 5.0, 3.0)):
        assert pair(potential, 0.8, species=species) == pytest.approx(epsilon / alpha * 0.2**alpha)


def test_a_pair_matrix_of_sigma_replaces_the_additive_one():
    potential = mdsens.SoftSphere(sigma=[[1.0, 0.5], [0.5, 1.0]])
    assert pair(potential, 0.4) == pytest.approx(0.5 * 0.2**2)
    assert pair(potential, 0.6) == 0.0


def test_energy_and_gradient_of_a_packing_are_those_of_the_reference():
    for alpha in (2.0, 2.5):
        rest = jammed(seed=1, alpha=alpha)
        shaken = rest.system.replace(positions=rest.positions + 0.01 * jnp.sin(jnp.arange(256.0)).reshape(128, 2))
        potential = mdsens.SoftSphere(1.0, alpha)
        by_hand = reference_of(rest).changed(positions=shaken.positions)
        pairs = mdsens.AllPairs().build(potential, shaken)
        energy, gradient = energy_and_gradient(mdsens.Configuration(potential, shaken, pairs))
        assert float(energy) == pytest.approx(by_hand.energy(), rel=1e-13)
        np.testing.assert_allclose(gradient, by_hand.gradient(), atol=1e-13)


def test_a_user_defined_pair_potential():
    class Gaussian(mdsens.PairPotential):
        epsilon: jax.Array

        def pair_energy(self, r, sigma):
            return self.epsilon * jnp.exp(-((r / sigma) ** 2))

        def cutoff(self, sigma):
            return 6.0 * sigma

    assert pair(Gaussian(2.0), 0.5) == pytest.approx(2.0 * np.exp(-0.25))
    system = mdsens.random_packing(150, packing_fraction=0.5, diameters=(1.0,))
    slope = jax.grad(lambda p: mdsens.Relaxation(tolerance=1e-8)(p, system).energy)(Gaussian(jnp.asarray(2.0)))
    relaxed = mdsens.Relaxation(tolerance=1e-8)(Gaussian(2.0), system)
    assert float(slope.epsilon) == pytest.approx(float(relaxed.energy) / 2.0)  # E is linear in ε


def test_soft_spheres_of_jax_md_have_the_same_energy_and_forces():
    from jax_md import energy

    rest = jammed(seed=2)
    theirs = mdsens.JaxMD(
        energy.soft_sphere_pair, from_system=lambda system: {"sigma": system.diameters}, epsilon=1.0, alpha=2.0
    )
    pairs = mdsens.AllPairs().build(theirs, rest.system)
    assert float(theirs.energy(rest.system, pairs)) == pytest.approx(float(rest.energy), rel=1e-12)
    np.testing.assert_allclose(theirs.gradient(rest.system, pairs), -rest.forces, atol=1e-12)


@pytest.mark.slow
@pytest.mark.optimized
def test_stillinger_weber_of_jax_md_is_differentiable_through_the_minimum():
    from jax_md import energy

    crystal = silicon()
    potential = mdsens.JaxMD(energy.stillinger_weber, lam=21.0, epsilon=2.16826)
    relax = mdsens.Relaxation(tolerance=1e-8, minimizer=mdsens.FIRE(dt_start=0.02, dt_max=0.1))
    perfect = relax(potential, crystal)
    assert float(perfect.energy) / crystal.n == pytest.approx(-4.3364, abs=2e-4)  # eV; Stillinger and Weber (1985)

    squeezed = silicon(constant=5.3)  # where bonds push, a vacancy bends the angles around it
    hole = mdsens.System(squeezed.positions[1:], squeezed.box, diameters=2.35)
    slope = jax.grad(lambda p: relax(p, hole).energy)(potential).parameters

    def relaxed_energy(lam):
        return float(relax(mdsens.JaxMD(energy.stillinger_weber, lam=lam, epsilon=2.16826), hole).energy)

    difference = (relaxed_energy(21.01) - relaxed_energy(20.99)) / 0.02
    assert float(slope["lam"]) == pytest.approx(difference, rel=1e-5)
    assert float(slope["epsilon"]) == pytest.approx(relaxed_energy(21.0) / 2.16826, rel=1e-9)


@pytest.mark.parametrize(("reach", "why"), [(-1.0, "not a positive length"), (np.inf, "must be finite")])
def test_an_invalid_cutoff_is_refused_in_a_periodic_cell(reach, why):
    class Reaching(mdsens.PairPotential):
        def pair_energy(self, r, sigma):
            return 0.5 * jnp.maximum(0.0, 1.0 - r / sigma) ** 2

        def cutoff(self, sigma):
            return reach * sigma

    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(Reaching(), mdsens.random_packing(16))


def test_potentials_show_their_parameters():
    matrix = mdsens.SoftSphere(epsilon=[[1.0, 2.0], [2.0, 1.5]])
    assert repr(matrix) == "SoftSphere(epsilon=[[1.0, 2.0], [2.0, 1.5]], alpha=2.0)"
    shown = []
    jax.jit(lambda potential: shown.append(repr(potential)) or potential.alpha)(matrix)
    assert shown[0].startswith("SoftSphere(epsilon=float")


class _Own(mdsens.PairPotential):
    epsilon: jax.Array

    def pair_energy(self, r, sigma):
        return self.epsilon * (1.0 - r / sigma) ** 2

    def cutoff(self, sigma):
        return sigma


def _broken(**functions):
    return type("Broken", (_Own,), functions)(1.0)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda: _broken(pair_energy=lambda self, r, sigma: None), "returns nothing"),
        (lambda: _broken(pair_energy=lambda self, r, sigma: jnp.ones(3) * r), r"returns an array \[3\]"),
        (lambda: _broken(pair_energy=lambda self, r, sigma: self.epsilon * np.exp(-r)), "use those of jax.numpy"),
        (lambda: _broken(pair_energy=lambda self, r, sigma: r if r < sigma else 0.0), "use jnp.where"),
        (lambda: _broken(pair_energy=lambda self, r, sigma: self.depth * r), "no attribute 'depth'"),
        (lambda: _broken(cutoff=lambda self: 1.0), "cutoff of Broken .* takes 1 positional argument"),
    ],
)
def test_mistakes_in_a_user_defined_potential_are_explained(broken, why):
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(broken(), mdsens.random_packing(16))


def test_a_cutoff_may_be_a_python_number():
    potential = _broken(cutoff=lambda self, sigma: 1.5, pair_energy=lambda self, r, sigma: (1.0 - r / 1.5) ** 2)
    rest = mdsens.Relaxation(tolerance=1e-6)(potential, mdsens.random_packing(16, packing_fraction=0.95))
    assert rest.converged


def test_the_typical_stiffness_counts_unlike_pairs_and_shallow_contacts():
    class Contact(_Own):
        def pair_energy(self, r, sigma):
            return 0.5 * self.epsilon * (1.0 - r / sigma) ** 2 * (r < sigma)  # no curvature at the cutoff itself

    system = mdsens.random_packing(64, packing_fraction=0.98)
    unlike = jnp.array([[0.1, 10.0], [10.0, 0.1]])
    soft = mdsens.SoftSphere(epsilon=unlike)
    typical = float(soft.typical_stiffness(system))
    assert typical > 0.2 * 10.0 / 0.8**2
    assert float(Contact(unlike).typical_stiffness(system)) == pytest.approx(typical, rel=1e-12)
    rest = mdsens.Relaxation(tolerance=1e-9, newton=None)(soft, system)
    assert rest.steps < 8000  # with the stiffness of like pairs alone, steps are too long: no convergence in 100000
