"""Cells that relax at constant pressure, and how they respond."""

import jax
import numpy as np
import pytest

import mdsens
from mdsens import properties
from samples import jammed, reference_of

SOFT = mdsens.SoftSphere()


def at(pressure, cell="isotropic", tolerance=1e-12):
    return mdsens.Relaxation(tolerance=tolerance, pressure=pressure, cell=cell)


@pytest.mark.parametrize(
    ("dim", "packing_fraction", "pressure", "cell"),
    [(2, 0.98, 0.03, "isotropic"), (2, 0.75, 1e-3, "isotropic"), (2, 0.98, 0.05, "full"), (3, 0.75, 0.02, "full")],
)
def test_the_pressure_is_reached(dim, packing_fraction, pressure, cell):
    rest = at(pressure, cell, 1e-11)(SOFT, mdsens.random_packing(32, dim, packing_fraction=packing_fraction, seed=2))
    stress = np.asarray(properties.stress(rest))
    assert abs(np.trace(stress) / dim + pressure) < 1e-10
    if cell == "full":
        np.testing.assert_allclose(stress, -pressure * np.eye(dim), atol=1e-10)
    assert float(rest.pressure_error) < 1e-10 and bool(rest.minimum)
    assert rest.certificate.pressure == pressure and "pressure" in str(rest.certificate)


@pytest.mark.parametrize("seed", range(4))
def test_a_packing_at_a_tiny_pressure_is_found_in_a_cell_free_to_shear(seed):
    """Starting from ten thousand times that pressure."""
    rest = at(1e-6, "full")(SOFT, mdsens.random_packing(32, packing_fraction=0.87, seed=seed))
    stress = reference_of(rest).stress()
    np.testing.assert_allclose(stress, -1e-6 * np.eye(2), atol=1e-11)
    assert bool(rest.minimum)
    # isostatic, including the contacts that stabilize the shape of the cell: Dagois-Bohy et al., PRL 109, 095703 (2012)
    n = 32 - len(rest.certificate.rattlers)
    assert 2 * (n - 1) + 3 <= round(0.5 * rest.certificate.contact_number * n) <= 2 * (n - 1) + 5


def test_the_volume_falls_with_pressure_as_the_bulk_modulus_says():
    rest = at(0.05)(SOFT, jammed(1, 32).system)
    slope = jax.grad(lambda p: at(p)(SOFT, rest.system).system.volume)(0.05)
    np.testing.assert_allclose(slope, -float(rest.system.volume / properties.bulk_modulus(rest)), rtol=1e-8)


def volume_and_more(rest):
    return jax.numpy.stack([rest.system.volume, rest.energy, properties.shear_modulus(rest)])


@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_responses_include_the_cell(cell):
    start = at(0.1, cell, 1e-13)(SOFT, jammed(2, 32).system).system

    def measure(theta):
        D = start.diameters + theta * (start.species == 1)
        return volume_and_more(at(0.1, cell, 1e-13)(SOFT, start.replace(diameters=D)))

    h = 1e-6
    difference = (measure(h) - measure(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jacfwd(measure)(0.0), difference, rtol=1e-5)
    np.testing.assert_allclose(jax.jacrev(measure)(0.0), difference, rtol=1e-5)


def test_second_derivatives_include_the_cell():
    potential = mdsens.SoftSphere(alpha=2.5)
    start = at(0.1, tolerance=1e-13)(potential, jammed(0, 32).system).system
    volume = lambda p: at(p, tolerance=1e-13)(potential, start).system.volume  # noqa: E731
    h = 1e-4
    difference = (volume(0.1 + h) - 2 * volume(0.1) + volume(0.1 - h)) / h**2
    np.testing.assert_allclose(jax.hessian(volume)(0.1), difference, rtol=1e-4)


def test_sensitivity_by_name_includes_the_cell():
    rest = at(0.1)(SOFT, jammed(2, 32).system)
    named = mdsens.sensitivity(rest, "epsilon")
    direct = jax.jacfwd(lambda e: at(0.1)(mdsens.SoftSphere(e), rest.system).positions)(1.0)
    np.testing.assert_allclose(named.response, direct, atol=1e-9)
    for refused in (mdsens.validity, lambda eq, name: mdsens.follow(eq, name, 1.1)):
        with pytest.raises(mdsens.InvalidInput, match="fixed cell"):
            refused(rest, "epsilon")


def test_inside_jit_it_is_the_same():
    start = jammed(1, 32).system
    outside = at(0.05)(SOFT, start)
    inside = jax.jit(lambda p: at(p)(SOFT, start))(0.05)
    assert bool(inside.converged) and bool(inside.minimum)
    np.testing.assert_allclose(inside.system.volume, outside.system.volume, rtol=1e-9)
    np.testing.assert_allclose(inside.energy, outside.energy, rtol=1e-8)


def test_a_cell_that_is_not_at_rest_is_nan_under_jit():
    start = jammed(1, 32).system
    volume = jax.jit(lambda D: at(0.05)(SOFT, start.replace(diameters=D)).system.volume)
    assert np.isfinite(volume(start.diameters)) and np.isnan(volume(start.diameters.at[0].set(np.nan)))


def test_single_precision_is_kept_in_a_session_of_double():
    start = jammed(1, 32).system
    start = start.replace(
        **{name: getattr(start, name).astype("float32") for name in ("positions", "box", "diameters")}
    )
    relax = mdsens.Relaxation(tolerance=1e-5, pressure=0.05)
    for rest in (relax(SOFT, start), jax.jit(relax)(SOFT, start)):
        assert {rest.positions.dtype, rest.system.box.dtype, rest.pressure_error.dtype} == {np.dtype("float32")}


def test_invalid_pressures_and_cells_are_refused():
    with pytest.raises(mdsens.InvalidInput, match="open boundaries"):
        at(0.1)(SOFT, mdsens.System(np.zeros((1, 2)), None, 1.0))
    with pytest.raises(mdsens.InvalidInput, match="one number"):
        at(np.nan)
    with pytest.raises(mdsens.InvalidInput, match="isotropic"):
        at(0.1, "shear")
    with pytest.raises(mdsens.InvalidInput, match="only repels: at a pressure of -1"):
        at(-1.0)(SOFT, jammed(1, 32).system)
    with pytest.raises(mdsens.InvalidInput, match="fixed cells"):
        mdsens.relax_ensemble(at(0.1), SOFT, [jammed(1, 32).system])


def test_a_cell_under_more_tension_than_it_bears_is_seen_and_named():
    """fcc Lennard-Jones bears a tension of some 7 ε/σ³; it would grow until its particles no longer meet."""
    spacing = 1.55
    corners = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    cells = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    system = mdsens.System((cells + corners).reshape(-1, 3) * spacing, np.eye(3) * 3 * spacing, 1.0)
    relax = mdsens.Relaxation(pressure=-20.0)
    with pytest.raises(mdsens.NotAMinimum, match=r"grows without end at the pressure -20: after [0-9] strains"):
        relax(mdsens.LennardJones(), system)


class Sink(mdsens.Potential):
    """-1/V, which falls faster than pV rises."""

    def energy(self, system, neighbors):
        return -1.0 / system.volume


def test_a_cell_that_collapses_is_seen_and_named():
    system = mdsens.System([[0.0, 0.0]], [1.0, 1.0], 1.0)
    with pytest.raises(mdsens.NotAMinimum, match="shrinks without end"):
        mdsens.Relaxation(pressure=0.5)(Sink(), system)
