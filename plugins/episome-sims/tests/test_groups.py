"""Groups of genes that a mask chooses together."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from episome.data import simulate_cells
from episome.errors import GeneMatchError, UsageError
from episome.models import SIMS
from episome.nn import CSRParts
from episome_sims.core import SIMSCore
from episome_sims.groups import group_numbers

if TYPE_CHECKING:
    from anndata import AnnData

SIZES = {"n_d": 8, "n_a": 4}
SCALINGS = ("none", "l2", "zscore_train")


@pytest.fixture
def query() -> AnnData:
    return simulate_cells(30, 120, seed=0)


def batch(core: SIMSCore, n: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, int(core.config["n_features"]), generator=generator)
    labels = torch.randint(0, int(core.config["n_classes"]), (n,), generator=generator)
    return {"X": x * (x > 0.7), "labels": labels}


def test_lone_groups_equal_no_groups() -> None:
    sizes = {**SIZES, "input_scaling": "l2"}
    torch.manual_seed(0)
    plain = SIMSCore(30, 3, **sizes)
    torch.manual_seed(0)
    grouped = SIMSCore(30, 3, **sizes, feature_groups=list(range(30)))
    cells = batch(plain)

    a, b = plain.train()(cells), grouped.train()(cells)

    assert torch.equal(a["logits"], b["logits"])
    parts = {"X": CSRParts.from_dense(cells["X"])}
    a, b = plain.inference()(parts), grouped.inference()(parts)
    assert torch.equal(a["logits"], b["logits"])


def test_genes_of_a_group_share_its_weight_evenly() -> None:
    torch.manual_seed(0)
    core = SIMSCore(30, 3, **SIZES, feature_groups=[0] * 10 + [1] * 5 + list(range(2, 17)))
    cells = batch(core)

    explained = core.explaining()({"X": CSRParts.from_dense(cells["X"])}).to_dense(30)

    assert (explained[:, :10] == explained[:, :1]).all()
    assert (explained[:, 10:15] == explained[:, 10:11]).all()
    assert explained.sum() > 0


def test_groups_of_names_are_found_and_kept(query: AnnData, tmp_path: Path) -> None:
    adata = simulate_cells(100, 120, seed=0)
    names = list(adata.var_names)
    groups = {"first": names[:5], "second": [names[7], "NOWHERE"], "third": ["NOT THERE"]}
    model = SIMS(adata, **SIZES, feature_groups=groups)
    numbers = model.module.config["feature_groups"]

    model.train(1, accelerator="cpu")
    model.save(tmp_path / "model")
    loaded = SIMS.load(tmp_path / "model")

    assert numbers[:5] == [0] * 5
    assert numbers[7] == 1
    assert len(set(numbers)) == max(numbers) + 1 == 2 + 114
    assert loaded.module.config["feature_groups"] == numbers
    assert np.array_equal(loaded.predict_proba(query), model.predict_proba(query))


def test_groups_that_cannot_be_are_refused() -> None:
    adata = simulate_cells(60, 40, seed=0)
    names = list(adata.var_names)

    def refused(groups: object, match: str, error: type[Exception] = UsageError) -> None:
        with pytest.raises(error, match=match):
            SIMS(adata, feature_groups=groups)

    refused({"a": names[:3], "b": names[2:4]}, r"genes in several groups.*1 of 4.*E-U31")
    refused(
        {"a": ["X1", "X2"]}, r"none of the genes is the model's.*2 of 2.*E-G02", GeneMatchError
    )
    refused(np.zeros(39, dtype=int), r"of shape \(39,\).*40 genes.*E-U31")
    refused(np.arange(40) + 1, r"numbered from 0 without gaps.*E-U31")
    refused(np.zeros(40), r"type float64.*E-U31")
    with pytest.raises(UsageError, match=r"feature_groups name all genes.*E-U31"):
        SIMS(adata, feature_groups={"a": names[:3]}, n_top_genes=10)
    assert group_numbers(None, None) is None


@pytest.mark.filterwarnings("ignore::episome.errors.EpisomeWarning")
def test_memory_of_groups_does_not_grow_with_the_square_of_genes() -> None:
    n_genes = 20_000
    groups = np.arange(n_genes) // 4
    tracemalloc.start()
    core = SIMSCore(n_genes, 3, **SIZES, feature_groups=groups.tolist())
    made = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    numbers = [*core.parameters(), *core.buffers()]

    sizes = [t.numel() for t in numbers]

    assert max(sizes) <= n_genes * 2 * (SIZES["n_d"] + SIZES["n_a"])
    assert made < 50e6  # a matrix of groups and genes has 5,000 x 20,000 entries: 400 MB
    before = peak_memory()
    core.train()({"X": torch.rand(64, n_genes)})["logits"].sum().backward()
    assert peak_memory() - before < 350e6


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
