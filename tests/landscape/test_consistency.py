"""Potentials of somebody else's whose parts disagree are refused; those whose parts agree are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.potentials import smooth_switch
from samples import jammed


def scaled(factor):
    """A harmonic overlap energy whose derivative is too large by a factor."""

    @jax.custom_jvp
    def energy(r, sigma):
        return 0.5 * (1.0 - r / sigma) ** 2

    @energy.defjvp
    def _(primals, tangents):
        r, sigma = primals
        slope = -(1.0 - r / sigma) / sigma
        by_sigma = (1.0 - r / sigma) * r / sigma**2
        return energy(r, sigma), factor * (slope * tangents[0] + by_sigma * tangents[1])

    return energy


class Scaled(mdsens.PairPotential):
    """Its forces, and then its second derivatives, are those of `factor` times its energy."""

    epsilon: jax.Array
    factor: float = 1.0

    def pair_energy(self, r, sigma):
        return self.epsilon * scaled(self.factor)(r, sigma)

    def cutoff(self, sigma):
        return sigma


@jax.custom_jvp
def stopped(r, sigma):
    return 0.5 * (1.0 - r / sigma) ** 2


@stopped.defjvp
def _(primals, tangents):
    r, sigma = jax.lax.stop_gradient(primals)
    slope, by_sigma = -(1.0 - r / sigma) / sigma, (1.0 - r / sigma) * r / sigma**2
    return stopped(r, sigma), slope * tangents[0] + by_sigma * tangents[1]


class Stopped(mdsens.PairPotential):
    """Forces that are right, and second derivatives of zero."""

    epsilon: jax.Array

    def pair_energy(self, r, sigma):
        return self.epsilon * stopped(r, sigma)

    def cutoff(self, sigma):
        return sigma


class Switched(mdsens.PairPotential):
    """Lennard-Jones with a switch, by somebody else."""

    epsilon: jax.Array

    def pair_energy(self, r, sigma):
        s = (sigma / r) ** 6
        return 4.0 * self.epsilon * (s * s - s) * smooth_switch(r, 1.5 * sigma, 2.0 * sigma)

    def cutoff(self, sigma):
        return 2.0 * sigma


@pytest.mark.parametrize("error", [1e-2, 1e-3, -1e-4, 2e-5])
def test_forces_that_are_not_those_of_the_energy_are_refused(error):
    with pytest.raises(mdsens.InvalidInput, match=r"forces of Scaled are not the derivatives of its energy"):
        mdsens.Relaxation()(Scaled(1.0, 1.0 + error), jammed(n=32).system)


def test_second_derivatives_that_are_not_those_of_the_forces_are_refused():
    with pytest.raises(mdsens.InvalidInput, match=r"derivatives of Stopped are not the derivatives of its forces"):
        mdsens.at_rest(Stopped(1.0), jammed(n=32).system, tolerance=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-12])
def test_right_parts_are_accepted_where_contacts_open_and_close_within_the_path(seed, factor):
    rest = mdsens.Relaxation()(Scaled(1.0, factor), jammed(seed=seed, n=32).system)
    assert rest.converged


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_right_parts_are_accepted_in_any_unit_of_energy(scale):
    system = mdsens.random_packing(32, 2, (1.0, 0.8), 0.9, seed=1)
    assert mdsens.Relaxation()(Switched(scale), system).converged


def copper():
    """Four cells of fcc copper, and a pair table of a Morse potential with many knots."""
    edge = 3.615
    basis = edge * np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return mdsens.System(basis, edge * np.eye(3), 2.5).repeat(2)


def test_a_table_in_single_precision_is_refused():
    from jax_md import energy, interpolate

    dr = 0.002
    r = np.arange(0.0, 6.0, dr)
    table = np.exp(-2.0 * (r - 2.6)) * np.cos(np.clip(r - 2.0, 0.0, 1.57)) ** 3 * (r < 3.57)
    charge = interpolate.spline(jnp.asarray(table), dr)
    embedding = interpolate.spline(jnp.asarray(-np.sqrt(np.arange(0.0, 40.0, 0.01))), 0.01)
    pairwise = interpolate.spline(jnp.asarray(2.0 * table), dr)
    potential = mdsens.JaxMD(energy.eam, charge_fn=charge, embedding_fn=embedding, pairwise_fn=pairwise, range=3.57)
    with pytest.raises(mdsens.InvalidInput, match="single precision"):
        mdsens.Relaxation()(potential, copper())


def test_an_ensemble_looks_at_its_potential_too():
    systems = [mdsens.random_packing(32, 2, (1.0, 0.8), 0.95, seed=seed) for seed in range(2)]
    with pytest.raises(mdsens.InvalidInput, match="forces of Scaled"):
        mdsens.relax_ensemble(mdsens.Relaxation(), Scaled(1.0, 1.01), systems)


def test_looking_compiles_no_further_program(compilations):
    class Fresh(Scaled):
        """A class of which nothing has been compiled."""

    with compilations:
        mdsens.Relaxation()(Fresh(1.0), jammed(n=32).system)
    assert compilations.functions == {"survey", "_prepare", "advance_to", "_finish", "linearize"}


def test_potentials_of_mdsens_are_not_probed(monkeypatch):
    def probe(here):
        raise AssertionError

    monkeypatch.setattr("mdsens.relaxation.relaxation.first_probe", probe)
    system = mdsens.random_packing(31, 2, (1.0, 0.8), 0.95, seed=0)  # no other test compiles programs for 31
    mdsens.Relaxation()(mdsens.SoftSphere(), system)
    with pytest.raises(AssertionError):
        mdsens.Relaxation()(Scaled(1.0), system)


def test_a_cell_at_constant_pressure_looks_at_its_potential_too():
    with pytest.raises(mdsens.InvalidInput, match="forces of Scaled"):
        mdsens.Relaxation(pressure=0.01)(Scaled(1.0, 1.01), jammed(n=32).system)


def test_those_of_jax_md_in_double_precision_are_accepted():
    from jax_md import energy

    lattice = np.stack(np.meshgrid(*[np.arange(4.0)] * 2), -1).reshape(-1, 2)
    system = mdsens.System(lattice + 0.1 * np.random.default_rng(0).normal(size=lattice.shape), None, 1.0)
    assert mdsens.Relaxation()(mdsens.JaxMD(energy.lennard_jones_pair), system).converged


class TwoSided(mdsens.PairPotential):
    """½ k (r - σ)², k = 1 within σ and 1 + jump beyond."""

    jump: float

    def pair_energy(self, r, sigma):
        stiffness = jnp.where(r < sigma, 1.0, 1.0 + self.jump)
        return 0.5 * stiffness * (r - sigma) ** 2 * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def cutoff(self, sigma):
        return 3.0 * sigma


class TwoSidedTrap(mdsens.Potential):
    """½ k |x - center|², k = 1 on one side of the center and 1 + jump on the other; no sum over pairs."""

    jump: float

    def energy(self, system, neighbors):
        x = system.positions - jnp.array([0.3, 0.1])
        return 0.5 * jnp.sum(jnp.where(x < 0.0, 1.0, 1.0 + self.jump) * x**2)


PAIR = mdsens.System([[0.0, 0.0], [1.1, 0.0]])


@pytest.mark.parametrize("potential", [TwoSided, TwoSidedTrap])
@pytest.mark.parametrize("jump", [0.1, -1e-3, 1e-5])
def test_a_stiffness_that_jumps_at_rest_is_refused(potential, jump):
    with pytest.raises(mdsens.NotDifferentiable, match=f"the stiffness of {potential.__name__} jumps where") as caught:
        mdsens.Relaxation()(potential(jump), PAIR)
    assert caught.value.status is mdsens.errors.Status.JUMPS_AT_REST
    for passes in ({"one_sided": True}, {"throw": False}):
        assert mdsens.Relaxation(**passes)(potential(jump), PAIR).converged


@pytest.mark.parametrize("jump", [0.1, 1e-5])
def test_beside_a_jump_the_response_is_that_of_its_side(jump):
    """Under a load f the bond is f/k longer, k = 1 + jump beyond its length."""

    def length(force):
        pull = mdsens.Load(force * jnp.array([[-1.0, 0.0], [1.0, 0.0]]))
        return mdsens.Relaxation()(TwoSided(jump) + pull, PAIR).positions

    response = jax.jacfwd(length)(0.05)
    assert float(response[1, 0] - response[0, 0]) == pytest.approx(1.0 / (1.0 + jump), rel=1e-8)


@pytest.mark.parametrize("gap", [3e-9, -3e-9, 1e-7])
def test_a_contact_that_is_about_to_open_is_not_taken_for_a_jump(gap):
    """One disk between two that are fixed, a third nearly or hardly touching: it follows one of the two by ½."""
    beside = np.array([0.95, 0.0]) + (1.0 + gap) * np.array([0.6, 0.8])
    x = np.array([[0.0, 0.0], [0.95, 0.0], [1.9, 0.0], beside])
    system = mdsens.System(x, fixed=np.array([[True, True], [False, True], [True, True], [True, True]]))

    def moved(end):
        places = system.replace(positions=system.positions.at[2, 0].add(end))
        return mdsens.Relaxation()(Scaled(1.0), places).positions[1, 0]

    expected = 0.5 if gap > 0.0 else 1.0 / (2.0 + 0.36)
    assert float(jax.grad(moved)(0.0)) == pytest.approx(expected, rel=1e-6)


class Narrowed(mdsens.PairPotential):
    """A harmonic bond whose energy is looked up at a knot, rounded to single precision, and masks that are exact."""

    single: bool = eqx.field(static=True)

    def pair_energy(self, r, sigma):
        knot = jax.lax.stop_gradient(r)
        knot = knot.astype(jnp.float32).astype(r.dtype) if self.single else knot
        near, unit = (r < 2.0 * sigma).astype(jnp.float32), jnp.asarray(1.0, jnp.float64).astype(jnp.float32)
        whole = 0.5 * (r - sigma) ** 2 * near * unit
        return (whole + 0.0 * knot) * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def cutoff(self, sigma):
        return 3.0 * sigma


def test_a_conversion_to_single_precision_is_refused():
    with pytest.raises(mdsens.InvalidInput, match=r"contains a conversion of an array .* in single precision"):
        mdsens.Relaxation()(Narrowed(True), PAIR)
    rest = mdsens.Relaxation()(Narrowed(False), PAIR)
    assert float(jnp.linalg.norm(rest.positions[1] - rest.positions[0])) == pytest.approx(1.0, abs=1e-9)
