"""XGBoostPCA against xgboost itself, and what its folders hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import MissingDependencyError, ModelFileError, UsageError
from episome.inference import Predictor
from episome.io import read_model_folder
from episome_baselines import XGBoostPCA, extras
from episome_baselines.components import fit_components

xgboost = pytest.importorskip("xgboost")

QUICK = {"n_components": 8, "n_rounds": 12, "max_depth": 3}


def cells(n_types=3):
    everything = simulate_cells(240, 50, n_types=n_types, n_donors=6, fold_change=2.5)
    return everything[:180].copy(), everything[180:].copy()


def fitted(adata, setup=None, **kwargs):
    adata = adata.copy()
    XGBoostPCA.setup_anndata(adata, labels_key="cell_type", **(setup or {}))
    model = XGBoostPCA(adata, **{**QUICK, **kwargs})
    model.train()
    return model


def values_of(model, adata=None):
    parts = model.predictor().batches(model.prepare(adata))
    return sparse.vstack([b["X"] for b in parts], format="csr")


@pytest.mark.parametrize("n_types", [2, 4])
def test_probabilities_are_those_of_xgboost_on_the_same_components(n_types):
    train, query = cells(n_types)
    model = fitted(train, early_stopping=False)

    values, codes = values_of(model), model.training_codes()
    found = fit_components(values, 8, n_top_genes=None, seed=0)
    counts = np.bincount(codes)
    weights = (len(codes) / (len(counts) * counts))[codes]
    data = xgboost.DMatrix(found.project(values), label=codes, weight=weights.astype(np.float32))
    params = {
        "objective": "multi:softprob",
        "num_class": n_types,
        "eta": 0.05,
        "subsample": 0.75,
        "max_depth": 3,
        "tree_method": "hist",
        "seed": 0,
    }
    reference = xgboost.train(params, data, num_boost_round=12)
    wanted = reference.predict(xgboost.DMatrix(found.project(values_of(model, query))))

    got = model.predict_proba(query, calibrated=False).to_numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_rounds_are_chosen_once_on_other_donors(monkeypatch):
    train, _ = cells()
    calls = []
    plain = xgboost.train

    def counting(params, data, num_boost_round, **kwargs):
        calls.append((num_boost_round, "evals" in kwargs, data.num_row()))
        return plain(params, data, num_boost_round=num_boost_round, **kwargs)

    monkeypatch.setattr(xgboost, "train", counting)
    model = fitted(train, {"donor_key": "donor_id"}, n_rounds=150, learning_rate=0.5)

    chosen = model.fit_["n_rounds"]
    assert [inner for _, inner, _ in calls] == [True] + [False] * 6
    assert calls[0][0] == 150
    assert calls[0][2] < 180
    assert {rounds for rounds, _, _ in calls[1:]} == {chosen}
    assert calls[-1][2] == 180
    assert chosen < 150
    assert model.fit_["chosen_by"] == "donor"
    assert model.module.booster.num_boosted_rounds() == chosen


def test_all_rounds_are_run_without_early_stopping():
    train, _ = cells()

    model = fitted(train, early_stopping=False)

    assert model.fit_["n_rounds"] == 12
    assert "chosen_by" not in model.fit_


def test_sizes_follow_the_reference_and_the_call():
    train, _ = cells()
    XGBoostPCA.setup_anndata(train, labels_key="cell_type")
    auto, paper = XGBoostPCA(train), XGBoostPCA(train, preset="paper", n_components=99)

    assert (auto._sizes(99_999).n_components, auto._sizes(99_999).n_rounds) == (50, 200)
    assert (auto._sizes(100_000).n_components, auto._sizes(100_000).n_rounds) == (256, 800)
    assert (paper._sizes(10).n_components, paper._sizes(10).n_rounds) == (99, 800)


def test_the_trees_are_a_sealed_file_of_json(tmp_path):
    train, query = cells()
    model = fitted(train)
    model.save(tmp_path / "model")

    folder = read_model_folder(tmp_path / "model")
    assert set(folder.files) == {"xgboost.json"}
    assert "learner" in json.loads(folder.files["xgboost.json"])
    assert "files/xgboost.json" in folder.manifest["files"]
    alone = Predictor.from_folder(tmp_path / "model")
    got = alone.predict_proba(alone.prepare(query))
    np.testing.assert_array_equal(got, model.predict_proba(query))

    trees = tmp_path / "model" / "files" / "xgboost.json"
    trees.write_bytes(trees.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(ModelFileError, match=r"E-M03"):
        XGBoostPCA.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no such file"),
        ({"xgboost.json": b"{}"}, "do not fit"),
        ({"xgboost.json": b"no json"}, "do not fit"),
    ],
)
def test_trees_that_are_none_are_refused(files, why):
    core = fitted(cells()[0]).module
    arrays, _ = core.state()

    with pytest.raises(ModelFileError, match=why) as caught:
        type(core).from_config(core.config).load_state(arrays, files)
    assert caught.value.code == "E-M06"


def test_trees_of_another_model_are_refused():
    core = fitted(cells()[0]).module
    arrays, _ = core.state()
    _, files = fitted(cells(4)[0]).module.state()

    with pytest.raises(ModelFileError, match="know 4 classes"):
        type(core).from_config(core.config).load_state(arrays, files)


def test_without_xgboost_the_extra_is_named(monkeypatch, tmp_path):
    train, _ = cells()
    model = fitted(train)
    model.save(tmp_path / "model")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)

    for call in (lambda: XGBoostPCA(train), lambda: Predictor.from_folder(tmp_path / "model")):
        with pytest.raises(MissingDependencyError, match=r"episome-baselines\[xgboost\]") as got:
            call()
        assert got.value.code == "E-P02"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"n_rounds": 0}, "E-U22"),
        ({"n_components": 0}, "E-U22"),
        ({"subsample": 0.0}, "E-U15"),
        ({"learning_rate": 2.0}, "E-U15"),
        ({"preset": "large"}, "E-U30"),
    ],
)
def test_impossible_settings_are_refused(arguments, code):
    train, _ = cells()
    XGBoostPCA.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError) as caught:
        XGBoostPCA(train, **arguments)
    assert caught.value.code == code


def test_cells_of_no_donor_still_choose_rounds_by_class():
    train, _ = cells()

    model = fitted(train)

    assert model.fit_["chosen_by"] == "cell"
    assert 1 <= model.fit_["n_rounds"] <= 12
