"""Scores of a model on labelled cells: the same as by hand, plain and by the ontology."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import EpisomeWarning, UsageError
from episome.jobs import EvaluateRequest, TrainRequest, evaluate, train
from episome.metrics import (
    bootstrap,
    class_intervals,
    class_table,
    classification_scores,
    expected_calibration_error,
    macro_f1,
)
from episome.models import load

T_CELL, CD4, CD8 = "T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``query.h5ad`` of 250 cells, and a model of their types, which the Cell Ontology knows."""
    folder = tmp_path_factory.mktemp("evaluate")
    cells = simulate_cells(650, 40, n_types=3, n_donors=5, seed=0)
    cells.obs["kind"] = cells.obs["cell_type"].map(
        dict(zip(sorted(cells.obs["cell_type"].unique()), (CD4, CD8, "B cell"), strict=True))
    )
    noise = np.random.default_rng(0).random(650) < 0.3
    order = np.arange(650)
    order[noise] = np.roll(order[noise], 1)  # some cells look like others
    cells.X = cells.X[order]
    cells[:400].copy().write_h5ad(folder / "reference.h5ad")
    cells[400:].copy().write_h5ad(folder / "query.h5ad")
    setup = {"labels_key": "kind"}
    request = TrainRequest("centroid", folder / "reference.h5ad", folder / "centroid", setup)
    train(request)
    return folder


def ask(folder, **kwargs):
    options = {"labels_key": "kind", "device": "cpu", "n_draws": 50, "output": None, **kwargs}
    return EvaluateRequest(
        options.pop("input", folder / "query.h5ad"), folder / "centroid", **options
    )


def changed(folder, tmp_path, change):
    cells = anndata.read_h5ad(folder / "query.h5ad")
    change(cells)
    cells.write_h5ad(tmp_path / "changed.h5ad")
    return tmp_path / "changed.h5ad"


@pytest.fixture(scope="module")
def calls(folder):
    model, cells = load(folder / "centroid"), anndata.read_h5ad(folder / "query.h5ad")
    return cells.obs["kind"].to_numpy(dtype=object), model.annotate(cells)


def test_scores_are_those_of_the_calls(folder, calls):
    truth, called = calls
    names = called["label_raw"].to_numpy(dtype=object)
    hierarchy = load(folder / "centroid").class_hierarchy()

    found = evaluate(ask(folder))

    assert (found.n_obs, found.n_scored, found.n_vars) == (250, 250, 40)
    assert found.scores == pytest.approx(classification_scores(truth, names, hierarchy=hierarchy))
    assert 0.3 < found.scores["accuracy"] < 1
    table = class_table(truth, names, hierarchy=hierarchy, known=[CD4, CD8, "B cell"])
    pd.testing.assert_frame_equal(found.classes[table.columns], table)
    right = names == truth
    assert found.calibration["ece"] == pytest.approx(
        expected_calibration_error(called["confidence"], right), abs=1e-6
    )
    assert found.calibration["n_cells"] == sum(found.calibration["reliability"]["n_cells"]) == 250


def test_intervals_are_those_of_the_metrics(folder, calls):
    truth, called = calls
    names = called["label_raw"].to_numpy(dtype=object)

    found = evaluate(ask(folder))

    span = bootstrap("macro_f1", truth, names, n_draws=50, seed=0)
    assert found.intervals["f1_macro"] == (span.low, span.high)
    ends = class_intervals(truth, names, n_draws=50, seed=0)
    pd.testing.assert_frame_equal(found.classes[["f1_low", "f1_high"]], ends)
    table = found.classes
    assert (table["f1_low"] <= table["f1"]).all()
    assert (table["f1"] <= table["f1_high"]).all()


def test_confusion_counts_the_wrong_pairs(folder, calls):
    truth, called = calls
    wrong = truth != called["label_raw"].to_numpy()

    found = evaluate(ask(folder)).confused

    assert found["n_cells"].sum() == wrong.sum()
    first = found.iloc[0]
    pair = (truth == first["label"]) & (called["label_raw"] == first["called"]).to_numpy()
    assert first["n_cells"] == pair.sum()
    assert first["share"] == pytest.approx(pair.sum() / (truth == first["label"]).sum())


