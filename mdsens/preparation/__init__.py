"""Packings made from a seed, the onset of jamming, and networks made from packings."""

from .jamming import Jamming, jam
from .networks import network
from .packings import random_packing

__all__ = ["Jamming", "jam", "network", "random_packing"]
