"""The page's own refusals, and the status of HTTP that an error has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from episome.errors import EpisomeError, InputFileError, ResourceError, UsageError

__all__ = ["busy", "forbidden", "not_found", "status_of", "told", "wrong_form"]

#: Codes of the page -> status; any other refusal is the visitor's input.
_STATUS = {
    "E-W01": 413,
    "E-W02": 503,
    "E-W03": 503,
    "E-W04": 404,
    "E-W05": 403,
    "E-W06": 403,
    "E-W07": 409,
    "E-W08": 408,
    "E-W15": 415,
}
#: Seconds after which a full page may be asked again.
RETRY = 60


def status_of(code: str) -> int:
    """Return the status of HTTP for the code of an error."""
    return _STATUS.get(code, 400)


def not_found() -> EpisomeError:
    """Return the answer to an address that there is not, or that is another user's."""
    return UsageError(
        "E-W04",
        "there is nothing at this address",
        why="it was deleted, or never was, or belongs to somebody else",
        fix="go back to the start page, which lists what is yours",
    )


def forbidden() -> EpisomeError:
    """Return the answer to a visitor who did not come by the printed address."""
    return UsageError(
        "E-W05",
        "this browser has not been let in",
        why="the page belongs to whoever started it",
        fix="open the whole address that `episome serve` printed, with its token",
    )


def foreign(*, what: str) -> EpisomeError:
    """Return the answer to a request that another site may have sent."""
    return UsageError(
        "E-W06",
        f"the request was refused: {what}",
        why="another site could have sent it",
        fix="reload the page and try again; name other hosts with --allow-host",
    )


def busy(limit: int) -> EpisomeError:
    """Return the answer where too many jobs wait."""
    return ResourceError(
        "E-W02",
        "the queue is full",
        count=limit,
        total=limit,
        fix="try again when jobs have ended, in a minute or more",
    )


def disk_low() -> EpisomeError:
    """Return the answer where the disk has too little room."""
    return ResourceError(
        "E-W03",
        "the disk of the page is nearly full",
        why="a job that runs out of disk would lose its result",
        fix="delete files and results that you no longer need, or ask who runs the page",
    )


def too_large(limit: int) -> EpisomeError:
    """Return the answer to an upload over the limit."""
    return InputFileError(
        "E-W01",
        f"the file is larger than {limit / (1 << 30):,.4g} GiB",
        why="that is the limit of uploads here",
        fix="name the file by its path where the page runs on your machine, or run "
        "`episome annotate` on it",
    )


def wrong_form(*, what: str, fix: str) -> EpisomeError:
    """Return the answer to a form that says too little or what cannot be."""
    return UsageError("E-W14", what, fix=fix)


def told(value: Any, names: Mapping[str, str]) -> Any:
    """Return text, or all texts of plain data, with paths of the server replaced by names.

    Parameters
    ----------
    value
        Text or plain data.
    names
        Path -> what the user knows it by.
    """
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):
            value = value.replace(path, names[path])
        return re.sub(r"(?<![\w./:])/[\w.~-]+(?:/[\w.~ -]*)+", _last, value)
    if isinstance(value, Mapping):
        return {k: told(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [told(v, names) for v in value]
    return value


def _last(found: re.Match[str]) -> str:
    """Return the last part of a path."""
    return found[0].rstrip("/").rpartition("/")[2]
