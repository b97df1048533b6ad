"""Potentials of somebody else's whose parts disagree are refused; those whose parts agree are not."""

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


def test_potentials_of_mdsens_are_not_probed(compilations):
    with compilations:
        mdsens.Relaxation()(mdsens.SoftSphere(), jammed(n=32).system)
    assert "_unexplained" not in compilations.functions


def test_a_cell_at_constant_pressure_looks_at_its_potential_too():
    with pytest.raises(mdsens.InvalidInput, match="forces of Scaled"):
        mdsens.Relaxation(pressure=0.01)(Scaled(1.0, 1.01), jammed(n=32).system)


def test_those_of_jax_md_in_double_precision_are_accepted():
    from jax_md import energy

    lattice = np.stack(np.meshgrid(*[np.arange(4.0)] * 2), -1).reshape(-1, 2)
    system = mdsens.System(lattice + 0.1 * np.random.default_rng(0).normal(size=lattice.shape), None, 1.0)
    assert mdsens.Relaxation()(mdsens.JaxMD(energy.lennard_jones_pair), system).converged
