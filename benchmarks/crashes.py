"""A study killed at random moments, again and again, and what is left of it in the end.

    python benchmarks/crashes.py --kills 50

Kills the run or one of its workers (SIGKILL), goes on with the same command, and compares the table with that of a
run that nobody disturbed: bit for bit the same, no finished batch computed again, no half file read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STUDY = """
seeds = 24
[system]
n = 16
[sweep.parameters]
packing_fraction = [0.7, 0.95]
[compute]
response = ["species-diameter:1"]
properties = ["pressure", "bulk_modulus"]
[execution]
batch_size = 2
"""


@dataclass
class Tally:
    """What was seen: kills of runs and of workers, finished batches that changed, and whether the tables agree."""

    runs: int = 0
    workers: int = 0
    restarts: int = 0
    rewritten: int = 0
    half_written: int = 0
    same: bool = False


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("mdsens")), *map(str, arguments)]


def survive(kills: int, folder: Path, seed: int = 0) -> Tally:
    """Kills a study so many times, then lets it end.

    From one kill to the next it is at most half of the time that an undisturbed run takes: a batch whose worker dies
    three times is halved, and then its last bits differ, so workers must have the time to begin.
    """
    study, disturbed, calm = folder / "study.toml", folder / "disturbed", folder / "calm"
    study.write_text(STUDY)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.monotonic()
    subprocess.run(command("run", study, "-o", calm), check=False, **quiet)
    longest = 0.5 * (time.monotonic() - start)
    tally, chance = Tally(), random.Random(seed)
    run = subprocess.Popen(command("run", study, "-o", disturbed), **quiet)
    finished: dict[str, int] = {}
    while tally.runs + tally.workers < kills:
        time.sleep(chance.uniform(0.0, longest))
        workers = _children(run.pid)
        if run.poll() is None and workers and chance.random() < 0.5:
            _kill(chance.choice(workers))
            tally.workers += 1
        elif run.poll() is None:
            _kill(run.pid)
            run.wait()
            tally.runs += 1
        tally.rewritten += _rewritten(disturbed, finished)
        tally.half_written += len(list(disturbed.glob("batches/.*.h5")))
        if run.poll() is not None:
            if run.returncode in (0, 1):  # it came to its end: begin anew
                for path in disturbed.glob("batches/*.h5"):
                    path.unlink()
                finished.clear()
            run = subprocess.Popen(command("run", study, "-o", disturbed), **quiet)
            tally.restarts += 1
    run.wait()
    tally.rewritten += _rewritten(disturbed, finished)
    for each in (calm, disturbed):
        subprocess.run(command("collect", each), check=True, **quiet)
    tally.same = (calm / "table.csv").read_bytes() == (disturbed / "table.csv").read_bytes()
    return tally


def _rewritten(folder: Path, finished: dict[str, int]) -> int:
    """How many finished batches are not the files that they were."""
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("batches/[!.]*.h5")}
    changed = sum(now.get(name) != written for name, written in finished.items())
    finished.update(now)
    return changed


def _children(pid: int) -> list[int]:
    """The workers of a run, by what Linux says."""
    try:
        every = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [each for each in every if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        tally = survive(options.kills, Path(folder), options.seed)
    print(f"{tally.runs} kills of the run, {tally.workers} of a worker, {tally.restarts} restarts "
          f"({time.monotonic() - start:.0f} s)")  # fmt: skip
    print(
        f"finished batches computed again: {tally.rewritten}; half-written files seen on the way: {tally.half_written}"
    )
    print(f"the table is {'bit for bit that' if tally.same else 'NOT that'} of the undisturbed run")
    sys.exit(0 if tally.same and not tally.rewritten else 1)


if __name__ == "__main__":
    main()
