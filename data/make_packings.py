"""Makes the packings in this folder: `python data/make_packings.py`. Nothing in them comes from elsewhere."""

from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402

import mdsens  # noqa: E402

HERE = Path(__file__).parent


def bidisperse_2d() -> mdsens.Equilibrium:
    """The packing of the README: 128 harmonic disks, half of diameter 1 and half of 0.6, at rest."""
    system = mdsens.random_packing(n=128, dim=2, diameters=(1.0, 0.6), packing_fraction=0.98, seed=0)
    return mdsens.Relaxation(tolerance=1e-12)(mdsens.SoftSphere(), system)


def hertzian_3d() -> mdsens.Equilibrium:
    """64 Hertzian spheres (α = 2.5), half of diameter 1 and half of 1.4, in a cube, at rest."""
    system = mdsens.random_packing(n=64, dim=3, diameters=(1.0, 1.4), packing_fraction=0.75, seed=1)
    return mdsens.Relaxation(tolerance=1e-12)(mdsens.SoftSphere(alpha=2.5), system)


def sheared_2d() -> mdsens.Equilibrium:
    """96 harmonic disks with rattlers in an oblique cell, at rest."""
    system = mdsens.random_packing(n=96, dim=2, diameters=(1.0, 1.4), packing_fraction=0.87, seed=5)
    oblique = system.deform(system.box @ jnp.array([[1.0, 0.0], [0.3, 1.0]]))
    return mdsens.Relaxation(tolerance=1e-12)(mdsens.SoftSphere(), oblique)


if __name__ == "__main__":
    for make in (bidisperse_2d, hertzian_3d, sheared_2d):
        equilibrium = make()
        mdsens.write(HERE / f"{make.__name__}.extxyz", equilibrium)
        print(f"{make.__name__}\n{equilibrium.certificate}\n")
