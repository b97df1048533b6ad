"""The ASE calculator: against finite differences, and under ASE's optimizers, filters, vibrations and phonons."""

import ase
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.filters import ExpCellFilter, FrechetCellFilter
from ase.optimize import BFGS, LBFGS
from ase.phonons import Phonons
from ase.vibrations import Vibrations

import mdsens
from samples import hertzian, jammed, settled

SPHERES = mdsens.SoftSphere()
HERTZIAN = mdsens.SoftSphere(alpha=2.5)


def with_calculator(system, potential=SPHERES, **options):
    atoms = mdsens.to_ase(system)
    atoms.calc = mdsens.calculator(potential, **options)
    return atoms


@pytest.mark.parametrize(("dim", "packing_fraction"), [(2, 0.98), (3, 0.75)])
def test_forces_and_stress_are_numerical_derivatives(dim, packing_fraction):
    atoms = with_calculator(mdsens.random_packing(24, dim=dim, packing_fraction=packing_fraction))
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-7)
    stress = atoms.get_stress()
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-6), atol=1e-8)
    assert np.all(stress[:dim] < 0.0)  # compressed
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    if dim == 2:
        np.testing.assert_array_equal(atoms.get_forces()[:, 2], 0.0)
        np.testing.assert_array_equal(stress[2:5], 0.0)


def test_the_pressure_is_that_of_the_properties():
    rest = jammed(n=32)
    atoms = with_calculator(rest.system)
    height = atoms.cell[2, 2]  # ASE's volume has the height of the layer in it
    assert -np.mean(atoms.get_stress()[:2]) * height == pytest.approx(
        float(mdsens.properties.pressure(rest)), rel=1e-10
    )


@pytest.mark.parametrize("system", [jammed(n=32).system, jammed(n=24, dim=3, packing_fraction=0.75).system])
def test_the_hessian_is_that_of_the_configuration(system):
    atoms, d = with_calculator(system), system.dim
    found = atoms.calc.get_hessian(atoms).reshape(system.n, 3, system.n, 3)
    rest = mdsens.at_rest(SPHERES, system, tolerance=1e-9)
    np.testing.assert_allclose(found[:, :d, :, :d], rest.configuration.hessian().dense(), atol=1e-12)
    if d == 2:
        assert not found[:, 2].any() and not found[:, :, :, 2].any()


def test_bfgs_ends_in_the_minimum_of_the_relaxation():
    rest = hertzian()
    noise = 1e-3 * np.random.default_rng(0).normal(size=rest.positions.shape)
    atoms = with_calculator(rest.system.replace(positions=rest.positions + noise), HERTZIAN)
    assert BFGS(atoms, logfile=None).run(fmax=1e-6, steps=500)
    assert LBFGS(atoms, logfile=None).run(fmax=1e-10, steps=500)  # BFGS learns nothing from steps below 1e-7
    assert atoms.get_potential_energy() == pytest.approx(float(rest.energy), rel=1e-10)
    moved = atoms.positions[:, :2] - np.asarray(rest.positions)
    np.testing.assert_allclose(moved - moved.mean(axis=0), 0.0, atol=1e-8)
    found = mdsens.at_rest(HERTZIAN, mdsens.from_ase(atoms), tolerance=1e-10)
    assert found.certificate.kind == "minimum"


def test_fixed_atoms_stay_where_they_are():
    atoms = with_calculator(settled(n=32))
    fixed = [0, 5, 9]
    atoms.set_constraint(FixAtoms(fixed))
    before = atoms.positions.copy()
    assert np.abs(atoms.get_forces(apply_constraint=False)[fixed]).max() > 1e-5
    assert BFGS(atoms, logfile=None).run(fmax=1e-8, steps=2000)
    np.testing.assert_array_equal(atoms.positions[fixed], before[fixed])
    assert np.abs(atoms.positions - before).max() > 1e-5
    assert isinstance(atoms.constraints[0], FixAtoms)


@pytest.mark.parametrize("cell_filter", [FrechetCellFilter, ExpCellFilter])
def test_a_cell_relaxes_to_the_pressure_of_the_relaxation(cell_filter):
    rest = hertzian()
    pressure = 1.1 * float(mdsens.properties.pressure(rest))
    atoms = with_calculator(rest.system, HERTZIAN)
    height = atoms.cell[2, 2]
    filtered = cell_filter(atoms, hydrostatic_strain=False, mask=[1, 1, 0, 0, 0, 1], scalar_pressure=pressure / height)
    assert BFGS(filtered, logfile=None).run(fmax=1e-9, steps=500)
    theirs = mdsens.Relaxation(pressure=pressure, cell="full", tolerance=1e-11)(HERTZIAN, rest.system)
    assert atoms.get_volume() / height == pytest.approx(float(theirs.system.volume), rel=1e-6)
    assert atoms.cell[2, 2] == height


