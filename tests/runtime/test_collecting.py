"""Cycles of unused objects are searched for rarely in processes of our own, and in others as the user has it."""

import subprocess
import sys

COMMAND = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 0, file=sys.stderr))  # after what is registered later
if {command}:
    from mdsens.cli import main
    sys.argv = ["mdsens", "--version"]
    main()
else:
    import mdsens
    mdsens.Relaxation
    print(gc.get_threshold(), file=sys.stderr)
"""


def run(command):
    script = [sys.executable, "-c", COMMAND.format(command=command)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    return done.stderr.split("\n")[:-1]


def test_a_command_does_not_search_once_more_at_its_end():
    assert run(command=True) == ["True"]


def test_importing_the_package_leaves_the_search_as_it_is():
    import gc

    default = subprocess.run(
        [sys.executable, "-c", "import gc; print(gc.get_threshold())"], capture_output=True, text=True, check=True
    )
    assert run(command=False) == [default.stdout.strip(), "False"]
    assert gc.isenabled()
