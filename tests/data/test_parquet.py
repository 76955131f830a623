"""Cells of parquet files with a list of values in every row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from episome import models
from episome.data import CellSource, ParquetSource, _parquet, inspect_values, simulate_cells
from episome.errors import InputFileError, ModelMismatchError, UsageError

N_FILES, N_EACH, N_VARS = 12, 25, 30


@pytest.fixture(scope="module")
def cells():
    adata = simulate_cells(N_FILES * N_EACH, N_VARS, n_types=3, n_donors=3)
    adata.obs["n"] = np.arange(adata.n_obs)
    return adata


@pytest.fixture(params=["list", "fixed"])
def path(request, cells, tmp_path):
    """Files in row groups of ten cells, numbers of cell types, and the table that names them."""
    folder = tmp_path / "store" / "train"
    folder.mkdir(parents=True)
    types = sorted(cells.obs["cell_type"].unique())[::-1]
    for i in range(N_FILES):
        part = cells[i * N_EACH : (i + 1) * N_EACH]
        flat = pa.array(part.X.toarray().ravel())
        if request.param == "fixed":
            lists = pa.FixedSizeListArray.from_arrays(flat, N_VARS)
        else:
            lists = pa.ListArray.from_arrays(np.arange(N_EACH + 1) * N_VARS, flat)
        codes = [types.index(t) for t in part.obs["cell_type"]]
        table = pa.table({"X": lists, "cell_type": codes, "n": part.obs["n"].to_numpy()})
        pq.write_table(table, folder / f"part.{i}.parquet", row_group_size=10)
    (folder.parent / "categorical_lookup").mkdir()
    names = pd.DataFrame({"label": types})
    names.to_parquet(folder.parent / "categorical_lookup" / "cell_type.parquet")
    return folder


@pytest.mark.parametrize(
    "rows",
    [
        slice(0, 300),
        slice(120, 4, -9),
        slice(3, 3),
        np.array([299, 4, 4, 130, 0]),
        np.array([], dtype=np.int64),
    ],
    ids=str,
)
@pytest.mark.parametrize("at_once", [3, 512])
def test_rows_are_those_that_were_written(path, cells, rows, at_once, monkeypatch):
    monkeypatch.setattr(_parquet, "_CELLS", at_once)
    source = ParquetSource(path, list(cells.var_names))

    got = source.read(rows)

    assert isinstance(source, CellSource)
    assert isinstance(got, sparse.csr_matrix)
    assert got.dtype == np.float32
    assert got.has_canonical_format
    assert np.array_equal(got.toarray(), cells.X.toarray()[rows])


def test_tables_are_those_that_were_written(path, cells):
    genes = pd.DataFrame(
        {"feature_name": [f"SYM{i}" for i in range(N_VARS)]}, index=cells.var_names
    )

    source = ParquetSource(path, genes)

    assert (source.n_obs, source.n_vars, source.dtype) == (*cells.shape, "float32")
    assert list(source.var.index) == list(cells.var_names)
    assert source.obs_columns == ["cell_type", "n"]
    assert list(source.obs_column("n")) == list(cells.obs["n"])
    assert list(source.obs_column("cell_type")) == list(cells.obs["cell_type"])
    assert not source.in_memory


def test_a_row_group_is_unpacked_once_in_a_scan(path, cells, monkeypatch):
    source = ParquetSource(path, list(cells.var_names))
    opened = []
    before = source._open
    monkeypatch.setattr(source, "_open", lambda file: (opened.append(file), before(file))[1])

    for start in range(0, 300, 2):
        source.read(slice(start, start + 2))

    # Ten, ten and five cells of 25 in each file; two cells may be of two groups.
    assert len(opened) == 3 * N_FILES
    assert inspect_values(source).kind == "counts"


def test_a_model_learns_from_parquet(path, cells):
    source = ParquetSource(path, list(cells.var_names))
    model = models.NearestCentroid(models.NearestCentroid.setup_source(source, "cell_type"))

    model.train()

    assert (model.predict(cells) == cells.obs["cell_type"].to_numpy()).mean() > 0.9


# -- refusals ------------------------------------------------------------------------------------


def test_what_is_no_store_of_cells_is_refused(path, cells, tmp_path):
    genes = list(cells.var_names)
    with pytest.raises(InputFileError, match=r"no such file or folder.*E-F07"):
        ParquetSource(tmp_path / "nothing", genes)
    with pytest.raises(InputFileError, match=r"no parquet files.*E-F07"):
        ParquetSource(tmp_path, genes)
    with pytest.raises(InputFileError, match=r"no column 'Y', but X.*E-F01"):
        ParquetSource(path, genes, column="Y")
    with pytest.raises(InputFileError, match=r"'n' is int64, and no list.*E-F01"):
        ParquetSource(path, genes, column="n")
    with pytest.raises(UsageError, match=r"column 'sex' is missing.*E-U04"):
        ParquetSource(path, genes).obs_column("sex")
    with pytest.raises(UsageError, match=r"no rows.*E-U39"):
        ParquetSource(path, genes).read(np.array([300]))
    with pytest.raises(ModelMismatchError, match=r"29"):
        ParquetSource(path, genes[:-1])
    (path / "part.3.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputFileError, match=r"part.3.parquet.*E-F01"):
        ParquetSource(path, genes)


def test_lists_of_other_lengths_are_refused(tmp_path, cells):
    table = pa.table({"X": [[1.0, 2.0, 0.0], [1.0, 2.0]]})
    pq.write_table(table, tmp_path / "uneven.parquet")

    source = ParquetSource(tmp_path / "uneven.parquet", list(cells.var_names[:3]))

    with pytest.raises(InputFileError, match=r"not all cells have 3 values.*E-F01"):
        source.read(slice(0, 2))


def test_a_lookup_that_lacks_numbers_is_refused(path, cells):
    table = path.parent / "categorical_lookup" / "cell_type.parquet"
    pd.DataFrame({"label": ["only one"]}).to_parquet(table)

    with pytest.raises(InputFileError, match=r"does not name all numbers of 'cell_type'.*E-F01"):
        ParquetSource(path, list(cells.var_names)).obs_column("cell_type")
