"""Simulated pools, and recorded numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from episome_datamix import simulated


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: barriers of tiny operations take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for plans."""
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated pools as files."""
    place = tmp_path_factory.mktemp("pools")
    for name in ("near", "far", "mixed", "target"):
        getattr(simulated, name)().write_h5ad(place / f"{name}.h5ad")
    return place
