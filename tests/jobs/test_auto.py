"""``train auto``: the installed annotators compared on held-out cells."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import episome
from episome import jobs
from episome.cli._app import app
from episome.data import simulate_cells
from episome.errors import PluginError, UsageError
from episome.jobs import _auto, _trials
from episome.models import Ensemble, LogisticRegression, load

FAST = ("majority", "centroid", "logreg")


def cells(n_obs: int = 360, seed: int = 0):
    return simulate_cells(n_obs, 60, n_types=3, n_donors=6, fold_change=2.0, seed=seed)


def compared(adata, **kwargs):
    args = {"models": FAST, "donor_key": "donor_id", "ensemble": False}
    return episome.train_auto(adata, "cell_type", **{**args, **kwargs})


@pytest.fixture(scope="module")
def result():
    return compared(cells())


def test_the_best_on_held_out_donors_is_trained_on_all_cells(result):
    table = result.table.set_index("model")

    assert set(table.index) == set(FAST)
    assert table.loc["majority", "macro_f1"] < 0.3 < 0.8 < table["macro_f1"].max()
    assert result.chosen == (table["macro_f1"].idxmax(),) or "likeliest" in result.reason
    assert result.model.is_trained_
    assert result.model.fit_["n_cells"] == 360
    assert "6 donors in 3 parts" in result.held_out
    assert (table["low"] <= table["macro_f1"]).all()
    assert (table["macro_f1"] <= table["high"]).all()


def test_every_candidate_has_its_reason(result):
    reasons = result.table.set_index("model")["reason"]

    assert reasons[result.chosen[0]] == "chosen"
    assert "behind on the first part" in reasons["majority"]


def test_the_folder_remembers_the_comparison(result, tmp_path):
    result.model.save(tmp_path / "m")

    found = load(tmp_path / "m").fit_["auto"]

    assert found["chosen"] == list(result.chosen)
    assert len(found["table"]) == len(result.table)
    assert f"Chosen: {result.reason}" in (tmp_path / "m" / "README.md").read_text()


def test_the_data_stay_as_they_were():
    adata = cells()
    before = adata.copy()

    compared(adata)

    assert (adata.X != before.X).nnz == 0
    assert [c for c in adata.obs if not c.startswith("_scvi")] == list(before.obs)


def test_the_same_seed_gives_the_same_table():
    one, two = (compared(cells()).table.drop(columns="seconds") for _ in range(2))

    assert one.equals(two)


def test_no_donor_is_on_both_sides(monkeypatch):
    seen = []

    def spy(trial, adata, setup, fitted, held, **kwargs):
        donors = adata.obs["donor_id"].astype(str).to_numpy()
        seen.append(set(donors[fitted]) & set(donors[held]))
        _trials.try_model(trial, adata, setup, fitted, held, **kwargs)

    monkeypatch.setattr(_auto, "try_model", spy)
    compared(cells(), models=("centroid",))

    assert len(seen) == 3
    assert not any(seen)


def test_what_fails_is_a_row_and_stops_nothing(monkeypatch):
    def broken(self, cells):
        msg = "the solver gave up"
        raise RuntimeError(msg)

    monkeypatch.setattr(LogisticRegression, "_fit_core", broken)

    table = compared(cells()).table.set_index("model")

    assert "RuntimeError: the solver gave up" in table.loc["logreg", "reason"]
    assert np.isnan(table.loc["logreg", "macro_f1"])
    assert table.loc["centroid", "reason"] == "chosen"


def test_nothing_that_works_is_an_error(monkeypatch):
    def broken(self, cells):
        msg = "the solver gave up"
        raise RuntimeError(msg)

    monkeypatch.setattr(LogisticRegression, "_fit_core", broken)

    with pytest.raises(UsageError, match=r"the solver gave up.*E-U75"):
        compared(cells(), models=("logreg",))


def test_when_time_is_up_the_rest_is_not_tried(monkeypatch):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(_auto, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))

    found = compared(cells(), time_budget=100.0).table.set_index("model")

    assert found.loc["majority", "reason"] == "chosen"
    for name in ("centroid", "logreg"):
        assert found.loc[name, "reason"] == "not tried: the time was used up"


def test_what_was_better_on_the_shared_cells_is_not_beaten_by_time(monkeypatch):
    """One candidate ends after the first part, ahead of the two that go on."""
    real = _auto._try

    def tried(arena, name, parts, train_kwargs, *, n_left):
        if name != "logreg" or not arena.trials.get(name):
            real(arena, name, parts, train_kwargs, n_left=n_left)

    def scores(trial, truth, donors):
        found = _trials.scores_of(trial, truth, donors)
        return {**found, "macro_f1": 0.9 if trial.name == "logreg" else 0.85}

    monkeypatch.setattr(_auto, "_try", tried)
    monkeypatch.setattr(_auto, "scores_of", scores)

    found = compared(cells())

    table = found.table.set_index("model")
    assert found.chosen == ("logreg",)
    assert "there was no time for all parts" in found.reason
    assert table.loc["centroid", "reason"] == "0.050 behind"


def test_a_single_fit_that_overruns_is_said(monkeypatch):
    clock = iter([0.0, *range(10, 10_000, 10)])
    monkeypatch.setattr(_auto, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    lines = []

    compared(cells(), time_budget=35.0, models=("majority",), progress=lines.append)

    assert any("after the time was used up" in line for line in lines)


def test_a_training_of_epochs_is_stopped():
    trial = _trials.Trial("sctab", 360)
    rows = np.arange(360)

    _trials.try_model(
        trial,
        cells(),
        {"labels_key": "cell_type"},
        rows[:240],
        rows[240:],
        seconds=0.0,
        train_kwargs={},
    )

    assert trial.problem.startswith("stopped after")
    assert trial.n_parts == 0


def test_a_mean_of_two_may_win(monkeypatch):
    def better(trials, truth, rows):
        best = max(rows.values(), key=lambda row: row["macro_f1"])
        return _trials.Pair(("centroid", "logreg"), {**best, "macro_f1": 1.1})

    monkeypatch.setattr(_auto, "best_pair", better)

    found = compared(cells(), ensemble=True)

    assert isinstance(found.model, Ensemble)
    assert found.chosen == ("centroid", "logreg")
    assert "as the mean of two" in found.reason
    assert found.model.confidence_.is_calibrated
    assert found.model.predict_proba(cells(seed=1)).shape == (360, 3)


def test_pairs_are_scored_on_the_mean_of_their_probabilities():
    truth = np.array(["a", "b", "a", "b"], dtype=object)
    sure, doubt = (
        pd.DataFrame({"a": [0.9, 0.1, 0.4, 0.6]}),
        pd.DataFrame({"a": [0.2, 0.2, 0.9, 0.3]}),
    )
    trials = []
    for name, share in (("centroid", sure), ("logreg", doubt)):
        trial = _trials.Trial(name, 4)
        trial.add(np.arange(4), share.assign(b=1 - share["a"]), 1.0)
        trials.append(trial)
    rows = {t.name: _trials.scores_of(t, truth, None) for t in trials}

    pair = _trials.best_pair(trials, truth, rows)

    assert pair.names == ("logreg", "centroid")
    assert rows["centroid"]["accuracy"] == 0.5
    assert pair.scores["accuracy"] == 1.0


def test_of_many_cells_a_sample_of_every_type_is_compared():
    codes = np.repeat([0, 1, 2], [9000, 900, 10])

    kept = _auto._sample(codes, 1000, 0)

    assert (codes[kept] == 2).sum() == 10
    assert 1000 <= len(kept) <= 1100


@pytest.mark.parametrize("budget", [0, -1, float("nan")])
def test_a_budget_is_a_number_of_seconds(budget):
    with pytest.raises(UsageError, match="E-U22"):
        compared(cells(), time_budget=budget)


def test_one_type_is_nothing_to_compare():
    adata = cells()
    adata.obs["cell_type"] = "T cell"

    with pytest.raises(UsageError, match="E-U75"):
        compared(adata)


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    folder = str(tmp_path / "m")
    words = ["train", "auto", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type"]
    words += ["--donor-key", "donor_id", "--models", ", ".join(FAST), "-o", folder]

    done = CliRunner().invoke(app, [*words, "--json"])

    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    assert {row["model"] for row in answer["fit"]["auto"]["table"]} >= set(FAST)
    assert load(folder).is_trained_
    done = CliRunner().invoke(app, [*words, "--overwrite"])
    assert "held-out cells" in done.stdout
    assert "majority" in done.stdout


@pytest.mark.parametrize(
    "more", [["--set", "n_steps=3"], ["--ensemble", "3"], ["--max-epochs", "3"]]
)
def test_settings_of_one_model_are_refused(tmp_path, more):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    words = ["train", "auto", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type"]

    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "m"), *more])

    assert done.exit_code == 2
    assert "E-U76" in done.stderr


@pytest.mark.parametrize("models", [[], [LogisticRegression], ["pca"], "pca"])
def test_what_names_no_annotator_is_refused(models):
    with pytest.raises(UsageError, match="E-U75"):
        compared(cells(), models=models)


def test_one_name_is_one_name():
    assert compared(cells(), models="centroid").chosen == ("centroid",)


def test_a_budget_that_is_too_small_is_said():
    with pytest.raises(UsageError, match=r"raise time_budget.*E-U75"):
        compared(cells(), models=["sctab"], time_budget=0.01)


def test_models_of_vectors_and_of_genes_are_never_averaged(tmp_path):
    adata = cells()
    adata.obsm["X_all"] = np.log1p(adata.X.toarray())
    names = ["embedding:X_all:logreg", "centroid"]

    found = compared(adata, models=names, ensemble=True)
    found.model.save(tmp_path / "m")

    assert set(found.table["model"]) == set(names)


def test_what_was_not_tried_is_saved_too(monkeypatch, tmp_path):
    def broken(self, cells):
        raise RuntimeError("no")

    monkeypatch.setattr(LogisticRegression, "_fit_core", broken)
    found = compared(cells())

    found.model.save(tmp_path / "m")

    rows = {r["model"]: r for r in load(tmp_path / "m").fit_["auto"]["table"]}
    assert rows["logreg"]["macro_f1"] is None


@pytest.mark.parametrize(
    ("method", "models"), [("auto", ""), ("auto", " , "), ("centroid", "logreg")]
)
def test_a_list_of_models_that_says_nothing_is_refused(tmp_path, method, models):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    words = ["train", method, str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type"]

    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "m"), "--models", models])

    assert done.exit_code == 2
    assert "E-U76" in done.stderr


def test_unknown_names_are_refused_before_anything_is_read(tmp_path):
    request = jobs.TrainRequest(
        "auto", tmp_path / "none.h5ad", tmp_path / "m", {"labels_key": "x"}, models=("nobody",)
    )

    with pytest.raises(PluginError, match="E-P01"):
        jobs.train(request)
