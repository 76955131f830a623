"""Further training on new cells and classes."""

from __future__ import annotations

import numpy as np
import pytest

from episome.errors import EpisomeWarning, GeneMatchError, LabelError, UsageError
from episome.testing import fingerprint


@pytest.fixture(scope="module")
def parts(toy):
    """Cells of three old types to train on, and of all four; genes and cells are shared."""
    everything = toy.cells(460, n_types=4)
    first = everything[:200]
    old = first[first.obs["cell_type"] != "type 3"].copy()
    old.obs["cell_type"] = old.obs["cell_type"].cat.remove_unused_categories()
    return old, everything[200:400].copy(), everything[400:].copy()


@pytest.fixture(scope="module")
def model(toy, parts):
    return toy.trained(parts[0])


@pytest.fixture(scope="module")
def tuned(model, parts):
    new = parts[1]
    order = np.random.default_rng(0).permutation(new.n_vars)
    return model.fine_tune(new[:, order], max_epochs=12, accelerator="cpu")


def share(model, adata, name):
    rows = (adata.obs["cell_type"] == name).to_numpy()
    return (model.predict(adata[rows]) == name).mean()


def test_new_classes_come_after_the_old_ones_and_are_learnt(tuned, parts):
    assert tuned.labels.names == ("type 0", "type 1", "type 2", "type 3")
    assert share(tuned, parts[2], "type 3") > 0.9


def test_old_classes_stay_good(tuned, parts):
    assert min(share(tuned, parts[2], f"type {i}") for i in range(3)) > 0.9


def test_the_old_model_stays_as_it_was(model, tuned, parts):
    assert len(model.labels) == 3
    assert model.predict_proba(parts[2]).shape[1] == 3
    assert tuned.module is not model.module
    assert tuned.features == model.features
    assert tuned.adata is None


def test_organisms_of_new_cells_are_added_to_those_of_a_model_that_knows_its_own(toy, parts):
    old, new = parts[0].copy(), parts[1].copy()
    old.obs["organism"], new.obs["organism"] = "human", "mouse"
    model = toy.trained(old, max_epochs=1)

    with pytest.warns(EpisomeWarning, match="trained on human.*E-G26"):
        tuned = model.fine_tune(new, max_epochs=1, accelerator="cpu")
    of_none = toy.trained(parts[0], max_epochs=1).fine_tune(new, max_epochs=1, accelerator="cpu")

    assert tuned.input_rule.organisms == ("human", "mouse")
    assert model.input_rule.organisms == ("human",)
    assert of_none.input_rule.organisms == ()


def test_new_cells_are_not_modified(model, parts):
    new = parts[1].copy()
    before = fingerprint(new)

    model.fine_tune(new, max_epochs=1, accelerator="cpu")

    assert fingerprint(new) == before
    assert not new.uns


def test_one_old_class_keeps_the_others(toy, model, parts):
    new = parts[1][parts[1].obs["cell_type"].isin(["type 0", "type 3"])].copy()

    tuned = model.fine_tune(new, max_epochs=2, accelerator="cpu", plan_kwargs={"lr": 1e-3})

    assert tuned.labels.names == ("type 0", "type 1", "type 2", "type 3")
    assert share(tuned, parts[2], "type 1") > 0.8


def test_whole_donors_are_held_out_of_the_new_cells(model, parts):
    tuned = model.fine_tune(parts[1], donor_key="donor_id", max_epochs=1, accelerator="cpu")

    assert tuned.fit_["split_by"] == "donor"


def test_another_label_column(model, parts):
    new = parts[1].copy()
    new.obs["mine"] = new.obs["cell_type"].astype(str).str.upper()

    tuned = model.fine_tune(new, "mine", max_epochs=1, accelerator="cpu")

    assert tuned.labels.names[3:] == ("TYPE 0", "TYPE 1", "TYPE 2", "TYPE 3")


def test_a_tuned_model_is_saved_and_loaded(toy, tuned, parts, tmp_path):
    tuned.save(tmp_path / "tuned")

    loaded = toy.ToyModel.load(tmp_path / "tuned")

    assert np.array_equal(loaded.predict_proba(parts[2]), tuned.predict_proba(parts[2]))
    again = loaded.fine_tune(parts[1], max_epochs=1, accelerator="cpu")
    assert again.labels.names == tuned.labels.names


def test_what_cannot_be_tuned_is_refused(toy, model, parts):
    new = parts[1].copy()
    with pytest.raises(UsageError, match=r"column 'nope' is missing.*E-U04"):
        model.fine_tune(new, "nope")
    with pytest.raises(GeneMatchError, match="E-G03"):
        model.fine_tune(new[:, :5])
    with pytest.raises(LabelError, match="E-L03"):
        model.fine_tune(new[new.obs["cell_type"] == "type 1"])
    with pytest.raises(UsageError, match="E-U16"):
        model.fine_tune(new, epochs=2)
    toy.ToyModel.setup_anndata(adata := toy.cells(), labels_key="cell_type")
    with pytest.raises(UsageError, match="E-M20"):
        toy.ToyModel(adata).fine_tune(new)
