"""What README says is run: its Python in one piece, its commands against what the command knows."""

import math
import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_in_it_runs(capsys):
    code = "\n".join(blocks("python"))
    assert code.count("import mdsens") == 1
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["dx_dD"].shape == (128, 2, 128)
    assert names["dx_dbox"].shape == (128, 2, 2, 2)
    assert math.isfinite(names["curvature"])
    printed = capsys.readouterr().out
    shown = {line[:17].strip() for line in blocks("text")[0].splitlines()}
    assert shown <= {line[:17].strip() for line in printed.splitlines()}


def test_the_commands_in_it_exist():
    from typer.main import get_command

    from mdsens.cli.app import app

    known = get_command(app).commands
    named = set(re.findall(r"mdsens (\w+)", "\n".join(blocks("bash"))))
    of_studies = {"init", "run", "status", "collect", "plot", "show"}
    assert named == set(known) == {"demo", "relax", "sensitivity", "properties", "fit", "design"} | of_studies


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_link_inside_leads_somewhere(target):
    assert (Path(__file__).parent.parent / target).exists()
