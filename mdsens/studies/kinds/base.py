"""What a kind of study consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..sections import Study
from ..tasks import Batch, Task


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of study: how its tasks are planned, computed and put into a table.

    The result of a task is an object of the kind's own; only the functions below look into it.

    **Arguments:**

    - `study`: the class of its study files: `Study`, or a subclass with other sections.
    - `plan`: `plan(study, folder)` returns the tasks, in order; `folder` is that of the study's files.
    - `compute`: `compute(batch)` returns one result for each task. A task that fails is a result with its reason.
    - `lost`: `lost(reason, message)` returns the result of a task that could not be computed at all.
    - `row`: `row(task, result)` returns the columns of the table, the same for all tasks of a study. Among them are
      `task`, `status` (`done` or `failed`), `reason`, `message`, `n`, `dim`, and `varied` as JSON.
    - `arrays`: `arrays(task, result)` returns the arrays to keep, of the same shapes for all tasks of one shape.
    - `measured`: `measured(study)` names the columns with results, for tables and plots.
    """

    study: type[Study]
    plan: Callable[[Study, Path], list[Task]]
    compute: Callable[[Batch], list[Any]]
    lost: Callable[[str, str], Any]
    row: Callable[[Task, Any], dict[str, Any]]
    arrays: Callable[[Task, Any], dict[str, np.ndarray]]
    measured: Callable[[Study], list[str]]
