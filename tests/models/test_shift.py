"""What a trained model knows of queries that lack genes or counts."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from episome.confidence import DEPTHS, REMOVED
from episome.data import simulate_cells
from episome.errors import GeneMatchError
from episome.inference import Predictor
from episome.models import LogisticRegression, NearestCentroid, SCTab, load


def cells(seed: int = 0, n_obs: int = 900):
    return simulate_cells(
        n_obs, 300, n_types=4, n_donors=6, fold_change=1.5, depth=900.0, seed=seed
    )


@pytest.fixture(scope="module")
def both():
    everything = cells(n_obs=2400)
    return everything[:1200].copy(), everything[1200:].copy()


@pytest.fixture(scope="module")
def model(both):
    reference = both[0].copy()
    LogisticRegression.setup_anndata(reference, labels_key="cell_type")
    trained = LogisticRegression(reference)
    trained.train()
    return trained


def lacking(model, query, level: float, seed: int):
    """The query without genes that carry a share of the weight of the calls."""
    known, n_genes = model.gene_importance, len(model.features)
    weight = np.full(n_genes, 1 / n_genes) if known is None else known.weights.mean(axis=0)
    order = np.random.default_rng(seed).permutation(len(weight))
    gone = order[np.cumsum(weight[order]) <= level]
    names = np.array(model.features.ids)[gone]
    return query[:, ~query.var_names.isin(names)].copy()


def test_the_grid_is_measured_over_genes_and_counts(model):
    points = model.confidence_.shift.points

    assert len(points) == len(REMOVED) * len(DEPTHS)
    at = {(round(p.removed, 1), p.depth): p for p in points}
    assert at[0.0, 1.0].accuracy > at[0.0, 0.2].accuracy
    assert at[0.0, 1.0].accuracy > at[0.8, 1.0].accuracy


def gaps(model, query, truth, level: float, n_draws: int):
    """Mean confidence less accuracy over draws of missing genes, calibrated and (of twelve) raw.

    Accuracy differs by 0.2 between draws, so that many draws of 200 cells say more than few of
    all.
    """
    found, as_is = [], []
    everything, all_truth = query, truth
    for seed in range(n_draws):
        rows = np.random.default_rng(seed).permutation(everything.n_obs)[:200]
        query, truth = everything[rows], all_truth[rows]
        less = lacking(model, query, level, seed)
        shares = model.predict_proba(less, min_gene_overlap=0.0)
        right = shares.columns.to_numpy()[shares.to_numpy().argmax(axis=1)] == truth
        found.append(shares.max(axis=1).mean() - right.mean())
        if seed < 12:
            raw = model.predict_proba(less, min_gene_overlap=0.0, calibrated=False)
            as_is.append(raw.max(axis=1).mean() - right.mean())
    return np.mean(found), np.mean(as_is)


@pytest.mark.parametrize("level", [0.2, 0.4, 0.6])
def test_confidence_follows_accuracy_where_genes_are_missing(both, level):
    reference, query = both[0].copy(), both[1]
    NearestCentroid.setup_anndata(reference, labels_key="cell_type")
    model = NearestCentroid(reference)
    model.train()

    gap, _ = gaps(model, query, query.obs["cell_type"].astype(str).to_numpy(), level, 120)

    assert abs(gap) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.2, 0.4, 0.6])
def test_confidence_follows_accuracy_on_sorted_blood(sorted_blood, level):
    model, query, truth = sorted_blood

    gap, raw = gaps(model, query, truth, level, 120)

    assert abs(gap) < 0.05
    assert abs(gap) < abs(raw)


@pytest.fixture(scope="module")
def sorted_blood(real_data):
    """Logistic regression on 70 % of the sorted cells, the others, and their labels."""
    adata = anndata.read_h5ad(real_data / "pbmc_facs_zheng.h5ad")
    labels = adata.obs["facs_label"].astype(str)
    adata = adata[(labels.map(labels.value_counts()) >= 5).to_numpy()].copy()
    part = np.random.default_rng(0).random(adata.n_obs) < 0.7
    reference, query = adata[part].copy(), adata[~part].copy()
    LogisticRegression.setup_anndata(reference, labels_key="facs_label")
    model = LogisticRegression(reference)
    model.train()
    return model, query, query.obs["facs_label"].astype(str).to_numpy()


def test_calls_stay_and_a_complete_query_is_untouched(model, both):
    query = both[1]
    less = lacking(model, query, 0.3, 0)
    soft = model.predict_proba(less)
    raw = model.predict_proba(less, calibrated=False)

    assert (soft.to_numpy().argmax(axis=1) == raw.to_numpy().argmax(axis=1)).mean() > 0.98
    whole = model.predict_proba(query)
    extra = query.copy()
    extra.var_names = list(query.var_names)
    assert model.predict_proba(extra).equals(whole)


def test_beyond_the_limit_a_query_is_refused(model, both):
    with pytest.raises(GeneMatchError, match="min_gene_overlap"):
        model.predict(lacking(model, both[1], 0.7, 0))


def test_folders_keep_the_grid(model, both, tmp_path):
    model.save(tmp_path / "m")
    less = lacking(model, both[1], 0.4, 0)

    again = load(tmp_path / "m")
    predictor = Predictor.from_folder(tmp_path / "m")

    assert len(again.confidence_.shift.points) == len(model.confidence_.shift.points)
    want = model.predict_proba(less).to_numpy()
    np.testing.assert_allclose(again.predict_proba(less).to_numpy(), want, atol=1e-3)
    found = predictor.predict_proba(predictor.prepare(less)).to_numpy()
    np.testing.assert_allclose(found, want, atol=1e-3)


def test_networks_and_ensembles_measure_it_too(both):
    reference = both[0][:300].copy()
    SCTab.setup_anndata(reference, labels_key="cell_type")
    ensemble = SCTab.ensemble(reference, n_models=2)
    ensemble.train(max_epochs=3)

    assert ensemble.members[0].confidence_.shift is not None
    assert ensemble.confidence_.shift is not None
    assert ensemble.predict_proba(both[1][:, :200].copy(), min_gene_overlap=0.0).shape == (1200, 4)


def test_values_without_counts_have_no_depth(both):
    reference = both[0].copy()
    reference.X.data = np.log1p(reference.X.data / 3.0)
    LogisticRegression.setup_anndata(reference, labels_key="cell_type", input_kind="log1p")
    trained = LogisticRegression(reference)
    trained.train()

    assert {p.depth for p in trained.confidence_.shift.points} == {1.0}
