"""The energy is the one source of forces and second derivatives, and derivatives are numbers in both modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.potentials import JaxMD


@pytest.mark.parametrize("name", ["energy", "gradient", "pair_terms"])
def test_a_sum_over_pairs_that_overrides_what_follows_from_it_is_refused(name):
    """Forces come from pair_energy and would ignore a gravity that is added to the energy."""
    with pytest.raises(mdsens.InvalidInput, match=rf"Heavy overrides {name}\(\), which follows from pair_energy"):
        type("Heavy", (mdsens.SoftSphere,), {name: lambda self, system, neighbors: 0.0})


def test_a_gradient_of_ones_own_is_refused():
    with pytest.raises(mdsens.InvalidInput, match=r"Wrong overrides gradient\(\), which follows from energy\(\)"):

        class Wrong(mdsens.Potential):
            def energy(self, system, neighbors):
                return jnp.sum(system.positions**2)

            def gradient(self, system, neighbors):
                return system.positions


def test_a_subclass_that_changes_the_pair_energy_is_taken():
    class Softer(mdsens.SoftSphere):
        def pair_energy(self, r, sigma):
            return 0.5 * super().pair_energy(r, sigma)

    rest = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.random_packing(16, packing_fraction=0.95))
    softer = mdsens.Relaxation()(Softer(), rest.system)
    assert int(softer.steps) == 0
    np.testing.assert_allclose(softer.energy, 0.5 * rest.energy, rtol=1e-12)


CLUSTER = mdsens.System(np.array([[0.0, 0.0], [1.1, 0.05], [0.5, 0.9], [1.6, 0.95]]))


@pytest.mark.parametrize("how", ["jax-md", "no cutoff"])
def test_reverse_and_forward_derivatives_are_the_same_numbers(how):
    """jax-md takes the energy of a particle with itself times zero: NaN in reverse mode (jax-md issue 258)."""
    from jax_md import energy

    def positions(sigma):
        far = {"r_onset": 80.0, "r_cutoff": 100.0}
        potential = (
            JaxMD(energy.lennard_jones_pair, epsilon=1.0, sigma=sigma, **far)
            if how == "jax-md"
            else mdsens.LennardJones(sigma=sigma, range=np.inf)
        )
        return mdsens.Relaxation()(potential, CLUSTER).positions

    reverse, forward = jax.jacrev(positions)(1.0), jax.jacfwd(positions)(1.0)
    np.testing.assert_allclose(reverse, forward, atol=1e-12)
    # the only length is σ: the cluster grows with it, about its center
    x = positions(1.0)
    np.testing.assert_allclose(reverse, x - x.mean(axis=0), atol=1e-7)


def test_two_particles_of_jax_md_on_one_point_are_seen():
    from jax_md import energy

    together = CLUSTER.replace(positions=CLUSTER.positions.at[1].set(CLUSTER.positions[0]))
    potential = JaxMD(energy.soft_sphere_pair, sigma=1.0, epsilon=1.0, alpha=2.0)
    with pytest.raises(mdsens.InvalidInput, match="particles 0 and 1 are on the same point"):
        mdsens.Relaxation()(potential, together)


def truncated(pair_energy, end):
    return type(
        "Truncated", (mdsens.PairPotential,), {"pair_energy": pair_energy, "cutoff": lambda self, sigma: end * sigma}
    )()


@pytest.mark.parametrize(
    "pair_energy",
    [
        lambda self, r, sigma: 4.0 * ((sigma / r) ** 12 - (sigma / r) ** 6),  # as `lj/cut` of LAMMPS has it by default
        lambda self, r, sigma: 4.0 * ((sigma / r) ** 12 - (sigma / r) ** 6) - 4.0 * (0.4**12 - 0.4**6),  # shifted
        lambda self, r, sigma: jnp.where(r < 2.5 * sigma, jnp.exp(-r / sigma), 0.0),
        lambda self, r, sigma: 1e-4 * (2.5 - r / sigma) + (2.5 - r / sigma) ** 2,
    ],
)
def test_a_pair_energy_that_jumps_at_its_cutoff_is_refused(pair_energy):
    potential = truncated(pair_energy, 2.5)
    with pytest.raises(mdsens.InvalidInput, match="of a pair of Truncated jumps at its cutoff"):
        mdsens.Relaxation()(potential, CLUSTER)
    assert not bool(
        jax.jit(lambda x: mdsens.Relaxation()(potential, CLUSTER.replace(positions=x)).minimum)(CLUSTER.positions)
    )


@pytest.mark.parametrize("precision", [jnp.float32, jnp.float64])
def test_pair_energies_that_end_smoothly_are_taken(precision):
    system = CLUSTER.replace(positions=CLUSTER.positions.astype(precision), diameters=jnp.full(4, 1.3, precision))
    offered = [potential() for potential in mdsens.potentials.REGISTRY.values()]
    for potential in [*offered, mdsens.SoftSphere(alpha=1.5), mdsens.SoftSphere(alpha=4.0)]:
        assert not bool(potential.prepared_for(system).jumps_at_cutoff(system)), potential
    gaussian = truncated(lambda self, r, sigma: jnp.exp(-((r / sigma) ** 2)), 6.0)
    assert not bool(gaussian.jumps_at_cutoff(system))


def silicon(*repeats):
    import ase.build

    crystal = mdsens.from_ase(ase.build.bulk("Si", cubic=bool(repeats)), diameters=2.35)
    return crystal.repeat(*repeats) if repeats else crystal


def test_a_cell_in_which_jax_md_misses_images_is_refused():
    """In two atoms' cell it would find -0.6 of the energy: only nearest images are met."""
    from jax_md import energy

    with pytest.raises(mdsens.InvalidInput, match=r"still interact at 1\.568, half of the cell's smallest height"):
        mdsens.Relaxation()(JaxMD(energy.stillinger_weber), silicon())
    large = mdsens.Relaxation()(JaxMD(energy.stillinger_weber), silicon(2))
    ours = mdsens.Relaxation()(mdsens.StillingerWeber(epsilon=2.16826), silicon(2))
    assert float(large.energy) == pytest.approx(float(ours.energy), rel=1e-9)
    without_end = JaxMD(energy.lennard_jones_pair, r_onset=80.0, r_cutoff=100.0)
    with pytest.raises(mdsens.InvalidInput, match="give the energy a cutoff"):
        mdsens.Relaxation()(without_end, mdsens.random_packing(8))


