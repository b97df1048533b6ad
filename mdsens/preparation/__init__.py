"""Packings made from a seed, and the onset of jamming."""

from .jamming import Jamming, jam
from .packings import random_packing

__all__ = ["Jamming", "jam", "random_packing"]
