"""State of a training run as JSON and tensors: exact, and nothing that runs when it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

#: Keys that mark what JSON has no word for.
_TENSOR, _ARRAY, _FLOAT, _TUPLE, _MAP = "$tensor", "$array", "$float", "$tuple", "$map"


def pack(value: object) -> tuple[bytes, dict[str, torch.Tensor]]:
    """Return nested plain data, tensors and arrays as JSON and named tensors on the host.

    Parameters
    ----------
    value
        Mappings, lists, tuples, text, numbers, ``None``, tensors and numpy arrays.

    Raises
    ------
    TypeError
        Something else is in it.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain = _packed(value, tensors, "state")
    return json.dumps(plain, allow_nan=False).encode(), tensors


def unpack(text: bytes, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Reverse :func:`pack`."""
    return _unpacked(json.loads(text), tensors)


def _packed(value: object, tensors: dict[str, torch.Tensor], where: str) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return _packed(value.item(), tensors, where)
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, torch.Tensor | np.ndarray):
        name = str(len(tensors))
        held = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        # Tensors that share memory are no file of tensors.
        tensors[name] = held.detach().cpu().clone().contiguous()
        return {_ARRAY if isinstance(value, np.ndarray) else _TENSOR: name}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _packed(v, tensors, f"{where}[{k!r}]") for k, v in value.items()}
        pairs = value.items()
        return {
            _MAP: [[_packed(p, tensors, f"{where}[{pair[0]!r}]") for p in pair] for pair in pairs]
        }
    if isinstance(value, list | tuple):
        items = [_packed(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    msg = f"{where} is a {type(value).__name__}, which is no plain data"
    raise TypeError(msg)


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((mark, held),) = value.items()
        if mark == _FLOAT:
            return float(held)
        if mark == _TENSOR:
            return tensors[held]
        if mark == _ARRAY:
            return tensors[held].numpy()
        if mark == _TUPLE:
            return tuple(_unpacked(v, tensors) for v in held)
        if mark == _MAP:
            return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in held}
    return {k: _unpacked(v, tensors) for k, v in value.items()}
