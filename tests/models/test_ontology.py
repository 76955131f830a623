"""Classes meet the Cell Ontology at set-up; training, folders and scores know it."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from episome.errors import LabelError, UsageError
from episome.io import read_manifest
from episome.ontology import cell_ontology, releases

T, CD4, B = "CL:0000084", "CL:0000624", "CL:0000236"
NAMES = {"T cell": T, "CD4-positive, alpha-beta T cell": CD4, "B cell": B}


def named(toy, names, **kwargs):
    """Simulated cells whose types carry the given names."""
    adata = toy.cells(**kwargs)
    types = sorted(set(adata.obs["cell_type"].astype(str)))
    adata.obs["cell_type"] = (
        adata.obs["cell_type"].astype(str).map(dict(zip(types, names, strict=True)))
    )
    return adata


def set_up(toy, adata, **kwargs):
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type", **kwargs)
    return toy.ToyModel(adata)


def test_names_and_synonyms_get_their_terms_without_being_asked(toy):
    model = set_up(toy, named(toy, ["T-cell", "CD4-positive, alpha-beta T cell", "B lymphocyte"]))

    terms = dict(zip(model.labels.names, model.labels.term_ids, strict=True))

    assert terms == {"T-cell": T, "CD4-positive, alpha-beta T cell": CD4, "B lymphocyte": B}
    assert model.labels.ontology_release == releases()[0]


def test_what_did_not_resolve_is_said(toy, caplog):
    adata = named(toy, ["T cell", "cluster 7", "B cell"])

    with caplog.at_level(logging.INFO, logger="episome"):
        model = set_up(toy, adata)

    assert "cluster 7" in caplog.text
    assert model.labels.term_ids == (B, T, "")


def test_terms_of_the_data_win_and_obsolete_ones_are_replaced(toy, caplog):
    adata = named(toy, list(NAMES))
    adata.obs["mine"] = adata.obs["cell_type"].map({**NAMES, "B cell": "CL:0000003"})

    with caplog.at_level(logging.INFO, logger="episome"):
        model = set_up(toy, adata, ontology_term_key="mine")

    assert dict(zip(model.labels.names, model.labels.term_ids, strict=True))["B cell"] == (
        "CL:0000000"
    )
    assert "CL:0000003" in caplog.text


def test_the_usual_column_of_terms_is_found(toy):
    adata = named(toy, ["a", "b", "c"])
    adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].map(
        {"a": T, "b": CD4, "c": B}
    )

    assert set_up(toy, adata).labels.term_ids == (T, CD4, B)


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ({"a": T, "b": CD4, "c": B}, (T, CD4, B)),
        ({"a": T, "b": "unknown", "c": B}, (T, "", B)),
        ({"a": T, "b": T, "c": B}, ("", "", "")),
    ],
    ids=["one to one", "one unknown", "two of one term"],
)
def test_the_standard_column_of_terms_is_taken_for_other_labels_one_to_one(toy, terms, found):
    adata = named(toy, ["a", "b", "c"])
    adata.obs["mine"] = adata.obs.pop("cell_type")
    adata.obs["cell_type_ontology_term_id"] = adata.obs["mine"].map(terms)

    toy.ToyModel.setup_anndata(adata, labels_key="mine")

    assert toy.ToyModel(adata).labels.term_ids == found


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"a": T, "b": T, "c": B}, f"term '{T}' has several labels (a, b)"),
        ({"a": "unknown", "b": "unknown", "c": "unknown"}, "none is named"),
    ],
)
def test_a_standard_column_that_is_not_taken_is_said(toy, caplog, terms, why):
    adata = named(toy, ["a", "b", "c"])
    adata.obs["mine"] = adata.obs.pop("cell_type")
    adata.obs["cell_type_ontology_term_id"] = adata.obs["mine"].map(terms)

    with caplog.at_level("INFO", logger="episome"):
        toy.ToyModel.setup_anndata(adata, labels_key="mine")

    assert why in caplog.text
    assert "--ontology-term-key" in caplog.text


def test_a_column_of_terms_that_is_not_there_is_refused(toy):
    with pytest.raises(UsageError, match="nothing_like_it"):
        set_up(toy, toy.cells(), ontology_term_key="nothing_like_it")


def test_the_hierarchy_of_the_classes_follows_the_ontology(toy):
    hierarchy = set_up(toy, named(toy, list(NAMES))).class_hierarchy()

    order = [hierarchy.names.index(n) for n in NAMES]
    wanted = np.eye(3, dtype=bool)
    wanted[0, 1] = True
    assert np.array_equal(hierarchy.children[np.ix_(order, order)], wanted)
    assert hierarchy.release == cell_ontology().release


def test_classes_without_terms_have_no_hierarchy(toy):
    assert set_up(toy, named(toy, ["x1", "x2", "x3"])).class_hierarchy() is None


def test_a_term_that_the_installed_release_lacks_leaves_its_class_alone(toy, monkeypatch):
    model = set_up(toy, named(toy, list(NAMES)))
    state = model.registry["field_registries"]["labels"]["state_registry"]
    state["ontology_release"] = "1999-01-01"
    state["ontology_term_ids"] = np.array([B, "CL:9999998", T], dtype=object)

    hierarchy = model.class_hierarchy()

    assert hierarchy.children.tolist() == np.eye(3, dtype=bool).tolist()
    assert hierarchy.release == releases()[0]


def test_labels_of_a_query_join_the_hierarchy(toy):
    model = set_up(toy, named(toy, ["CD4-positive, alpha-beta T cell", "B cell", "monocyte"]))

    hierarchy = model.class_hierarchy(also=["T cell", "B cell", "never heard of"])

    order = [hierarchy.names.index(n) for n in ("T cell", "CD4-positive, alpha-beta T cell")]
    assert hierarchy.names[:3] == model.labels.names
    assert hierarchy.names[3:] == ("T cell", "never heard of")
    assert hierarchy.children[np.ix_(order, order)].tolist() == [[True, True], [False, True]]


def test_a_named_column_without_terms_is_refused(toy):
    adata = named(toy, list(NAMES))
    adata.obs["mine"] = "no term"

    with pytest.raises(UsageError, match=r"'mine' gives no class its term.*no term.*E-U57"):
        set_up(toy, adata, ontology_term_key="mine")


def test_own_terms_lie_below_the_cell_ontology(toy, tmp_path):
    own = {"LAB:1": {"label": "my T cell", "parents": [CD4]}}
    model = set_up(toy, named(toy, ["T cell", "my T cell", "B cell"]), own_terms=own)
    names = model.labels.names

    children = model.class_hierarchy().children

    assert model.labels.term_ids[names.index("my T cell")] == "LAB:1"
    assert children[names.index("T cell"), names.index("my T cell")]
    assert not children[names.index("my T cell"), names.index("T cell")]


def test_own_terms_without_a_parent_in_the_ontology_are_refused(toy):
    own = {"LAB:1": {"label": "my T cell", "parents": ["CL:9999999"]}}

    with pytest.raises((LabelError, UsageError), match="CL:9999999"):
        set_up(toy, named(toy, list(NAMES)), own_terms=own)


def test_release_and_own_terms_survive_a_folder(toy, tmp_path):
    own = {"LAB:1": {"label": "my T cell", "parents": [CD4]}}
    model = set_up(toy, named(toy, ["T cell", "my T cell", "B cell"]), own_terms=own)
    model.train(max_epochs=1, accelerator="cpu")

    model.save(tmp_path / "m")
    loaded = toy.ToyModel.load(tmp_path / "m")

    assert loaded.labels == model.labels
    assert loaded.class_hierarchy().children.tolist() == model.class_hierarchy().children.tolist()
    assert read_manifest(tmp_path / "m")["ontology"]["own_terms"] == own


def test_both_macro_f1_are_followed(toy):
    model = set_up(toy, named(toy, list(NAMES)), donor_key="donor_id")

    model.train(max_epochs=3, accelerator="cpu")

    plain = model.history["validation_f1_macro"].to_numpy()
    corrected = model.history["validation_f1_macro_ontology"].to_numpy()
    assert (corrected >= plain - 1e-6).all()
    assert model.fit_["validation_f1_macro_ontology"] >= model.fit_["validation_f1_macro"] - 1e-6


def test_a_finer_call_is_right_and_a_coarser_one_wrong(toy):
    from episome.train import ClassifierPlan

    children = np.eye(3, dtype=bool)
    children[0, 1] = True
    plan = ClassifierPlan(toy.ToyCore(6, 3), children=children).eval()
    logged = {}
    plan.log = lambda name, value, **kwargs: logged.setdefault(name, value)
    import torch

    logits = torch.eye(3)[[1, 0, 2]]
    plan.core.forward = lambda batch: {"logits": logits}
    plan.validation_step({"X": torch.zeros(3, 6), "labels": torch.tensor([0, 1, 2])}, 0)

    assert float(logged["validation_f1_macro"].compute()) == pytest.approx(1 / 3)
    # Truth 0 was called 1, its child: right. Truth 1 was called 0, its parent: wrong.
    assert float(logged["validation_f1_macro_ontology"].compute()) == pytest.approx(
        (2 / 3 + 0 + 1) / 3
    )


def test_the_best_epoch_can_follow_the_ontology(toy):
    model = set_up(toy, named(toy, list(NAMES)))

    model.train(
        max_epochs=3, accelerator="cpu", early_stopping_monitor="validation_f1_macro_ontology"
    )

    values = model.history["validation_f1_macro_ontology"].iloc[:, 0]
    assert model.fit_["best_epoch"] == values.idxmax()


def test_a_metric_that_the_run_has_not_is_refused(toy):
    model = set_up(toy, named(toy, ["x1", "x2", "x3"]))

    with pytest.raises(UsageError, match=r"validation_f1_macro_ontology.*Cell Ontology.*E-U36"):
        model.train(
            max_epochs=3, accelerator="cpu", early_stopping_monitor="validation_f1_macro_ontology"
        )


def test_losses_are_monitored_for_their_minimum(toy):
    model = set_up(toy, named(toy, list(NAMES)))

    model.train(max_epochs=4, accelerator="cpu", early_stopping_monitor="validation_loss")

    values = model.history["validation_loss"].iloc[:, 0]
    assert model.fit_["best_epoch"] == values.idxmin()


# -- donor augmentation --------------------------------------------------------------------------


def test_augmentation_reads_training_donors_only(toy, monkeypatch):
    from episome.models import _training

    asked = []
    build = _training.donor_shifts

    def spy(read, rows, codes, donors, **kwargs):
        found = build(read, rows, codes, donors, **kwargs)
        asked.append((set(rows), set(found.donors)))
        return found

    monkeypatch.setattr(_training, "donor_shifts", spy)
    model = set_up(toy, toy.cells(), donor_key="donor_id")

    model.train(max_epochs=2, accelerator="cpu", augment="donor")

    donors = model.adata.obs["donor_id"].astype(str).to_numpy()
    held_out = set(donors[model.validation_indices_])
    (rows, used), *more = asked
    assert held_out
    assert rows.isdisjoint(model.validation_indices_)
    assert used.isdisjoint(held_out)
    assert not more
    assert model.fit_["augment"]["n_donors"] == len(used)


def test_augmented_training_follows_the_seed(toy):
    def probabilities(**kwargs):
        model = set_up(toy, toy.cells(), donor_key="donor_id")
        model.train(max_epochs=2, accelerator="cpu", **kwargs)
        return model.predict_proba().to_numpy()

    one, same, without = (probabilities(augment=a) for a in ("donor", "donor", None))

    assert np.array_equal(one, same)
    assert not np.allclose(one, without)


def test_augmentation_without_donors_is_refused(toy):
    model = set_up(toy, toy.cells())

    with pytest.raises(UsageError, match=r"no donors are known.*E-U35"):
        model.train(max_epochs=1, accelerator="cpu", augment="donor")
    model.train(max_epochs=1, accelerator="cpu")


def test_another_word_for_augment_is_refused(toy):
    model = set_up(toy, toy.cells())

    with pytest.raises(UsageError, match=r"augment='mixup'.*\"donor\""):
        model.train(max_epochs=1, accelerator="cpu", augment="mixup")


def test_augmentation_is_off_unless_asked_for(toy):
    model = set_up(toy, toy.cells(), donor_key="donor_id")

    model.train(max_epochs=1, accelerator="cpu")

    assert model.fit_["augment"] is None
