"""The command, and the Python code, that give the same again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

#: Fields that change nothing in a result, and those that are told first.
_NO_DIFFERENCE = frozenset(
    ("overwrite", "overwrite_columns", "max_memory", "trust", "device", "batch_size", "report")
    + ("report_names",)
)
_FIRST = ("input", "model", "output")
_PATHS = frozenset({*_FIRST, "gene_map", "split"})
#: Fields whose option is called otherwise.
_OPTIONS = {"scores": "score", "error_rates": "error-rate", "n_draws": "draws"}


def repeated(verb: str, request: Any, names: Mapping[str, str]) -> dict[str, str]:
    """Return what repeats a request in the folder of its files: ``command`` and ``python``.

    Parameters
    ----------
    verb
        Name of the command, and of the function.
    request
        Of ``annotate`` or ``evaluate``; folders of paths are not told.
    names
        Names of ``input``, ``model`` and ``output`` as the reader knows them.
    """
    words, given = (
        ["episome", verb, names["input"], "-m", names["model"]],
        {"output": None, **names},
    )
    for field in fields(request):
        name, value = field.name, getattr(request, field.name)
        if name in _FIRST or name in _NO_DIFFERENCE or value == _default(field):
            continue
        shown = value.name if isinstance(value, Path) else value
        given[name] = shown
        words += _words(name, shown)
    if names.get("output"):
        words += ["-o", names["output"]]
    return {
        "command": shlex.join(words),
        "python": request_code(verb, type(request).__name__, given),
    }


def request_code(verb: str, request: str, given: Mapping[str, Any]) -> str:
    """Return code that calls a verb.

    Parameters
    ----------
    verb, request
        Names of the function and of the class of its request.
    given
        Fields of the request; paths as texts. What is ``None`` is left out, but for an output.
    """
    lines = []
    for name, value in given.items():
        if value is None and name == "output":
            lines.append("        output=None,\n")
        elif value is not None:
            shown = f"Path({value!r})" if name in _PATHS else repr(value)
            lines.append(f"        {name}={shown},\n")
    return (
        f"from pathlib import Path\n\nfrom episome.jobs import {request}, {verb}\n\n"
        f"result = {verb}(\n    {request}(\n{''.join(lines)}    )\n)\n"
    )


def _default(field: Any) -> Any:
    return None if field.default is MISSING else field.default


def _words(name: str, value: Any) -> list[str]:
    if name == "use_raw":
        return ["--auto-raw" if value == "auto" else "--use-raw"]
    option = f"--{_OPTIONS.get(name, name.replace('_', '-'))}"
    if value is True:
        return [option]
    many = value if isinstance(value, tuple) else (value,)
    return [word for one in many for word in (option, str(one))]
