"""Labels from a table, joined by barcode and never by position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from episome.data import missing_column
from episome.errors import InputFileError, LabelError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, slots=True)
class LabelJoin:
    """Outcome of a join.

    Parameters
    ----------
    labels
        Label of every cell of the data; missing where the file has none.
    n_matched, n_unlabeled, n_unknown, n_duplicated
        Cells with a label, cells without, barcodes of the file that the data lack, and barcodes
        that the file repeats with the same label.
    """

    labels: pd.Series
    n_matched: int
    n_unlabeled: int
    n_unknown: int
    n_duplicated: int

    @property
    def text(self) -> str:
        """The join in one line."""
        return (
            f"labels for {self.n_matched:,} of {len(self.labels):,} cells; "
            f"{self.n_unlabeled:,} cells have none, {self.n_unknown:,} barcodes of the file are "
            f"not in the data, {self.n_duplicated:,} are repeated"
        )


def join_labels(adata: AnnData, path: str | Path, labels_key: str) -> LabelJoin:
    """Join a table of labels to cells by name.

    Parameters
    ----------
    adata
        The cells; not modified.
    path
        Comma- or tab-separated text: barcodes in the first column, labels in the column
        ``labels_key``, or in the second of two columns.
    labels_key
        Name of the label column.

    Raises
    ------
    InputFileError
        The file cannot be read (E-F07, E-F22).
    UsageError
        The label column is missing (E-U04), or cell names of the data repeat (E-L15).
    LabelError
        A barcode has two different labels (E-L21), or no barcode matches (E-L22).
    """
    table = _with_header(_read_table(Path(path)), adata)
    column = _label_column(table, labels_key, str(path))
    if not adata.obs_names.is_unique:
        repeated = adata.obs_names[adata.obs_names.duplicated()]
        raise UsageError(
            "E-L15",
            "duplicated cell names",
            where="obs_names",
            count=len(repeated),
            total=adata.n_obs,
            examples=list(repeated[:3]),
            why="labels could be joined to the wrong cell",
            fix="make the names unique, e.g. adata.obs_names_make_unique() on both sides",
        )
    pairs = pd.Series(table[column].to_numpy(), index=table.iloc[:, 0].astype(str)).dropna()
    repeated = pairs.index.duplicated(keep=False)
    n_duplicated = int(pairs.index.duplicated().sum())
    conflicting = pairs[repeated].groupby(level=0).nunique()
    conflicting = conflicting[conflicting > 1]
    if len(conflicting):
        raise LabelError(
            "E-L21",
            "barcodes with two different labels",
            where=str(path),
            count=len(conflicting),
            total=len(table),
            examples=list(conflicting.index[:3]),
            fix="keep one line per barcode",
        )
    pairs = pairs[~pairs.index.duplicated()]
    labels = pairs.reindex(adata.obs_names.astype(str))
    labels.index = adata.obs_names
    n_matched = int(labels.notna().sum())
    if n_matched == 0:
        raise LabelError(
            "E-L22",
            "no barcode is a cell of the data",
            where=str(path),
            count=0,
            total=len(pairs),
            why=f"the file has {', '.join(map(str, pairs.index[:2]))}, "
            f"the data {', '.join(map(str, adata.obs_names[:2]))}",
            fix="write barcodes as they stand in obs_names, with the same suffixes",
        )
    n_unknown = int((~pairs.index.isin(adata.obs_names.astype(str))).sum())
    return LabelJoin(labels, n_matched, len(labels) - n_matched, n_unknown, n_duplicated)


def _with_header(table: pd.DataFrame, adata: AnnData) -> pd.DataFrame:
    """Give back the first line as a line when it names a cell and is no header."""
    if str(table.columns[0]) not in set(adata.obs_names.astype(str)):
        return table
    first = pd.DataFrame([list(table.columns)], columns=table.columns)
    return pd.concat([first, table], ignore_index=True)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputFileError(
            "E-F07", "there is no such file", where=str(path), fix="pass the path of a csv file"
        )
    try:
        table = _parsed(path)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputFileError(
            "E-F22",
            "the file cannot be read as a table",
            where=path.name,
            why=str(error).splitlines()[0],
            fix="write comma-separated text with one line per barcode",
        ) from error
    if table.shape[1] < 2:
        raise InputFileError(
            "E-F22",
            "the table has fewer than two columns",
            where=path.name,
            fix="barcodes go in the first column, labels in another",
        )
    return table


def _parsed(path: Path) -> pd.DataFrame:
    """Read a table; the first of tab, comma, semicolon that splits its header separates."""
    for separator in ("\t", ",", ";"):
        table = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig")
        if table.shape[1] > 1:
            break
    return table


def _label_column(table: pd.DataFrame, labels_key: str, where: str) -> str:
    if labels_key in table.columns[1:]:
        return labels_key
    if table.shape[1] == 2:
        return str(table.columns[1])
    columns = list(map(str, table.columns))
    fix = "pass the name of an existing column as labels_key (--labels-key)"
    raise missing_column(labels_key, columns, where, fix=fix)
