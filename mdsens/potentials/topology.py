"""The bonds and angles that a file brings, as potentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInput
from ..io.files import read_whole
from ..io.lammps_topology import Topology
from ..system import System
from .angles import Angles
from .base import Potential
from .bonds import Bonds

OF_TOPOLOGY: dict[str, type[Bonds] | type[Angles]] = {"bonds": Bonds, "angles": Angles}
"""The names of these potentials in a sum, before those of their parameters: `bonds.stiffness`."""

PARAMETERS = tuple(f"{name}.{own}" for name, kind in OF_TOPOLOGY.items() for own in kind.per_term)
"""The parameters that a file may bring."""


def read_with_bonds(
    path: Path, potential: Potential | None, given: Mapping[str, Any], **reading: Any
) -> tuple[Potential, System]:
    """A potential with the bonds and angles of a file added, or these alone, and the system of the file.

    **Arguments:**

    - `potential`: what they are added to; None for the bonds alone, which need no diameters.
    - `given`: their parameters, as in `bonded`.
    - `reading`: `diameters`, `dim`, `atom_style` as in `mdsens.read`.

    **Raises** `InvalidInput` for a file that cannot be read, and for one without bonds where it is to have some.
    """
    system, topology = read_whole(path, of_bonds=1.0 if potential is None else None, **reading)
    if topology is not None:
        parts = bonded(topology, given)
        return sum(parts[1:], parts[0] if potential is None else potential + parts[0]), system
    if potential is None or given:
        raise InvalidInput(f"{path} has no bonds or angles; mdsens reads those of LAMMPS data files")
    return potential, system


def bonded(topology: Topology, given: Mapping[str, Any] | None = None) -> list[Potential]:
    """Harmonic bonds and angles of a file, to be added to another potential.

        system, topology = mdsens.read_topology("network.data")
        potential = mdsens.SoftSphere() + sum(mdsens.potentials.bonded(topology))

    **Arguments:**

    - `topology`: from `mdsens.read_topology`.
    - `given`: parameters instead of those in the file, by name: `{"bonds.stiffness": 1.0}`.

    **Returns** `Bonds`, `Angles`, or both.

    **Raises** `InvalidInput` for a parameter that is neither in the file nor given, or given for what is not there.
    """
    left, parts = dict(given or {}), list[Potential]()
    in_file: dict[str, tuple[Any, dict[str, Any]]] = {
        "bonds": (topology.bonds, {"stiffness": topology.stiffness, "rest_length": topology.rest_length}),
        "angles": (topology.angles, {"stiffness": topology.angle_stiffness, "rest_angle": topology.rest_angle}),
    }
    for name, (groups, values) in in_file.items():
        if not len(groups):
            continue
        values |= {own: left.pop(f"{name}.{own}") for own in values if f"{name}.{own}" in left}
        missing = [f"{name}.{own}" for own, value in values.items() if value is None]
        if missing:
            raise InvalidInput(
                f"the file has {name} without harmonic coefficients: give {' and '.join(missing)} "
                f"(--set {missing[0]}=1.0)"
            )
        parts.append(OF_TOPOLOGY[name](groups, **values))
    if left:
        known = [name for name in PARAMETERS if len(in_file[name.partition(".")[0]][0])]
        raise InvalidInput(f"there is no parameter {', '.join(left)} of the file; there are {', '.join(known)}")
    return parts


def topology_of(potential: Potential) -> Topology | None:
    """The harmonic bonds and angles of a potential, as `mdsens.write_topology` writes them; None without any.

    **Raises** `InvalidInput` for bonds or angles of another kind, which no file holds.
    """
    parts = [part for part in potential.parts() if isinstance(part, Bonds | Angles)]
    others = [type(part).__name__ for part in parts if type(part) not in (Bonds, Angles)]
    if others:
        raise InvalidInput(f"{', '.join(others)} are not harmonic: LAMMPS data hold no such terms")
    if not parts:
        return None
    (pairs, *of_bonds), (triples, *of_angles) = (
        _rows([part for part in parts if type(part) is kind], kind) for kind in (Bonds, Angles)
    )
    bond_types, angle_types = np.zeros(len(pairs), int), np.zeros(len(triples), int)
    return Topology(pairs, bond_types, triples, angle_types, *of_bonds, *of_angles)


def _rows(parts: Sequence[Bonds | Angles], kind: type[Bonds] | type[Angles]) -> tuple[np.ndarray, Any, Any]:
    """The particles of the terms of all parts of one kind, and both of their coefficients."""
    if not parts:
        return np.zeros((0, 2 if kind is Bonds else 3), int), None, None
    groups = [np.asarray(part.pairs if isinstance(part, Bonds) else part.triples) for part in parts]
    first, second = (
        np.concatenate(
            [np.broadcast_to(getattr(part, name), len(rows)) for part, rows in zip(parts, groups, strict=True)]
        )
        for name in kind.per_term
    )
    return np.concatenate(groups), first, second
