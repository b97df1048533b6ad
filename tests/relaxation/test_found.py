"""Equilibria at the positions given: certificates, derivatives, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from samples import RELAX, at_diameters, jammed, relative

SPHERES = mdsens.SoftSphere()


def found(D, system, **options):
    return mdsens.at_rest(SPHERES, system.replace(diameters=D), tolerance=1e-10, **options)


def test_the_positions_stay_and_the_certificate_is_that_of_a_relaxation():
    rest = jammed(n=32)
    here = mdsens.at_rest(SPHERES, rest.system)
    np.testing.assert_array_equal(here.positions, rest.positions)
    assert int(here.steps) == 0 and bool(here.converged) and bool(here.minimum)
    assert float(here.energy) == pytest.approx(float(rest.energy), rel=1e-14)
    ours, theirs = (eq.certificate.as_dict() for eq in (here, rest))
    assert ours["kind"] == "minimum"
    for name in ("zero_modes", "rattlers", "contact_number", "exact", "clusters"):
        assert ours[name] == theirs[name]
    assert ours["softest"] == pytest.approx(theirs["softest"], rel=1e-6)
    assert here.certify(thorough=True).distance < 1e-10


def test_the_derivatives_are_those_of_a_relaxation():
    rest = jammed(n=32)
    D = rest.system.diameters
    expected = jax.jacfwd(at_diameters(rest.system))(D)
    for transform in (lambda f: f, jax.jit):
        for derivative in (jax.jacfwd, jax.jacrev):
            assert relative(transform(derivative(lambda D: found(D, rest.system).positions))(D), expected) < 1e-9
    slope = jax.grad(lambda p: mdsens.at_rest(p, rest.system, tolerance=1e-10).energy)(SPHERES)
    assert float(slope.epsilon) == pytest.approx(float(rest.energy), rel=1e-10)


def test_under_vmap_each_member_is_certified_where_it_is():
    rests = [RELAX(SPHERES, mdsens.random_packing(16, packing_fraction=1.0, seed=seed)) for seed in (0, 1)]
    x = jnp.stack([rest.positions for rest in rests])
    together = jax.vmap(lambda x: found(rests[0].system.diameters, rests[0].system.replace(positions=x)))(x)
    alone = [found(rest.system.diameters, rest.system) for rest in rests]
    np.testing.assert_array_equal(together.positions[0], x[0])
    np.testing.assert_allclose(together.energy[0], alone[0].energy, rtol=1e-13)
    assert bool(together.minimum[0])


def test_a_large_system_by_a_neighbor_list():
    rest = jammed(n=400)
    here = mdsens.at_rest(SPHERES, rest.system, tolerance=1e-10, neighbors=mdsens.NeighborList())
    np.testing.assert_array_equal(here.positions, rest.positions)
    assert float(here.energy) == pytest.approx(float(rest.energy), rel=1e-12)


def test_particles_that_are_not_at_rest_are_refused_with_their_largest_force():
    rest = jammed(n=32)
    moved = rest.system.replace(positions=rest.positions.at[0, 0].add(1e-3))
    with pytest.raises(mdsens.NotConverged, match=r"largest force component is 0\.00\d+"):
        mdsens.at_rest(SPHERES, moved)
    here = mdsens.at_rest(SPHERES, moved, throw=False)
    np.testing.assert_array_equal(here.positions, moved.positions)
    assert not bool(here.converged) and float(here.max_force) > 1e-4
    assert bool(mdsens.at_rest(SPHERES, moved, tolerance=5e-3, throw=False).converged)
    inside = jax.jit(lambda x: mdsens.at_rest(SPHERES, moved.replace(positions=x)).positions)(moved.positions)
    assert np.isnan(inside).all()


def test_a_saddle_is_refused():
    three = mdsens.System([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], box=jnp.array([3.0, 9.0]), diameters=1.1)
    with pytest.raises(mdsens.NotAMinimum):
        mdsens.at_rest(SPHERES, three)
    saddle = mdsens.at_rest(SPHERES, three, throw=False)
    assert bool(saddle.converged) and not bool(saddle.minimum) and saddle.certificate.kind == "saddle"


def test_what_makes_no_sense_is_refused_as_by_a_relaxation():
    rest = jammed(n=32)
    with pytest.raises(mdsens.InvalidInput, match="positive force"):
        mdsens.at_rest(SPHERES, rest.system, tolerance=0.0)
    with pytest.raises(mdsens.InvalidInput, match="potential and a system"):
        mdsens.at_rest(rest.system, SPHERES)
    with pytest.raises(mdsens.InvalidInput, match="not finite"):
        mdsens.at_rest(SPHERES, rest.system.replace(positions=rest.positions.at[0].set(jnp.nan)))
