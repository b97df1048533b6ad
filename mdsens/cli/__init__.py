"""The command `mdsens`."""

from .app import main

__all__ = ["main"]
