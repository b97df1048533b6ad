"""Slabs and channels: cells that are periodic along some directions only, against NumPy, and against tall cells."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import energy_and_gradient
from reference import ContactChanged, SoftSpheres
from samples import RELAX, relative, silicon

WEIGHT, STIFF = 0.02, 1.4
"""Of each disk in a channel, and of its walls."""


class Bed(SoftSpheres):
    """Soft spheres that weigh, harmonic walls below and above them, and fixed particles."""

    floor, ceiling, weight = 0.0, np.inf, WEIGHT
    fixed = None

    def changed(self, **changes):
        names = ("floor", "ceiling", "weight", "fixed")
        other = super().changed(**{name: value for name, value in changes.items() if name not in names})
        for name in names:
            setattr(other, name, changes.get(name, getattr(self, name)))
        return other

    @property
    def free(self):
        free = (
            np.ones(self.x.shape, bool) if self.fixed is None else np.broadcast_to(~self.fixed[:, None], self.x.shape)
        )
        return free.ravel()

    def at_walls(self):
        """For each of two walls the upward component of its normal, the heights, and which particles touch it."""
        for up, height in ((1.0, self.x[:, -1] - self.floor), (-1.0, self.ceiling - self.x[:, -1])):
            yield up, height, height < 0.5 * self.diameters

    def gradient(self):
        g, R = super().gradient(), 0.5 * self.diameters
        g[:, -1] += self.weight
        for up, height, touch in self.at_walls():
            g[:, -1] -= up * touch * STIFF / R * (1 - np.where(touch, height, 0.0) / R)
        return g * self.free.reshape(g.shape)

    def hessian(self):
        h = super().hessian().reshape(self.n, self.d, self.n, self.d)
        for _, _, touch in self.at_walls():
            h[range(self.n), -1, range(self.n), -1] += touch * STIFF / (0.5 * self.diameters) ** 2
        h = h.reshape(self.n * self.d, -1)
        return h * self.free * self.free[:, None]

    def gradient_by_diameter(self):
        g, R = super().gradient_by_diameter().reshape(self.n, self.d, self.n), 0.5 * self.diameters
        for up, height, touch in self.at_walls():
            by_radius = touch * (STIFF / R**2 - 2 * STIFF * np.where(touch, height, 0.0) / R**3)
            g[range(self.n), -1, range(self.n)] += 0.5 * up * by_radius
        return (g.reshape(self.n * self.d, self.n).T * self.free).T

    def response(self, push):
        return -(self.inverse() @ push).reshape(self.n, self.d, *push.shape[1:])


def walls(floor=0.0, ceiling=None):
    parts = [mdsens.PlanarWall([0.0, floor], [0.0, 1.0], STIFF)]
    return parts if ceiling is None else [*parts, mdsens.PlanarWall([0.0, ceiling], [0.0, -1.0], STIFF)]


@functools.cache
def channel(n=52, seed=0, length=6.0, ceiling=5.2, tilt=0.0):
    """Disks pressed between a floor and a ceiling, at rest; periodic along x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform([0.0, 0.3], [length, ceiling - 0.3], size=(n, 2))
    x[:, 0] += length * rng.integers(-1, 2, n)  # anywhere, also outside of the cell
    system = mdsens.System(x, [[length, tilt], [0.0, 0.0]], rng.choice([1.0, 0.7], n), periodic=(True, False))
    floor, lid = walls(0.0, ceiling)
    return RELAX(mdsens.SoftSphere() + floor + lid + mdsens.Gravity(WEIGHT), system)


def bed_of(rest, ceiling=np.inf, **options):
    system = rest.system
    lattice = np.asarray(system.box)[list(system.periodic)]
    return Bed(system.positions, lattice, system.diameters).changed(ceiling=ceiling, **options)


