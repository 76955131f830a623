"""Real cells: proteins of unseen cells, and peaks of unseen libraries."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse
from scipy.stats import binom

from episome.data import as_mudata
from episome.models import CrossModal, FeatureMean

DATA = Path(os.environ.get("EPISOME_TEST_DATA", "")) / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "citeseq_pbmc10k.h5ad").is_file(), reason="real data are not here"
)


def halves(rna, other, test):
    """MuData of training and of test cells."""
    return [
        as_mudata({"rna": rna[rows].copy(), "other": other[rows].copy()}) for rows in (~test, test)
    ]


@pytest.mark.slow
def test_proteins_of_real_cells_are_predicted_with_intervals_that_hold():
    cells = anndata.read_h5ad(DATA / "citeseq_pbmc10k.h5ad")
    rng = np.random.default_rng(0)
    cells = cells[rng.permutation(cells.n_obs)[:4000]].copy()
    values = np.asarray(cells.obsm["protein_counts"], dtype=np.float32)
    proteins = anndata.AnnData(values, obs=cells.obs[[]].copy())
    proteins.var_names = [str(n) for n in cells.uns["protein_names"]]
    rna = anndata.AnnData(cells.X, obs=cells.obs[[]].copy(), var=cells.var.copy())
    train, test = halves(rna, proteins, np.arange(4000) >= 3000)
    CrossModal.setup_mudata(train)
    model = CrossModal(train)

    model.train(max_epochs=12, calibration_size=0.2)

    report = model.feature_report(test)
    assert report["pearson"].mean() > 0.75
    # What chance allows in 1,000 cells, and in bounds that come from 600 in five bins.
    band = binom.ppf([1e-4, 1 - 1e-4], 1000, 0.9) / 1000 + np.array([-0.05, 0.05])
    assert report["coverage"].between(*band).all()
    assert model.target_.table["status"].eq("predictable").sum() > 9


@pytest.mark.slow
def test_peaks_of_unseen_libraries_are_told_apart_better_than_by_their_mean():
    cells = anndata.read_h5ad(DATA / "multiome_mop_snare.h5ad")
    values = sparse.csr_matrix(cells.obsm["atac"]).astype(np.float32)
    common = np.argsort(-np.asarray((values > 0).sum(axis=0)).ravel(), kind="stable")[:2000]
    peaks = anndata.AnnData(values[:, common], obs=cells.obs[[]].copy())
    peaks.var_names = [str(n) for n in np.asarray(cells.uns["atac_names"])[common]]
    rna = anndata.AnnData(sparse.csr_matrix(cells.X), obs=cells.obs[["Batch"]].copy())
    rna.var_names = list(cells.var_names)
    libraries = sorted(cells.obs["Batch"].unique())
    train, test = halves(rna, peaks, cells.obs["Batch"].isin(libraries[:3]).to_numpy())
    scores = {}

    for cls in (CrossModal, FeatureMean):
        cls.setup_mudata(train, batch_key="Batch", donor_key="Batch")
        model = cls(train)
        model.train(**({"max_epochs": 8} if cls is CrossModal else {}))
        said = model.predict_modality(test.mod["rna"])
        scores[cls] = said

    assert model.target_features.modality == "atac"
    truth = (test.mod["other"].X > 0).toarray()
    r = [np.corrcoef(scores[CrossModal].X[:, j], truth[:, j])[0, 1] for j in range(2000)]
    # Of the mean it is zero.
    assert np.nanmean(r) > 0.03
    assert np.ptp(scores[FeatureMean].X, axis=0).max() == 0
    assert list(scores[CrossModal].obs_names) == list(test.mod["rna"].obs_names)
