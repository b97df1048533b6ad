"""The base of potentials that are sums over given groups: parameters of each term, typical scales, mistakes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import check_derivatives, configuration
from mdsens.landscape.hessian import GeneralHessian
from mdsens.potentials.base import parameter

X = np.random.default_rng(0).normal(size=(5, 2))


class Dihedral(mdsens.LocalPotential):
    """Of four particles, with a parameter that is a vector for each term, and one that all terms share."""

    weights: jax.Array = parameter()
    scale: jax.Array = parameter(default=1.0)
    quads: tuple[tuple[int, ...], ...] = eqx.field(default=((0, 1, 2, 3), (1, 2, 3, 4)), static=True)

    per_term = ("weights",)

    def groups(self, system):
        return jnp.asarray(self.quads)

    def term_energy(self, x, diameters):
        steps = jnp.sum((x[1:] - x[:-1]) ** 2, axis=1)
        return jnp.sum(self.weights * steps * diameters[1:]) / self.scale + jnp.prod(steps)


def test_a_potential_of_ones_own_over_four_particles():
    weights, diameters = np.array([[1.0, 2.0, 3.0], [0.5, 1.0, 4.0]]), np.linspace(0.5, 1.5, 5)

    def energy(x):
        total = 0.0
        for quad, weight in zip(((0, 1, 2, 3), (1, 2, 3, 4)), weights, strict=True):
            steps = jnp.sum(jnp.diff(x[np.array(quad)], axis=0) ** 2, axis=1)
            total += jnp.sum(weight * steps * diameters[np.array(quad[1:])]) / 2.0 + jnp.prod(steps)
        return total

    check_derivatives(Dihedral(weights, 2.0), mdsens.System(X, None, diameters), energy, 1e-9)
    assert Dihedral(weights).parameter_names() == ["weights", "scale"]


def test_blocks_equal_differentiating_the_gradient():
    here = configuration(mdsens.Bonds([[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]], 2.0, 0.7), mdsens.System(X))
    general = GeneralHessian(here.potential, here.system, here.neighbors)
    np.testing.assert_allclose(here.hessian().dense(), general.dense(), atol=1e-12)


def test_the_typical_stiffness_of_terms_is_measured_where_they_are():
    system = mdsens.System([[1.0, 0.0], [0.0, 0.0], [0.3, 0.9]])
    angle = mdsens.Angles([[0, 1, 2]], 2.0, 1.0).prepared_for(system)
    blocks = np.abs(np.asarray(angle.blocks(system)))
    assert float(angle.typical_stiffness(system)) == pytest.approx(np.einsum("kaka->ka", blocks[0]).max())
    assert float(mdsens.Load(X).typical_stiffness(mdsens.System(X))) == 0.0


def test_parameters_of_each_term_that_do_not_fit_are_refused_under_jit_too():
    with pytest.raises(mdsens.InvalidInput, match="weights of Dihedral must be one for all terms or one for"):
        jax.jit(lambda weights: Dihedral(weights).energy(mdsens.System(X)))(jnp.ones((3, 3)))


@pytest.mark.parametrize("name", ["energy", "gradient", "local_terms", "blocks"])
def test_what_follows_from_the_terms_cannot_be_overridden(name):
    with pytest.raises(mdsens.InvalidInput, match=rf"Own overrides {name}\(\), which follows from term_energy"):
        type("Own", (mdsens.LocalPotential,), {name: lambda self, system: 0.0})


def test_no_list_of_pairs_is_needed_by_many_bonded_particles():
    """More particles than all pairs are compared of, whichever list is asked for."""
    n = 40
    turn = 2 * np.pi * np.arange(n) / n
    ring = mdsens.System(np.stack([np.cos(turn), np.sin(turn)], axis=1) * n / (2 * np.pi))
    anchors = 1.1 * np.asarray(ring.positions)
    for finder in (None, mdsens.NeighborList(), mdsens.AllPairs()):
        rest = mdsens.Relaxation(neighbors=finder)(mdsens.Tethers(anchors), ring)
        np.testing.assert_allclose(rest.positions, anchors, atol=1e-10)


def test_a_relaxation_under_vmap_over_parameters_of_each_term():
    system = mdsens.System([[0.0, 0.0], [1.1, 0.1], [0.4, 0.9]])
    edges = np.array([[0, 1], [1, 2], [2, 0]])
    rest_lengths = jnp.asarray([[1.0, 1.0, 1.0], [1.0, 1.1, 0.9]])
    relax = mdsens.Relaxation()
    x = jax.jit(jax.vmap(lambda rest: relax(mdsens.Bonds(edges, 1.0, rest), system).positions))(rest_lengths)
    found = jnp.linalg.norm(x[:, edges[:, 1]] - x[:, edges[:, 0]], axis=-1)
    np.testing.assert_allclose(found, rest_lengths, atol=1e-9)


def test_a_potential_that_is_no_sum_of_terms_supports_all_particles():
    system = mdsens.System(X)
    assert mdsens.StillingerWeber().local_terms(system) is None
    np.testing.assert_array_equal(mdsens.StillingerWeber().supports(system, None, 0.0), np.full(5, 3))


def own_bonds(energy):
    return type("Ropes", (mdsens.Bonds,), {"bond_energy": energy})([[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("energy", "why"),
    [
        (lambda self, r: np.exp(-np.asarray(r)), r"use those of jax\.numpy"),
        (lambda self, r: r if r > self.rest_length else 0.0, r"use jnp\.where"),
        (lambda self, r: self.strength * r, "no attribute 'strength'"),
        (lambda self, r: jnp.ones(3) * r, r"must be one number, and is an array \[3\]"),
        (lambda self: 1.0, "takes 1 positional argument"),
    ],
)
def test_mistakes_in_a_term_of_ones_own_are_explained(energy, why):
    system = mdsens.System(X)
    with pytest.raises(mdsens.InvalidInput, match=f"the energy of one term of Ropes .*{why}"):
        mdsens.Relaxation()(own_bonds(energy), system)
    with pytest.raises(mdsens.InvalidInput, match="the energy of one term of Ropes"):
        mdsens.Relaxation()(mdsens.SoftSphere() + own_bonds(energy), system)
