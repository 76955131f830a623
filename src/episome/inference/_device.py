"""Where to run."""

from __future__ import annotations

import torch

from episome.errors import ResourceError, UsageError


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device of a name: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` takes CUDA when there is one.

    Raises
    ------
    UsageError
        There is no such name (E-U25).
    ResourceError
        The machine has no such device (E-R04).
    """
    if isinstance(device, torch.device):
        return device
    kind, _, number = device.partition(":")
    if kind not in {"auto", "cpu", "gpu", "cuda", "mps"} or (number and not number.isdigit()):
        raise UsageError("E-U25", f"device {device!r}", fix="use auto, cpu, cuda, cuda:0 or mps")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = "cuda" if kind == "gpu" else kind
    n_there = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(
        kind, int(torch.backends.mps.is_available())
    )
    if int(number or 0) >= n_there:
        raise ResourceError(
            "E-R04",
            f"device {device!r} is not there",
            why=f"the machine has {n_there} of that kind",
            fix="auto takes what is there",
        )
    return torch.device(f"{kind}:{number}" if number else kind)
