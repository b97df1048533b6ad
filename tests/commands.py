"""The command `mdsens`, called in this process."""

import contextlib
import io
import sys

import jax
import pytest

from mdsens.cli import main


def call(*arguments, folder="."):
    """The exit code of a command, and what it printed to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder),
    ):
        # a cache folder would be set for all later tests, too
        patch.setattr("mdsens.runtime.compiled.keep_compiled", lambda folder=None: None)
        patch.setattr(sys, "argv", ["mdsens", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            jax.config.update("jax_enable_x64", True)
    return code, out.getvalue(), err.getvalue()
