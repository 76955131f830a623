"""The report of shift: each part is found when it is there, and costs about what it says."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import episome
from episome.cli._app import app
from episome.confidence import ShiftGrid, ShiftPoint
from episome.data import simulate_cells
from episome.errors import UsageError
from episome.inference import _shift_report, proportions


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(3000, 80, n_types=5, n_donors=8, fold_change=1.8, depth=400.0, seed=0)


@pytest.fixture(scope="module")
def model(cells):
    model_cls = episome.get_model("logreg")
    reference = cells[:1500].copy()
    model_cls.setup_anndata(reference, labels_key="cell_type")
    model = model_cls(reference)
    model.train()
    return model


@pytest.fixture
def query(cells):
    return cells[1500:].copy()


def cost(report, part: str) -> float:
    return float(report.parts.set_index("part").loc[part, "cost"])


def right(model, cells) -> float:
    calls = model.predict(cells, min_gene_overlap=0.0)
    return float((calls == cells.obs["cell_type"].astype(str).to_numpy()).mean())


def test_cells_like_the_training_cells_cost_nothing(model, query):
    before = query.copy()

    found = model.shift_report(query)

    assert list(found.parts["part"]) == ["genes", "depth", "composition", "novelty"]
    assert found.parts["cost"].abs().max() < 0.02
    assert found.expected == pytest.approx(right(model, query), abs=0.04)
    assert found.n_cells == query.n_obs
    np.testing.assert_allclose(found.classes[["reference", "query"]].sum(), 1, rtol=1e-6)
    assert (query.X != before.X).nnz == 0
    assert found.text.count("\n") == 4


@pytest.mark.filterwarnings("ignore::episome.errors.EpisomeWarning")
def test_missing_genes_cost_what_they_cost(model, query):
    gaps = []
    for seed in range(6):
        kept = np.random.default_rng(seed).permutation(query.n_vars)[:56]
        less = query[:, np.sort(kept)].copy()
        found = model.shift_report(less, min_gene_overlap=0.0)
        assert cost(found, "genes") > 0.02
        gaps.append(found.expected - right(model, less))

    # Which genes are missing matters: on average over draws it is told.
    assert abs(np.mean(gaps)) < 0.08


def test_half_the_counts_cost_what_they_cost(model, query):
    thin = query.copy()
    rng = np.random.default_rng(0)
    thin.X.data = rng.binomial(thin.X.data.astype(int), 0.5).astype(np.float32)

    found = model.shift_report(thin)

    part = found.parts.set_index("part")
    assert part.loc["depth", "value"] == pytest.approx(0.5, abs=0.05)
    assert cost(found, "depth") > 0.05
    assert found.expected == pytest.approx(right(model, thin), abs=0.08)
    # That cells look novel, and of other types, is what fewer counts do.
    assert np.isnan(cost(found, "novelty"))
    assert np.isnan(cost(found, "composition"))


@pytest.mark.filterwarnings("ignore::episome.errors.EpisomeWarning")
def test_logarithms_do_not_tell_how_deep_cells_are(model, query):
    import scanpy as sc

    thin = query.copy()
    rng = np.random.default_rng(0)
    thin.X.data = rng.binomial(thin.X.data.astype(int), 0.2).astype(np.float32)
    sc.pp.normalize_total(thin, target_sum=1e4)
    sc.pp.log1p(thin)

    found = model.shift_report(thin).parts.set_index("part")

    assert np.isnan(found.loc["depth", "value"])
    assert "is not known" in found.loc["depth", "found"]


def test_few_cells_tell_no_proportions(model, query):
    found = model.shift_report(query[:40].copy())

    assert np.isnan(cost(found, "composition"))
    assert "so few cells" in found.text
    assert found.expected <= found.accuracy


def test_other_proportions_are_found(model, query):
    types = query.obs["cell_type"].astype(str).to_numpy()
    rng = np.random.default_rng(0)
    some = query[(types == "type 0") | (rng.random(len(types)) < 0.1)].copy()
    truth = some.obs["cell_type"].astype(str).value_counts(normalize=True)

    found = model.shift_report(some)

    of = found.classes.set_index("class")["query"]
    assert of["type 0"] == pytest.approx(truth["type 0"], abs=0.03)
    moved = float(found.parts.set_index("part").loc["composition", "value"])
    assert moved > 0.4
    assert found.expected == pytest.approx(right(model, some), abs=0.06)


def test_cells_that_look_like_no_type_cost_what_is_more_than_usual(model):
    predictor = model.predictor()
    at = predictor.confidence.novelty.threshold(0.01)
    novelty = np.where(np.arange(1000) < 310, at + 1e-3, at - 1e-3)

    told = _shift_report._novel(predictor, novelty, 0.9, told=True)
    not_told = _shift_report._novel(predictor, novelty, 0.9, told=False)

    assert told["value"] == pytest.approx(0.31)
    assert told["cost"] == pytest.approx(0.3 * 0.9)
    assert "31.0% of the cells look like none of the types" in told["found"]
    assert np.isnan(not_told["cost"])
    assert _shift_report._novel(predictor, novelty[400:], 0.9, told=True)["cost"] == 0
    assert np.isnan(_shift_report._novel(predictor, novelty[:0], 0.9, told=True)["cost"])


def test_a_saved_model_says_the_same(model, query, tmp_path):
    model.save(tmp_path / "m")

    found = type(model).load(tmp_path / "m").shift_report(query)

    pd.testing.assert_frame_equal(found.parts, model.shift_report(query).parts, atol=1e-3)


def test_the_command_line_reports_shift(model, query, tmp_path):
    model.save(tmp_path / "m")
    query.write_h5ad(tmp_path / "q.h5ad")
    words = ["check", str(tmp_path / "q.h5ad"), "-m", str(tmp_path / "m"), "--shift"]

    text = CliRunner().invoke(app, words)
    plain = CliRunner().invoke(app, [*words, "--json"])

    assert text.exit_code == 0, text.output
    assert "to expect of these 1,500 cells" in text.output
    shift = json.loads(plain.stdout)["shift"]
    assert {p["part"] for p in shift["parts"]} == {"genes", "depth", "composition", "novelty"}
    without = CliRunner().invoke(app, [*words[:2], "--shift"])
    assert without.exit_code == 2
    assert "E-U34" in without.output


def test_what_was_never_calibrated_has_no_report(model, query):
    from dataclasses import replace

    from episome.inference import shift_report

    predictor = model.predictor()
    predictor.confidence = replace(predictor.confidence, scores=None)
    with pytest.raises(UsageError, match="E-U66"):
        shift_report(predictor, predictor.prepare(query))
    with pytest.raises(UsageError, match="E-U22"):
        model.shift_report(query[:0].copy())


@given(seed=st.integers(0, 999), k=st.integers(2, 6))
def test_proportions_of_sure_cells_are_counted(seed, k):
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(k), rng.integers(0, k, 50)])
    sure = np.eye(k)[codes] * (1 - 1e-6) + 1e-6 / k

    found = proportions(sure, np.full(k, 1 / k))

    np.testing.assert_allclose(found, np.bincount(codes, minlength=k) / len(codes), atol=1e-4)
    assert found.sum() == pytest.approx(1)


def grid(*points) -> ShiftGrid:
    return ShiftGrid(tuple(ShiftPoint(r, d, a, a, 1.0, 100, n) for r, d, a, n in points))


def test_accuracy_is_interpolated_and_never_rises_with_what_is_lacking():
    found = grid(
        (0.0, 1.0, 0.9, 100.0),
        (0.5, 1.0, 0.7, 50.0),
        (0.8, 1.0, 0.75, 30.0),
        (0.0, 0.5, 0.8, None),
        (0.5, 0.5, 0.72, None),
    )

    assert found.accuracy(0.0) == pytest.approx(0.9)
    assert found.accuracy(0.25) == pytest.approx(0.8)
    assert found.accuracy(0.8) == pytest.approx(0.7)
    assert found.accuracy(0.0, 0.5) == pytest.approx(0.8)
    assert 0.8 < found.accuracy(0.0, 0.7) < 0.9
    assert found.accuracy(0.5, 0.5) == pytest.approx(0.7)
    assert found.accuracy(0.0, 7.0) == pytest.approx(0.9)
    assert found.accuracy(0.0, 0.01) == pytest.approx(0.8)
    assert found.library(0.25) == pytest.approx(75)
    assert grid((0.0, 1.0, 0.9, None)).library(0.0) is None
    again = ShiftGrid.from_json(json.loads(json.dumps(found.to_json())))
    assert again.library(0.25) == pytest.approx(75)
    assert again.accuracy(0.3, 0.6) == pytest.approx(found.accuracy(0.3, 0.6))