def test_the_vibrations_are_those_of_the_hessian(tmp_path):
    rest = hertzian(n=16)
    atoms = with_calculator(rest.system, HERTZIAN)
    atoms.set_masses(np.ones(16))
    vibrations = Vibrations(atoms, name=str(tmp_path / "vibrations"), delta=1e-4)
    vibrations.run()
    found = np.sort(np.linalg.eigvalsh(vibrations.get_vibrations().get_hessian_2d()))
    expected = np.sort(np.linalg.eigvalsh(atoms.calc.get_hessian(atoms)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_phonons_of_a_crystal(tmp_path):
    crystal = ase.Atoms("Cu", cell=np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2**-0.5, pbc=True)
    calculator = mdsens.calculator(mdsens.SoftSphere(), diameters=1.1)
    phonons = Phonons(crystal, calculator, supercell=(3, 3, 3), delta=1e-4, name=str(tmp_path / "phonons"))
    phonons.run()
    phonons.read(acoustic=True)
    energies = phonons.get_band_structure(crystal.cell.bandpath("GX", npoints=3)).energies[0]
    np.testing.assert_allclose(energies[0], 0.0, atol=1e-4)
    assert np.all(energies[-1] > 0.01)


def test_a_list_is_renewed_whenever_atoms_move_too_far():
    system = mdsens.random_packing(200, packing_fraction=0.9, seed=3)
    atoms = with_calculator(system, neighbors=mdsens.NeighborList(pairs_per_particle=2.0))
    every = with_calculator(system, neighbors=mdsens.AllPairs())
    rng = np.random.default_rng(0)
    for size in (0.0, 0.01, 0.1, 0.3, 1.0):
        atoms.positions[:, :2] += size * rng.normal(size=(200, 2))
        if size == 1.0:
            atoms.wrap()
        every.positions[:] = atoms.positions
        np.testing.assert_allclose(atoms.get_forces(), every.get_forces(), atol=1e-12)
    together = atoms.positions.copy()
    together[:, :2] *= 0.7  # a list for the old density overflows
    for each in (atoms, every):
        each.set_cell(each.cell * np.array([0.7, 0.7, 1.0])[:, None])
        each.set_positions(together)
    np.testing.assert_allclose(atoms.get_forces(), every.get_forces(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), every.get_stress(), atol=1e-12)


def test_changed_diameters_and_species_are_noticed():
    atoms = with_calculator(jammed(n=32).system)
    before = atoms.get_potential_energy()
    atoms.arrays["diameters"] *= 1.01
    assert atoms.get_potential_energy() > 1.1 * before
    fewer = atoms[:20]
    fewer.calc = atoms.calc
    assert fewer.get_forces().shape == (20, 3)


def test_a_planar_molecule_in_three_dimensions_is_not_taken_for_a_layer():
    trimer = ase.Atoms("Ar3", [[0, 0, 0], [1.1, 0, 0], [0.5, 1.0, 0]])
    trimer.calc = mdsens.calculator(mdsens.LennardJones(), diameters=1.0)
    trimer.positions[0, 2] = 0.2
    assert abs(trimer.get_forces()[0, 2]) > 0.0
    np.testing.assert_allclose(trimer.get_forces(), calculate_numerical_forces(trimer, eps=1e-5), atol=1e-6)
    with pytest.raises(PropertyNotImplementedError):
        trimer.get_stress()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(mdsens.InvalidInput, match="needs a potential"):
        mdsens.calculator("soft-sphere")
    with pytest.raises(mdsens.InvalidInput, match="dim"):
        mdsens.calculator(SPHERES, dim=1)
    atoms = with_calculator(jammed(n=32).system.replace(positions=jammed(n=32).positions.at[0].set(jnp.nan)))
    with pytest.raises(mdsens.InvalidInput, match="not finite"):
        atoms.get_forces()


class SmoothlyCut(mdsens.PairPotential):
    """The Lennard-Jones potential as ASE brings it to zero, by a cubic polynomial of r²."""

    onset: float = 1.5
    end: float = 2.1

    def pair_energy(self, r, sigma):
        a, b = self.end**2, self.onset**2
        switch = (a - r**2) ** 2 * (a + 2.0 * r**2 - 3.0 * b) / (a - b) ** 3
        return 4.0 * (r**-12.0 - r**-6.0) * jnp.where(r**2 < b, 1.0, switch)

    def cutoff(self, sigma):
        return self.end * sigma


@pytest.mark.parametrize("pbc", [[True, True, False], [True, False, True], [False, True, False]])
def test_a_slab_has_the_forces_and_the_stress_of_a_calculator_of_ase(pbc):
    """Which has a neighbor list of its own; the stress is that per volume of the cell, air included."""
    from ase.calculators.lj import LennardJones

    rng = np.random.default_rng(3)
    x = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3) * 1.1 + rng.normal(0, 0.03, (64, 3))
    x += rng.integers(-1, 2, (64, 3)) * np.array(pbc) * 4.4
    slab = ase.Atoms("Ar64", x, cell=4.4 * np.eye(3), pbc=pbc)
    found = []
    for calc in (LennardJones(rc=2.1, ro=1.5, smooth=True), mdsens.calculator(SmoothlyCut(), diameters=1.0)):
        slab.calc = calc
        found.append((slab.get_forces(), slab.get_stress()))
    (forces, stress), (ours, our_stress) = found
    np.testing.assert_allclose(ours, forces, atol=1e-9)
    np.testing.assert_allclose(our_stress, stress, atol=1e-9)
    slab.set_cell(np.where(np.array(pbc)[:, None], slab.cell, 0.0))
    np.testing.assert_allclose(slab.get_forces(), ours, atol=1e-12)
    with pytest.raises(PropertyNotImplementedError, match="without a volume"):
        slab.get_stress()
