"""From the description of a task to its potential and its packing before it is relaxed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..io.selection import with_fixed
from ..parameters.names import with_parameter
from ..potentials import Potential
from ..potentials.topology import read_with_bonds
from ..preparation.packings import random_packing
from ..runtime.tracing import as_array
from ..system import System
from .names import BONDS_ALONE, of_bonds, of_pairs
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
    pairs = None if potential["name"] == BONDS_ALONE else pair_potential(potential)
    if "file" in given:
        whole, packing = _from_file(given, pairs, of_bonds(potential), folder)
    else:
        assert pairs is not None
        whole, packing = pairs, random_packing(**given)
    if system.get("fixed"):
        packing = with_fixed(packing, system["fixed"])
    return whole, packing


def pair_potential(potential: Mapping[str, Any]) -> Potential:
    return pair_potentials()[potential["name"]](**of_pairs(potential))


def _from_file(
    given: Mapping[str, Any], pairs: Potential | None, of_its_bonds: Mapping[str, Any], folder: Path
) -> tuple[Potential, System]:
    path = folder / given["file"]
    if "sha256" in given and digest_of(path) != given["sha256"]:
        raise InvalidInput(f"{given['file']} is not the file any more that it was when the study was planned")
    whole, packing = read_with_bonds(path, pairs, of_its_bonds, diameters=given["diameters"], dim=given["dim"])
    for name, value in given.items():
        if name.startswith("species-diameter:"):
            _, packing = with_parameter(name, as_array(float(value)), whole, packing)
    return whole, packing.replace(extras=None)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
