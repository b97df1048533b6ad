"""What importing mdsens loads, offers, and leaves unchanged."""

import subprocess
import sys

import pytest

import mdsens


@pytest.mark.parametrize("program", ["import mdsens", "from mdsens.cli.app import app"])
def test_nothing_heavy_is_imported_before_it_is_used(program):
    heavy = "{'jax', 'jax_md', 'ase', 'scipy', 'matplotlib', 'h5py', 'equinox'}"
    code = f"{program}\nimport sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_exists():
    for name in mdsens.__all__:
        assert getattr(mdsens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = mdsens.Nothing


def test_using_mdsens_changes_no_setting_of_jax():
    code = (
        "import jax; before = dict(jax.config.values)\n"
        "import mdsens; mdsens.Relaxation(tolerance=1e-4)(mdsens.SoftSphere(), mdsens.random_packing(16))\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert before == {name: jax.config.values[name] for name in before}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
