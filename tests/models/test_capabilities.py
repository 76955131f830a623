"""Models without labels: embedding, reconstruction and another modality, all through the host."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest
from scipy import sparse

from episome.errors import GeneMatchError, InputDataError, UsageError
from episome.models import CAPABILITIES, load
from episome.testing import fingerprint
from episome.train import LOSS_MONITOR


@pytest.fixture(scope="module")
def encoder(toy):
    adata = toy.cells()
    toy.ToyEncoder.setup_anndata(adata)
    model = toy.ToyEncoder(adata)
    model.train(accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def translator(toy):
    mdata = toy.pairs()
    toy.ToyTranslator.setup_mudata(mdata)
    model = toy.ToyTranslator(mdata)
    model.train(accelerator="cpu")
    return model


# -- training without labels ---------------------------------------------------------------------


def test_training_lowers_the_loss_and_keeps_the_best_epoch(encoder):
    losses = encoder.history[LOSS_MONITOR].iloc[:, 0]

    assert losses.min() < 0.6 * losses.iloc[0]
    assert encoder.fit_["best_epoch"] == losses.idxmin()
    assert encoder.fit_[LOSS_MONITOR] == pytest.approx(losses.min())
    assert set(encoder.history) >= {"train_loss", LOSS_MONITOR}


def test_set_up_writes_no_labels_and_needs_none(toy):
    adata = toy.cells()
    del adata.obs["cell_type"]
    before = fingerprint(adata)

    toy.ToyEncoder.setup_anndata(adata)

    assert fingerprint(adata) == before
    assert toy.ToyEncoder(adata).labels is None


def test_data_of_the_schema_are_set_up_without_their_labels(toy):
    model = toy.ToyEncoder(toy.cells())

    assert "labels_key" not in model.setup_args
    assert model.labels is None


def test_donors_are_held_out_whole(toy):
    adata = toy.cells()
    toy.ToyEncoder.setup_anndata(adata, donor_key="donor_id")
    model = toy.ToyEncoder(adata)
    model.train(max_epochs=1, accelerator="cpu")

    donors = adata.obs["donor_id"].to_numpy()
    assert model.fit_["split_by"] == "donor"
    assert not set(donors[model.train_indices_]) & set(donors[model.validation_indices_])


def test_what_the_core_gives_beside_the_loss_is_in_the_history(translator):
    for part in ("train", "validation"):
        assert f"{part}_absolute_error" in translator.history
    assert translator.fit_["validation_absolute_error"] > 0


def test_settings_of_classifiers_are_refused(toy):
    adata = toy.cells()
    toy.ToyEncoder.setup_anndata(adata)

    with pytest.raises(UsageError, match=r"unknown keys \['label_smoothing'\].*lr_schedule"):
        toy.ToyEncoder(adata).train(plan_kwargs={"label_smoothing": 0.1})
    with pytest.raises(UsageError, match="validation_f1_macro.*is no metric of this run"):
        toy.ToyEncoder(adata).train(
            early_stopping_monitor="validation_f1_macro", accelerator="cpu"
        )


def test_the_same_seed_gives_the_same_weights(toy, encoder):
    adata = toy.cells()
    toy.ToyEncoder.setup_anndata(adata)
    again = toy.ToyEncoder(adata)
    again.train(accelerator="cpu")

    query = toy.query()
    assert np.array_equal(
        again.get_latent_representation(query), encoder.get_latent_representation(query)
    )


def test_bad_values_are_refused_at_set_up(toy):
    adata = toy.cells()
    adata.X.data[3] = np.nan

    with pytest.raises(InputDataError, match="E-D01"):
        toy.ToyEncoder.setup_anndata(adata)
    assert "_scvi_uuid" not in adata.uns


# -- embedding -----------------------------------------------------------------------------------


def test_an_embedding_has_a_row_for_every_cell_in_the_order_of_the_query(toy, encoder):
    query = toy.query()
    order = np.random.default_rng(0).permutation(query.n_obs)

    found = encoder.get_latent_representation(query)

    assert found.shape == (60, 4)
    assert found.dtype == np.float32
    assert np.array_equal(encoder.get_latent_representation(query[order]), found[order])
    assert np.array_equal(encoder.get_latent_representation(query, indices=[5, 2]), found[[5, 2]])
    assert encoder.get_latent_representation(query[:0]).shape[0] == 0


def test_genes_are_aligned_by_name_in_every_capability(toy, encoder):
    query = toy.query()
    turned = query[:, ::-1]

    assert np.array_equal(
        encoder.get_latent_representation(turned), encoder.get_latent_representation(query)
    )
    assert np.array_equal(
        encoder.get_normalized_expression(turned), encoder.get_normalized_expression(query)
    )
    foreign = query.copy()
    foreign.var_names = [f"X{i}" for i in range(query.n_vars)]
    with pytest.raises(GeneMatchError):
        encoder.get_latent_representation(foreign)


def test_a_folder_gives_the_same_bits_without_data(toy, encoder, tmp_path):
    encoder.save(tmp_path / "m")

    back = toy.ToyEncoder.load(tmp_path / "m")

    query = toy.query()
    assert np.array_equal(
        back.get_latent_representation(query), encoder.get_latent_representation(query)
    )
    assert back.labels is None


# -- reconstruction ------------------------------------------------------------------------------


def test_expected_expression_are_proportions_of_the_library(toy, encoder):
    query = toy.query()

    one = encoder.get_normalized_expression(query)
    scaled = encoder.get_normalized_expression(query, library_size=1e4, return_numpy=True)

    assert list(one.columns) == list(encoder.features.ids)
    assert list(one.index) == list(query.obs_names)
    assert np.allclose(one.sum(axis=1), 1, atol=1e-5)
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, 1e4 * one.to_numpy(), rtol=1e-5)


def test_chosen_genes_and_cells_are_those_of_the_whole(toy, encoder):
    query = toy.query()
    whole = encoder.get_normalized_expression(query)
    genes = list(encoder.features.ids[3:5])

    part = encoder.get_normalized_expression(query, gene_list=genes, indices=[7, 1])

    assert np.allclose(part, whole.iloc[[7, 1]][genes], atol=1e-7)


def test_hidden_entries_are_not_seen(toy, encoder):
    query = toy.query()
    hidden = np.zeros(query.shape, dtype=bool)
    hidden[:, 3] = True
    other = query.copy()
    counts = other.X.toarray()
    counts[:, 3] = 0
    # The size of a cell is that of the whole: what is hidden counts for it.
    seen = (
        encoder.predictor()
        .core({"X": _normalised(encoder, query, hidden)})["mean"]
        .detach()
        .numpy()
    )

    found = encoder.get_normalized_expression(query, mask=hidden, batch_size=7)

    expected = np.expm1(seen.clip(0))
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(found, expected, atol=1e-6)
    same = encoder.get_normalized_expression(query, mask=sparse.csr_matrix(hidden))
    assert np.allclose(found, same, atol=1e-7)


def _normalised(model, adata, hidden):
    import torch

    counts = adata[:, list(model.features.ids)].X.toarray()
    sizes = counts.sum(axis=1, keepdims=True)
    values = np.log1p(1e4 * counts / sizes)
    values[hidden] = 0
    return torch.tensor(values, dtype=torch.float32)


def test_genes_hidden_by_name_are_as_those_that_a_query_lacks(toy, encoder):
    query = toy.query()
    first, second = encoder.features.ids[3:5]
    lacks = query[:, [v not in {first, second} for v in query.var_names]].copy()

    found = encoder.get_normalized_expression(query, hide=[first, second])

    assert np.allclose(found, encoder.get_normalized_expression(lacks), atol=1e-6)
    assert not np.allclose(found, encoder.get_normalized_expression(query), atol=1e-4)
    assert np.array_equal(
        found, encoder.get_normalized_expression(query[:, ::-1], hide=[second, first])
    )
    some = encoder.get_normalized_expression(query, hide=(first, second), indices=[7, 1])
    assert np.allclose(some, found.iloc[[7, 1]], atol=1e-7)


def test_hiding_takes_counts_out_of_the_size_of_cells_and_a_mask_does_not(toy, encoder):
    query = toy.query()
    gene, place = encoder.features.ids[3], 3
    more = query.copy()
    counts = more.X.toarray()
    counts[:, list(query.var_names).index(gene)] += 500
    more.X = sparse.csr_matrix(counts)
    mask = np.zeros(query.shape, dtype=bool)
    mask[:, place] = True

    ask = encoder.get_normalized_expression
    assert np.allclose(ask(more, hide=[gene]), ask(query, hide=[gene]), atol=1e-6)
    assert not np.allclose(ask(more, mask=mask), ask(query, mask=mask), atol=1e-4)


def test_hidden_genes_and_masked_entries_go_together(toy, encoder):
    query = toy.query()
    mask = np.zeros(query.shape, dtype=bool)
    mask[:5, 6] = True

    both = encoder.get_normalized_expression(query, hide=[encoder.features.ids[3]], mask=mask)

    alone = encoder.get_normalized_expression(query, hide=[encoder.features.ids[3]])
    assert np.allclose(both[5:], alone[5:], atol=1e-7)
    assert not np.allclose(both[:5], alone[:5], atol=1e-5)


def test_reconstruction_is_another_name_of_the_same_also_where_a_model_has_its_own(
    toy, encoder, monkeypatch
):
    class Doubled(toy.ToyEncoder):
        def get_normalized_expression(self, *args, **kwargs):
            return 2 * super().get_normalized_expression(*args, **kwargs)

    query = toy.query()
    once = encoder.get_reconstruction(query, return_numpy=True)
    assert np.array_equal(once, encoder.get_normalized_expression(query, return_numpy=True))
    monkeypatch.setattr(encoder, "__class__", Doubled)
    assert np.array_equal(encoder.get_reconstruction(query, return_numpy=True), 2 * once)


def test_nothing_of_the_query_is_changed_where_genes_are_hidden(toy, encoder):
    query = toy.query()
    before = fingerprint(query)

    encoder.get_normalized_expression(query, hide=[encoder.features.ids[0]])

    assert fingerprint(query) == before


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"gene_list": ["nothing"]}, "E-U61"),
        ({"hide": ["nothing"]}, "hide.*E-U61"),
        ({"hide": [f"GENE{i}" for i in range(30)]}, "10 of 40.*E-U106"),
        ({"library_size": np.inf}, "E-U22"),
        ({"mask": np.zeros((2, 2), dtype=bool)}, "E-U62"),
        ({"library_size": 0}, "E-U22"),
        ({"library_size": "latent"}, "E-U22"),
    ],
)
def test_mistakes_in_reconstruction_are_refused(toy, encoder, wrong, code):
    with pytest.raises(UsageError, match=code):
        encoder.get_normalized_expression(toy.query(), **wrong)


# -- translation ---------------------------------------------------------------------------------


def test_proteins_are_predicted_from_rna_alone(toy, translator):
    other = toy.pairs(start=200)

    found = translator.predict_modality(other.mod["rna"])

    truth = np.log1p(other.mod["prot"].X)
    assert isinstance(found, anndata.AnnData)
    assert list(found.var_names) == list(other.mod["prot"].var_names)
    assert list(found.obs_names) == list(other.obs_names)
    together = [np.corrcoef(found.X[:, i], truth[:, i])[0, 1] for i in range(6)]
    assert np.mean(together) > 0.5


def test_of_mudata_the_rna_is_read_and_nothing_is_written(toy, translator):
    other = toy.pairs(start=200)
    before = [fingerprint(part) for part in other.mod.values()]

    found = translator.predict_modality(other)

    alone = translator.predict_modality(other.mod["rna"])
    assert np.array_equal(found.X, alone.X)
    assert [fingerprint(part) for part in other.mod.values()] == before
    assert not [k for k in other.uns if k.startswith("_scvi")]


def test_cells_are_paired_by_name_in_training(toy, translator):
    mdata = toy.pairs()
    order = np.random.default_rng(0).permutation(mdata.n_obs)
    turned = mudata.MuData({"rna": mdata.mod["rna"], "prot": mdata.mod["prot"][order].copy()})
    toy.ToyTranslator.setup_mudata(turned)
    model = toy.ToyTranslator(turned)
    model.train(accelerator="cpu")

    other = toy.pairs(start=200)
    assert np.array_equal(model.predict_modality(other).X, translator.predict_modality(other).X)


def test_a_translator_comes_back_from_its_folder(toy, translator, tmp_path):
    translator.save(tmp_path / "m")
    other = toy.pairs(start=200)
    wanted = translator.predict_modality(other)

    back = toy.ToyTranslator.load(tmp_path / "m")
    attached = toy.ToyTranslator.load(tmp_path / "m", toy.pairs())

    assert np.array_equal(back.predict_modality(other).X, wanted.X)
    assert list(back.target_features.ids) == list(wanted.var_names)
    assert np.array_equal(attached.predict_modality().X, translator.predict_modality().X)


def test_a_cell_without_genes_has_no_proteins_and_no_cells_have_none(toy, translator):
    rna = toy.pairs(start=200).mod["rna"].copy()
    counts = rna.X.toarray()
    counts[0] = 0
    rna.X = sparse.csr_matrix(counts)

    with pytest.warns(UserWarning, match="E-D12"):
        found = translator.predict_modality(rna)

    assert np.isnan(found.X[0]).all()
    assert np.isfinite(found.X[1:]).all()
    assert translator.predict_modality(rna[:0]).shape == (0, 6)


def test_one_modality_is_refused_with_the_line_that_makes_two(toy):
    rna = toy.cells()

    with pytest.raises(UsageError, match=r"mudata.MuData\(.*E-U63"):
        toy.ToyTranslator.setup_anndata(rna)
    with pytest.raises(UsageError, match="E-U63"):
        toy.ToyTranslator(rna)
    with pytest.raises(UsageError, match=r"not set up.*setup_mudata"):
        toy.ToyTranslator(toy.pairs())
    with pytest.raises(UsageError, match=r"no modality|E-U60"):
        toy.ToyTranslator.setup_mudata(toy.pairs(), rna_modality="gex", target_modality="prot")


def test_values_of_the_target_are_looked_at_too(toy):
    mdata = toy.pairs()
    mdata.mod["prot"].X[2, 1] = np.inf

    with pytest.raises(InputDataError, match=r"infinite values in prot.*E-D03"):
        toy.ToyTranslator.setup_mudata(mdata)
    assert "_scvi_uuid" not in mdata.uns


def test_a_model_that_cannot_mask_refuses_features_that_some_cells_lack(toy):
    mdata = toy.pairs()
    mdata.mod["prot"].X[:40, 1] = np.nan
    toy.ToyTranslator.setup_mudata(mdata)
    model = toy.ToyTranslator(mdata)

    with pytest.raises(InputDataError, match=r"1 of 6, first: CD1.*E-D63"):
        model.train(accelerator="cpu")
    assert not model.is_trained_
    assert model.target_ is None


# -- the protocols -------------------------------------------------------------------------------


def test_models_have_the_types_of_their_capabilities(toy, encoder, translator):
    assert isinstance(encoder, CAPABILITIES["embedding"])
    assert isinstance(encoder, CAPABILITIES["reconstruction"])
    assert not isinstance(encoder, CAPABILITIES["annotation"])
    assert isinstance(translator, CAPABILITIES["translation"])
    for capability in toy.ToyModel.capabilities:
        assert isinstance(toy.trained(max_epochs=1), CAPABILITIES[capability])


def test_a_model_without_a_plugin_is_not_loaded_by_name(encoder, tmp_path):
    encoder.save(tmp_path / "m")

    with pytest.raises(Exception, match="no plugin registers ToyEncoder"):
        load(tmp_path / "m")
