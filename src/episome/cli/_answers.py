"""The schemas of what commands answer with ``--json``: they come with the package."""

from __future__ import annotations

import copy
import json
from functools import cache
from importlib import resources
from typing import Any

#: Keys of answers that are of another kind: plans, settings, and other forms of an output.
OTHERS = ("dry_run", "config", "form")

__all__ = ["answer_schema", "answered_commands"]


@cache
def _published() -> dict[str, Any]:
    text = resources.files("episome.cli").joinpath("answers.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def answered_commands() -> list[str]:
    """Return the commands whose answers have keys of their own."""
    return sorted(_published()["commands"])


def answer_schema(command: str) -> dict[str, Any]:
    """Return the JSON schema of the answer of a command.

    A failure, a plan (``--dry-run``), settings (``--print-config``) and an export have the common
    keys alone.

    Parameters
    ----------
    command
        Its name, such as ``"models show"``; of others the schema of every answer.
    """
    schema: dict[str, Any] = copy.deepcopy(_published()["answer"])
    own = _published()["commands"].get(command)
    if own is not None:
        schema["properties"] |= own["properties"]
        other = {"anyOf": [{"required": [key]} for key in OTHERS]}
        schema["if"] = {"properties": {"ok": {"const": True}}, "not": other}
        schema["then"] = {"required": own["required"]}
    return schema
