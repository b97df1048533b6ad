"""What the commands do, once they are known to be worth the heavy imports."""

from __future__ import annotations

import contextlib
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from platformdirs import user_cache_path

import mdsens
from mdsens import linear_solvers, minimizers, plotting, potentials
from mdsens.compiled import remember
from mdsens.errors import InvalidInput
from mdsens.files import check_target, replacing
from mdsens.io import format_to_write
from mdsens.parameters import check_name, settings_of
from mdsens.relaxation import Equilibrium

from .app import Device, LinearSolver, Options, Precision


def demo(output: Path, seed: int, options: Options) -> None:
    configure(options)
    check_folder(output)
    system = mdsens.random_packing(n=128, dim=2, diameters=(1.0, 0.6), packing_fraction=0.98, seed=seed)
    _respond(system, mdsens.SoftSphere(), "species-diameter:1", output, options)


def relax(input: Path, output: Path, options: Options) -> None:
    configure(options)
    check_target(output)
    format_to_write(output)
    equilibrium = relaxed(potential_of(options), read(input, options), options)
    mdsens.write(output, equilibrium)
    print(equilibrium.certify(options.thorough))
    print(f"{'written':<17} {output}")


def sensitivity(input: Path, wrt: str, output: Path, options: Options) -> None:
    configure(options)
    check_folder(output)
    potential, system = potential_of(options), read(input, options)
    check_name(wrt, potential, system)
    _respond(system, potential, wrt, output, options)


def _respond(system: mdsens.System, potential: mdsens.Potential, wrt: str, output: Path, options: Options) -> None:
    """Relax, differentiate, and leave summary.json, result.h5 and sensitivity.png in the folder."""
    equilibrium = relaxed(potential, system, options)
    response = mdsens.sensitivity(equilibrium, wrt)
    certificate = equilibrium.certify(options.thorough)
    interval = mdsens.validity(equilibrium, wrt) if isinstance(equilibrium.potential, mdsens.PairPotential) else None
    summary = _summary(equilibrium, response, certificate, interval, options)
    output.mkdir(parents=True, exist_ok=True)
    with (
        replacing(output / "summary.json") as text,
        replacing(output / "result.h5") as arrays,
        replacing(output / "sensitivity.png") as picture,
    ):
        text.write_text(json.dumps(summary, indent=2) + "\n")
        _write_arrays(arrays, equilibrium, response)
        plotting.save_sensitivity(picture, equilibrium, response)
    print(certificate)
    solve = f"linear solve: residual {response.residual:.1g}, part in the null space {response.null_part:.1g}"
    print(f"{'response':<17} to {wrt}: Σ|∂x*/∂θ| = {response.l1:.6g} ({solve})")
    if interval is not None:
        print(f"{'holds':<17} {interval}")
    print(f"{'written':<17} {output}/summary.json, result.h5, sensitivity.png")


def configure(options: Options) -> None:
    """The precision and the device, before anything is computed, and where what is compiled is kept."""
    jax.config.update("jax_enable_x64", options.precision is Precision.double)
    with contextlib.suppress(RuntimeError):  # who has no home keeps nothing
        remember(user_cache_path("mdsens", appauthor=False) / "compiled")
    if options.device is Device.auto:
        return
    jax.config.update("jax_platforms", {Device.cpu: "cpu", Device.gpu: "cuda"}[options.device])
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX has no GPU support at all
        raise InvalidInput(
            "there is no GPU that JAX can use here; leave --device out, or install mdsens[cuda] where there is one"
        ) from error


def potential_of(options: Options) -> mdsens.Potential:
    parameters: dict[str, Any] = {}
    for setting in options.settings:
        name, _, value = setting.partition("=")
        try:
            parameters[name.strip()] = np.array(json.loads(value) if value.startswith("[") else value, dtype=float)
        except ValueError:
            raise InvalidInput(f"--set takes NAME=VALUE with a number or a matrix, not {setting!r}") from None
    try:
        return potentials.NAMED[options.potential](**parameters)
    except TypeError:
        known = ", ".join(settings_of(potentials.NAMED[options.potential]()))
        raise InvalidInput(
            f"{options.potential.value} has no parameter {', '.join(parameters)}; it has {known}"
        ) from None


