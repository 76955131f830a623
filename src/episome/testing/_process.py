"""What of a process a model might change, and must not."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch


def process_state() -> dict[str, object]:
    """Return what nothing changes in the course of a test run, by what it is called."""
    root = logging.getLogger()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    found: dict[str, object] = {
        "torch's default type": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "numpy's errors": np.geterr(),
        "the level of the root logger": root.level,
        "the working folder": str(Path.cwd()),
        "environment variables": kept,
        "the excepthook": sys.excepthook,
    }
    matplotlib: Any = sys.modules.get("matplotlib")
    if matplotlib is not None:
        found["matplotlib's backend"] = matplotlib.rcParams._get_backend_or_none()
    return found


def momentary_state() -> dict[str, object]:
    """Return what others may change, but not a training: random states, filters, handlers."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - what is looked at
    return {
        "numpy's random state": (numpy["state"]["key"].tobytes(), numpy["state"]["pos"]),
        "Python's random state": random.getstate(),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "the filters of warnings": list(warnings.filters),
        "the handlers of the root logger": list(logging.getLogger().handlers),
    }
