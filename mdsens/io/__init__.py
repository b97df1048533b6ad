"""Files: one format per module. To add a format, write a `Format` and enter it in `REGISTRY`."""

from .ase import from_ase, to_ase
from .files import REGISTRY, format_to_write, read, write
from .format import Format

__all__ = ["REGISTRY", "Format", "format_to_write", "from_ase", "read", "to_ase", "write"]
