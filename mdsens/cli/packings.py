"""The commands about one packing: relax it, measure it, and compute how it responds."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mdsens

from ..runtime.files import check_target, replacing
from ..studies.names import look_up
from .options import (
    AUTOMATIC,
    CertificateOptions,
    Device,
    DeviceOption,
    Input,
    JsonOption,
    OneSidedOption,
    OutputFolder,
    PressureOption,
    RelaxationOptions,
    SolverOption,
    ThoroughOption,
    check_folder,
    with_options,
)

if TYPE_CHECKING:
    from ..potentials import Potential
    from ..relaxation.certificate import Certificate
    from ..relaxation.equilibrium import Equilibrium
    from ..response.sensitivity import Sensitivity
    from ..response.validity import Validity
    from ..system import System

OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="The relaxed packing, e.g. out.extxyz.")
]
WrtOption = Annotated[
    str, typer.Option("--wrt", metavar="NAME", help="diameters, species-diameter:K, box, epsilon, alpha …")
]


def demo(
    output: OutputFolder,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the initial positions.")] = 0,
    device: DeviceOption = Device.auto,
) -> None:
    """Compute a packing and its response, as in the experiment of Blondel et al. (2021).

    128 soft spheres in two dimensions, half of diameter 1, half of diameter θ = 0.6, at packing fraction 0.98, are
    relaxed with FIRE. How does every particle move as θ grows?
    """
    options = RelaxationOptions(device=device)
    options.configure()
    check_folder(output)
    system = mdsens.random_packing(n=128, dim=2, diameters=(1.0, 0.6), packing_fraction=0.98, seed=seed)
    _respond(system, mdsens.SoftSphere(), "species-diameter:1", output, options)


@with_options
def relax(
    input: Input,
    output: OutputFile,
    options: RelaxationOptions,
    pressure: PressureOption = None,
    thorough: ThoroughOption = False,
) -> None:
    """Relax a packing and write it, in the format given by the ending of OUT."""
    from ..io import REGISTRY, format_to_write
    from ..potentials import topology_of

    options.configure()
    check_target(output)
    format_to_write(output)
    potential, system = options.load(input)
    equilibrium = options.make_relaxation(pressure=pressure)(potential, system)
    topology, what = topology_of(potential), ""
    if topology is None:
        mdsens.write(output, equilibrium)
    elif format_to_write(output) is REGISTRY["lammps-data"]:
        mdsens.write_topology(output, equilibrium.system, topology)
        what = ", with bonds and angles"
    else:
        mdsens.write(output, equilibrium)
        what = f", without the bonds of {input}; LAMMPS data (.data) hold them"
    print(equilibrium.certify(thorough))
    print(f"{'written':<17} {output}{what}")


@with_options
def certify(
    input: Input, options: CertificateOptions, thorough: ThoroughOption = False, as_json: JsonOption = False
) -> None:
    """Print the certificate of a packing that another code has relaxed: is it at rest, is it a minimum?

    No particle is moved. --tolerance is the largest force component that counts as rest. The exit code is 1 where this
    is no minimum at rest.
    """
    from ..relaxation.found import why_not_at_rest

    options.configure()
    potential, system = options.load(input)
    found = mdsens.at_rest(potential, system, tolerance=options.tolerance, throw=False)
    certificate = found.certify(thorough)
    if as_json:
        facts = {"n": system.n, "dim": system.dim, "potential": options.potential}
        print(json.dumps({**facts, **certificate.as_dict()}, indent=2))
    else:
        print(certificate)
    if refused := why_not_at_rest(found):
        raise refused


@with_options
def properties(
    input: Input, options: RelaxationOptions, pressure: PressureOption = None, as_json: JsonOption = False
) -> None:
    """Relax a packing and print its energy, pressure, contacts, moduli and Poisson's ratio."""
    options.configure()
    potential, system = options.load(input)
    equilibrium = options.make_relaxation(pressure=pressure)(potential, system)
    values = mdsens.properties.table(equilibrium)
    if as_json:
        facts = {"n": equilibrium.system.n, "dim": equilibrium.system.dim, "potential": options.potential}
        print(json.dumps({**facts, **values}, indent=2))
        return
    print(equilibrium.certificate)
    print()
    print(f"{'potential':<17} {potential!r}")
    print(values)


@with_options
def sensitivity(
    input: Input,
    wrt: WrtOption,
    output: OutputFolder,
    options: RelaxationOptions,
    linear_solver: SolverOption = AUTOMATIC,
    one_sided: OneSidedOption = False,
    thorough: ThoroughOption = False,
) -> None:
    """Relax a packing and compute how it responds to the parameter NAME: numbers, arrays and a picture in OUT."""
    from ..parameters.names import check_name, full_name

    options.configure()
    check_folder(output)
    potential, system = options.load(input)
    wrt = full_name(wrt, potential)
    check_name(wrt, potential, system)
    _respond(system, potential, wrt, output, options, linear_solver, one_sided, thorough)


