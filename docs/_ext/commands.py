"""The directive `commands`: every command of `mdsens` with its arguments and options, read from the command itself."""

import enum
import inspect
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from mdsens.cli.app import app
from mdsens.cli.options import with_names


class Commands(SphinxDirective):
    """One section for each command."""

    def run(self) -> list[nodes.Node]:
        commands = get_command(app).commands  # type: ignore[attr-defined]
        return [self._section(name, command) for name, command in commands.items()]

    def _section(self, name: str, command: Any) -> nodes.section:
        section = nodes.section(ids=[f"command-{name}"], names=[f"command-{name}"])
        section += nodes.title("", "", nodes.literal("", f"mdsens {name}"))
        known = [parameter for parameter in command.params if parameter.name != "help"]
        arguments = [p for p in known if p.param_type_name == "argument"]
        options = [p for p in known if p.param_type_name == "option"]
        usage = " ".join(["mdsens", name, *map(_metavar, arguments), "[OPTIONS]" if options else ""])
        section += nodes.literal_block(usage.strip(), usage.strip(), language="text")
        section += self._parsed(inspect.cleandoc(command.help or ""))
        rows = [(_metavar(p), with_names(p.help or ""), p) for p in arguments]
        rows += [(", ".join(p.opts), with_names(p.help or ""), p) for p in options]
        if rows:
            section += self._table(rows)
        return section

    def _parsed(self, text: str) -> list[nodes.Node]:
        holder = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), ""), 0, holder)
        return holder.children

    def _table(self, rows: list[tuple[str, str, Any]]) -> nodes.table:
        table, group, body = nodes.table(), nodes.tgroup(cols=3), nodes.tbody()
        group += [nodes.colspec(colwidth=width) for width in (30, 50, 20)]
        head = nodes.row()
        head += [nodes.entry("", nodes.paragraph("", word)) for word in ("", "", "default")]
        for names, help_, parameter in rows:
            row = nodes.row()
            row += nodes.entry("", nodes.paragraph("", "", nodes.literal("", names)))
            row += nodes.entry("", nodes.paragraph("", help_ + _choices(parameter)))
            row += nodes.entry("", nodes.paragraph("", _default(parameter)))
            body += row
        table += group
        group += [nodes.thead("", head), body]
        return table


def _metavar(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _choices(parameter: Any) -> str:
    offered = type(parameter.default) if isinstance(parameter.default, enum.Enum) else ()
    return f" One of {', '.join(each.value for each in offered)}." if offered else ""


def _default(parameter: Any) -> str:
    default = parameter.default
    if parameter.required:
        return "required"
    if default is None or default is False or callable(default):
        return ""
    return str(getattr(default, "value", default))


def setup(sphinx: Sphinx) -> dict[str, Any]:
    sphinx.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
