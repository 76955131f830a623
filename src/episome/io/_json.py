"""Registries as JSON: plain data and numpy arrays, exactly, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from episome.errors import ModelFileError

_ARRAY_KINDS = {"O", "U", "i", "b", "f", "u"}


def encode(value: object) -> object:
    """Return ``value`` as JSON data; arrays become ``{"$nd": dtype, "shape": ..., "v": ...}``.

    Raises
    ------
    TypeError
        The value is neither plain data nor an array of text, numbers or booleans.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _encode_array(value)
    if isinstance(value, Mapping):
        if bad := [k for k in value if not isinstance(k, str)]:
            msg = f"keys must be text to be saved, not {bad[:3]}"
            raise TypeError(msg)
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    msg = f"a {type(value).__name__} cannot be saved as plain data: {value!r:.80}"
    raise TypeError(msg)


def _encode_array(array: np.ndarray) -> dict[str, object]:
    if array.dtype.kind not in _ARRAY_KINDS:
        msg = f"an array of {array.dtype} cannot be saved as plain data"
        raise TypeError(msg)
    values = array.ravel().tolist()
    if array.dtype.kind == "O" and not all(isinstance(v, str) for v in values):
        msg = "an object array must hold only text to be saved as plain data"
        raise TypeError(msg)
    dtype = "str" if array.dtype.kind in "OU" else array.dtype.str
    return {"$nd": dtype, "shape": list(array.shape), "v": values}


def decode(value: object) -> Any:
    """Reverse :func:`encode`; text arrays come back with dtype object, as in scvi-tools."""
    if isinstance(value, dict):
        if "$nd" in value:
            dtype = object if value["$nd"] == "str" else np.dtype(value["$nd"])
            return np.array(value["v"], dtype=dtype).reshape(value["shape"])
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return [decode(v) for v in value]
    return value


def dumps(value: object) -> bytes:
    """Serialise plain data; the same data give the same bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def loads(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    ModelFileError
        The text is no JSON object (E-M04).
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            "E-M04",
            "the file is no JSON",
            where=where,
            why=str(error),
            fix="copy the folder again",
        ) from error
    if not isinstance(value, dict):
        raise ModelFileError("E-M04", "the file is no JSON object", where=where)
    return value
