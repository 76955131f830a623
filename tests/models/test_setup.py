"""Set-up: what is registered, what is left in the user's object, what is refused."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.errors import InputDataError, InputFileError, LabelError, UsageError
from episome.testing import fingerprint

DOCUMENTED_UNS = {"_scvi_uuid", "_scvi_manager_uuid"}


@pytest.fixture
def set_up(toy):
    def call(adata, **kwargs):
        toy.ToyModel.setup_anndata(adata, **{"labels_key": "cell_type", **kwargs})
        return toy.ToyModel(adata)

    return call


def test_cellxgene_data_need_no_set_up(toy, caplog):
    adata = toy.cells()
    adata.obs["dataset_id"] = "set"

    with caplog.at_level(logging.INFO, logger="episome"):
        model = toy.ToyModel(adata)

    assert "labels_key='cell_type', donors: dataset_id + donor_id, values: X" in caplog.text
    assert model.setup_args["donor_key"] == ["dataset_id", "donor_id"]
    assert model.labels.names == ("type 0", "type 1", "type 2")
    assert model.training_donors()[0].startswith("set_donor")


def test_cellxgene_data_with_a_normalised_x_train_on_the_counts_of_raw(toy):
    adata = toy.cells()
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()

    model = toy.ToyModel(adata)

    assert model.setup_args["use_raw"] is True
    assert model.input_rule.input_kind == "counts"


def test_cellxgene_missing_labels_are_left_out(toy):
    adata = toy.cells()
    adata.obs.loc[adata.obs_names[:7], "cell_type"] = None

    model = toy.ToyModel(adata)

    assert (model.training_codes() == -1).sum() == 7


def test_objects_outside_the_schema_are_refused(toy):
    adata = toy.cells()
    del adata.obs["cell_type"]

    with pytest.raises(UsageError, match=r"ToyModel.setup_anndata.*E-U28"):
        toy.ToyModel(adata)
    with pytest.raises(UsageError, match=r"a model cannot be made from a ndarray.*E-U07"):
        toy.ToyModel(adata.X.toarray())
    with pytest.raises(InputFileError, match=r"no-such-file\.h5ad.*E-F07"):
        toy.ToyModel("no-such-file.h5ad")


@pytest.mark.parametrize("direct", [True, False])
def test_views_are_refused_and_stay_views(toy, set_up, direct):
    view = toy.cells()[:100]

    with pytest.raises(UsageError, match=r"adata = adata.copy\(\).*E-U29"):
        set_up(view) if direct else toy.ToyModel(view)
    assert view.is_view


def test_set_up_leaves_the_documented_keys_only(toy, set_up):
    adata = toy.cells()
    before, columns = fingerprint(adata), list(adata.obs)

    set_up(adata, donor_key=["donor_id", "batch"])

    assert fingerprint(adata) == before
    assert set(adata.uns) == DOCUMENTED_UNS
    assert list(adata.obs) == [*columns, "_scvi_labels"]


@pytest.mark.parametrize(
    "keys",
    [
        {"labels_key": "celltype"},
        {"donor_key": ["donor_id", "site"]},
        {"ontology_term_key": "term"},
    ],
)
def test_columns_are_looked_for_before_the_values(toy, set_up, monkeypatch, keys):
    from episome.models import _setup

    monkeypatch.setattr(_setup, "scan_values", lambda *_: pytest.fail("the values were read"))

    with pytest.raises(UsageError, match="is missing.*E-U04"):
        set_up(toy.cells(), **keys)


def test_a_column_that_is_missing_is_asked_for_by_near_names(toy, set_up):
    with pytest.raises(UsageError, match=r"'celltype'.*did you mean `cell_type`.*E-U04"):
        set_up(toy.cells(), labels_key="celltype")


def broken(adata, what):
    if what == "labels":
        adata.obs.loc[adata.obs_names[0], "cell_type"] = None
    elif what == "values":
        adata.X = adata.X.copy()
        adata.X.data[3] = np.nan
    elif what == "genes":
        adata.var_names = [f"G{i // 2}" for i in range(adata.n_vars)]
    return adata


@pytest.mark.parametrize(
    ("what", "kwargs", "error", "text"),
    [
        ("labels", {}, LabelError, "E-L01"),
        ("values", {}, InputDataError, "E-D01"),
        ("genes", {}, InputDataError, "E-G11"),
        ("", {"labels_key": "celltype"}, UsageError, r"column 'celltype' is missing.*E-U04"),
        ("", {"donor_key": ["donor_id", "site"]}, UsageError, r"'site' is missing.*E-U04"),
        ("", {"layer": "counts"}, InputDataError, "E-D28"),
        ("", {"use_raw": True}, InputDataError, "E-D30"),
        ("", {"batch_key": "batch"}, UsageError, r"unknown arguments batch_key.*E-U24"),
        ("", {"unlabeled": "ignore"}, UsageError, r"\"drop\".*E-U30"),
        ("", {"input_kind": "log"}, UsageError, "E-U30"),
        ("", {"size_factor": "all"}, UsageError, "E-U30"),
        ("", {"duplicates": "first"}, UsageError, "E-U30"),
    ],
)
def test_a_refused_set_up_leaves_nothing(toy, set_up, what, kwargs, error, text):
    adata = broken(toy.cells(), what)
    before = fingerprint(adata)

    with pytest.raises(error, match=text):
        set_up(adata, **kwargs)

    assert fingerprint(adata) == before
    assert not adata.uns
    assert not any(str(c).startswith("_scvi") for c in adata.obs)


@pytest.mark.parametrize(("n", "code"), [(0, "E-D31"), (3, "E-D32")])
def test_too_few_cells_are_refused(toy, set_up, n, code):
    with pytest.raises(InputDataError, match=rf"at least 4 are needed.*{code}"):
        set_up(toy.cells()[:n].copy())


def test_classes_are_sorted_and_the_unlabelled_category_is_none_of_them(toy, set_up):
    adata = toy.cells()
    adata.obs["kind"] = np.where(np.arange(200) < 9, "aaa", adata.obs["cell_type"].astype(str))

    model = set_up(adata, labels_key="kind", unlabeled_category="aaa")

    assert model.labels.names == ("type 0", "type 1", "type 2")
    assert model.labels.unlabeled == "aaa"
    assert (model.training_codes()[:9] == -1).all()
    assert model.summary_stats.n_labels == 4


@pytest.mark.parametrize("unlabeled", ["keep", "drop"])
def test_missing_labels_are_left_out_of_training(toy, set_up, unlabeled):
    adata = toy.cells()
    adata.obs.loc[adata.obs_names[:20], "cell_type"] = None

    model = set_up(adata, unlabeled=unlabeled)
    model.train(max_epochs=1, accelerator="cpu")

    rows = np.concatenate([model.train_indices_, model.validation_indices_])
    assert sorted(rows) == list(range(20, 200))


@pytest.mark.parametrize("values", [[3, 1, 2], [True, False, True]])
def test_numbers_and_booleans_are_labels(toy, set_up, values):
    adata = toy.cells()
    adata.obs["kind"] = np.resize(values, adata.n_obs)

    assert set_up(adata, labels_key="kind").labels.names == tuple(sorted(map(str, set(values))))


def test_ontology_terms_come_from_the_column_beside(toy, set_up):
    adata = toy.cells()
    terms = {"type 0": "CL:0000084", "type 1": "CL:0000236", "type 2": "unknown"}
    adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].map(terms)

    assert set_up(adata).labels.term_ids == ("CL:0000084", "CL:0000236", "")


def test_log1p_is_found_and_its_scale_recorded(toy, set_up):
    adata = toy.cells()
    sums = np.asarray(adata.X.sum(1))
    adata.X = adata.X.multiply(2500 / sums).tocsr().log1p().astype(np.float32)

    rule = set_up(adata).input_rule

    assert (rule.input_kind, rule.target_sum) == ("log1p", pytest.approx(2500, rel=1e-3))


def test_duplicated_genes_are_summed_when_asked_for(toy, set_up):
    adata = toy.cells()
    halves = adata.X.toarray()
    doubled = anndata.AnnData(
        np.hstack([halves, halves]),
        obs=adata.obs,
        var=pd.DataFrame(index=[*adata.var_names, *adata.var_names]),
    )

    model = set_up(doubled, duplicates="sum")
    model.train(max_epochs=2, accelerator="cpu")

    assert len(model.features) == 40
    # twice the counts are the same cells once the library is divided out
    np.testing.assert_allclose(
        model.predict_proba(doubled, duplicates="sum"), model.predict_proba(adata), atol=1e-5
    )


def test_two_models_of_two_objects_do_not_mix(toy, set_up):
    first, second = toy.cells(seed=0), toy.cells(seed=5, n_types=4)

    one, two = set_up(first), set_up(second)

    assert (len(one.labels), len(two.labels)) == (3, 4)
    assert one.adata is first
    assert two.adata is second


def test_a_copy_of_set_up_data_is_set_up_on_its_own(toy, set_up):
    adata = toy.cells()
    set_up(adata)
    copy = adata.copy()

    model = toy.ToyModel(copy)

    assert model.adata is copy


def test_organisms_of_the_training_cells_are_recorded(toy, set_up, tmp_path):
    adata = toy.cells()
    adata.obs["organism"] = ["Homo sapiens"] * 5 + ["Mus musculus"] * (adata.n_obs - 5)
    adata.write_h5ad(tmp_path / "cells.h5ad")

    model = set_up(adata)
    prepared = toy.ToyModel.setup_source(tmp_path / "cells.h5ad", "cell_type")

    assert model.input_rule.organisms == ("Homo sapiens", "Mus musculus")
    assert prepared.rule.organisms == model.input_rule.organisms
    assert set_up(toy.cells()).input_rule.organisms == ()
