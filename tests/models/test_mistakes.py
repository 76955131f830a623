"""Mistakes that a new user makes, and what they get."""

from __future__ import annotations

import pytest

from episome.data import simulate_cells
from episome.errors import ModelFileError, UsageError
from episome.models import SCTab, load


def test_sizes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="E-U31"):
        SCTab(simulate_cells(40, 30), n_d="abc")


def test_donors_given_as_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="E-U32"):
        SCTab.setup_anndata(simulate_cells(40, 30), "donor_id", donor_key="donor_id")


def test_training_a_loaded_model_without_data_says_so(tmp_path) -> None:
    model = SCTab(simulate_cells(60, 30))
    model.train(max_epochs=1)
    model.save(tmp_path / "model")

    with pytest.raises(UsageError, match="E-U17"):
        SCTab.load(tmp_path / "model").train(max_epochs=1)


def test_a_file_of_cells_as_model_is_called_what_it_is(tmp_path) -> None:
    path = tmp_path / "cells.h5ad"
    simulate_cells(20, 10).write_h5ad(path)

    with pytest.raises(ModelFileError, match="file of cells.*E-M05"):
        load(path)


def test_near_misses_of_train_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="max_epochs"):
        SCTab(simulate_cells(40, 30)).train(max_epoch=3)


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_below_one_is_refused_in_prediction(size: int) -> None:
    cells = simulate_cells(60, 30)
    model = SCTab(cells)
    model.train(max_epochs=1)

    with pytest.raises(UsageError, match="E-U22"):
        model.predict(cells, batch_size=size)


def test_setup_can_be_viewed_as_in_scvi_tools(capsys) -> None:
    SCTab(simulate_cells(40, 30)).view_anndata_setup()

    assert "cell_type" in capsys.readouterr().out


def test_card_says_how_many_cells_took_part(tmp_path) -> None:
    cells = simulate_cells(60, 30)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str)
    cells.obs.loc[cells.obs_names[:10], "cell_type"] = "unknown"
    with pytest.warns(UserWarning, match="E-L06"):
        SCTab.setup_anndata(cells, "cell_type")
    model = SCTab(cells)
    model.train(max_epochs=1, refit=True)
    model.save(tmp_path / "model")

    assert "Trained on 50 of 60 cells" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("indices", [[9999], [-1], [0, 60]])
@pytest.mark.parametrize("name", ["predict", "annotate", "explain", "get_latent_representation"])
def test_rows_that_are_not_there_are_refused_everywhere(model, query, name, indices):
    with pytest.raises(UsageError, match=r"rows are counted from 0 to 59.*E-U39"):
        getattr(model, name)(query, indices=indices)


@pytest.mark.parametrize("indices", [["cell1"], [0.5], [[1, 2]]])
def test_rows_that_are_no_numbers_are_refused(model, query, indices):
    with pytest.raises(UsageError, match=r"get_indexer.*E-U39"):
        model.predict(query, indices=indices)


@pytest.mark.parametrize(
    ("name", "wrong", "near"),
    [("annotate", "btch_size", "batch_size"), ("explain", "group_by", "groupby")],
)
def test_wrong_words_of_a_query_are_refused_with_near_ones(model, query, name, wrong, near):
    with pytest.raises(UsageError, match=rf"unknown arguments {wrong}.*near: {near}.*E-U24"):
        getattr(model, name)(query, **{wrong: 3})


def test_several_modalities_get_the_line_that_takes_one(model, query, toy) -> None:
    mudata = pytest.importorskip("mudata")
    both = mudata.MuData({"prot": query.copy(), "rna": query.copy()})

    for refused in (
        lambda: model.predict(both),
        lambda: toy.ToyModel.setup_anndata(both, labels_key="cell_type"),
        lambda: toy.ToyModel(both),
    ):
        with pytest.raises(UsageError, match=r"prot, rna.*mdata\.mod\['rna'\].*E-U07"):
            refused()
