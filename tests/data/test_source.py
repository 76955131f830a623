"""Where cells come from: every matrix that AnnData can hold gives the same rows."""

from __future__ import annotations

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.data import (
    AnnDataSource,
    ChosenCells,
    ManyCells,
    cell_columns,
    cellxgene_choice,
    check_values,
    combined_column,
    inspect_values,
    name_cells,
    read_cells,
    simulate_cells,
)
from episome.errors import InputDataError, InputFileError, UsageError

FORMATS = {
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
}
DTYPES = ["float32", "float64", "int32", "int64", "uint16"]
COUNTS = np.random.default_rng(0).poisson(0.6, (20, 9))


@given(
    form=st.sampled_from(sorted(FORMATS)),
    dtype=st.sampled_from(DTYPES),
    rows=st.one_of(
        st.lists(st.integers(0, 19), max_size=12).map(lambda r: np.array(r, dtype=np.int64)),
        st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda t: slice(*sorted(t))),
    ),
)
def test_rows_are_the_same_in_every_format_type_and_order(form, dtype, rows):
    source = AnnDataSource(anndata.AnnData(FORMATS[form](COUNTS.astype(dtype))))

    got = source.read(rows)

    assert isinstance(got, sparse.csr_matrix)
    assert got.dtype == np.float32
    assert got.has_canonical_format
    assert np.array_equal(got.toarray(), COUNTS[rows])


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_backed_files_give_rows_in_the_order_asked_for(tmp_path, form):
    path = tmp_path / "cells.h5ad"
    matrix = COUNTS.astype(np.float32)
    anndata.AnnData(
        matrix if form == "dense" else sparse.csr_matrix(matrix).asformat(form)
    ).write_h5ad(path)
    before = path.read_bytes()

    adata = read_cells(path, backed=True)
    source = AnnDataSource(adata)
    got = source.read(np.array([7, 7, 0, 19, 3]))
    adata.file.close()

    assert np.array_equal(got.toarray(), COUNTS[[7, 7, 0, 19, 3]])
    assert source.where == "cells.h5ad.X"
    assert path.read_bytes() == before


def test_views_stay_views():
    view = anndata.AnnData(sparse.csr_matrix(COUNTS.astype(np.float32)))[5:10]

    assert np.array_equal(AnnDataSource(view).read(slice(0, 5)).toarray(), COUNTS[5:10])
    assert view.is_view


def test_rows_with_duplicated_or_unsorted_columns_are_mended_in_a_copy():
    matrix = sparse.csr_matrix(
        (np.array([1, 2, 4], np.float32), np.array([3, 0, 3]), np.array([0, 3])), shape=(1, 9)
    )
    kept = matrix.copy()

    got = AnnDataSource(anndata.AnnData(matrix)).read(slice(0, 1))

    assert got.toarray()[0, [0, 3]].tolist() == [2, 5]
    assert np.array_equal(matrix.indices, kept.indices)
    assert np.array_equal(matrix.data, kept.data)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_a_broken_sparse_structure_is_refused(form):
    matrix = sparse.csr_matrix(COUNTS.astype(np.float32)).asformat(form)
    adata = anndata.AnnData(matrix)
    adata.X.indices[-1] = 10_000

    with pytest.raises(InputDataError, match=r"broken sparse structure.*E-D23"):
        AnnDataSource(adata).read(slice(0, 20))


def test_read_only_arrays_are_fine():
    matrix = sparse.csr_matrix(COUNTS.astype(np.float32))
    for part in (matrix.data, matrix.indices, matrix.indptr):
        part.flags.writeable = False

    assert AnnDataSource(anndata.AnnData(matrix)).read(slice(0, 20)).sum() == COUNTS.sum()


