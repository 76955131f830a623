"""Prediction: aligned, label-free, and nothing of the caller's is touched or kept."""

from __future__ import annotations

import gc
import weakref

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import AnnDataSource
from episome.errors import GeneMatchError, InputDataError, UsageError
from episome.testing import fingerprint


def normalised(adata, target=1e4):
    counts = adata.X.toarray()
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * target)
    return anndata.AnnData(
        sparse.csr_matrix(logged.astype(np.float32)), obs=adata.obs, var=adata.var
    )


def test_model_has_learnt_something(model, query, correct):
    assert correct(model, query) > 0.95


def test_every_way_of_predicting_agrees(model, query):
    calls, proba = model.annotate(query), model.predict_proba(query)

    labels = np.array(model.labels.names, dtype=object)
    assert (model.predict(query) == calls["label"]).all()
    assert model.predict(query, soft=True).equals(proba)
    assert (labels[proba.to_numpy().argmax(1)] == calls["label"]).all()
    np.testing.assert_array_equal(calls["confidence"], proba.max(axis=1))
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert list(proba.columns) == list(model.labels.names)
    assert calls.index.equals(query.obs_names)
    assert (calls["second_confidence"] <= calls["confidence"]).all()
    assert (calls["second"] != calls["label"]).all()


def test_a_path_and_a_source_are_queries_too(model, query, tmp_path):
    query.write_h5ad(tmp_path / "q.h5ad")
    wanted = model.predict_proba(query)

    for data in (str(tmp_path / "q.h5ad"), tmp_path / "q.h5ad", AnnDataSource(query)):
        pd.testing.assert_frame_equal(model.predict_proba(data), wanted)


@pytest.mark.parametrize("indices", [[5, 2, 2], np.array([0, 59]), "mask"])
def test_rows_can_be_chosen(model, query, indices):
    if isinstance(indices, str):
        indices = np.arange(60) % 7 == 0
    rows = indices
    if isinstance(indices, np.ndarray) and indices.dtype.kind == "b":
        rows = np.flatnonzero(indices)

    got = model.predict_proba(query, indices=indices)

    np.testing.assert_allclose(got, model.predict_proba(query).iloc[rows], atol=1e-6)
    assert got.index.tolist() == query.obs_names[rows].tolist()


def test_without_a_query_the_training_cells_are_predicted(model):
    assert model.predict().shape == (200,)
    np.testing.assert_array_equal(model.predict(), model.predict(model.adata))


def test_log1p_query_of_a_counts_model(model, query):
    np.testing.assert_allclose(
        model.predict_proba(normalised(query, 5e3)), model.predict_proba(query), atol=1e-4
    )


def test_counts_query_of_a_log1p_model(toy, query, correct):
    model = toy.trained(normalised(toy.cells()))

    assert model.input_rule.input_kind == "log1p"
    assert correct(model, query) > 0.95
    np.testing.assert_allclose(
        model.predict_proba(query), model.predict_proba(normalised(query)), atol=1e-4
    )


def test_raw_with_other_genes_than_var(toy, query, correct):
    def with_raw(adata):
        few = anndata.AnnData(adata.X[:, :3].log1p(), obs=adata.obs, var=adata.var.iloc[[0, 1, 2]])
        few.raw = adata
        return few

    adata = with_raw(toy.cells())
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type", use_raw=True)
    model = toy.ToyModel(adata)
    model.train(accelerator="cpu")

    assert len(model.features) == 40
    assert correct(model, with_raw(query), use_raw=True) > 0.95
    np.testing.assert_array_equal(
        model.predict_proba(with_raw(query), use_raw=True), model.predict_proba(query)
    )
    assert len(model.predict()) == 200
    with pytest.raises(GeneMatchError, match="3 of 40"):
        model.predict(with_raw(query))


def test_layer_of_a_query(model, query):
    moved = anndata.AnnData(np.zeros(query.shape, np.float32), obs=query.obs, var=query.var)
    moved.layers["counts"] = query.X

    np.testing.assert_array_equal(
        model.predict_proba(moved, layer="counts"), model.predict_proba(query)
    )
    with pytest.raises(InputDataError, match="E-D13"):
        model.predict(moved)


def test_cells_without_counts_are_unknown(model, query):
    blank = query.copy()
    values = blank.X.toarray()
    values[[0, 5]] = 0
    blank.X = sparse.csr_matrix(values)

    calls = model.annotate(blank)

    hidden = calls.iloc[[0, 5]]
    assert (hidden["label"] == "unknown").all()
    assert (hidden[["label_raw", "second", "label_ontology_term_id"]] == "").all().all()
    assert hidden[["confidence", "second_confidence"]].isna().all().all()
    assert calls.drop(index=hidden.index)["confidence"].notna().all()
    assert (calls["label"] == model.predict(blank)).all()


def test_an_empty_query_gives_an_empty_table_of_the_same_kind(model, query):
    empty, full = model.annotate(query[:0]), model.annotate(query)

    assert list(empty.columns) == list(full.columns)
    assert (empty.dtypes == full.dtypes).all()
    assert model.predict_proba(query[:0]).shape == (0, 3)
    assert model.get_latent_representation(query[:0]).shape[0] == 0


