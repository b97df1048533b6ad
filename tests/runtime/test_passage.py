import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from mdsens.runtime.passage import Passage
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


def test_numbers_pass_unchanged_to_any_order():
    def cubed(x):
        passage = Passage(RuntimeError)
        return passage.leave({"y": passage.enter({"x": x})["x"] ** 3})["y"]

    x = jnp.asarray([1.0, 2.0])
    np.testing.assert_allclose(jax.jacrev(cubed)(x), np.diag([3.0, 12.0]))
    np.testing.assert_allclose(jax.jit(jax.hessian(lambda x: cubed(x).sum()))(x), np.diag([6.0, 12.0]))
    np.testing.assert_allclose(jax.vmap(jax.grad(cubed))(x), [3.0, 12.0])


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