def test_layer_and_raw_have_their_own_values_and_genes():
    adata = anndata.AnnData(np.ones((3, 2), np.float32), var=pd.DataFrame(index=["A", "B"]))
    adata.raw = anndata.AnnData(
        np.full((3, 4), 2.0, np.float32), var=pd.DataFrame(index=list("CDEF"))
    )
    adata.layers["counts"] = np.full((3, 2), 3.0, np.float32)

    raw, layer = AnnDataSource(adata, use_raw=True), AnnDataSource(adata, layer="counts")

    assert (raw.n_vars, list(raw.var.index), raw.read(slice(0, 1)).max()) == (4, list("CDEF"), 2)
    assert (layer.n_vars, layer.read(slice(0, 1)).max()) == (2, 3)
    assert raw.where == "adata.raw.X"
    assert layer.where == "adata.layers['counts']"


def test_matrices_that_are_not_there_are_named():
    adata = anndata.AnnData(np.ones((3, 2), np.float32))
    adata.layers["counts"] = adata.X.copy()

    with pytest.raises(InputDataError, match=r"layer 'count' is missing.*\['counts'\].*E-D28"):
        AnnDataSource(adata, layer="count")
    with pytest.raises(InputDataError, match="E-D30"):
        AnnDataSource(adata, use_raw=True)
    with pytest.raises(UsageError, match="E-U27"):
        AnnDataSource(adata, layer="counts", use_raw=True)
    adata.X = None
    with pytest.raises(InputDataError, match=r"X is None.*counts.*E-D27"):
        AnnDataSource(adata)


def test_columns_are_joined_and_missing_stays_missing():
    obs = pd.DataFrame(
        {"a": ["x", "y", None], "b": pd.Categorical(["1", None, "3"])}, index=list("ijk")
    )
    adata = anndata.AnnData(np.ones((3, 1), np.float32), obs=obs)

    assert combined_column(adata, ["a", "b"]).isna().tolist() == [False, True, True]
    assert combined_column(adata, ["a", "b"]).iloc[0] == "x_1"
    with pytest.raises(UsageError, match=r"column 'c' is missing.*\['a', 'b'\].*E-U04"):
        combined_column(adata, ["a", "c"])


# -- files ---------------------------------------------------------------------------------------


def written(tmp_path, data: bytes):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "E-F02", "git lfs pull"),
        (b"<!DOCTYPE html><title>Login</title>", "E-F03", "a web page"),
        (b"\n <html>", "E-F03", "a web page"),
        (b"", "E-F04", "empty"),
        (b"\x1f\x8b\x08\x00", "E-F05", "gunzip"),
        (b"PK\x03\x04", "E-F05", "unzip"),
        (b"\x28\xb5\x2f\xfd", "E-F05", "zstd -d"),
        (b"cell,gene\n1,2\n", "E-F06", "not HDF5"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 500, "E-F01", "download or write the file again"),
    ],
)
def test_files_are_told_apart_by_what_is_in_them(tmp_path, data, code, text):
    with pytest.raises(InputFileError, match=rf"{text}.*{code}"):
        read_cells(written(tmp_path, data))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_was_cut_is_refused(tmp_path, share):
    path = tmp_path / "cells.h5ad"
    simulate_cells(30, 20).write_h5ad(path)
    data = path.read_bytes()

    with pytest.raises(InputFileError, match="E-F01"):
        read_cells(written(tmp_path, data[: int(share * len(data))]))


def test_missing_files_are_told_with_what_is_near(tmp_path):
    simulate_cells(5, 5).write_h5ad(tmp_path / "cells.h5ad")

    with pytest.raises(InputFileError, match=r"the folder holds cells.h5ad.*E-F07"):
        read_cells(tmp_path / "cell.h5ad")
    with pytest.raises(InputFileError, match=r"a folder, not a file.*E-F07"):
        read_cells(tmp_path)
    with pytest.raises(InputFileError, match=r"does not exist.*E-F07"):
        read_cells(tmp_path / "nowhere" / "cells.h5ad")


def test_the_content_counts_and_not_the_name(tmp_path):
    path = tmp_path / "cells.txt"
    simulate_cells(5, 5).write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").rename(path)

    assert read_cells(path).n_obs == 5


