"""The search for settings of a model: what is tried, on which cells, and what wins."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from episome import settings
from episome.cli._app import app
from episome.data import simulate_cells
from episome.errors import MissingDependencyError, UsageError
from episome.jobs import TuneRequest, _tune, tune
from episome.models import Between, LogisticRegression, MLPClassifier, SCTab, load

ray = pytest.importorskip("ray", reason="Ray is not installed: the extra episome[tune]")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    simulate_cells(260, 60, n_types=3, n_donors=6, fold_change=2.0, seed=0).write_h5ad(path)
    return path


@pytest.fixture(autouse=True)
def _same_seed(monkeypatch):
    monkeypatch.setattr(settings, "seed", 0)


def ask(cells, output, **kwargs):
    options = {
        "method": "logreg",
        "setup": {"labels_key": "cell_type", "donor_key": "donor_id"},
        "space": {"model.penalties": (1e-6, 1.0), "model.n_top_genes": (5, 60)},
        "n_trials": 4,
        "n_workers": 2,
        **kwargs,
    }
    return TuneRequest(input=cells, output=output, **options)


@pytest.mark.slow
def test_the_best_settings_win_and_train_the_model(cells, tmp_path):
    seen = []

    found = tune(
        ask(cells, tmp_path / "m"), progress=lambda done, total: seen.append((done, total))
    )

    table = found.table
    assert sorted(table["trial"]) == [0, 1, 2, 3]
    assert (
        table.loc[table["reason"] == "chosen", "macro_f1"].iloc[0]
        >= table["macro_f1"].max() - 0.005
    )
    weak = table[table["model.penalties"] == 1e-6]
    assert len(weak)
    assert (weak["macro_f1"] < table["macro_f1"].max()).all()
    assert found.chosen.get("model.penalties") != 1e-6
    assert "6 donors" in found.held_out
    assert seen[-1] == (4, 4)
    model = load(tmp_path / "m")
    assert model.fit_["tuning"]["chosen"] == found.chosen
    assert len(model.fit_["tuning"]["table"]) == 4
    assert model.fit_["n_train"] == 260


@pytest.mark.slow
def test_the_command_says_what_it_chose_and_a_setting_that_fails_is_a_row(cells, tmp_path):
    words = ["tune", "mlp", str(cells), "--labels-key", "cell_type", "--donor-key", "donor_id"]
    words += ["-o", str(tmp_path / "m"), "--trials", "3", "--workers", "2", "--max-epochs", "2"]
    words += ["--space", "model.n_layers=0,1", "--space", "plan.lr=0.001..0.01", "--device", "cpu"]

    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)

    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    rows = answer["data"]["table"] if "data" in answer else answer["table"]
    failed = [r for r in rows if r["macro_f1"] is None]
    assert {r["model.n_layers"] for r in failed} <= {0}
    assert all("n_layers" in r["reason"] or "built" in r["reason"] for r in failed)
    assert (tmp_path / "m" / "manifest.json").exists()


def test_draws_follow_the_seed_start_with_the_defaults_and_are_no_two_alike(cells, tmp_path):
    request = ask(cells, tmp_path, space={"plan.lr": Between(1e-3, 1e-1)}, method="mlp")

    one = _tune._candidates(MLPClassifier, request, request.space)
    other = _tune._candidates(MLPClassifier, request, request.space)

    assert one == other
    assert one[0] == {}
    rates = [c["plan.lr"] for c in one[1:]]
    assert len(set(rates)) == 3
    assert all(1e-3 <= r <= 1e-1 for r in rates)


def test_a_range_draws_every_order_of_magnitude_as_often():
    rng = np.random.default_rng(0)
    drawn = np.log10([Between(1e-4, 1.0).draw(rng) for _ in range(4000)])

    counts, _ = np.histogram(drawn, bins=4, range=(-4, 0))
    assert (abs(counts - 1000) < 130).all()


def test_settings_go_where_their_name_says(cells, tmp_path):
    request = ask(
        cells,
        tmp_path,
        train={"plan_kwargs": {"lr": 1.0, "lr_decay": 0.5}},
        model={"preset": "small"},
    )
    chosen = {"model.n_d": 8, "train.augment": "donor", "plan.lr": 0.1}

    model, train = _tune._arguments(chosen, request)

    assert model == {"preset": "small", "n_d": 8}
    assert train == {"augment": "donor", "plan_kwargs": {"lr": 0.1, "lr_decay": 0.5}}
    assert request.train["plan_kwargs"]["lr"] == 1.0


def test_models_say_what_is_worth_trying():
    with_donors = SCTab.tuning_space(has_donors=True)

    assert "small" in with_donors["model.preset"]
    assert set(with_donors["train.augment"]) == {None, "donor"}
    assert "train.augment_strength" in with_donors
    assert "train.augment" not in SCTab.tuning_space()
    assert LogisticRegression.tuning_space() == {}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_trials": 1}, "E-U99"),
        ({"space": {}}, "E-U99"),
        ({"space": {"n_top_genes": (1, 2)}}, "E-U99"),
        ({"space": {"model.n_top_genes": ()}}, "E-U99"),
        ({"space": {"model.nothing": (1, 2)}}, "E-U24"),
        ({"space": {"model.n_top_genes": (1000, "many")}}, "E-U26"),
        ({"space": {"plan.lr": (0.01, "fast")}, "method": "mlp"}, "E-U15"),
        ({"method": "pca"}, "E-U99"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_the_cells_are_read(
    cells, tmp_path, change, match, monkeypatch
):
    monkeypatch.setattr(_tune, "read_cells", None)

    with pytest.raises(UsageError, match=match):
        tune(ask(cells, tmp_path / "m", **change))


def test_without_ray_the_extra_is_named(cells, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)

    with pytest.raises(MissingDependencyError, match=r"episome\[tune\]"):
        tune(ask(cells, tmp_path / "m"))
