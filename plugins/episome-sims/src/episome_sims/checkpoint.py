"""Checkpoints of the published code, read for tensors, names and plain settings.

Files of plain content are read here. Others are read, where the caller trusts them, in a process
of its own (:mod:`episome_sims.unpack`) that knows a short list of names and refuses all others.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from episome.errors import InputFileError, ModelFileError, UntrustedModelError
from episome_sims.unpack import NAMES, REFUSED, plain_content, refused_names

if TYPE_CHECKING:
    import torch

#: Seconds after which a file that is still being read is given up.
TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file of the published implementation holds.

    Parameters
    ----------
    file
        Its name.
    state
        All its tensors by name.
    settings
        Plain settings of the network.
    genes, labels
        Names of inputs and outputs where the file has them.
    facts
        What else is known of the training.
    """

    file: str
    state: Mapping[str, torch.Tensor]
    settings: Mapping[str, object] = field(default_factory=dict)
    genes: list[str] | None = None
    labels: list[str] | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a Lightning checkpoint, a state dict or ``.safetensors``.

    Parameters
    ----------
    path
        The file.
    trust
        Read files that name a label encoder, arrays or optimisers too, in a process of its own.

    Raises
    ------
    InputFileError
        There is no such file (E-F07).
    UntrustedModelError
        The file names code (E-M30).
    ModelFileError
        It cannot be read, or holds no tensors (E-M31).
    """
    path = Path(path)
    if not path.is_file():
        what = "the path is a folder" if path.is_dir() else "there is no such file"
        raise InputFileError("E-F07", what, where=str(path), fix="pass the file of weights")
    if path.suffix == ".safetensors":
        tensors, found = _read_safetensors(path), {}
    else:
        tensors, found = _read_torch(path, trust=trust)
    if not tensors:
        raise _unreadable(path, "it holds no tensors by name")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return Checkpoint(
        path.name,
        tensors,
        settings=found.get("settings", {}),
        genes=found.get("genes"),
        labels=found.get("labels"),
        facts={"file": path.name, "sha256": digest, **found.get("facts", {})},
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def _read_torch(path: Path, *, trust: bool) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    try:
        names = refused_names(path)
        if not names:
            return plain_content(path)
        why = ""
    except pickle.UnpicklingError:
        # torch's own text advises to load the file without protection: it is not shown.
        names, why = [], "its content is no plain data"
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything
        names, why = [], ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    if not names:
        raise _unreadable(path, why)
    foreign = sorted(set(names) - NAMES)
    if trust and not foreign:
        return _read_elsewhere(path)
    raise _untrusted(path, foreign, names)


def _read_elsewhere(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Read a file in a process of its own, which leaves tensors and plain data."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "episome_sims.unpack", str(path.resolve()), folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise _unreadable(path, f"it was not read after {TIMEOUT} seconds") from error
        if done.returncode == REFUSED:
            raise _untrusted(path, done.stderr.split() or ["something that is no plain data"])
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise _unreadable(path, lines[-1] if lines else f"exit code {done.returncode}")
        found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "tensors.safetensors")
    return tensors, found


def _untrusted(path: Path, foreign: list[str], names: Sequence[str] = ()) -> UntrustedModelError:
    """Say which names are refused: those that nothing reads, else those that trust would read."""
    return UntrustedModelError(
        "E-M30",
        "the file names code that loading it would run",
        where=str(path),
        count=len(foreign or names),
        examples=foreign or sorted(names),
        why="nothing of it was run",
        fix="where you trust it, load it with the program that wrote it, save "
        "torch.save(module.state_dict(), 'weights.pt') there and import weights.pt"
        if foreign
        else "where you know who wrote it, trust=True (--trust) reads label encoders, arrays and "
        "optimisers as inert stand-ins in a process of its own",
    )


def _unreadable(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "E-M31",
        "the file cannot be read as weights",
        where=str(path),
        why=why[:200],
        fix="pass a Lightning checkpoint, a state dict that torch.save wrote, or .safetensors",
    )
