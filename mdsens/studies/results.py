"""The results of a study: one table, and the arrays of every packing."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInput
from ..runtime.files import replacing
from .kinds import KINDS
from .sections import Study
from .store import TEXT, Store
from .study import read_study

if TYPE_CHECKING:
    import pandas
    import xarray

    from ..response.sensitivity import Sensitivity
    from ..system import System


@dataclasses.dataclass(frozen=True)
class StudyResults:
    """The results of a study as far as it is finished. Damaged files are never read.

    `table` is a DataFrame with one row for every finished task, in the order of the study: the values of the parameters
    that vary, the status, and the numbers that the study asks for. `to_xarray` includes the arrays.
    """

    folder: Path
    study: Study

    @functools.cached_property
    def table(self) -> pandas.DataFrame:
        import pandas

        store = Store(self.folder)
        rows, plan = store.rows(), store.read_json("plan.json") or {"tasks": {}}
        return pandas.DataFrame([_with_varied(rows[id], varied) for id, varied in plan["tasks"].items() if id in rows])

    @property
    def varied(self) -> list[str]:
        """The parameters that vary."""
        return list(self.study.sweep.parameters)

    @property
    def measured(self) -> list[str]:
        """The columns with the results that the study asks for, such as properties and the sizes of responses."""
        asked = KINDS[self.study.kind].measured(self.study)
        columns = [f"measured_{name}" if name in self.varied else name for name in asked]
        return [name for name in dict.fromkeys(columns or ["energy"]) if name in self.table]

    def arrays(self, task: str) -> dict[str, np.ndarray]:
        """The arrays kept of one task.

        **Arguments:**

        - `task`: the id of the task, from the column `task` of the table.

        **Raises:**

        - `InvalidInput` for a task that is not finished.
        """
        for _, result in Store(self.folder).results():
            for k, row in enumerate(result.rows):
                if row["task"] == task:
                    return {name: values[k] for name, values in result.arrays.items()}
        raise InvalidInput(f"there is no finished task {task} in {self.folder}")

    def system(self, task: str) -> System:
        """The relaxed packing of one task.

        **Arguments:**

        - `task`: the id of the task.

        **Raises:**

        - `InvalidInput` if the task is not finished, failed, or its positions were not kept.
        """
        from ..system import System

        kept = self.arrays(task)
        if "positions" not in kept or not np.isfinite(kept["positions"]).all():
            raise InvalidInput(f"task {task} has no positions: it failed, or the study did not keep them")
        periodic = kept["periodic"].astype(bool).tolist() if "periodic" in kept else None
        return System(kept["positions"], kept.get("box"), kept["diameters"], kept["species"], periodic=periodic)

    def sensitivities(self, task: str) -> list[Sensitivity]:
        """The responses kept of one task, in the order of the study.

        **Arguments:**

        - `task`: the id of the task.
        """
        from ..response.sensitivity import Sensitivity

        kept, row = self.arrays(task), self.table.set_index("task").loc[task]
        names = [name.removeprefix("response/") for name in kept if name.startswith("response/")]
        return [
            Sensitivity(name, kept[f"value/{name}"], kept[f"response/{name}"], float(row[f"residual[{name}]"]), 0.0)
            for name in names
        ]

    def to_xarray(self, n: int | None = None) -> xarray.Dataset:
        """The table and the arrays of the packings with n particles as one Dataset.

        Its dimension `task` has the order of the table; the parameters that vary, seeds and status are coordinates.

        **Arguments:**

        - `n`: number of particles; may be left out if all packings have the same.

        **Raises:**

        - `InvalidInput` if the packings differ in their number of particles or in dimension, and n does not choose.
        """
        import xarray

        table = self.table if n is None else self.table[self.table["n"] == n]
        if len(table.groupby(["n", "dim"])) != 1:
            sizes = sorted(set(self.table["n"])) if len(self.table) else []
            raise InvalidInput(f"one Dataset holds packings of one size; choose n out of {sizes}")
        columns = {name: ("task", table[name].to_numpy()) for name in table.columns}
        known = {
            name: columns.pop(name) for name in ("task", "status", "seed", "file", *self.varied) if name in columns
        }
        dataset = xarray.Dataset(columns, coords=known)
        for name, values in self._stacked(list(table["task"])).items():
            axes = {"positions": ("particle", "axis"), "diameters": ("particle",), "species": ("particle",)}
            axes |= {"box": ("vector", "axis"), "periodic": ("vector",)}
            inner = axes.get(name)
            if inner is None:  # a parameter [*shape], or a response [n, d, *shape]
                kind, _, wrt = name.partition("/")
                inner = ("particle", "axis") if kind == "response" else ()
                inner = (*inner, *(f"{wrt}_{k}" for k in range(values.ndim - 1 - len(inner))))
            dataset[name.replace("/", "_")] = (("task", *inner), values)
        return dataset

    def _stacked(self, tasks: list[str]) -> dict[str, np.ndarray]:
        """Every array of the given tasks along a first axis, in their order; NaN or -1 where a task has none."""
        places, stacked = {task: k for k, task in enumerate(tasks)}, dict[str, np.ndarray]()
        for _, result in Store(self.folder).results():
            here = [(k, places[row["task"]]) for k, row in enumerate(result.rows) if row["task"] in places]
            if not here:
                continue
            for name, values in result.arrays.items():
                if name not in stacked:
                    none = np.nan if values.dtype.kind == "f" else -1
                    stacked[name] = np.full((len(tasks), *values.shape[1:]), none, values.dtype)
                for k, place in here:
                    stacked[name][place] = values[k]
        return stacked

    def write(self, folder: Path) -> list[Path]:
        """Write `table.csv`, `table.parquet` and `results.h5`, which has a group for every size of packings.

        **Arguments:**

        - `folder`: an existing folder.

        **Returns:**

        - The paths of the files.
        """
        import h5py

        table, paths = self.table, [folder / name for name in ("table.csv", "table.parquet", "results.h5")]
        with replacing(paths[0]) as file:
            table.to_csv(file, index=False)
        with replacing(paths[1]) as file:
            table.to_parquet(file, index=False)
        with replacing(paths[2]) as path, h5py.File(path, "w") as file:
            file.attrs["study"] = self.study.model_dump_json()
            for (n, dim), part in table.groupby(["n", "dim"]) if len(table) else []:
                group = file.create_group(f"n{n}_d{dim}", track_order=True)
                for name in part.columns:
                    kind = h5py.string_dtype() if name in TEXT else None
                    group.create_dataset(f"table/{name}", data=part[name].to_list(), dtype=kind)
                for name, values in self._stacked(list(part["task"])).items():
                    group[name] = values
        return paths


def _with_varied(row: dict[str, Any], varied: dict[str, float]) -> dict[str, Any]:
    """A row with the values of the parameters that vary in this study.

    A property with the name of such a parameter becomes `measured_NAME`.
    """
    relabelled = {f"measured_{name}" if name in varied and name != "n" else name: row[name] for name in row}
    row = {}
    for name, value in relabelled.items():
        row |= varied if name == "varied" else {name: value}
    return row


def load_study(folder: str | Path) -> StudyResults:
    """Load the results of a study that `mdsens run` has left in a folder, whether it is finished or not.

    **Arguments:**

    - `folder`: the folder that was given to `mdsens run -o`.

    **Returns:**

    - The results.

    **Raises:**

    - `InvalidInput` if there is no study in the folder.
    """
    store = Store(Path(folder))
    store.check_is_study()
    return StudyResults(store.folder, read_study(store.folder / "study.toml"))