def test_an_energy_with_a_neighbor_list_is_refused_in_a_sentence():
    from jax_md import energy

    with pytest.raises(
        mdsens.InvalidInput, match="stillinger_weber_neighbor_list of jax-md works with a neighbor list"
    ):
        JaxMD(energy.stillinger_weber_neighbor_list)
    lists = JaxMD(lambda displacement: (None, lambda x: 0.0))
    with pytest.raises(mdsens.InvalidInput, match="works with a neighbor list of its own"):
        mdsens.Relaxation()(lists, CLUSTER)


def test_strings_functions_and_integers_of_a_factory_are_passed_on():
    seen = []

    def springs(displacement, kind, pairs, table, stiffness):
        seen.append((kind, pairs.dtype, table["power"]))
        i, j = pairs.T

        def energy(x):
            lengths = jnp.linalg.norm(jax.vmap(displacement)(x[i], x[j]), axis=1)
            return 0.5 * jnp.sum(stiffness * table["power"](lengths - table["length"]))

        return energy

    def potential(length):
        table = {"power": jnp.square, "length": length}
        return JaxMD(springs, kind="Si", pairs=np.array([[0, 1], [1, 2], [0, 2]]), table=table, stiffness=2.0)

    triangle = mdsens.System(np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.8]]))

    def edge(length):
        x = mdsens.Relaxation()(potential(length), triangle).positions
        return jnp.linalg.norm(x[1] - x[0])

    assert float(edge(1.3)) == pytest.approx(1.3, rel=1e-8)
    assert float(jax.grad(edge)(1.3)) == pytest.approx(1.0, rel=1e-8)
    assert seen[0] == ("Si", np.dtype(int), jnp.square)
    assert potential(1.0).parameter_names() == ["stiffness"]
    assert potential(1.0).constants == potential(2.0).constants and "kind='Si'" in repr(potential(1.0))


def test_parameters_that_make_no_sense():
    with pytest.raises(mdsens.InvalidInput, match="a parameter is a number or a matrix of numbers, not 'soft'"):
        mdsens.SoftSphere(epsilon="soft")
    with pytest.raises(mdsens.InvalidInput, match="epsilon of SoftSphere must not be negative"):
        mdsens.Relaxation()(mdsens.SoftSphere(epsilon=[[1.0, -1.0], [-1.0, 1.0]]), mdsens.random_packing(16))


class Bumps(mdsens.Potential):
    """The sum of (1 - (r/end)²)⁴ over the pairs of a list that is said to need only `said`."""

    end: jax.Array
    said: jax.Array
    listed = True

    def energy(self, system, neighbors):
        squared = jnp.sum(neighbors.separations(system.positions, system.lattice) ** 2, axis=-1)
        near = neighbors.valid & (squared < self.end**2)
        return jnp.sum(jnp.where(near, (1.0 - squared / self.end**2) ** 4, 0.0))

    def reach(self, system):
        return self.said

    def typical_stiffness(self, system):
        return jnp.asarray(1.0)


def test_a_reach_that_is_too_short_is_refused():
    system = mdsens.System(np.random.default_rng(0).uniform(0.0, 12.0, (60, 2)), 12.0)
    assert mdsens.Relaxation()(Bumps(1.4, 1.4), system).converged
    with pytest.raises(mdsens.InvalidInput, match=r"Bumps says that nothing interacts beyond 1\.4 .* its energy is"):
        mdsens.Relaxation(throw=False, max_steps=1)(Bumps(2.6, 1.4), system)


def test_a_range_of_jax_md_that_is_too_short_for_the_cell_is_refused():
    def bumps(displacement, end):
        def energy(x):
            apart = jax.vmap(jax.vmap(displacement, (None, 0)), (0, None))(x, x)
            squared = jnp.sum(apart**2, axis=-1)
            return 0.5 * jnp.sum(jnp.where(squared < end**2, (1.0 - squared / end**2) ** 4, 0.0))

        return energy

    system = mdsens.System(np.random.default_rng(0).uniform(0.0, 6.0, (12, 2)), 6.0)
    assert mdsens.Relaxation()(mdsens.JaxMD(bumps, range=1.5, end=2.9), system).converged
    with pytest.raises(mdsens.InvalidInput, match="two particles still interact at 3, half of the cell's"):
        mdsens.Relaxation()(mdsens.JaxMD(bumps, range=1.5, end=3.6), system)
