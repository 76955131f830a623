"""An audit finds labels that were swapped, leaves right ones alone, and changes nothing."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from _toy import ToyEncoder, ToyModel
from hypothesis import given, settings
from hypothesis import strategies as st

from episome import plugins
from episome.data import simulate_cells
from episome.errors import EpisomeWarning, InputDataError, LabelError, PluginError, UsageError
from episome.models import (
    LinearClassifier,
    LogisticRegression,
    NearestCentroid,
    annotator_spec,
    audit,
    audit_plan,
)
from episome.models._audit_folds import audit_folds
from episome.models._audit_tables import relations, told_apart

N = 400


def reference(n_swapped=20, *, n=N, seed=0, **kwargs):
    """Simulated cells of which some have a label of another type, and which those are."""
    options = {"n_types": 4, "n_donors": 6, "seed": seed, **kwargs}
    adata = simulate_cells(n, 50, **options)
    truth = adata.obs["cell_type"].to_numpy(dtype=str).astype(object)
    rng = np.random.default_rng(seed)
    rows = rng.choice(n, n_swapped, replace=False)
    labels, types = truth.copy(), np.unique(truth.astype(str))
    for row in rows:
        labels[row] = rng.choice(types[types != truth[row]])
    adata.obs["cell_type"] = pd.Categorical(labels)
    adata.obs["cluster"] = truth
    return adata, truth, labels != truth


@pytest.fixture(scope="module")
def swapped():
    return reference()


@pytest.fixture(scope="module")
def found(swapped):
    return audit(
        swapped[0], "cell_type", model="centroid", donor_key="donor_id", cluster_key="cluster"
    )


def test_planted_swaps_are_found_and_put_right(swapped, found):
    _, truth, bad = swapped
    cells = found.cells
    flagged = cells["wrong"].to_numpy()

    assert bad[flagged].mean() >= 0.9
    assert flagged[bad].mean() >= 0.8
    assert (cells["suggested"].to_numpy()[bad] == truth[bad]).mean() > 0.9
    assert bad[np.argsort(cells["rank"])[:15]].mean() >= 0.9
    assert found.noise == pytest.approx(0.05, abs=0.02)
    corrected = found.corrected()
    assert (corrected.to_numpy() == truth).mean() > 0.98 > (cells["label"] == truth).mean()
    assert corrected.name == "cell_type_corrected"
    assert found.n_wrong == flagged.sum()
    assert found.expected_false <= 0.1
    assert f"{found.n_wrong} of 400 labels look wrong" in found.text


def test_every_cell_has_its_row_in_the_order_of_the_data(swapped, found):
    adata, cells = swapped[0], found.cells

    assert list(cells.index) == list(adata.obs_names)
    assert list(cells["label"]) == list(adata.obs["cell_type"])
    assert tuple(cells.columns) == found.columns
    assert sorted(cells["rank"]) == list(range(1, N + 1))
    assert (cells["p_suggested"] >= cells["p_label"]).all()
    assert cells["score"].between(0, 1).all()
    assert (np.diff(cells.sort_values("rank")["score"]) <= 0).all()
    assert set(cells["fold"]) == set(range(5))
    same = cells["label"] == cells["suggested"]
    assert (cells["relation"] == np.where(same, "", "other type")).all()
    assert not cells.loc[same, "wrong"].any()


def test_no_donor_is_on_both_sides(swapped, found):
    folds = pd.Series(found.cells["fold"].to_numpy()).groupby(
        swapped[0].obs["donor_id"].to_numpy(dtype=str)
    )

    assert found.plan.held_out_by == "donor"
    assert (folds.nunique() == 1).all()


def test_clusters_pairs_and_genes_say_what_the_cells_say(swapped, found):
    _, truth, bad = swapped
    cells, clusters, pairs, genes = found.cells, found.clusters, found.pairs, found.genes

    assert sorted(clusters.index) == sorted(set(truth))
    assert clusters["n_wrong"].sum() == found.n_wrong
    assert clusters["n_cells"].sum() == N
    assert (clusters["label"] == clusters["suggested"]).all()
    assert (clusters["expected_wrong"].sum()) == pytest.approx(cells["score"].sum())
    assert pairs["n_wrong"].sum() == found.n_wrong
    assert pairs["n_like"].sum() == (cells["label"] != cells["suggested"]).sum()
    assert set(pairs.loc[pairs["n_wrong"] > 0, "verdict"]) == {"wrong labels"}
    assert (pairs["auroc"] > 0.85).all()
    assert (pairs["auroc_high"] >= pairs["auroc"]).all()
    assert set(genes["evidence"]) == {"difference of means"}
    assert (genes["score"] > 0).all()
    towards = genes["mean_suggested"] - genes["mean_label"]
    assert (towards * (genes["mean_doubted"] - genes["mean_label"]) > 0).all()
    assert (genes.groupby(["label", "suggested"])["rank"].min() == 1).all()
    assert genes.groupby(["label", "suggested"]).size().max() <= 10


def test_nothing_of_the_user_is_changed(swapped):
    adata = swapped[0]
    before, state = adata.copy(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one

    audit(adata, "cell_type", model="centroid", donor_key="donor_id", n_rounds=1, n_genes=0)

    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert list(adata.uns) == list(before.uns)
    assert (adata.X != before.X).nnz == 0
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002 - the global one


def test_order_of_the_cells_changes_nothing(swapped, found):
    rows = np.random.default_rng(1).permutation(N)

    other = audit(
        swapped[0][rows].copy(), "cell_type", model="centroid", donor_key="donor_id",
        cluster_key="cluster",
    )  # fmt: skip

    pd.testing.assert_frame_equal(other.cells.loc[found.cells.index], found.cells)
    pd.testing.assert_frame_equal(other.pairs, found.pairs)
    pd.testing.assert_frame_equal(other.clusters, found.clusters)
    pd.testing.assert_frame_equal(other.genes, found.genes)


def test_a_clean_reference_is_left_alone():
    adata, _, _ = reference(0)

    found = audit(adata, "cell_type", model="centroid", donor_key="donor_id", n_genes=0)

    assert found.n_wrong <= 4
    assert found.noise < 0.015
    assert (found.corrected() == adata.obs["cell_type"].astype(object)).mean() >= 0.99


def test_a_second_round_finds_more_than_one(swapped):
    adata, _, bad = swapped
    options = {"model": "logreg", "donor_key": "donor_id", "n_folds": 3, "n_genes": 0}

    one = audit(adata, "cell_type", n_rounds=1, **options)
    two = audit(adata, "cell_type", n_rounds=2, **options)

    assert two.cells.loc[bad, "p_label"].mean() < one.cells.loc[bad, "p_label"].mean()
    assert two.noise > one.noise


@pytest.mark.slow
def test_the_student_judges_by_default_and_its_explanation_is_the_evidence(swapped):
    adata, _, bad = swapped

    found = audit(adata, "cell_type", donor_key="donor_id", n_folds=3)

    flagged = found.cells["wrong"].to_numpy()
    assert found.plan.model == "LinearClassifier"
    assert bad[flagged].mean() >= 0.9
    assert flagged[bad].mean() >= 0.8
    assert set(found.genes["evidence"]) == {"explanation"}
    assert (found.genes["mean_doubted"] != found.genes["mean_label"]).all()


def test_a_trained_model_audits_with_fresh_ones_of_its_settings(swapped):
    adata, _, bad = swapped
    own = adata.copy()
    own.layers["counts"] = own.X.copy()
    own.X = own.X * 0
    NearestCentroid.setup_anndata(
        own, "cell_type", layer="counts", donor_key="donor_id", input_kind="counts"
    )
    model = NearestCentroid(own)
    model.train()
    weights = {k: v.copy() for k, v in model.module.state()[0].items()}

    found = model.audit(n_genes=0, cluster_key="cluster")

    flagged = found.cells["wrong"].to_numpy()
    assert bad[flagged].mean() >= 0.9
    assert found.plan.held_out_by == "donor"
    assert found.clusters is not None
    assert all((weights[k] == v).all() for k, v in model.module.state()[0].items())
    again = model.audit(own[::2].copy(), n_genes=0, n_rounds=1)
    assert len(again.cells) == N // 2


def test_settings_of_a_model_are_those_of_its_folds(swapped):
    adata = swapped[0].copy()
    ToyModel.setup_anndata(adata, "cell_type")
    model = ToyModel(adata, width=5)
    widths = []

    class Seen(ToyModel):
        def __init__(self, adata=None, registry=None, *, width=16):
            widths.append(width)
            super().__init__(adata, registry, width=width)

    model.__class__ = Seen
    found = model.audit(n_folds=2, n_rounds=1, n_genes=0, train_kwargs={"max_epochs": 2})

    assert set(widths) == {5}
    assert found.plan.held_out_by == "cell"


def test_a_model_without_data_wants_some(swapped, tmp_path):
    adata = swapped[0].copy()
    NearestCentroid.setup_anndata(adata, "cell_type")
    model = NearestCentroid(adata)
    model.train()
    model.save(tmp_path / "model")
    loaded = NearestCentroid.load(tmp_path / "model")

    with pytest.raises(UsageError, match="E-U17"):
        loaded.audit()
    assert len(loaded.audit(adata, n_folds=2, n_rounds=1, n_genes=0).cells) == N


def test_finer_and_coarser_terms_are_not_wrong_and_a_coarse_label_is_said():
    adata, truth, _ = reference(0, seed=3)
    names = {
        "type 0": "B cell",
        "type 1": "CD4-positive, alpha-beta T cell",
        "type 2": "CD8-positive, alpha-beta T cell",
        "type 3": "monocyte",
    }
    labels = pd.Series(truth, dtype=object).map(names).to_numpy(dtype=object)
    coarse = np.flatnonzero(truth == "type 1")[::4]
    labels[coarse] = "T cell"
    adata.obs["label"] = labels

    found = audit(adata, "label", model="centroid", donor_key="donor_id", n_genes=0)

    cells, pairs = found.cells, found.pairs.set_index(["label", "suggested"])
    like = cells.iloc[coarse]
    assert not like["wrong"].any()
    assert set(like.loc[like["suggested"] == names["type 1"], "relation"]) == {"finer"}
    assert "CL:0000624" in set(cells["suggested_ontology_term_id"])
    assert pairs.loc[("T cell", names["type 1"]), "verdict"] == "too coarse"
    assert "too coarse" in found.text
    assert (found.corrected(0.0).to_numpy()[coarse] == "T cell").sum() >= (
        like["relation"] != "other type"
    ).sum()


def test_one_type_under_two_names_is_merged():
    adata, truth, _ = reference(0, n=500, seed=5)
    labels = truth.copy()
    split = np.flatnonzero(truth == "type 0")
    labels[split] = np.random.default_rng(0).choice(["type 0", "other name"], len(split))
    adata.obs["cell_type"] = labels

    found = audit(adata, "cell_type", model="centroid", n_genes=0)

    merged = found.pairs[found.pairs["verdict"] == "merged"]
    assert len(merged)
    assert {frozenset(p) for p in merged[["label", "suggested"]].to_numpy()} == {
        frozenset({"type 0", "other name"})
    }
    assert (found.pairs.loc[merged.index, "auroc"] < 0.65).all()


def test_a_class_of_fewer_cells_than_folds_is_judged_and_said():
    adata, _, _ = reference(0)
    labels = adata.obs["cell_type"].to_numpy(dtype=object)
    labels[:3], labels[3] = "rare", "alone"
    adata.obs["cell_type"] = labels

    with pytest.warns(EpisomeWarning, match="E-L45") as said:
        found = audit(adata, "cell_type", model="centroid", n_genes=0)

    text = str([w for w in said if "E-L45" in str(w.message)][0].message)
    assert "rare" in text
    assert any("fewer than 10 cells" in note and "rare" in note for note in found.plan.notes)
    assert any("only one of their class" in note for note in found.plan.notes)
    alone = found.cells.iloc[3]
    assert alone["fold"] == -1
    assert np.isnan(alone["score"])
    assert not alone["wrong"]
    assert alone["suggested"] == "alone"
    assert found.cells["score"].iloc[:3].notna().all()


def test_a_class_of_one_donor_gets_no_verdict_and_donors_stay_apart():
    adata, truth, _ = reference(0)
    donors = adata.obs["donor_id"].to_numpy(dtype=object)
    donors[truth == "type 3"] = "donor 0"
    adata.obs["donor_id"] = donors

    with pytest.warns(EpisomeWarning, match="E-L45"):
        found = audit(adata, "cell_type", model="centroid", donor_key="donor_id", n_genes=0)

    assert found.cells.loc[truth == "type 3", "score"].isna().all()
    assert found.cells.loc[truth != "type 3", "score"].notna().all()
    assert any("type 3" in note for note in found.plan.notes)
    folds = pd.Series(found.cells["fold"].to_numpy()).groupby(donors)
    assert (folds.nunique() == 1).all()


def test_cells_without_a_label_or_a_count_get_no_verdict():
    adata, _, _ = reference(0)
    labels = adata.obs["cell_type"].astype(object).to_numpy(copy=True)
    labels[:4] = None
    adata.obs["cell_type"] = labels
    values = adata.X.toarray()
    values[4] = 0
    adata.X = type(adata.X)(values)

    with pytest.raises(LabelError, match="E-L01"):
        audit(adata, "cell_type", model="centroid")
    with pytest.warns(EpisomeWarning):
        found = audit(adata, "cell_type", model="centroid", unlabeled="keep", n_genes=0)

    assert found.cells["score"].iloc[:5].isna().all()
    assert found.cells["score"].iloc[5:].notna().all()
    assert list(found.cells["label"].iloc[:4]) == ["unknown"] * 4
    assert (found.cells["fold"].iloc[:4] == -1).all()
    assert not found.cells["wrong"].iloc[:5].any()


def test_vectors_of_obsm_are_judged_too(swapped):
    adata, _, bad = swapped
    own = adata.copy()
    values = np.log1p(own.X.toarray())
    own.obsm["X_pca"] = (values - values.mean(axis=0)) @ np.linalg.svd(
        values - values.mean(axis=0), full_matrices=False
    )[2][:8].T

    found = audit(own, "cell_type", model="logreg", obsm_key="X_pca", donor_key="donor_id")

    assert bad[np.argsort(found.cells["rank"])[:15]].mean() >= 0.9
    assert found.genes.empty


def test_the_plan_is_what_the_audit_does(swapped, found):
    plan = audit_plan(swapped[0], "cell_type", model="centroid", donor_key="donor_id")

    assert (plan.folds == found.cells["fold"]).all()
    assert plan.classes == found.plan.classes
    assert sum(plan.classes.values()) == N
    assert (plan.model, plan.n_folds, plan.n_rounds) == ("NearestCentroid", 5, 2)


def test_progress_counts_the_trainings(swapped):
    seen = []

    audit(
        swapped[0], "cell_type", model="centroid", n_folds=2, n_rounds=2,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip

    assert seen == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"labels_key": "nothing"}, UsageError, "E-U04"),
        ({"donor_key": "nothing"}, UsageError, "E-U04"),
        ({"cluster_key": "nothing"}, UsageError, "E-U04"),
        ({"ontology_term_key": "nothing"}, UsageError, "E-U04"),
        ({"donor_key": "cell_type"}, UsageError, "E-U32"),
        ({"n_folds": 1}, UsageError, "E-U68"),
        ({"n_rounds": 0}, UsageError, "E-U68"),
        ({"n_pairs": -1}, UsageError, "E-U68"),
        ({"n_genes": -1}, UsageError, "E-U68"),
        ({"false_discoveries": 0.0}, UsageError, "E-U65"),
        ({"model": "nothing"}, PluginError, "E-P01"),
        ({"model": "pca"}, UsageError, "E-U12"),
        ({"model": ToyEncoder}, UsageError, "E-U12"),
        ({"model_kwargs": {"depth": 3}}, UsageError, "E-U24"),
        ({"train_kwargs": {"epochs": 3}}, UsageError, "E-U16"),
        ({"layers": "counts"}, UsageError, "E-U24"),
        ({"layer": "nothing"}, InputDataError, "E-D28"),
        ({"obsm_key": "nothing", "model": "logreg"}, InputDataError, "E-D47"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(swapped, options, kind, code):
    given = {"labels_key": "cell_type", "model": "centroid", **options}

    with pytest.raises(kind, match=code):
        audit(swapped[0], given.pop("labels_key"), progress=_never, **given)


def _never(done: int, total: int) -> None:
    pytest.fail("a model was trained")


def test_a_threshold_that_is_no_probability_is_refused(found):
    with pytest.raises(UsageError, match="E-U65"):
        found.corrected(1.5)
    assert (found.corrected(1.0) == found.cells["label"]).mean() > 0.9


def test_without_a_student_one_has_to_be_named(monkeypatch):
    monkeypatch.setattr(plugins, "models", dict)

    with pytest.raises(PluginError, match=r"model=.*\[E-P14\]"):
        audit(reference(0)[0], "cell_type")
    assert annotator_spec("centroid").name == "centroid"


@settings(max_examples=40)
@given(
    st.integers(2, 6),
    st.integers(2, 9),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_folds_hold_out_whole_donors_and_every_cell_once(n_folds, n_donors, n_classes, seed):
    rng = np.random.default_rng(seed)
    donors = np.array([f"d{i}" for i in rng.integers(0, n_donors, 120)], dtype=object)
    donors[rng.random(120) < 0.1] = None
    codes = rng.integers(0, n_classes, 120)

    found = audit_folds(codes, donors, seed=seed, n_folds=n_folds)

    known = donors != np.array(None)
    assert found.by == "donor"
    assert found.n <= n_folds
    for donor in set(donors[known]):
        assert len(set(found.of_cell[donors == donor])) == 1
    counts = np.bincount(codes[~known], minlength=n_classes)
    assert (found.of_cell[known] >= 0).all()
    assert ((found.of_cell[~known] >= 0) == (counts[codes[~known]] > 1)).all()
    assert found.of_cell.max() < found.n


@given(st.integers(0, 1000), st.integers(2, 60))
def test_two_classes_are_told_apart_as_the_area_says(seed, n):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), n)
    codes = rng.integers(0, 3, n)
    of_a, of_b = np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)

    area, high = told_apart(shares, codes, 0, 1)

    if not len(of_a) or not len(of_b):
        assert np.isnan(area)
        assert np.isnan(high)
        return
    odds = np.log(shares[:, 0]) - np.log(shares[:, 1])
    wins = (odds[of_a][:, None] > odds[of_b]) + 0.5 * (odds[of_a][:, None] == odds[of_b])
    assert area == pytest.approx(wins.mean())
    assert area <= high <= 1
    assert told_apart(shares, codes, 1, 0)[0] == pytest.approx(area)


def test_relations_follow_the_terms():
    children = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]], dtype=bool)

    found = relations(children, np.array([0, 1, 0, 0, 2]), np.array([1, 0, 3, 0, 1]))

    assert found.tolist() == ["finer", "coarser", "same term", "", "other type"]


def test_classes_used_here_are_those_that_are_installed():
    assert LinearClassifier.__name__ == annotator_spec(None).target.rsplit(":", 1)[1]
    assert LogisticRegression.reads_embeddings


@pytest.mark.slow
def test_swaps_among_real_cells_of_other_donors_are_found(real_data):
    adata = anndata.read_h5ad(real_data / "kang_pbmc_ifnb.h5ad")
    truth = adata.obs["cell_type_label"].to_numpy(dtype=str).astype(object)
    rng, labels = np.random.default_rng(0), truth.copy()
    types = np.unique(truth.astype(str))
    for row in rng.choice(adata.n_obs, adata.n_obs // 20, replace=False):
        labels[row] = rng.choice(types[types != truth[row]])
    adata.obs["label"] = labels
    bad = labels != truth

    found = audit(adata, "label", model="centroid", donor_key="donor_id", n_pairs=3)

    flagged = found.cells["wrong"].to_numpy()
    assert bad[flagged].mean() > 0.7
    assert flagged[bad].mean() > 0.4
    assert bad[np.argsort(found.cells["rank"])[:50]].mean() > 0.7
    assert any("name no single donor" in note for note in found.plan.notes)
    named = (adata.obs["donor_id"] != "unassigned").to_numpy()
    folds = found.cells["fold"][named].groupby(adata.obs["donor_id"][named].to_numpy(dtype=str))
    assert (folds.nunique() == 1).all()
    assert (found.corrected() == truth).mean() > (labels == truth).mean()
