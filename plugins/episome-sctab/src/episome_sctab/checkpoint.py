"""PyTorch checkpoints, read for tensors and plain settings; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from episome.models import ReferenceWeights, WeightsFile

if TYPE_CHECKING:
    import torch

PREFIX = "classifier."
#: Tensors of the authors' training module beside those of the network.
BUFFERS = frozenset({"class_weights", "child_lookup", "augmentations"})


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
    found = file.content()
    return Checkpoint(
        file.path.name,
        state=network_state(found.tensors),
        settings=found.settings,
        facts=found.facts,
    )


def network_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the network without their prefix; those of training are left out."""
    inner = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    return inner or {k: v for k, v in tensors.items() if k not in BUFFERS}
