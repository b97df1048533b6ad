"""What comes from outside and is wrong in a known way: right all the same, or refused; and its right twins: accepted.

    python benchmarks/outside.py -o benchmarks/results [--only KIND]

A case is a potential or a file that is wrong in one way, of one size: parts that disagree, kinks, single precision,
cutoffs that jump, ranges too short, wrong units, damaged and mislabelled files, symmetries that are broken weakly. It
has a right twin of the same kind without the fault. What a case returns is known independently: from a
closed form, NumPy or SciPy, or from `strict_readers.py`. An outcome is

- `right`: the numbers agree to 1e-6 (or to the accuracy that a tolerance asks for), although something may be wrong;
- `refused`, by the name of the status, or by that of the exception where the input makes no sense;
- `WRONG`: other numbers, without a word; `crash`: an exception that is none of mdsens.

Nothing may be WRONG or crash, and no right twin may be refused. Writes outside.json and outside.md.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import mdsens
import mutated_files
import report
from mdsens.potentials import smooth_switch
from strict_readers import READERS

RIGHT = 1e-6
POWERS = tuple(10.0**-k for k in range(3, 10))
"""Sizes of faults, relative to what they disturb."""


@dataclass(frozen=True)
class Case:
    """One case: `run()` computes with mdsens what is `expected`, known independently."""

    kind: str
    name: str
    faulty: bool
    run: Callable[[], Any]
    expected: Any
    accuracy: float = RIGHT


def relaxed(potential: Any, system: mdsens.System, **options: Any) -> mdsens.Equilibrium:
    return mdsens.Relaxation(**options)(potential, system)


def slope(function: Callable[[Any], Any], at: float) -> Any:
    """The derivative of a function of one number, forward."""
    return jax.jvp(function, (jnp.asarray(at),), (jnp.ones(()),))[1]


def distance(x: Any, i: int = 0, j: int = 1) -> Any:
    return jnp.linalg.norm(x[j] - x[i])


# ---------------------------------------------------------------------------------------------------------------------
# Parts that disagree: four particles on six springs that cannot all have their length
# ---------------------------------------------------------------------------------------------------------------------

FIRST, SECOND = np.triu_indices(4, 1)
LENGTHS = np.array([1.0, 1.45, 1.1, 0.9, 1.3, 1.05])
SQUARE = np.array([[0.0, 0.0], [1.0, 0.05], [1.1, 1.0], [0.05, 0.95]])


def springs(x: Any, scale: Any) -> Any:
    return 0.5 * jnp.sum((jnp.linalg.norm(x[SECOND] - x[FIRST], axis=1) - scale * LENGTHS) ** 2)


def falsified(forces: Callable[..., Any]) -> Callable[..., Any]:
    """Springs whose energy changes by `forces(change, at, along)` instead of by its own `change`."""

    @jax.custom_jvp
    def energy(x: Any, scale: Any, fault: Any) -> Any:
        return springs(x, scale)

    @energy.defjvp
    def _(at: Any, along: Any) -> Any:
        value, change = jax.jvp(springs, at[:2], along[:2])
        return value, forces(change, at, along)

    energy.__name__ = forces.__name__
    return energy


@falsified
def false_forces(change: Any, at: Any, along: Any) -> Any:
    """With another force between the first two particles, of the size `fault`."""
    return change + at[2] * jax.jvp(distance, (at[0],), (along[0],))[1]


@falsified
def false_factor(change: Any, at: Any, along: Any) -> Any:
    """With derivatives that are too large by the factor 1 + `fault`."""
    return (1.0 + at[2]) * change


@jax.custom_jvp
def _spring_forces(x: Any, scale: Any, fault: Any) -> Any:
    return jax.grad(springs)(x, scale)


@_spring_forces.defjvp
def _(at: Any, along: Any) -> Any:
    x, scale, fault = at
    value, by_x = jax.jvp(lambda x: jax.grad(springs)(x, scale), (x,), (along[0],))
    by_scale = jax.jvp(lambda s: jax.grad(springs)(x, s), (scale,), (along[1],))[1]
    return value, (1.0 + fault) * by_x + by_scale


@jax.custom_jvp
def false_hessian(x: Any, scale: Any, fault: Any) -> Any:
    """Springs with right forces and second derivatives that are too large by the factor 1 + `fault`."""
    return springs(x, scale)


@false_hessian.defjvp
def _(at: Any, along: Any) -> Any:
    x, scale, fault = at
    by_scale = jax.jvp(lambda s: springs(x, s), (scale,), (along[1],))[1]
    return springs(x, scale), jnp.sum(_spring_forces(x, scale, fault) * along[0]) + by_scale


class Springs(mdsens.Potential):
    """One of the functions above as a potential."""

    scale: jax.Array
    fault: jax.Array
    function: Callable[..., Any] = eqx.field(static=True)

    def energy(self, system: Any, neighbors: Any) -> Any:
        return self.function(system.positions, self.scale, self.fault)


def springs_in_scipy(scale: float) -> np.ndarray:
    """The distances at rest, by Newton's method with SciPy, and the energy."""

    def energy(flat: np.ndarray) -> float:
        x = flat.reshape(4, 2)
        return 0.5 * np.sum((np.linalg.norm(x[SECOND] - x[FIRST], axis=1) - scale * LENGTHS) ** 2)

    def gradient(flat: np.ndarray) -> np.ndarray:
        x = flat.reshape(4, 2)
        apart = x[SECOND] - x[FIRST]
        r = np.linalg.norm(apart, axis=1)
        pull = ((r - scale * LENGTHS) / r)[:, None] * apart
        found = np.zeros((4, 2))
        np.add.at(found, SECOND, pull)
        np.add.at(found, FIRST, -pull)
        return found.ravel()

    flat = scipy.optimize.minimize(energy, scale * SQUARE.ravel(), jac=gradient, method="BFGS", tol=1e-9).x
    flat = scipy.optimize.least_squares(gradient, flat, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    x = flat.reshape(4, 2)
    return np.append(np.linalg.norm(x[SECOND] - x[FIRST], axis=1), energy(flat))


def disagreeing() -> Iterator[Case]:
    """The only length is the scale: distances at rest are proportional to it, and the energy to its square.

    Residual forces f change the slope 2 E of the energy by f·∂x/∂(scale), which is |f| times the size 1.4 of the square
    at most, and E is 0.0013: a fault of 1e-6 makes an error of 1e-6, and this much besides.
    """
    start, of_unit = mdsens.System(SQUARE), springs_in_scipy(1.0)
    accuracy = RIGHT + 8**0.5 * 1e-11 * 1.4 / (2.0 * of_unit[-1])

    def answers(function: Any, scale: float, fault: float) -> Any:
        def found(s: Any) -> Any:
            rest = relaxed(Springs(s, jnp.asarray(fault), function), start)
            return jnp.append(jax.vmap(lambda i, j: distance(rest.positions, i, j))(FIRST, SECOND), rest.energy)

        return [found(jnp.asarray(scale)), slope(found, scale)]

    for function in (false_forces, false_factor, false_hessian):
        for k, size in enumerate(POWERS):
            for scale, fault in ((1.0, size), (1.0 + 0.02 * k, 0.0)):
                r, e = scale * of_unit[:-1], scale**2 * of_unit[-1]
                expected = [np.append(r, e), np.append(of_unit[:-1], 2 * scale * of_unit[-1])]
                name = f"{function.__name__}, {fault:g}" if fault else f"{function.__name__}, none, scale {scale:g}"
                run = lambda f=function, s=scale, t=fault: answers(f, s, t)  # noqa: E731
                yield Case("parts that disagree", name, fault > 0, run, expected, accuracy)


# ---------------------------------------------------------------------------------------------------------------------
# Energies that are once differentiable, or not at all, where two particles rest
# ---------------------------------------------------------------------------------------------------------------------

PAIR = np.array([[0.0, 0.0], [1.1, 0.0]])


class Kinked(mdsens.PairPotential):
    """φ = ½ (r - σ)² + kink |r - place σ|."""

    kink: jax.Array
    place: jax.Array

    def pair_energy(self, r: Any, sigma: Any) -> Any:
        well = 0.5 * (r - sigma) ** 2 + self.kink * jnp.abs(r - self.place * sigma)
        return well * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def cutoff(self, sigma: Any) -> Any:
        return 3.0 * sigma


class TwoSided(mdsens.PairPotential):
    """φ = ½ k (r - σ)², k = 1 within σ and 1 + jump beyond."""

    jump: jax.Array

    def pair_energy(self, r: Any, sigma: Any) -> Any:
        stiffness = jnp.where(r < sigma, 1.0, 1.0 + self.jump)
        return 0.5 * stiffness * (r - sigma) ** 2 * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def cutoff(self, sigma: Any) -> Any:
        return 3.0 * sigma


def kinked() -> Iterator[Case]:
    start = mdsens.System(PAIR)

    def at_rest(kink: float, place: float) -> Any:
        def found(s: Any) -> Any:
            rest = relaxed(Kinked(jnp.asarray(kink), jnp.asarray(place), sigma=s), start, max_steps=20_000)
            return distance(rest.positions)

        return [found(jnp.asarray(1.0)), slope(found, 1.0)]

    for size in (0.1, *POWERS[:6]):
        at_kink = 1.0 + 0.5 * size  # the force of the well is within the jump of that of the kink: the minimum is there
        yield Case("once differentiable", f"at a kink of {size:g}", True, lambda s=size, p=at_kink: at_rest(s, p),
                   [at_kink, at_kink])  # fmt: skip
        beside = 1.3  # the kink pulls towards 1.3 σ with a constant force
        yield Case("once differentiable", f"beside a kink of {size:g}", False, lambda s=size, p=beside: at_rest(s, p),
                   [1.0 + size, 1.0])  # fmt: skip


def one_sided() -> Iterator[Case]:
    """At rest without a load the answer to one is 1 inwards and 1/(1 + jump) outwards: neither is right."""
    start = mdsens.System(PAIR)

    def answer(jump: float, load: float) -> Any:
        def found(f: Any) -> Any:
            pull = mdsens.Load(f * jnp.array([[-1.0, 0.0], [1.0, 0.0]]))
            return distance(relaxed(TwoSided(jnp.asarray(jump)) + pull, start).positions)

        return slope(found, load)

    for size in (0.1, *POWERS[:6]):
        middle = 0.5 * (1.0 + 1.0 / (1.0 + size))
        yield Case("once differentiable", f"stiffness jumps by {size:g}", True, lambda s=size: answer(s, 0.0), middle)
        yield Case("once differentiable", f"beside a stiffness that jumps by {size:g}", False,
                   lambda s=size: answer(s, 0.05), 1.0 / (1.0 + size))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Single precision, and tables
# ---------------------------------------------------------------------------------------------------------------------


def morse(r: Any, sigma: Any) -> Any:
    return (1.0 - jnp.exp(-3.0 * (r - sigma))) ** 2 - 1.0


class Single(mdsens.PairPotential):
    """A Morse potential times `depth`, computed in single precision."""

    depth: jax.Array

    def pair_energy(self, r: Any, sigma: Any) -> Any:
        narrow = morse(r.astype(jnp.float32), sigma.astype(jnp.float32)).astype(r.dtype)
        return self.depth * narrow * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def cutoff(self, sigma: Any) -> Any:
        return 3.0 * sigma


class Tabulated(mdsens.PairPotential):
    """A Morse potential between knots `spacing` apart: a polynomial through value and two derivatives at both ends.

    `single`: whether the knots are in single precision.
    """

    spacing: jax.Array
    single: bool = eqx.field(static=True)

    def pair_energy(self, r: Any, sigma: Any) -> Any:
        knot = jax.lax.stop_gradient(jnp.floor(r / self.spacing))
        t, h = r / self.spacing - knot, self.spacing
        ends = [jax.lax.stop_gradient(self._knot((knot + k) * h, sigma)) for k in (0, 1)]
        (a, da, dda), (b, db, ddb) = ends
        u, v = t**3 * (10.0 - 15.0 * t + 6.0 * t**2), t**3
        value = a * (1.0 - u) + b * u
        value += h * (da * (t - v * (6.0 - 8.0 * t + 3.0 * t**2)) - db * v * (4.0 - 7.0 * t + 3.0 * t**2))
        curved = dda * (t**2 - v * (3.0 - 3.0 * t + t**2)) + ddb * v * (1.0 - 2.0 * t + t**2)
        return (value + 0.5 * h**2 * curved) * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def _knot(self, r: Any, sigma: Any) -> list[Any]:
        exact = [morse(r, sigma), jax.grad(morse)(r, sigma), jax.grad(jax.grad(morse))(r, sigma)]
        return [value.astype(jnp.float32).astype(value.dtype) for value in exact] if self.single else exact

    def cutoff(self, sigma: Any) -> Any:
        return 3.0 * sigma


class Linear(mdsens.PairPotential):
    """A Morse potential between knots `spacing` apart, on straight lines."""

    spacing: jax.Array

    def pair_energy(self, r: Any, sigma: Any) -> Any:
        low = jax.lax.stop_gradient(jnp.floor(r / self.spacing)) * self.spacing
        share = (r - low) / self.spacing
        ends = [jax.lax.stop_gradient(morse(low + k * self.spacing, sigma)) for k in (0, 1)]
        return ((1.0 - share) * ends[0] + share * ends[1]) * smooth_switch(r, 2.0 * sigma, 3.0 * sigma)

    def cutoff(self, sigma: Any) -> Any:
        return 3.0 * sigma


def tables() -> Iterator[Case]:
    """A load f along the bond lengthens it by f/φ″ = f/18, twice the depth times the square of the range 3."""
    start = mdsens.System(PAIR)

    def answer(potential: Any) -> Any:
        def found(f: Any) -> Any:
            pull = mdsens.Load(f * jnp.array([[-1.0, 0.0], [1.0, 0.0]]))
            return distance(relaxed(potential + pull, start, max_steps=20_000).positions)

        return [found(jnp.asarray(0.0)), slope(found, 0.0)]

    numbers, of_depth_one = jnp.asarray, [1.0, 1.0 / 18.0]
    for k in range(6):
        depth = 10.0 ** (k - 3)
        yield Case("single precision", f"computed in single precision, depth {depth:g}", True,
                   lambda d=depth: answer(Single(numbers(d))), [1.0, 1.0 / (18.0 * depth)])  # fmt: skip
        yield Case("single precision", f"a fine table, spacing {0.002 / (k + 1):.2g}", False,
                   lambda h=0.002 / (k + 1): answer(Tabulated(numbers(h), False)), of_depth_one)  # fmt: skip
    for k, spacing in enumerate((0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)):
        yield Case("single precision", f"a table in single precision, spacing {spacing:g}", True,
                   lambda h=spacing: answer(Tabulated(numbers(h), True)), of_depth_one)  # fmt: skip
        yield Case("single precision", f"a fine table, spacing {0.00025 / (k + 1):.2g}", False,
                   lambda h=0.00025 / (k + 1): answer(Tabulated(numbers(h), False)), of_depth_one)  # fmt: skip
    for k, spacing in enumerate((0.1, 0.03, 0.01, 0.003, 0.001)):
        yield Case("single precision", f"straight lines, spacing {spacing:g}", True,
                   lambda h=spacing: answer(Linear(numbers(h))), of_depth_one)  # fmt: skip
        yield Case("single precision", f"a fine table, spacing {0.0009 / (k + 1):.2g}", False,
                   lambda h=0.0009 / (k + 1): answer(Tabulated(numbers(h), False)), of_depth_one)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Cutoffs
# ---------------------------------------------------------------------------------------------------------------------


def twelve_six(r: Any, sigma: Any) -> Any:
    return 4.0 * ((sigma / r) ** 12 - (sigma / r) ** 6)


class Cut(mdsens.PairPotential):
    """The 12-6 potential cut at `end` σ, minus `shift` times its value there, and `tilt` times its slope."""

    end: jax.Array
    shift: jax.Array
    tilt: jax.Array

    def pair_energy(self, r: Any, sigma: Any) -> Any:
        end = self.end * sigma
        value, force = twelve_six(end, sigma), jax.grad(twelve_six)(end, sigma)
        return twelve_six(r, sigma) - self.shift * value - self.tilt * (r - end) * force

    def cutoff(self, sigma: Any) -> Any:
        return self.end * sigma


def line_at_rest(end: float, shift: float, tilt: float) -> tuple[float, float]:
    """The distance of the first two of three particles in a line, and the energy, from a fine search with NumPy."""

    def energy(r: float) -> float:
        def pair(r: float) -> float:
            if r >= end:
                return 0.0
            force = 4.0 * (-12 * end**-13 + 6 * end**-7)
            return 4.0 * (r**-12 - r**-6) - shift * 4.0 * (end**-12 - end**-6) - tilt * (r - end) * force

        return 2 * pair(r) + pair(2 * r)

    found = scipy.optimize.minimize_scalar(energy, bounds=(1.0, 1.3), method="bounded", options={"xatol": 1e-13})
    return float(found.x), float(found.fun)


def cutoffs() -> Iterator[Case]:
    """Three particles in a line, whose ends are beyond the cutoff or within; the energy says which."""
    start = mdsens.System(np.array([[0.0, 0.0, 0.0], [1.13, 0.0, 0.0], [2.26, 0.0, 0.0]]),
                          fixed=np.array([[False, True, True]] * 3))  # fmt: skip

    def found(end: float, shift: float, tilt: float) -> Any:
        rest = relaxed(Cut(*map(jnp.asarray, (end, shift, tilt))), start)
        return [distance(rest.positions), rest.energy]

    for end in (1.6, 2.0, 2.1, 2.2, 2.24, 2.25, 2.3, 2.4, 2.5, 3.0, 4.0, 6.0, 9.0):
        for shift in (0.0, 1.0):
            name = f"{'shifted' if shift else 'cut'} at {end:g} σ"
            expected = line_at_rest(end, shift, 0.0)
            yield Case("cutoffs that jump", name, True, lambda e=end, s=shift: found(e, s, 0.0), expected)
            smooth = end + 0.03 * shift
            yield Case("cutoffs that jump", f"no jump at {smooth:g} σ", False, lambda e=smooth: found(e, 1.0, 1.0),
                       line_at_rest(smooth, 1.0, 1.0))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Ranges
# ---------------------------------------------------------------------------------------------------------------------

EDGE, ROW = 6.0, 5


def bump(r: Any, end: Any) -> Any:
    """(1 - r²/end²)⁴ within `end`."""
    return jnp.where(r < end, (1.0 - (jnp.minimum(r, end) / end) ** 2) ** 4, 0.0)


def bumps(displacement: Any, end: Any) -> Callable[[Any], Any]:
    """The sum of bumps over all pairs and nearest images, as jax-md's factories have it."""

    def energy(x: Any) -> Any:
        apart = jax.vmap(lambda a: jax.vmap(lambda b: displacement(a, b))(x))(x)
        squared = jnp.sum(apart**2, axis=-1)
        others = ~jnp.eye(len(x), dtype=bool)
        return 0.5 * jnp.sum(jnp.where(others, bump(jnp.sqrt(jnp.where(others, squared, 1.0)), end), 0.0))

    return energy


class Listed(mdsens.Potential):
    """The sum of bumps that end at `end`, over the pairs of a list that is said to need only `said`."""

    end: jax.Array
    said: jax.Array
    listed = True

    def energy(self, system: Any, neighbors: Any) -> Any:
        apart = neighbors.separations(system.positions, system.box)
        squared = jnp.where(neighbors.valid, jnp.sum(apart**2, axis=-1), 1.0)
        return jnp.sum(jnp.where(neighbors.valid, bump(jnp.sqrt(squared), self.end), 0.0))

    def reach(self, system: Any) -> Any:
        return self.said

    def typical_stiffness(self, system: Any) -> Any:
        return jnp.asarray(1.0)


def lattice(rows: int, edge: float) -> mdsens.System:
    places = np.stack(np.meshgrid(*[np.arange(rows)] * 2), -1).reshape(-1, 2) * edge / rows
    return mdsens.System(places, edge)


def energy_of_lattice(rows: int, edge: float, end: float) -> float:
    """With all periodic images, in NumPy."""
    x = np.asarray(lattice(rows, edge).positions)
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 2), -1).reshape(-1, 2) * edge
    r = np.linalg.norm(x[:, None, None] - x[None, :, None] + images, axis=-1)
    inside = (r > 0) & (r < end)
    return float(0.5 * np.sum((1.0 - (r[inside] / end) ** 2) ** 4))


