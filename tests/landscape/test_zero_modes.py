import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.landscape.configuration import Configuration
from mdsens.landscape.contacts import find_rattlers
from mdsens.landscape.zero_modes import find_clusters, known_zero_modes
from samples import dense_of, hessian_of, jammed, jammed_with_rattlers, reference_of


@eqx.filter_jit
def modes_at(here, rattlers=None):
    rattlers = find_rattlers(here) if rattlers is None else rattlers
    backbone = here.without(rattlers)
    return known_zero_modes(backbone, rattlers, backbone.hessian())


def modes_of(rest):
    return modes_at(rest.configuration)


def by_peeling(contacts, n, needed):
    """Rattlers, one at a time, by the definition."""
    kept = set(range(n))
    while True:
        degree = {k: sum(1 for pair in contacts if k in pair and set(pair) <= kept) for k in kept}
        rattlers = {k for k in kept if degree[k] < needed}
        if not rattlers:
            return set(range(n)) - kept
        kept -= rattlers


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.86), (2, 0.9), (3, 0.68)])
def test_rattlers_are_those_found_by_peeling(dim, packing_fraction):
    packings = [jammed(seed=seed, dim=dim, packing_fraction=packing_fraction) for seed in range(2)]
    for rest in [*packings, jammed_with_rattlers(packing_fraction, dim=dim)]:
        rattlers = set(np.flatnonzero(find_rattlers(rest.configuration)).tolist())
        assert rattlers == by_peeling(reference_of(rest).network, 128, dim + 1)


def test_a_jammed_packing_has_only_the_known_zero_modes():
    for seed in range(3):
        rest = jammed(seed=seed, packing_fraction=0.9)
        eigenvalues = np.linalg.eigvalsh(reference_of(rest).hessian())
        assert rest.certificate.zero_modes == np.sum(np.abs(eigenvalues) < 1e-9)
        assert int(modes_of(rest).count) == rest.certificate.zero_modes


@pytest.mark.parametrize(("dim", "count"), [(2, 3), (3, 6)])
def test_an_open_cluster_translates_and_turns_freely(dim, count):
    cluster = mdsens.System(np.random.default_rng(1).uniform(0, 2.2, size=(9, dim)), None, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-11)(mdsens.LennardJones(), cluster)
    modes = modes_of(rest)
    assert int(modes.count) == count == rest.certificate.zero_modes
    matrix = hessian_of(rest.configuration)
    assert all(float(jnp.max(jnp.abs(matrix.product(mode)))) < 1e-8 for mode in modes.rigid)
    np.testing.assert_allclose(jnp.tensordot(modes.rigid, modes.rigid, ((1, 2), (1, 2))), np.eye(count), atol=1e-12)


def test_a_dimer_in_space_has_five_rigid_motions():
    dimer = mdsens.System([[0.0, 0.0, 0.0], [0.7, 0.7, 0.7]], None, 1.0)
    pair = mdsens.AllPairs().build(mdsens.LennardJones(), dimer)
    modes = modes_at(Configuration(mdsens.LennardJones(), dimer, pair), jnp.zeros(2, bool))
    assert (int(modes.translations), int(modes.rotations), int(modes.count)) == (3, 2, 5)
    u = jax.random.normal(jax.random.key(0), (2, 3))
    stretch = modes.project(u)
    np.testing.assert_allclose(np.cross(stretch[0], dimer.positions[1]), 0.0, atol=1e-12)


def test_every_cluster_has_its_own_translations_and_rotations():
    """Two triangles and a dimer far apart, and one particle alone."""
    triangle = np.array([[0.0, 0.0], [1.1, 0.0], [0.55, 0.95]])
    x = np.concatenate([triangle, triangle + np.array([20.0, 3.0]), [[0.0, 30.0], [1.1, 30.0], [40.0, 40.0]]])
    shuffled = np.random.default_rng(0).permutation(9)
    system = mdsens.System(x[shuffled], None, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-11)(mdsens.LennardJones(), system)
    label = np.asarray(find_clusters(rest.configuration))
    groups = {frozenset(np.flatnonzero(label == k).tolist()) for k in label}
    place = {int(old): new for new, old in enumerate(shuffled)}
    expected = [range(0, 3), range(3, 6), range(6, 8), range(8, 9)]
    assert groups == {frozenset(place[k] for k in group) for group in expected}
    modes = modes_of(rest)
    assert (int(modes.translations), int(modes.rotations), int(modes.rattlers.sum())) == (6, 3, 1)
    eigenvalues = np.linalg.eigvalsh(dense_of(hessian_of(rest.configuration)))
    assert int(modes.count) == np.sum(np.abs(eigenvalues) < 1e-8) == rest.certificate.zero_modes
    assert rest.certificate.clusters == 3 and rest.certificate.floppy == 0
    u = modes.project(jax.random.normal(jax.random.key(0), (9, 2)))
    np.testing.assert_allclose(modes.project(u), u, atol=1e-14)


