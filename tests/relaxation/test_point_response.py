"""The response to a load on one particle, with some particles fixed: by sparse factors, at any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import linear_solvers
from mdsens.landscape.configuration import Configuration
from reference import SoftSpheres


def packing(n):
    system = mdsens.random_packing(n, 2, (1.0, 0.7), 0.95, seed=4)
    system = mdsens.Relaxation()(mdsens.SoftSphere(), system).system
    return system.replace(fixed=np.arange(n) % 50 == 0)


def point_response(system, particle, solver):
    """The displacement of all particles as a load along x on one of them grows, and the equilibrium."""
    relax = mdsens.Relaxation(tolerance=1e-11, linear_solver=solver)
    unit = jnp.zeros(system.positions.shape).at[particle, 0].set(1.0)

    def positions(amount):
        return relax(mdsens.SoftSphere() + mdsens.Load(amount * unit), system).positions

    rest = relax(mdsens.SoftSphere(), system)
    return jax.jvp(positions, (0.0,), (1.0,))[1], rest, unit


def test_sparse_factors_and_a_dense_pseudo_inverse_give_the_same_response():
    system, loaded = packing(300), 7
    sparse, rest, unit = point_response(system, loaded, linear_solvers.cholesky())
    dense = point_response(system, loaded, linear_solvers.dense())[0]
    keep = np.ones(300, bool)
    keep[list(rest.certificate.rattlers)] = False
    assert keep[loaded]
    hessian = SoftSpheres(rest.positions, system.box, system.diameters, keep=keep).hessian()
    free = np.flatnonzero(np.repeat(keep & ~np.asarray(system.fixed), 2))
    expected = np.zeros(600)
    expected[free] = np.linalg.pinv(hessian[np.ix_(free, free)], hermitian=True) @ np.asarray(unit).ravel()[free]
    np.testing.assert_allclose(sparse.ravel(), expected, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(dense.ravel(), expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.slow
def test_at_ten_thousand_disks_the_forces_change_by_the_load_alone():
    """Forces at positions moved along the response differ by the load, to second order, where contacts stay."""
    system, loaded = packing(10_000), 4_801
    response, rest, unit = point_response(system, loaded, linear_solvers.cholesky())
    rattlers = np.asarray(list(rest.certificate.rattlers), int)
    assert loaded not in rattlers and not system.fixed[loaded]
    here, step = Configuration(mdsens.SoftSphere(), rest.system, rest.all_neighbors), 1e-6
    ahead, behind = (here.at(rest.positions + sign * step * response).gradient() for sign in (1.0, -1.0))
    change = np.array((ahead - behind) / (2.0 * step) - unit)
    change[rattlers] = 0.0
    assert np.abs(change).max() < 1e-5
    assert not np.asarray(response)[np.asarray(system.fixed)].any()
