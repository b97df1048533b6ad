"""README: its Python runs; and the commands in it and in the guides exist."""

import re
from pathlib import Path

import mdsens
from blocks import blocks, run

ROOT = Path(__file__).parents[2]
PATH = ROOT / "README.md"
README = PATH.read_text(encoding="utf-8")
WITH_COMMANDS = [PATH, ROOT / "docs" / "command_line_guide.md", ROOT / "docs" / "study_guide.md"]


def test_the_python_in_it_runs(capsys, monkeypatch):
    monkeypatch.setattr(mdsens, "keep_compiled", lambda: None)  # a cache folder would be set for all later tests, too
    assert "\n".join(blocks(README, "python")).count("import mdsens") == 1
    names = run(PATH)
    assert names["dx_dD"].shape == (128, 2, 128)
    assert names["dx_dbox"].shape == (128, 2, 2, 2)
    printed = capsys.readouterr().out
    shown = {line[:17].strip() for line in blocks(README, "text")[0].splitlines()}
    assert shown <= {line[:17].strip() for line in printed.splitlines()}


def test_the_commands_exist():
    from typer.main import get_command

    from mdsens.cli.app import app

    known = get_command(app).commands
    shell = [block for path in WITH_COMMANDS for block in blocks(path.read_text(encoding="utf-8"), "bash")]
    named = set(re.findall(r"mdsens (\w+)", "\n".join(shell)))
    of_studies = {"init", "run", "status", "collect", "plot", "show"}
    assert (
        named == set(known) == {"demo", "relax", "certify", "sensitivity", "properties", "fit", "design"} | of_studies
    )
