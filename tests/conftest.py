import functools
import gc
import importlib.metadata
import os

OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if "MDSENS_OPTIMIZED" not in os.environ and importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")):
    # three quarters of the time go into compiling: so it takes two thirds of it; with -O0, too, a derivative was NaN
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}"

import jax
import numpy as np
import pytest

import mdsens
from mdsens.compiled import make_room
from reference import ContactChanged, SoftSpheres

jax.config.update("jax_enable_x64", True)
gc.set_threshold(100_000, 50, 50)  # tracing makes so many objects that looking for cycles took a seventh of the time

RELAX = mdsens.Relaxation(tolerance=1e-12)


@functools.cache
def jammed(seed=0, n=128, dim=2, packing_fraction=0.98, epsilon=1.0, alpha=2.0, diameters=(1.0, 0.6)):
    """A relaxed packing of soft spheres, made once."""
    system = mdsens.random_packing(n, dim, diameters, packing_fraction, seed)
    return RELAX(mdsens.SoftSphere(epsilon, alpha), system)


@functools.cache
def settled(seed=0, n=32, packing_fraction=0.98, diameters=(1.0, 0.6)):
    """A packing on its way to rest, past the part of the way where rounding decides which minimum it finds."""
    system = mdsens.random_packing(n, 2, diameters, packing_fraction, seed)
    return mdsens.Relaxation(tolerance=1e-3, throw=False)(mdsens.SoftSphere(), system).system


def jammed_with_rattlers(packing_fraction=0.9, **options):
    """The first packing that has rattlers."""
    packings = (jammed(seed, packing_fraction=packing_fraction, **options) for seed in range(20))
    return next(rest for rest in packings if rest.certificate.rattlers)


@functools.cache
def marginal(seed=0, n=32, alpha=2.0):
    """A packing at rest in which one more pair of particles just touches, and bears no force.

    Every pair has its own σ: (D_i + D_j)/2, but for that pair the distance between the two.
    """
    rest = jammed(seed, n, alpha=alpha)
    x, box, D = (np.asarray(a) for a in (rest.positions, rest.system.box, rest.system.diameters))
    apart = x[None] - x[:, None]
    apart -= np.round(apart @ np.linalg.inv(box)) @ box
    distance = np.linalg.norm(apart, axis=-1)
    sigma = 0.5 * (D[:, None] + D[None])
    free = np.triu(distance > sigma, 1)
    i, j = np.unravel_index(np.argmin(np.where(free, distance - sigma, np.inf)), free.shape)
    sigma[i, j] = sigma[j, i] = distance[i, j]
    system = mdsens.System(x, box, D, np.arange(n))
    return RELAX(mdsens.SoftSphere(alpha=alpha, sigma=sigma), system), (int(i), int(j))


def silicon(repeats=2, constant=5.431):
    """The diamond lattice, in Å."""
    basis = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4
    corners = np.stack(np.meshgrid(*[np.arange(repeats)] * 3), -1).reshape(-1, 1, 3)
    return mdsens.System((corners + basis).reshape(-1, 3) * constant, repeats * constant, diameters=2.35)


def vacancy(crystal):
    """Without its first atom, the four around which are drawn together by 0.4 Å."""
    x, edge = np.asarray(crystal.positions), float(crystal.box[0, 0])
    away = x[1:] - x[0]
    away -= np.round(away / edge) * edge
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    return mdsens.System(x[1:] - np.where(distance < 2.5, 0.4 * away / distance, 0.0), crystal.box, diameters=2.35)


def where_contacts_stay(check):
    """Runs check(seed) for the first packing whose contacts stay within the finite differences it takes."""
    for seed in range(10):
        try:
            return check(seed)
        except ContactChanged:
            continue
    pytest.fail("no packing kept its contacts")


def reference_of(equilibrium):
    """The same configuration in the NumPy reference."""
    system, species = equilibrium.system, np.asarray(equilibrium.system.species)
    pairwise = [
        np.asarray(p) if p.ndim == 0 else np.asarray((p + p.T) / 2)[np.ix_(species, species)]
        for p in (equilibrium.potential.epsilon, equilibrium.potential.alpha)
    ]
    sigma = equilibrium.potential.sigma
    return SoftSpheres(system.positions, system.box, system.diameters, *pairwise, sigma=sigma)


@pytest.fixture(autouse=True)
def _room_for_compiled_code():
    yield
    make_room()


class Compilations:
    """Counts what JAX compiles between `with` and its end."""

    def __init__(self):
        self.names: list[str] = []
        self.counting = False
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, _seconds, **about):
        if self.counting and event.endswith("backend_compile_duration"):
            self.names.append(about.get("fun_name", "?"))

    @property
    def count(self):
        return len(self.names)

    def __enter__(self):
        self.names, self.counting = [], True
        return self

    def __exit__(self, *_):
        self.counting = False


_COMPILATIONS = Compilations()


@pytest.fixture
def compilations():
    return _COMPILATIONS