def test_the_response_of_disks_between_two_walls_is_that_of_a_dense_pseudo_inverse():
    rest = channel()
    reference = bed_of(rest, 5.2)
    touching = [int(touch.sum()) for *_, touch in reference.at_walls()]
    assert min(touching) >= 3 and np.abs(reference.gradient()).max() < 1e-11
    zero = np.sum(np.abs(np.linalg.eigvalsh(reference.hessian())) < 1e-9)
    assert rest.certificate.zero_modes == zero == 1 and rest.certificate.translations == 1

    found = mdsens.sensitivity(rest, "diameters").response
    assert relative(found, reference.response(reference.gradient_by_diameter())) < 1e-8
    _, height, touch = list(reference.at_walls())[1]
    by_position, by_epsilon, R = np.zeros((52, 2)), np.zeros((52, 2)), 0.5 * reference.diameters
    by_position[:, 1] = np.where(touch, -STIFF / R**2, 0.0)  # ∂(∇E) by the height of the ceiling
    by_epsilon[:, 1] = np.where(touch, (1 - height / R) / R, 0.0)
    found = mdsens.sensitivity(rest, "planar_wall_2.position").response
    assert relative(found[:, :, 1], reference.response(by_position.ravel())) < 1e-8
    assert np.abs(found[:, :, 0]).max() < 1e-9, "a wall that slides along itself moves nothing"
    found = mdsens.sensitivity(rest, "planar_wall_2.epsilon").response
    assert relative(found, reference.response(by_epsilon.ravel())) < 1e-8


@pytest.mark.parametrize("step", [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], ids=["longer", "tilted"])
def test_the_response_of_a_channel_to_its_lattice_vector_is_that_of_finite_differences(step):
    """The particles start from where the vector carries them; together they move along the walls as that says."""
    rest, h = channel(), 1e-5
    reference = bed_of(rest, 5.2)
    inverse = np.linalg.pinv(reference.box)

    def strained(amount):
        box = reference.box + amount * step
        return reference.changed(box=box, positions=reference.x + reference.x @ inverse @ (amount * step)).relaxed()

    ahead, behind = strained(h), strained(-h)
    if not ahead.network == behind.network == reference.network:
        raise ContactChanged
    expected = (ahead.x - behind.x) / (2 * h)
    found = mdsens.sensitivity(rest, "box").response
    assert found.shape == (rest.system.n, 2, 2, 2) and not found[..., 1, :].any()
    assert relative(found[..., 0, :] @ step[0], expected) < 1e-6


SLAB = np.array([[4.4, 0.3, 0.0], [0.0, 0.0, 0.0], [-0.5, 4.1, 0.0]])
"""Lattice vectors; the second is no one."""


@functools.cache
def sediment(n=60, seed=1):
    """Spheres that have settled on a layer of fixed ones; periodic along two oblique vectors in the plane."""
    rng, lattice = np.random.default_rng(seed), SLAB[[0, 2]]
    layer = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) / 4 @ lattice
    above = rng.uniform(-1.0, 2.0, (n - 16, 2)) @ lattice + [[0.0, 0.0, 1.0]] * rng.uniform(0.7, 2.2, (n - 16, 1))
    layer[:, 2] = rng.uniform(-0.05, 0.05, 16)
    sizes, fixed = rng.choice([1.0, 1.2], n), np.arange(n) < 16
    system = mdsens.System(np.concatenate([layer, above]), SLAB, sizes, fixed=fixed, periodic=(True, False, True))
    return RELAX(mdsens.SoftSphere() + mdsens.Gravity(WEIGHT), system)


def test_the_response_of_spheres_on_a_fixed_layer_is_that_of_a_dense_pseudo_inverse():
    rest = sediment()
    reference = bed_of(rest, floor=-np.inf, fixed=np.asarray(rest.system.fixed))
    assert rest.certificate.zero_modes == 0 and not rest.certificate.rattlers
    assert np.abs(reference.gradient()).max() < 1e-11
    expected = reference.response(reference.gradient_by_diameter())
    assert relative(mdsens.sensitivity(rest, "diameters").response, expected) < 1e-8
    moving = jax.jacfwd(lambda D: RELAX(rest.potential, rest.system.replace(diameters=D)).positions)
    assert relative(moving(rest.system.diameters), expected) < 1e-8