def _respond(
    system: System,
    potential: Potential,
    wrt: str,
    output: Path,
    options: RelaxationOptions,
    linear_solver: str = AUTOMATIC,
    one_sided: bool = False,
    thorough: bool = False,
) -> None:
    """Relax, differentiate, and write summary.json, result.h5 and sensitivity.png into the folder."""
    solver = None
    if linear_solver != AUTOMATIC:
        solver = look_up(linear_solver, mdsens.linear_solvers.REGISTRY, "linear solver")()
    equilibrium = options.make_relaxation(linear_solver=solver, one_sided=one_sided)(potential, system)
    response = mdsens.sensitivity(equilibrium, wrt)
    certificate = equilibrium.certify(thorough)
    validity = mdsens.validity(equilibrium, wrt) if potential.has_contact_changes else None
    summary = _summary(equilibrium, response, certificate, validity, options)
    output.mkdir(parents=True, exist_ok=True)
    with (
        replacing(output / "summary.json") as text,
        replacing(output / "result.h5") as arrays,
        replacing(output / "sensitivity.png") as picture,
    ):
        text.write_text(json.dumps(summary, indent=2) + "\n")
        _write_arrays(arrays, equilibrium, response)
        mdsens.plotting.save_sensitivity(picture, equilibrium, response)
    print(certificate)
    solve = f"linear solve: residual {response.residual:.1g}, part in the null space {response.null_part:.1g}"
    print(f"{'response':<17} to {wrt}: Σ|∂x*/∂θ| = {response.l1:.6g} ({solve})")
    if validity is not None:
        print(f"{'valid':<17} {validity}")
    print(f"{'written':<17} {output}/summary.json, result.h5, sensitivity.png")


def _summary(
    equilibrium: Equilibrium,
    response: Sensitivity,
    certificate: Certificate,
    validity: Validity | None,
    options: RelaxationOptions,
) -> dict[str, Any]:
    import jax
    import numpy as np

    system, potential = equilibrium.system, equilibrium.potential
    of_newton = ("solve_residual", "null_part")  # of the step to the true minimum, not of the response
    facts = {f"distance_{key}" if key in of_newton else key: fact for key, fact in certificate.as_dict().items()}
    return {
        "n": system.n,
        "dim": system.dim,
        "packing_fraction": float(system.packing_fraction) if all(system.periodic) else None,
        "wrt": response.wrt,
        "value": response.value.tolist(),
        **facts,
        "rattlers": len(certificate.rattlers),
        "rattler_ids": list(certificate.rattlers),
        "response_l1": response.l1,
        "solve_residual": response.residual,
        "solve_null_part": response.null_part,
        "validity": None if validity is None else validity.as_dict(),
        "potential": options.potential,
        "parameters": {name: np.asarray(potential.get_parameter(name)).tolist() for name in potential.number_names()},
        "minimizer": options.minimizer,
        "precision": options.precision.value,
        "device": jax.devices()[0].device_kind,
        "units": "reduced: lengths, energies and forces in the units of the input",
        "versions": {"mdsens": mdsens.__version__, "jax": jax.__version__, "python": platform.python_version()},
    }


def _write_arrays(path: Path, equilibrium: Equilibrium, response: Sensitivity) -> None:
    import h5py
    import numpy as np

    system = equilibrium.system
    arrays: dict[str, tuple[Any, str, str]] = {
        "positions": (system.positions, "length", "relaxed positions [n, d], not wrapped into the cell"),
        "forces": (equilibrium.forces, "energy/length", "forces at the relaxed positions [n, d]"),
        "response": (response.response, "length/θ", "∂x*/∂θ [n, d, *shape of θ]"),
        "value": (response.value, "θ", "the parameter θ"),
        "diameters": (system.diameters, "length", "diameters [n]"),
        "species": (system.species, "", "species [n]"),
    }
    if system.box is not None:
        arrays["box"] = (system.box, "length", "lattice vectors in rows [d, d]")
    if len(set(system.periodic)) > 1:
        arrays["periodic"] = (system.periodic, "", "along which of the lattice vectors the cell is periodic [d]")
    with h5py.File(path, "w") as file:
        file.attrs["wrt"] = response.wrt
        file.attrs["mdsens"] = mdsens.__version__
        for name, (values, unit, meaning) in arrays.items():
            file[name] = np.asarray(values)
            file[name].attrs["unit"] = unit
            file[name].attrs["meaning"] = meaning
