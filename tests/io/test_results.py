"""Tables of calls."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import simulate_cells
from episome.errors import InputFileError, UsageError
from episome.io import check_output, write_calls
from episome.testing import fingerprint


@pytest.fixture
def calls() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": ["T cell", "β, cell", "unknown"],
            "confidence": np.array([0.5, 0.25, np.nan], np.float32),
        },
        index=["c1", "c1", "细胞"],
    )


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_text_tables_keep_order_names_and_missing_numbers(tmp_path, calls, suffix, separator):
    path = write_calls(tmp_path / f"calls{suffix}", calls)

    got = pd.read_csv(path, sep=separator, index_col=0)

    assert got.index.name == "cell"
    assert got.index.tolist() == calls.index.tolist()
    assert got["label"].tolist() == calls["label"].tolist()
    np.testing.assert_array_equal(got["confidence"], calls["confidence"])


def test_parquet_is_exact(tmp_path, calls):
    path = write_calls(tmp_path / "calls.parquet", calls)

    pd.testing.assert_frame_equal(pd.read_parquet(path), calls, check_column_type=False)


@pytest.fixture
def query():
    adata = simulate_cells(3, 5)
    adata.obs_names = ["c1", "c2", "c3"]
    adata.layers["more"] = adata.X * 2
    adata.obsm["X_pca"] = np.ones((3, 2))
    adata.raw = adata.copy()
    adata.obs["_scvi_labels"] = 1
    adata.uns = {"_scvi_uuid": "x", "kept": 1}
    return adata


def test_annotated_copy_has_the_calls_beside_what_was_there(tmp_path, calls, query):
    before, keys = fingerprint(query), (list(query.obs), sorted(query.uns))

    path = write_calls(tmp_path / "a.h5ad", calls, adata=query, provenance={"model": "Toy"})

    got = anndata.read_h5ad(path)
    assert got.obs["episome_label"].tolist() == calls["label"].tolist()
    assert got.uns["episome"] == {"model": "Toy"}
    assert got.uns["kept"] == 1
    assert (got.X != query.X).nnz == (got.layers["more"] != query.layers["more"]).nnz == 0
    assert np.array_equal(got.obsm["X_pca"], query.obsm["X_pca"])
    assert got.raw.shape == query.raw.shape
    assert not any(str(k).startswith("_scvi") for k in [*got.obs, *got.uns])
    assert fingerprint(query) == before
    assert (list(query.obs), sorted(query.uns)) == keys


def test_columns_that_exist_are_not_replaced_silently(tmp_path, calls, query):
    query.obs["episome_label"] = "mine"

    with pytest.raises(UsageError, match=r"1 of 2, first: episome_label.*prefix=.*E-L16"):
        write_calls(tmp_path / "a.h5ad", calls, adata=query)
    assert list(tmp_path.iterdir()) == []

    path = write_calls(tmp_path / "a.h5ad", calls, adata=query, prefix="new_")
    assert anndata.read_h5ad(path).obs["episome_label"].tolist() == ["mine"] * 3
    assert query.obs["episome_label"].tolist() == ["mine"] * 3


def test_an_annotated_copy_needs_the_cells(tmp_path, calls):
    with pytest.raises(UsageError, match="E-U09"):
        write_calls(tmp_path / "a.h5ad", calls)


@pytest.mark.parametrize("name", ["calls", "calls.xlsx", "calls.CSV.gz"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"use one of .csv, .tsv, .parquet, .h5ad.*E-U08"):
        check_output(tmp_path / name, overwrite=False)


def test_results_are_replaced_only_when_asked_for(tmp_path, calls):
    path = write_calls(tmp_path / "calls.csv", calls)

    with pytest.raises(InputFileError, match="E-F26"):
        write_calls(path, calls[:1])
    assert len(pd.read_csv(path)) == 3
    write_calls(path, calls[:1], overwrite=True)
    assert len(pd.read_csv(path)) == 1
