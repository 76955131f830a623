"""PyTorch checkpoints, read for tensors and plain settings; nothing in them is executed."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from episome.errors import InputFileError, ModelFileError, UntrustedModelError

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
_NUMBERS = re.compile(r"[biuf][1248]")
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file of the reference implementation holds.

    Parameters
    ----------
    file
        Its name.
    state
        Tensors of the network by the reference's names.
    settings
        The ``hyper_parameters`` of a Lightning file; empty for bare weights.
    facts
        What else is known of the training.
    """

    file: str
    state: Mapping[str, torch.Tensor]
    settings: Mapping[str, object]
    facts: Mapping[str, object]


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
    path = Path(path)
    if not path.is_file():
        what = "the path is a folder" if path.is_dir() else "there is no such file"
        raise InputFileError("E-F07", what, where=str(path), fix="pass the file of weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors or not all(isinstance(k, str) for k in tensors):
        raise _unreadable(path, "it holds no tensors by name")
    lightning = content if "state_dict" in content else {}
    settings = lightning.get("hyper_parameters")
    facts = {k: lightning.get(k) for k in ("epoch", "global_step")}
    return Checkpoint(
        path.name,
        state=network_state(tensors),
        settings=settings if isinstance(settings, Mapping) else {},
        facts={
            "file": path.name,
            "sha256": sha256(path),
            **{k: v for k, v in facts.items() if isinstance(v, int)},
        },
    )


def network_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the network without their prefix; those of training are left out."""
    inner = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    return inner or {k: v for k, v in tensors.items() if k not in BUFFERS}


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def _read_torch(path: Path) -> Mapping[str, object]:
    known = getattr(torch.serialization, "safe_globals", None)  # torch 2.5 and later
    names: list[str] = []
    with known(_stand_ins()) if known else contextlib.nullcontext():
        try:
            names = _unsafe_globals(path)
            if not names:
                return torch.load(path, map_location="cpu", weights_only=True)
            why = ""
        except pickle.UnpicklingError as error:
            # torch's own text advises to load the file without protection: it is not shown.
            names, why = _REFUSED.findall(str(error)), "its content is no plain data"
        except Exception as error:  # noqa: BLE001 - a damaged file raises anything
            why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    if not names:
        raise _unreadable(path, why)
    raise UntrustedModelError(
        "E-M30",
        "the file names code that loading it would run",
        where=str(path),
        count=len(names),
        examples=sorted(names),
        why="nothing of it was run",
        fix="where you trust it, load it with the program that wrote it, save "
        "torch.save(module.state_dict(), 'weights.pt') there and import weights.pt",
    )


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
    classes: list[object] = []
    for full in names:
        module, _, name = full.rpartition(".")
        classes.append(type(name, (), {"__module__": module}))
    dtype = type("dtype", (_NumberType,), {"__module__": "numpy"})
    return [*classes, dtype, *(_scalar_of(m) for m in ("numpy.core", "numpy._core"))]


class _NumberType:
    """What a file says about the type of a number."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar_of(package: str) -> object:
    def scalar(kind: _NumberType, data: bytes) -> np.generic:
        if not isinstance(kind, _NumberType) or not _NUMBERS.fullmatch(kind.code):
            msg = "an array element that is no number"
            raise pickle.UnpicklingError(msg)
        return np.frombuffer(data, kind.order + kind.code)[0]

    # torch knows what it allows by these names, in some versions by the one, in others the other.
    scalar.__module__, scalar.__qualname__ = f"{package}.multiarray", "scalar"
    return scalar


def _unreadable(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "E-M31",
        "the file cannot be read as weights",
        where=str(path),
        why=why[:200],
        fix="pass a Lightning checkpoint, a state dict that torch.save wrote, or .safetensors",
    )
