"""Every annotator is calibrated on cells that did not train it, and its calls can be limited."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.confidence import Confidence, ConformalScores
from episome.data import Labels, simulate_cells
from episome.errors import UsageError
from episome.inference import CALL_COLUMNS, CallLimits, calls_frame
from episome.metrics import expected_calibration_error
from episome.models import KNNClassifier, LogisticRegression, MajorityClass, load


def cells(n=1500, n_donors=8, seed=0, **kwargs):
    """Types that overlap, so that a model is sometimes wrong."""
    options = {"n_types": 4, "fold_change": 1.6, "depth": 400.0, **kwargs}
    return simulate_cells(n, 60, n_donors=n_donors, seed=seed, **options)


@pytest.fixture(scope="module")
def both():
    adata = cells(3000)
    return adata[:1500].copy(), adata[1500:].copy()


@pytest.fixture(scope="module")
def logreg(both):
    reference, _ = both
    LogisticRegression.setup_anndata(reference, labels_key="cell_type")
    model = LogisticRegression(reference)
    model.train()
    return model


@pytest.fixture(scope="module")
def network(toy, both):
    reference = cells(3000)[:2400].copy()
    toy.ToyModel.setup_anndata(reference, labels_key="cell_type", donor_key="donor_id")
    model = toy.ToyModel(reference)
    model.train(max_epochs=8, accelerator="cpu")
    return model


# -- where calibration cells come from -----------------------------------------------------------


def test_calibration_cells_neither_train_nor_choose_and_are_of_other_donors(network):
    parts = {
        p: set(getattr(network, f"{p}_indices_")) for p in ("train", "validation", "calibration")
    }
    donors = network.adata.obs["donor_id"].to_numpy()

    assert len(parts["calibration"]) >= 100
    assert not parts["calibration"] & (parts["train"] | parts["validation"])
    own = {donors[i] for i in parts["calibration"]}
    assert not own & {donors[i] for i in parts["train"] | parts["validation"]}
    assert network.confidence_.facts["source"] == "held out"
    assert network.confidence_.facts["n_cells"] == len(parts["calibration"])
    assert network.confidence_.facts["n_donors"] == len(own)


def test_small_references_share_the_validation_cells_and_say_so(toy, caplog):
    adata = cells(400)
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
    model = toy.ToyModel(adata)
    with caplog.at_level(logging.INFO):
        model.train(max_epochs=4, accelerator="cpu")

    assert len(model.calibration_indices_) == 0
    assert model.confidence_.facts["source"] == "validation"
    assert any("they also chose the epoch" in r.getMessage() for r in caplog.records)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        model.train(max_steps=1, accelerator="cpu")  # ends before a validation

    said = [r.getMessage() for r in caplog.records]
    assert any("is calibrated on" in m for m in said)
    assert not any("they also chose the epoch" in m for m in said)


def test_a_refit_is_calibrated_by_what_the_first_run_said(toy):
    adata = cells(400)
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
    model, again = toy.ToyModel(adata), toy.ToyModel(adata)
    model.train(max_epochs=4, accelerator="cpu")
    again.train(max_epochs=4, accelerator="cpu", refit=True)

    assert np.array_equal(model._held_out.logits, again._held_out.logits)
    assert again.confidence_.map.temperature == model.confidence_.map.temperature


def test_the_share_can_be_chosen_and_a_given_split_has_a_fourth_part(toy):
    adata = cells(600)
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
    model, given = toy.ToyModel(adata), toy.ToyModel(adata)
    rows = np.arange(600)
    model.train(max_epochs=1, accelerator="cpu", calibration_size=0.2)
    parts = [rows[:400], rows[400:450], rows[450:500], rows[500:]]
    given.train(max_epochs=1, accelerator="cpu", datasplitter_kwargs={"external_indexing": parts})

    assert len(model.calibration_indices_) == pytest.approx(120, abs=5)
    assert np.array_equal(given.calibration_indices_, rows[500:])
    assert given.confidence_.facts["n_cells"] == 100
    with pytest.raises(UsageError, match="E-U10"):
        toy.ToyModel(adata).train(calibration_size=1.5)


def test_without_held_out_cells_there_is_no_calibration_and_that_is_said(toy, caplog):
    adata = cells(300)
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
    model = toy.ToyModel(adata)
    with caplog.at_level(logging.INFO):
        model.train(max_epochs=1, accelerator="cpu", train_size=1.0)

    assert not model.confidence_.is_calibrated
    assert any("is not calibrated" in r.getMessage() for r in caplog.records)
    raw = model.predict_proba(calibrated=False)
    assert np.array_equal(raw, model.predict_proba())
    with pytest.raises(UsageError, match="E-U66"):
        model.annotate(error_rate=0.05)
    with pytest.raises(UsageError, match="E-U66"):
        model.annotate(false_alarms=0.05)


def test_models_fitted_at_once_are_calibrated_out_of_fold(logreg):
    facts = logreg.confidence_.facts

    assert facts["source"] == "out of fold"
    assert facts["n_cells"] == logreg.fit_["n_train"]


def test_of_many_cells_one_part_is_held_out():
    adata = simulate_cells(6000, 12, n_types=3, n_donors=1)
    MajorityClass.setup_anndata(adata, labels_key="cell_type")
    model = MajorityClass(adata)

    model.train()

    assert model.confidence_.facts["n_cells"] == pytest.approx(1200, abs=3)


# -- what it does --------------------------------------------------------------------------------


def test_confidence_is_as_high_as_the_share_of_right_calls(logreg, both):
    _, query = both
    truth = query.obs["cell_type"].astype(str).to_numpy()

    calls = logreg.annotate(query)

    right = calls["label"].to_numpy() == truth
    assert expected_calibration_error(calls["confidence"], right) < 0.05
    assert abs(calls["confidence"].mean() - right.mean()) < 0.03


def test_label_sets_hold_their_rate(logreg, both):
    _, query = both
    truth = query.obs["cell_type"].astype(str).to_numpy()

    calls = logreg.annotate(query, error_rate=0.1)

    inside = [t in s.split(";") for t, s in zip(truth, calls["set"], strict=True)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.04)
    one = calls["set"].str.split(";").str.len().eq(1) & calls["set"].ne("")
    known = calls["status"] == "assigned"
    assert (known <= one).all()
    assert (calls.loc[calls["status"] == "ambiguous", "label"] == "unknown").all()
    assert (calls["label_raw"] == logreg.annotate(query)["label"]).all()


def test_a_call_that_is_not_in_its_own_set_is_ambiguous():
    """A class with a strict limit may be the most probable one, and not in the set."""
    scores = ConformalScores(
        np.repeat([0.05, 0.6], 200).astype(np.float32), np.repeat([0, 1], 200), 2
    )
    sure = Confidence(scores=scores)
    shares = np.array([[0.6, 0.4], [0.97, 0.03], [0.3, 0.7]], dtype=np.float32)

    calls = calls_frame(
        shares,
        np.zeros(3, dtype=bool),
        Labels(("strict", "lax"), ("", "")),
        pd.Index(list("abc")),
        confidence=sure,
        limits=CallLimits(error_rate=0.1),
    )

    assert calls["set"].tolist() == ["lax", "strict", "lax"]
    assert calls["label_raw"].tolist() == ["strict", "strict", "lax"]
    assert calls["status"].tolist() == ["ambiguous", "assigned", "assigned"]
    assert calls["label"].tolist() == ["unknown", "strict", "lax"]


def test_a_type_that_was_never_seen_is_more_novel():
    adata = cells(2000, fold_change=5.0)
    new = (adata.obs["cell_type"] == "type 3").to_numpy()
    reference, rest = adata[~new][:1000].copy(), adata[1000:]
    LogisticRegression.setup_anndata(reference, labels_key="cell_type")
    model = LogisticRegression(reference)
    model.train()

    calls = model.annotate(rest, false_alarms=0.05)

    unseen = new[1000:]
    assert calls.loc[unseen, "novelty"].mean() > calls.loc[~unseen, "novelty"].mean() + 0.2
    assert (calls.loc[unseen, "status"] == "novel").mean() > 0.5
    assert 0.02 < (calls.loc[~unseen, "status"] == "novel").mean() < 0.1
    assert (calls.loc[calls["status"] == "novel", "label"] == "unknown").all()
    assert (calls["label_raw"] != "unknown").all()


def test_limits_filter_only_what_is_asked_for(logreg, both):
    _, query = both

    plain = logreg.annotate(query)
    strict = logreg.annotate(query, min_confidence=0.9)

    assert (plain["label"] == plain["label_raw"]).all()
    lost = plain["confidence"] < 0.9
    assert (strict.loc[lost, "label"] == "unknown").all()
    assert strict.loc[lost, "status"].isin(["ambiguous", "novel"]).all()
    assert (strict.loc[~lost, "label"] == plain.loc[~lost, "label"]).all()
    assert (strict["confidence"] == plain["confidence"]).all()


def test_a_cell_without_counts_is_of_low_quality_whatever_the_limits(logreg, both):
    _, query = both
    counts = query[:5].X.toarray()
    counts[0] = 0
    blank = type(query)(sparse.csr_matrix(counts), var=query.var)

    with pytest.warns(UserWarning, match="E-D12"):
        calls = logreg.annotate(blank, error_rate=0.1, false_alarms=0.1, min_confidence=0.5)

    row = calls.iloc[0]
    assert (row["label"], row["label_raw"], row["set"]) == ("unknown", "", "")
    assert row["status"] == "low_quality"
    assert np.isnan(row["confidence"])
    assert np.isnan(row["novelty"])


def test_no_cells_give_the_columns_of_the_limits(logreg, both):
    _, query = both

    calls = logreg.annotate(query[:0], error_rate=0.1)

    assert list(calls.columns) == [*CALL_COLUMNS, "set"]
    assert len(calls) == 0


@pytest.mark.parametrize(
    "wrong", [{"error_rate": 0}, {"error_rate": 2}, {"false_alarms": 1}, {"min_confidence": -1}]
)
def test_limits_that_are_none_are_refused(logreg, both, wrong):
    with pytest.raises(UsageError, match="E-U65"):
        logreg.annotate(both[1], **wrong)


# -- folders and ensembles -----------------------------------------------------------------------


def test_a_folder_keeps_the_confidence(logreg, both, tmp_path):
    _, query = both
    logreg.save(tmp_path / "m")

    back = load(tmp_path / "m")

    limits = {"error_rate": 0.05, "false_alarms": 0.05}
    assert back.annotate(query, **limits).equals(logreg.annotate(query, **limits))
    assert back.confidence_.facts == logreg.confidence_.facts


def test_an_ensemble_is_calibrated_as_a_whole(toy, tmp_path):
    adata = cells(900)
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
    ensemble = toy.ToyModel.ensemble(adata, n_models=2)
    ensemble.train(max_epochs=6, accelerator="cpu")
    query = cells(300, seed=0)

    assert ensemble.confidence_.is_calibrated
    assert ensemble.confidence_.map.temperature not in {
        m.confidence_.map.temperature for m in ensemble.members
    }
    calls = ensemble.annotate(query, error_rate=0.1)
    assert set(calls["status"]) <= {"assigned", "ambiguous", "novel"}


def test_votes_are_calibrated_too(both):
    reference, query = both
    reference = reference.copy()
    KNNClassifier.setup_anndata(reference, labels_key="cell_type")
    model = KNNClassifier(reference, n_neighbors=5)
    model.train()
    truth = query.obs["cell_type"].astype(str).to_numpy()

    raw = model.predict_proba(query, calibrated=False)
    sure = model.predict_proba(query)

    def gap(shares):
        right = np.array(shares.columns)[shares.to_numpy().argmax(axis=1)] == truth
        return expected_calibration_error(shares.max(axis=1).clip(0, 1), right)

    assert gap(sure) < gap(raw)
    assert gap(sure) < 0.05
