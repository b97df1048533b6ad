"""Derivatives of anything that a condition defines, against closed forms, NumPy and finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

import mdsens
from mdsens import linear_solvers
from mdsens.implicit import root
from samples import relative

RNG = np.random.default_rng(0)
FEATURES, TARGETS = jnp.asarray(RNG.normal(size=(20, 5))), jnp.asarray(RNG.normal(size=20))
DERIVATIVES = [jax.jacfwd, jax.jacrev]


def ridge_condition(w, penalty, features, targets):
    return features.T @ (features @ w - targets) + penalty * w


def ridge_matrix(penalty, features=FEATURES):
    return features.T @ features + penalty * jnp.eye(features.shape[1])


@root(ridge_condition, symmetric=True)
def ridge(_start, penalty, features, targets):
    return jnp.linalg.solve(ridge_matrix(penalty, features), features.T @ targets)


def two_equations(x, a):
    return jnp.stack([x[0] ** 2 + a[0] * x[1] - 2.0, a[1] * x[0] + x[1] ** 3 - 1.5])


def by_scipy(start, a):
    assert isinstance(np.asarray(a), np.ndarray)
    return scipy.optimize.root(lambda x: np.asarray(two_equations(x, a)), start, tol=1e-13).x


START, A = np.array([1.2, 0.8]), jnp.array([0.3, 0.7])
CALLED_BACK = root(two_equations, callback=True)(by_scipy)


def exact_response(a):
    x = by_scipy(START, a)
    return -jnp.linalg.solve(jax.jacfwd(two_equations)(x, a), jax.jacfwd(two_equations, 1)(x, a))


def numerically(function, a, h=1e-5):
    return np.stack([(function(a + h * e) - function(a - h * e)) / (2 * h) for e in np.eye(a.size)], axis=-1)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_the_hypergradient_of_ridge_regression(derivative):
    w = ridge(None, 0.3, FEATURES, TARGETS)
    by_penalty = -jnp.linalg.solve(ridge_matrix(0.3), w)
    for transform in (lambda f: f, jax.jit):
        found = transform(derivative(lambda penalty: ridge(None, penalty, FEATURES, TARGETS)))(0.3)
        np.testing.assert_allclose(found, by_penalty, atol=1e-12)
    by_targets = jnp.linalg.solve(ridge_matrix(0.3), FEATURES.T)
    np.testing.assert_allclose(derivative(ridge, 3)(None, 0.3, FEATURES, TARGETS), by_targets, atol=1e-12)


def test_second_and_third_derivatives_are_those_of_the_closed_form():
    def loss(penalty, solve):
        return jnp.sum(jnp.sin(solve(penalty)))

    def closed(penalty):
        return jnp.linalg.solve(ridge_matrix(penalty), FEATURES.T @ TARGETS)

    def implicit(penalty):
        return ridge(None, penalty, FEATURES, TARGETS)

    for derivative in (jax.hessian, lambda f: jax.grad(jax.grad(f)), lambda f: jax.jacfwd(jax.jacfwd(jax.grad(f)))):
        expected, found = (derivative(lambda penalty, s=solve: loss(penalty, s))(0.3) for solve in (closed, implicit))
        assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_a_lasso_by_a_proximal_fixed_point():
    def soft(w, threshold):
        return jnp.sign(w) * jnp.maximum(jnp.abs(w) - threshold, 0.0)

    step = 1.0 / jnp.linalg.norm(FEATURES, 2) ** 2

    def fixed_point(w, penalty):
        return soft(w - step * FEATURES.T @ (FEATURES @ w - TARGETS), step * penalty) - w

    @root(fixed_point, tolerance=1e-12)
    def lasso(start, penalty):
        return jax.lax.fori_loop(0, 500, lambda _, w: w + fixed_point(w, penalty), start)

    penalty, start = 2.5, jnp.zeros(5)
    w = lasso(start, penalty)
    chosen = np.flatnonzero(w)
    assert 0 < len(chosen) < 5
    expected = np.zeros(5)
    gram = np.asarray(FEATURES.T @ FEATURES)[np.ix_(chosen, chosen)]
    expected[chosen] = -np.linalg.solve(gram, np.sign(np.asarray(w)[chosen]))
    for derivative in DERIVATIVES:
        np.testing.assert_allclose(derivative(lambda p: lasso(start, p))(penalty), expected, atol=1e-10)


def test_a_chain_of_springs_between_fixed_ends_by_every_stiffness_length_and_the_load():
    """A load in the middle is shared by the springs on either side."""
    ends = (0.0, 7.0)

    def energy(x, k, lengths, load):
        stretched = jnp.diff(jnp.concatenate([jnp.array(ends[:1]), x, jnp.array(ends[1:])])) - lengths
        return 0.5 * jnp.sum(k * stretched**2) - load * x[2]

    @root(jax.grad(energy), symmetric=True)
    def chain(start, k, lengths, load):
        hessian = jax.hessian(energy)(start, k, lengths, load)
        return start - jnp.linalg.solve(hessian, jax.grad(energy)(start, k, lengths, load))

    def closed(k, lengths, load):
        """The force is `before` in the first three springs, and `before` - load in the others."""
        left, right = jnp.sum(1 / k[:3]), jnp.sum(1 / k[3:])
        before = (ends[1] - jnp.sum(lengths) + load * right) / (left + right)
        force = before - load * (jnp.arange(6) >= 3)
        return jnp.cumsum(lengths + force / k)[:-1]

    theta = jnp.asarray(RNG.uniform(1, 2, 6)), jnp.asarray(RNG.uniform(0.5, 1.5, 6)), 0.3
    start = jnp.arange(1.0, 6.0)
    np.testing.assert_allclose(chain(start, *theta), closed(*theta), atol=1e-12)
    expected = jax.jacfwd(closed, (0, 1, 2))(*theta)
    for derivative in DERIVATIVES:
        for found, wanted in zip(derivative(chain, (1, 2, 3))(start, *theta), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_a_bead_on_a_soft_wall_under_gravity():
    """k (r - z)^1.5 = m g, so z = r - (m g / k)^(2/3)."""

    def condition(z, wall, bead):
        return bead["m"] * bead["g"] - wall["k"] * (wall["r"] - z) ** 1.5

    @root(condition, symmetric=True)
    def rest(start, wall, bead):
        return jax.lax.fori_loop(0, 100, lambda _, z: z - 0.3 * condition(z, wall, bead), start)

    wall, bead = {"k": 2.0, "r": 1.0}, {"m": 0.5, "g": 0.8, "name": None}
    by_wall, by_bead = jax.grad(rest, (1, 2))(0.5, wall, bead)
    size = (0.4 / 2.0) ** (2 / 3)
    assert float(by_wall["r"]) == pytest.approx(1.0, abs=1e-10)
    assert float(by_wall["k"]) == pytest.approx(2 / 3 * size / 2.0, abs=1e-10)
    assert float(by_bead["m"]) == pytest.approx(-2 / 3 * size / 0.5, abs=1e-10)
    assert by_bead["name"] is None


@pytest.mark.optimized  # XLA's older emitters without optimizations have given NaN in BiCGSTAB
@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize(
    "solver", [None, lx.LU(), lx.QR(), lx.SVD(), linear_solvers.gmres(), linear_solvers.bicgstab()], ids=str
)
def test_a_condition_that_is_not_symmetric_with_every_solver(solver, derivative):
    solve = root(two_equations, linear_solver=solver)(by_scipy)
    np.testing.assert_allclose(derivative(solve, 1)(START, A), exact_response(A), atol=1e-10)


@pytest.mark.parametrize("outer", DERIVATIVES)
@pytest.mark.parametrize("inner", DERIVATIVES)
def test_second_derivatives_are_differences_of_first_ones(outer, inner):
    solve = root(two_equations)(by_scipy)
    found = outer(inner(solve, 1), 1)(START, A)
    np.testing.assert_allclose(found, numerically(exact_response, A), atol=1e-6)


def test_a_solver_that_is_no_jax_code_inside_jit_and_vmap():
    weights = jnp.array([1.0, -2.0])

    def loss(a):
        return weights @ CALLED_BACK(START, a)

    np.testing.assert_allclose(jax.jit(lambda a: CALLED_BACK(START, a))(A), by_scipy(START, A), atol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(A), weights @ exact_response(A), atol=1e-10)
    batch = A * jnp.array([1.0, 1.1, 0.9])[:, None]
    expected = [weights @ exact_response(a) for a in batch]
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(batch), expected, atol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(batch), expected, atol=1e-10)
    np.testing.assert_allclose(jax.grad(lambda b: jnp.sum(jax.vmap(loss)(b)))(batch), expected, atol=1e-10)


def test_a_callback_is_given_arrays_of_numpy_everywhere():
    given = []

    @root(lambda x, a: x - a, callback=True)
    def copy(start, a):
        given.extend((start, a))
        return a

    copy(jnp.zeros(2), A)
    jax.jit(copy)(jnp.zeros(2), A)
    assert len(given) == 4 and all(type(value) is np.ndarray for value in given)


def test_a_callback_without_a_start_needs_the_shapes_of_its_result():
    def double(_start, a):
        return 2 * a

    missing = root(lambda x, a: x - 2 * a, callback=True)(double)
    with pytest.raises(mdsens.InvalidInput, match="like="):
        jax.jit(lambda a: missing(None, a))(A)
    known = root(lambda x, a: x - 2 * a, callback=True, like=jax.ShapeDtypeStruct((2,), float))(double)
    np.testing.assert_allclose(jax.jit(jax.jacrev(lambda a: known(None, a)))(A), 2 * np.eye(2), atol=1e-12)


def test_integers_and_none_pass_through_pytrees():
    def condition(x, theta):
        return {"a": x["a"] - theta[0] * theta[1], "b": {"c": x["b"]["c"] - theta[0] ** 2, "n": None}, "none": None}

    @root(condition)
    def solve(start, theta):
        first = theta[0] * theta[1]
        return {"a": first * jnp.ones(2), "b": {"c": theta[0] ** 2, "n": start["b"]["n"]}, "none": None}

    start = {"a": jnp.zeros(2), "b": {"c": jnp.asarray(0.0), "n": jnp.arange(3)}, "none": None}
    x = solve(start, (2.0, jnp.asarray(3), None))
    np.testing.assert_array_equal(x["b"]["n"], [0, 1, 2])
    assert x["none"] is None

    def loss(first):
        found = solve(start, (first, jnp.asarray(3), None))
        return jnp.sum(found["a"]) + found["b"]["c"] * found["b"]["n"][1]

    for derivative in (jax.grad, jax.jacfwd):
        assert float(derivative(loss)(2.0)) == pytest.approx(2 * 3 + 2 * 2.0, abs=1e-12)
        assert float(jax.jit(derivative(loss))(2.0)) == pytest.approx(10.0, abs=1e-12)


def test_values_that_the_condition_takes_from_outside_are_differentiated_too():
    def loss(penalty):
        def condition(w):
            return ridge_condition(w, penalty, FEATURES, TARGETS)

        def solver(_start):
            return jnp.linalg.solve(ridge_matrix(penalty), FEATURES.T @ TARGETS)

        return jnp.sum(root(condition, symmetric=True)(solver)(None))

    expected = jax.grad(lambda penalty: jnp.sum(ridge(None, penalty, FEATURES, TARGETS)))(0.3)
    for derivative in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))):
        assert float(derivative(loss)(0.3)) == pytest.approx(float(expected), rel=1e-12)


def test_the_arrays_of_a_condition_that_is_a_module_are_differentiated():
    class Ridge(eqx.Module):
        penalty: jax.Array

        def __call__(self, w):
            return ridge_condition(w, self.penalty, FEATURES, TARGETS)

    def loss(module):
        return jnp.sum(root(module, symmetric=True)(lambda _: ridge(None, module.penalty, FEATURES, TARGETS))(None))

    expected = jax.grad(lambda penalty: jnp.sum(ridge(None, penalty, FEATURES, TARGETS)))(0.3)
    assert float(jax.grad(loss)(Ridge(jnp.asarray(0.3))).penalty) == pytest.approx(float(expected), rel=1e-12)


def test_the_start_and_auxiliary_output_have_no_derivative():
    @root(two_equations, has_aux=True)
    def solve(start, a):
        x = by_scipy(start, a)
        return x, {"error": jnp.asarray(a[0] * 0.0 + 1.0), "name": "hybr"}

    x, aux = solve(jnp.asarray(START), A)
    assert aux["name"] == "hybr" and x.shape == (2,)
    by_start, by_a = jax.grad(lambda start, a: jnp.sum(solve(start, a)[0]), (0, 1))(jnp.asarray(START), A)
    np.testing.assert_array_equal(by_start, 0.0)
    np.testing.assert_allclose(by_a, exact_response(A).sum(axis=0), atol=1e-10)
    np.testing.assert_array_equal(jax.grad(lambda a: solve(START, a)[1]["error"] * 1.0)(A), 0.0)


def test_keyword_arguments_reach_the_solver():
    @root(two_equations)
    def solve(start, a, *, method):
        assert method == "hybr"
        return by_scipy(start, a)

    np.testing.assert_allclose(jax.jacfwd(lambda a: solve(START, a, method="hybr"))(A), exact_response(A), atol=1e-10)
    with pytest.raises(mdsens.InvalidInput, match="by position"):
        jax.grad(lambda scale: jnp.sum(solve(START, A, method=scale)))(1.0)


def test_single_precision():
    with jax.enable_x64(False):
        solve = root(two_equations, callback=True)(by_scipy)
        a = jnp.asarray(A, jnp.float32)
        found = jax.jacrev(solve, 1)(np.float32(START), a)
        assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact_response(A), rtol=1e-4, atol=1e-5)


def test_a_loop_of_gradients_compiles_once(compilations):
    @jax.value_and_grad
    def loss(penalty):
        return jnp.sum(ridge(None, penalty, FEATURES, TARGETS) ** 2)

    for penalty in (0.1, 0.2):
        loss(penalty)
    with compilations as counted:
        slopes = {float(loss(penalty)[1]) for penalty in (0.3, 0.4, 0.5)}
    assert counted.count == 0, counted.names
    assert len(slopes) == 3


# A free chain with springs between neighbors and second neighbors: a translation does nothing.

BEADS = 6
STIFFNESS, LENGTHS = jnp.asarray(RNG.uniform(1, 2, 2 * BEADS - 3)), jnp.asarray(RNG.uniform(1, 2, 2 * BEADS - 3))
FREE = jnp.arange(BEADS) * 1.5


def free_energy(x, k, lengths):
    return 0.5 * jnp.sum(k * (jnp.concatenate([jnp.diff(x), x[2:] - x[:-2]]) - lengths) ** 2)


FORCES = jax.grad(free_energy)


@jax.jit
def relaxed(start, k, lengths, *_):
    return start - jnp.linalg.pinv(jax.hessian(free_energy)(start, k, lengths)) @ FORCES(start, k, lengths)


def pseudo_inverse():
    x = relaxed(FREE, STIFFNESS, LENGTHS)
    inverse = np.linalg.pinv(jax.hessian(free_energy)(x, STIFFNESS, LENGTHS))
    return inverse, -inverse @ jax.jacfwd(FORCES, 1)(x, STIFFNESS, LENGTHS)


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": True},
        {"symmetric": True, "null_space": jnp.ones((1, BEADS))},
        {"symmetric": True, "null_space": lambda x, u: u - jnp.mean(u)},
        {"symmetric": True, "null_space": 3 * jnp.ones((2, BEADS)), "linear_solver": linear_solvers.minres()},
        {"symmetric": True, "null_space": np.ones((1, BEADS)), "linear_solver": linear_solvers.cg()},
        {"null_space": jnp.ones((1, BEADS))},
        {"null_space": jnp.ones((1, BEADS)), "linear_solver": linear_solvers.gmres()},
    ],
    ids=["dense", "basis", "projection", "minres", "cg", "LU", "GMRES"],
)
def test_with_a_null_space_the_response_is_that_of_the_pseudo_inverse(options, derivative):
    solve = root(FORCES, **options)(relaxed)
    found = derivative(solve, 1)(FREE, STIFFNESS, LENGTHS)
    np.testing.assert_allclose(found, pseudo_inverse()[1], atol=1e-10)


def test_second_derivatives_in_a_null_space_that_turns():
    """A bead on a ring about the origin, of radius r: it does not turn about it, wherever it is."""

    def condition(x, r):
        return (jnp.sum(x**2) - r**2) * x

    def project(x, u):
        return x * jnp.sum(x * u) / jnp.sum(x**2)

    solve = root(condition, symmetric=True, null_space=project)(lambda start, r: r * start / jnp.linalg.norm(start))
    start = jnp.array([0.6, 0.8])
    np.testing.assert_allclose(jax.jacfwd(solve, 1)(start, 2.0), start, atol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(jax.jacfwd(solve, 1), 1)(start, 2.0), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"linear_solver": linear_solvers.gmres()},
        {"symmetric": True, "linear_solver": linear_solvers.minres()},
        {"symmetric": True, "null_space": jnp.eye(BEADS)[:1]},
        {"null_space": jnp.stack([jnp.ones(BEADS), jnp.arange(BEADS)])},
    ],
    ids=["LU", "GMRES", "minres", "wrong basis", "too large a basis"],
)
def test_a_singular_matrix_is_refused_outside_jit_and_nan_inside(options):
    solve = root(FORCES, **options)(relaxed)
    for derivative in DERIVATIVES:
        with pytest.raises(mdsens.SolveFailed, match="cannot be trusted"):
            derivative(solve, 1)(FREE, STIFFNESS, LENGTHS)
        assert np.isnan(jax.jit(derivative(solve, 1))(FREE, STIFFNESS, LENGTHS)).all()


def test_a_condition_that_is_not_symmetric_is_refused_as_a_symmetric_one():
    for solver in (None, lx.LU(), linear_solvers.minres()):
        solve = root(two_equations, symmetric=True, linear_solver=solver)(by_scipy)
        for derivative in DERIVATIVES:
            with pytest.raises(mdsens.SolveFailed):
                derivative(solve, 1)(START, A)


def test_a_load_that_nothing_balances_is_refused():
    solve = root(lambda x, k, lengths, load: FORCES(x, k, lengths) - load, symmetric=True)(relaxed)
    given = FREE, STIFFNESS, LENGTHS, jnp.zeros(BEADS)
    inverse, by_stiffness = pseudo_inverse()
    dipole, alone = jnp.zeros(BEADS).at[0].set(1.0).at[3].set(-1.0), jnp.zeros(BEADS).at[0].set(1.0)

    def along(direction):
        return jax.jvp(lambda load: solve(*given[:3], load), given[3:], (direction,))[1]

    np.testing.assert_allclose(along(dipole), inverse @ dipole, atol=1e-10)
    with pytest.raises(mdsens.SolveFailed):
        along(alone)
    assert np.isnan(jax.jit(along)(alone)).all()
    with pytest.raises(mdsens.SolveFailed):
        jax.jacfwd(solve, 3)(*given)
    assert np.isnan(jax.jit(jax.jacfwd(solve, 3))(*given)).all()
    assert np.isnan(jax.jacrev(solve, 3)(*given)).all()
    found, refused = jax.jacrev(solve, (1, 3))(*given)
    np.testing.assert_allclose(found, by_stiffness, atol=1e-10)
    assert np.isnan(refused).all()


def test_a_condition_that_is_not_met_is_refused():
    found = jnp.asarray(by_scipy(START, A)) + 1e-3

    def sloppy(start, a):
        return found

    with pytest.raises(mdsens.NotConverged, match="condition"):
        root(two_equations, tolerance=1e-8)(sloppy)(START, A)
    solve = root(two_equations, tolerance=1e-8)(sloppy)
    assert np.isnan(jax.jit(solve)(START, A)).all()
    np.testing.assert_array_equal(jax.jit(root(two_equations, tolerance=1.0)(sloppy))(START, A), found)
    for derivative in DERIVATIVES:
        with pytest.raises(mdsens.NotConverged):
            derivative(solve, 1)(START, A)
        assert np.isnan(jax.jit(derivative(solve, 1))(START, A)).all()
    assert np.isfinite(jax.jacrev(root(two_equations)(sloppy), 1)(START, A)).all()


@pytest.mark.parametrize(
    ("options", "solver", "message"),
    [
        ({}, lambda start, a: {"x": start}, "structure of its start"),
        ({}, lambda start, a: start[:1], "shape"),
        ({}, lambda start, a: np.asarray([1, 2]), "type"),
        ({"like": np.zeros(2, complex)}, lambda start, a: start + 0j, "real arrays"),
        ({"like": np.zeros(2, int)}, lambda start, a: np.asarray([1, 2]), "real arrays"),
        ({"null_space": jnp.ones(2)}, by_scipy, "in front"),
        ({"null_space": jnp.ones((1, 3))}, by_scipy, "in front"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, solver, message):
    with pytest.raises(mdsens.InvalidInput, match=message):
        root(lambda x, a: x * 1.0 if x.dtype == int else two_equations(x, a), **options)(solver)(START, A)


def test_options_that_do_not_fit_are_refused_by_name():
    for solver in (linear_solvers.dense(), linear_solvers.minres(), linear_solvers.cg(), lx.Cholesky()):
        with pytest.raises(mdsens.InvalidInput, match="symmetric=True"):
            root(two_equations, linear_solver=solver)
    with pytest.raises(mdsens.InvalidInput, match="pairs of particles"):
        root(two_equations, symmetric=True, linear_solver=linear_solvers.cholesky())
    with pytest.raises(mdsens.InvalidInput, match="no linear solver"):
        root(two_equations, linear_solver="LU")
    with pytest.raises(mdsens.InvalidInput, match="one equation for each unknown"):
        root(lambda x, a: x[:1])(by_scipy)(START, A)


def test_the_derivative_is_that_of_jaxopt():
    implicit_diff = pytest.importorskip("jaxopt.implicit_diff")
    theirs = implicit_diff.custom_root(ridge_condition)(ridge.__wrapped__)
    for found, expected in zip(
        *(jax.jacrev(solver, (1, 2))(None, 0.3, FEATURES, TARGETS) for solver in (ridge, theirs)), strict=True
    ):
        assert relative(found, expected) < 1e-6


def test_the_derivative_is_that_of_optimistix():
    optimistix = pytest.importorskip("optimistix")

    def theirs(a):
        return optimistix.root_find(two_equations, optimistix.Newton(1e-12, 1e-12), jnp.asarray(START), a).value

    found = jax.jacrev(CALLED_BACK, 1)(START, A)
    assert relative(found, jax.jacrev(theirs)(A)) < 1e-10
