import gc
import importlib.metadata
import os
import sys

OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICKLY = "MDSENS_OPTIMIZED" not in os.environ
if QUICKLY:  # three quarters of the time go into compiling: so it takes a third of it, in started commands, too
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}"

import jax
import pytest

from mdsens.runtime.compiled import release_when_full

MOST_OPTIMIZATIONS_OFF = "jax_disable_most_optimizations"
jax.config.update("jax_enable_x64", True)
jax.config.update(MOST_OPTIMIZATIONS_OFF, QUICKLY)  # a plugin may have imported JAX before
gc.set_threshold(100_000, 50, 50)  # tracing makes so many objects that looking for cycles took a seventh of the time


@pytest.fixture(autouse=True)
def _release_what_a_test_leaves():
    """Release compiled programs, and the figures that pyplot keeps until they are closed."""
    yield
    release_when_full()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def _optimize(request):
    """Compile as everybody's programs are where a test is marked `optimized`."""
    if not QUICKLY or request.node.get_closest_marker("optimized") is None:
        yield
        return
    jax.config.update(MOST_OPTIMIZATIONS_OFF, False)
    os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS")
    yield
    jax.config.update(MOST_OPTIMIZATIONS_OFF, True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


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
