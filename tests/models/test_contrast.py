"""Attributions of a class against another, and of right against wrong calls."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome import models, plugins
from episome.data import simulate_cells
from episome.errors import UsageError
from episome.models import Ensemble
from episome.testing import fingerprint

#: Every installed annotator that explains its calls.
EXPLAINED = sorted(
    name
    for name, spec in plugins.models().items()
    if {"annotation", "explanation"} <= set(spec.capabilities) and ":" not in name
)
LINEAR = ("LogisticRegression", "LinearClassifier")


def reference(**kwargs):
    return simulate_cells(240, 60, n_types=4, fold_change=3.0, depth=400.0, seed=1, **kwargs)


def trained(cls, **train):
    cls.setup_anndata(adata := reference(), labels_key="cell_type", donor_key="donor_id")
    model = cls(adata)
    model.train(**train)
    return model


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(80, 60, n_types=4, fold_change=3.0, depth=400.0, seed=1)


@pytest.fixture(scope="module")
def linear():
    return trained(models.LogisticRegression)


def scores(model, cells):
    """Scores before calibration, as the core gives them."""
    out = list(model.predictor().stream(model.prepare(cells)))
    return np.concatenate([o["logits"] for o in out]).astype(np.float64)


@pytest.mark.parametrize("name", LINEAR)
def test_attributions_of_linear_models_are_the_difference_of_two_scores(name, cells):
    model = trained(getattr(models, name), **({} if name == LINEAR[0] else {"max_epochs": 4}))
    nothing = anndata.AnnData(sparse.csr_matrix(np.eye(1, 60, dtype=np.float32)), var=cells.var)

    found = model.explain(cells, of="type 2", against="type 0")
    base = model.explain(nothing, of="type 2", against="type 0").sum()

    a, b = (model.labels.names.index(n) for n in ("type 2", "type 0"))
    table, intercept = scores(model, cells), scores(model, nothing)[0]
    wanted = table[:, a] - table[:, b] - (intercept[a] - intercept[b] - base)
    np.testing.assert_allclose(found.sum(axis=1).A1, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINED)
def test_every_model_turns_around_when_the_classes_do(name, cells):
    model = trained(plugins.load_class(plugins.get_spec(name)))

    one = model.explain(cells, of="type 1", against="type 3")
    other = model.explain(cells, of="type 3", against="type 1", batch_size=9)

    assert one.nnz > 0
    assert abs(one + other).max() < 1e-3 * abs(one).max()
    expressed = model.explain(cells[:, ::-1], of="type 1", against="type 3")
    assert abs(one - expressed).max() < 1e-3 * abs(one).max()


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_against_the_mean_is_the_mean_over_the_classes(kind, linear, model, cells, query):
    model, cells = (linear, cells) if kind == "linear" else (model, query)
    names = model.labels.names

    found = model.explain(cells, of=names[1]).toarray()

    others = [model.explain(cells, of=names[1], against=n) for n in names if n != names[1]]
    wanted = sum(m.toarray() for m in others) / len(names)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_of_nothing_is_the_call_and_second_the_runner_up(kind, linear, model, cells, query):
    model, cells = (linear, cells) if kind == "linear" else (model, query)
    method = "auto" if kind == "linear" else "gradient"
    order = np.argsort(-scores(model, cells), axis=1)
    names = np.array(model.labels.names, dtype=object)

    found = model.explain(cells, against="second", method=method, batch_size=7)
    plain = model.explain(cells, method=method)

    for row in range(0, cells.n_obs, 11):
        first, second = names[order[row, :2]]
        wanted = model.explain(cells, of=first, against=second, method=method, indices=[row])
        assert abs(found[row] - wanted).max() < 1e-4
        same = model.explain(cells, of=first, method=method, indices=[row])
        assert abs(plain[row] - same).max() < 1e-4


def test_second_of_a_class_that_is_not_called_is_the_call(linear, cells):
    table = scores(linear, cells)
    names = linear.labels.names
    row = int(np.flatnonzero(table.argmax(axis=1) != 0)[0])

    found = linear.explain(cells, of=names[0], against="second", indices=[row])

    call = names[int(table[row].argmax())]
    wanted = linear.explain(cells, of=names[0], against=call, indices=[row])
    assert abs(found - wanted).max() < 1e-6


def test_cells_called_the_class_they_are_compared_with_have_zeros(linear, cells):
    called = linear.predict_proba(cells, calibrated=False).idxmax(axis=1).to_numpy()

    found = abs(linear.explain(cells, against="type 1")).sum(axis=1).A1

    assert ((found == 0) == (called == "type 1")).all()
    assert 0 < (called == "type 1").sum() < len(called)


def test_gradients_of_two_classes_are_slopes_of_their_difference(model, query):
    x = np.log1p(1e4 * query.X.toarray() / query.X.toarray().sum(1, keepdims=True))
    import torch

    core, row, step = model.module.eval(), 3, 1e-2
    found = model.explain(query, of="type 0", against="type 2", indices=[row]).toarray()[0]
    a, b = (model.labels.names.index(n) for n in ("type 0", "type 2"))

    for gene in np.flatnonzero(x[row])[:8]:
        both = np.stack([x[row], x[row]])
        both[:, gene] += (step, -step)
        with torch.no_grad():
            logits = core({"X": torch.tensor(both, dtype=torch.float32)})["logits"].double()
        score = logits[:, a] - logits[:, b]
        slope = float((score[0] - score[1]) / (2 * step))
        assert found[gene] == pytest.approx(slope * x[row, gene], abs=2e-2)


def test_top_genes_of_a_class_are_those_that_it_raises(linear, cells):
    found = linear.top_genes(cells, "cell_type", 3, of="type 1")

    means = {
        t: cells[cells.obs["cell_type"] == t].X.mean(axis=0).A1
        for t in set(cells.obs["cell_type"])
    }
    rest = np.mean([m for t, m in means.items() if t != "type 1"], axis=0)
    raised = set(cells.var_names[means["type 1"] > 1.3 * rest])
    assert set(found["gene"]) <= raised
    assert set(found["group"]) == {"type 0", "type 1", "type 2", "type 3"}
    best = found[found["group"] == "type 1"]["score"].iloc[0]
    assert best > found[found["group"] != "type 1"]["score"].max()


def test_explanations_against_a_class_go_into_groups(linear, cells):
    found = linear.explain(cells, groupby="cell_type", of="type 0", against="second")

    rows = linear.explain(cells, of="type 0", against="second").toarray()
    wanted = pd.DataFrame(rows).groupby(cells.obs["cell_type"].to_numpy()).mean()
    np.testing.assert_allclose(found.to_numpy(), wanted.to_numpy(), rtol=1e-4, atol=1e-5)


def test_an_ensemble_explains_its_own_call_against_its_own_runner_up(toy, query):
    members = [toy.trained(max_epochs=n) for n in (1, 4)]
    whole = Ensemble(members)
    proba = whole.predict_proba(query, calibrated=False).to_numpy()
    order, names = np.argsort(-proba, axis=1), whole.labels.names

    found = whole.explain(query, against="second")

    for row in range(0, query.n_obs, 13):
        first, second = (names[i] for i in order[row, :2])
        parts = [m.explain(query, of=first, against=second, indices=[row]) for m in members]
        assert abs(found[row] - (parts[0] + parts[1]) / 2).max() < 1e-4


def test_masks_are_of_no_class_and_gradients_stand_in(cells):
    model = trained(models.SIMS, max_epochs=1)

    with pytest.raises(UsageError, match=r"of no class.*E-U86"):
        model.explain(cells, of="type 1", method="native")
    with pytest.raises(UsageError, match=r"E-U86"):
        model.top_genes(cells, against="second", method="native")

    auto = model.explain(cells, of="type 1")
    assert abs(auto - model.explain(cells, of="type 1", method="gradient")).max() == 0


def test_classes_that_are_none_are_refused(linear, cells):
    with pytest.raises(UsageError, match=r"of='type1' is none of the model's 4 classes") as error:
        linear.explain(cells, of="type1")
    assert "type 1" in str(error.value)
    assert "E-U87" in str(error.value)
    with pytest.raises(UsageError, match=r"against='B' is none.*E-U87"):
        linear.top_genes(cells, against="B")
    with pytest.raises(UsageError, match=r"of and against are both 'type 1'.*E-U87"):
        linear.explain(cells, of="type 1", against="type 1")


def test_models_without_classes_or_attributions_say_so(linear, cells, monkeypatch):
    base = models.NearestCentroid
    silent = type("Silent", (models.ExplanationMixin, base), {"__module__": base.__module__})

    with pytest.raises(UsageError, match=r"NearestCentroidCore gives no attributions.*E-U12"):
        trained(silent).explain(cells, of="type 1")
    monkeypatch.setattr(type(linear), "labels", property(lambda self: None))
    with pytest.raises(UsageError, match=r"does not annotate cells.*E-U13"):
        linear.explain(cells, of="type 1")


# -- right against wrong calls --------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed():
    """Cells of which some of type 0 carry the genes of type 1: they are called so."""
    cells = simulate_cells(160, 60, n_types=4, fold_change=3.0, depth=400.0, seed=1)
    counts, types = cells.X.toarray(), cells.obs["cell_type"].astype(str).to_numpy()
    zeros, ones = np.flatnonzero(types == "type 0"), np.flatnonzero(types == "type 1")
    counts[zeros[:15]] = counts[ones[:15]]
    cells.X = sparse.csr_matrix(counts)
    return cells


def test_genes_of_wrong_calls_are_those_that_the_two_types_differ_in(linear, mixed):
    found = linear.explain_errors(mixed, "cell_type", "type 0", k=4)

    calls = linear.predict(mixed)
    truth = mixed.obs["cell_type"].to_numpy(dtype=object)
    right = np.flatnonzero((truth == "type 0") & (calls == "type 0"))
    wrong = np.flatnonzero((truth == "type 0") & (calls == "type 1"))
    assert len(wrong) >= 15
    table = found[found["called"] == "type 1"]
    assert set(found["type"]) == {"type 0"}
    assert (table["n_right"] == len(right)).all()
    assert (table["n_wrong"] == len(wrong)).all()
    both = linear.explain(mixed, of="type 0", against="type 1").toarray().astype(np.float64)
    difference = both[right].mean(axis=0) - both[wrong].mean(axis=0)
    order = np.argsort(-difference)[:4]
    assert list(table["gene"]) == [linear.features.ids[i] for i in order]
    np.testing.assert_allclose(table["difference"], difference[order], rtol=1e-4)
    np.testing.assert_allclose(table["right"] - table["wrong"], table["difference"])
    assert list(table["rank"]) == [1, 2, 3, 4]
    x = mixed.X.toarray()
    x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    np.testing.assert_allclose(table["expression_wrong"], x[wrong].mean(0)[order], rtol=1e-4)


def test_all_types_with_errors_are_listed_and_others_not(linear, mixed):
    found = linear.explain_errors(mixed, "cell_type", batch_size=13)

    truth = mixed.obs["cell_type"].to_numpy(dtype=object)
    calls = linear.predict(mixed)
    pairs = {(t, c) for t, c in zip(truth, calls, strict=True) if t != c}
    assert set(zip(found["type"], found["called"], strict=True)) == pairs
    one = linear.explain_errors(mixed, "cell_type", "type 0")
    pd.testing.assert_frame_equal(
        found[found["type"] == "type 0"].reset_index(drop=True), one, rtol=1e-3, atol=1e-6
    )


def test_errors_of_chosen_rows_are_those_of_the_rows(linear, mixed):
    rows = np.arange(0, 160, 2)

    found = linear.explain_errors(mixed, "cell_type", indices=rows)

    wanted = linear.explain_errors(mixed[rows].copy(), "cell_type")
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-5)


def test_no_errors_give_no_rows_and_nothing_is_written(linear, mixed):
    before = fingerprint(mixed)
    right = mixed[linear.predict(mixed) == mixed.obs["cell_type"].to_numpy(dtype=object)].copy()

    found = linear.explain_errors(right, "cell_type")

    assert len(found) == 0
    assert list(found) == list(linear.explain_errors(mixed, "cell_type"))
    assert fingerprint(mixed) == before


def test_errors_need_labels_of_the_models_classes(linear, mixed):
    with pytest.raises(UsageError, match=r"cell_type='T' is none of the model's.*E-U87"):
        linear.explain_errors(mixed, "cell_type", "T")
    with pytest.raises(UsageError, match=r"no cell has a label.*E-U88"):
        linear.explain_errors(mixed, "donor_id")
    with pytest.raises(UsageError, match=r"column 'nope' is missing.*E-U04"):
        linear.explain_errors(mixed, "nope")
    with pytest.raises(UsageError, match=r"k=0.*E-U22"):
        linear.explain_errors(mixed, "cell_type", k=0)