def test_duplicated_cell_names_keep_their_order(model, query):
    query.obs_names = ["same"] * query.n_obs

    assert model.annotate(query).index.tolist() == ["same"] * 60


def test_latent_has_the_width_of_the_network(model, query):
    latent = model.get_latent_representation(query, batch_size=7)

    assert latent.shape == (60, 16)
    assert latent.dtype == np.float32
    np.testing.assert_allclose(latent, model.get_latent_representation(query), atol=1e-5)


def test_queries_are_never_modified(model, query):
    query.raw = query.copy()
    query.layers["x"] = query.X.copy()
    before, keys = fingerprint(query), (list(query.obs), list(query.uns), list(query.obsm))

    model.annotate(query)
    model.predict_proba(query, layer="x")
    model.get_latent_representation(query)
    model._validate_anndata(query)

    assert fingerprint(query) == before
    assert (list(query.obs), list(query.uns), list(query.obsm)) == keys


def test_an_error_leaves_the_model_ready_for_the_next_query(model, query):
    wanted = model.predict_proba(query)

    for bad in (
        query[:, :2],
        anndata.AnnData(-query.X, obs=query.obs, var=query.var),
        "nowhere.h5ad",
    ):
        with pytest.raises((InputDataError, OSError)):
            model.predict(bad)

    pd.testing.assert_frame_equal(model.predict_proba(query), wanted)


def test_an_untrained_model_says_so(toy, query):
    toy.ToyModel.setup_anndata(adata := toy.cells(), labels_key="cell_type")
    model = toy.ToyModel(adata)

    for call in (
        model.predict,
        model.predict_proba,
        model.annotate,
        model.get_latent_representation,
    ):
        with pytest.raises(UsageError, match=r"call train\(\) first.*E-M20"):
            call(query)


# -- what is kept alive --------------------------------------------------------------------------


def alive(make, use) -> bool:
    thing = make()
    watch = weakref.ref(thing)
    use(thing)
    del thing
    gc.collect()
    return watch() is not None


def test_queries_are_let_go(model, toy):
    assert not alive(toy.query, model.predict)
    assert not alive(toy.query, model.annotate)


def test_stand_ins_of_scvi_tools_are_let_go_with_the_next_one(model, toy, query):
    store = model._per_instance_manager_store[model.id]
    for _ in range(5):
        model._validate_anndata(toy.query())

    assert len(store) == 2  # the training data and the last query
    model.release_queries()
    assert len(store) == 1
    assert not alive(toy.query, lambda q: (model._validate_anndata(q), model.release_queries()))


def test_close_lets_go_of_the_training_data_and_keeps_predicting(toy, query, tmp_path):
    model = toy.trained(max_epochs=1)
    wanted = model.predict_proba(query)
    watch = weakref.ref(model.adata)

    model.close()
    gc.collect()

    assert watch() is None
    pd.testing.assert_frame_equal(model.predict_proba(query), wanted)
    model.save(tmp_path / "model")
    with pytest.raises(UsageError, match=r"the model holds no data.*E-U17"):
        model.predict()
    model.close()


# -- scvi-tools' own way -------------------------------------------------------------------------


def test_scvi_tools_loader_sees_aligned_and_labelled_cells(model, query):
    shuffled = query[:, ::-1].copy()
    del shuffled.obs["cell_type"]

    stand_in = model._validate_anndata(shuffled)
    batches = list(model._make_data_loader(stand_in, batch_size=25))

    x = np.concatenate([b["X"].numpy() for b in batches])
    labels = np.concatenate([b["labels"].numpy() for b in batches]).ravel()
    assert np.array_equal(x, query.X.toarray())
    assert (labels == 3).all()
    assert stand_in.obs_names.equals(query.obs_names)
    assert list(stand_in.var_names) == list(model.features.ids)


def test_scvi_tools_loader_of_the_training_data(model):
    assert model._validate_anndata(None) is model.adata
    assert model._validate_anndata(model.adata) is model.adata
    batch = next(iter(model._make_data_loader(model.adata, batch_size=200, shuffle=False)))

    assert np.array_equal(batch["X"].numpy(), model.adata.X.toarray())
    assert np.array_equal(batch["labels"].numpy().ravel(), model.training_codes())


def test_stand_in_of_a_model_on_a_layer(toy, query):
    adata = toy.cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type", layer="counts")
    model = toy.ToyModel(adata)
    model.train(max_epochs=1, accelerator="cpu")

    stand_in = model._validate_anndata(query)
    batch = next(iter(model._make_data_loader(stand_in, batch_size=60)))

    assert np.array_equal(batch["X"].numpy(), query.X.toarray())


def test_summary_and_names_of_genes_are_scvi_tools_own(model, capsys):
    repr(model)  # scvi-tools prints it

    assert "ToyModel of width 16" in capsys.readouterr().out
    assert list(model.get_var_names()) == list(model.features.ids)