def test_contacts_without_force_do_not_constrain():
    """Seven tiny disks that barely touch in a void of a packing, with three contacts or more: all are rattlers."""
    rest = jammed(seed=0, n=32)
    x, box, D = (np.asarray(a) for a in (rest.positions, rest.system.box, rest.system.diameters))
    points = np.random.default_rng(0).uniform(size=(2000, 2)) @ box
    apart = points[:, None] - x
    apart -= np.round(apart @ np.linalg.inv(box)) @ box
    clearance = np.min(np.linalg.norm(apart, axis=-1) - 0.5 * D, axis=1)
    angles = np.arange(6) * np.pi / 3
    flower = np.concatenate([[[0.0, 0.0]], np.stack([np.cos(angles), np.sin(angles)], axis=1)])
    size = clearance.max() / 2
    added = points[np.argmax(clearance)] + (1 - 1e-13) * size * flower
    system = mdsens.System(np.concatenate([x, added]), box, np.concatenate([D, np.full(7, size)]))
    crowded = mdsens.Relaxation(tolerance=1e-11)(rest.potential, system)
    assert int(crowded.steps) == 0
    among = [pair for pair in reference_of(crowded).network if min(pair) >= 32]
    assert len(among) == 12, "they touch"
    rattlers = np.asarray(find_rattlers(crowded.configuration))
    assert rattlers[32:].all() and not rattlers[:32].any()
    np.testing.assert_array_equal(reference_of(crowded).constrained(), ~rattlers)


def test_a_trap_removes_the_translations():
    """Four particles that repel each other in a harmonic trap follow its center."""

    class Trap(mdsens.Potential):
        center: jax.Array

        def energy(self, system, neighbors):
            x = system.positions
            apart = x[neighbors.i] - x[neighbors.j]
            return jnp.sum(jnp.exp(-jnp.sum(apart**2, axis=-1))) + jnp.sum((x - self.center) ** 2)

    at = jnp.array([0.3, 0.1])
    start = mdsens.System(np.random.default_rng(0).normal(size=(4, 2)), None, 1.0)
    relax = mdsens.Relaxation(tolerance=1e-10)
    rest = relax(Trap(at), start)
    assert (rest.certificate.translations, rest.certificate.rotations) == (0, 1)
    moved = jax.jacfwd(lambda c: relax(Trap(c), rest.system).positions)(at)
    np.testing.assert_allclose(moved, np.broadcast_to(np.eye(2), (4, 2, 2)), atol=1e-8)


def along(axis, cell, cells, extra=()):
    """A zigzag of two particles in each cell along an axis in space, and particles elsewhere."""
    axis = np.array(axis) / np.linalg.norm(axis)
    first, second = np.linalg.svd(axis[None])[2][1:]
    x = [
        (k + 0.5 * m) * cell * axis + 0.25 * (2 * m - 1) * first + 0.1 * m * second
        for k in range(cells)
        for m in (0, 1)
    ]
    box = np.zeros((3, 3))
    box[1] = cells * cell * axis
    return mdsens.System(np.array([*x, *extra]), box, 1.0, periodic=(False, True, False))


@pytest.mark.parametrize("axis", [[0.0, 0.0, 1.0], [1.0, -2.0, 0.5]])
def test_a_chain_through_a_tube_turns_about_its_axis_alone(axis):
    """Counted among the eigenvalues of the Hessian; an open chain turns about three axes, one in a slab about none."""
    chain = along(axis, 1.2, 4)
    rest = mdsens.Relaxation(tolerance=1e-12)(mdsens.LennardJones(), chain)
    assert (rest.certificate.translations, rest.certificate.rotations, rest.certificate.clusters) == (3, 1, 1)
    eigenvalues = np.linalg.eigvalsh(dense_of(hessian_of(rest.configuration)))
    assert np.sum(np.abs(eigenvalues) < 1e-9) == 4 == rest.certificate.zero_modes
    lattice, turn = np.asarray(chain.lattice)[0], modes_of(rest).rigid[3]
    np.testing.assert_allclose(turn @ lattice, 0.0, atol=1e-12)

    def modes_in(system):
        pairs = mdsens.AllPairs().build(mdsens.LennardJones(), system)
        return modes_at(Configuration(mdsens.LennardJones(), system, pairs), jnp.zeros(8, bool))

    elsewhere = rest.system.replace(positions=rest.positions + lattice * np.arange(8)[:, None])
    np.testing.assert_allclose(modes_in(elsewhere).rigid[3], turn, atol=1e-9)
    other = np.cross(lattice, [1.0, 0.3, 0.2])
    slab = rest.system.replace(box=chain.box.at[0].set(50.0 * other), periodic=(True, True, False))
    assert int(modes_in(slab).rotations) == 0 and int(modes_in(rest.system.replace(box=None)).rotations) == 3


