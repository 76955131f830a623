"""Directives that write the command line and the codes of messages from the program itself.

``.. episome-commands::`` becomes a section per command with its usage, arguments and options, and
``.. episome-codes::`` a section per family of codes. Both follow the code without a change here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import click
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: Columns that a line of an option may have.
_WIDTH = 100


class Commands(SphinxDirective):
    """Write every command."""

    option_spec: ClassVar[dict[str, object]] = {}

    def run(self) -> list[nodes.Node]:
        """Make a section of each command."""
        from episome.cli._app import app

        found: list[nodes.Node] = []
        for name, command in _walk(app, "episome"):
            section = nodes.section(ids=[nodes.make_id(name)], names=[name.casefold()])
            section += nodes.title(text=name)
            self.state.document.note_explicit_target(section)
            lines = [*_described(command), "", *_usage(command, name), *_options(command)]
            self.state.nested_parse(StringList(lines, source=name), 0, section)
            found.append(section)
        return found


class Codes(SphinxDirective):
    """Write every code of messages."""

    option_spec: ClassVar[dict[str, object]] = {}

    def run(self) -> list[nodes.Node]:
        """Make a section of each family."""
        from episome.cli._codes import CODES, FAMILIES

        found: list[nodes.Node] = []
        for letter, (about, exit_code) in sorted(FAMILIES.items()):
            codes = {c: t for c, t in sorted(CODES.items()) if c.startswith(f"E-{letter}")}
            title = f"E-{letter}: {about}"
            section = nodes.section(ids=[nodes.make_id(title)], names=[title.casefold()])
            section += nodes.title(text=title)
            lines = [f"Exit code {exit_code}.", ""]
            for code, text in codes.items():
                lines += [code, f"    {_quiet(text)}", ""]
            self.state.nested_parse(StringList(lines, source=title), 0, section)
            found.append(section)
        return found


def _walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Return every command that does something, in the order of names."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command, info_name=name)
    if command.invoke_without_command:
        yield name, command
    for own in command.list_commands(context):
        below = command.get_command(context, own)
        if below is not None and not below.hidden:
            yield from _walk(below, f"{name} {own}")


def _described(command: click.Command) -> list[str]:
    text = (command.help or command.short_help or "").split("\f")[0]
    return _quiet(inspect.cleandoc(text.replace("\b", ""))).splitlines()


def _usage(command: click.Command, name: str) -> list[str]:
    context = click.Context(command, info_name=name)
    words = " ".join(command.collect_usage_pieces(context))
    lines = [".. code-block:: text", "", f"   {name} {words}"]
    epilog = (command.epilog or "").replace("\b", "")
    examples = [line.strip() for line in epilog.splitlines() if line.strip().startswith("$ ")]
    if examples:
        lines += ["", ".. code-block:: console", "", *(f"   {line}" for line in examples)]
    return [*lines, ""]


def _options(command: click.Command) -> list[str]:
    context = click.Context(command, terminal_width=_WIDTH)
    rows = [r for p in command.params if (r := p.get_help_record(context)) is not None]
    lines: list[str] = []
    # The usage says which arguments there are; the description says what they are.
    for words, text in rows:
        if text:
            lines += [f"``{words}``", f"    {_quiet(text)}", ""]
    return lines


def _quiet(text: str) -> str:
    """Take away what reStructuredText would read as a sign of its own."""
    text = re.sub(r"`([^`]+)`", r"``\1``", text)
    parts = re.split(r"(``[^`]+``)", text)
    return "".join(p if p.startswith("``") else re.sub(r"([*_|\\])", r"\\\1", p) for p in parts)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("episome-commands", Commands)
    app.add_directive("episome-codes", Codes)
    return {"version": "1", "parallel_read_safe": True}
