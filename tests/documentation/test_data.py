from pathlib import Path

import pytest

import mdsens

DATA = Path(__file__).parents[2] / "data"
POTENTIALS = {
    "bidisperse_2d": mdsens.SoftSphere(),
    "hertzian_3d": mdsens.SoftSphere(alpha=2.5),
    "sheared_2d": mdsens.SoftSphere(),
}


def test_every_packing_in_data_is_tested():
    assert {path.stem for path in DATA.glob("*.extxyz")} == set(POTENTIALS)


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_packings_in_data_are_at_rest(name):
    rest = mdsens.Relaxation(tolerance=2e-12)(POTENTIALS[name], mdsens.read(DATA / f"{name}.extxyz"))
    assert int(rest.steps) == 0
    assert rest.certificate.minimum