# -- the CELLxGENE schema ------------------------------------------------------------------------


def schema(**kwargs):
    adata = simulate_cells(30, 10)
    adata.obs["dataset_id"] = "set"
    return adata


def test_raw_counts_come_first():
    adata = schema()
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()

    choice = cellxgene_choice(adata, model="M")

    assert (choice.use_raw, choice.layer) == (True, None)
    assert choice.donor_key == ("dataset_id", "donor_id")
    assert choice.text == "labels_key='cell_type', donors: dataset_id + donor_id, values: raw.X"


def test_raw_that_holds_no_counts_is_passed_over_for_a_layer_of_counts():
    adata = schema()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    adata.raw = adata.copy()

    choice = cellxgene_choice(adata, model="M")

    assert (choice.use_raw, choice.layer) == (False, "counts")


def test_without_both_it_is_x_and_donors_are_optional():
    adata = schema()
    del adata.obs["dataset_id"]
    assert cellxgene_choice(adata, model="M").donor_key == ("donor_id",)
    del adata.obs["donor_id"]

    choice = cellxgene_choice(adata, model="M")

    assert (choice.use_raw, choice.layer, choice.donor_key) == (False, None, None)


def test_objects_outside_the_schema_are_refused():
    adata = schema()
    with pytest.raises(UsageError, match=r"adata = adata.copy\(\).*E-U29"):
        cellxgene_choice(adata[:5], model="M")
    del adata.obs["cell_type"]
    with pytest.raises(UsageError, match=r"M.setup_anndata\(adata, labels_key=....*E-U28"):
        cellxgene_choice(adata, model="M")
    # what looks like labels and donors is said, as `episome check` does
    adata.obs["annotation"] = ["B cell", "T cell"] * (adata.n_obs // 2) + ["B cell"] * (
        adata.n_obs % 2
    )
    with pytest.raises(UsageError, match=r"labels_key='annotation', donor_key='donor_id'\)"):
        cellxgene_choice(adata, model="M")


def test_a_matrix_of_another_shape_than_the_tables_is_refused(tmp_path):
    path = tmp_path / "wide.h5ad"
    simulate_cells(20, 12).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = [20, 40]

    with pytest.raises(
        InputDataError, match=r"20 x 40, and there are 20 cells and 12 genes.*E-D23"
    ):
        AnnDataSource(anndata.read_h5ad(path, backed="r"))


def test_a_file_without_x_lists_its_layers(tmp_path):
    path = tmp_path / "layers.h5ad"
    adata = simulate_cells(20, 12)
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]

    with pytest.raises(InputDataError, match=r"counts.*E-D27"):
        AnnDataSource(anndata.read_h5ad(path, backed="r"))


@pytest.mark.parametrize("slot", ["layer", "raw", "none"])
def test_a_slot_that_holds_counts_is_named_where_another_does_not(slot):
    adata = simulate_cells(40, 12)
    counts = adata.X.copy()
    adata.layers["scaled"] = counts.toarray() - counts.mean()
    if slot == "layer":
        adata.layers["spliced"] = counts
    if slot == "raw":
        adata.raw = adata.copy()
    adata.X = adata.layers["scaled"].copy()

    with pytest.raises(InputDataError, match="E-D04") as error:
        check_values(inspect_values(AnnDataSource(adata)))

    wanted = {
        "layer": 'To fix: layer="spliced" (--layer spliced), which holds counts.',
        "raw": "To fix: use_raw=True (--use-raw), which holds counts.",
        "none": "To fix: pass the layer that holds counts",
    }
    assert wanted[slot] in str(error.value)


