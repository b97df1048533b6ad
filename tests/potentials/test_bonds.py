"""Bonds: energies, forces and second derivatives, images across faces, parameters of each bond, equilibria."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import TRICLINIC, check_derivatives, nearest

TRIANGLE = mdsens.System([[0.0, 0.0], [1.1, 0.1], [0.4, 0.9]])
EDGES = np.array([[0, 1], [1, 2], [2, 0]])


def network(dim, box, n=8, seed=1):
    """Particles in a cell, some of them outside of it, and bonds of which several cross its faces."""
    rng = np.random.default_rng(seed)
    cell = TRICLINIC[dim] if box is None else box
    x = rng.uniform(-0.2, 1.2, (n, dim)) @ cell
    i, j = np.triu_indices(n, 1)
    lengths = np.linalg.norm(nearest(x[j] - x[i], box), axis=1)
    near = lengths < 0.5 * np.min(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))
    pairs = np.stack([i, j], axis=1)[near][: 2 * n]
    parameters = rng.uniform(0.5, 2.0, len(pairs)), rng.uniform(0.5, 1.5, len(pairs))
    return mdsens.System(x, box), pairs, *parameters


def lengths(x, pairs, box=None):
    return np.linalg.norm(nearest(x[pairs[:, 1]] - x[pairs[:, 0]], box), axis=1)


def of_bonds(system, pairs, stiffness, rest_length):
    def energy(x):
        r = jnp.linalg.norm(nearest(x[pairs[:, 1]] - x[pairs[:, 0]], system.box), axis=1)
        return jnp.sum(0.5 * stiffness * (r - rest_length) ** 2)

    return energy


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "triclinic"])
def test_energy_forces_and_hessian_are_those_of_springs(dim, periodic):
    system, pairs, stiffness, rest = network(dim, TRICLINIC[dim] if periodic else None)
    if periodic:
        apart = system.positions[pairs[:, 1]] - system.positions[pairs[:, 0]]
        assert not np.allclose(nearest(apart, system.box), apart)
    check_derivatives(mdsens.Bonds(pairs, stiffness, rest), system, of_bonds(system, pairs, stiffness, rest))


def test_one_bond_in_closed_form():
    """E = ½ k (r - l)², force k (r - l) toward each other, stiffness k along and k (1 - l/r) across."""
    system = mdsens.System([[0.0, 0.0], [1.5, 0.0]])
    bond = mdsens.Bonds([[0, 1]], 3.0, 1.2).prepared_for(system)
    assert float(bond.energy(system)) == pytest.approx(0.5 * 3.0 * 0.3**2)
    np.testing.assert_allclose(bond.gradient(system, None), [[-0.9, 0.0], [0.9, 0.0]], atol=1e-14)
    block = np.diag([3.0, 3.0 * (1 - 1.2 / 1.5)])
    np.testing.assert_allclose(bond.blocks(system)[0, 0, :, 0], block, atol=1e-13)
    np.testing.assert_allclose(bond.blocks(system)[0, 0, :, 1], -block, atol=1e-13)


def test_each_bond_has_its_own_derivatives():
    """∂E/∂k = ½ (r - l)² and ∂E/∂l = -k (r - l) of each bond."""
    system, pairs, stiffness, rest = network(2, TRICLINIC[2])
    bonds = mdsens.Bonds(pairs, stiffness, rest)
    slope = eqx.filter_grad(lambda bonds: bonds.energy(system))(bonds)
    r = lengths(system.positions, pairs, system.box)
    np.testing.assert_allclose(slope.stiffness, 0.5 * (r - rest) ** 2, atol=1e-13)
    np.testing.assert_allclose(slope.rest_length, -stiffness * (r - rest), atol=1e-13)
    assert bonds.parameter_names() == ["stiffness", "rest_length"]
    np.testing.assert_array_equal(bonds.get_parameter("rest_length"), rest)
    assert float(bonds.with_parameter("stiffness", 2.0 * stiffness).energy(system)) == pytest.approx(
        2.0 * float(bonds.energy(system))
    )


def test_one_number_serves_all_bonds():
    shared, each = mdsens.Bonds(EDGES, 2.0, 1.1), mdsens.Bonds(EDGES, [2.0] * 3, [1.1] * 3)
    assert float(shared.energy(TRIANGLE)) == pytest.approx(float(each.energy(TRIANGLE)), rel=1e-14)
    slope = eqx.filter_grad(lambda bonds: bonds.energy(TRIANGLE))
    assert float(slope(shared).stiffness) == pytest.approx(float(jnp.sum(slope(each).stiffness)), rel=1e-13)


def test_bonds_across_a_face_move_with_the_cell():
    """The derivative by the cell is the stress of the bonds: dE = Σ k (r - l) (r·dε r)/r."""
    system, pairs, stiffness, rest = network(2, TRICLINIC[2])
    bonds = mdsens.Bonds(pairs, stiffness, rest)
    strain = jnp.asarray([[0.3, 0.1], [0.1, -0.2]])

    def strained(amount):
        deformation = jnp.eye(2) + amount * strain
        moved = system.replace(positions=system.positions @ deformation, box=system.box @ deformation)
        return bonds.energy(moved)

    x = system.positions
    apart = nearest(x[pairs[:, 1]] - x[pairs[:, 0]], system.box)
    r = np.linalg.norm(apart, axis=1)
    expected = np.sum(stiffness * (r - rest) * np.einsum("pa,ab,pb->p", apart, strain, apart) / r)
    assert float(jax.grad(strained)(0.0)) == pytest.approx(expected, rel=1e-12)


def test_bonds_with_an_energy_of_ones_own():
    class Strings(mdsens.Bonds):
        def bond_energy(self, r):
            return 0.5 * self.stiffness * jnp.maximum(r - self.rest_length, 0.0) ** 2

    r = lengths(TRIANGLE.positions, EDGES)
    slack = Strings(EDGES, [1.0, 2.0, 3.0], [0.8, 2.0, 0.9])
    expected = 0.5 * 1.0 * (r[0] - 0.8) ** 2 + 0.5 * 3.0 * (r[2] - 0.9) ** 2
    assert float(slack.energy(TRIANGLE)) == pytest.approx(expected, rel=1e-13)
    assert float(slack.typical_stiffness(TRIANGLE)) > 0.0
    with pytest.raises(mdsens.InvalidInput, match=r"Wrong overrides energy\(\), which follows from bond_energy"):
        type("Wrong", (mdsens.Bonds,), {"energy": lambda self, system, neighbors: 0.0})


def test_under_jit_and_vmap():
    """Batches of positions, of stiffnesses, and of whole potentials, with other bonds in each."""
    system, pairs, stiffness, rest = network(2, TRICLINIC[2])

    def energy(x, pairs, stiffness):
        return mdsens.Bonds(pairs, stiffness, rest).energy(system.replace(positions=x))

    other = jnp.asarray(pairs[::-1])
    shift = 0.1 * jnp.arange(3.0)[:, None, None]
    xs, ks = system.positions + shift, jnp.stack([stiffness, 2 * stiffness, 3 * stiffness])
    many = jax.jit(jax.vmap(energy, (0, None, 0)))(xs, jnp.asarray(pairs), ks)
    np.testing.assert_allclose(
        many, [energy(x, jnp.asarray(pairs), k) for x, k in zip(xs, ks, strict=True)], rtol=1e-12
    )
    both = jax.jit(jax.vmap(energy, (None, 0, None)))(
        system.positions, jnp.stack([jnp.asarray(pairs), other]), jnp.asarray(stiffness)
    )
    assert float(both[0]) == pytest.approx(float(mdsens.Bonds(pairs, stiffness, rest).energy(system)), rel=1e-12)
    assert float(both[1]) == pytest.approx(float(mdsens.Bonds(other, stiffness, rest).energy(system)), rel=1e-12)


def test_the_typical_scales_are_those_of_the_bonds():
    bonds = mdsens.Bonds(EDGES, [1.0, 4.0, 2.0], [1.0, 2.0, 3.0])
    assert float(bonds.typical_stiffness(TRIANGLE)) == pytest.approx(2.0)
    assert float(mdsens.Bonds(EDGES, [1.0, 100.0, 1.0]).typical_stiffness(TRIANGLE)) == pytest.approx(40.0)
    assert float(bonds.length(TRIANGLE)) == pytest.approx(2.0)
    assert float(bonds.reach(TRIANGLE)) == 0.0 and not bonds.needs_pairs


def test_bonded_particles_are_no_rattlers():
    system = mdsens.System([[0.0, 0.0], [1.0, 0.0], [3.0, 3.0]])
    bond = mdsens.Bonds([[0, 1]])
    np.testing.assert_array_equal(bond.supports(system, bond.local_terms(system), 1e-10), [3, 3, 0])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (([[0, 3]],), "Bonds names particle 3, and there are 3, counted from 0"),
        (([[0, -1]],), "Bonds names particle -1"),
        (([[0, 1], [2, 2]],), r"the bond \[2, 2\] joins a particle to itself"),
        (([[0.0, 1.0]],), r"must be integers \[m, 2\], such as \[\[0, 1\], \[1, 2\]\], not float"),
        (([0, 1],), r"must be integers \[m, 2\].* not int.*\[2\]"),
        (([[0, 1, 2]],), r"not int.*\[1, 3\]"),
        ((np.zeros((0, 2), int),), r"not int.*\[0, 2\]"),
        (("01",), "must be integers"),
        (([[0, 1], [1]],), "must be integers"),
        ((EDGES, [1.0, 2.0]), r"stiffness of Bonds must be one for all terms or one for each of the 3.* \[2\]"),
        ((EDGES, 1.0, [[1.0]]), r"rest_length of Bonds must be one for all terms .* \[1, 1\]"),
        ((EDGES, [1.0, -2.0, 1.0]), "stiffness of Bonds must not be negative, and is -2"),
        ((EDGES, 1.0, -1.0), "rest_length of Bonds must not be negative, and is -1"),
        ((EDGES, "hard"), "a parameter is a number"),
    ],
)
def test_bonds_that_make_no_sense_are_refused(arguments, why):
    with pytest.raises(mdsens.InvalidInput, match=why):
        mdsens.Relaxation()(mdsens.Bonds(*arguments), TRIANGLE)


@pytest.mark.parametrize("rest_length", [1.0, 2.5])
def test_a_bond_whose_nearest_image_is_ambiguous_is_refused(rest_length):
    x = [[0.0, 0.0], [2.1 if rest_length < 2 else 1.0, 1.9]]
    with pytest.raises(
        mdsens.InvalidInput, match=r"the bond \[0, 1\] is .* long.*half of the cell's smallest height is 2"
    ):
        mdsens.Relaxation()(mdsens.Bonds([[0, 1]], 1.0, rest_length), mdsens.System(x, 4.0))


def test_a_particle_that_is_not_there_makes_the_result_no_number_under_jit():
    relax = mdsens.Relaxation()
    energy = jax.jit(lambda pairs: relax(mdsens.Bonds(pairs), TRIANGLE).energy)(jnp.asarray([[0, 1], [1, 7]]))
    assert np.isnan(float(energy))


def test_bonds_show_what_was_given():
    assert repr(mdsens.Bonds([[0, 1]], 2.0, [1.5])) == "Bonds(pairs=[[0, 1]], stiffness=2.0, rest_length=[1.5])"


def test_a_triangle_takes_the_lengths_of_its_bonds():
    """Its shape against finite differences, its response against the pseudo-inverse of NumPy."""
    rest_length, stiffness = jnp.asarray([1.0, 1.1, 0.9]), np.array([1.0, 2.0, 3.0])
    relax = mdsens.Relaxation(tolerance=1e-13)

    def positions(rest_length):
        return relax(mdsens.Bonds(EDGES, stiffness, rest_length), TRIANGLE).positions

    def edges(x):
        return jnp.linalg.norm(x[EDGES[:, 1]] - x[EDGES[:, 0]], axis=1)

    x = positions(rest_length)
    np.testing.assert_allclose(edges(x), rest_length, atol=1e-12)
    forward, reverse = jax.jacfwd(positions)(rest_length), jax.jacrev(positions)(rest_length)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)

    normal = np.asarray((x[EDGES[:, 1]] - x[EDGES[:, 0]]) / edges(x)[:, None])
    compatibility = np.zeros((3, 3, 2))  # the change of length of each bond
    for k, (i, j) in enumerate(EDGES):
        compatibility[k, i], compatibility[k, j] = -normal[k], normal[k]
    compatibility = compatibility.reshape(3, 6)
    hessian = compatibility.T @ (stiffness[:, None] * compatibility)
    by_hand = np.linalg.pinv(hessian, rcond=1e-9, hermitian=True) @ (compatibility.T * stiffness)
    np.testing.assert_allclose(forward.reshape(6, 3), by_hand, atol=1e-10)

    h = 1e-4
    for k in range(3):
        step = h * jnp.eye(3)[k]
        difference = (edges(positions(rest_length + step)) - edges(positions(rest_length - step))) / (2 * h)
        np.testing.assert_allclose(difference, jax.jvp(edges, (x,), (forward[:, :, k],))[1], atol=1e-8)


def test_a_frustrated_network_responds_as_differences_of_equilibria_do():
    """Bonds under tension and pressure, in a cell, of more particles than all pairs are compared of."""
    side, n = 6, 36
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    lattice = np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]])

    def label(cell):
        return (cell % side) @ [side, 1]

    pairs = np.concatenate([np.stack([label(cells), label(cells + step)], 1) for step in ([1, 0], [0, 1], [1, -1])])
    rng = np.random.default_rng(3)
    system = mdsens.System(cells @ lattice + rng.uniform(-0.05, 0.05, (n, 2)), side * lattice)
    rest = jnp.asarray(rng.uniform(0.9, 1.1, len(pairs)))
    relax = mdsens.Relaxation(tolerance=1e-12)

    def energy(rest):
        return relax(mdsens.Bonds(pairs, 1.0, rest), system).energy

    def position(rest):
        x = relax(mdsens.Bonds(pairs, 1.0, rest), system).positions
        return x - x.mean(axis=0)

    direction, h = jnp.asarray(rng.normal(size=len(pairs))), 1e-5
    slope = jax.jvp(position, (rest,), (direction,))[1]
    difference = (position(rest + h * direction) - position(rest - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, difference, atol=1e-7)
    r = lengths(position(rest), pairs, system.box)
    np.testing.assert_allclose(jax.grad(energy)(rest), -(r - rest), atol=1e-9)  # Hellmann and Feynman


def test_bonds_tell_their_lengths_and_tensions_and_some_of_them_can_be_taken():
    system = mdsens.System([[0.0, 0.0], [1.0, 0.0], [3.5, 0.0]], box=4.0)
    bonds = mdsens.Bonds([[0, 1], [1, 2], [0, 2]], [1.0, 2.0, 4.0], [0.8, 1.0, 0.5])
    np.testing.assert_allclose(bonds.lengths(system), [1.0, 1.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(bonds.tensions(system), [0.2, 1.0, 0.0], atol=1e-15)
    some = bonds.only([True, False, True])
    np.testing.assert_array_equal(some.pairs, [[0, 1], [0, 2]])
    np.testing.assert_array_equal(some.stiffness, [1.0, 4.0])
    assert float(mdsens.Bonds([[0, 1], [1, 2]], 3.0).only([1]).stiffness) == 3.0
