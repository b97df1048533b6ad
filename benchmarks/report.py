"""What a benchmark leaves in its folder of results."""

import json
from pathlib import Path


def write(folder: Path, name: str, facts: dict | list, text: str) -> None:
    """Write NAME.md, and NAME.json with a line for each of many records."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(map(json.dumps, facts)) if isinstance(facts, list) else json.dumps(facts, indent=1)
    (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n" if isinstance(facts, list) else f"{lines}\n")
    (folder / f"{name}.md").write_text(text)
