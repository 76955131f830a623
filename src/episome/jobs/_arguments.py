"""Arguments of a request are looked at before any cell is read."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import NoneType
from typing import TYPE_CHECKING

import numpy as np

from episome.errors import UsageError, did_you_mean, with_option

if TYPE_CHECKING:
    from episome.models import EpisomeModel

#: Annotations that are looked at, what fits them, and in words.
_KINDS = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool | np.bool_, "true or false"),
    "None": (NoneType, "null"),
}


def known_arguments(
    function: Callable[..., object],
    given: Mapping[str, object],
    where: str,
    *,
    exactly: bool = False,
    option: str | None = None,
    of: type | None = None,
) -> dict[str, object]:
    """Return the arguments that were given; refuse those that ``function`` does not take.

    With ``exactly`` its ``**kwargs`` do not count: those of a set-up are scvi-tools' own.
    ``option`` gives on the command line what has no option of its own; ``of`` is the class of a
    method that hands arguments on to that of its bases.

    Raises
    ------
    UsageError
        E-U24, naming what it takes; no number where it takes one (E-U26).
    """
    parameters = _parameters_of(function, of)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [
        p.name
        for p in parameters.values()
        if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}
        and p.name not in {"self", "cls", "adata", "registry"}
    ]
    unknown = [k for k in given if k not in names]
    if unknown and (exactly or not takes_any):
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(_said(k, option) for k in unknown)}",
            where=where,
            why=f"it takes {', '.join(names)}" if names else "it takes none",
            fix=did_you_mean(unknown[0], names) or "leave them out, or use one of these",
        )
    for name, value in given.items():
        if name in parameters:
            _require_kind(name, value, parameters[name].annotation, where)
    return dict(given)


def _require_kind(name: str, value: object, annotation: object, where: str) -> None:
    """Refuse what is no number, true or false where one is wanted: --set takes anything."""
    kinds = annotation.split(" | ") if isinstance(annotation, str) else []
    if not kinds or not _KINDS.keys() >= {*kinds}:
        return
    # True is a whole number to Python.
    asked = ["bool"] if isinstance(value, bool | np.bool_) else [*_KINDS]
    if any(k in asked and isinstance(value, _KINDS[k][0]) for k in kinds):
        return
    raise UsageError(
        "E-U26",
        f"{with_option(name)} is {value!r}",
        where=where,
        why=f"it is {' or '.join(_KINDS[k][1] for k in kinds if k != 'None')}",
        fix="correct it, or leave it out",
    )


def _said(argument: str, option: str | None) -> str:
    """Name an argument with its own option, or with the one that takes all."""
    said = with_option(argument)
    return said if said != argument or option is None else f"{argument} ({option})"


def require_preset(cls: type[EpisomeModel], model_args: Mapping[str, object]) -> None:
    """Refuse a preset that the model does not name in its signature, before cells are read."""
    wanted = model_args.get("preset")
    parameter = inspect.signature(cls.__init__).parameters.get("preset")
    words = _words(getattr(parameter, "annotation", None))
    if wanted is None or not words or wanted in words:
        return
    listed = ", ".join(f'"{w}"' for w in words)
    raise UsageError(
        "E-U23",
        f"preset={wanted!r} (--preset)",
        where=cls.__name__,
        why=f"its presets are {listed}",
        fix=did_you_mean(str(wanted), words) or "use one of them",
    )


def _words(annotation: object) -> list[object]:
    """Return the values of an annotation ``Literal[...]`` that is kept as text."""
    if not isinstance(annotation, str) or not annotation.startswith("Literal["):
        return []
    try:
        found = ast.literal_eval(f"[{annotation.removeprefix('Literal[').removesuffix(']')}]")
    except (SyntaxError, ValueError):
        return []
    return list(found)


def _parameters_of(
    function: Callable[..., object], of: type | None
) -> dict[str, inspect.Parameter]:
    """Parameters of a function; of a method that hands some on, those of the host's too."""
    found = dict(inspect.signature(function).parameters)
    cls = getattr(function, "__self__", of)
    for base in getattr(cls, "__mro__", ()):
        if base.__module__.partition(".")[0] == "scvi":
            break
        handed_on = base.__dict__.get(function.__name__)
        if isinstance(handed_on, classmethod):
            handed_on = handed_on.__func__
        if handed_on is not None:
            found = dict(inspect.signature(handed_on).parameters) | found
    return found
