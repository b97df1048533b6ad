"""Laws that hold for every packing and every parameter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mdsens
from samples import dense_of, hessian_of

RELAX = mdsens.Relaxation(tolerance=1e-11)
N = 32

laws = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 10_000)
dims = st.sampled_from([2, 3])
potentials = st.builds(
    mdsens.SoftSphere, epsilon=st.floats(0.2, 5.0), alpha=st.one_of(st.just(2.0), st.just(2.5), st.floats(2.0, 3.0))
)


@functools.cache
def start(seed, dim):
    ratio = (1.0, 0.5 + 0.4 * (seed % 7) / 6)
    return mdsens.random_packing(N, dim, ratio, packing_fraction=1.0 if dim == 2 else 0.8, seed=seed)


def packing(potential, seed, dim):
    rest = RELAX(potential, start(seed, dim))
    assume(not rest.certificate.indeterminate)
    return rest


def response(rest):
    return mdsens.sensitivity(rest, "diameters").response


@laws
@given(potentials, seeds, dims)
def test_the_hessian_is_symmetric_and_its_product_is_its_matrix(potential, seed, dim):
    rest = packing(potential, seed, dim)
    matrix = hessian_of(rest.configuration)
    dense = np.asarray(dense_of(matrix))
    np.testing.assert_allclose(dense, dense.T, atol=1e-13 * np.abs(dense).max())
    u = np.random.default_rng(seed).normal(size=(N, dim))
    np.testing.assert_allclose(
        np.ravel(matrix.product(jnp.asarray(u))), dense @ u.ravel(), atol=1e-11 * np.abs(dense).max()
    )


@laws
@given(potentials, seeds, dims, st.integers(0, 1000))
def test_a_translation_and_a_permutation_change_nothing(potential, seed, dim, other):
    rest = packing(potential, seed, dim)
    rng = np.random.default_rng(other)
    order, shift = rng.permutation(N), rng.uniform(-20, 20, size=dim)
    s = rest.system
    moved = mdsens.System(s.positions[order] + shift, s.box, s.diameters[order], s.species[order])
    again = mdsens.Relaxation(tolerance=1e-10)(rest.potential, moved)
    assert int(again.steps) == 0
    np.testing.assert_allclose(again.energy, rest.energy, rtol=1e-9)
    np.testing.assert_allclose(again.forces, rest.forces[order], atol=1e-12 * float(potential.epsilon))
    expected = response(rest)[order][:, :, order]
    np.testing.assert_allclose(response(again), expected, atol=1e-6 * np.abs(expected).max())
    one, two = rest.certificate, again.certificate
    assert sorted(np.argsort(order)[list(one.rattlers)]) == list(two.rattlers)
    assert one.zero_modes == two.zero_modes


@laws
@given(potentials, seeds, dims, st.floats(0.01, 100.0), st.floats(1e-3, 1e3))
def test_lengths_and_energies_only_set_the_scale(potential, seed, dim, s, e):
    rest = packing(potential, seed, dim)
    system = rest.system
    large = mdsens.System(s * system.positions, s * system.box, s * system.diameters, system.species)
    stiff = mdsens.SoftSphere(e * potential.epsilon, potential.alpha)
    again = mdsens.Relaxation(tolerance=1e-10 * e / s)(stiff, large)
    assert int(again.steps) == 0
    np.testing.assert_allclose(again.energy, e * rest.energy, rtol=1e-9)
    expected = response(rest)  # a length per length, without a unit
    np.testing.assert_allclose(response(again), expected, atol=1e-6 * np.abs(expected).max())
    one, two = rest.certificate, again.certificate
    np.testing.assert_allclose(two.softest, one.softest * e / s**2, rtol=1e-6)
    assert (two.rattlers, two.zero_modes, two.kind) == (one.rattlers, one.zero_modes, one.kind)


@laws
@given(potentials, seeds, dims)
def test_forward_is_reverse(potential, seed, dim):
    rest = packing(potential, seed, dim)
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.normal(size=(N, dim)))

    def loss(theta):
        p, D, box = theta
        return jnp.sum(weights * RELAX(p, rest.system.replace(diameters=D, box=box)).positions)

    theta = (rest.potential, rest.system.diameters, rest.system.box)
    step = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), theta)
    forward = jax.jvp(loss, (theta,), (step,))[1]
    gradient = jax.grad(loss)(theta)
    terms = [float(jnp.sum(g * t)) for g, t in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True)]
    np.testing.assert_allclose(forward, sum(terms), atol=1e-9 * sum(map(abs, terms)))


@laws
@given(potentials, st.floats(0.001, 0.05), st.integers(0, 1000), dims)
def test_a_crystal_follows_the_box_affinely(potential, compression, seed, dim):
    """A lattice with one particle in its primitive cell has no non-affine response (Lutsko 1989)."""
    if dim == 2:
        basis, cell, repeats = [[0, 0], [0.5, 0.5]], np.diag([1.0, np.sqrt(3.0)]), (4, 4)
    else:
        basis = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        cell, repeats = np.sqrt(2.0) * np.eye(3), (2, 2, 2)
    corners = np.stack(np.meshgrid(*map(range, repeats), indexing="ij"), axis=-1).reshape(-1, dim)
    x = (corners[:, None] + np.array(basis)).reshape(-1, dim) @ cell * (1.0 - compression)
    box = np.diag(repeats) @ cell * (1.0 - compression)
    crystal = mdsens.System(x, box, 1.0)
    rest = mdsens.Relaxation(tolerance=1e-10)(potential, crystal)
    assert int(rest.steps) == 0
    strain = np.random.default_rng(seed).normal(size=(dim, dim))
    change = jnp.asarray(box @ strain)
    moved = jax.jvp(lambda b: RELAX(potential, rest.system.replace(box=b)).positions, (rest.system.box,), (change,))[1]
    affine = x @ strain
    np.testing.assert_allclose(moved, affine, atol=1e-8 * np.abs(affine).max())
