"""One thread, small cores and cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from episome.nn import CSRParts
from episome_scbert.core import SCBERTCore

SMALL = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "ff_mult": 2, "hidden": (12, 8)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: barriers of tiny operations take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def core() -> Callable[..., SCBERTCore]:
    """Build a small core with weights of a seed."""

    def build(n_genes: int = 30, n_classes: int = 3, **options: object) -> SCBERTCore:
        torch.manual_seed(0)
        return SCBERTCore(n_genes, n_classes, **{**SMALL, **options}).eval()

    return build


@pytest.fixture
def cells() -> Callable[..., CSRParts]:
    """Log1p values of a few cells; the third one expresses nothing."""

    def build(n_cells: int = 6, n_genes: int = 30, seed: int = 0) -> CSRParts:
        rng = torch.Generator().manual_seed(seed)
        x = 1 + 4 * torch.rand(n_cells, n_genes, generator=rng)
        x *= torch.rand(n_cells, n_genes, generator=rng) < 0.4
        x[2:3] = 0
        return CSRParts.from_dense(x)

    return build
