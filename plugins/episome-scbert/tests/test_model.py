"""`SCBERT` as users have it: pretraining, fine-tuning, leaks, genes, folders, sources."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from episome import jobs, settings
from episome.data import simulate_cells
from episome.errors import (
    GeneMatchError,
    InputDataError,
    InputFileError,
    ModelMismatchError,
    UsageError,
)
from episome.testing import synthetic_adata
from episome_scbert import SCBERT
from episome_scbert.genes import coexpression_vectors

SMALL = {"preset": "tiny", "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "hidden": (16, 8)}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def made(adata=None, *, labels="cell_type", donors=None, **options) -> SCBERT:
    adata = synthetic_adata(120, 40) if adata is None else adata
    SCBERT.setup_anndata(adata, labels_key=labels, donor_key=donors)
    return SCBERT(adata, **{**SMALL, **options})


@pytest.fixture(scope="module")
def pretrained() -> SCBERT:
    model = made(synthetic_adata(120, 40), labels=None)
    model.train(2, batch_size=32, **QUIET)
    return model


@pytest.fixture(scope="module")
def trained() -> SCBERT:
    model = made(simulate_cells(200, 40, n_types=3, n_donors=5, fold_change=6.0, seed=0))
    model.pretrain(10, batch_size=16, plan_kwargs={"lr": 5e-3}, **QUIET)
    model.train(6, batch_size=16, trainable="all", refit=False, **QUIET)
    return model


# --- without labels --------------------------------------------------------------------------


def test_a_model_without_labels_learns_from_hidden_genes_and_annotates_nothing(pretrained):
    query = synthetic_adata(10, 40, seed=1)

    assert pretrained.labels is None
    assert {"train_loss", "validation_loss", "validation_masked_accuracy"} <= set(
        pretrained.history
    )
    assert pretrained.fit_["pretext"] == "masked_expression"
    assert np.isfinite(pretrained.get_latent_representation(query)).all()
    with pytest.raises(UsageError, match="does not annotate"):
        pretrained.predict(query)


def test_its_folder_starts_a_classifier_gene_by_gene(pretrained, tmp_path):
    pretrained.save(tmp_path / "start")
    other = synthetic_adata(80, 40, seed=2)[:, ::-1].copy()

    model = made(other, init=tmp_path / "start", dim=None, depth=None, heads=None, dim_head=None)

    its, mine = pretrained.module.encoder, model.module.encoder
    assert model.module.config["dim"] == 16
    assert torch.equal(mine.genes.weight, its.genes.weight[:40].flip(0))
    assert torch.equal(mine.layers[0].ff_in.weight, its.layers[0].ff_in.weight)
    assert model.pretraining_["pretext"] == "masked_expression"
    model.train(1, batch_size=32, **QUIET)
    assert model.fit_["trainable"] == "last"
    again = SCBERT.load(tmp_path / "start")
    query = synthetic_adata(10, 40, seed=1)
    assert np.array_equal(
        again.get_latent_representation(query), pretrained.get_latent_representation(query)
    )


def test_an_encoder_of_other_sizes_is_no_start(pretrained, tmp_path):
    pretrained.save(tmp_path / "start")

    with pytest.raises(ModelMismatchError, match=r"E-M06"):
        made(init=tmp_path / "start", dim=24)


# --- pretraining -----------------------------------------------------------------------------


def test_pretraining_lowers_the_loss_of_hidden_genes():
    model = made(simulate_cells(300, 40, n_types=3, n_donors=5, fold_change=6.0, seed=0))

    history = model.pretrain(6, batch_size=32, early_stopping=False, **QUIET)

    losses = history["validation_loss"].iloc[:, 0].to_numpy()
    assert losses[-1] < 0.9 * losses[0]
    assert model.pretraining_["n_updates"] > 0
    assert not model.is_trained_


def test_what_training_holds_out_is_not_pretrained_on(caplog):
    adata = synthetic_adata(200, 40)
    model = made(adata, donors="donor_id")

    model.pretrain(1, batch_size=32, **QUIET)
    seen = set(model._pretrained_rows)
    with caplog.at_level(logging.WARNING):
        model.train(1, batch_size=32, **QUIET)

    held = {*model.validation_indices_, *model.test_indices_, *model.calibration_indices_}
    assert held
    assert not seen & held
    donors = adata.obs["donor_id"].astype(str).to_numpy()
    assert not model.leaked_donors([donors[i] for i in held])
    assert "E-L46" not in caplog.text


def test_cells_without_a_label_are_pretrained_on():
    adata = synthetic_adata(120, 40)
    adata.obs.loc[adata.obs_names[:30], "cell_type"] = None
    SCBERT.setup_anndata(adata, labels_key="cell_type", unlabeled="keep")
    model = SCBERT(adata, **SMALL)

    model.pretrain(1, batch_size=32, **QUIET)
    model.train(1, batch_size=32, **QUIET)

    assert set(range(30)) <= set(model._pretrained_rows.tolist())
    assert not set(range(30)) & set(model.train_indices_)


def test_a_test_part_that_was_pretrained_on_is_refused():
    model = made()
    model.pretrain(1, batch_size=32, **QUIET)
    parts = [np.arange(20, 120), [], np.arange(20)]

    with pytest.raises(InputDataError, match=r"share: cell.*E-L20"):
        model.train(1, datasplitter_kwargs={"external_indexing": parts}, **QUIET)

    model.pretrain(1, datasplitter_kwargs={"external_indexing": parts}, batch_size=32, **QUIET)
    model.train(1, datasplitter_kwargs={"external_indexing": parts}, batch_size=32, **QUIET)


def test_pretraining_on_held_out_cells_and_donors_is_refused():
    cells, test = synthetic_adata(80, 40, seed=3), synthetic_adata(60, 40, seed=4)
    cells.obs_names = [f"a{i}" for i in range(80)]
    test.obs_names = [f"b{i}" for i in range(60)]
    model = made()

    with pytest.raises(InputDataError, match=r"share: donor.*E-L20"):
        model.pretrain(1, adata=cells, held_out=test, donor_key="donor_id", **QUIET)
    with pytest.raises(InputDataError, match=r"share: (barcode|cell).*E-L20"):
        model.pretrain(1, adata=cells, held_out=cells[:5].copy(), **QUIET)
    with pytest.raises(UsageError, match="E-U07"):
        model.pretrain(1, adata=cells, held_out=[1], **QUIET)
    model.pretrain(1, adata=cells, held_out=test, batch_size=32, **QUIET)
    assert model.pretraining_["own_cells"] is False


@pytest.mark.parametrize("form", ["more genes", "fewer genes", "logarithms", "a file"])
def test_held_out_cells_are_known_again_in_other_forms(form, tmp_path):
    cells = synthetic_adata(80, 60, seed=3)
    model = made(cells[:, :40].copy())
    again = cells[:20].copy()
    again.obs_names = [f"other{i}" for i in range(20)]
    if form == "fewer genes":
        again = again[:, :30].copy()
    elif form == "logarithms":
        again = again[:, :40].copy()
        again.X = np.log1p(again.X.toarray() / again.X.sum(1) * 1e4).astype(np.float32)
    elif form == "a file":
        again.write_h5ad(tmp_path / "test.h5ad")
        again = tmp_path / "test.h5ad"
    strangers = synthetic_adata(20, 60, seed=9)
    strangers.obs_names = [f"new{i}" for i in range(20)]

    with pytest.raises(InputDataError, match=r"share: cell.*of 20.*cells of other donors.*E-L20"):
        model.pretrain(1, held_out=again, **QUIET)
    model.pretrain(1, held_out=strangers, batch_size=32, **QUIET)


def test_donors_of_the_setup_are_those_of_other_cells_too():
    model, cells = made(donors="donor_id"), synthetic_adata(80, 40, seed=3)
    model.pretrain(1, adata=cells, batch_size=32, **QUIET)

    names = sorted(cells.obs["donor_id"].astype(str).unique())
    assert model.leaked_donors(names) == names
    with pytest.raises(UsageError, match=r"nope.*E-U04"):
        model.pretrain(1, adata=cells, donor_key="nope", **QUIET)
    with pytest.raises(UsageError, match=r"setup_anndata\(donor_key=\).*E-U24"):
        model.pretrain(1, donor_key="donor_id", **QUIET)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"max_epochs": 1.5}, "E-U22"),
        ({"mask_rate": "a"}, "E-U15"),
        ({"plan_kwargs": {"lr": "a"}}, "E-U15"),
        ({"precision": "foo"}, "E-U16"),
    ],
)
def test_values_of_other_kinds_are_refused(wrong, code):
    with pytest.raises(UsageError, match=code):
        made().pretrain(**{"max_epochs": 1, **wrong}, **QUIET)


def test_attention_of_no_cells_is_not_known(trained):
    query = simulate_cells(10, 40, n_types=3, n_donors=5, fold_change=6.0, seed=1)
    genes = list(trained.features.ids[:2])

    found = trained.attention(query, genes=genes, indices=[])

    assert list(found.index) == list(found.columns) == genes
    assert found.isna().all(axis=None)
    with pytest.raises(UsageError, match="E-U22"):
        trained.attention(query, genes=None)
    with pytest.raises(UsageError, match="E-U22"):
        trained.attention_scores(query, top_k=2.5)


def test_one_gene_has_a_vector_by_chance():
    one = coexpression_vectors(sparse.csr_matrix(np.ones((5, 1), np.float32)), 4)

    assert one.shape == (1, 4)
    assert torch.isfinite(one).all()


def test_donors_of_other_cells_are_remembered_and_refused():
    cells = synthetic_adata(80, 40, seed=3)
    model = made()
    model.pretrain(1, adata=cells, donor_key="donor_id", batch_size=32, **QUIET)
    names = sorted(cells.obs["donor_id"].astype(str).unique())

    assert model.leaked_donors([*names, "new"]) == names
    model.require_no_leaks(["new"])
    with pytest.raises(InputDataError, match=r"share: donor.*E-L20"):
        model.require_no_leaks(names[:2])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mask_rate": 0.0}, r"mask_rate=0.0.*E-U15"),
        ({"max_epochs": 0}, r"max_epochs=0.*E-U22"),
        ({"batch_size": 0}, r"batch_size=0.*E-U22"),
        ({"plan_kwargs": {"rate": 1}}, "E-U14"),
        ({"epochs": 3}, "E-U16"),
        ({"datasplitter_kwargs": {"sampling": "balanced"}}, "E-U21"),
    ],
)
def test_impossible_arguments_of_pretraining_are_refused(arguments, match):
    with pytest.raises(UsageError, match=match):
        made().pretrain(**arguments)


def test_arguments_of_labels_need_labels():
    with pytest.raises(UsageError, match=r"without a meaning: unlabeled.*E-U24"):
        SCBERT.setup_anndata(synthetic_adata(20, 20), unlabeled="keep")


def test_a_pretraining_that_fails_leaves_the_model_as_it_was():
    import lightning.pytorch as pl

    class Stop(pl.Callback):
        def on_train_epoch_end(self, *args: object) -> None:
            raise ZeroDivisionError

    model = made()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}

    with pytest.raises(ZeroDivisionError):
        model.pretrain(1, mask_rate=0.5, batch_size=32, callbacks=[Stop()], **QUIET)

    after = model.module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert model.module.config["mask_rate"] == 0.15
    assert model.pretraining_ == {}


# --- fine-tuning -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["head", "last"])
def test_layers_that_are_not_trained_stay_bit_by_bit(pretrained, what):
    model = made(init=pretrained, mask_weight=0.0)
    before = {k: v.clone() for k, v in model.module.named_parameters()}

    model.train(1, batch_size=32, trainable=what, **QUIET)

    moved = {k for k, v in model.module.named_parameters() if not torch.equal(v, before[k])}
    starts = ("head.",) if what == "head" else ("head.", "encoder.layers.1.", "encoder.norm.")
    assert moved
    assert all(name.startswith(starts) for name in moved)


def test_a_fresh_encoder_is_not_frozen():
    with pytest.raises(UsageError, match=r"trainable='last'.*E-U112"):
        made().train(1, trainable="last")
    with pytest.raises(UsageError, match=r"trainable='first'.*E-U30"):
        made().train(1, trainable="first")
    with pytest.raises(UsageError, match="E-U30"):
        SCBERT.check_train_arguments({"trainable": "none"})
    SCBERT.check_train_arguments({"trainable": "last", "max_epochs": 1, "batch_size": 3})


def test_the_published_schedule_is_known_before_cells_are_read():
    SCBERT.check_train_arguments({"plan_kwargs": {"restarts": True}})
    with pytest.raises(UsageError, match=r"restarts='maybe'.*E-U15"):
        SCBERT.check_train_arguments({"plan_kwargs": {"restarts": "maybe"}})


def test_text_is_no_switch():
    with pytest.raises(UsageError, match=r"mask_zeros='no'.*E-U31"):
        made(mask_zeros="no")


def test_arguments_that_train_hands_on_are_looked_at(tmp_path):
    path = tmp_path / "cells.h5ad"
    synthetic_adata(60, 40).write_h5ad(path)
    setup, train = {"labels_key": "cell_type"}, {"train_size": "abc"}
    request = jobs.TrainRequest(
        method="scbert", input=path, output=tmp_path / "m", setup=setup, train=train
    )

    with pytest.raises(UsageError, match=r"train_size.*'abc'.*a number.*E-U26"):
        jobs.train(request)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_accumulated_gradients_equal_the_large_batch(class_weight):
    # 70 cells: two windows of 32 and one of 6, its last batch smaller than the others.
    found = []
    for size, k in ((32, 1), (8, 4)):
        adata = synthetic_adata(70, 40)
        with settings.using_seed(0):
            model = made(adata, dropout=0.0, head_dropout=0.0, mask_weight=0.0, max_tokens=0)
            model.train(
                2,
                batch_size=size,
                accumulate_grad_batches=k,
                train_size=1.0,
                validation_size=0.0,
                refit=False,
                datasplitter_kwargs={"drop_last": False},
                plan_kwargs={"class_weight": class_weight, "lr": 1e-3},
                gradient_clip_val=None,
                **QUIET,
            )
        found.append(model)

    large, small = found
    assert large.fit_["n_updates"] == small.fit_["n_updates"] == 6
    for (name, a), (_, b) in zip(
        large.module.named_parameters(), small.module.named_parameters(), strict=True
    ):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_validation_scores_are_the_same_when_they_are_taken_again(trained):
    rows = trained.validation_indices_
    first, again = (trained.predict_proba(indices=rows, calibrated=False) for _ in range(2))

    assert first.equals(again)
    source = trained.training_source()
    for i, row in enumerate(rows[:3]):
        one = trained.predict_proba(indices=[int(row)], calibrated=False)
        np.testing.assert_allclose(one.to_numpy()[0], first.to_numpy()[i], atol=1e-6)
        assert one.index[0] == source.obs_names[row]


def test_mixed_precision_and_checkpointing_train():
    model = made(checkpointing=True)

    model.train(1, batch_size=32, precision="bf16-mixed", **QUIET)

    assert np.isfinite(model.predict_proba().to_numpy()).all()


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
@pytest.mark.parametrize("head", ["position", "pooled"])
def test_types_are_learnt_whatever_attention_and_head(attention, head):
    adata = simulate_cells(260, 40, n_types=3, n_donors=5, fold_change=6.0, seed=0)
    reference, rest = adata[:180].copy(), adata[180:]
    model = made(reference, attention=attention, head=head, depth=1)

    model.train(15, batch_size=16, refit=False, plan_kwargs={"lr": 1e-2}, **QUIET)

    right = model.predict(rest) == rest.obs["cell_type"].to_numpy().astype(str)
    assert right.mean() > 0.8


def test_unassigned_follows_the_threshold(trained):
    query = simulate_cells(30, 40, n_types=3, fold_change=6.0, seed=0)
    sure = trained.predict_proba(query).max(axis=1).to_numpy()

    def unassigned(threshold):
        calls = trained.annotate(query, min_confidence=threshold)
        return (calls["label"] == "unknown").to_numpy()

    assert not unassigned(0.0).any()
    middle = float(np.median(sure))
    assert np.array_equal(unassigned(middle), sure < middle)


def test_the_published_schedule_is_an_option():
    model = made()

    model.train(3, batch_size=32, refit=False, plan_kwargs={"restarts": True, "lr": 1e-3}, **QUIET)

    rates = model.history["lr"].iloc[:, 0].to_numpy()
    np.testing.assert_allclose(rates[:3], [1e-6, 2.008e-4, 4.006e-4], rtol=1e-3)


def test_the_paper_preset_has_the_published_sizes():
    model = made(preset="paper", dim=None, depth=None, heads=None, dim_head=None, hidden=None)

    config = model.module.config
    assert [config[k] for k in ("dim", "depth", "heads", "dim_head")] == [200, 6, 10, 64]
    assert config["attention"] == "favor"
    assert config["appended"]
    assert config["binning"] == "log2"
    assert made().module.config["binning"] == "rank"
    assert model.module.encoder.layers[0].attention.projection.shape == (266, 64)
    with pytest.raises(UsageError, match=r"preset='huge'.*E-U23"):
        made(preset="huge")


# --- genes -----------------------------------------------------------------------------------


def test_vectors_of_the_users_table_enter_by_name_and_are_not_trained(tmp_path, caplog):
    adata = synthetic_adata(80, 40)
    rng = np.random.default_rng(0)
    names = [*adata.var_names[5:][::-1], "OTHER"]
    table = pd.DataFrame(rng.normal(size=(36, 24)), index=names).astype("f4")
    word2vec = tmp_path / "vectors.txt"
    lines = [" ".join([n, *map(str, row)]) for n, row in zip(names, table.values, strict=True)]
    word2vec.write_text("\n".join(["36 24", *lines]))
    table.to_csv(tmp_path / "vectors.csv")
    table.to_csv(tmp_path / "vectors.tsv", sep="\t")
    table.to_parquet(tmp_path / "vectors.parquet")

    forms = [table, {n: table.loc[n].tolist() for n in names}, word2vec]
    forms += [tmp_path / f"vectors.{end}" for end in ("csv", "tsv", "parquet")]
    table.rename_axis("gene").reset_index().to_parquet(tmp_path / "named.parquet", index=False)
    forms.append(tmp_path / "named.parquet")
    for form in forms:
        model = made(adata, gene_table=form)
        weight = model.module.encoder.genes.weight
        wanted = table.loc[adata.var_names[5:]].to_numpy()
        np.testing.assert_allclose(weight[5:].detach().numpy(), wanted, rtol=1e-5)
        assert weight.shape == (40, 24)
        assert model.module.config["gene_embedding"] == "table"

    before = weight.clone()
    model.train(1, batch_size=32, **QUIET)
    assert torch.equal(model.module.encoder.genes.weight, before)
    model.save(tmp_path / "model")
    again = SCBERT.load(tmp_path / "model")
    assert torch.equal(again.module.encoder.genes.weight, before)


def test_tables_that_are_none_are_refused(tmp_path):
    adata = synthetic_adata(40, 40)
    with pytest.raises(InputFileError, match="E-F07"):
        made(adata, gene_table=tmp_path / "none.csv")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    with pytest.raises(InputFileError, match="E-F22"):
        made(adata, gene_table=tmp_path / "noise.parquet")
    with pytest.raises(UsageError, match=r"no vectors of one length.*E-U31"):
        made(adata, gene_table={"GENE0": [1.0, 2.0], "GENE1": [1.0]})
    with pytest.raises(UsageError, match="E-U31"):
        made(adata, gene_table={"GENE0": ["a"]})
    with pytest.raises(GeneMatchError, match=r"0 of 40 genes are in the table.*E-G03"):
        made(adata, gene_table={f"X{i}": [1.0] for i in range(9)})
    with pytest.raises(UsageError, match=r"a list, in which no genes are named.*E-U31"):
        made(adata, gene_table=[[1.0, 2.0]])
    np.save(tmp_path / "vectors.npy", np.ones((40, 3)))
    with pytest.raises(InputFileError, match=r"no names of genes.*E-F22"):
        made(adata, gene_table=tmp_path / "vectors.npy")
    with pytest.raises(UsageError, match=r"without a table.*E-U31"):
        made(adata, gene_embedding="table")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nb_features": 8}, r"nb_features=8 changes nothing with attention='exact_nonzero'"),
        ({"stabilizer": "cell"}, r"stabilizer='cell' changes nothing"),
        ({"attention": "favor", "max_tokens": 9}, r"max_tokens=9 changes nothing .*'favor'"),
        (
            {
                "gene_embedding": "coexpression",
                "gene_table": {f"GENE{i}": [float(i)] for i in range(40)},
            },
            r"gene_embedding='coexpression' beside a gene_table",
        ),
    ],
)
def test_options_that_would_change_nothing_are_refused(options, message):
    with pytest.raises(UsageError, match=rf"{message}.*E-U31"):
        made(synthetic_adata(40, 40), **options)


def test_options_of_a_kind_of_attention_are_taken_with_it(tmp_path):
    adata = synthetic_adata(40, 40)
    model = made(adata, attention="favor", nb_features=8, stabilizer="cell", max_tokens=0)
    assert model.module.config["nb_features"] == 8
    model.train(1, batch_size=32, **QUIET)
    model.save(tmp_path / "model")
    started = SCBERT(adata, init=tmp_path / "model")
    started.train(1, batch_size=32, **QUIET)
    started.save(tmp_path / "started")
    assert SCBERT.load(tmp_path / "started").module.config["stabilizer"] == "cell"


def test_vectors_by_co_expression_have_the_correlations_of_training_genes():
    from scipy import sparse

    from episome_scbert.genes import coexpression_vectors

    rng = np.random.default_rng(0)
    factors = rng.gamma(2.0, 1.0, (400, 3))
    x = np.log1p(rng.poisson(factors @ rng.gamma(0.5, 2.0, (3, 30)))).astype(np.float32)
    x[:, 29] = 0

    found = coexpression_vectors(sparse.csr_matrix(x), 8).numpy()

    assert found.shape == (30, 8)
    assert np.isfinite(found).all()
    correlation = np.corrcoef(x[:, :29].T)
    products = found[:29] @ found[:29].T
    upper = np.triu_indices(29, 1)
    assert np.corrcoef(products[upper], correlation[upper])[0, 1] > 0.9
    again = coexpression_vectors(sparse.csr_matrix(x), 8).numpy()
    np.testing.assert_allclose(again, found, atol=1e-5)


@pytest.mark.parametrize("n_genes", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_any_number_of_genes_and_mouse_symbols(n_genes):
    adata = simulate_cells(40, n_genes, n_types=2, n_donors=2, seed=0)
    adata.var = pd.DataFrame(index=[f"Gm{i}" for i in range(n_genes)])
    model = made(adata, depth=1, gene_embedding="learned", hidden=(4, 4), max_tokens=64)

    model.train(1, batch_size=16, refit=False, **QUIET)

    assert len(model.predict(adata)) == 40
    assert len(model.features) == n_genes


# --- answers about genes ---------------------------------------------------------------------


def test_explanations_are_attention_that_sums_to_one(trained):
    query = synthetic_adata(12, 40, seed=1)

    found = trained.explain(query)

    np.testing.assert_allclose(np.asarray(found.sum(axis=1)).ravel(), 1, atol=1e-5)
    assert found.min() >= 0
    gradients = trained.explain(query, method="gradient")
    assert gradients.nnz > 0
    of_class = trained.explain(query, of=trained.labels.names[0])
    assert of_class.shape == (12, 40)
    table = trained.attention_scores(query, groupby="prediction", top_k=3)
    assert table.groupby("group").size().max() == 3
    means = trained.explain(query, groupby=["all"] * 12)
    best = means.loc["all"].sort_values(ascending=False).index[:3]
    whole = trained.attention_scores(query, groupby=None, top_k=3)
    assert list(whole["gene"]) == list(best)


@pytest.mark.parametrize("attention", ["exact_nonzero", "favor"])
def test_attention_among_genes_is_part_of_the_whole_matrix(attention):
    model = made(attention=attention)
    model.train(1, batch_size=32, refit=False, **QUIET)
    query, ids = synthetic_adata(8, 40, seed=1), list(model.features.ids)

    whole = model.attention(query, genes=ids)
    some = model.attention(query, genes=ids[7:2:-1], batch_size=3)
    groups = model.attention(query, genes=ids[:3], groupby=["a"] * 5 + ["b"] * 3)

    chosen = whole.loc[ids[7:2:-1], ids[7:2:-1]]
    np.testing.assert_allclose(some, chosen, rtol=1e-4, atol=1e-6)
    assert set(groups) == {"a", "b"}
    if attention == "favor":
        np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-4)
        mixed = (5 * groups["a"] + 3 * groups["b"]) / 8
        np.testing.assert_allclose(mixed, whole.iloc[:3, :3], rtol=1e-4)


def test_vectors_of_genes_are_those_of_the_encoder(trained):
    query, ids = synthetic_adata(8, 40, seed=1), list(trained.features.ids)
    chosen = [ids[4], ids[0]]

    found = trained.gene_embeddings(query, chosen, batch_size=3)

    assert found.shape == (8, 2, 16)
    expressed = query[:, chosen].X.toarray() > 0
    assert np.array_equal(np.isfinite(found).all(-1), expressed)
    assert np.array_equal(
        trained.gene_embeddings(query, chosen, indices=[5])[0], found[5], equal_nan=True
    )


def test_questions_about_genes_that_are_none_are_refused(trained, monkeypatch):
    query = synthetic_adata(5, 40, seed=1)
    with pytest.raises(UsageError, match="E-U61"):
        trained.attention(query, genes=["NO_GENE"])
    with pytest.raises(UsageError, match="E-U22"):
        trained.gene_embeddings(query, [])
    monkeypatch.setattr("episome_scbert.attention.MAX_ENTRIES", 10)
    with pytest.raises(UsageError, match=r"fewer genes.*E-U51"):
        trained.gene_embeddings(query, list(trained.features.ids))
    with pytest.raises(UsageError, match=r"fewer genes.*E-U51"):
        trained.attention(query, genes=list(trained.features.ids))


# --- expected expression ---------------------------------------------------------------------


def test_hidden_genes_are_told_better_than_by_chance(trained):
    query = simulate_cells(80, 40, n_types=3, fold_change=6.0, seed=0)
    rng = np.random.default_rng(0)
    mask = (rng.random(query.shape) < 0.1) & (query.X.toarray() > 0)

    found = trained.get_normalized_expression(query, mask=mask, return_numpy=True)

    truth = query.X.toarray() / query.X.sum(axis=1)
    got, wanted = np.log(found[mask] + 1e-4), np.log(np.asarray(truth)[mask] + 1e-4)
    assert np.corrcoef(got, wanted)[0, 1] > 0.3


def test_a_model_that_was_never_asked_for_a_hidden_gene_says_so():
    model = made(mask_weight=0.0)
    model.train(1, batch_size=32, refit=False, **QUIET)

    with pytest.raises(UsageError, match=r"never asked for a hidden gene.*E-U12"):
        model.get_normalized_expression()


# --- folders and sources ---------------------------------------------------------------------


def test_cells_on_disk_give_what_cells_in_memory_give(tmp_path):
    adata = synthetic_adata(80, 40)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with settings.using_seed(0):
        memory = made(adata)
        memory.pretrain(1, batch_size=32, **QUIET)
        memory.train(1, batch_size=32, **QUIET)
    with settings.using_seed(0):
        disk = SCBERT(SCBERT.setup_source(tmp_path / "cells.h5ad", "cell_type"), **SMALL)
        disk.pretrain(1, batch_size=32, **QUIET)
        disk.train(1, batch_size=32, **QUIET)

    query = synthetic_adata(10, 40, seed=1)
    assert disk.predict_proba(query).equals(memory.predict_proba(query))


def test_new_classes_are_learnt_from_what_is_known(trained):
    new = simulate_cells(80, 40, n_types=4, fold_change=6.0, seed=0)

    tuned = trained.fine_tune(new, "cell_type", max_epochs=2, batch_size=16, **QUIET)

    assert len(tuned.labels) == 4
    assert tuned.labels.names[:3] == trained.labels.names
    assert len(tuned.predict(new)) == 80
