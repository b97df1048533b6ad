"""Networks made from packings: their modes, responses and moduli, and their pruning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens import properties
from mdsens.linear_solvers.cholesky import Cholesky
from samples import RELAX, jammed, jammed_with_rattlers, relative

RELAXED = mdsens.Relaxation(relative_tolerance=1e-12)


def compatibility(system, bonds):
    """The matrix [m, n d] of ∂(length)/∂x, in NumPy."""
    x, box, pairs = (np.asarray(a) for a in (system.positions, system.box, bonds.pairs))
    apart = x[pairs[:, 1]] - x[pairs[:, 0]]
    apart -= np.round(apart @ np.linalg.inv(box)) @ box
    normal = apart / np.linalg.norm(apart, axis=1, keepdims=True)
    matrix = np.zeros((len(pairs), *x.shape))
    each = np.arange(len(pairs))
    matrix[each, pairs[:, 1]], matrix[each, pairs[:, 0]] = normal, -normal
    return matrix.reshape(len(pairs), -1)


def thinned(n=271, m=382, seed=3):
    """An under-constrained network: contacts of a packing, some of them taken away; each particle keeps one."""
    rest = jammed(seed, n)
    bonds = mdsens.network(rest)
    rng, pairs = np.random.default_rng(seed), np.asarray(bonds.pairs)
    kept = np.ones(len(pairs), bool)
    for k in rng.permutation(len(pairs)):
        if kept.sum() == m:
            break
        kept[k] = False
        if (np.bincount(pairs[kept].ravel(), minlength=n)[pairs[k]] < 1).any():
            kept[k] = True
    assert kept.sum() == m
    stiffness = rng.uniform(0.5, 2.0, m)
    return mdsens.Bonds(pairs[kept], stiffness, np.asarray(bonds.rest_length)[kept]), rest.system


def test_a_network_without_stress_is_at_rest_where_the_packing_is():
    rest = jammed_with_rattlers()
    bonds = mdsens.network(rest)
    found = RELAXED(bonds, rest.system)
    assert int(found.steps) == 0
    assert float(found.energy) < 1e-20
    assert found.certificate.rattlers == rest.certificate.rattlers
    assert len(bonds.pairs) == np.sum(rest.linearization.contacts.touching)


def test_a_network_with_its_stresses_has_the_response_of_the_packing():
    rest = jammed(0, 32)
    bonds = mdsens.network(rest, stressed=True)
    found = RELAXED(bonds, rest.system)
    assert float(jnp.abs(found.positions - rest.positions).max()) < 1e-9
    np.testing.assert_allclose(found.linearization.hessian.dense(), rest.linearization.hessian.dense(), atol=1e-8)
    for name in ("bulk_modulus", "shear_modulus", "pressure"):
        np.testing.assert_allclose(getattr(properties, name)(found), getattr(properties, name)(rest), rtol=1e-7)


def test_an_under_constrained_network_has_its_floppy_modes_counted_and_responds_as_the_pseudo_inverse_says():
    bonds, system = thinned()
    rest = RELAXED(bonds, system)
    matrix = compatibility(system, bonds)
    rank = np.linalg.matrix_rank(matrix)
    count = properties.maxwell_count(rest)
    assert (count.degrees_of_freedom, count.bonds) == (542, 382)
    assert (count.zero_modes, count.self_stresses) == (542 - rank, 382 - rank)
    assert rest.certificate.zero_modes == count.zero_modes
    assert count.zero_modes - count.self_stresses == 542 - 382
    k = np.asarray(bonds.stiffness)
    hessian = matrix.T @ (k[:, None] * matrix)
    expected = np.linalg.pinv(hessian, rcond=1e-10, hermitian=True) @ (matrix.T * k)
    relax = mdsens.Relaxation(linear_solver=mdsens.linear_solvers.dense(), relative_tolerance=1e-12)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(271, 2)))

    def loss(lengths):
        return jnp.sum(weights * relax(bonds.with_parameter("rest_length", lengths), system).positions)

    found = jax.grad(loss)(bonds.rest_length)
    np.testing.assert_allclose(found, np.asarray(weights).ravel() @ expected, atol=1e-10 * np.abs(expected).max() * 50)
    direction = np.random.default_rng(1).normal(size=382)

    def at(s):
        return relax(bonds.with_parameter("rest_length", bonds.rest_length + s * direction), system).positions

    _, moved = jax.jvp(at, (0.0,), (1.0,))
    assert relative(moved.ravel(), expected @ direction) < 1e-10


def test_floppy_modes_take_more_than_the_short_solver_which_suffices_for_a_packing(compilations):
    bonds, system = thinned()
    matrix, k = compatibility(system, bonds), np.asarray(bonds.stiffness)
    expected = np.linalg.pinv(matrix.T @ (k[:, None] * matrix), rcond=1e-10, hermitian=True) @ (matrix.T * k)
    weights = np.random.default_rng(0).normal(size=(271, 2))
    assert isinstance(RELAXED(bonds, system).linearization.solver, Cholesky)

    def loss(lengths):
        return jnp.sum(weights * RELAXED(bonds.with_parameter("rest_length", lengths), system).positions)

    with compilations as counted:
        found = jax.grad(loss)(bonds.rest_length)
    assert counted.names.count("jit(_call)") == 2
    assert relative(found, weights.ravel() @ expected) < 1e-9
    packing = jammed(3, 271)
    with compilations as counted:
        jax.grad(lambda d: jnp.sum(weights * RELAX(packing.potential, packing.system.replace(diameters=d)).positions))(
            packing.system.diameters
        )
    assert counted.names.count("jit(_call)") == 1


def test_moduli_of_a_network_are_those_of_finite_strains():
    rest = jammed(0, 32)
    bonds = mdsens.network(rest)
    network, step = RELAXED(bonds, rest.system), 1e-4
    tensor = properties.elastic_tensor(network)
    for strain, indices in ((np.diag([1.0, 0.0]), (0, 0, 0, 0)), (np.array([[0, 0.5], [0.5, 0]]), (0, 1, 0, 1))):
        energies = [
            float(RELAXED(bonds, rest.system.deform(rest.system.box @ (np.eye(2) + k * step * strain))).energy)
            for k in (-1, 1)
        ]
        second = sum(energies) / step**2 / float(rest.system.volume)
        assert abs(float(tensor[indices]) / second - 1.0) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("property", ["bulk_modulus", "shear_modulus"])
def test_pruning_takes_one_modulus_and_leaves_the_other(property):
    """As Goodrich, Liu and Nagel (2015) find: G/B large without the bonds that resist compression, small without
    those that resist shear.
    """
    rest = jammed(0, 512, packing_fraction=1.0)
    bonds = mdsens.network(rest)
    start = RELAXED(bonds, rest.system)
    down_to = len(bonds.pairs) - 120
    pruned = mdsens.prune(bonds, rest.system, property, down_to, at_once=6)
    after = RELAXED(pruned.bonds, rest.system)
    before, ratio = (float(properties.shear_modulus(e) / properties.bulk_modulus(e)) for e in (start, after))
    assert len(pruned.removed) == 120
    assert pruned.kept.sum() == down_to
    np.testing.assert_allclose(pruned.history[-1], getattr(properties, property)(after), rtol=1e-6)
    assert ratio > 4.0 * before if property == "bulk_modulus" else ratio < 0.25 * before


def test_the_contribution_of_a_bond_is_what_its_removal_takes():
    rest = jammed(0, 32)
    bonds = mdsens.network(rest)
    pruned = mdsens.prune(bonds, rest.system, "shear_modulus", len(bonds.pairs) - 2)
    assert pruned.history[0] > pruned.history[1] > pruned.history[2]
    with pytest.raises(mdsens.InvalidInput, match="there is no property 'stiffness'"):
        mdsens.prune(bonds, rest.system, "stiffness", 10)
    with pytest.raises(mdsens.InvalidInput, match=r"nothing tells which bond to remove next|none of them may go"):
        mdsens.prune(bonds, rest.system, "bulk_modulus", 5, at_once=4)
    for wrong in ({"down_to": 0}, {"down_to": len(bonds.pairs) + 1}, {"at_once": 0}, {"remove": "softest"}):
        with pytest.raises(mdsens.InvalidInput):
            mdsens.prune(bonds, rest.system, "bulk_modulus", **({"down_to": 20} | wrong))


def test_what_makes_no_network_is_refused():
    rest = jammed(0, 32)
    with pytest.raises(mdsens.InvalidInput, match="StillingerWeber is no sum over pairs"):
        mdsens.network(RELAX(mdsens.StillingerWeber(), mdsens.System([[0.0, 0, 0], [2.3, 0, 0], [0, 2.3, 0.1]])))
    with pytest.raises(mdsens.InvalidInput, match="is no sum over pairs or bonds"):
        properties.maxwell_count(
            RELAX(mdsens.StillingerWeber(), mdsens.System([[0.0, 0, 0], [2.3, 0, 0], [0, 2.3, 0.1]]))
        )
    assert "states of self-stress" in str(properties.maxwell_count(rest))
