"""Every task, run in this process on simulated cells."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from _studies import entry, study

from episome.benchmark import (
    ModelEntry,
    SplitEntry,
    kept_share,
    perform,
    plan,
    run_study,
    strict_accuracy,
    task_named,
)


def results(folder, task: str, model="centroid", **kwargs):
    runs = plan(study(task, (model,), **kwargs), task_named(task), folder).runs
    found = [perform(run) for run in runs]
    assert [r.reason for r in found] == [""] * len(found)
    scores = {k: v for r in found for k, v in r.scores.items()}
    return found, scores


def test_annotation_scores_what_the_predictions_say(folder):
    (found,), scores = results(folder, "annotation", "logreg")

    table = found.predictions
    assert scores["", "accuracy"] == (table["truth"] == table["call"]).mean()
    assert scores["", "f1_macro"] > 0.8
    assert set(table["donor"])
    assert not set(table["donor"]) & {"", "nan"}
    assert found.facts["n_test"] == len(table)
    assert 0 < found.facts["train_seconds"] < found.facts["seconds"]
    # Those that need terms of an ontology, or coarser labels.
    more = {"f1_macro_ontology", "f1_macro_coarse", "accuracy_coarse", "f1_macro_within"}
    assert set(task_named("annotation").metrics) - more <= {m for _, m in scores}


def test_a_run_is_the_same_again(folder):
    (one,), _ = results(folder, "annotation", "logreg")
    (two,), _ = results(folder, "annotation", "logreg")

    assert one.run == two.run
    assert one.scores == pytest.approx(two.scores, rel=0, abs=0, nan_ok=True)
    assert one.predictions.equals(two.predictions)


def test_an_ensemble_is_a_model(folder):
    (found,), _ = results(folder, "annotation", ModelEntry("logreg", "three", ensemble=2))

    assert found.key["model"] == "three"


def test_few_cells_are_parts_of_more(folder):
    found, scores = results(
        folder, "label-efficiency", options={"fractions": [0.2, 1.0], "cells_per_class": [3]}
    )

    amounts = {c: scores[c, "n_labelled"] for c, _ in scores}
    assert amounts["3 cells a type"] == 12
    whole = amounts["100 % of the training cells"]
    assert whole == found[0].facts["n_train"]
    assert amounts["20 % of the training cells"] == pytest.approx(0.2 * whole, abs=3)
    assert (
        scores["100 % of the training cells", "f1_macro"] >= scores["3 cells a type", "f1_macro"]
    )


def test_rare_types_are_rare(folder, monkeypatch):
    from episome.benchmark import _case

    sizes = {}
    real = _case.Case.fitted

    def fitted(self, train=None, **kwargs):
        sizes[self.condition] = train.obs["episome_label"].value_counts()
        return real(self, train, **kwargs)

    monkeypatch.setattr(_case.Case, "fitted", fitted)

    _, scores = results(folder, "imbalance", options={"ratios": [1, 8]})

    assert sizes["ratio 1"].max() == sizes["ratio 1"].min()
    assert sizes["ratio 8"].max() / sizes["ratio 8"].min() == pytest.approx(8, rel=0.3)
    assert 0 <= scores["ratio 8", "recall_rare"] <= 1


def test_genes_and_counts_are_taken_from_the_test_cells_alone(folder):
    (found,), scores = results(
        folder,
        "robustness",
        "logreg",
        options={"genes_dropped": [0.5], "depths": [0.1], "n_draws": 2},
    )

    assert {c for c, _ in scores} == {
        "complete",
        "without 50% of the genes",
        "10% of the counts",
    }
    for condition in ("without 50% of the genes", "10% of the counts"):
        assert scores[condition, "accuracy"] < scores["complete", "accuracy"]
    assert set(found.predictions["condition"]) == {"complete"}


def test_an_array_of_obsm_is_a_model(cells, tmp_path):
    other = cells.copy()
    truth = other.obs["cell_type"].astype("category").cat.codes.to_numpy()
    other.obsm["X_good"] = np.eye(4, dtype=np.float32)[truth]
    other.obsm["X_other"] = other.obsm["X_good"].copy()
    other.write_h5ad(tmp_path / "cells.h5ad")

    _, scores = results(tmp_path, "annotation", "embedding:X_good:logreg")

    assert scores["", "accuracy"] == 1.0


def test_each_type_is_new_in_turn(folder):
    found, scores = results(folder, "novelty", "logreg", options={"min_cells": 5})

    assert sorted({c for c, _ in scores}) == [f"without type {i}" for i in range(4)]
    assert np.mean([scores[c, "auroc"] for c in {c for c, _ in scores}]) > 0.6
    for one in found:
        left_out = one.key["condition"].removeprefix("without ")
        assert left_out in set(one.predictions["truth"])
        assert left_out not in set(one.predictions["call"])


def test_embeddings_are_read_by_neighbours_and_by_a_probe(folder):
    (found,), scores = results(folder, "embedding", "pca")

    assert scores["linear probe", "accuracy"] > 0.8
    assert 0 <= scores["kNN", "accuracy"] <= 1
    assert scores["kNN", "saw_labels"] == 0
    assert scores["kNN", "nmi"] == scores["linear probe", "nmi"]
    assert len(found.predictions) == 2 * found.facts["n_test"]


def test_a_model_that_needs_labels_says_that_it_saw_them(folder):
    _, scores = results(
        folder, "embedding", ModelEntry("mlp", train={"max_epochs": 1, "accelerator": "cpu"})
    )

    assert scores["kNN", "saw_labels"] == 1


def test_what_cannot_be_run_is_a_row_with_its_reason(folder):
    wrong = ModelEntry("logreg", init={"n_top_genes": "many"})
    bug = ModelEntry("centroid", train={"max_epochs": 3})
    for model in (wrong, bug):
        (run,) = plan(study(models=(model,)), task_named("annotation"), folder).runs
        found = perform(run)
        assert found.status == "failed"
        assert found.reason
        assert found.facts["n_train"] > 0


def test_integration_needs_batches(folder):
    with pytest.raises(Exception, match="a column of batches"):
        plan(study("integration", ("pca",)), task_named("integration"), folder)


needs_scib = pytest.mark.skipif(
    find_spec("scib_metrics") is None, reason="integration scores come from scib-metrics"
)


@pytest.mark.slow
@needs_scib
def test_integration_scores_a_space_beside_the_one_nobody_touched(folder, tmp_path):
    # In a process of its own: jax has threads, and other tests fork this one.
    asked = study(
        "integration",
        ("pca",),
        data=(entry(batch_key="site"),),
        splits=(SplitEntry("random", allow=("donor",)),),
    )

    found = run_study(asked, tmp_path, base=folder)

    assert found.counts == {"ok": 1}
    scores = found.store.table().set_index(["condition", "metric"])["value"]
    assert set(scores.index.get_level_values(0)) == {"", "unintegrated"}
    for condition in ("", "unintegrated"):
        bio, batch = (scores[condition, m] for m in ("bio_conservation", "batch_correction"))
        assert scores[condition, "total"] == pytest.approx(0.6 * bio + 0.4 * batch)
    assert 0 <= scores["", "pcr_comparison"] <= 1


SCORED = """
import json, sys
import numpy as np
from episome.benchmark._embedding import integration_scores
case = np.load(sys.argv[1])
found = integration_scores(
    case["embedding"],
    case["labels"],
    case["batches"],
    before=case["pre_integration"],
    n_neighbors=case["neighbour_indices"].shape[1],
)
print(json.dumps(found))
"""


@pytest.mark.slow
@needs_scib
def test_integration_scores_are_those_of_scib_metrics(golden, tmp_path):
    case = golden("10a_scib_metrics")
    np.savez(tmp_path / "case.npz", **case.arrays)
    words = [sys.executable, "-c", SCORED, str(tmp_path / "case.npz")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=500)
    found = json.loads(done.stdout.splitlines()[-1])

    named = {"ilisi_knn": "ilisi", "clisi_knn": "clisi", "kmeans_nmi": "nmi_kmeans"}
    named |= {"kmeans_ari": "ari_kmeans", "kbet": "kbet_per_label"}
    for key, short in case.under("score/"):
        value = found[named.get(short, short)]
        np.testing.assert_allclose(value, case[key], err_msg=short, **case.tolerance(key))


def test_the_share_that_is_kept_has_few_wrong_calls():
    sure = np.array([0.9, 0.8, 0.7, 0.6])

    assert kept_share(sure, np.array([True, True, True, False]), 0.0) == 0.75
    assert kept_share(sure, np.array([True, True, True, False]), 0.25) == 1.0
    assert kept_share(sure, np.array([False, True, True, True]), 0.1) == 0.0


def test_strict_accuracy_is_of_the_union():
    truth, said = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)

    assert strict_accuracy(truth, said) == pytest.approx(1 / 3)
    assert np.isnan(strict_accuracy(np.zeros(2, bool), np.zeros(2, bool)))
