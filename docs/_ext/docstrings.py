"""Prepares docstrings, which are Markdown, and signatures, which are shown as in the source, for autodoc."""

import dataclasses
import inspect
import pathlib
import re
import sys
from typing import Any

from sphinx.application import Sphinx

import mdsens

PUBLIC = {name for name in mdsens.__all__ if callable(getattr(mdsens, name))}
"""The public classes and functions."""


def to_rst(text: str) -> str:
    """Convert code in backticks, lists and indented code to reStructuredText; names of mdsens become links."""
    paragraphs: list[str] = []
    for paragraph in text.split("\n\n"):
        in_list = bool(paragraphs) and re.search(r"^- ", paragraphs[-1], re.MULTILINE)
        code = all(line.startswith("    ") for line in paragraph.splitlines()) and not in_list
        paragraphs.append(f"::\n\n{paragraph}" if code and paragraph.strip() else _prose(paragraph))
    return "\n\n".join(paragraphs)


def _prose(paragraph: str) -> str:
    parts = re.split(r"(`[^`]+`)", paragraph)
    text = "".join(_code(part[1:-1]) if part.startswith("`") else _escaped(part) for part in parts)
    return re.sub(r"(?m)^(?!- |  )(.+)\n(?=- )", r"\1\n\n", text)  # a blank line before a list


def _code(code: str) -> str:
    name = code.removeprefix("mdsens.")
    return f":py:obj:`~mdsens.{name}`" if name in PUBLIC else f"``{' '.join(code.split())}``"


def _escaped(prose: str) -> str:
    return re.sub(r"(?<!\*)\*(?!\*)|\||_(?!\w)", r"\\\g<0>", prose)


class _Text:
    """The text that is shown for an annotation or a default."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature_of(thing: Any) -> tuple[str, str | None]:
    """The signature with annotations as in the source, and defaults made by a factory shown as a call of it."""
    found, module = inspect.signature(thing), sys.modules[thing.__module__]

    def shown(annotation: Any) -> Any:
        if annotation is inspect.Parameter.empty:
            return annotation
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        of_files = getattr(module, "Path", None) is pathlib.Path  # and not mdsens.Path
        return _Text(re.sub(r"(?<![.\w])Path\b", "pathlib.Path", text) if of_files else text)

    generated = inspect.isclass(thing) and dataclasses.is_dataclass(thing) and not _has_own_init(thing)
    fields = dataclasses.fields(thing) if generated else ()
    typed = {field.name: field.type for field in fields}  # the type after the field's converter
    factories = {field.name: field.default_factory for field in fields}
    made = {name: f"{made.__name__}()" for name, made in factories.items() if made is not dataclasses.MISSING}
    parameters = [
        each.replace(
            annotation=shown(typed.get(name, each.annotation)),
            default=_Text(made[name]) if name in made else each.default,
        )
        for name, each in found.parameters.items()
        if name != "self"
    ]
    returned = shown(found.return_annotation)
    text = str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return text, None if returned is inspect.Signature.empty or inspect.isclass(thing) else repr(returned)


def _has_own_init(thing: type) -> bool:
    return getattr(getattr(thing.__init__, "__code__", None), "co_filename", "") == inspect.getsourcefile(thing)


def _is_called(thing: type) -> bool:
    """Whether users construct it: it has an `__init__`, arguments in its docstring, or defaults for all of them."""
    parameters = list(inspect.signature(thing).parameters.values())
    free = bool(parameters) and all(each.default is not inspect.Parameter.empty for each in parameters)
    return _has_own_init(thing) or free or "**Arguments:**" in (thing.__doc__ or "")


def show_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    if what == "class":
        return signature_of(thing) if _is_called(thing) else ("", None)
    return signature_of(thing) if what in ("function", "method") else None


def convert(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if what == "data" and "\n".join(lines).strip() == inspect.cleandoc(type(thing).__doc__ or ""):
        lines.clear()  # the docstring of the type says nothing about this object
    lines[:] = to_rst("\n".join(lines)).splitlines()


def resolve(app: Sphinx, env: Any, node: Any, text: Any) -> Any:
    """Link a class in a signature by its public name if it has one; other classes of mdsens get no link."""
    target = node.get("reftarget", "")
    name = target.rpartition(".")[2]
    if node.get("reftype") != "class" or target.startswith("pathlib."):
        return None
    if name in PUBLIC:
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "class", f"mdsens.{name}", node, text)
    return text if target.startswith("mdsens.") else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
