"""Potentials add up: closed forms, dense pseudo-inverses and finite differences of systems with bonds, walls, loads."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from mdsens.response.nearby import network
from samples import jammed, jammed_with_rattlers, relative

RELAX = mdsens.Relaxation(relative_tolerance=1e-13)
STIFFNESS, LENGTHS = jnp.array([1.0, 2.0, 3.0, 1.5]), jnp.array([0.9, 1.1, 1.0, 0.8])
LINKS = np.stack([np.arange(4), np.arange(1, 5)], 1)


def chain(stiffness, lengths, load, end=5.2):
    """The relaxed positions of a chain of springs between fixed ends, with a load along it on its middle."""
    x = jnp.stack([jnp.linspace(0.0, 1.0, 5) * end, jnp.zeros(5)], axis=1)
    system = mdsens.System(x, fixed=[True, False, False, False, True])
    forces = jnp.zeros((5, 2)).at[2, 0].set(load)
    return RELAX(mdsens.Bonds(LINKS, stiffness, lengths) + mdsens.Load(forces), system).positions[1:4, 0]


def chain_in_closed_form(k, lengths, load, end=5.2):
    matrix = jnp.diag(k[:-1] + k[1:]) - jnp.diag(k[1:-1], 1) - jnp.diag(k[1:-1], -1)
    pull = (k[:-1] * lengths[:-1] - k[1:] * lengths[1:]).at[-1].add(k[-1] * end).at[1].add(load)
    return jnp.linalg.solve(matrix, pull)


@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("argument", [0, 1, 2, 3])
def test_a_chain_of_springs_moves_as_the_closed_form_says(transform, argument):
    at = (STIFFNESS, LENGTHS, 0.3, 5.2)
    np.testing.assert_allclose(chain(*at), chain_in_closed_form(*at), atol=1e-12)
    found, expected = (transform(f, argument)(*at) for f in (chain, chain_in_closed_form))
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_second_derivatives_of_a_chain_are_those_of_the_closed_form():
    at = (STIFFNESS, LENGTHS, 0.3)
    found, expected = (jax.jacfwd(jax.jacrev(f))(*at) for f in (chain, chain_in_closed_form))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_bead_rests_on_a_wall_under_gravity():
    """ε/R (1 - h/R) = m g."""

    def height(epsilon, weight, level, diameter):
        wall = mdsens.PlanarWall(jnp.array([0.0, 1.0]) * level, [0.0, 1.0], epsilon)
        anchor = mdsens.Tethers([[0.0, 0.0]], stiffness=0.0)
        system = mdsens.System([[0.1, 0.4]], diameters=diameter)
        return mdsens.Relaxation(tolerance=1e-13)(wall + mdsens.Gravity(weight) + anchor, system).positions[0, 1]

    def closed_form(epsilon, weight, level, diameter):
        radius = 0.5 * diameter
        return level + radius * (1.0 - weight * radius / epsilon)

    at = (3.0, 0.2, 0.05, 1.1)
    np.testing.assert_allclose(height(*at), closed_form(*at), atol=1e-12)
    found, expected = (jax.grad(f, (0, 1, 2, 3))(*at) for f in (height, closed_form))
    np.testing.assert_allclose(found, expected, atol=1e-10)


ANCHOR = np.array([1.5, 1.0])


def heap(seed=0, n=24):
    """Disks under gravity between a floor and periodic sides, with a bond and a tether."""
    gas = mdsens.random_packing(n, packing_fraction=0.6, seed=seed)
    edge, x = float(gas.box[0, 0]), gas.positions.at[3].set(ANCHOR + 0.1)
    system = mdsens.System(x, np.diag([edge, 6 * edge]), gas.diameters, gas.species)
    potential = (
        mdsens.SoftSphere()
        + mdsens.Gravity(0.03)
        + mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0], 2.0)
        + mdsens.Bonds([[0, 1]], 0.5, 1.2)
        + mdsens.Tethers([ANCHOR], 0.1, particles=[3])
    )
    return potential, system, mdsens.Relaxation(tolerance=1e-13)(potential, system)


def energy_of_heap(x, box, D, weight, stiffness):
    """The same energy, written for this test."""
    i, j = np.triu_indices(len(D), 1)
    apart = x[j] - x[i]
    apart = apart - jnp.round(apart / jnp.diag(box)) * jnp.diag(box)
    r = jnp.sqrt(jnp.sum(apart**2, -1))
    spheres = 0.5 * jnp.sum(jnp.maximum(1.0 - r / (0.5 * (D[i] + D[j])), 0.0) ** 2)
    floor = jnp.sum(jnp.maximum(1.0 - x[:, 1] / (0.5 * D), 0.0) ** 2)
    bond = x[1] - x[0]
    bond = jnp.linalg.norm(bond - jnp.round(bond / jnp.diag(box)) * jnp.diag(box))
    tether = x[3] - ANCHOR
    tether = tether - jax.lax.stop_gradient(jnp.round(tether / jnp.diag(box))) * jnp.diag(box)
    return spheres + weight * jnp.sum(x[:, 1]) + floor + 0.5 * stiffness * (bond - 1.2) ** 2 + 0.05 * jnp.sum(tether**2)


def test_a_heap_responds_as_the_pseudo_inverse_says():
    potential, system, rest = heap()
    at = (rest.positions, system.box, system.diameters, 0.03, 0.5)
    hessian = np.asarray(jax.jit(jax.hessian(energy_of_heap))(*at)).reshape(48, 48)
    assert np.abs(jax.jit(jax.grad(energy_of_heap))(*at)).max() < 1e-12
    relax = mdsens.Relaxation(tolerance=1e-13)
    cases = {
        2: lambda D: relax(potential, system.replace(diameters=D)),
        3: lambda g: relax(potential.with_parameter("gravity.acceleration", g), system),
        4: lambda k: relax(potential.with_parameter("bonds.stiffness", k), system),
    }
    assert rest.certificate.zero_modes == 0  # the tether resists the translation along the floor
    for k, at_rest in cases.items():
        push = np.asarray(jax.jit(jax.jacfwd(jax.grad(energy_of_heap), k))(*at)).reshape(48, -1)
        value = jnp.asarray(at[k])
        found = jax.jacfwd(lambda v, at_rest=at_rest: at_rest(v).positions)(value)
        assert relative(found.reshape(48, -1), -np.linalg.solve(hessian, push)) < 1e-8


@pytest.mark.parametrize("solver", ["dense", "minres", "cholesky", "cg"])
def test_every_solver_serves_a_sum(solver):
    potential, system, rest = heap(1)
    relax = mdsens.Relaxation(tolerance=1e-13, linear_solver=getattr(linear_solvers, solver)())
    at = (rest.positions, system.box, system.diameters, 0.03, 0.5)
    hessian = np.asarray(jax.jit(jax.hessian(energy_of_heap))(*at))
    push = np.asarray(jax.jit(jax.jacfwd(jax.grad(energy_of_heap), 2))(*at))
    expected = -np.linalg.solve(hessian.reshape(48, 48), push.reshape(48, -1)).sum(axis=0)
    found = jax.grad(lambda D: jnp.sum(relax(potential, system.replace(diameters=D)).positions))(system.diameters)
    assert relative(found, expected) < 1e-6


def test_parameters_are_named_after_their_terms():
    potential, _, rest = heap()
    assert potential.parameter_names()[:3] == ["soft_sphere.epsilon", "soft_sphere.alpha", "gravity.acceleration"]
    assert float(potential.bonds.stiffness) == 0.5
    twice = mdsens.Bonds([[0, 1]], 1.0, 1.0) + mdsens.Bonds([[1, 2]], 2.0, 1.0)
    assert twice.names == ("bonds", "bonds_2")
    assert float(twice.with_parameter("bonds_2.stiffness", 3.0).bonds_2.stiffness) == 3.0
    found = mdsens.sensitivity(rest, "bonds.rest_length")
    assert found.trustworthy
    with pytest.raises(mdsens.InvalidInput, match=r"no parameter 'bonds\.length' here; there are .*bonds\.sti"):
        mdsens.sensitivity(rest, "bonds.length")
    with pytest.raises(AttributeError, match="no term or attribute 'bond'; its terms are soft_sphere, gravity"):
        _ = potential.bond


def test_a_gradient_by_a_whole_sum_has_its_shape():
    potential, system, _ = heap()
    relax = mdsens.Relaxation(tolerance=1e-13)
    found = eqx.filter_grad(lambda p: relax(p, system).energy)(potential)
    by_hand = jax.grad(lambda k: relax(potential.with_parameter("bonds.stiffness", k), system).energy)(0.5)
    np.testing.assert_allclose(found.bonds.stiffness, by_hand, atol=1e-12)


def test_jit_and_vmap_give_the_same():
    potential, _, rest = heap()
    relax = mdsens.Relaxation(tolerance=1e-12)

    def top(weight):
        return jnp.max(relax(potential.with_parameter("gravity.acceleration", weight), rest.system).positions[:, 1])

    weights = jnp.array([0.03, 0.0301])
    each = jnp.stack([jax.grad(top)(w) for w in weights])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(top)))(weights), each, rtol=1e-6)


def test_particles_of_large_systems_keep_their_numbers():
    """Neighbor lists sort particles; bonds name them."""
    rest = jammed(0, 400)
    i, j = (np.asarray(end)[np.asarray(rest.neighbors.valid)] for end in (rest.neighbors.i, rest.neighbors.j))
    pairs = np.stack([i, j], 1)[::7]
    potential = mdsens.SoftSphere() + mdsens.Bonds(pairs, 0.2, 0.9)
    by_list = mdsens.Relaxation(tolerance=1e-12, neighbors=mdsens.NeighborList())(potential, rest.system)
    by_all = mdsens.Relaxation(tolerance=1e-12, neighbors=mdsens.AllPairs())(potential, rest.system)
    np.testing.assert_allclose(by_list.energy, by_all.energy, rtol=1e-10)
    backbone = ~np.asarray(by_all.linearization.contacts.rattlers)
    np.testing.assert_allclose(by_list.positions[backbone], by_all.positions[backbone], atol=1e-7)


def test_a_bonded_particle_is_no_rattler():
    rest = jammed_with_rattlers()
    rattlers = rest.certificate.rattlers
    assert rattlers
    near = (rattlers[0] + 1) % 128
    bonded = mdsens.SoftSphere() + mdsens.Bonds([[rattlers[0], near]], 1.0, 0.5)
    found = mdsens.Relaxation(tolerance=1e-12)(bonded, rest.system).certificate
    assert rattlers[0] not in found.rattlers


def test_a_general_potential_with_tethers():
    jax_md = pytest.importorskip("jax_md")
    x = np.array([[0.0, 0.0], [1.1, 0.0], [0.5, 0.9]])
    pair = mdsens.JaxMD(jax_md.energy.lennard_jones_pair, sigma=1.0, epsilon=1.0)
    same = mdsens.LennardJones(range=np.inf)
    tethers = mdsens.Tethers(x, stiffness=0.3)
    found, expected = (mdsens.Relaxation(tolerance=1e-12)(p + tethers, mdsens.System(x)) for p in (pair, same))
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-9)
    assert found.certificate.zero_modes == 0


def test_what_cannot_be_summed_is_refused():
    with pytest.raises(TypeError):
        mdsens.SoftSphere() + 1.0
    assert sum([mdsens.SoftSphere(), mdsens.Gravity(1.0)]).names == ("soft_sphere", "gravity")
    with pytest.raises(mdsens.InvalidInput, match="need as many different names"):
        mdsens.Sum(mdsens.SoftSphere(), mdsens.Gravity(1.0), names=("a", "a"))


def test_a_load_that_nothing_balances_is_refused_by_name():
    rest = jammed(0, 32)
    load = mdsens.Load(np.broadcast_to([0.001, 0.0], (32, 2)))
    with pytest.raises(mdsens.NotConverged, match=r"a net force of 0\.001 on each particle"):
        mdsens.Relaxation()(mdsens.SoftSphere() + load, rest.system)
    with pytest.raises(mdsens.NotConverged, match="nothing balances it"):
        mdsens.Relaxation()(load, rest.system)
    slack = mdsens.Tethers(rest.positions, stiffness=0.0)
    with pytest.raises(mdsens.InvalidInput, match=r"nothing resists a motion .*: Tethers has no stiffness"):
        mdsens.Relaxation()(slack, rest.system)


def test_the_response_to_a_load_is_the_greens_function():
    rest = jammed(0, 32)
    fixed = rest.system.replace(fixed=np.arange(32) == 0)
    force = np.zeros((32, 2))

    def at(forces):
        return mdsens.Relaxation(tolerance=1e-12)(mdsens.SoftSphere() + mdsens.Load(forces), fixed).positions

    found = np.asarray(jax.jacfwd(at)(jnp.asarray(force))).reshape(64, 64)
    hessian = np.asarray(rest.linearization.hessian.dense()).reshape(64, 64)[2:, 2:]
    np.testing.assert_allclose(found[2:, 2:], np.linalg.inv(hessian), atol=1e-8)
    assert not found[:2].any()


def test_the_range_of_validity_is_given_with_bonds():
    packing = jammed(0, 32)
    i, j = (
        int(np.asarray(end)[np.argmax(packing.neighbors.valid)]) for end in (packing.neighbors.i, packing.neighbors.j)
    )
    bonded = mdsens.SoftSphere() + mdsens.Bonds([[i, j]], 0.1, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-12)(bonded, packing.system)
    found = mdsens.validity(rest, "bonds.stiffness")
    for share, same in ((0.95, True), (1.05, False)):
        value = rest.potential.bonds.stiffness + share * found.upper
        moved = mdsens.Relaxation(tolerance=1e-12)(bonded.with_parameter("bonds.stiffness", value), rest.system)
        assert (network(moved).contacts == network(rest).contacts) == same


def test_a_disk_between_two_walls_is_no_rattler():
    def middle(top):
        slit = mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0], 1.0) + mdsens.PlanarWall(
            jnp.array([0.0, 1.0]) * top, [0.0, -1.0], 1.0
        )
        ties = mdsens.Tethers([[3.0, 0.4]], 0.5, particles=[0])
        system = mdsens.System([[3.0, 0.4], [0.0, 0.4]])
        return mdsens.Relaxation(tolerance=1e-13)(mdsens.SoftSphere() + slit + ties, system)

    assert middle(0.9).certificate.rattlers == ()
    found = jax.jacfwd(lambda top: middle(top).positions[:, 1])(0.9)
    step = 1e-6
    expected = (middle(0.9 + step).positions - middle(0.9 - step).positions)[:, 1] / (2 * step)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(found[1], 0.5, atol=1e-12)


@pytest.mark.parametrize("kind", ["wall", "string"])
def test_a_term_that_just_sets_in_has_no_response_unless_one_side_is_asked_for(kind):
    class Strings(mdsens.Bonds):
        contact = True

        def bond_energy(self, r):
            return jnp.where(r > self.rest_length, 0.5 * self.stiffness * (r - self.rest_length) ** 2, 0.0)

    tie, x = mdsens.Tethers([[0.0, 0.5]], 1.0, particles=[0]), [[0.0, 0.5], [3.0, 0.5]]
    if kind == "wall":
        potential = tie + mdsens.PlanarWall([0.0, 0.0], [0.0, 1.0], 1.0)
    else:
        potential = tie + Strings([[0, 1]], 1.0, 3.0)
    system = mdsens.System(x, fixed=[False, True])

    def at(anchor, relax):
        return relax(potential.with_parameter("tethers.anchors", anchor), system).positions

    with pytest.raises(mdsens.NotDifferentiable, match="particle 0 and a wall, or another term that sets in there"):
        jax.jacfwd(lambda a: at(a, RELAX))(potential.tethers.anchors)
    one_sided = mdsens.Relaxation(relative_tolerance=1e-13, one_sided=True)
    assert np.isfinite(jax.jacfwd(lambda a: at(a, one_sided))(potential.tethers.anchors)).all()
    traced = jax.jit(jax.jacfwd(lambda a: at(a, RELAX)))(potential.tethers.anchors)
    assert np.isnan(traced).any()


def test_there_is_no_stress_with_what_is_tied_to_space():
    _, system, rest = heap()
    for name in ("pressure", "stress", "bulk_modulus", "elastic_tensor"):
        with pytest.raises(mdsens.InvalidInput, match="Gravity, PlanarWall, Tethers: tied to points in space"):
            getattr(mdsens.properties, name)(rest)
    assert set(mdsens.properties.table(rest)) == {"energy", "volume", "packing_fraction", "contact_number"}
    with pytest.raises(mdsens.InvalidInput, match="there is no constant pressure with Gravity"):
        mdsens.Relaxation(pressure=0.1)(rest.potential, system)


def test_a_prediction_across_a_wall_contact_is_not_valid():
    wall, tie = mdsens.PlanarWall([0.0, 0.2], [0.0, 1.0], 1.0), mdsens.Tethers([[0.0, 0.6]], 1.0)
    rest = mdsens.Relaxation(tolerance=1e-12)(wall + tie, mdsens.System([[0.0, 0.6]]))
    predictor = mdsens.uncertainty.predict(rest, ["planar_wall.position"])
    near, far = (predictor([0.0, y]) for y in (0.19, 0.0))
    assert bool(near.valid)
    assert not bool(far.valid)
    assert int(far.contact_changes) == 1


def test_vectors_of_parameters_take_square_arrays_of_points_as_they_are():
    anchors = np.array([[0.0, 0.0], [3.0, 1.0]])
    potential = mdsens.Tethers(anchors, 1.0)
    system = mdsens.System(anchors)
    parameters = mdsens.parameters.ParameterVector.from_names(["anchors"], potential, system)
    np.testing.assert_array_equal(parameters.vector(potential, system), anchors.ravel())
    again, _ = parameters.apply(parameters.vector(potential, system), potential, system)
    np.testing.assert_array_equal(again.anchors, anchors)


class Trap(mdsens.Potential):
    """A custom energy, which needs no pairs and has no reach."""

    strength: jax.Array

    def energy(self, system, neighbors):
        return 0.5 * self.strength * jnp.sum((system.positions - 0.8) ** 2)


def test_images_count_in_a_sum_with_a_potential_without_reach():
    potential = mdsens.SoftSphere() + Trap(jnp.asarray(0.1))
    x = [[0.1, 0.1], [0.9, 0.7]]
    wide = mdsens.System(x, box=4.0)
    assert bool(mdsens.Relaxation()(potential, wide).minimum)
    narrow = mdsens.System(x, box=1.6)
    with pytest.raises(mdsens.InvalidInput, match="the cell is too small for the cutoff"):
        mdsens.Relaxation()(potential, narrow)

    def energy(epsilon):
        return mdsens.Relaxation()(mdsens.SoftSphere(epsilon) + Trap(jnp.asarray(0.1)), narrow).energy

    assert np.isnan(jax.jit(energy)(1.0))


def test_names_of_terms_are_no_attributes_and_are_kept():
    class Contact(mdsens.Bonds):
        pass

    assert (Contact([[0, 1]]) + mdsens.Gravity()).names == ("contact_term", "gravity")
    own = mdsens.Sum(mdsens.Bonds([[0, 1]]), mdsens.Bonds([[1, 2]]), names=("soft", "hard")) + mdsens.Gravity()
    assert own.names == ("soft", "hard", "gravity")
    with pytest.raises(mdsens.InvalidInput, match="no attributes of a potential"):
        mdsens.Sum(mdsens.SoftSphere(), mdsens.Gravity(), names=("terms", "gravity"))


def test_a_bond_that_grows_beyond_half_the_cell_is_refused_at_the_end():
    system = mdsens.System([[0.0, 0.0], [1.0, 0.0]], box=4.0)
    potential = mdsens.Bonds([[0, 1]], 0.01, 1.0) + mdsens.Load(np.array([[-0.012, 0.0], [0.012, 0.0]]))
    with pytest.raises(mdsens.InvalidInput, match="a term of Bonds has grown beyond half the cell"):
        mdsens.Relaxation()(potential, system)
