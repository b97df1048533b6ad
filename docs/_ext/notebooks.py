"""Copies the notebooks below docs/ with their stored outputs, and takes one picture of each for the gallery."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PICTURE = {"01": 2, "03": 3, "04": 1, "05": 4, "08": 1, "09": 3}
"""The index of the picture that the gallery shows, by the number of the notebook; 0 for all others."""


def collect(app: Sphinx) -> None:
    docs = Path(app.srcdir)
    copies, generated = docs / "notebooks", docs / "generated"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    generated.mkdir(exist_ok=True)
    entries = []
    for path in sorted((docs.parent / "notebooks").glob("[0-9]*.ipynb")):
        shutil.copy(path, copies)
        entries.append(_entry(path, copies))
    (generated / "gallery.md").write_text("\n".join(filter(None, entries)), encoding="utf-8")


def _entry(path: Path, folder: Path) -> str:
    """The title of a notebook, its question and a picture; empty without a picture."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures = [
        output["data"]["image/png"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    if not pictures:
        return ""
    chosen = pictures[min(PICTURE.get(path.stem[:2], 0), len(pictures) - 1)]
    (folder / f"{path.stem}.png").write_bytes(base64.b64decode("".join(chosen)))
    title, _, text = "".join(cells[0]["source"]).removeprefix("# ").partition("\n")
    link = f"notebooks/{path.name}"
    return f"## {title}\n\n{_lead(text)} [Open the notebook]({link}).\n\n![{title}](/notebooks/{path.stem}.png)\n"


def _lead(text: str) -> str:
    """The text up to the end of the question in bold that a notebook asks, else its first sentence."""
    paragraph = " ".join(text.split())
    before, _, rest = paragraph.partition("**")
    question, closed, _ = rest.partition("**")
    return f"{before}{question}" if closed else re.split(r"(?<=[.?!]) ", paragraph)[0]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", collect)
    return {"parallel_read_safe": True}
