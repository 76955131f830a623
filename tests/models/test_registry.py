"""A registry made of parts is the one that set-up leaves."""

from __future__ import annotations

import numpy as np
import pytest

from episome.data import InputRule, Labels
from episome.errors import UsageError
from episome.models import registry_from_parts


def flat(value, path=""):
    """Leaves of nested mappings by their path."""
    if hasattr(value, "items"):
        return {p: x for k, v in value.items() for p, x in flat(v, f"{path}/{k}").items()}
    return {path: value}


@pytest.mark.parametrize(
    "setup",
    [
        {"labels_key": "cell_type"},
        {
            "labels_key": "type",
            "donor_key": ["donor_id", "batch"],
            "layer": "values",
            "unlabeled_category": "none",
            "size_factor": "all_genes",
        },
    ],
)
def test_registry_from_parts_equals_that_of_set_up_data(toy, setup):
    adata = toy.cells()
    adata.layers["values"] = adata.X.log1p() if "layer" in setup else adata.X
    adata.var["feature_name"] = [f"SYMBOL{i}" for i in range(adata.n_vars)]
    adata.obs["type"] = adata.obs["cell_type"]
    adata.obs[f"{setup['labels_key']}_ontology_term_id"] = "CL:0000000"
    toy.ToyModel.setup_anndata(adata, **setup)
    model = toy.ToyModel(adata)
    said = ("unlabeled_category", "size_factor")

    registry = registry_from_parts(
        toy.ToyModel,
        model.features,
        model.labels,
        model.input_rule,
        n_cells=adata.n_obs,
        **{k: v for k, v in setup.items() if k not in said},
    )

    wanted = flat(model.registry)
    del wanted["/_scvi_uuid"]
    found = flat(registry)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert type(found[key]) is type(value), key
        assert np.array_equal(found[key], value), key
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype, key


@pytest.fixture
def foreign(toy, model):
    """A model without data that has the weights of a trained one."""
    registry = registry_from_parts(toy.ToyModel, model.features, model.labels, model.input_rule)
    made = toy.ToyModel(registry=registry)
    made.module.load_state_dict(model.module.state_dict())
    made.is_trained_ = True
    return made


def test_model_from_parts_predicts_as_the_model_of_the_same_weights(foreign, model, query):
    assert foreign.adata is None
    assert foreign.summary_stats.n_cells == 0
    assert np.array_equal(
        foreign.predict_proba(query, calibrated=False),
        model.predict_proba(query, calibrated=False),
    )


def test_model_from_parts_is_saved_and_loaded(toy, foreign, query, tmp_path):
    foreign.save(tmp_path / "model")

    loaded = toy.ToyModel.load(tmp_path / "model")

    assert np.array_equal(
        loaded.predict_proba(query, calibrated=False),
        foreign.predict_proba(query, calibrated=False),
    )
    assert loaded.labels == foreign.labels
    assert "Trained on" not in (tmp_path / "model" / "README.md").read_text()
    with_data = toy.ToyModel.load(tmp_path / "model", toy.cells())
    assert with_data.adata.n_obs == 200


def test_model_from_parts_is_trained_further(toy, foreign, query):
    tuned = foreign.fine_tune(query, max_epochs=1, accelerator="cpu")

    assert tuned.labels == foreign.labels


def test_arguments_that_setup_does_not_take_or_parts_say_are_refused(toy, model):
    rule, labels = InputRule(), Labels(("a", "b"), ("", ""))

    for name in ("epochs", "size_factor", "unlabeled_category"):
        with pytest.raises(UsageError, match=rf"unknown arguments {name}.*E-U24"):
            registry_from_parts(toy.ToyModel, model.features, labels, rule, **{name: "x"})
