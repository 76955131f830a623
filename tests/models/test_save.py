"""Folders of models: exact, refused when they do not fit, readable without scvi-tools."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scvi.data import AnnDataManager

from episome import models
from episome.errors import (
    EpisomeWarning,
    GeneMatchError,
    InputFileError,
    ModelMismatchError,
    PluginError,
    UntrustedModelError,
    UsageError,
)
from episome.inference import Predictor
from episome.io import read_manifest, read_model_folder, write_model_folder


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    model.save(path)
    return path


def same(first, second, query):
    pd.testing.assert_frame_equal(first.predict_proba(query), second.predict_proba(query))


def test_a_loaded_model_predicts_the_same_bits(toy, model, folder, query):
    loaded = toy.ToyModel.load(folder)

    same(loaded, model, query)
    assert loaded.adata is None
    assert loaded.is_trained
    assert loaded.labels == model.labels
    assert loaded.features == model.features
    assert loaded.input_rule == model.input_rule
    assert loaded.fit_ == model.fit_
    for part in ("train", "validation", "test"):
        name = f"{part}_indices_"
        assert np.array_equal(getattr(loaded, name), getattr(model, name))
    for name, frame in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], frame)


@pytest.mark.parametrize("reverse", [False, True])
def test_data_can_be_attached_in_any_gene_order(toy, model, folder, query, reverse):
    adata = toy.cells()
    adata = adata[:, ::-1].copy() if reverse else adata

    loaded = toy.ToyModel.load(folder, adata)

    same(loaded, model, query)
    assert loaded.adata is adata
    assert np.array_equal(loaded.training_codes(), model.training_codes())
    np.testing.assert_allclose(loaded.predict_proba(), model.predict_proba(), atol=1e-6)
    loaded.train(max_epochs=1, accelerator="cpu")
    assert len(loaded.history["train_loss"]) == len(model.history["train_loss"]) + 1


def test_data_of_other_genes_or_views_are_not_attached(toy, folder):
    adata = toy.cells()
    with pytest.raises(UsageError, match="E-U29"):
        toy.ToyModel.load(folder, adata[:50])
    adata.var_names = [f"X{i}" for i in range(40)]

    with pytest.raises(GeneMatchError, match="E-G02"):
        toy.ToyModel.load(folder, adata)
    assert not adata.uns


def test_saving_twice_needs_overwrite_and_a_loaded_model_saves_the_same(toy, folder, tmp_path):
    loaded = toy.ToyModel.load(folder)
    with pytest.raises(InputFileError, match="E-F26"):
        loaded.save(folder)

    loaded.save(tmp_path / "again")

    for name in ("weights.safetensors", "genes.tsv", "labels.tsv", "history.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_organisms_are_saved_and_folders_without_them_say_nothing(toy, query, tmp_path):
    adata = toy.cells()
    adata.obs["organism"], query.obs["organism"] = "human", "mouse"
    model = toy.trained(adata, max_epochs=1)
    model.save(tmp_path / "new")
    whole = read_model_folder(tmp_path / "new")
    manifest = {k: v for k, v in whole.manifest.items() if k != "organisms"}
    state = manifest["registry"]["field_registries"]["X"]["state_registry"]
    assert state.pop("organisms") == ["human"]
    write_model_folder(tmp_path / "old", replace(whole, manifest=manifest))

    loaded = toy.ToyModel.load(tmp_path / "new"), toy.ToyModel.load(tmp_path / "old")
    running = [
        Predictor.from_folder(tmp_path / name, core_cls=toy.ToyCore) for name in ("new", "old")
    ]

    assert whole.manifest["organisms"] == ["human"]
    assert "- Species: human" in (tmp_path / "new" / "README.md").read_text("utf-8")
    for new in (model, loaded[0], running[0]):
        with pytest.warns(EpisomeWarning, match=f"{query.n_obs} of {query.n_obs}.*mouse.*E-G26"):
            new.prepare(query)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EpisomeWarning)
        model.prepare()
        for old in (loaded[1], running[1]):
            old.prepare(query)


def test_an_untrained_model_is_not_saved(toy, tmp_path):
    toy.ToyModel.setup_anndata(adata := toy.cells(), labels_key="cell_type")

    with pytest.raises(UsageError, match="E-M20"):
        toy.ToyModel(adata).save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kwargs", [{"prefix": "a_"}, {"save_anndata": True}, {"format": "hdf5"}])
def test_what_a_folder_does_not_hold_is_refused(model, tmp_path, kwargs):
    with pytest.raises(UsageError, match="E-U18"):
        model.save(tmp_path / "model", **kwargs)


def test_another_class_is_refused_by_name(toy, folder):
    with pytest.raises(
        ModelMismatchError, match=r"holds a ToyModel, not a OtherModel.*ToyModel.load.*E-M08"
    ):
        toy.OtherModel.load(folder)


def test_a_class_of_no_plugin_is_loaded_by_itself_only(toy, model, folder, query):
    with pytest.raises(PluginError, match=r"no plugin registers ToyModel.*core_cls=.*E-P01"):
        models.load(folder)
    with pytest.raises(PluginError, match="E-P01"):
        Predictor.from_folder(folder)

    predictor = Predictor.from_folder(folder, core_cls=toy.ToyCore, device="cpu")

    got = predictor.predict_proba(predictor.prepare(query))
    pd.testing.assert_frame_equal(got, model.predict_proba(query))


def test_manifest_says_what_the_model_is_and_nothing_of_the_user(model, folder):
    manifest = read_manifest(folder)

    assert manifest["format_version"] == [1, 0]
    assert manifest["model"] == {"class": "ToyModel", "spec": None, "plugin": None}
    assert manifest["core"] == {"n_features": 40, "n_classes": 3, "width": 16}
    assert manifest["input"] == model.input_rule.to_json()
    assert manifest["init_params"] == {"width": 16}
    assert manifest["genes_sha256"] == model.features.digest
    assert "_scvi_uuid" not in manifest["registry"]
    text = json.dumps(manifest)
    import getpass
    import socket

    assert str(folder.parent) not in text
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text


def test_card_states_the_facts_of_the_run(folder):
    saved = read_model_folder(folder)
    card, n_cells = saved.card, saved.manifest["fit"]["n_cells"]

    assert "\n# ToyModel of episome\n" in card
    assert "- Features: 40, such as" in card
    assert "- Values: counts" in card
    for name in ("type 0", "type 1", "type 2"):
        assert f"\n| {name} | " in card
    assert 0 < n_cells < 200
    assert f"- Trained on {n_cells} of 200 cells" in card


def test_the_registry_comes_back_as_scvi_tools_made_it(toy, model, folder):
    loaded = toy.ToyModel.load(folder)

    mapping = loaded.registry["field_registries"]["labels"]["state_registry"][
        "categorical_mapping"
    ]
    assert mapping.dtype == object
    assert mapping.tolist() == ["type 0", "type 1", "type 2", "unknown"]
    assert loaded.registry["setup_args"] == model.registry["setup_args"]
    assert dict(loaded.summary_stats) == dict(model.summary_stats)


def test_odd_labels_and_genes_survive(toy, tmp_path):
    adata = toy.cells()
    names = {"type 0": 'β cell, "quoted"', "type 1": "细胞\n🙂", "type 2": "=1+1 <b>"}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).map(names)
    adata.var_names = [f"gène {i};\t".strip() + f"'{i}" for i in range(40)]
    model = toy.trained(adata, max_epochs=1)
    model.save(tmp_path / "model")

    loaded = toy.ToyModel.load(tmp_path / "model")

    assert set(loaded.labels.names) == set(names.values())
    assert loaded.features == model.features


# -- scvi-tools' own format ----------------------------------------------------------------------


def test_scvi_format_is_scvi_tools_own_file(toy, model, tmp_path):
    model.save(tmp_path / "scvi", format="scvi")

    assert [p.name for p in (tmp_path / "scvi").iterdir()] == ["model.pt"]
    saved = torch.load(tmp_path / "scvi" / "model.pt", weights_only=False)
    assert set(saved) == {"model_state_dict", "var_names", "attr_dict"}
    assert list(saved["var_names"]) == list(model.features.ids)
    assert saved["attr_dict"]["is_trained_"] is True
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(saved["model_state_dict"][name], tensor)


def test_scvi_format_is_not_loaded(toy, model, tmp_path):
    model.save(tmp_path / "scvi", format="scvi")

    with pytest.raises(UntrustedModelError, match="E-M02"):
        toy.ToyModel.load(tmp_path / "scvi")


def test_set_up_stores_do_not_grow_by_loading(toy, folder, query):
    before = len(AnnDataManager.__subclasses__()), len(toy.ToyModel._setup_adata_manager_store)

    for _ in range(3):
        toy.ToyModel.load(folder)._validate_anndata(query)

    assert (
        len(AnnDataManager.__subclasses__()),
        len(toy.ToyModel._setup_adata_manager_store),
    ) == before
