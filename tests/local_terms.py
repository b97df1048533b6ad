"""What every potential that is a sum of local terms is checked against: an energy written independently, of positions
alone, and its differences.
"""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import mdsens

TRICLINIC = {
    2: np.array([[4.0, 0.0], [1.1, 3.6]]),
    3: np.array([[4.0, 0.0, 0.0], [0.9, 3.8, 0.0], [-0.7, 0.8, 3.5]]),
}


def nearest(separation, box):
    """The shortest of all nearby images of separations [..., d], by looking at each."""
    if box is None:
        return separation
    shifts = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=len(box)))) @ np.asarray(box)
    images = separation[..., None, :] + shifts
    shortest = jnp.argmin(jnp.sum(images**2, axis=-1), axis=-1)
    return jnp.take_along_axis(images, shortest[..., None, None], -2)[..., 0, :]


def configuration(potential, system):
    potential = potential.prepared_for(system)
    return mdsens.Configuration(potential, system, mdsens.AllPairs().build(potential, system))


def check_derivatives(potential, system, energy, atol=1e-10):
    """Energy, forces and every form of the Hessian of a potential, against `energy(x)` and central differences."""
    here, x = configuration(potential, system), system.positions
    u = jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
    value, slope, curvature = jax.jit(lambda x: (energy(x), jax.grad(energy)(x), jax.hessian(energy)(x)))(x)
    expected = np.asarray(curvature).reshape(x.size, x.size)
    scale = max(1.0, np.abs(expected).max())
    close = functools.partial(np.testing.assert_allclose, atol=atol * scale)

    hessian, product, dense, entries, on_sites, mean = _every_form(here, u)
    assert type(hessian).__name__ == "BlockHessian" and hessian.has_entries
    found, force = energy_and_gradient(here)
    close(found, value)
    close(force, slope)
    close(dense.reshape(x.size, x.size), expected)
    close(product.ravel(), expected @ u.ravel(), atol=10 * atol * scale)
    close(summed(*entries, x.size), expected + 0.3 * np.eye(x.size))
    close(on_sites, np.diag(expected).reshape(x.shape).mean(axis=1))
    close(mean, np.diag(expected).mean())

    h = 1e-5
    (up, pull_up), (down, pull_down) = (energy_and_gradient(here.at(x + sign * h * u)) for sign in (1.0, -1.0))
    close((up - down) / (2 * h), np.sum(force * u), rtol=1e-6, atol=1e-7 * scale)
    close((pull_up - pull_down) / (2 * h), product, rtol=1e-5, atol=1e-6 * scale)


@eqx.filter_jit
def _every_form(here, u):
    hessian = here.hessian()
    entries = hessian.entries(jnp.asarray(0.3))
    return hessian, hessian.product(u), hessian.dense(), entries, hessian.site_stiffness(), hessian.scale()


@eqx.filter_jit
def dense_hessian(here):
    return here.hessian().dense()


@eqx.filter_jit
def energy_and_gradient(here):
    return here.energy(), here.gradient()


def summed(rows, columns, values, size):
    """The symmetric matrix of the entries of an upper triangle."""
    rows, columns, values = np.asarray(rows), np.asarray(columns), np.asarray(values)
    assert np.all(rows <= columns)
    upper = np.zeros((size, size))
    np.add.at(upper, (rows, columns), values)
    return upper + np.triu(upper, 1).T
