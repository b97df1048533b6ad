"""The executors by name. To add one, write a function like `run_dask` in a module and enter it here."""

from .dask import run_dask
from .execution import Executor
from .slurm import run_slurm
from .workers import run_on_this_machine

EXECUTORS: dict[str, Executor] = {"local": run_on_this_machine, "slurm": run_slurm, "dask": run_dask}
