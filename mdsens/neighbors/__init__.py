"""Neighbor lists: pairs that may interact, found by cells, allocated and rebuilt."""

from .allocation import allocate, automatic, build, update
from .lists import AllPairs, NeighborList, Neighbors, PairFinder

__all__ = ["AllPairs", "NeighborList", "Neighbors", "PairFinder", "allocate", "automatic", "build", "update"]