def test_the_energy_decides_whether_a_chain_in_a_tube_turns():
    """A cylindrical wall about the axis resists no rotation; two flat ones do."""
    chain = along([0.0, 0.0, 1.0], 1.2, 4)
    middle = jnp.mean(chain.positions, axis=0)
    normal = jnp.array([1.0, 0.0, 0.0])
    tube = mdsens.CylindricalWall(0.7, center=middle)
    gap = mdsens.PlanarWall(middle - 0.45 * normal, normal) + mdsens.PlanarWall(middle + 0.45 * normal, -normal)
    for wall, count in ((tube, (1, 1)), (gap, (2, 0))):
        rest = mdsens.Relaxation(tolerance=1e-12)(mdsens.LennardJones() + wall, chain)
        assert float(wall.prepared_for(chain).energy(rest.system, None)) > 1e-4, "they touch"
        eigenvalues = np.linalg.eigvalsh(dense_of(hessian_of(rest.configuration)))
        assert np.sum(np.abs(eigenvalues) < 1e-9) == sum(count)
        assert (rest.certificate.translations, rest.certificate.rotations) == count


def test_a_straight_molecule_has_two_rotations_in_space_and_may_bend():
    line = mdsens.System([[0.0, 0.0, 0.0], [1.1, 1e-17, 0.0], [2.2, 0.0, 1e-17]], None, 1.0)
    pairs = mdsens.AllPairs().build(mdsens.LennardJones(), line)
    modes = modes_at(Configuration(mdsens.LennardJones(), line, pairs), jnp.zeros(3, bool))
    assert (int(modes.translations), int(modes.rotations)) == (3, 2)


class Trapped(mdsens.Potential):
    """Springs of stiffness 1 between all particles, and a harmonic trap."""

    stiffness_of_trap: jax.Array
    center: jax.Array

    def energy(self, system, neighbors):
        i, j = np.triu_indices(system.n, 1)
        lengths = jnp.linalg.norm(system.positions[i] - system.positions[j], axis=1)
        pull = jnp.sum((system.positions - self.center) ** 2)
        return 0.5 * jnp.sum((lengths - 1.0) ** 2) + 0.5 * self.stiffness_of_trap * pull


@pytest.mark.parametrize("solver", [mdsens.linear_solvers.dense(), mdsens.linear_solvers.minres()])
@pytest.mark.parametrize("stiffness", [1e-4, 1e-6, 1e-7, 1e-9, 1e-10, 1e-12, 0.0])
def test_a_trap_carries_its_particles_or_is_refused_however_weak(stiffness, solver):
    """∂x/∂(center) = 1: a weak trap breaks the symmetry as a strong one does."""
    start = mdsens.System(np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.8]]))
    center = jnp.mean(start.positions, axis=0)
    relax = mdsens.Relaxation(tolerance=1e-13, linear_solver=solver)

    def positions(center):
        return relax(Trapped(jnp.asarray(stiffness), center), start).positions

    if 0.0 < stiffness < 1e-8:
        with pytest.raises(mdsens.NotRigid, match="resists a rigid motion of all particles, or of a cluster of them"):
            jax.jacrev(positions)(center)
    else:
        carried = np.eye(2) if stiffness else np.zeros((2, 2))
        for derivative in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(derivative(positions)(center), np.stack([carried] * 3), atol=1e-7)


def test_a_weak_trap_in_single_precision_is_no_symmetry():
    start = mdsens.System(np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.8]], np.float32), None, np.float32(1.0))
    for stiffness in (1e-4, 1e-5):
        potential = Trapped(jnp.float32(stiffness), jnp.mean(start.positions, axis=0))
        rest = mdsens.Relaxation(tolerance=1e-5)(potential, start)
        assert bool(rest.linearization.modes.weakly_held)
    free = Trapped(jnp.float32(0.0), jnp.zeros(2, jnp.float32))
    assert int(mdsens.Relaxation(tolerance=1e-5)(free, start).linearization.evidence.translations) == 2


@pytest.mark.parametrize("length", [1.0, 10.0])
def test_a_long_cluster_turns_about_its_axis(length):
    x = np.random.default_rng(0).uniform(size=(20, 3)) * [1.0, 1.0, length]
    rest = mdsens.Relaxation()(Trapped(jnp.asarray(0.0), jnp.zeros(3)), mdsens.System(x))
    modes = rest.linearization.modes
    assert int(modes.translations) == int(modes.rotations) == 3 and not bool(modes.weakly_held)
