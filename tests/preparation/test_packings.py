import jax
import numpy as np
import pytest

import mdsens


def test_the_first_half_has_the_first_diameter_and_species_0():
    system = mdsens.random_packing(n=7, diameters=(1.0, 0.6), seed=3)
    np.testing.assert_array_equal(system.diameters, [1.0] * 4 + [0.6] * 3)
    np.testing.assert_array_equal(system.species, [0] * 4 + [1] * 3)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_packing_fraction_is_the_one_asked_for(dim):
    system = mdsens.random_packing(n=50, dim=dim, diameters=(1.0, 0.7, 0.2), packing_fraction=0.83)
    ball = np.pi / 4 if dim == 2 else np.pi / 6
    volume = np.linalg.det(system.box)
    assert np.sum(ball * np.asarray(system.diameters) ** dim) / volume == pytest.approx(0.83, abs=1e-12)
    assert float(system.packing_fraction) == pytest.approx(0.83, abs=1e-12)


def test_diameters_scatter_about_those_given_by_as_much_as_asked_for():
    plain, spread = (mdsens.random_packing(20000, polydispersity=p, packing_fraction=0.9) for p in (0.0, 0.2))
    assert float(spread.packing_fraction) == pytest.approx(0.9, abs=1e-12)
    np.testing.assert_array_equal(spread.species, plain.species)
    for kind, mean in enumerate((1.0, 0.6)):
        sizes = np.asarray(spread.diameters)[np.asarray(spread.species) == kind]
        assert sizes.min() > 0.0
        assert sizes.mean() == pytest.approx(mean, rel=0.01)  # seven standard errors
        assert sizes.std() / sizes.mean() == pytest.approx(0.2, rel=0.05)
        assert np.log(sizes).std() == pytest.approx(np.sqrt(np.log1p(0.04)), rel=0.05)


def test_the_same_seed_makes_the_same_packing():
    one, same, other = (mdsens.random_packing(20, seed=s).positions for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    with jax.enable_x64(False):
        single = mdsens.random_packing(20, seed=1).positions
    np.testing.assert_allclose(single, one, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dim": 4},
        {"n": 1},
        {"n": 10.0},
        {"diameters": (1.0, -1.0)},
        {"packing_fraction": 0.0},
        {"packing_fraction": np.nan},
        {"seed": -1},
        {"polydispersity": -0.1},
        {"polydispersity": np.nan},
    ],
)
def test_invalid_arguments_are_refused(arguments):
    with pytest.raises(mdsens.InvalidInput):
        mdsens.random_packing(**({"n": 10} | arguments))
