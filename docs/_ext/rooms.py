"""A directive that documents what a package exports in ``__all__``.

``.. episome-room:: episome.plugins`` becomes a table of the public names and an entry for each, so
a new public name is documented without a change here.
"""

from __future__ import annotations

import importlib
import inspect
import types
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class Room(SphinxDirective):
    """Document the public names of a package."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, object]] = {}

    def run(self) -> list[nodes.Node]:
        """Write the table and the entries."""
        name = self.arguments[0]
        module = importlib.import_module(name)
        public = [n for n in getattr(module, "__all__", ()) if not n.startswith("__")]
        members = {n: getattr(module, n) for n in public}
        lines = [f".. module:: {name}", ""]
        shown = {n: o for n, o in members.items() if not isinstance(o, types.ModuleType)}
        if shown:
            lines += [".. autosummary::", "   :nosignatures:", ""]
            lines += [f"   {n}" for n, o in shown.items() if _has_entry(o)]
            lines.append("")
        for n, o in shown.items():
            lines += _entry(name, n, o)
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source=name), self.content_offset, container)
        return container.children


def _has_entry(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _entry(module: str, name: str, value: object) -> list[str]:
    if inspect.isclass(value):
        return [f".. autoclass:: {module}.{name}", "   :members:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {module}.{name}", ""]
    said = [f"   {line}" for line in _comment(module, name)]
    return [f".. py:data:: {name}", f"   :module: {module}", "", *said, ""]


def _comment(module: str, name: str) -> list[str]:
    """Return the comment ``#:`` above a value where it is defined; autodata asks its type."""
    home = getattr(importlib.import_module(module), "_HOME", {}).get(name)
    place = module if home is None else f"{module}.{home}"
    return ModuleAnalyzer.for_module(place).find_attr_docs().get(("", name), [])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("episome-room", Room)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
