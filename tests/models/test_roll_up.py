"""`annotate` at the depth that the evidence supports, and of cells of known types."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import episome
from episome.cli._app import app
from episome.data import simulate_cells
from episome.errors import EpisomeWarning, UsageError
from episome.inference import CALL_COLUMNS, Predictor
from episome.ontology import cell_ontology

TYPES = {
    "type 0": "CD4-positive, alpha-beta T cell",
    "type 1": "CD8-positive, alpha-beta T cell",
    "type 2": "B cell",
    "type 3": "monocyte",
}


@pytest.fixture(scope="module")
def cells():
    """Types of blood that are told apart with difficulty."""
    found = simulate_cells(600, 60, n_types=4, n_donors=6, fold_change=1.35, seed=0)
    found.obs["cell_type"] = found.obs["cell_type"].astype(str).map(TYPES)
    return found


def trained(cells, **setup):
    model_cls = episome.get_model("logreg")
    reference = cells[:400].copy()
    model_cls.setup_anndata(reference, labels_key="cell_type", donor_key="donor_id", **setup)
    model = model_cls(reference)
    model.train()
    return model


@pytest.fixture(scope="module")
def model(cells):
    return trained(cells)


@pytest.fixture
def query(cells):
    return cells[400:].copy()


def test_calls_are_as_deep_as_they_are_sure(model, query):
    ontology = cell_ontology()
    flat = model.annotate(query)
    calls = {w: model.annotate(query, roll_up=w) for w in (0.5, 0.8, 0.95)}

    for wanted, found in calls.items():
        assert list(found.columns) == [*CALL_COLUMNS, "label_confidence", "level"]
        pd.testing.assert_series_equal(found["label_raw"], flat["label_raw"])
        called = found["label"] != "unknown"
        assert (found["label_confidence"][called] >= wanted - 1e-5).all()
        assert found["label_confidence"][~called].isna().all()
        rolled = found["status"] == "rolled_up"
        assert (found["level"][rolled] > 0).all()
        stays = found["status"] == "assigned"
        assert (found["label"][stays] == found["label_raw"][stays]).all()
        for row in found[rolled].itertuples():
            assert ontology.label(row.label_ontology_term_id) == row.label
            own = ontology.resolve([row.label_raw]).term_ids[0]
            assert row.label_ontology_term_id in ontology.ancestors(own)
    assert (calls[0.95]["status"] == "rolled_up").sum() > 10
    assert (calls[0.8]["label"] != "unknown").sum() >= (calls[0.95]["label"] != "unknown").sum()


def test_terms_that_are_called_are_right_as_often_as_they_say(model, query, cells):
    """More cells are called than by leaving out the unsure, and as rightly."""
    ontology = cell_ontology()
    truth = ontology.resolve(query.obs["cell_type"].astype(str).tolist()).term_ids

    found = model.annotate(query, roll_up=0.9)

    called = (found["label"] != "unknown").to_numpy()
    right = [
        term in ontology.ancestors(t, include_self=True)
        for term, t in zip(found["label_ontology_term_id"][called], np.array(truth)[called],
                           strict=True)
    ]  # fmt: skip
    flat = model.annotate(query, min_confidence=0.9)
    assert np.mean(right) > 0.85
    assert called.sum() > 1.2 * (flat["label"] != "unknown").sum()


def test_a_folder_says_what_the_model_says(model, query, tmp_path):
    model.save(tmp_path / "m")

    predictor = Predictor.from_folder(tmp_path / "m", device="cpu")
    query_ = predictor.prepare(query)

    from episome.inference import CallLimits

    limits = CallLimits(roll_up=0.9, restrict_to=("T cell", "B cell"))
    found = predictor.annotate(query_, limits=limits)
    pd.testing.assert_frame_equal(
        found, model.annotate(query, roll_up=0.9, restrict_to=["T cell", "B cell"])
    )


def test_label_sets_are_covered(model, query):
    found = model.annotate(query, roll_up=0.5, error_rate=0.1)
    ontology = cell_ontology()

    rolled = found[found["status"] == "rolled_up"]
    assert len(rolled)
    for row in rolled.itertuples():
        # The one name with a comma is no list: sets are joined by semicolons.
        for name in row.set.split(";"):
            own = ontology.resolve([name]).term_ids[0]
            assert row.label_ontology_term_id in ontology.ancestors(own, include_self=True)


def test_restricted_cells_are_of_these_types(model, query):
    everything = model.predict_proba(query)

    shares = model.predict_proba(query, restrict_to="CL:0000084")
    calls = model.annotate(query, restrict_to="CL:0000084")

    inside = [c for c in shares if "T cell" in c]
    assert len(inside) == 2
    np.testing.assert_allclose(shares[inside].sum(axis=1), 1, rtol=1e-5)
    wanted = everything[inside].div(everything[inside].sum(axis=1), axis=0)
    np.testing.assert_allclose(shares[inside], wanted, rtol=1e-3, atol=1e-6)
    assert set(calls["label"]) <= set(inside)
    np.testing.assert_allclose(calls["confidence"], shares.max(axis=1), rtol=1e-5)
    assert (calls["novelty"] == model.annotate(query)["novelty"]).all()
    sets = model.annotate(query, restrict_to="T cell", error_rate=0.1)["set"]
    assert not sets.str.contains("B cell").any()


def test_own_terms_are_rolled_up_from_a_folder_too(cells, query, tmp_path):
    mine = cells.copy()
    mine.obs["cell_type"] = mine.obs["cell_type"].str.replace("B cell", "odd B cell")
    own = {"LAB:1": {"label": "odd B cell", "parents": ["CL:0000236"]}}
    model = trained(mine, own_terms=own)
    model.save(tmp_path / "m")

    found = model.annotate(query, restrict_to="CL:0000236", roll_up=0.9)

    assert set(found["label"]) == {"odd B cell"}
    predictor = Predictor.from_folder(tmp_path / "m", device="cpu")
    assert predictor.rollup.term_ids == model.predictor().rollup.term_ids
    assert "LAB:1" in predictor.rollup.term_ids


def test_classes_without_a_term_stay_and_that_is_said(cells, query):
    odd = cells.copy()
    odd.obs["cell_type"] = odd.obs["cell_type"].str.replace("monocyte", "zzz 17")
    model = trained(odd)

    with pytest.warns(EpisomeWarning, match=r"zzz 17.*E-L44"):
        found = model.annotate(query, roll_up=0.6)

    assert set(found["status"][found["label_raw"] == "zzz 17"]) <= {
        "assigned",
        "ambiguous",
        "novel",
    }


def test_votes_of_clusters_count_rolled_up_calls(model, query):
    query.obs["leiden"] = "all"

    found = model.annotate(query, roll_up=0.999, cluster_key="leiden")

    assert (found["cluster_label"] != "").all()
    counts = found["label"][found["label"] != "unknown"].value_counts()
    assert len(counts)
    assert found["cluster_agreement"].iloc[0] == pytest.approx(counts.iloc[0] / len(found))


def test_limits_that_exclude_each_other_are_refused(model, query):
    with pytest.raises(UsageError, match="roll_up and min_confidence.*E-U65"):
        model.annotate(query, roll_up=0.8, min_confidence=0.5)
    with pytest.raises(UsageError, match="E-U65"):
        model.annotate(query, roll_up=80)
    with pytest.raises(UsageError, match="neuron.*E-L43"):
        model.annotate(query, restrict_to="neuron")


def test_a_model_without_terms_cannot_roll_up(cells, query):
    odd = cells.copy()
    odd.obs["cell_type"] = [f"zz {i % 3}" for i in range(odd.n_obs)]
    model = trained(odd)

    with pytest.raises(UsageError, match="E-L42"):
        model.annotate(query, roll_up=0.8)


def test_the_command_line_rolls_up_and_restricts(model, query, tmp_path):
    model.save(tmp_path / "m")
    query.write_h5ad(tmp_path / "q.h5ad")
    base = ["annotate", str(tmp_path / "q.h5ad"), "-m", str(tmp_path / "m")]

    out = tmp_path / "calls.csv"
    words = [*base, "-o", str(out), "--roll-up", "0.9", "--restrict-to", "T cell", "--json"]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    calls = pd.read_csv(out, index_col=0)
    assert {"label_confidence", "level"} <= set(calls.columns)
    assert set(calls["label_raw"]) <= set(list(TYPES.values())[:2])
    assert json.loads(result.stdout)["status"]
    copy = tmp_path / "q2.h5ad"
    assert CliRunner().invoke(app, [*base, "-o", str(copy), "--roll-up", "0.9"]).exit_code == 0
    import anndata

    assert "episome_level" in anndata.read_h5ad(copy).obs
    other = str(tmp_path / "other.csv")
    bad = CliRunner().invoke(app, [*base, "-o", other, "--restrict-to", "neuron"])
    assert bad.exit_code == 2
