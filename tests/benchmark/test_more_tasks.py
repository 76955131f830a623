"""Groups, ensembles, genes and reconstruction, run in this process."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from _studies import entry, study
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from episome.benchmark import (
    DataEntry,
    ModelEntry,
    SplitEntry,
    call_scores,
    load_data,
    perform,
    plan,
    task_named,
)
from episome.benchmark._reconstruction import Moments
from episome.benchmark._scores import coarse_scores, separation
from episome.data import simulate_cells
from episome.errors import UsageError
from episome.jobs import CorpusRequest, corpus_build


def results(folder, task: str, model="centroid", **kwargs):
    runs = plan(study(task, (model,), **kwargs), task_named(task), folder).runs
    found = [perform(run) for run in runs]
    assert [r.reason for r in found] == [""] * len(found)
    return found, {k: v for r in found for k, v in r.scores.items()}


# --- coarser labels ---------------------------------------------------------------------------


def test_coarse_scores_by_hand():
    of = {"a1": "a", "a2": "a", "b": "b"}
    truth = np.array(["a1", "a1", "a2", "b", "b"])
    calls = np.array(["a1", "a2", "a2", "b", "a1"])

    found = coarse_scores(truth, calls, of)

    # a: 3 of 4 called a are a; b: 1 of 2 is found.
    assert found["accuracy_coarse"] == 0.8
    assert found["f1_macro_coarse"] == pytest.approx((6 / 7 + 2 / 3) / 2)
    # Within a: a1 once found and once missed, a2 found with one more.
    assert found["f1_macro_within"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_nothing_is_said_within_lineages_of_one_type():
    found = coarse_scores(np.array(["a", "b"]), np.array(["a", "b"]), {"a": "x", "b": "y"})

    assert np.isnan(found["f1_macro_within"])


def test_separation_needs_both_kinds():
    assert np.isnan(separation(np.array([0.1, 0.2]), np.array([True, True])))
    assert separation(np.array([0.1, 0.2]), np.array([False, True])) == 1.0


def test_wrong_calls_are_told_by_their_confidence():
    shares = pd.DataFrame({"a": [0.9, 0.8, 0.6], "b": [0.1, 0.2, 0.4]})

    assert call_scores(shares, np.array(["a", "a", "b"]))["auroc_wrong"] == 1.0


@pytest.fixture(scope="module")
def with_lineages(tmp_path_factory):
    cells = simulate_cells(300, 60, n_types=4, n_donors=6, fold_change=2.5, seed=0)
    types = cells.obs["cell_type"].astype(str)
    cells.obs["lineage"] = np.where(types.isin(["type 0", "type 1"]), "one", "two")
    # One cell is filed wrongly: a type belongs where most of its cells do.
    cells.obs.loc[cells.obs_names[0], "lineage"] = "elsewhere"
    cells.obs["organ"] = np.where(np.arange(300) % 3 == 0, "heart", "lung")
    cells.obs.loc[cells.obs_names[:10], "organ"] = "rare"
    folder = tmp_path_factory.mktemp("lineages")
    cells.write_h5ad(folder / "cells.h5ad")
    return folder


def test_lineages_are_scored_beside_types(with_lineages):
    _, scores = results(with_lineages, "annotation", "logreg", data=(entry(coarse_key="lineage"),))

    assert scores["", "f1_macro_coarse"] >= scores["", "f1_macro"] - 0.05
    assert 0 < scores["", "f1_macro_within"] <= 1


def test_a_label_belongs_to_one_lineage(with_lineages):
    cells = load_data(entry(coarse_key="lineage"), with_lineages).cells

    found = cells.obs.groupby("episome_label")["episome_coarse"].unique()
    assert {k: list(v) for k, v in found.items()} == {
        "type 0": ["one"],
        "type 1": ["one"],
        "type 2": ["two"],
        "type 3": ["two"],
    }


# --- groups -----------------------------------------------------------------------------------


def test_every_group_is_scored_by_models_of_all_and_of_its_own(with_lineages):
    found, scores = results(with_lineages, "groups", "logreg", options={"column": "organ"})

    assert {c for c, _ in scores} == {
        f"{organ}, trained on {how}" for organ in ("heart", "lung") for how in ("all", "it alone")
    }
    sizes = {r.key["condition"]: r.predictions.groupby("condition").size() for r in found}
    everything = sizes["trained on all"]
    assert sizes["trained on heart"].iloc[0] == everything["heart, trained on all"]
    assert sizes["trained on lung"].iloc[0] == everything["lung, trained on all"]


def test_groups_need_a_column(with_lineages):
    planned = study("groups", ("logreg",), options={"column": "none"})

    with pytest.raises(UsageError, match=r"column 'none' is missing"):
        plan(planned, task_named("groups"), with_lineages)


# --- donors against cells ---------------------------------------------------------------------


def test_as_many_cells_of_all_donors_are_trained_on(folder):
    options = {"fractions": [], "cells_per_class": [], "donor_fractions": [0.5, 1.0]}
    found, scores = results(folder, "label-efficiency", options=options)

    sizes = {c: scores[c, "n_labelled"] for c, m in scores if m == "n_labelled"}
    half, same = sizes["50 % of the donors"], sizes["as many cells as 50 % of the donors"]
    assert same == pytest.approx(half, abs=3)
    assert sizes["100 % of the donors"] == found[0].facts["n_train"] > 1.5 * half
    assert len(sizes) == 3


def test_shares_of_donors_need_donors(folder):
    planned = study(
        "label-efficiency",
        ("centroid",),
        data=(entry(donor_key=None),),
        splits=(SplitEntry("random"),),
        options={"donor_fractions": [0.5]},
    )

    with pytest.raises(UsageError, match="no donors are known"):
        plan(planned, task_named(planned.task), folder)


# --- ensembles --------------------------------------------------------------------------------


def test_members_are_averaged_and_unseen_types_doubted(folder):
    found, scores = results(
        folder,
        "ensemble",
        ModelEntry("mlp", train={"max_epochs": 15}),
        options={"sizes": [1, 3], "unseen": ["type 3"]},
    )

    table = found[0].predictions
    assert sorted(set(table["condition"])) == ["1 member", "3 members"]
    assert (table["new"] == (table["truth"] == "type 3")).all()
    assert "type 3" not in set(table["call"])
    for condition in ("1 member", "3 members"):
        part = table[table["condition"] == condition]
        right = (part["truth"] == part["call"]).to_numpy()
        assert scores[condition, "accuracy"] == right[~part["new"].to_numpy()].mean()
        assert scores[condition, "auroc_unseen"] > 0.6


# --- genes ------------------------------------------------------------------------------------


def test_genes_of_an_explanation_beat_genes_at_random(folder):
    _, scores = results(folder, "gene-panel", "logreg", options={"n_genes": 5})

    conditions = {c for c, _ in scores}
    assert conditions <= {"easy rare types", "hard rare types"}
    assert sum(scores[c, "n_types"] for c in conditions) == 2
    for c in conditions:
        assert scores[c, "auprc"] > scores[c, "auprc_random_genes"]


# --- reconstruction ---------------------------------------------------------------------------


def reconstruction_scores(expected, measured, mean, where, block=2):
    found = Moments(mean)
    for start in range(0, len(measured), block):
        rows = slice(start, start + block)
        found.add(expected[rows], measured[rows], where[rows])
    return found.scores


def test_reconstruction_scores_by_hand():
    measured = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    mean = np.array([2.0, 1.0])
    where = np.ones((3, 2), dtype=bool)

    perfect = reconstruction_scores(measured, measured, mean, where)
    nothing = reconstruction_scores(np.broadcast_to(mean, (3, 2)), measured, mean, where)

    assert perfect["r2"] == perfect["r2_genes"] == 1.0
    assert perfect["r_genes"] == pytest.approx(1.0)
    assert perfect["ev_weighted"] == perfect["ev_uniform"] == 1.0
    assert nothing["ev_weighted"] == nothing["ev_uniform"] == 0.0
    assert (nothing["r2"], nothing["r_genes"], nothing["mse"]) == (0.0, 0.0, pytest.approx(8 / 6))
    assert np.isnan(reconstruction_scores(measured, measured, mean, ~where)["r2"])


def test_scores_of_reconstruction_are_the_recorded_ones_of_torchmetrics(golden):
    case = golden("06f_ssl_likelihoods_and_metrics")
    target, expected = (case[f"metric/{k}"].astype(float) for k in ("target", "pred"))
    everywhere = np.ones_like(target, dtype=bool)

    plain = reconstruction_scores(expected, target, target.mean(axis=0), everywhere)
    # Genes that never vary: there they weigh nothing, and are 0 in a mean over all genes; ours
    # leaves them out of means over genes.
    varies = np.ptp(target, axis=0) > 0
    assert (~varies).sum() == 2

    case.check("metric/mse", np.array(plain["mse"]))
    weighted = np.array(plain["ev_weighted"])
    case.check("metric/explained_variance_variance_weighted", weighted)
    raw = case["metric/explained_variance_raw_values"]
    assert plain["ev_uniform"] == pytest.approx(raw[varies].mean(), abs=1e-5)
    uniform = np.array(plain["ev_uniform"] * varies.mean() + raw[~varies].sum() / len(raw))
    case.check("metric/explained_variance_uniform_average", uniform)


@given(seed=st.integers(0, 200), block=st.integers(1, 11))
def test_explained_variance_is_that_of_scikit_learn_in_any_blocks(seed, block):
    from sklearn.metrics import explained_variance_score

    rng = np.random.default_rng(seed)
    target = rng.gamma(2.0, 1.0, (11, 5)) * [1, 1, 10, 0.1, 3]
    expected = target + rng.normal(0, 0.5, (11, 5)) + 0.3

    def scores(said):
        everywhere = np.ones_like(target, dtype=bool)
        return reconstruction_scores(said, target, rng.normal(size=5), everywhere, block=block)

    found = scores(expected)

    for name, how in (("ev_uniform", "uniform_average"), ("ev_weighted", "variance_weighted")):
        wanted = explained_variance_score(target, expected, multioutput=how)
        assert found[name] == pytest.approx(wanted, abs=1e-9)
    # A constant difference is forgiven, and the mean of a gene explains nothing.
    assert scores(target + 2.0)["ev_weighted"] == pytest.approx(1.0)
    nothing = scores(np.broadcast_to(target.mean(axis=0), target.shape))
    assert nothing["ev_weighted"] == pytest.approx(0.0, abs=1e-9)
    assert nothing["ev_uniform"] == pytest.approx(0.0, abs=1e-9)


def test_genes_that_a_model_says_nothing_of_are_left_out():
    rng = np.random.default_rng(0)
    measured = rng.random((30, 4))
    expected = measured + 0.1 * rng.random((30, 4))
    told = np.array([True, False, True, True])
    holes = np.where(told, expected, np.nan)
    everywhere = np.ones_like(measured, dtype=bool)

    found, whole = Moments(np.zeros(4)), Moments(np.zeros(3))
    found.add(holes, measured, everywhere)
    found.keep(told)
    whole.add(expected[:, told], measured[:, told], everywhere[:, told])

    assert found.scores == pytest.approx(whole.scores)


@given(seed=st.integers(0, 200), block=st.integers(1, 9))
def test_reconstruction_scores_of_blocks_are_those_of_every_gene(seed, block):
    rng = np.random.default_rng(seed)
    measured = rng.normal(3, 1, (9, 4))
    measured[:, 0] = 2.5  # never varies
    expected = measured + rng.normal(0, 0.5, (9, 4))
    expected[:, 1] = 3.0  # the same for all
    where = rng.random((9, 4)) < 0.8

    found = reconstruction_scores(expected, measured, np.full(4, 2.0), where, block)

    r2, r = [], []
    for j in range(4):
        true, said = measured[where[:, j], j], expected[where[:, j], j]
        if len(true) >= 3 and np.ptp(true) > 0:
            r2.append(r2_score(true, said))
            r.append(np.corrcoef(true, said)[0, 1] if np.ptp(said) > 0 else 0.0)
    assert found["r2_genes"] == pytest.approx(np.mean(r2))
    assert found["r_genes"] == pytest.approx(np.mean(r), abs=1e-7)
    assert found["mse"] == pytest.approx(((expected - measured)[where] ** 2).mean())


def test_components_reconstruct_better_than_the_mean(folder):
    _, scores = results(folder, "reconstruction", "pca", data=(entry(labels_key=None),))

    assert scores["seen", "r2"] > scores["mean of training, seen", "r2"] == 0.0
    # Components of zeros give zeros back: they are no way to fill in what was not seen.
    assert scores["hidden", "r2"] < scores["mean of training, hidden", "r2"] == 0.0
    assert scores["seen", "saw_labels"] == 0.0
    assert {c for c, _ in scores} == {
        "seen",
        "hidden",
        "mean of training, seen",
        "mean of training, hidden",
    }


# --- corpora ----------------------------------------------------------------------------------


def test_a_corpus_is_a_data_set_and_many_cells_are_drawn_from(cells, folder, tmp_path):
    _build(folder, tmp_path)
    whole = load_data(_corpus(), tmp_path).cells
    some = load_data(_corpus(max_cells=50), tmp_path).cells

    assert whole.n_obs == cells.n_obs
    assert some.n_obs == 50
    again = load_data(_corpus(max_cells=50), tmp_path).cells
    assert list(again.obs_names) == list(some.obs_names)
    assert float(whole.X.sum()) == float(cells.X.sum())


def _build(folder, output):
    corpus_build(
        CorpusRequest(
            (folder / "cells.h5ad",),
            output / "cells.corpus",
            labels_key="cell_type",
            donor_keys=("donor_id",),
        )
    )


def _corpus(**kwargs) -> DataEntry:
    return DataEntry(
        "cells", "cells.corpus", labels_key="cell_type", donor_key="donor_id", **kwargs
    )


def test_a_corpus_needs_a_column_of_labels(folder, tmp_path):
    _build(folder, tmp_path)

    with pytest.raises(UsageError, match="E-B05"):
        load_data(dataclasses.replace(_corpus(), labels_key=None), tmp_path)


# --- donors that nobody knows -----------------------------------------------------------------


def test_cells_without_a_donor_are_of_no_donor(cells, tmp_path):
    some = cells.copy()
    some.obs["donor_id"] = some.obs["donor_id"].astype(object)
    some.obs.loc[some.obs_names[:60], "donor_id"] = np.nan
    some.write_h5ad(tmp_path / "cells.h5ad")

    found, _ = results(tmp_path, "annotation", splits=(SplitEntry("random", allow=("donor",)),))

    donors = set(found[0].predictions["donor"])
    assert "" in donors
    assert donors - {""} <= set(cells.obs["donor_id"].astype(str))
