"""PyTorch checkpoints, read for tensors and plain settings; nothing in them is executed."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from episome.models import (
    ReferenceWeights,
    WeightsFile,
    inert_classes,
    inert_dtype,
    number_from_bytes,
)

if TYPE_CHECKING:
    import numpy as np

PREFIX = "classifier."
#: Tensors of the authors' training module beside those of the network.
BUFFERS = frozenset({"class_weights", "child_lookup", "augmentations"})
_OPTIMISERS = (
    "adadelta.Adadelta",
    "adagrad.Adagrad",
    "adam.Adam",
    "adamax.Adamax",
    "adamw.AdamW",
    "nadam.NAdam",
    "radam.RAdam",
    "rmsprop.RMSprop",
    "sgd.SGD",
)
_SCHEDULERS = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "StepLR",
)
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True, slots=True)
class Checkpoint(ReferenceWeights):
    """What a file of the reference implementation holds."""

    network: ClassVar[str] = "a reference scTab"
    writer: ClassVar[str] = "the published training script"


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a Lightning checkpoint, a state dict (``.pt``) or ``.safetensors``.

    Raises
    ------
    InputFileError
        There is no such file (E-F07).
    UntrustedModelError
        The file names functions or classes other than optimisers and schedules of torch and
        numbers of numpy (E-M30).
    ModelFileError
        It cannot be read, or holds no tensors (E-M31).
    """
    file = WeightsFile.at(path)
    content = file.safetensors() if file.is_safetensors else _read_torch(file)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors or not all(isinstance(k, str) for k in tensors):
        why = "it holds no tensors by name"
        raise file.unreadable(why)
    lightning = content if "state_dict" in content else {}
    settings = lightning.get("hyper_parameters")
    return Checkpoint(
        file.path.name,
        state=network_state(tensors),
        settings=settings if isinstance(settings, Mapping) else {},
        facts=file.facts(lightning),
    )


def network_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the network without their prefix; those of training are left out."""
    inner = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    return inner or {k: v for k, v in tensors.items() if k not in BUFFERS}


def _read_torch(file: WeightsFile) -> Mapping[str, object]:
    known = getattr(torch.serialization, "safe_globals", None)  # torch 2.5 and later
    with known(_stand_ins()) if known else contextlib.nullcontext():
        try:
            names = _unsafe_globals(file.path)
            if not names:
                return torch.load(file.path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - a damaged file raises anything
            refused = isinstance(error, pickle.UnpicklingError)
            names = _REFUSED.findall(str(error)) if refused else []
            if not names:
                raise file.unreadable(error) from None
    raise file.untrusted(names)


def _unsafe_globals(path: Path) -> list[str]:
    """Names that torch would refuse; an empty list where this torch cannot tell beforehand."""
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is None:
        return []
    try:
        return list(find(path))
    except ValueError:  # the format from before torch 1.6
        return []


def _stand_ins() -> list[object]:
    """Return inert things under the names that honest checkpoints hold beside tensors.

    Classes of optimisers and schedules are settings there, never used: empty classes stand in for
    them. Numbers of numpy are rebuilt from their bytes.
    """
    names = [f"torch.optim.{name}" for name in _OPTIMISERS]
    names += [f"torch.optim.lr_scheduler.{name}" for name in _SCHEDULERS]
    scalars = (_scalar_of(package) for package in ("numpy.core", "numpy._core"))
    return [*inert_classes(names), inert_dtype(), *scalars]


def _scalar_of(package: str) -> object:
    def scalar(kind: object, data: bytes) -> np.generic:
        return number_from_bytes(kind, data)

    # torch knows what it allows by these names, in some versions by the one, in others the other.
    scalar.__module__, scalar.__qualname__ = f"{package}.multiarray", "scalar"
    return scalar
