import gc
import importlib.metadata
import os
import sys

OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if "MDSENS_OPTIMIZED" not in os.environ and importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")):
    # three quarters of the time go into compiling: so it takes two thirds of it; with -O0, too, a derivative was NaN
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}"

import jax
import pytest

from mdsens.runtime.compiled import release_when_full

jax.config.update("jax_enable_x64", True)
gc.set_threshold(100_000, 50, 50)  # tracing makes so many objects that looking for cycles took a seventh of the time


@pytest.fixture(autouse=True)
def _release_what_a_test_leaves():
    """Release compiled programs, and the figures that pyplot keeps until they are closed."""
    yield
    release_when_full()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


class Compilations:
    """Counts the programs that JAX compiles within a `with` block."""

    def __init__(self):
        self.names: list[str] = []
        self.counting = False
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, _seconds, **about):
        if self.counting and event.endswith("backend_compile_duration"):
            self.names.append(about.get("fun_name", "?"))

    @property
    def count(self):
        return len(self.names)

    @property
    def functions(self):
        return {name.removeprefix("jit(").removesuffix(")") for name in self.names}

    def __enter__(self):
        self.names, self.counting = [], True
        return self

    def __exit__(self, *_):
        self.counting = False


_COMPILATIONS = Compilations()


@pytest.fixture
def compilations():
    return _COMPILATIONS


LONGEST_FIRST = ("studies", "documentation", "benchmarks", "relaxation")


def pytest_collection_modifyitems(items):
    """Folders with the longest files first, so that two processes end together."""
    items.sort(
        key=lambda item: LONGEST_FIRST.index(item.path.parent.name) if item.path.parent.name in LONGEST_FIRST else 9
    )
