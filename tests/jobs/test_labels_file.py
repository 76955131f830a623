"""Labels from a table: by barcode, never by position."""

from __future__ import annotations

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.errors import InputFileError, LabelError, UsageError
from episome.jobs import join_labels


@pytest.fixture
def adata():
    names = [f"AAAC{i}-1" for i in range(6)]
    return anndata.AnnData(np.ones((6, 2), np.float32), obs=pd.DataFrame(index=names))


@pytest.fixture
def table(tmp_path, adata):
    def write(
        labels=None, names=None, *, separator=",", header="barcode{}cell type", suffix=".csv"
    ):
        labels = [f"T {i % 2}" for i in range(6)] if labels is None else labels
        names = list(adata.obs_names) if names is None else names
        rows = [header.format(separator)] + [
            f"{n}{separator}{x}" for n, x in zip(names, labels, strict=True)
        ]
        path = tmp_path / f"labels{suffix}"
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_labels_meet_their_cells_in_any_order(adata, table, separator):
    order = [3, 0, 5, 1, 4, 2]
    labels = [f"T {i}" for i in order]
    path = table(labels, [adata.obs_names[i] for i in order], separator=separator)

    join = join_labels(adata, path, "cell type")

    assert join.labels.tolist() == [f"T {i}" for i in range(6)]
    assert join.labels.index.equals(adata.obs_names)
    assert (join.n_matched, join.n_unlabeled, join.n_unknown, join.n_duplicated) == (6, 0, 0, 0)


def test_the_column_is_chosen_by_name_or_is_the_only_one(adata, tmp_path, table):
    two = pd.DataFrame({"a": list("uvwxyz"), "b": list("123456")}, index=adata.obs_names)
    two.to_csv(tmp_path / "two.csv")

    assert join_labels(adata, tmp_path / "two.csv", "b").labels.tolist() == list("123456")
    assert join_labels(adata, table(), "whatever").labels.iloc[0] == "T 0"
    with pytest.raises(UsageError, match=r"column 'c' is missing.*--labels-key.*E-U04"):
        join_labels(adata, tmp_path / "two.csv", "c")


def test_a_header_with_other_separators_in_it_is_read(adata, table):
    path = table(header="bar code{}cell,type; fine", separator="\t", suffix=".tsv")

    assert join_labels(adata, path, "cell,type; fine").n_matched == 6


def test_cells_without_and_barcodes_without_are_counted(adata, table):
    path = table(["a", "b", "a", "x"], [*adata.obs_names[:3], "GGGG-1"])

    join = join_labels(adata, path, "cell type")

    assert join.labels.isna().tolist() == [False] * 3 + [True] * 3
    assert (join.n_matched, join.n_unlabeled, join.n_unknown) == (3, 3, 1)
    assert (
        "labels for 3 of 6 cells; 3 cells have none, 1 barcodes of the file are not" in join.text
    )


def test_a_barcode_repeated_with_the_same_label_is_counted(adata, table):
    path = table(["a", "b", "a"], [adata.obs_names[0], adata.obs_names[1], adata.obs_names[0]])

    join = join_labels(adata, path, "cell type")

    assert (join.n_matched, join.n_duplicated) == (2, 1)


def test_a_barcode_with_two_labels_is_refused(adata, table):
    path = table(["a", "b"], [adata.obs_names[0]] * 2)

    with pytest.raises(LabelError, match=r"two different labels.*1 of 2, first: AAAC0-1.*E-L21"):
        join_labels(adata, path, "cell type")


def test_no_barcode_in_common_is_refused_with_both_shown(adata, table):
    path = table(names=[f"AAAC{i}" for i in range(6)])

    with pytest.raises(
        LabelError, match=r"the file has AAAC0, AAAC1, the data AAAC0-1, AAAC1-1.*E-L22"
    ):
        join_labels(adata, path, "cell type")


def test_cell_names_that_repeat_are_refused(adata, table):
    path = table()
    adata.obs_names = ["same", "same", *adata.obs_names[2:]]

    with pytest.raises(UsageError, match=r"duplicated cell names.*1 of 6, first: same.*E-L15"):
        join_labels(adata, path, "cell type")


def test_compressed_tables_and_marks_at_the_start_are_fine(adata, table, tmp_path):
    path = tmp_path / "labels.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + table().read_bytes()))

    assert join_labels(adata, path, "cell type").n_matched == 6


@pytest.mark.parametrize("data", [b"", b"barcode\nA\n", b"\xff\xfe\x00", b"a,b\nc,d,e,f\n1,2\n"])
def test_what_is_no_table_is_refused(adata, tmp_path, data):
    (tmp_path / "labels.csv").write_bytes(data)

    with pytest.raises((InputFileError, LabelError), match=r"E-F22|E-L22"):
        join_labels(adata, tmp_path / "labels.csv", "x")


def test_a_missing_table_is_named(adata, tmp_path):
    with pytest.raises(InputFileError, match="E-F07"):
        join_labels(adata, tmp_path / "none.csv", "x")


def test_the_cells_are_not_modified(adata, table):
    join_labels(adata, table(), "cell type")

    assert adata.obs.shape == (6, 0)
