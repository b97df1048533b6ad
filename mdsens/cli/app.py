"""The command `mdsens`: all its subcommands, and its exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from .. import __version__
from ..errors import InvalidInput, MdsensError
from ..runtime.collecting import collect_rarely
from . import inverse, packings, study
from .options import Command

app = typer.Typer(
    name="mdsens",
    help="How a particle system at rest responds to its parameters, from ∇E = 0.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show:
        typer.echo(f"mdsens {__version__}")
        raise typer.Exit


for command in (
    packings.demo,
    packings.relax,
    packings.certify,
    packings.properties,
    packings.sensitivity,
    inverse.fit,
    inverse.design,
    study.init,
    study.run,
    study.status,
    study.collect,
    study.plot,
    study.show,
):
    app.command(cls=Command)(command)


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 the computation failed, 2 the input makes no sense, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA warns about its own settings in programs from the cache
    warnings.showwarning = lambda message, *_: print(f"mdsens: note: {message}", file=sys.stderr)
    collect_rarely()
    try:
        app()
    except (InvalidInput, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        _fail(error, 2)
    except (MdsensError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written", 130)


def _fail(error: object, code: int) -> None:
    print(f"mdsens: {error}", file=sys.stderr)
    sys.exit(code)