def test_label_sets_hold_the_truth_as_often_as_they_say(folder, calls):
    truth, _ = calls
    model, cells = load(folder / "centroid"), anndata.read_h5ad(folder / "query.h5ad")
    sets = model.annotate(cells, error_rate=0.2)["set"]
    held = [f'"{t}"' in s or t in s.split(";") for t, s in zip(truth, sets, strict=True)]

    found = evaluate(ask(folder, error_rates=(0.2,))).coverage

    assert list(found) == ["0.2"]
    assert found["0.2"]["overall"] == pytest.approx(np.mean(held))
    assert found["0.2"]["overall"] > 0.7


def test_coarser_labels_are_right_by_the_ontology_alone(folder, tmp_path, calls):
    def coarser(cells):
        cells.obs["kind"] = cells.obs["kind"].astype(str).replace({CD4: T_CELL, CD8: T_CELL})

    path = changed(folder, tmp_path, coarser)
    _, called = calls
    is_t = called["label_raw"].isin([CD4, CD8]).to_numpy()
    truth = anndata.read_h5ad(path).obs["kind"].to_numpy()

    with pytest.warns(EpisomeWarning, match=r"no class of the model.*first: T cell.*E-L47"):
        found = evaluate(ask(folder, input=path))

    assert found.scores["accuracy"] == pytest.approx(np.mean((truth == "B cell") & ~is_t))
    assert found.scores["accuracy_ontology"] == pytest.approx(np.mean((truth == T_CELL) == is_t))
    assert not found.classes.loc[T_CELL, "in_training"]
    assert found.novelty["n_unseen"] == 0


def test_terms_of_a_column_say_what_a_label_means(folder, tmp_path):
    def renamed(cells):
        terms = {CD4: "CL:0000624", CD8: "CL:0000625", "B cell": "CL:0000236"}
        cells.obs["mine_ontology_term_id"] = cells.obs["kind"].astype(str).map(terms)
        names = {CD4: "helper", CD8: "killer", "B cell": "bee"}
        cells.obs["mine"] = cells.obs["kind"].astype(str).map(names)

    path = changed(folder, tmp_path, renamed)

    with pytest.warns(EpisomeWarning, match="E-L47"):
        found = evaluate(ask(folder, input=path, labels_key="mine"))

    same = evaluate(ask(folder))
    assert found.scores["accuracy"] == 0
    assert found.scores["f1_macro_ontology"] == pytest.approx(same.scores["f1_macro"])


def test_unknown_types_are_counted_and_told_by_novelty(folder, tmp_path):
    def strange(cells):
        kinds = cells.obs["kind"].astype(str).to_numpy()
        kinds[:40] = "hepatocyte"
        cells.obs["kind"] = kinds
        cells.X = sparse.vstack([cells.X[:40][:, ::-1], cells.X[40:]], format="csr")

    path = changed(folder, tmp_path, strange)

    with pytest.warns(EpisomeWarning, match="hepatocyte.*their 40 cells"):
        found = evaluate(ask(folder, input=path))

    assert found.novelty["n_unseen"] == 40
    assert found.novelty["labels"] == ["hepatocyte"]
    assert 0 <= found.novelty["auroc"] <= 1
    assert found.classes.loc["hepatocyte", "f1"] == 0


def test_cells_without_a_label_take_no_part(folder, tmp_path, calls):
    truth, called = calls

    def missing(cells):
        kinds = np.array(cells.obs["kind"].astype(object))
        kinds[::5], kinds[1::5] = None, "unknown"
        cells.obs["kind"] = pd.Categorical(kinds)

    path = changed(folder, tmp_path, missing)
    kept = np.arange(250) % 5 > 1

    found = evaluate(ask(folder, input=path))

    assert (found.n_obs, found.n_scored) == (250, 150)
    names = called["label_raw"].to_numpy()
    assert found.scores["f1_macro"] == pytest.approx(macro_f1(truth[kept], names[kept]))


def test_cells_without_a_call_are_wrong(folder, tmp_path, calls):
    truth, called = calls

    def emptied(cells):
        cells.X = sparse.vstack([cells.X[:10] * 0, cells.X[10:]], format="csr")

    path = changed(folder, tmp_path, emptied)
    names = called["label_raw"].to_numpy(dtype=object).copy()
    names[:10] = "unknown"

    with pytest.warns(EpisomeWarning, match="E-D12"):
        found = evaluate(ask(folder, input=path))

    assert found.scores["accuracy"] == pytest.approx(np.mean(names == truth))
    assert found.calibration["n_cells"] == 240