def test_the_response_of_a_slab_to_its_lattice_is_that_of_finite_differences():
    """Along each component of both vectors; fixed particles stay, and vectors tilt out of the plane, too."""
    rest, h = sediment(), 1e-5
    fixed = np.asarray(rest.system.fixed)
    reference = bed_of(rest, floor=-np.inf, fixed=fixed)
    found = mdsens.sensitivity(rest, "box").response
    assert found.shape == (60, 3, 3, 3) and not found[:, :, 1].any() and not found[fixed].any()
    inverse, checked = np.linalg.pinv(reference.box), 0
    for row, column in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[row, column] = h

        def strained(step):
            carried = reference.x + reference.x @ inverse @ step * ~fixed[:, None]
            return reference.changed(box=reference.box + step, positions=carried).relaxed()

        ahead, behind = strained(step), strained(-step)
        if ahead.network == behind.network == reference.network:
            checked += 1
            assert relative(found[:, :, [0, 2][row], column], (ahead.x - behind.x) / (2 * h)) < 1e-6
    assert checked >= 4


@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [7.0, -3.0, 0.2], [np.nan, np.inf, 1.0]])
def test_the_vector_of_an_open_direction_has_no_influence(vector):
    """Not on one bit of a relaxation from its start, of its response, or of a list made by cells."""
    rest = sediment()
    start = rest.system.replace(
        positions=rest.system.relaxing(0.01 * jnp.sin(jnp.arange(180.0)).reshape(60, 3)) + rest.positions
    )
    changed = start.replace(box=start.box.at[1].set(jnp.asarray(vector)))
    relax = mdsens.Relaxation(tolerance=1e-12)
    one, other = (relax(rest.potential, each) for each in (start, changed))
    np.testing.assert_array_equal(one.positions, other.positions)
    assert float(one.energy) == float(other.energy) and int(one.steps) == int(other.steps) > 0
    for name in ("diameters", "box"):
        responses = [mdsens.sensitivity(each, name).response for each in (one, other)]
        np.testing.assert_array_equal(*responses)
    slope = jax.grad(lambda box: relax(rest.potential, changed.replace(box=box)).energy)(changed.box)
    assert not np.asarray(slope)[1].any() and np.abs(np.asarray(slope)[[0, 2]]).min() > 0.0


def test_a_vector_of_a_lattice_that_is_none_is_refused():
    for box in ([[0.0, 0.0], [0.0, 3.0]], [[np.nan, 1.0], [0.0, 3.0]]):
        system = mdsens.System([[0.0, 0.0], [0.5, 0.0]], box, periodic=(True, False))
        with pytest.raises(mdsens.InvalidInput, match="not the cell of a lattice"):
            RELAX(mdsens.SoftSphere(), system)


def soft_sphere_of_jax_md():
    from jax_md import energy

    return mdsens.JaxMD(energy.soft_sphere_pair, from_system=lambda system: {"sigma": 1.0}, range=1.0)


def molecules(system):
    n = system.n // 3
    members = 3 * np.arange(n)[:, None] + np.arange(3)
    bonds = np.concatenate([members[:, :2], members[:, 1:]])
    return mdsens.Bonds(bonds, 1.0, 1.0) + mdsens.Angles(members, 0.4, 2.0) + mdsens.SoftSphere()


CHANNEL, SLAB_IN_SPACE, TUBE = (True, False), (True, True, False), (False, True, False)

CASES = {
    "by comparing all": (30, lambda system: mdsens.SoftSphere(), (CHANNEL, TUBE)),
    "by cells": (340, lambda system: mdsens.SoftSphere(), (CHANNEL, SLAB_IN_SPACE, TUBE)),
    "attraction": (24, lambda system: mdsens.LennardJones(), (SLAB_IN_SPACE,)),
    "bonds and angles": (24, molecules, (CHANNEL,)),
    "tethers": (24, lambda system: mdsens.Tethers(system.positions + system.lattice[0], 0.5), (TUBE,)),
    "jax-md": (24, lambda system: soft_sphere_of_jax_md(), (SLAB_IN_SPACE,)),
}


