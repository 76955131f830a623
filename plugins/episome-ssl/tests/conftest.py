"""Recorded numbers, and small batches of cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


@pytest.fixture
def batch_of() -> Callable[..., PretextBatch]:
    """Draw cells of which about half of the values are zero."""

    def build(n_cells: int = 12, n_genes: int = 30, *, seed: int = 0) -> PretextBatch:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(n_cells, n_genes, generator=generator).clamp_min(0) * 2
        return PretextBatch(CSRParts.from_dense(x), torch.arange(100, 100 + n_cells), seed)

    return build
