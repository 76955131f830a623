"""Recorded numbers, and small batches of cells."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from episome.nn import CSRParts, PretextBatch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: barriers of tiny operations take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Golden:
    """One recorded case."""

    def __init__(self, folder: Path, name: str) -> None:
        self.meta: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.config = self.meta["config"]
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.arrays[key]))

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        names = [key for key in self.arrays if key.startswith(prefix)]
        return {key.removeprefix(prefix): self.tensor(key) for key in names}

    def check(self, key: str, value: torch.Tensor | np.ndarray) -> None:
        table = self.meta["tolerance"]
        fits = [p for p in table if p != "default" and fnmatch.fnmatchcase(key, p)]
        entry = table[key if key in table else max(fits, key=len, default="default")]
        got = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        np.testing.assert_allclose(
            got, self.arrays[key], rtol=entry["rtol"], atol=entry["atol"], err_msg=key
        )


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Open a recorded case by name; skips where the folder is not given."""
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the recorded reference numbers are elsewhere")
    return lambda name: Golden(Path(folder) / "goldens", name)


@pytest.fixture
def batch_of() -> Callable[..., PretextBatch]:
    """Draw cells of which about half of the values are zero."""

    def build(n_cells: int = 12, n_genes: int = 30, *, seed: int = 0) -> PretextBatch:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(n_cells, n_genes, generator=generator).clamp_min(0) * 2
        return PretextBatch(CSRParts.from_dense(x), torch.arange(100, 100 + n_cells), seed)

    return build