@pytest.mark.parametrize(("case", "periodic"), [(case, each) for case in CASES for each in CASES[case][2]])
def test_a_slab_is_a_cell_so_tall_that_images_do_not_meet(case, periodic):
    """Energy, forces, the Hessian along a motion and strain derivatives are those of a cell periodic along all."""
    if case == "jax-md":
        pytest.importorskip("jax_md")
    n, make, _ = CASES[case]
    d, k = len(periodic), sum(periodic)
    rng = np.random.default_rng(d)
    edge = max((n * 0.6) ** (1 / d), 5.2 if case == "attraction" else 3.2)
    box = np.where(np.array(periodic)[:, None], edge * np.eye(d), 40.0 * np.eye(d))
    box[list(periodic)] += 0.1 * edge * rng.uniform(-1, 1, (k, d)) * np.array(periodic)
    x = rng.uniform(0.0, 1.0, (n, d)) @ np.where(np.array(periodic)[:, None], box, edge * np.eye(d))
    if case == "attraction":
        x = np.stack(np.meshgrid(*[np.arange(5)] * d), -1).reshape(-1, d)[:n] * 1.05 + rng.normal(0, 0.02, (n, d))
    slab = mdsens.System(x, box, 1.0, periodic=periodic)
    tall = slab.replace(periodic=(True,) * d)
    potential = make(slab).prepared_for(slab)
    u = jnp.asarray(rng.normal(size=x.shape))
    one, other = (derivatives(potential, system, pairs_of(potential, system), u) for system in (slab, tall))
    assert float(one[0]) != 0.0
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10 * max(1.0, float(np.abs(theirs).max())))


def pairs_of(potential, system):
    return mdsens.neighbors.allocate(mdsens.neighbors.automatic(potential, system), potential, system)


def gradient_at(potential, system, listed):
    """The gradient by the pairs of the same or another system."""
    return energy_and_gradient(mdsens.Configuration(potential, system, pairs_of(potential, listed)))[1]


@eqx.filter_jit
def derivatives(potential, system, neighbors, u):
    here = mdsens.Configuration(potential, system, neighbors)
    strain = () if potential.tied_to_space else (here.strain_gradient(), *here.strain_derivatives())
    hessian = () if isinstance(potential, mdsens.JaxMD) else (here.hessian().product(u),)
    return (here.energy(), here.gradient(), *hessian, *strain)


def test_a_slab_of_silicon_is_a_tall_cell_of_it():
    """Pairs and angles, with a neighbor list."""
    crystal = silicon(2)
    box = crystal.box.at[2, 2].add(20.0)
    shaken = crystal.replace(positions=crystal.positions + 0.1 * jnp.sin(jnp.arange(192.0)).reshape(64, 3), box=box)
    slab, potential = shaken.replace(periodic=(True, True, False)), mdsens.StillingerWeber()
    periodic = shaken.replace(box=crystal.box)
    of_slab, of_tall, of_crystal, of_periodic = (
        gradient_at(potential, system, listed)
        for system, listed in ((slab, slab), (shaken, shaken), (crystal, crystal), (periodic, crystal))
    )
    np.testing.assert_allclose(of_slab, of_tall, atol=1e-12)
    assert of_crystal.shape == (64, 3) and relative(of_slab, of_periodic) > 0.1


def test_a_channel_narrower_than_two_cutoffs_is_the_same_as_the_channel_repeated():
    """With particles that touch their own images; energy, forces, and where it comes to rest."""
    x = np.array([[0.1, 0.3], [0.9, 0.9], [1.6, 0.2]])
    narrow = mdsens.System(x, [[0.95, 0.0], [0.0, 0.0]], [1.0, 0.9, 0.8], periodic=(True, False))
    floor, lid = walls(0.0, 1.6)
    potential = mdsens.SoftSphere() + floor + lid
    wide = narrow.repeat(3)
    assert wide.n == 9 and wide.periodic == narrow.periodic
    np.testing.assert_allclose(wide.lattice, 3 * narrow.lattice)
    one, many = (gradient_at(potential, each, each) for each in (narrow, wide))
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(np.tile(one, (3, 1)), many, atol=1e-12)
    rest = RELAX(potential, narrow)
    assert rest.pair_finder == mdsens.AllPairs(images=True)
    there = rest.system.repeat(3)
    assert np.abs(gradient_at(potential, there, there)).max() < 1e-11


def test_channels_relax_alike_alone_together_and_under_jit_and_vmap():
    starts = [channel(seed=seed).system for seed in (0, 1)]
    starts = [
        each.replace(positions=each.positions + 1e-4 * jnp.sin(jnp.arange(104.0)).reshape(52, 2)) for each in starts
    ]
    potential = channel().potential
    alone = [RELAX(potential, each) for each in starts]
    together = mdsens.relax_ensemble(RELAX, potential, starts)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    inside = jax.jit(jax.vmap(lambda system: RELAX(potential, system).positions))(batch)
    for k, one in enumerate(alone):
        assert together[k].system.periodic == (True, False)
        np.testing.assert_allclose(together[k].positions, one.positions, atol=1e-9)
        np.testing.assert_allclose(inside[k], one.positions, atol=1e-9)