def ranges() -> Iterator[Case]:
    small, large = lattice(ROW, EDGE), lattice(12, 14.4)

    def by_images(end: float) -> Any:
        return mdsens.at_rest(mdsens.JaxMD(bumps, range=1.5, end=end), small, throw=False).energy

    def by_list(end: float, said: float) -> Any:
        options = {"neighbors": mdsens.NeighborList(), "throw": False, "max_steps": 1, "escape": False}
        return relaxed(Listed(jnp.asarray(end), jnp.asarray(said)), large, **options).energy

    for k in range(10):
        end = 3.4 + 0.25 * k
        yield Case("ranges too short", f"half the cell is 3, said 1.5, ends at {end:g}", True,
                   lambda e=end: by_images(e), energy_of_lattice(ROW, EDGE, end))  # fmt: skip
        end = 1.3 + 0.15 * k
        yield Case("ranges too short", f"half the cell is 3, said 1.5, ends at {end:g}", False,
                   lambda e=end: by_images(e), energy_of_lattice(ROW, EDGE, end))  # fmt: skip
        end = 2.6 + 0.2 * k
        yield Case("ranges too short", f"listed up to 1.3, ends at {end:g}", True,
                   lambda e=end: by_list(e, 1.3), energy_of_lattice(12, 14.4, end))  # fmt: skip
        yield Case("ranges too short", f"listed up to {end:g}, ends there", False,
                   lambda e=end: by_list(e, e), energy_of_lattice(12, 14.4, end))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Units
