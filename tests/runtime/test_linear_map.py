import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.runtime.linear_map import linear_map
from samples import jammed

HASTY = mdsens.Relaxation(tolerance=1e-10, linear_solver=mdsens.linear_solvers.minres(max_steps=3))


def first(D, relax=HASTY, factor=1.0):
    rest = jammed(n=32)
    return factor * relax(rest.potential, rest.system.replace(diameters=D)).positions[0, 0]


@pytest.mark.parametrize("transform", [jax.grad, jax.jacrev, jax.jacfwd, jax.hessian])
def test_a_solve_that_fails_is_an_exception_outside_jit_in_every_mode(transform):
    with pytest.raises(mdsens.SolveFailed, match="linear solve cannot be trusted"):
        transform(first)(jammed(n=32).system.diameters)


def test_in_reverse_the_exception_names_the_parameter():
    with pytest.raises(mdsens.SolveFailed, match="by diameters"):
        jax.grad(first)(jammed(n=32).system.diameters)


def test_within_jit_and_for_those_who_ask_for_it_a_failed_solve_is_nan():
    D = jammed(n=32).system.diameters
    assert np.isnan(jax.jit(jax.grad(first))(D)).any()
    as_it_is = mdsens.Relaxation(tolerance=1e-10, linear_solver=mdsens.linear_solvers.minres(max_steps=3), throw=False)
    assert np.isnan(jax.grad(lambda D: first(D, as_it_is))(D)).any()


def test_what_comes_in_as_nan_goes_out_as_nan():
    right = mdsens.Relaxation(tolerance=1e-10)
    assert np.isnan(jax.grad(lambda D: first(D, right, jnp.nan))(jammed(n=32).system.diameters)).all()


def scaled(x, change):
    """x³ times a change."""
    return x**3 * change["u"]


def failing(x, change):
    return scaled(x, change) * jnp.nan


@jax.custom_jvp
def quartic(x):
    return 0.25 * x**4


@quartic.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return quartic(x), linear_map(eqx.Partial(scaled, x), {"u": t}, x, lambda name: RuntimeError(f"by {name}"))


X = jnp.asarray([1.0, 2.0])


@pytest.mark.parametrize("wrapped", [lambda f: f, jax.jit])
def test_a_linear_map_is_differentiated_to_any_order(wrapped):
    def total(x):
        return quartic(x).sum()

    np.testing.assert_allclose(wrapped(jax.jacrev(quartic))(X), np.diag(X**3))
    np.testing.assert_allclose(wrapped(jax.jacfwd(quartic))(X), np.diag(X**3))
    np.testing.assert_allclose(wrapped(jax.vmap(jax.grad(total)))(jnp.stack([X, 2.0 * X])), [X**3, 8.0 * X**3])
    np.testing.assert_allclose(wrapped(jax.jacrev(jax.jacfwd(quartic)))(X)[0, 0], [3.0, 0.0])
    for second in (jax.hessian(total), jax.jacrev(jax.grad(total)), jax.jacfwd(jax.jacfwd(total))):
        np.testing.assert_allclose(wrapped(second)(X), np.diag(3.0 * X**2))
    third = jax.jacfwd(jax.jacrev(jax.jacfwd(total)))
    np.testing.assert_allclose(wrapped(third)(X)[1, 1, 1], 12.0)


def test_it_is_transposed_where_it_is_batched_over_changes_alone():
    def along(scale):
        return jax.vmap(lambda t: jax.jvp(quartic, (X,), (scale * t,))[1])(jnp.eye(2)).sum()

    np.testing.assert_allclose(jax.grad(along)(3.0), 9.0)


def test_each_direction_is_one_program(compilations):
    jax.grad(lambda x: quartic(x) @ X)(X)
    with compilations:
        jax.grad(lambda x: quartic(x) @ (X + 1.0))(X)
    assert "_call" not in compilations.functions
    with compilations:
        jax.grad(lambda x: (quartic(x) ** 2).sum())(jnp.arange(7.0))
    assert compilations.names.count("jit(_call)") == 1


@pytest.mark.parametrize("function", [scaled, failing])
def test_what_takes_less_code_is_tried_first_and_the_whole_where_it_fails(function):
    found = linear_map(eqx.Partial(scaled, X), {"u": X}, X, attempt=eqx.Partial(function, X))
    np.testing.assert_allclose(found, X**4)


def test_what_is_not_finite_is_refused_forward_and_by_the_name_of_an_argument_in_reverse():
    def refused(name):
        return RuntimeError(f"by {name}")

    def mapped(t):
        return linear_map(eqx.Partial(failing, X), {"u": t}, X, refused)

    with pytest.raises(RuntimeError, match="by None"):
        mapped(X)
    with pytest.raises(RuntimeError, match="by u"):
        jax.linear_transpose(mapped, X)(X)
    assert np.isnan(mapped(X * jnp.nan)).all()
    assert np.isnan(jax.jit(mapped)(X)).all()


class Bowl(mdsens.Potential):
    """½ k x² (1 + (-1)^m): for even m right, and without a derivative by m."""

    k: jax.Array
    m: jax.Array

    def energy(self, system, neighbors):
        return 0.5 * self.k * jnp.sum((system.positions - 1.0) ** 2 + 1.0) * (1.0 + jnp.asarray(-1.0) ** self.m)


def test_a_parameter_without_a_finite_derivative_is_named_and_another_has_its_own():
    system = mdsens.System([[0.5, 0.2]], None, 1.0)

    def energy(potential):
        return mdsens.Relaxation()(potential, system).energy

    bowl = Bowl(jnp.asarray(1.5), jnp.asarray(2.0))
    with pytest.raises(mdsens.SolveFailed, match="by m is not finite"):
        jax.grad(energy)(bowl)
    by_k = jax.grad(lambda k: energy(Bowl(k, bowl.m)))(bowl.k)
    assert float(by_k) == pytest.approx(float(energy(bowl)) / 1.5)
