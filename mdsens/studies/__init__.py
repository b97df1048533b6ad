"""Studies of thousands of packings: study files, tasks, batches of tasks on every device, and their results.

Names are loaded when they are first used: a worker imports this package before it has chosen its device, and so before
JAX may be imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kinds import KINDS
    from .results import StudyResults, load_study

_MODULE_OF = {"KINDS": "kinds", "StudyResults": "results", "load_study": "results"}

__all__ = ["KINDS", "StudyResults", "load_study"]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