# ---------------------------------------------------------------------------------------------------------------------


def units() -> Iterator[Case]:
    """The bond of two Lennard-Jones particles is 2^(1/6) σ long, and grows with σ as much.

    A tolerance that is still a small force bounds the accuracy that can be asked for: φ‴/φ″² is 0.37 σ/ε there.
    """
    bond = 2.0 ** (1.0 / 6.0)

    def found(sigma: float, epsilon: float, unit: float, **options: Any) -> Any:
        start = mdsens.System(unit * np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0]]), diameters=unit)

        def length(s: Any) -> Any:
            potential = mdsens.LennardJones(epsilon, sigma=s, range=np.inf)
            return distance(relaxed(potential, start, max_steps=20_000, **options).positions)

        return [length(jnp.asarray(sigma)) / sigma, slope(length, sigma)]

    for power in (-10, -8, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 8, 10):
        unit = 10.0**power
        yield Case("wrong units", f"positions in units of 1e{power} σ", True,
                   lambda u=unit: found(1.0, 1.0, u), [bond, bond])  # fmt: skip
        yield Case("wrong units", f"everything in units of 1e{power}", False,
                   lambda u=unit: found(u, 1.0, u), [bond, bond])  # fmt: skip
    for power in (-21, -18, -15, -12, -10, -9, -8, -6):
        scale = 10.0**power
        accuracy = max(RIGHT, 4e-12 / scale)
        yield Case("wrong units", f"ε = 1e{power}, tolerance 1e-10", True,
                   lambda e=scale: found(1.0, e, 1.0, tolerance=1e-10), [bond, bond], accuracy)  # fmt: skip
        yield Case("wrong units", f"ε = 1e{power}, tolerance to it", False,
                   lambda e=scale: found(1.0, e, 1.0, tolerance=1e-10 * e), [bond, bond])  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Symmetries that are broken weakly
