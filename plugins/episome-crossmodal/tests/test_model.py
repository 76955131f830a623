"""`CrossModal`: what it learns, what it must not see, and what it says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

from episome import settings
from episome.data import as_mudata
from episome.errors import InputDataError, ModelMismatchError, TrainingError, UsageError
from episome.jobs import CorpusRequest, corpus_build
from episome.metrics import modality_scores
from episome.models import CrossModal, load

if TYPE_CHECKING:
    import mudata

QUICK = {"max_epochs": 12, "batch_size": 32, "accelerator": "cpu"}
SMALL = {"hidden": (32,), "n_latent": 8, "decoder": (), "dropout": 0.0, "input_dropout": 0.0}


def trained(mdata: mudata.MuData, setup=None, train=None, **options) -> CrossModal:
    CrossModal.setup_mudata(mdata, **(setup or {}))
    model = CrossModal(mdata, **{**SMALL, **options})
    model.train(**{**QUICK, **(train or {})})
    return model


def truth_of(mdata: mudata.MuData) -> np.ndarray:
    return np.log1p(np.asarray(mdata.mod["prot"].X))


# -- what is learned ------------------------------------------------------------------------------


def test_a_linear_map_of_rna_is_learned():
    rng = np.random.default_rng(0)
    n_cells, n_genes, n_targets = 1200, 40, 6
    genes = rng.poisson(3.0, (n_cells, n_genes)).astype(np.float32)
    log = np.log1p(genes * (1e4 / genes.sum(1, keepdims=True)))
    values = log @ rng.normal(0, 0.4, (n_genes, n_targets)) + rng.normal(
        0, 0.1, (n_cells, n_targets)
    )
    names = [f"c{i}" for i in range(n_cells)]
    mdata = as_mudata(
        {
            "rna": anndata.AnnData(genes),
            "prot": anndata.AnnData(values.astype(np.float32)),
        }
    )
    for name, part in mdata.mod.items():
        part.obs_names = names
        part.var_names = [f"{name}{i}" for i in range(part.n_vars)]
    mdata.update()
    train, test = (
        as_mudata({k: v[rows].copy() for k, v in mdata.mod.items()})
        for rows in (slice(0, 900), slice(900, None))
    )

    model = trained(
        train,
        {"target_modality": "prot"},
        {"max_epochs": 150, "early_stopping_patience": 60},
        hidden=(64,),
        target="protein",
    )

    assert model.target_scale == "none"
    report = model.feature_report(test)
    assert (report["r2"] > 0.95).all(), report["r2"]


def test_proteins_of_unseen_cells_are_predicted(pairs):
    model = trained(pairs(600), train={"max_epochs": 40})
    test = pairs(200, seed=1)

    found = model.predict_modality(test.mod["rna"])

    scores = modality_scores(np.asarray(found.X), truth_of(test))
    assert scores["pearson_features"] > 0.5
    assert found.uns["scale"] == "log1p"
    assert list(found.obs_names) == list(test.mod["rna"].obs_names)


def test_cells_that_are_paired_wrongly_teach_nothing(pairs):
    mdata = pairs(600)
    order = np.random.default_rng(3).permutation(600)
    proteins = mdata.mod["prot"][order].copy()
    proteins.obs_names = mdata.mod["rna"].obs_names
    shuffled = as_mudata({"rna": mdata.mod["rna"].copy(), "prot": proteins})
    test = pairs(300, seed=1)

    model = trained(shuffled, train={"max_epochs": 20})

    scores = modality_scores(np.asarray(model.predict_modality(test.mod["rna"]).X), truth_of(test))
    assert abs(scores["pearson_features"]) < 0.25
    # By cell it looks well all the same: proteins differ in how many there are of them.
    assert scores["pearson_cells"] > 0.3


def test_cells_in_another_order_are_paired_by_name(pairs):
    mdata = pairs()
    turned = as_mudata(
        {
            "rna": mdata.mod["rna"].copy(),
            "prot": mdata.mod["prot"][np.random.default_rng(0).permutation(200)].copy(),
        }
    )
    query = pairs(30, seed=1).mod["rna"]

    first, second = (trained(m).predict_modality(query).X for m in (mdata, turned))

    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("likelihood", "scale"),
    [("nb", "log1p"), ("nb_mixture", "log1p"), ("poisson", "none"), ("bernoulli", "binary")],
)
def test_likelihoods_predict_on_the_scale_that_they_name(pairs, likelihood, scale):
    model = trained(pairs(400), train={"max_epochs": 30}, likelihood=likelihood)
    test = pairs(100, seed=1)

    found = model.predict_modality(test.mod["rna"])

    assert found.uns["scale"] == scale
    counts = np.asarray(test.mod["prot"].X)
    truth = {"log1p": np.log1p(counts), "none": counts, "binary": counts > 0}[scale]
    scores = modality_scores(np.asarray(found.X), truth.astype(float))
    if scale == "binary":
        # Nearly all counts are above zero: there is nothing to tell apart but the level.
        assert ((found.X >= 0) & (found.X <= 1)).all()
    else:
        assert scores["pearson_features"] > 0.4
        assert scores["mse_flat"] < np.var(truth)


# -- what it must not see -------------------------------------------------------------------------


def test_a_query_needs_no_proteins_and_those_it_has_change_nothing(pairs):
    model = trained(pairs())
    test = pairs(40, seed=1)
    other = as_mudata({"rna": test.mod["rna"].copy(), "prot": test.mod["prot"].copy()})
    other.mod["prot"].X = np.full((40, 8), 1e3, dtype=np.float32)

    alone = model.predict_modality(test.mod["rna"]).X

    for query in (test, other):
        assert np.array_equal(model.predict_modality(query).X, alone)


@pytest.mark.parametrize("scale", ["log1p", "clr", "tfidf"])
def test_test_cells_leave_no_trace(pairs, scale):
    first = pairs(200, n_batches=2)
    second = as_mudata({k: v.copy() for k, v in first.mod.items()})
    rows = np.arange(200)
    split = [rows[:140], rows[140:170], rows[170:]]
    second.mod["rna"].X[170:] = 7
    second.mod["prot"].X[170:] = 50

    states = []
    for mdata in (first, second):
        model = trained(
            mdata,
            {"batch_key": "batch"},
            {"datasplitter_kwargs": {"external_indexing": split}},
            target_scale=scale,
        )
        states.append((model.module.state()[0], model.target_.scale))

    for name, values in states[0][0].items():
        assert np.array_equal(values, states[1][0][name]), name
    for name, values in states[0][1].arrays.items():
        assert np.array_equal(values, states[1][1].arrays[name]), name


def test_intervals_are_made_of_cells_that_did_not_train(pairs):
    mdata = pairs(400)
    rows = np.arange(400)
    split = [rows[:250], rows[250:300], rows[300:320], rows[320:]]

    with settings.using_seed(0):
        model = trained(mdata, train={"datasplitter_kwargs": {"external_indexing": split[:3]}})

    assert model.target_.intervals["unseen"].n_cells == 50
    assert set(model.validation_indices_) == set(split[1])


# -- batches --------------------------------------------------------------------------------------


def test_batches_are_read_from_the_query_and_unknown_ones_have_an_answer_of_their_own(pairs):
    model = trained(
        pairs(600, n_batches=3), {"batch_key": "batch"}, {"max_epochs": 30}, batch_dropout=0.2
    )
    query = pairs(60, seed=1, n_batches=3).mod["rna"]
    unknown = query.copy()
    unknown.obs["batch"] = "elsewhere"
    silent = anndata.AnnData(query.X, obs=query.obs[[]], var=query.var)

    own, unseen = model.predict_modality(query), model.predict_modality(unknown)
    each = {b: model.predict_modality(silent, transform_batch=b).X for b in model.batches}

    assert model.batches == ("b0", "b1", "b2")
    assert np.array_equal(unseen.X, model.predict_modality(silent).X)
    assert np.isfinite(unseen.X).all()
    for batch, values in each.items():
        rows = (query.obs["batch"] == batch).to_numpy()
        assert np.array_equal(own.X[rows], values[rows])
        assert not np.allclose(values, unseen.X)
    # Batch 2 has ten molecules more of everything.
    assert each["b2"].mean() > each["b0"].mean() + 0.2
    with pytest.raises(UsageError, match=r"no batch 'b9'.*E-U110"):
        model.predict_modality(silent, transform_batch="b9")


def test_panels_that_differ_between_batches_are_masked(pairs):
    mdata = pairs(600, n_batches=2)
    second = (mdata.mod["rna"].obs["batch"] == "b1").to_numpy()
    # As panels look after they were joined: zero in all cells of one batch, or NaN.
    mdata.mod["prot"].X[second, 0] = 0
    mdata.mod["prot"].X[~second, 1] = np.nan
    other = as_mudata({k: v.copy() for k, v in mdata.mod.items()})
    test = pairs(200, seed=1)

    model = trained(mdata, {"batch_key": "batch"}, {"max_epochs": 30})

    found = np.asarray(model.predict_modality(test.mod["rna"], transform_batch="b1").X)
    # Read as zeros these would pull the prediction of a batch down to nothing.
    assert found[:, 0].mean() > 1.0
    assert np.isfinite(found).all()
    assert model.target_.table["n_cells"].iloc[0] < model.target_.table["n_cells"].iloc[2]
    # Without batches a zero is a zero, and NaN is still not measured.
    plain = trained(other, train={"max_epochs": 30})
    assert np.asarray(plain.predict_modality(test.mod["rna"]).X)[:, 0].mean() < found[:, 0].mean()


# -- cells without the other modality -------------------------------------------------------------


def test_cells_with_rna_alone_are_predicted_and_learned_from_if_wanted(pairs):
    mdata = pairs(300)
    few = as_mudata({"rna": mdata.mod["rna"], "prot": mdata.mod["prot"][:200].copy()})

    model = trained(few)
    found = model.predict_modality()

    assert found.n_obs == 300
    assert np.isfinite(found.X).all()
    assert max(model.train_indices_.max(), model.validation_indices_.max()) < 200
    both = trained(few, rna_weight=0.5)
    used = np.concatenate(
        [both.train_indices_, both.validation_indices_, both.calibration_indices_]
    )
    assert set(used) == set(range(300))
    assert {"train_target_error", "train_rna_error"} <= set(both.history)
    assert np.isfinite(both.predict_modality().X).all()


def test_modalities_without_common_cells_are_refused(pairs):
    first, second = pairs(30), pairs(30, seed=1)
    apart = as_mudata({"rna": first.mod["rna"], "prot": second.mod["prot"]})

    with pytest.raises(InputDataError, match="E-D45"):
        CrossModal.setup_mudata(apart)


# -- where cells are ------------------------------------------------------------------------------


def test_cells_on_disk_give_the_same_model(pairs, tmp_path):
    mdata = pairs(200, n_batches=2)
    for name, part in mdata.mod.items():
        part.X = sparse.csr_matrix(part.X)
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    mdata.write_h5mu(tmp_path / "cells.h5mu")
    query = pairs(30, seed=1).mod["rna"]
    wanted = trained(mdata, {"batch_key": "batch"}).predict_modality(query).X

    places = [tmp_path / "cells.h5mu", {k: tmp_path / f"{k}.h5ad" for k in ("rna", "prot")}]
    for place in places:
        cells = CrossModal.setup_source(place, batch_key="batch")
        model = CrossModal(cells, **SMALL)
        model.train(**QUICK)

        assert model.adata is None
        assert np.array_equal(model.predict_modality(query).X, wanted)
        np.testing.assert_allclose(
            model.predict_modality(indices=[5, 3]).X,
            model.predict_modality().X[[5, 3]],
            rtol=1e-5,
        )


def test_sources_may_lack_cells_of_each_other(pairs, tmp_path):
    mdata = pairs(120)
    mdata.mod["rna"].write_h5ad(tmp_path / "rna.h5ad")
    mdata.mod["prot"][np.arange(99, 19, -1)].copy().write_h5ad(tmp_path / "prot.h5ad")

    cells = CrossModal.setup_source({k: tmp_path / f"{k}.h5ad" for k in ("rna", "prot")})
    model = CrossModal(cells, **SMALL)
    model.train(**QUICK)

    assert set(model.train_indices_) <= set(range(20, 100))
    measured = model.measured_target()
    wanted = mdata.mod["prot"].X[20:100]
    assert np.array_equal(measured.dense(np.arange(20, 100), None), wanted)
    with pytest.raises(UsageError, match="E-U60"):
        CrossModal.setup_source({"rna": tmp_path / "rna.h5ad"}, target_modality="prot")


# -- starts ---------------------------------------------------------------------------------------


def encoder_on(rna: anndata.AnnData):
    from episome.models import SSLEncoder

    SSLEncoder.setup_anndata(rna)
    encoder = SSLEncoder(rna, hidden=(16, 8), n_latent=4)
    encoder.train(max_epochs=2, accelerator="cpu", batch_size=32)
    return encoder


def test_an_encoder_starts_it_by_the_names_of_genes(pairs, tmp_path):
    mdata = pairs()
    encoder = encoder_on(mdata.mod["rna"].copy())
    order = np.random.default_rng(0).permutation(60)
    turned = as_mudata({"rna": mdata.mod["rna"][:, order].copy(), "prot": mdata.mod["prot"]})
    encoder.save(tmp_path / "encoder")
    CrossModal.setup_mudata(turned)

    model = CrossModal(turned, init=tmp_path / "encoder")
    model.is_trained_ = True

    query = pairs(20, seed=1).mod["rna"]
    assert model.module.config["encoder"] == "masked"
    np.testing.assert_allclose(
        model.get_latent_representation(query), encoder.get_latent_representation(query), rtol=1e-5
    )
    assert model.pretraining_["n_known"] == 60
    assert model.pretraining_["pretext"] == "random_mask"
    # A live model does the same, and genes that are not known there start anew.
    fewer = as_mudata({"rna": mdata.mod["rna"].copy(), "prot": mdata.mod["prot"]})
    fewer.mod["rna"].var_names = [f"GENE{i}" if i < 40 else f"NEW{i}" for i in range(60)]
    fewer.update()
    CrossModal.setup_mudata(fewer)
    assert CrossModal(fewer, init=encoder).pretraining_["n_known"] == 40
    with pytest.raises(ModelMismatchError, match="E-M06"):
        CrossModal(turned, **SMALL, encoder="told", init=encoder)


def test_a_model_starts_another_of_its_kind(pairs):
    mdata = pairs()
    first = trained(mdata)
    CrossModal.setup_mudata(mdata)

    second = CrossModal(mdata, init=first, decoder=(), dropout=0.0)

    assert second.module.config["encoder"] == "told"
    assert torch.equal(second.module.net.first, first.module.net.first)


# -- intervals and tables -------------------------------------------------------------------------


def test_intervals_hold_what_they_say(pairs):
    model = trained(pairs(3000), train={"max_epochs": 8})
    report = model.feature_report(pairs(2000, seed=1), interval=0.8)

    # 2,000 cells, and the draw of 300 calibration cells: counts have ties, which widen intervals.
    assert (report["coverage"] > 0.74).all()
    assert (report["coverage"] < 0.92).all()
    found = model.predict_modality(pairs(20, seed=2).mod["rna"], interval=0.8)
    assert (found.layers["lower"] <= found.layers["upper"]).all()
    assert (found.layers["lower"] >= 0).all()


def test_the_table_says_what_cannot_be_predicted(pairs):
    mdata = pairs(900)
    rng = np.random.default_rng(5)
    mdata.mod["prot"].X[:, 0] = rng.poisson(5.0, 900)
    mdata.mod["prot"].X[:, 1] = 3

    model = trained(mdata, train={"max_epochs": 15})

    status = model.target_.table["status"]
    assert status.iloc[0] in {"not predictable", "weak"}
    assert status.iloc[1] == "constant"
    assert (status.iloc[2:] == "predictable").mean() > 0.7
    found = model.predict_modality(mdata.mod["rna"][:5].copy(), features=["P2", "P0"])
    assert list(found.var_names) == ["P2", "P0"]
    assert list(found.var["status"]) == [status["P2"], status["P0"]]


def test_what_is_unknown_of_intervals_and_features_is_said(pairs):
    model = trained(pairs(300))
    query = pairs(10, seed=1).mod["rna"]

    with pytest.raises(UsageError, match=r"interval=0\.77.*use one of 0\.5.*E-U22"):
        model.predict_modality(query, interval=0.77)
    with pytest.raises(UsageError, match=r"does not predict.*P99.*E-U61"):
        model.predict_modality(query, features=["P1", "P99"])
    probabilities = trained(pairs(300), likelihood="bernoulli")
    with pytest.raises(UsageError, match="E-U114"):
        probabilities.predict_modality(query, interval=0.9)


def test_a_model_without_held_out_cells_has_no_intervals(pairs):
    model = trained(pairs(100), train={"train_size": 1.0})

    assert model.target_.intervals == {}
    assert model.target_.table is None
    with pytest.raises(UsageError, match="E-U114"):
        model.predict_modality(pairs(5).mod["rna"], interval=0.9)


def test_other_panels_are_matched_by_name_and_missing_ones_are_not_measured(pairs):
    model = trained(pairs(400), train={"max_epochs": 20})
    test = pairs(100, seed=1)
    other = as_mudata({"rna": test.mod["rna"], "prot": test.mod["prot"][:, 2:].copy()})
    other.mod["prot"].var_names = [f"{n}_TotalSeqB" for n in other.mod["prot"].var_names]
    other.update()

    whole, part = model.feature_report(test), model.feature_report(other)

    assert part["n_cells"].iloc[:2].eq(0).all()
    np.testing.assert_allclose(part["pearson"].iloc[2:], whole["pearson"].iloc[2:])


# -- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["mse", "nb_mixture", "bernoulli"])
def test_a_folder_gives_everything_back(pairs, tmp_path, likelihood):
    model = trained(pairs(300, n_batches=2), {"batch_key": "batch"}, likelihood=likelihood)
    query = pairs(40, seed=1, n_batches=3).mod["rna"]
    level = None if likelihood == "bernoulli" else 0.9
    model.save(tmp_path / "model")

    back = load(tmp_path / "model")

    first, second = (m.predict_modality(query, interval=level) for m in (model, back))
    assert np.array_equal(first.X, second.X)
    for name in first.layers:
        assert np.array_equal(first.layers[name], second.layers[name])
    assert first.uns == second.uns
    assert back.batches == model.batches
    assert back.likelihood == model.likelihood
    for column in first.var:
        a, b = first.var[column].to_numpy(), second.var[column].to_numpy()
        if a.dtype == object:
            assert list(a) == list(b)
        else:
            np.testing.assert_allclose(b, a, rtol=1e-6, equal_nan=True)


def test_sparse_output_is_the_dense_one_without_what_is_small(pairs):
    model = trained(pairs(300), likelihood="bernoulli")
    query = pairs(40, seed=1).mod["rna"]
    dense = np.asarray(model.predict_modality(query).X)

    found = model.predict_modality(query, sparse_below=0.95).X

    assert sparse.issparse(found)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), np.where(dense < 0.95, 0, dense))


# -- peaks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"target_scale": "tfidf"}, {"head_rank": 4}])
def test_peaks_have_likelihoods_and_heads_of_their_own(pairs, options):
    mdata = pairs(300, n_targets=30)
    peaks = mdata.mod["prot"].copy()
    peaks.X = sparse.csr_matrix(np.random.default_rng(0).poisson(np.asarray(peaks.X) / 30))
    peaks.var_names = [f"chr1:{1000 * i + 1}-{1000 * i + 500}" for i in range(30)]
    both = as_mudata({"rna": mdata.mod["rna"], "atac": peaks})

    model = trained(both, **options)

    assert model.target_features.modality == "atac"
    assert model.likelihood == ("mse" if "target_scale" in options else "bernoulli")
    found = model.predict_modality(both.mod["rna"][:10].copy())
    assert found.shape == (10, 30)
    assert np.isfinite(found.X).all()
    if "head_rank" in options:
        assert model.module.out.weight.shape == (30, 4)


# -- bad inputs -----------------------------------------------------------------------------------


def test_likelihoods_of_counts_refuse_other_values(pairs):
    mdata = pairs(60)
    mdata.mod["prot"].X = np.log1p(mdata.mod["prot"].X)
    CrossModal.setup_mudata(mdata)

    for likelihood in ("nb", "nb_mixture", "poisson"):
        with pytest.raises(InputDataError, match="E-D53"):
            CrossModal(mdata, likelihood=likelihood)
    assert CrossModal(mdata).target_scale == "none"


def test_negative_values_of_proteins_are_a_target_like_others(pairs):
    mdata = pairs(200)
    mdata.mod["prot"].X = np.log1p(mdata.mod["prot"].X) - 2
    dense = trained(mdata)
    mdata.mod["prot"].X = sparse.csr_matrix(mdata.mod["prot"].X)

    thin = trained(mdata)

    query = pairs(10, seed=1).mod["rna"]
    assert dense.target_scale == "none"
    assert np.array_equal(dense.predict_modality(query).X, thin.predict_modality(query).X)
    assert (dense.target_.intervals["unseen"].minimum) is None


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"likelihood": "normal"}, "E-U30"),
        ({"target": "lipid"}, "E-U30"),
        ({"target_scale": "sqrt"}, "E-U30"),
        ({"target_scale": "clr", "likelihood": "nb"}, "E-U31"),
        ({"hidden": "wide"}, "E-U31"),
        ({"head_rank": 0}, "E-U31"),
        ({"rna_weight": 1.0, "encoder": "told"}, "E-U31"),
    ],
)
def test_impossible_arguments_are_refused_at_once(pairs, options, code):
    mdata = pairs(40)
    CrossModal.setup_mudata(mdata)

    with pytest.raises(UsageError, match=code):
        CrossModal(mdata, **{**SMALL, **options})


def test_a_batch_that_is_missing_is_refused(pairs):
    mdata = pairs(40, n_batches=2)
    with pytest.raises(UsageError, match="E-U04"):
        CrossModal.setup_mudata(mdata, batch_key="sample")
    mdata.mod["rna"].obs["batch"] = mdata.mod["rna"].obs["batch"].where(np.arange(40) > 3)
    with pytest.raises(UsageError, match="E-U82"):
        CrossModal.setup_mudata(mdata, batch_key="batch")


def test_the_data_of_the_user_stay_as_they_are(pairs):
    mdata = pairs(80, n_batches=2)
    before = {k: (v.X.copy(), list(v.obs), list(v.var)) for k, v in mdata.mod.items()}

    model = trained(mdata, {"batch_key": "batch"})
    model.predict_modality(mdata.mod["rna"].copy())

    for name, (values, obs, var) in before.items():
        part = mdata.mod[name]
        assert np.array_equal(part.X, values)
        assert [c for c in part.obs if not c.startswith("_scvi")] == obs
        assert list(part.var) == var


# -- what a new user stumbled over ---------------------------------------------------------------


def test_one_negative_value_among_counts_is_refused_and_not_another_scale(pairs):
    mdata = pairs(60)
    mdata.mod["prot"].X[3, 2] = -5

    with pytest.raises(InputDataError, match=r"negative values among whole numbers.*E-D04"):
        CrossModal.setup_mudata(mdata)


def test_a_feature_that_no_cell_was_measured_for_is_predicted_as_nothing(pairs, tmp_path):
    mdata = pairs(400)
    mdata.mod["prot"].X[:, 2] = np.nan
    model = trained(mdata)
    model.save(tmp_path / "model")
    query = pairs(20, seed=1).mod["rna"]

    for asked in (model, load(tmp_path / "model")):
        found = asked.predict_modality(query, interval=0.9)
        for values in (found.X, found.layers["lower"], found.layers["upper"]):
            assert np.isnan(values[:, 2]).all()
            assert not np.isnan(np.delete(values, 2, axis=1)).any()


def test_a_report_refuses_values_of_another_scale(pairs):
    model = trained(pairs(200))
    test = pairs(60, seed=1)
    test.mod["prot"].X = np.log1p(test.mod["prot"].X)

    with pytest.raises(InputDataError, match="E-D07"):
        model.feature_report(test)


def test_intervals_of_a_query_that_lacks_genes_are_doubted(pairs):
    model = trained(pairs(400))
    fewer = pairs(40, seed=1).mod["rna"][:, :40].copy()

    with pytest.warns(UserWarning, match=r"20 of 60.*E-D65"):
        model.predict_modality(fewer, interval=0.9)


def test_batches_that_became_floats_are_the_same(pairs):
    mdata = pairs(300, n_batches=2)
    mdata.mod["rna"].obs["batch"] = (mdata.mod["rna"].obs["batch"] == "b1").astype(int)
    model = trained(mdata, {"batch_key": "batch"})
    query = pairs(20, seed=1, n_batches=2).mod["rna"]
    query.obs["batch"] = (query.obs["batch"] == "b1").astype(int)
    wanted = model.predict_modality(query).X
    query.obs["batch"] = query.obs["batch"].astype(float)

    assert np.array_equal(model.predict_modality(query).X, wanted)


def test_a_modality_is_not_predicted_from_itself_and_usual_names_are_found(pairs):
    mdata = pairs(60)
    with pytest.raises(UsageError, match=r"from itself.*E-U63"):
        CrossModal.setup_mudata(mdata, target_modality="rna")
    other = as_mudata({"gex": mdata.mod["rna"].copy(), "adt": mdata.mod["prot"].copy()})
    model = trained(other)
    assert model.setup_args["rna_modality"] == "gex"
    query = as_mudata({"counts": pairs(10, seed=1).mod["rna"]})
    assert model.predict_modality(query, modality="counts").n_obs == 10
    with pytest.raises(UsageError, match=r"no second modality.*E-U63"):
        CrossModal.setup_mudata(as_mudata({"rna": mdata.mod["rna"].copy()}))


def test_odd_arguments_of_predictions_have_answers(pairs):
    model = trained(pairs(400))
    query = pairs(10, seed=1).mod["rna"]

    nothing = model.predict_modality(query[:0].copy(), interval=0.9)
    assert nothing.shape == (0, 8)
    assert nothing.layers["lower"].shape == (0, 8)
    with pytest.raises(UsageError, match=r"interval='0.9'.*E-U22"):
        model.predict_modality(query, interval="0.9")
    with pytest.raises(UsageError, match=r"does not predict.*E-U61"):
        model.predict_modality(query, features=[0, 1])
    few = trained(pairs(60), train={"train_size": 1.0})
    assert set(few.predict_modality(query).var["status"]) == {"unknown"}


# -- what a second reading asked for -----------------------------------------------------------


def test_a_training_that_fails_leaves_what_was_known_of_the_predictions(pairs):
    model = trained(pairs(400))
    before, query = model.target_, pairs(10, seed=1).mod["rna"]
    wanted = model.predict_modality(query, interval=0.9)

    with pytest.raises(TrainingError):
        model.train(**QUICK, plan_kwargs={"lr": 1e30})

    assert model.target_ is before
    again = model.predict_modality(query, interval=0.9)
    assert np.array_equal(again.X, wanted.X)
    assert np.array_equal(again.layers["upper"], wanted.layers["upper"])


def test_proteins_above_empty_droplets_are_a_scale_to_train_on(pairs, tmp_path):
    mdata = pairs(300)
    droplets = np.random.default_rng(4).poisson(1.5, (200, 8))
    options = {"empty": droplets, "options": {"denoise": False}}

    model = trained(mdata, target_scale="dsb", scale_options=options, train={"max_epochs": 30})

    found = model.predict_modality(mdata.mod["rna"].copy(), interval=0.9)
    assert found.uns["scale"] == "dsb"
    measured = model.target_.scale.apply(mdata.mod["prot"].X).toarray()
    assert modality_scores(np.asarray(found.X), measured)["pearson_features"] > 0.4
    assert (found.layers["lower"] < 0).any()
    model.save(tmp_path / "model")
    report = load(tmp_path / "model").feature_report(pairs(60, seed=1))
    assert report["pearson"].mean() > 0.3


def test_a_corpus_and_a_file_are_paired(pairs, tmp_path):
    mdata = pairs(200)
    mdata.mod["rna"].write_h5ad(tmp_path / "rna.h5ad")
    mdata.mod["prot"].write_h5ad(tmp_path / "prot.h5ad")
    corpus_build(CorpusRequest((tmp_path / "rna.h5ad",), tmp_path / "rna.corpus"))

    cells = CrossModal.setup_source(
        {"rna": tmp_path / "rna.corpus", "prot": tmp_path / "prot.h5ad"}
    )
    model = CrossModal(cells, **SMALL)
    model.train(**QUICK)

    query = pairs(20, seed=1).mod["rna"]
    assert np.isfinite(model.predict_modality(query).X).all()
    rows = np.arange(200)
    at = mdata.mod["prot"][cells.source.obs_names].X
    assert np.array_equal(model.measured_target().dense(rows, None), at)


def test_features_that_another_panel_lacks_are_no_zeros_of_its_cells(pairs):
    model = trained(pairs(300), target_scale="clr_cells")
    test = pairs(80, seed=1)
    fewer = as_mudata({"rna": test.mod["rna"], "prot": test.mod["prot"][:, :5].copy()})

    report = model.feature_report(fewer)

    counts = np.log1p(np.asarray(fewer.mod["prot"].X, dtype=float))
    # The geometric mean of a cell is that of the five that were measured.
    wanted = np.log1p(np.expm1(counts) / np.exp(counts.mean(axis=1, keepdims=True)))
    np.testing.assert_allclose(report["mean"].iloc[:5], wanted.mean(axis=0), rtol=1e-5)
    assert report["n_cells"].iloc[5:].eq(0).all()
