"""Blocks of code and links to files in Markdown."""

import re
from pathlib import Path


def blocks(text: str, language: str) -> list[str]:
    """The code between fences of exactly this language: `python of a cluster` is another one."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(path: Path) -> dict:
    """Run the Python of a page, in order, and return its names; line numbers in errors are those of the page."""
    lines, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        begins, ends = line == "```python", line == "```"
        inside = (inside or begins) and not ends
        lines.append(line if inside and not begins else "")
    names: dict = {}
    exec(compile("\n".join(lines), str(path), "exec"), names)
    return names


def links(text: str) -> list[str]:
    """The targets of links and images that are files."""
    return re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