# ---------------------------------------------------------------------------------------------------------------------


class Trap(mdsens.Potential):
    """½ k |x - center|² of every particle."""

    stiffness: jax.Array
    center: jax.Array

    def energy(self, system: Any, neighbors: Any) -> Any:
        return 0.5 * self.stiffness * jnp.sum((system.positions - self.center) ** 2)


def weak() -> Iterator[Case]:
    """A network moves with what holds it, however weakly: ∂x/∂(where it is held) = 1 for the particle that is held.

    Held by one particle it may still turn about that, so that only of this one is the answer known. Forces of up to f =
    1e-10 on each of the N = 4 particles leave that one up to δ = √2 N f / k off its anchor, about which the network
    turns freely; the response of least norm has no part along this rotation, which at a particle off the anchor by δ
    is δ / ρ in the worst case, ρ = 0.7 the distance of the particle from the center. The case asks for no more.
    """
    start = mdsens.System(np.asarray(SQUARE))
    bonds = mdsens.Bonds(np.stack([FIRST, SECOND], 1).astype(np.int32), 1.0, LENGTHS)
    one = np.array([2], np.int32)

    def held(by: str, stiffness: float, shift: Any) -> Any:
        if by == "trap":
            return Trap(jnp.asarray(stiffness), jnp.stack([shift, jnp.zeros(())]))
        anchors = jnp.asarray(SQUARE) + jnp.array([1.0, 0.0]) * shift
        return mdsens.Tethers(anchors[one], stiffness, one) if by == "one" else mdsens.Tethers(anchors, stiffness)

    def answer(by: str, stiffness: float) -> Any:
        return slope(lambda s: relaxed(bonds + held(by, stiffness, s), start).positions[2, 0], 0.0)

    for by in ("trap", "one", "all"):
        for k in range(9):
            for faulty, stiffness in ((True, 10.0 ** -(4 + k)), (False, 10.0 ** (0.5 - 0.4 * k))):
                accuracy = max(RIGHT, 2**0.5 * 4 * 1e-10 / stiffness / 0.7) if by == "one" else RIGHT
                yield Case("weakly broken", f"held by {by}, {stiffness:.2g}", faulty,
                           lambda b=by, s=stiffness: answer(b, s), 1.0, accuracy)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def plain_xyz(rng: random.Random) -> str:
    n = rng.randint(2, 6)
    x = mutated_files.numbers(rng, n, 3, 0, 5)
    return f"{n}\n\n{mutated_files.rows_of(['Si'] * n, x)}\n"