def test_donors_have_scores_and_make_the_intervals(folder, calls):
    truth, called = calls
    donors = anndata.read_h5ad(folder / "query.h5ad").obs["donor_id"].to_numpy(dtype=object)
    names = called["label_raw"].to_numpy(dtype=object)

    found = evaluate(ask(folder, donor_key="donor_id"))

    span = bootstrap("accuracy", truth, names, groups=donors, n_draws=50, seed=0)
    assert found.intervals["accuracy"] == (span.low, span.high)
    assert list(found.donors["donor"]) == sorted(set(donors))
    one = donors == found.donors["donor"][0]
    assert found.donors["f1_macro"][0] == pytest.approx(macro_f1(truth[one], names[one]))


def test_few_donors_are_warned_of(folder, tmp_path):
    cells = anndata.read_h5ad(folder / "query.h5ad")
    some = cells[cells.obs["donor_id"].isin(cells.obs["donor_id"].unique()[:3])].copy()
    some.write_h5ad(tmp_path / "three.h5ad")

    with pytest.warns(EpisomeWarning, match=r"donors are too few.*donor_id.*3.*E-L49"):
        evaluate(ask(folder, input=tmp_path / "three.h5ad", donor_key="donor_id"))


def test_batches_and_chosen_cells(folder, calls):
    truth, called = calls
    cells = anndata.read_h5ad(folder / "query.h5ad")
    donor = str(cells.obs["donor_id"].iloc[0])
    some = (cells.obs["donor_id"] == donor).to_numpy()

    seen = []
    found = evaluate(
        ask(folder, where=(f"donor_id={donor}",), batch_size=7),
        progress=lambda *counts: seen.append(counts),
    )

    names = called["label_raw"].to_numpy()
    assert found.scores["accuracy"] == pytest.approx(np.mean(names[some] == truth[some]))
    assert seen[-1] == (some.sum(), some.sum())
    whole, parts = evaluate(ask(folder)), evaluate(ask(folder, batch_size=9))
    assert parts.calibration["nll"] == pytest.approx(whole.calibration["nll"])
    assert parts.calibration["brier"] == pytest.approx(whole.calibration["brier"])


def test_several_files_are_scored_in_blocks(folder, tmp_path):
    cells = anndata.read_h5ad(folder / "query.h5ad")
    (tmp_path / "parts").mkdir()
    cells[:90].copy().write_h5ad(tmp_path / "parts" / "a.h5ad")
    cells[90:].copy().write_h5ad(tmp_path / "parts" / "b.h5ad")

    found = evaluate(ask(folder, input=tmp_path / "parts"))

    assert found.scores == pytest.approx(evaluate(ask(folder)).scores)


def test_files_hold_the_table_or_everything(folder, tmp_path):
    table = evaluate(ask(folder, output=tmp_path / "scores.csv")).classes
    evaluate(ask(folder, output=tmp_path / "scores.json"))

    read = pd.read_csv(tmp_path / "scores.csv", index_col=0)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    whole = json.loads((tmp_path / "scores.json").read_text())
    assert whole["scores"]["f1_macro"] == pytest.approx(table["f1"].mean())
    assert [row["class"] for row in whole["classes"]] == list(table.index)
    assert whole["provenance"]["model"] == "NearestCentroid"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels_key": "none"}, "none.*E-U04"),
        ({"labels_key": "donor_id"}, r"no label is a class of the model.*--labels-key.*E-U88"),
        ({"donor_key": "none"}, "E-U04"),
        ({"ontology_term_key": "none"}, "E-U04"),
        ({"where": ("donor_id=none",)}, "E-"),
        ({"part": "test"}, "E-U34"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(folder, tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        evaluate(ask(folder, output=tmp_path / "scores.csv", **options))

    assert list(tmp_path.iterdir()) == []


def test_no_labels_at_all_are_refused(folder, tmp_path):
    def none(cells):
        cells.obs["kind"] = "unknown"

    path = changed(folder, tmp_path, none)

    with pytest.raises(UsageError, match=r"no cell has a label.*0 of 250.*E-U43"):
        evaluate(ask(folder, input=path))


def test_a_model_that_does_not_annotate_is_refused(folder, tmp_path):
    request = TrainRequest(
        "pca", folder / "reference.h5ad", tmp_path / "pca", {}, model={"n_components": 4}
    )
    train(request)

    with pytest.raises(UsageError, match=r"pca has not the capability 'annotation'.*E-U12"):
        evaluate(EvaluateRequest(folder / "query.h5ad", tmp_path / "pca", None, labels_key="kind"))
