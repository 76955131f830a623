"""Reader of golden cases: arrays, configuration and tolerances recorded from the references."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


class GoldenCase:
    """One recorded case."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.meta: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}

    @property
    def config(self) -> dict[str, Any]:
        """Settings that the case was recorded with."""
        return self.meta["config"]

    def __getitem__(self, key: str) -> np.ndarray:
        """Recorded array."""
        return self.arrays[key]

    def tensor(self, key: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Recorded tensor; floating-point ones in `dtype` if it is given."""
        value = torch.from_numpy(np.array(self.arrays[key]))
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    def under(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Keys that start with `prefix`, whole and without it."""
        for key in self.arrays:
            if key.startswith(prefix):
                yield key, key.removeprefix(prefix)

    def state(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Reference weights and buffers under all their names."""
        out = {short: self.tensor(key, dtype) for key, short in self.under("state/")}
        for alias, target in self.meta.get("state_aliases", {}).items():
            out[alias.removeprefix("state/")] = self.tensor(target, dtype)
        return out

    def tolerance(self, key: str) -> dict[str, float]:
        """Relative and absolute tolerance of a tensor: exact name, longest pattern, default."""
        table = self.meta["tolerance"]
        fits = [p for p in table if p != "default" and fnmatch.fnmatchcase(key, p)]
        entry = table[key if key in table else max(fits, key=len, default="default")]
        return {"rtol": entry["rtol"], "atol": entry["atol"]}

    def check(
        self,
        key: str,
        value: torch.Tensor | np.ndarray,
        *,
        where: np.ndarray | None = None,
        **tolerance: float,
    ) -> None:
        """Fail when `value` differs from the recorded tensor, at `where` if that is given."""
        expected = self.arrays[key]
        got = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        assert got.shape == expected.shape, f"{self.name}: {key}"
        if where is not None:
            expected, got = expected[where], got[where]
        limits = self.tolerance(key) | tolerance
        np.testing.assert_allclose(got, expected, err_msg=f"{self.name}: {key}", **limits)