def strictly_xyz(content: bytes) -> Any:
    """A plain file with the header of an extended one."""
    lines = content.decode().split("\n")
    rows = [f"{line} 1.0" for line in lines[2:] if line]
    header = 'Properties=species:S:1:pos:R:3:diameters:R:1 pbc="F F F"'
    return READERS["extended XYZ"]("\n".join([lines[0], header, *rows]).encode())


FILES: dict[str, tuple[Any, str, Any]] = {
    "LAMMPS data": (mutated_files.lammps_data, "a.data", READERS["LAMMPS data"]),
    "LAMMPS dump": (mutated_files.lammps_dump, "a.dump", READERS["LAMMPS dump"]),
    "extended XYZ": (mutated_files.extended_xyz, "a.extxyz", READERS["extended XYZ"]),
    "plain XYZ": (plain_xyz, "b.xyz", strictly_xyz),
    "CIF": (mutated_files.cif, "a.cif", READERS["CIF"]),
    "POSCAR": (mutated_files.poscar, "POSCAR", READERS["POSCAR"]),
}
NAMED = ("extended XYZ", "CIF", "POSCAR")
"""Formats that a name stands for, whatever the content; files of LAMMPS are known by their content."""


def without_last_word(text: str) -> str:
    return text.rstrip("\n").rpartition(" ")[0] + "\n"


