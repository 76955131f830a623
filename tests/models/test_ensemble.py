"""Ensembles: members differ by seed only, probabilities are averaged, one folder holds all."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from episome import settings
from episome.errors import EpisomeWarning, ModelFileError, UsageError
from episome.inference import Predictor
from episome.metrics import uncertainty
from episome.models import Ensemble, load
from episome.plugins import get_spec, load_class


@pytest.fixture(scope="module")
def reference(toy):
    adata = toy.cells()
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type", donor_key="donor_id")
    return adata


@pytest.fixture(scope="module")
def three(toy, reference):
    ensemble = toy.ToyModel.ensemble(reference, n_models=3)
    ensemble.train(accelerator="cpu", max_epochs=4)
    return ensemble


@pytest.fixture(scope="module")
def sctab():
    """An ensemble of a registered model, and a query."""
    cls = load_class(get_spec("sctab"))
    from episome.data import simulate_cells

    cells = simulate_cells(260, 40, n_types=3, n_donors=5)
    reference, query = cells[:200].copy(), cells[200:].copy()
    cls.setup_anndata(reference, labels_key="cell_type", donor_key="donor_id")
    ensemble = cls.ensemble(reference, n_models=2)
    ensemble.train(accelerator="cpu", max_epochs=2)
    return ensemble, query


def test_an_ensemble_of_one_is_the_model(toy, reference, query):
    model = toy.ToyModel(reference)
    model.train(accelerator="cpu")
    one = toy.ToyModel.ensemble(reference, n_models=1)

    one.train(accelerator="cpu")

    pd.testing.assert_frame_equal(one.predict_proba(query), model.predict_proba(query))
    pd.testing.assert_frame_equal(one.annotate(query), model.annotate(query))


def test_probabilities_are_the_mean_of_the_members(three, query):
    raw = {"calibrated": False}
    wanted = np.mean([m.predict_proba(query, **raw).to_numpy() for m in three.members], axis=0)

    got = three.predict_proba(query, **raw)

    np.testing.assert_allclose(got.to_numpy(), wanted, atol=1e-6)
    got = three.predict_proba(query)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)


def test_members_differ_and_follow_the_seed(toy, reference, query, three):
    first, second, third = (m.predict_proba(query).to_numpy() for m in three.members)
    again = toy.ToyModel.ensemble(reference, n_models=3)

    again.train(accelerator="cpu", max_epochs=4)

    assert not np.allclose(first, second)
    assert not np.allclose(second, third)
    pd.testing.assert_frame_equal(again.predict_proba(query), three.predict_proba(query))
    assert settings.seed == 0


def test_members_share_the_held_out_donors(three):
    held_out = [set(m.validation_indices_) for m in three.members]

    assert held_out[0]
    assert held_out[0] == held_out[1] == held_out[2]


def test_uncertainty_is_bounded_and_disagreement_needs_members_that_differ(toy, three, query):
    n_classes = len(three.labels)
    twice = Ensemble([three.members[0], three.members[0]])

    most = three.uncertainty(query)
    entropy = three.uncertainty(query, kind="entropy")
    differ = three.uncertainty(query, kind="disagreement")

    assert most.between(0, 1 - 1 / n_classes).all()
    assert entropy.between(0, 1).all()
    assert differ.between(0, 1).all()
    raw = uncertainty(three.predict_proba(query, calibrated=False), "entropy")
    assert (differ <= raw + 1e-6).all()
    assert differ.max() > 1e-4
    assert twice.uncertainty(query, kind="disagreement").abs().max() < 1e-6
    assert list(most.index) == list(query.obs_names)


def test_disagreement_is_asked_of_ensembles_only(three, query):
    with pytest.raises(UsageError, match=r'use one of "max", "entropy"\.'):
        three.members[0].uncertainty(query, kind="disagreement")


def test_uncertainty_of_chosen_rows_is_that_of_all(three, query):
    whole = three.uncertainty(query)

    some = three.uncertainty(query, indices=[5, 2])

    pd.testing.assert_series_equal(some, whole.iloc[[5, 2]])


def test_cells_without_genes_have_no_uncertainty(three, query):
    empty = query.copy()
    empty.X[3] = 0
    empty.X.eliminate_zeros()

    got = three.uncertainty(empty)

    assert got.isna().tolist() == [i == 3 for i in range(query.n_obs)]


def test_a_saved_ensemble_predicts_the_same_bits(sctab, tmp_path):
    ensemble, query = sctab
    wanted = ensemble.annotate(query)

    ensemble.save(tmp_path / "five")
    loaded = load(tmp_path / "five", accelerator="cpu")
    predictor = Predictor.from_folder(tmp_path / "five", device="cpu")

    assert isinstance(loaded, Ensemble)
    pd.testing.assert_frame_equal(loaded.annotate(query), wanted)
    pd.testing.assert_frame_equal(predictor.annotate(predictor.prepare(query)), wanted)
    assert loaded.fit_["n_models"] == 2
    assert "members/" in (tmp_path / "five" / "README.md").read_text()


def test_a_member_of_a_folder_is_a_model(sctab, tmp_path):
    ensemble, query = sctab
    ensemble.save(tmp_path / "two")

    member = load(tmp_path / "two" / "members" / "1", accelerator="cpu")

    pd.testing.assert_frame_equal(
        member.predict_proba(query), ensemble.members[1].predict_proba(query)
    )


def test_models_of_different_kinds_are_averaged(sctab):
    ensemble, query = sctab
    cls = load_class(get_spec("centroid"))
    other = cls(ensemble.members[0].adata)
    other.train()

    mixed = Ensemble([ensemble.members[0], other])

    raw = {"calibrated": False}
    parts = [m.predict_proba(query, **raw) for m in (ensemble.members[0], other)]
    np.testing.assert_allclose(mixed.predict_proba(query, **raw), sum(parts) / 2, atol=1e-6)
    # Nobody trained the mixture as one: it has no calibration of its own.
    np.testing.assert_allclose(mixed.predict_proba(query), sum(parts) / 2, atol=1e-6)


def test_explanations_are_the_mean_of_the_members(sctab):
    ensemble, query = sctab
    wanted = sum(m.explain(query) for m in ensemble.members) / 2

    got = ensemble.explain(query)

    np.testing.assert_allclose(got.toarray(), wanted.toarray(), atol=1e-6)
    assert set(ensemble.top_genes(query, k=3)["group"]) <= set(ensemble.labels.names)


def test_fine_tuning_gives_another_ensemble(three, query):
    more = query.copy()
    more.obs["cell_type"] = more.obs["cell_type"].astype(str).replace({"type 0": "new"})
    before = three.predict_proba(query)

    tuned = three.fine_tune(more, max_epochs=1, accelerator="cpu")

    assert len(tuned) == 3
    assert set(tuned.labels.names) == {*three.labels.names, "new"}
    pd.testing.assert_frame_equal(three.predict_proba(query), before)


def test_members_without_attributions_are_named(sctab):
    ensemble, query = sctab
    cls = load_class(get_spec("centroid"))
    other = cls(ensemble.members[0].adata)
    other.train()

    with pytest.raises(UsageError, match=r"NearestCentroidCore gives no attributions.*E-U12"):
        Ensemble([ensemble.members[0], other]).explain(query)


def test_members_that_attribute_in_different_ways_are_not_averaged(sctab):
    ensemble, query = sctab
    cls = load_class(get_spec("logreg"))
    linear = cls(ensemble.members[0].adata)
    linear.train()

    with pytest.raises(UsageError, match=r"in different ways.*gradient.*native"):
        Ensemble([ensemble.members[0], linear]).explain(query)


def test_members_of_other_genes_are_refused(toy, three):
    cells = toy.cells(n_genes=30)
    other = toy.trained(cells, max_epochs=1)

    with pytest.raises(UsageError, match="differ in their genes"):
        Ensemble([three.members[0], other])


def test_no_members_are_refused(toy, reference):
    with pytest.raises(UsageError, match="no models"):
        toy.ToyModel.ensemble(reference, n_models=0)


def test_an_untrained_ensemble_says_so(toy, reference, query, tmp_path):
    ensemble = toy.ToyModel.ensemble(reference, n_models=2)

    with pytest.raises(UsageError, match="not trained"):
        ensemble.predict(query)
    with pytest.raises(UsageError, match="not trained"):
        ensemble.save(tmp_path / "x")
    assert "not trained" in repr(ensemble)


def test_one_model_is_not_loaded_from_an_ensemble(sctab, tmp_path):
    ensemble, _ = sctab
    ensemble.save(tmp_path / "two")

    with pytest.raises(ModelFileError, match=r"episome\.models\.load"):
        type(ensemble.members[0]).load(tmp_path / "two")


def test_an_ensemble_is_not_loaded_from_one_model(sctab, tmp_path):
    ensemble, _ = sctab
    ensemble.members[0].save(tmp_path / "one")

    with pytest.raises(ModelFileError, match="one model"):
        Ensemble.load(tmp_path / "one")


def test_a_missing_member_is_found(sctab, tmp_path):
    ensemble, _ = sctab
    ensemble.save(tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "members" / "1")

    with pytest.raises(ModelFileError, match="member of the ensemble is missing"):
        load(tmp_path / "two")


def test_a_member_of_another_ensemble_is_found(sctab, tmp_path):
    ensemble, _ = sctab
    ensemble.save(tmp_path / "two")
    members = tmp_path / "two" / "members"
    shutil.rmtree(members / "1")
    shutil.copytree(members / "0", members / "1")

    with pytest.raises(ModelFileError, match="not the one that was saved"):
        load(tmp_path / "two")


def test_progress_counts_all_members(toy, reference):
    seen = []
    ensemble = toy.ToyModel.ensemble(reference, n_models=2)

    ensemble.train(
        accelerator="cpu",
        max_epochs=3,
        early_stopping=False,
        progress=lambda done, total, metrics: seen.append((done, total)),
    )

    assert seen == [(i, 6) for i in range(1, 7)]


def test_facts_average_scores_and_add_seconds(three):
    fits = [m.fit_ for m in three.members]

    assert three.fit_["validation_f1_macro"] == pytest.approx(
        np.mean([f["validation_f1_macro"] for f in fits])
    )
    assert three.fit_["seconds"] == pytest.approx(sum(f["seconds"] for f in fits), abs=0.01)
    assert len(three.history) == 3


def test_what_an_ensemble_has_not_is_refused_with_the_way_out(three, query, tmp_path):
    with pytest.raises(UsageError, match=r"no embedding of its own.*members\[0\]"):
        three.get_latent_representation(query)
    with pytest.raises(UsageError, match=r"\['format'\] for an ensemble.*E-U18"):
        three.save(tmp_path / "x", format="scvi")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kwargs", [{"n_models": 2.5}, {"n_model": 2}, {"depth": 3}])
def test_wrong_words_for_an_ensemble_are_refused(toy, reference, kwargs):
    with pytest.raises(UsageError, match=r"it takes n_models and width.*E-U24"):
        toy.ToyModel.ensemble(reference, **kwargs)


def test_members_that_came_out_the_same_are_said(toy):
    cls = load_class(get_spec("centroid"))
    cls.setup_anndata(adata := toy.cells(), labels_key="cell_type")

    with pytest.warns(EpisomeWarning, match=r"same as the first: 2 of 3.*E-U58"):
        cls.ensemble(adata, n_models=3).train()