def read(input: Path, options: Options) -> mdsens.System:
    return mdsens.read(input, diameters=options.diameters, dim=options.dim)


def relaxed(potential: mdsens.Potential, system: mdsens.System, options: Options) -> Equilibrium:
    solvers = {
        LinearSolver.dense: linear_solvers.dense,
        LinearSolver.minres: linear_solvers.minres,
        LinearSolver.cholesky: linear_solvers.cholesky,
        LinearSolver.cg: linear_solvers.cg,
        LinearSolver.bicgstab: linear_solvers.bicgstab,
        LinearSolver.gmres: linear_solvers.gmres,
    }
    solver = solvers[options.linear_solver]() if options.linear_solver in solvers else None
    relaxation = mdsens.Relaxation(
        minimizer=minimizers.NAMED[options.minimizer](),
        tolerance=options.tolerance,
        pressure=options.pressure,
        max_steps=options.max_steps,
        linear_solver=solver,
        one_sided=options.one_sided,
    )
    return relaxation(potential, system)


def check_folder(output: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if output.exists() and not output.is_dir():
        raise InvalidInput(f"{output} is a file; name a folder for the results")
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    check_target(nearest / "summary.json")


def _summary(
    equilibrium: Equilibrium, response: Any, certificate: Any, interval: mdsens.Validity | None, options: Options
) -> dict[str, Any]:
    system = equilibrium.system
    of_newton = ("solve_residual", "null_part")  # of the step to the true minimum, not of the response
    facts = {f"distance_{key}" if key in of_newton else key: fact for key, fact in certificate.as_dict().items()}
    return {
        "n": system.n,
        "dim": system.dim,
        "packing_fraction": float(system.packing_fraction) if system.periodic else None,
        "wrt": response.wrt,
        "value": response.value.tolist(),
        **facts,
        "rattlers": len(certificate.rattlers),
        "rattler_ids": list(certificate.rattlers),
        "response_l1": response.l1,
        "solve_residual": response.residual,
        "solve_null_part": response.null_part,
        "validity": None if interval is None else interval.as_dict(),
        "potential": options.potential.value,
        "parameters": {
            name: np.asarray(getattr(equilibrium.potential, name)).tolist()
            for name in settings_of(equilibrium.potential)
        },
        "minimizer": options.minimizer.value,
        "precision": options.precision.value,
        "device": jax.devices()[0].device_kind,
        "units": "reduced: lengths, energies and forces in the units of the input",
        "versions": {"mdsens": mdsens.__version__, "jax": jax.__version__, "python": platform.python_version()},
    }


def _write_arrays(path: Path, equilibrium: Equilibrium, response: Any) -> None:
    import h5py

    system = equilibrium.system
    arrays = {
        "positions": (system.positions, "length", "relaxed positions [n, d], not wrapped into the cell"),
        "forces": (equilibrium.forces, "energy/length", "forces at the relaxed positions [n, d]"),
        "response": (response.response, "length/θ", "∂x*/∂θ [n, d, *shape of θ]"),
        "value": (response.value, "θ", "the parameter θ"),
        "diameters": (system.diameters, "length", "diameters [n]"),
        "species": (system.species, "", "species [n]"),
    }
    if system.box is not None:
        arrays["box"] = (system.box, "length", "lattice vectors in rows [d, d]")
    with h5py.File(path, "w") as file:
        file.attrs["wrt"] = response.wrt
        file.attrs["mdsens"] = mdsens.__version__
        for name, (values, unit, meaning) in arrays.items():
            file[name] = np.asarray(values)
            file[name].attrs["unit"] = unit
            file[name].attrs["meaning"] = meaning
