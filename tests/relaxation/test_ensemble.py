import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.neighbors import NeighborList
from samples import jammed, settled

SPHERES, RELAX = mdsens.SoftSphere(), mdsens.Relaxation(tolerance=1e-11)


def starts(count=5, n=40):  # more than 32, so that lists are used
    return [settled(seed, n) for seed in range(count)]


@pytest.mark.parametrize("at_once", [2, 5])
def test_every_member_is_the_same_as_alone(at_once):
    together = mdsens.relax_ensemble(RELAX, SPHERES, starts(), at_once)
    assert together.positions.shape == (5, 40, 2) and bool(together.minimum.all())
    for k, system in enumerate(starts()):
        alone = RELAX(SPHERES, system)
        assert float(together.energy[k]) == pytest.approx(float(alone.energy), rel=1e-10)
        np.testing.assert_allclose(together.positions[k], alone.positions, atol=1e-8)
        assert int(together.steps[k]) == pytest.approx(int(alone.steps), rel=0.2)
        one = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert one.certificate.minimum and one.certificate.rattlers == alone.certificate.rattlers


def test_derivatives_are_those_of_each():
    D = starts()[0].diameters

    def positions(D):
        return mdsens.relax_ensemble(RELAX, SPHERES, [s.replace(diameters=D) for s in starts(3)], 2).positions

    def one(D):
        return RELAX(SPHERES, starts()[1].replace(diameters=D)).positions

    np.testing.assert_allclose(jax.jacfwd(positions)(D)[1], jax.jacfwd(one)(D), atol=1e-6)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)))
    ours, theirs = jax.grad(lambda D: jnp.sum(weights * positions(D)[1])), jax.grad(lambda D: jnp.sum(weights * one(D)))
    np.testing.assert_allclose(ours(D), theirs(D), atol=1e-6)


def test_each_may_have_its_own_potential_and_a_second_call_compiles_nothing(compilations):
    potentials = [mdsens.SoftSphere(epsilon) for epsilon in (1.0, 2.0, 4.0)]
    rest = mdsens.relax_ensemble(RELAX, potentials, [starts()[0]] * 3)
    np.testing.assert_allclose(rest.energy / jnp.asarray([1.0, 2.0, 4.0]), rest.energy[0], rtol=1e-9)
    with compilations as counted:
        mdsens.relax_ensemble(RELAX, potentials[::-1], starts(3))
    assert counted.names == []


def test_a_member_that_does_not_converge_does_not_affect_the_others():
    short = mdsens.Relaxation(tolerance=1e-6, max_steps=60)
    at_rest = RELAX(SPHERES, starts()[2]).system
    rest = mdsens.relax_ensemble(short, SPHERES, [starts()[0], at_rest, mdsens.random_packing(40)])
    np.testing.assert_array_equal(rest.converged, [False, True, False])
    np.testing.assert_array_equal(np.isfinite(rest.energy), [False, True, False])
    np.testing.assert_array_equal(rest.steps, [60, 0, 60])


def test_saddles_are_left_and_lists_that_overflow_are_enlarged():
    row = mdsens.System(np.stack([0.9 * np.arange(3.0), np.zeros(3)], 1), [2.7, 3.0], 1.0)  # a saddle: it buckles
    bent = row.replace(positions=row.positions.at[1, 1].add(0.1))
    rest = mdsens.relax_ensemble(mdsens.Relaxation(tolerance=1e-9), SPHERES, [row, bent])
    assert int(rest.escapes[0]) >= 1 and bool(rest.minimum.all())
    tight = mdsens.Relaxation(tolerance=1e-11, neighbors=NeighborList(pairs_per_particle=0.5, per_row=1))
    enlarged = mdsens.relax_ensemble(tight, SPHERES, starts(3))
    assert bool(enlarged.minimum.all()) and not bool(enlarged.overflow.any())
    np.testing.assert_allclose(enlarged.energy, mdsens.relax_ensemble(RELAX, SPHERES, starts(3)).energy, rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SPHERES, []), "no systems"),
        ((SPHERES, mdsens.random_packing(8)), "no ensemble"),
        ((SPHERES, [mdsens.random_packing(8), mdsens.random_packing(9)]), "one shape"),
        (([SPHERES], [mdsens.random_packing(8)] * 2), "one for each"),
        ((SPHERES, [mdsens.random_packing(8).replace(box=0.5)]), "too small for the cutoff"),
    ],
)
def test_systems_that_form_no_ensemble_are_refused(arguments, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        mdsens.relax_ensemble(RELAX, *arguments)


SHARED = """
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 3)
import mdsens, numpy as np
relax, spheres = mdsens.Relaxation(tolerance=1e-11), mdsens.SoftSphere()
systems = [mdsens.random_packing(12, packing_fraction=1.1, seed=seed) for seed in range(5)]
assert len(jax.devices()) == 3
one, three = (mdsens.relax_ensemble(relax, spheres, systems, 2, devices=d) for d in (None, jax.devices()))
assert bool(three.minimum.all())
np.testing.assert_allclose(three.energy, one.energy, rtol=1e-12)
np.testing.assert_array_equal(three.steps, one.steps)
"""


@pytest.mark.slow
def test_several_devices_share_the_members():
    done = subprocess.run([sys.executable, "-c", SHARED], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_member_of_an_ensemble_on_the_host_is_on_the_host(compilations):
    systems = [mdsens.random_packing(32, 2, (1.0, 0.8), 0.95, seed=seed) for seed in range(2)]
    together = jax.device_get(mdsens.relax_ensemble(mdsens.Relaxation(), mdsens.SoftSphere(), systems))
    with compilations as counted:
        last = together[-1]
    assert isinstance(last.energy, np.generic | np.ndarray) and float(last.energy) == together.energy[1]
    assert counted.count == 0


def test_a_member_is_an_equilibrium_and_the_ensemble_is_not():
    systems = [jammed(seed, n=32).system for seed in (0, 1)]
    many = mdsens.relax_ensemble(RELAX, mdsens.SoftSphere(), systems)
    assert len(list(many)) == 2
    assert float(many[1].energy) == float(many.energy[1]) and many[1].certificate.minimum
    for ask in (lambda: many.certificate, many.check, lambda: many[0][0]):
        with pytest.raises(mdsens.InvalidInput, match="ensemble"):
            ask()


def test_the_stiffness_of_an_energy_of_jax_md_is_measured_on_each_member():
    """Soft spheres in two cells: each has the tolerance and the energy that it has alone, as has the derivative."""
    from jax_md import energy

    potential = mdsens.JaxMD(energy.soft_sphere_pair, sigma=1.0, epsilon=1.0, alpha=2.5, range=1.0)
    system = mdsens.random_packing(30, 2, diameters=(1.0,), packing_fraction=0.95, seed=1)
    systems = [system, system.deform(0.85 * system.box)]
    relax = mdsens.Relaxation()
    together = mdsens.relax_ensemble(relax, potential, systems)
    for k, member in enumerate(systems):
        alone = relax(potential, member)
        assert float(together.potential.measured[k]) == pytest.approx(float(alone.potential.measured), rel=1e-9)
        assert float(together.tolerance[k]) == float(alone.tolerance)
    assert float(together.potential.measured[0]) != pytest.approx(float(together.potential.measured[1]), rel=1e-3)
    by_parameter = jax.grad(lambda p: mdsens.relax_ensemble(relax, p, systems).energy.sum())(potential)
    assert float(by_parameter.parameters["epsilon"]) == pytest.approx(float(together.energy.sum()), rel=1e-8)
