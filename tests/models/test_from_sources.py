"""Models of cells that stay in files: the same models as from memory, and what they refuse."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome import settings
from episome.data import AnnDataSource, PreparedCells, read_cells, simulate_cells
from episome.errors import InputDataError, LabelError, UsageError
from episome.io import read_model_folder
from episome.models import LinearClassifier, LogisticRegression, PCAEmbedding, SCTab

QUICK = {
    SCTab: {"max_epochs": 2},
    LinearClassifier: {"max_epochs": 2},
    LogisticRegression: {},
}


@pytest.fixture(scope="module")
def cells():
    """Counts of 240 cells, with donors and an unlabelled cell."""
    adata = simulate_cells(240, 60, n_types=4, n_donors=6)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[3], "cell_type"] = None
    return adata


@pytest.fixture(scope="module")
def paths(cells, tmp_path_factory):
    """The same cells in an h5ad file and in a zarr store."""
    folder = tmp_path_factory.mktemp("files")
    cells.copy().write_h5ad(folder / "cells.h5ad")
    cells.copy().write_zarr(folder / "cells.zarr")
    return {kind: folder / f"cells.{kind}" for kind in ("h5ad", "zarr")}


SETUP = {"labels_key": "cell_type", "donor_key": "donor_id", "unlabeled": "keep"}


def trained(model):
    model.train(accelerator="cpu", **QUICK.get(type(model), {}))
    return model


def from_memory(cls, cells, **setup):
    adata = cells.copy()
    cls.setup_anndata(adata, **(setup or SETUP))
    return trained(cls(adata))


def state_of(model):
    tensors, files = model.module.state()
    return {k: np.asarray(v) for k, v in tensors.items()}, files


def assert_equal_models(one, other):
    """Every number that a folder would hold is the same."""
    (tensors, files), (others, other_files) = state_of(one), state_of(other)
    assert tensors.keys() == others.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)
    assert files == other_files
    np.testing.assert_array_equal(one.train_indices_, other.train_indices_)
    np.testing.assert_array_equal(one.validation_indices_, other.validation_indices_)
    assert one.setup_args == other.setup_args
    assert one.features == other.features
    assert one.labels == other.labels
    for name, values in (one.history_ or {}).items():
        pd.testing.assert_frame_equal(values, other.history_[name])
    if one.gene_weights_ is not None:
        np.testing.assert_array_equal(one.gene_weights_, other.gene_weights_)


def assert_equal_confidence(one, other):
    (tensors, facts), (others, other_facts) = one.to_parts(), other.to_parts()
    assert one.is_calibrated
    assert facts == other_facts
    assert tensors.keys() == others.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)


# -- the same model, wherever its cells are ------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("cls", list(QUICK))
def test_a_model_of_a_file_is_the_model_of_its_cells_in_memory(cls, kind, cells, paths):
    wanted = from_memory(cls, cells)

    got = trained(cls(cls.setup_source(paths[kind], **SETUP)))

    assert got.adata is None
    assert_equal_models(wanted, got)
    query = cells[:50].copy()
    np.testing.assert_array_equal(wanted.predict_proba(query), got.predict_proba(query))
    assert_equal_confidence(wanted.confidence_, got.confidence_)


def test_a_model_without_labels_learns_from_a_file(cells, paths):
    adata = cells.copy()
    PCAEmbedding.setup_anndata(adata)
    wanted = trained(PCAEmbedding(adata))

    got = trained(PCAEmbedding(PCAEmbedding.setup_source(paths["h5ad"])))

    assert_equal_models(wanted, got)


def test_a_network_without_labels_learns_from_a_file(toy, cells, paths):
    adata = cells.copy()
    toy.ToyEncoder.setup_anndata(adata)
    wanted, got = (
        toy.ToyEncoder(data) for data in (adata, toy.ToyEncoder.setup_source(paths["h5ad"]))
    )
    for model in (wanted, got):
        model.train(max_epochs=2, accelerator="cpu")

    assert_equal_models(wanted, got)


def test_a_file_in_the_schema_needs_no_set_up(toy, cells, tmp_path):
    adata = cells.copy()
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "atlas.h5ad")

    model = toy.ToyModel(tmp_path / "atlas.h5ad")
    model.train(max_epochs=1, accelerator="cpu")

    assert model.setup_args["use_raw"] is True
    assert model.setup_args["donor_key"] == ["donor_id"]
    assert model.input_rule.input_kind == "counts"
    assert set(model.training_donors()) == set(adata.obs["donor_id"])
    in_memory = toy.ToyModel(read_cells(tmp_path / "atlas.h5ad"))
    assert in_memory.setup_args == model.setup_args


def test_values_of_a_layer_of_a_file(toy, cells, tmp_path):
    adata = cells.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "layers.h5ad")
    wanted = from_memory(LogisticRegression, adata, layer="counts", **SETUP)

    setup = LogisticRegression.setup_source(tmp_path / "layers.h5ad", layer="counts", **SETUP)

    assert_equal_models(wanted, trained(LogisticRegression(setup)))


def test_vectors_of_a_file(cells, tmp_path):
    adata = cells.copy()
    adata.obsm["X_other"] = np.asarray(adata.X[:, :8].todense())
    adata.write_h5ad(tmp_path / "vectors.h5ad")
    setup = {**SETUP, "obsm_key": "X_other"}
    wanted = from_memory(LogisticRegression, adata, **setup)

    prepared = LogisticRegression.setup_source(tmp_path / "vectors.h5ad", **setup)

    assert_equal_models(wanted, trained(LogisticRegression(prepared)))


def test_automatic_raw_is_recorded_as_in_memory(toy, cells, tmp_path):
    adata = cells.copy()
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "raw.h5ad")

    prepared = toy.ToyModel.setup_source(tmp_path / "raw.h5ad", use_raw="auto", **SETUP)

    assert prepared.registry["setup_args"]["use_raw"] is True
    assert prepared.rule.input_kind == "counts"


def test_ontology_terms_of_a_file_are_those_in_memory(cells, tmp_path):
    adata = cells.copy()
    terms = {
        name: f"CL:000023{i}" for i, name in enumerate(sorted(set(cells.obs.cell_type) - {None}))
    }
    adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].map(terms)
    adata.write_h5ad(tmp_path / "terms.h5ad")
    memory = adata.copy()
    LogisticRegression.setup_anndata(memory, **SETUP)

    prepared = LogisticRegression.setup_source(tmp_path / "terms.h5ad", **SETUP)

    assert LogisticRegression(prepared).labels == LogisticRegression(memory).labels
    assert any(LogisticRegression(prepared).labels.term_ids)


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    """The cells in three files, whose genes are in different orders."""
    folder = tmp_path_factory.mktemp("parts")
    genes = list(cells.var_names)
    for i, order in enumerate((genes, genes[::-1], genes[30:] + genes[:30])):
        cells[80 * i : 80 * (i + 1), order].copy().write_h5ad(folder / f"part{i}.h5ad")
    return folder


@pytest.mark.parametrize("cls", [LinearClassifier, LogisticRegression])
def test_a_model_of_many_files_is_the_model_of_all_their_cells(cls, cells, folder):
    wanted = from_memory(cls, cells)

    of_list = cls.setup_source([folder / f"part{i}.h5ad" for i in range(3)], **SETUP)
    of_folder = cls.setup_source(folder, **SETUP)

    assert of_folder.where == "3 files (part0.h5ad.X, part1.h5ad.X, part2.h5ad.X)"
    assert_equal_models(wanted, trained(cls(of_list)))
    np.testing.assert_array_equal(of_folder.codes, of_list.codes)
    assert list(wanted.predict(folder)) == list(wanted.predict(cells.copy()))


def test_folders_in_the_schema_need_no_set_up(toy, cells, folder, tmp_path):
    mixed = cells[80:160].copy()
    mixed.raw = mixed.copy()
    mixed.X = mixed.X.log1p()
    mixed.write_h5ad(tmp_path / "part1.h5ad")
    for i in (0, 2):
        (tmp_path / f"part{i}.h5ad").write_bytes((folder / f"part{i}.h5ad").read_bytes())

    model = toy.ToyModel(tmp_path)

    assert model.input_rule.input_kind == "counts"
    assert model.setup_args["donor_key"] == ["donor_id"]
    values = model.training_source().read(slice(0, 240))
    assert (values != cells.X).nnz == 0


# -- nothing in memory, nothing written ----------------------------------------------------------


def test_prepared_cells_hold_no_matrix_and_leave_the_file_alone(toy, paths):
    before = paths["h5ad"].read_bytes()

    prepared = toy.ToyModel.setup_source(paths["h5ad"], **SETUP)
    toy.ToyModel(prepared).train(max_epochs=1, accelerator="cpu")

    assert isinstance(prepared, PreparedCells)
    assert not prepared.source.in_memory
    assert prepared.codes.shape == (240,)
    assert prepared.codes[3] == -1
    assert len(set(prepared.donors)) == 6
    assert "240 cells of cells.h5ad" in repr(prepared)
    assert paths["h5ad"].read_bytes() == before


def test_values_of_a_file_are_scanned_once(toy, paths, monkeypatch):
    read = []
    original = AnnDataSource.read
    monkeypatch.setattr(
        AnnDataSource, "read", lambda self, rows: read.append(1) or original(self, rows)
    )
    model = toy.ToyModel(toy.ToyModel.setup_source(paths["h5ad"], **SETUP))
    n_read = len(read)

    model.training_query()
    model.training_query()

    assert n_read == 1
    assert len(read) == n_read


def test_an_object_in_memory_is_scanned_again_after_a_change(toy, cells):
    adata = cells.copy()
    model = toy.ToyModel(toy.ToyModel.setup_source(adata, **SETUP))
    adata.X.data[0] = np.nan

    with pytest.raises(InputDataError, match="NaN"):
        model.training_query()


def test_folder_of_a_model_of_a_file_restores_without_data(toy, cells, paths, tmp_path):
    model = trained(toy.ToyModel(toy.ToyModel.setup_source(paths["h5ad"], **SETUP)))

    model.save(tmp_path / "model")
    loaded = toy.ToyModel.load(tmp_path / "model")

    assert read_model_folder(tmp_path / "model").manifest["registry"]["setup_method_name"] == (
        "setup_anndata"
    )
    assert not loaded.has_data
    query = cells[:40].copy()
    assert (loaded.predict(query) == model.predict(query)).all()
    with pytest.raises(UsageError, match="holds no data.*E-U17"):
        loaded.training_query()


def test_the_model_calls_its_own_training_cells(toy, cells, paths):
    model = trained(toy.ToyModel(toy.ToyModel.setup_source(paths["h5ad"], **SETUP)))

    calls = model.predict()

    assert len(calls) == 240
    assert (calls == model.predict(cells.copy())).all()


def test_data_can_be_attached_later(toy, cells, paths, tmp_path):
    model = trained(toy.ToyModel(toy.ToyModel.setup_source(paths["h5ad"], **SETUP)))
    model.save(tmp_path / "model")
    adata = cells.copy()

    loaded = toy.ToyModel.load(tmp_path / "model", adata)

    np.testing.assert_array_equal(loaded.training_codes(), model.training_codes())


def test_closed_models_let_go_of_their_source(toy, cells, paths):
    model = trained(toy.ToyModel(toy.ToyModel.setup_source(paths["h5ad"], **SETUP)))

    model.close()

    assert not model.has_data
    assert len(model.predict(cells[:5].copy())) == 5


def test_ensemble_of_a_file_is_calibrated(toy, paths):
    prepared = toy.ToyModel.setup_source(paths["h5ad"], **SETUP)

    ensemble = toy.ToyModel.ensemble(prepared, n_models=2)
    ensemble.train(max_epochs=2, accelerator="cpu")

    assert ensemble.confidence_.is_calibrated


def test_a_source_of_ones_own(toy, cells):
    """What a third party has to offer, and nothing more."""

    class Mine:
        n_obs, n_vars, where = cells.n_obs, cells.n_vars, "my store"
        obs_names, var = cells.obs_names, cells.var

        def obs_column(self, key):
            return cells.obs[key]

        def read(self, rows):
            return sparse.csr_matrix(cells.X[rows], dtype=np.float32)

    by_hand = trained(toy.ToyModel(toy.ToyModel.setup_source(Mine(), **SETUP)))
    by_schema = toy.ToyModel(Mine())

    assert_equal_models(by_hand, trained(_anndata_model(toy, cells)))
    assert by_schema.setup_args["labels_key"] == "cell_type"


def _anndata_model(toy, cells):
    adata = cells.copy()
    toy.ToyModel.setup_anndata(adata, **SETUP)
    return toy.ToyModel(adata)


# -- refusals ------------------------------------------------------------------------------------


@pytest.fixture
def of_a_file(toy, paths):
    return toy.ToyModel(toy.ToyModel.setup_source(paths["h5ad"], **SETUP))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.view_anndata_setup(),
        lambda m: m.get_anndata_manager(None, required=True),
        lambda m: m._validate_anndata(),
    ],
)
def test_methods_that_need_an_object_say_so(of_a_file, call):
    with pytest.raises(UsageError, match=r"reads its cells from a source.*cells\.h5ad.*E-U17"):
        call(of_a_file)


def test_data_are_not_saved_with_a_model_of_a_file(of_a_file, tmp_path):
    trained(of_a_file)

    with pytest.raises(UsageError, match="E-U17"):
        of_a_file.save(tmp_path / "x", format="scvi", save_anndata=True)
    of_a_file.save(tmp_path / "y", format="scvi")


def test_cells_of_another_model_are_refused(toy, paths):
    prepared = toy.ToyModel.setup_source(paths["h5ad"], **SETUP)

    with pytest.raises(UsageError, match=r"for ToyModel, not for OtherModel.*E-U84"):
        toy.OtherModel(prepared)


def test_models_of_two_modalities_refuse_sources(toy, paths):
    with pytest.raises(UsageError, match="ToyTranslator cannot be trained from a file.*E-U83"):
        toy.ToyTranslator.setup_source(paths["h5ad"])
    with pytest.raises(UsageError, match="E-U83"):
        toy.ToyTranslator(paths["h5ad"])


def test_a_model_that_needs_the_object_refuses_sources(toy, paths, monkeypatch):
    monkeypatch.setattr(toy.ToyModel, "reads_sources", False)

    with pytest.raises(UsageError, match="E-U83"):
        toy.ToyModel.setup_source(paths["h5ad"], **SETUP)
    with pytest.raises(UsageError, match="cannot be made from a.*Path.*E-U07"):
        toy.ToyModel(paths["h5ad"])


@pytest.mark.parametrize(
    ("setup", "error", "text"),
    [
        ({}, UsageError, "labels_key is not given.*E-U28"),
        ({"labels_key": "type"}, UsageError, r"column 'type' is missing.*cells\.h5ad.*E-U04"),
        ({"labels_key": "cell_type"}, LabelError, "E-L01"),
        ({**SETUP, "layer": "counts"}, InputDataError, r"cells\.h5ad.*E-D28"),
        ({**SETUP, "layer": "a", "use_raw": True}, UsageError, "E-U27"),
        ({**SETUP, "epochs": 3}, UsageError, "unknown arguments epochs.*E-U24"),
        ({**SETUP, "donor_key": "cell_type"}, UsageError, "E-U32"),
        ({**SETUP, "donor_key": ["donor_id", "gone"]}, UsageError, "'gone' is missing.*E-U04"),
    ],
)
def test_set_up_of_a_file_refuses_what_set_up_of_an_object_refuses(toy, paths, setup, error, text):
    with pytest.raises(error, match=f"(?s){text}"):
        toy.ToyModel.setup_source(paths["h5ad"], **setup)


def test_a_source_knows_its_place(toy, cells):
    with pytest.raises(UsageError, match="a source knows where its values are.*E-U27"):
        toy.ToyModel.setup_source(AnnDataSource(cells), layer="counts", **SETUP)


def test_a_file_outside_the_schema_is_told_how_to_go_on(toy, cells, tmp_path):
    adata = cells.copy()
    adata.obs = adata.obs.rename(columns={"cell_type": "type"})
    adata.write_h5ad(tmp_path / "other.h5ad")

    with pytest.raises(UsageError, match=r"ToyModel\.setup_source\(.*E-U28"):
        toy.ToyModel(tmp_path / "other.h5ad")


def test_nan_in_a_file_is_found_at_set_up(toy, cells, tmp_path):
    adata = cells.copy()
    adata.X.data[7] = np.nan
    adata.write_h5ad(tmp_path / "nan.h5ad")

    with pytest.raises(InputDataError, match=r"nan\.h5ad.*E-D01"):
        toy.ToyModel.setup_source(tmp_path / "nan.h5ad", **SETUP)
    model = toy.ToyModel(toy.ToyModel.setup_source(tmp_path / "nan.h5ad", nan="zero", **SETUP))
    assert_equal_models(trained(model), trained(toy.ToyModel(_set_up_with_zero(toy, adata))))


def _set_up_with_zero(toy, adata):
    toy.ToyModel.setup_anndata(adata, nan="zero", **SETUP)
    return adata


def test_seed_matters(toy, paths):
    prepared = toy.ToyModel.setup_source(paths["h5ad"], **SETUP)
    with settings.using_seed(1):
        one = trained(toy.ToyModel(prepared))
    with settings.using_seed(2):
        two = trained(toy.ToyModel(prepared))

    weights = [m.module.state()[0]["head.weight"] for m in (one, two)]
    assert not np.array_equal(*map(np.asarray, weights))


def test_anndata_objects_still_go_in_as_ever(toy, cells):
    assert isinstance(_anndata_model(toy, cells).adata, anndata.AnnData)
