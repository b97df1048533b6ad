"""From the description of a task to its potential and its packing before it is relaxed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..io.files import read_whole
from ..io.selection import with_fixed
from ..parameters.names import with_parameter
from ..potentials import Potential, bonded
from ..preparation.packings import random_packing
from ..runtime.tracing import as_array
from ..system import System
from .names import BONDS_ALONE
from .sections import pair_potentials


def load(system: Mapping[str, Any], potential: Mapping[str, Any], folder: Path) -> tuple[Potential, System]:
    """The potential, with the bonds and angles of a file, and the system.

    **Arguments:**

    - `system`: arguments of `random_packing`, or a file with its checksum, and what is `fixed`.
    - `potential`: the name of the pair potential, or `bonds`, and parameters by name.

    **Raises** `InvalidInput` for a file that cannot be read, has no bonds though parameters of them are given, or has
    changed since the study was planned.
    """
    given = {name: value for name, value in system.items() if name != "fixed"}
    parts = [] if potential["name"] == BONDS_ALONE else [pair_potential(potential)]
    if "file" in given:
        packing, bonds = _from_file(given, potential, folder)
        parts += bonds
        for name, value in given.items():
            if name.startswith("species-diameter:"):
                _, packing = with_parameter(name, as_array(float(value)), parts[0], packing)
    else:
        packing = random_packing(**given)
    if system.get("fixed"):
        packing = with_fixed(packing, system["fixed"])
    return sum(parts[1:], parts[0]), packing


def pair_potential(potential: Mapping[str, Any]) -> Potential:
    own = {name: value for name, value in potential.items() if name != "name" and "." not in name}
    return pair_potentials()[potential["name"]](**own)


def _from_file(given: Mapping[str, Any], potential: Mapping[str, Any], folder: Path) -> tuple[System, list[Potential]]:
    path, alone = folder / given["file"], potential["name"] == BONDS_ALONE
    if "sha256" in given and digest_of(path) != given["sha256"]:
        raise InvalidInput(f"{given['file']} is not the file any more that it was when the study was planned")
    system, topology = read_whole(path, given["diameters"], given["dim"], of_bonds=1.0 if alone else None)
    of_bonds = {name: value for name, value in potential.items() if "." in name}
    if topology is None and (alone or of_bonds):
        raise InvalidInput(f"{given['file']} has no bonds or angles; mdsens reads those of LAMMPS data files")
    return system.replace(extras=None), [] if topology is None else bonded(topology, of_bonds)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
