"""Files: one format per module. To add a format, write a `Format` and enter it in `REGISTRY`."""

from .ase import from_ase, to_ase
from .files import REGISTRY, format_to_write, read, write
from .format import Format
from .lammps_topology import Topology, read_topology, write_topology

__all__ = [
    "REGISTRY",
    "Format",
    "Topology",
    "format_to_write",
    "from_ase",
    "read",
    "read_topology",
    "to_ase",
    "write",
    "write_topology",
]
