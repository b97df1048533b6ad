"""A small study, and the command `mdsens` in a process of its own."""

import subprocess

import crashes

STUDY = """
name = "small"
seeds = 4
[system]
n = 16
[sweep.parameters]
packing_fraction = [0.6, 0.95]
alpha = [2.0, 2.5]
[compute]
response = ["species-diameter:1"]
properties = ["pressure"]
certificate = false
[execution]
batch_size = 4
"""


def in_a_process(*arguments, timeout=300, **options):
    """A command in a process of its own: its exit code, and what it printed to stdout and stderr."""
    done = subprocess.run(
        crashes.command(*arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    return done.returncode, done.stdout, done.stderr
