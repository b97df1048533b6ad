"""The kinds of studies. To add one, write a module with a `Kind` and enter it in `KINDS`.

A study file chooses a kind by `kind = "…"`; without that key it is `response`.
"""

from ..tasks import Batch
from .base import Kind
from .response import RESPONSE

KINDS: dict[str, Kind] = {"response": RESPONSE}


def kind_of(batch: Batch) -> Kind:
    """The kind of study that a batch belongs to."""
    return KINDS[batch.tasks[0].study.kind]


__all__ = ["KINDS", "Kind", "kind_of"]