def test_the_differentiated_loop_carries_a_channel_along():
    """The derivative of the path is that of the minimum here, but for the digits that the steps leave."""
    rest = channel()
    unrolled = mdsens.Unrolled(steps=1500)

    def positions(relax):
        lengthen = jnp.array([[1.0, 0.2], [3.0, 5.0]])
        moved = jax.jvp(
            lambda a: relax(rest.potential, rest.system.replace(box=rest.system.box + a * lengthen)).positions,
            (0.0,),
            (1.0,),
        )
        return moved[1]

    path, point = positions(unrolled), positions(RELAX)
    np.testing.assert_allclose(path - path.mean(axis=0), point - point.mean(axis=0), atol=1e-6)


REFUSED = {
    "packing_fraction": lambda rest: rest.system.packing_fraction,
    "stress": mdsens.properties.stress,
    "pressure": mdsens.properties.pressure,
    "bulk modulus": mdsens.properties.bulk_modulus,
    "elastic tensor": mdsens.properties.elastic_tensor,
    "constant pressure": lambda rest: mdsens.Relaxation(pressure=0.1)(rest.potential, rest.system),
    "jamming": lambda rest: mdsens.jam(rest.potential, rest.system),
}


@functools.cache
def free_slab():
    """A layer of Lennard-Jones particles, two thick, in nothing."""
    x = np.stack(np.meshgrid(np.arange(5), np.arange(5), np.arange(2)), -1).reshape(-1, 3) * 1.1
    system = mdsens.System(x, [5.5, 5.5, 0.0], 1.0, periodic=(True, True, False))
    return RELAX(mdsens.LennardJones(), system)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_volume_is_refused_in_one_sentence(name):
    rest = channel() if name == "jamming" else free_slab()
    rest = rest if name != "jamming" else dataclasses.replace(rest, potential=mdsens.SoftSphere())
    with pytest.raises(mdsens.InvalidInput, match="a system periodic along some directions only has no"):
        REFUSED[name](rest)


def test_a_slab_has_a_table_without_moduli_and_a_virial():
    """Along the lattice the virial is -hᵀ ∂E/∂h, the tension of the layer; across it there is none."""
    rest = free_slab()
    assert set(mdsens.properties.table(rest)) == {"energy", "contact_number"}
    virial = np.asarray(mdsens.properties.virial(rest))
    slope = jax.grad(lambda box: RELAX(rest.potential, rest.system.replace(box=box)).energy)(rest.system.box)
    np.testing.assert_allclose(virial[:2], -(rest.system.box.T @ slope)[:2], atol=1e-9)
    assert np.abs(virial[0, 0]) > 0.1 and np.abs(virial[2]).max() < 1e-9


def test_what_spans_a_narrow_channel_may_be_longer_than_half_of_its_period():
    """A string from wall to wall, of bonds and a tether that are long across, where there are no images."""
    x = np.array([[0.1, 0.0], [2.9, 5.0], [0.3, 9.0]])
    narrow = mdsens.System(
        x, [[3.0, 0.0], [0.0, 0.0]], 1.0, fixed=np.array([True, False, False]), periodic=(True, False)
    )
    potential = mdsens.Bonds([[0, 1], [1, 2]], 1.0, 4.0) + mdsens.Tethers([[0.4, 12.0]], 1.0, particles=[2])
    rest = RELAX(potential, narrow)
    image = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    free = RELAX(potential, narrow.replace(positions=x - image, box=None))
    np.testing.assert_allclose(rest.positions - image, free.positions, atol=1e-9)
    for crossing in (mdsens.Bonds([[0, 1]], 1.0, 1.0), mdsens.Angles([[0, 1, 2]], 1.0, 2.0)):
        half = narrow.replace(positions=np.array([[0.0, 0.0], [1.5, 5.0], [3.0, 9.0]]), box=3.0, periodic=(True, True))
        with pytest.raises(mdsens.InvalidInput, match="nearest image is ambiguous"):
            RELAX(crossing, half)
