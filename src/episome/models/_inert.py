"""Inert things under the names that honest files of weights hold beside tensors.

torch's restricted reader builds nothing but what it is told. A reader of a foreign format tells it
these: nothing of the packages that they are named after is imported or run.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"[biuf][1248]")


def inert_classes(names: Iterable[str]) -> list[type]:
    """Return an empty class under every name.

    Parameters
    ----------
    names
        In full, as ``torch.optim.adamw.AdamW``.
    """
    split = [name.rpartition(".") for name in names]
    return [type(name, (), {"__module__": module}) for module, _, name in split]


class _NumberType:
    """What a file says about the type of a number."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def inert_dtype() -> type:
    """Return a class under the name ``numpy.dtype``.

    Its objects say the ``code`` of a type, as ``"f8"``, and the ``order`` of the bytes, ``"<"`` or
    ``">"``.
    """
    return type("dtype", (_NumberType,), {"__module__": "numpy"})


def number_from_bytes(kind: object, data: bytes) -> np.generic[Any]:
    """Return the number of numpy that a file holds as bytes.

    Parameters
    ----------
    kind
        An object of a class of :func:`inert_dtype`.
    data
        The bytes.

    Raises
    ------
    pickle.UnpicklingError
        It is no type of a number.
    """
    if not isinstance(kind, _NumberType) or not _NUMBERS.fullmatch(kind.code):
        msg = "an array element that is no number"
        raise pickle.UnpicklingError(msg)
    number: np.generic[Any] = np.frombuffer(data, kind.order + kind.code)[0]
    return number
