"""Attributions and masks of SCTab."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import UsageError
from episome.models import SCTab

N_GENES = 120
STRIDE = N_GENES // 20


@pytest.fixture(scope="module", params=[(1, 0), (3, 0), (1, 50), (3, 50)], ids=str)
def model(request: pytest.FixtureRequest) -> SCTab:
    n_steps, n_top_genes = request.param
    sizes = {"n_d": 8, "n_a": 4, "n_steps": n_steps, "n_top_genes": n_top_genes}
    made = SCTab(simulate_cells(200, N_GENES, seed=0), **sizes)
    made.train(max_epochs=2, accelerator="cpu")
    return made


@pytest.fixture
def query() -> AnnData:
    return simulate_cells(30, N_GENES, seed=0)


def inputs(model: SCTab, adata: AnnData) -> torch.Tensor:
    """Normalised values of the genes that enter the network."""
    counts = torch.from_numpy(adata.X.toarray())
    x = torch.log1p(1e4 * counts / counts.sum(1, keepdim=True))
    return x[:, model.module.genes]


def test_explain_equals_the_network_on_dense_input(model: SCTab, query: AnnData) -> None:
    found = model.explain(query[:, ::-1], method="native", batch_size=7).toarray()

    wanted = np.zeros((30, N_GENES), dtype=np.float32)
    wanted[:, model.module.genes] = model.module.net.explain(inputs(model, query))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found > 0).any()


def test_explain_normalize_equals_shares_of_the_attribution(model: SCTab, query: AnnData) -> None:
    found = model.explain(query, method="native", normalize=True).toarray()

    plain = model.explain(query, method="native").toarray()
    sums = plain.sum(1, keepdims=True)
    np.testing.assert_allclose(found, plain / np.where(sums > 0, sums, 1), atol=1e-5)
    np.testing.assert_allclose(found.sum(1), sums.ravel() > 0, atol=1e-5)


def test_feature_mask_equals_the_masks_of_the_network(model: SCTab, query: AnnData) -> None:
    masks = model.module.net.eval()(inputs(model, query), return_masks=True).masks
    masks = [m.detach().numpy() for m in masks]
    genes = model.module.genes.numpy()

    found = [model.get_feature_mask(query, step=t).toarray() for t in range(len(masks))]
    mean = model.get_feature_mask(query, step=None).toarray()

    for got, wanted in zip(found, masks, strict=True):
        np.testing.assert_allclose(got[:, genes], wanted, atol=1e-5)
        assert got.sum() == pytest.approx(len(got), rel=1e-4)
    np.testing.assert_allclose(mean[:, genes], np.mean(masks, axis=0), atol=1e-5)


def test_feature_mask_of_a_step_that_is_not_there_is_refused(model: SCTab, query: AnnData) -> None:
    n_steps = model.module.config["n_steps"]

    for step in (n_steps, -1):
        with pytest.raises(UsageError, match=rf"step={step}.*{n_steps} decision.*E-U52"):
            model.get_feature_mask(query, step=step)


def test_explain_cells_without_counts_have_zero_rows(model: SCTab, query: AnnData) -> None:
    counts = query.X.toarray()
    counts[4] = 0
    query.X = sparse.csr_matrix(counts)

    found = model.explain(query)

    assert found[4].nnz == 0
    assert found.nnz > 0


def planted(n_cells: int, n_types: int, seed: int) -> tuple[AnnData, dict[str, set[str]]]:
    """Cells of types that raise genes of their own six times, and these genes by type."""
    rng = np.random.default_rng(seed)
    mean = np.tile(rng.lognormal(0.0, 0.5, N_GENES), (n_types, 1))
    markers = rng.permutation(N_GENES)[: n_types * STRIDE].reshape(n_types, STRIDE)
    for row, own in zip(mean, markers, strict=True):
        row[own] *= 6
    types = rng.integers(0, n_types, n_cells)
    counts = rng.poisson(500 * mean[types] / mean[types].sum(1, keepdims=True))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var_names = [f"NAME{i}A" for i in range(N_GENES)]
    adata.obs["cell_type"] = [f"type {t}" for t in types]
    names = adata.var_names.to_numpy()
    return adata, {f"type {t}": set(names[own]) for t, own in enumerate(markers)}


def test_top_genes_of_a_type_are_its_planted_markers() -> None:
    adata, markers = planted(500, n_types=4, seed=1)
    SCTab.setup_anndata(adata, "cell_type")
    model = SCTab(adata)
    model.train(max_epochs=15, accelerator="cpu")

    top = model.top_genes(k=6)

    found = {name: set(table["gene"]) for name, table in top.groupby("group")}
    assert found.keys() == markers.keys()
    # A type has six of its own among 120 genes: chance gives less than one of six.
    assert all(len(genes & markers[name]) >= 4 for name, genes in found.items())


def test_broad_masks_are_not_what_a_small_model_prefers() -> None:
    adata, _ = planted(200, n_types=4, seed=1)
    SCTab.setup_anndata(adata, "cell_type")

    preferred = {
        preset: SCTab(adata, preset=preset).module.preferred_attribution
        for preset in ("small", "paper-xs", "paper")
    }

    assert preferred == {"small": "gradient", "paper-xs": "native", "paper": "native"}


def test_masks_stay_available_for_a_small_model(query: AnnData, model: SCTab) -> None:
    masks = model.explain(query, method="native")
    gradients = model.explain(query, method="gradient")

    assert (masks.data >= 0).all()
    assert (gradients.data < 0).any()