# -- columns -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*zarr.*")
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_columns_of_a_file_are_known_without_its_cells(tmp_path, form):
    cells = simulate_cells(12, 5)
    cells.obs["score"] = 1.0
    getattr(cells, f"write_{form}")(tmp_path / "cells")
    bare = cells.copy()
    bare.obs = bare.obs[[]]
    getattr(bare, f"write_{form}")(tmp_path / "bare")

    assert cell_columns(tmp_path / "cells") == list(cells.obs.columns)
    assert cell_columns(tmp_path / "bare") == []


@pytest.mark.filterwarnings("ignore:.*zarr.*")
def test_columns_that_only_reading_tells_are_not_guessed(tmp_path):
    cells = simulate_cells(12, 5)
    (tmp_path / "cells.csv").write_text("cell,CD3E,CD19\nc1,1,0\n")
    mudata.MuData({"rna": cells}).write(tmp_path / "cells.h5mu")
    mudata.MuData({"rna": cells}).write_zarr(tmp_path / "cells.zarr")
    (tmp_path / "cells.h5ad").write_bytes(b"")

    for name in ("cells.csv", "cells.h5mu", "cells.zarr"):
        assert cell_columns(tmp_path / name) is None
    with pytest.raises(InputFileError, match="E-F04"):
        cell_columns(tmp_path / "cells.h5ad")


def test_a_table_in_another_file_is_not_opened(tmp_path):
    simulate_cells(12, 5).write_h5ad(tmp_path / "theirs.h5ad")
    simulate_cells(12, 5).write_h5ad(tmp_path / "mine.h5ad")
    with h5py.File(tmp_path / "mine.h5ad", "r+") as file:
        del file["obs"]
        file["obs"] = h5py.ExternalLink(str(tmp_path / "theirs.h5ad"), "obs")

    with pytest.raises(InputFileError, match="E-F11"):
        cell_columns(tmp_path / "mine.h5ad")


@pytest.mark.parametrize("where", ["object", "two files"])
def test_a_missing_column_is_asked_for_by_near_names(tmp_path, where):
    source = AnnDataSource(simulate_cells(12, 5))
    if where == "two files":
        source = ManyCells([simulate_cells(12, 5), simulate_cells(12, 5, seed=1)])

    with pytest.raises(UsageError, match=r"'donor'.*did you mean `donor_id`.*E-U04"):
        source.obs_column("donor")


def test_an_object_is_named_by_its_file():
    cells = simulate_cells(12, 5)

    name_cells(cells, "atlas.h5ad")

    assert AnnDataSource(cells).where == "atlas.h5ad.X"
    assert AnnDataSource(cells[:3].copy(), name="mine").where == "mine.X"
    with pytest.raises(UsageError, match=r"in atlas\.h5ad\.obs"):
        combined_column(cells, "nothing")


def test_chosen_cells_are_rows_of_their_source():
    cells = simulate_cells(12, 5)
    rows = np.array([7, 2, 9])

    chosen = ChosenCells(AnnDataSource(cells), rows)

    assert list(chosen.obs_names) == list(cells.obs_names[rows])
    assert list(chosen.obs_column("cell_type")) == list(cells.obs["cell_type"].iloc[rows])
    np.testing.assert_array_equal(chosen.read(slice(0, 3)).toarray(), cells.X[rows].toarray())
    np.testing.assert_array_equal(chosen.read(np.array([1])).toarray(), cells.X[[2]].toarray())


def test_raw_takes_the_place_of_scaled_values_where_it_is_asked_to_be_found():
    cells = simulate_cells(60, 30)
    scaled = cells.copy()
    logged = np.log1p(cells.X.toarray() / cells.X.sum(axis=1).reshape(-1, 1) * 1e4)
    scaled.X = np.float32(logged)
    scaled.raw = scaled
    scaled.X = np.float32((logged - logged.mean(axis=0)) / (logged.std(axis=0) + 1))

    found = AnnDataSource(scaled, use_raw="auto")

    assert found.use_raw
    assert "log1p values of raw" in found.notes[0]
    whole = AnnDataSource(scaled.raw.to_adata(), use_raw="auto")
    assert not whole.use_raw
