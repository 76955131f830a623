"""Attributions of a core as matrices, means over groups and lists of genes."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from episome.errors import EpisomeWarning, UsageError
from episome.models import ExplanationMixin
from episome.nn import CSRParts
from episome.plugins import get_spec, load_class
from episome.testing import fingerprint

WEIGHTS = np.arange(40) % 5 - 1.0  # of both signs, and zero


@pytest.fixture(scope="module")
def explained(toy):
    """Make a trained model whose attributions are known: value times the weight of the gene."""

    def make(form: str):
        class ExplainedCore(toy.ToyCore):
            inference_format = form
            attributions_hold_values = False

            def explaining(self):
                return lambda batch: attributions(batch["X"])

            def inference(self):
                self.eval()
                return lambda batch: self({**batch, "X": dense(batch["X"])})

        class ExplainedModel(toy.ToyModel):
            _core_cls = ExplainedCore

        ExplainedModel.setup_anndata(adata := toy.cells(), labels_key="cell_type")
        model = ExplainedModel(adata)
        model.train(max_epochs=3, accelerator="cpu")
        return model

    return make


@pytest.fixture(scope="module")
def model(explained):
    return explained("csr")


def dense(x):
    if isinstance(x, CSRParts):
        return x.to_dense(len(WEIGHTS))
    return torch.from_numpy(x.toarray()) if sparse.issparse(x) else x


def attributions(x):
    if sparse.issparse(x):
        return sparse.csr_matrix(x.multiply(WEIGHTS))
    return CSRParts.from_dense(dense(x) * torch.tensor(WEIGHTS, dtype=torch.float32))


def normalised(adata):
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))


def mean_by(values, groups):
    return pd.DataFrame(values).groupby(np.asarray(groups), observed=True).mean().to_numpy()


@pytest.mark.parametrize("form", ["dense", "csr", "scipy"])
def test_explain_core_of_any_form_equals_the_formula(explained, query, form):
    model = explained(form)

    found = model.explain(query, batch_size=7)

    assert isinstance(found, sparse.csr_matrix)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), normalised(query) * WEIGHTS, rtol=1e-5, atol=1e-6)
    assert found.nnz == np.count_nonzero(normalised(query) * WEIGHTS)


def test_explain_any_batch_size_gives_the_same(model, query):
    whole = model.explain(query)

    for size in (1, 7, query.n_obs):
        assert abs(model.explain(query, batch_size=size) - whole).max() < 1e-6


def test_explain_permuted_genes_and_chosen_rows_give_the_same_rows(model, query):
    whole = model.explain(query)

    found = model.explain(query[:, ::-1], indices=[5, 2, 9])

    assert abs(found - whole[[5, 2, 9]]).max() < 1e-6


def test_explain_without_query_takes_the_training_cells(model):
    found = model.explain(indices=np.arange(model.adata.n_obs) < 4)

    np.testing.assert_allclose(
        found.toarray(), normalised(model.adata[:4]) * WEIGHTS, rtol=1e-5, atol=1e-6
    )


def test_explain_normalize_gives_rows_of_absolute_sum_one(model, query):
    query.X = sparse.csr_matrix(query.X.toarray() * (np.arange(query.n_obs) > 0)[:, None])

    found = model.explain(query, normalize=True)

    sums = np.asarray(abs(found).sum(axis=1)).ravel()
    np.testing.assert_allclose(sums, np.arange(query.n_obs) > 0, atol=1e-5)
    assert (found < 0).nnz > 0


def test_explain_cells_with_none_of_the_genes_get_zeros_whatever_the_core_says(
    model, query, monkeypatch
):
    blank = query.X.toarray()
    blank[3] = 0
    query.X = sparse.csr_matrix(blank)
    ones = lambda batch: CSRParts.from_dense(torch.ones(batch["X"].n_rows, len(WEIGHTS)))  # noqa: E731
    monkeypatch.setattr(type(model.module), "explaining", lambda self: ones)

    found = model.explain(query).toarray()

    assert (found[3] == 0).all()
    assert (np.delete(found, 3, axis=0) == 1).all()


def test_explain_groupby_column_equals_means_of_rows(model, query):
    found = model.explain(query, groupby="cell_type", batch_size=11)

    wanted = mean_by(model.explain(query).toarray(), query.obs["cell_type"])
    assert list(found.index) == ["type 0", "type 1", "type 2"]
    assert list(found.columns) == list(model.features.ids)
    np.testing.assert_allclose(found.to_numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_explain_groupby_prediction_is_the_models_call_and_no_column(model, query):
    query.obs["prediction"] = "a column of this name"

    found = model.explain(query, groupby="prediction")

    calls = model.predict(query)
    assert list(found.index) == [n for n in model.labels.names if n in set(calls)]
    wanted = mean_by(model.explain(query).toarray(), calls)
    np.testing.assert_allclose(found.to_numpy(), wanted, rtol=1e-5, atol=1e-6)
    column = model.explain(query, groupby=query.obs["prediction"])
    assert list(column.index) == ["a column of this name"]


def test_explain_groupby_prediction_keeps_calls_that_are_no_class(model, query, monkeypatch):
    calls = np.array(["type 2", "T cell", "unknown"] * 20, dtype=object)
    monkeypatch.setattr(type(model), "predict", lambda self, *args, **kwargs: calls)

    found = model.explain(query, groupby="prediction")

    assert list(found.index) == ["type 2", "unknown", "T cell"]


def test_explain_groupby_values_go_by_position_and_series_by_name(model, query):
    wanted = model.explain(query, groupby="cell_type")
    column = query.obs["cell_type"]

    for groups in (list(column), column.to_numpy(), column[::-1], column.reset_index(drop=True)):
        pd.testing.assert_frame_equal(model.explain(query, groupby=groups), wanted)


def test_explain_groupby_cells_without_a_group_are_left_out(model, query):
    groups = query.obs["cell_type"].astype(object).where(query.obs["cell_type"] != "type 1")
    query.obs["some"] = groups

    found = model.explain(query, groupby="some", indices=np.arange(30))

    kept = np.flatnonzero(groups.notna()[:30])
    wanted = mean_by(model.explain(query, indices=kept).toarray(), groups.iloc[kept])
    np.testing.assert_allclose(found.to_numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert list(found.index) == ["type 0", "type 2"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pd.Categorical(["low", "high"] * 30, categories=["high", "unused", "low"]), "high low"),
        (np.tile([10, 9], 30), "9 10"),
        (np.tile([True, False], 30), "False True"),
        (np.tile(np.array(["b", 1], dtype=object), 30), "1 b"),
    ],
)
def test_explain_groups_come_in_the_order_of_their_kind(model, query, values, names):
    query.obs["group"] = values

    assert list(model.explain(query, groupby="group").index) == names.split()


def test_explain_reads_a_path(model, query, tmp_path):
    query.write_h5ad(tmp_path / "query.h5ad")

    found = model.explain(tmp_path / "query.h5ad", groupby="cell_type")

    pd.testing.assert_frame_equal(found, model.explain(query, groupby="cell_type"))


def test_explain_empty_query_gives_empty_results(model, query):
    nothing = query[:0]

    assert model.explain(nothing).shape == (0, 40)
    assert model.explain(nothing, groupby="cell_type").shape == (0, 40)
    assert model.top_genes(nothing).empty
    assert list(model.top_genes(nothing, None)) == list(model.top_genes(query))


def test_explain_and_top_genes_leave_the_query_alone(model, query):
    before = fingerprint(query)

    model.explain(query, groupby="prediction", normalize=True)
    model.top_genes(query)

    assert fingerprint(query) == before


@pytest.mark.parametrize("weight", ["expression", "none"])
def test_top_genes_equal_means_over_the_cells_of_a_group(model, query, weight):
    found = model.top_genes(query, "cell_type", 6, weight=weight, batch_size=13)

    x = normalised(query)
    e = x * WEIGHTS
    for name, table in found.groupby("group"):
        cells = (query.obs["cell_type"] == name).to_numpy()
        score = (e * x if weight == "expression" else e)[cells].mean(0)
        order = np.argsort(-score)[:6]
        assert list(table["rank"]) == [1, 2, 3, 4, 5, 6]
        assert list(table["gene"]) == [model.features.ids[i] for i in order]
        np.testing.assert_allclose(table["score"], score[order], rtol=1e-5)
        np.testing.assert_allclose(table["share"], (e != 0)[cells].mean(0)[order])
        np.testing.assert_allclose(table["mean_expression"], x[cells].mean(0)[order], rtol=1e-5)
        assert (table["n_cells"] == cells.sum()).all()
    assert list(found["group"].unique()) == ["type 0", "type 1", "type 2"]


def test_top_genes_lists_only_genes_that_score_above_zero(model, query):
    found = model.top_genes(query, None, k=100)

    positive = {model.features.ids[i] for i in np.flatnonzero(WEIGHTS > 0)}
    assert set(found["gene"]) == positive
    assert set(found["group"]) == {"all"}
    assert found["score"].is_monotonic_decreasing


def test_top_genes_of_calls_are_the_default(model, query):
    found = model.top_genes(query)

    pd.testing.assert_frame_equal(found, model.top_genes(query, model.predict(query)))
    counts = pd.Series(model.predict(query)).value_counts()
    assert dict(found.groupby("group")["n_cells"].first()) == dict(counts)


def test_top_genes_name_symbols_where_the_model_knows_them(toy, explained):
    adata = toy.cells()
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    adata.var["feature_name"] = ["" if i == 3 else f"SYMBOL{i}" for i in range(adata.n_vars)]
    cls = type(explained("csr"))
    cls.setup_anndata(adata, labels_key="cell_type")
    model = cls(adata)
    model.train(max_epochs=1, accelerator="cpu")

    found = model.top_genes(k=40).drop_duplicates("gene").set_index("gene")["gene_name"]

    assert found["ENSG00000000004"] == "SYMBOL4"
    assert found["ENSG00000000003"] == "ENSG00000000003"


def test_untrained_model_is_not_explained(explained, toy):
    cls = type(explained("csr"))
    cls.setup_anndata(adata := toy.cells(), labels_key="cell_type")
    model = cls(adata)

    with pytest.raises(UsageError, match=r"not trained.*E-M20"):
        model.explain(adata)
    with pytest.raises(UsageError, match=r"not trained.*E-M20"):
        model.top_genes(adata)


def test_core_without_attributions_is_refused(query):
    cls = load_class(get_spec("centroid"))
    silent = type("Silent", (ExplanationMixin, cls), {"__module__": cls.__module__})
    silent.setup_anndata(adata := query.copy(), labels_key="cell_type")
    model = silent(adata)
    model.train()

    with pytest.raises(UsageError, match=r"NearestCentroidCore gives no attributions.*E-U12"):
        model.explain(query)
    with pytest.raises(UsageError, match=r"no attributions \(gradient\)"):
        model.explain(query, method="gradient")


# -- gradients: every network ---------------------------------------------------------------------


def test_gradients_are_the_slopes_of_the_call(toy, query):
    model = toy.trained(max_epochs=3)
    x = torch.tensor(normalised(query), dtype=torch.float32)
    core = model.module.eval()

    found = model.explain(query, batch_size=7).toarray()

    step, row = 1e-2, 4
    logits = core({"X": x[row : row + 1]})["logits"][0]
    called = int(logits.argmax())
    for gene in np.flatnonzero(normalised(query)[row])[:10]:
        up, down = x[row].clone(), x[row].clone()
        up[gene] += step
        down[gene] -= step
        both = core({"X": torch.stack([up, down])})["logits"].double()
        score = both[:, called] - both.mean(dim=1)
        slope = float((score[0] - score[1]) / (2 * step))
        assert found[row, gene] == pytest.approx(slope * float(x[row, gene]), abs=2e-2)
    assert (found[normalised(query) == 0] == 0).all()


def test_gradients_leave_the_model_as_it_was(toy, query):
    model = toy.trained(max_epochs=2)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}

    model.explain(query)

    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())


def test_genes_that_speak_for_a_call_carry_it(toy):
    # Deletion: without its top genes a cell loses more of its call than without random ones.
    model, query = toy.trained(), toy.query()
    found, x = model.explain(query).toarray(), query.X.toarray()
    calls = model.predict_proba(query).to_numpy()
    called = calls.argmax(axis=1)
    rng = np.random.default_rng(0)

    def without(choose):
        left = x.copy()
        for i, row in enumerate(x):
            expressed = np.flatnonzero(row)
            left[i, choose(i, expressed)] = 0
        other = anndata.AnnData(sparse.csr_matrix(left), obs=query.obs[[]], var=query.var)
        after = model.predict_proba(other).to_numpy()
        return (calls - after)[np.arange(len(x)), called].mean()

    top = without(lambda i, genes: genes[np.argsort(-found[i, genes])[:5]])
    random = without(lambda i, genes: rng.choice(genes, 5, replace=False))

    assert top > 2 * abs(random)
    assert top > 0.1


def test_native_and_gradient_can_be_chosen(explained, query):
    model = explained("csr")

    native, gradient = (model.explain(query, method=m) for m in ("native", "gradient"))

    assert abs(native - model.explain(query)).max() == 0
    assert abs(native - gradient).max() > 0.1
    with pytest.raises(UsageError, match=r"method='lime'.*E-U30"):
        model.explain(query, method="lime")


def test_values_are_not_counted_twice(toy, query):
    # Value times gradient holds the value: the list is by mean attribution.
    model = toy.trained(max_epochs=3)

    auto, none = (model.top_genes(query, weight=w) for w in ("auto", "none"))

    pd.testing.assert_frame_equal(auto, none)


def test_groups_without_a_gene_are_named(explained, query, monkeypatch):
    model = explained("csr")
    monkeypatch.setattr(
        type(model.module),
        "explaining",
        lambda self: lambda batch: CSRParts.from_dense(-dense(batch["X"])),
    )

    with pytest.warns(EpisomeWarning, match=r"no gene speaks for the call.*3 of 3.*E-U56"):
        found = model.top_genes(query, "cell_type")

    assert len(found) == 0


def test_model_without_calls_has_no_groups_of_them(model, query, monkeypatch):
    monkeypatch.setattr(type(model), "labels", property(lambda self: None), raising=False)

    with pytest.raises(UsageError, match=r"does not annotate cells.*E-U13"):
        model.top_genes(query)


def test_groups_that_do_not_fit_are_refused(model, query, monkeypatch):
    with pytest.raises(UsageError, match=r"do not fit the cells.*3 of 60.*E-U50"):
        model.explain(query, groupby=["a", "b", "c"])
    with pytest.raises(UsageError, match=r"do not fit the cells.*E-U50"):
        model.explain(query, groupby=query.obs["cell_type"].rename(lambda n: n + "-1"))
    with pytest.raises(UsageError, match=r"column 'nope' is missing.*E-U04"):
        model.explain(query, groupby="nope")
    monkeypatch.setattr("episome.models._explanation.MAX_TABLE", 100)
    with pytest.raises(UsageError, match=r"3 groups of 40 genes.*E-U51"):
        model.explain(query, groupby="cell_type")


def test_impossible_lists_are_refused(model, query):
    with pytest.raises(UsageError, match=r"k=0.*E-U22"):
        model.top_genes(query, k=0)
    with pytest.raises(UsageError, match=r"weight='mask'.*E-U30"):
        model.top_genes(query, weight="mask")