def without_last_atom(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    return "\n".join(lines[:-1]) + "\n"


def with_last_atom_twice(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    return "\n".join([*lines, lines[-1]]) + "\n"


def with_a_word(text: str) -> str:
    head, _, last = text.rstrip("\n").rpartition(" ")
    return f"{head} {last}x\n"


def with_a_comma(text: str) -> str:
    """The last decimal point is a comma, as some programs write numbers in some languages."""
    head, _, last = text.rpartition(".")
    return f"{head},{last}"


DAMAGE = (without_last_word, without_last_atom, with_last_atom_twice, with_a_word, with_a_comma)


def read(text: str, name: str) -> mdsens.System:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        path.write_text(text)
        try:
            return mdsens.read(path)
        except mdsens.InvalidInput as error:
            if "holds no diameters" not in str(error):
                raise
            return mdsens.read(path, diameters=1.0)


def files() -> Iterator[Case]:
    """Expected is what a strict reader says: of a damaged file nothing, so that whatever is read is WRONG."""
    seed = 0
    for name, (make, file, strict) in FILES.items():
        wrongs = [(damage.__name__.replace("_", " "), damage, file) for damage in DAMAGE]
        if name == "CIF":  # which does not say how many atoms there are
            wrongs = [each for each in wrongs if each[1] is not without_last_atom]
        wrongs += [(f"named as {other}", str, FILES[other][1]) for other in NAMED if name not in (other, "plain XYZ")]
        wrongs += [(f"named as {other}", str, FILES[other][1]) for other in NAMED[1:] if name == "plain XYZ"]
        for what, damage, called in wrongs:
            text = make(random.Random(f"outside {seed}"))
            damaged = damage(text)
            yield Case("files", f"{name}, {what}", True, lambda t=damaged, c=called: read(t, c), None)
            yield Case("files", f"{name}, {seed}", False, lambda t=text, c=file: read(t, c), strict(text.encode()))
            seed += 1


# ---------------------------------------------------------------------------------------------------------------------
# Verdicts
# ---------------------------------------------------------------------------------------------------------------------

KINDS = (disagreeing, kinked, one_sided, tables, cutoffs, ranges, units, weak, files)


def examine(case: Case) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": case.kind, "name": case.name, "faulty": case.faulty}
    started = time.monotonic()
    try:
        found = case.run()
    except mdsens.MdsensError as error:
        by = type(error).__name__ if error.status is None else error.status.name
        facts |= {"outcome": "refused", "by": by, "said": str(error)}
    except Exception as error:
        facts |= {"outcome": "crash", "said": f"{type(error).__name__}: {str(error)[:300]}"}
    else:
        facts |= compared(found, case)
    return facts | {"seconds": round(time.monotonic() - started, 2)}


def compared(found: Any, case: Case) -> dict[str, Any]:
    expected = case.expected
    if isinstance(found, mdsens.System):
        said = "read, though it is damaged" if expected is None else expected.difference(found)
        return {"outcome": "WRONG" if said else "right", "said": said}
    got, wanted = (
        np.concatenate([np.ravel(np.asarray(each, float)) for each in _list(values)]) for values in (found, expected)
    )
    if not np.isfinite(got).all():
        return {"outcome": "WRONG", "said": f"{got.tolist()} without a word"}
    error = float(np.max(np.abs(got - wanted) / np.maximum(np.abs(wanted), 1e-3 * np.abs(wanted).max())))
    return {"outcome": "right" if error <= case.accuracy else "WRONG", "error": error, "said": f"off by {error:.1e}"}


def _list(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| kind | faulty | right | refused | WRONG | crash | right twins | accepted | refused | WRONG | crash |"]
    lines.append("|---" * 11 + "|")
    kinds = list(dict.fromkeys(r["kind"] for r in results))
    for kind in [*kinds, "all"]:
        row: list[Any] = [kind]
        for faulty in (True, False):
            these = [r for r in results if kind in (r["kind"], "all") and r["faulty"] == faulty]
            counts = collections.Counter(r["outcome"] for r in these)
            row += [len(these), *(counts[outcome] for outcome in ("right", "refused", "WRONG", "crash"))]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    by = collections.Counter((r["kind"], r["by"]) for r in results if r["faulty"] and r["outcome"] == "refused")
    lines += [
        "",
        "Faulty ones are refused by:",
        "",
        *(f"- {kind}: {name} {n}" for (kind, name), n in sorted(by.items())),
    ]
    bad = [r for r in results if is_bad(r)]
    lines += ["", "Not as they should be:", "" if bad else "none"]
    lines += [f"- {r['kind']}, {r['name']}: {r['outcome']}: {r['said'][:160].splitlines()[0]}" for r in bad]
    return "\n".join(lines) + "\n"


def is_bad(result: dict[str, Any]) -> bool:
    return result["outcome"] in ("WRONG", "crash") or (not result["faulty"] and result["outcome"] != "right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("--only", choices=[kind.__name__ for kind in KINDS], action="append", default=None)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    started, results = time.monotonic(), []
    for kind in KINDS:
        if options.only is None or kind.__name__ in options.only:
            for case in kind():
                results.append(examine(case))
                if is_bad(results[-1]):
                    print(results[-1], flush=True)
    text = table(results)
    print(text)
    print(f"{time.monotonic() - started:.0f} s")
    if options.output:
        report.write(options.output, "outside", results, text)
    sys.exit(any(map(is_bad, results)))


if __name__ == "__main__":
    main()
