"""Checkpoints of the published code, read for tensors, names and plain settings.

Files of plain content are read here. Others are read, where the caller trusts them, in a process
of its own (:mod:`episome_sims.unpack`) that knows a short list of names and refuses all others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from episome.models import ReferenceWeights, WeightsFile
from episome_sims.unpack import NAMES, REFUSED, plain_content, refused_names

if TYPE_CHECKING:
    import torch

#: Seconds after which a file that is still being read is given up.
TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class Checkpoint(ReferenceWeights):
    """What a file of the published implementation holds.

    Parameters
    ----------
    file, state, settings, facts
        As for every file of weights.
    genes, labels
        Names of inputs and outputs where the file has them.
    """

    genes: list[str] | None = None
    labels: list[str] | None = None

    network: ClassVar[str] = "a published SIMS"


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
    file = WeightsFile.at(path)
    if file.is_safetensors:
        tensors, found = file.safetensors(), {}
    else:
        tensors, found = _read_torch(file, trust=trust)
    if not tensors:
        why = "it holds no tensors by name"
        raise file.unreadable(why)
    return Checkpoint(
        file.path.name,
        tensors,
        settings=found.get("settings", {}),
        facts=file.facts(found.get("facts", {})),
        genes=found.get("genes"),
        labels=found.get("labels"),
    )


def _read_torch(
    file: WeightsFile, *, trust: bool
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    try:
        names = refused_names(file.path)
        if not names:
            return plain_content(file.path)
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything
        raise file.unreadable(error) from None
    if foreign := sorted(set(names) - NAMES):
        raise file.untrusted(foreign)
    if trust:
        return _read_elsewhere(file)
    raise file.untrusted(
        names,
        fix="where you know who wrote it, trust=True (--trust) reads label encoders, arrays and "
        "optimisers as inert stand-ins in a process of its own",
    )


def _read_elsewhere(file: WeightsFile) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Read a file in a process of its own, which leaves tensors and plain data."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "episome_sims.unpack", str(file.path.resolve()), folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            why = f"it was not read after {TIMEOUT} seconds"
            raise file.unreadable(why) from error
        if done.returncode == REFUSED:
            raise file.untrusted(done.stderr.split() or ["something that is no plain data"])
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise file.unreadable(lines[-1] if lines else f"exit code {done.returncode}")
        found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "tensors.safetensors")
    return tensors, found
