"""How long a newcomer waits: prints the wall time of a cold start of each command, median over repeats.

python benchmarks/start_up.py
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command, repeats):
    def once():
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    python, command = [sys.executable, "-c"], [sys.executable, "-m", "mdsens"]
    door = "import mdsens; mdsens.System, mdsens.Relaxation, mdsens.SoftSphere, mdsens.random_packing"
    rows = {
        "python": ([*python, ""], repeats),
        "import jax": ([*python, "import jax"], repeats),
        "import mdsens": ([*python, "import mdsens"], repeats),
        "import mdsens and use its names": ([*python, door], repeats),
        "mdsens --help": ([*command, "--help"], repeats),
    }
    for name, (arguments, count) in rows.items():
        print(f"{name:<34} {seconds(arguments, count):6.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        print(f"{'mdsens demo':<34} {seconds([*command, 'demo', '-o', str(out)], max(1, repeats // 2)):6.2f} s")
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
