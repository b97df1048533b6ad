"""Tasks per second of a study against the same tasks one by one: in Python, and by a command for each file.

    python benchmarks/studies.py            # some four minutes; writes results/studies.md

The study has 2160 packings (64, 128 and 256 particles, harmonic and Hertzian, three densities); of each the response to
a diameter, four properties and the certificate are computed. All that starting and compiling takes is counted. The loop
in Python does every 12th task, after a first of each size that compiles, and the commands do six; their times are
scaled up to all tasks.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """
name = "two-thousand"
seeds = 120
[sweep.parameters]
n = [64, 128, 256]
packing_fraction = [0.9, 0.95, 1.0]
alpha = [2.0, 2.5]
[compute]
response = ["species-diameter:1"]
properties = ["energy", "pressure", "bulk_modulus", "shear_modulus"]
"""
EVERY = 12
MDSENS = Path(sys.executable).with_name("mdsens")
RESULTS = Path(__file__).parent / "results/studies.md"


def study_rate(path: Path, folder: Path) -> tuple[int, float]:
    """The number of tasks, and seconds for all."""
    start = time.monotonic()
    done = subprocess.run([MDSENS, "run", path, "-o", folder / "out"], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if "results" not in done.stdout:
        sys.exit(done.stdout + done.stderr)
    found = re.search(r"^tasks +(\d+)", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1]), seconds


def loop_rate(path: Path) -> tuple[float, float]:
    """Seconds for a task in a loop that calls the library, and for the first ones, which compile."""
    import jax

    jax.config.update("jax_enable_x64", True)

    import mdsens
    from mdsens.studies.run import plan
    from mdsens.studies.sources import load

    todo = plan(path)
    names = todo.study.compute.properties

    def one(task: object) -> None:
        potential, system = load(task.system, task.potential, task.folder)
        try:
            rest = mdsens.Relaxation(tolerance=1e-10)(potential, system)
            mdsens.sensitivity(rest, "species-diameter:1")
            mdsens.properties.measured(rest, names)
            rest.certificate  # noqa: B018
        except mdsens.MdsensError as error:
            print(f"  refused: {error}")

    start = time.monotonic()
    for n in (64, 128, 256):
        one(next(task for task in todo.tasks if task.shape[0] == n))
    compiling = time.monotonic() - start
    sample = todo.tasks[5::EVERY]
    start = time.monotonic()
    for task in sample:
        one(task)
    return (time.monotonic() - start) / len(sample), compiling


def command_rate(path: Path, folder: Path) -> float:
    """Seconds for one `mdsens sensitivity`."""
    import mdsens
    from mdsens.studies.run import plan
    from mdsens.studies.sources import load

    seconds = []
    tasks = plan(path).tasks
    for k, task in enumerate(tasks[:: len(tasks) // 6][:6]):
        mdsens.write(folder / f"{k}.extxyz", load(task.system, task.potential, task.folder)[1])
        start = time.monotonic()
        alpha = str(task.potential["alpha"])
        arguments = ["sensitivity", folder / f"{k}.extxyz", "--wrt", "species-diameter:1", "-o", folder / f"out{k}"]
        subprocess.run([MDSENS, *arguments, "--alpha", alpha], capture_output=True, check=False)
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "study.toml"
        path.write_text(STUDY)
        tasks, study = study_rate(path, folder)
        each, compiling = loop_rate(path)
        command = command_rate(path, folder)
    import jax

    loop, shell = each * tasks + compiling, command * tasks
    lines = [
        f"{tasks} packings of 64, 128 and 256 particles; {os.cpu_count()} CPU cores, double precision, "
        f"JAX {jax.__version__}, Python {platform.python_version()}.",
        "",
        "| | tasks per second | times as long |",
        "|---|---:|---:|",
        f"| `mdsens run` | {tasks / study:.3g} | 1 |",
        f"| a loop in Python, one by one | {tasks / loop:.3g} | {loop / study:.1f} |",
        f"| `mdsens sensitivity` for each file | {tasks / shell:.3g} | {shell / study:.0f} |",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
