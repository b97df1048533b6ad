"""What README says is run: its Python in one piece, its commands against what the command knows."""

import math
import re
from pathlib import Path

from blocks import blocks, run

PATH = Path(__file__).parent.parent / "README.md"
README = PATH.read_text(encoding="utf-8")


def test_the_python_in_it_runs(capsys):
    assert "\n".join(blocks(README, "python")).count("import mdsens") == 1
    names = run(PATH)
    assert names["dx_dD"].shape == (128, 2, 128)
    assert names["dx_dbox"].shape == (128, 2, 2, 2)
    assert math.isfinite(names["dK_deps"]) and names["many"].energy.shape == (20,)
    printed = capsys.readouterr().out
    shown = {line[:17].strip() for line in blocks(README, "text")[0].splitlines()}
    assert shown <= {line[:17].strip() for line in printed.splitlines()}


def test_the_commands_in_it_exist():
    from typer.main import get_command

    from mdsens.cli.app import app

    known = get_command(app).commands
    named = set(re.findall(r"mdsens (\w+)", "\n".join(blocks(README, "bash"))))
    of_studies = {"init", "run", "status", "collect", "plot", "show"}
    assert named == set(known) == {"demo", "relax", "sensitivity", "properties", "fit", "design"} | of_studies
