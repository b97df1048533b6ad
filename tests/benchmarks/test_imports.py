"""The scripts in benchmarks/ take long to run; what they import has to be there."""

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_mdsens_is_there(script):
    tree = ast.parse(script.read_text())
    for each in ast.walk(tree):
        if isinstance(each, ast.ImportFrom) and (each.module or "").partition(".")[0] == "mdsens":
            module = importlib.import_module(each.module)
            for name in each.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{each.module}.{name.name}")
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "mdsens":
            assert hasattr(importlib.import_module("mdsens"), each.attr)
