"""Cells of two modalities, and recorded numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from episome.data import as_mudata

if TYPE_CHECKING:
    import mudata


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: barriers of tiny operations take seconds on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pairs() -> Callable[..., mudata.MuData]:
    """Cells whose proteins follow two programmes of their RNA."""

    def build(
        n_cells: int = 200,
        *,
        n_genes: int = 60,
        n_targets: int = 8,
        seed: int = 0,
        n_batches: int = 1,
        names: str = "P",
    ) -> mudata.MuData:
        rng = np.random.default_rng(seed)
        factors = rng.gamma(2.0, 1.0, (n_cells, 2))
        # The same programmes in every draw, or nothing could be learned from one about another.
        fixed = np.random.default_rng(99)
        loads = fixed.gamma(0.5, 1.0, (2, n_genes))
        maps = fixed.gamma(1.0, 4.0, (2, n_targets))
        batch = rng.integers(0, n_batches, n_cells)
        counts = rng.poisson(factors @ loads * 2 + 0.1).astype(np.float32)
        proteins = rng.poisson(factors @ maps + 1 + 10 * batch[:, None]).astype(np.float32)
        obs = pd.DataFrame(
            {"batch": [f"b{b}" for b in batch]}, index=[f"s{seed}c{i}" for i in range(n_cells)]
        )
        genes = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
        targets = pd.DataFrame(index=[f"{names}{i}" for i in range(n_targets)])
        return as_mudata(
            {
                "rna": anndata.AnnData(counts, obs=obs, var=genes),
                "prot": anndata.AnnData(proteins, obs=obs[[]], var=targets),
            }
        )

    return build
