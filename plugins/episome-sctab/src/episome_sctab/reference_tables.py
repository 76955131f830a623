"""Lists of genes and classes from the user's own store of the reference's data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from episome.data import FeatureSpace, Labels
from episome.errors import InputFileError, ModelMismatchError, Problem, UsageError, warn

Table: TypeAlias = "str | Path | pd.DataFrame | Sequence[str]"

#: Where the authors' store keeps the two lists.
GENES_FILE, LABELS_FILE = "var.parquet", "categorical_lookup/cell_type.parquet"
#: Rows of the gene list in the authors' repository: more genes than the model has inputs.
REPOSITORY_GENES = 19_357
GENE_IDS = ("feature_id", "ensembl_id", "ensembl_ids", "gene_ids", "gene_id")
GENE_NAMES = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol")
LABEL_COLUMNS = ("label", "cell_type")
_HEADERS = {*GENE_IDS, *GENE_NAMES, *LABEL_COLUMNS, "gene", "genes", "labels"}
_TERM = re.compile(r"[A-Za-z]+:\d+")


def read_genes(genes: Table | None, n_inputs: int) -> FeatureSpace:
    """Return the genes of the inputs in their order.

    Raises
    ------
    UsageError
        None are given (E-U53), or the table has no column of genes (E-U55).
    ModelMismatchError
        There are more or fewer than inputs, or some twice (E-M32).
    """
    if genes is None:
        raise UsageError(
            "E-U53",
            f"the names of the {n_inputs:,} inputs are not in the checkpoint",
            why="their order is that of the store that the model was trained on",
            fix="pass genes= with that store's folder, its var.parquet, or a list of gene "
            "identifiers in that order",
        )
    table, where = read_table(genes, GENES_FILE)
    if len(table) != n_inputs:
        repository = len(table) == REPOSITORY_GENES
        raise ModelMismatchError(
            "E-M32",
            f"{len(table):,} genes for {n_inputs:,} inputs",
            where=where,
            why="this is the feature list of the authors' repository, which is not the order of "
            "the inputs"
            if repository
            else "values would enter as other genes",
            fix="pass var.parquet of the store that the model was trained on",
        )
    ids, left = _gene_ids(table, where)
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise ModelMismatchError(
            "E-M32",
            "genes stand twice",
            where=where,
            count=len(repeated),
            total=n_inputs,
            examples=list(repeated),
            why="every input is one gene",
            fix="pass a column of unique identifiers",
        )
    return FeatureSpace.from_var(left.set_axis(ids, axis=0), where=where)


def read_labels(labels: Table | None, n_outputs: int, unlabeled: str = "unknown") -> Labels:
    """Return the classes of the outputs in their order.

    Raises
    ------
    UsageError
        None are given (E-U54), or the table has no column of labels (E-U55).
    ModelMismatchError
        There are more or fewer than outputs, some twice, or one is the unlabelled category
        (E-M33).
    """
    if labels is None:
        raise UsageError(
            "E-U54",
            f"the names of the {n_outputs:,} outputs are not in the checkpoint",
            why="they are the cell types of the training data, in the order of their codes",
            fix=f"pass labels= with the store's folder, its {LABELS_FILE}, or a list of names",
        )
    table, where = read_table(labels, LABELS_FILE)
    if set(table.index) == set(range(len(table))):
        table = table.sort_index()  # the index of the store's table is the code
    column = _column(table, LABEL_COLUMNS)
    if column is None:
        raise _no_column(table, where, "labels", LABEL_COLUMNS)
    names = [str(name) for name in table[column]]
    odd = sorted({n for n in names if names.count(n) > 1} | {n for n in names if n == unlabeled})
    if len(names) != n_outputs or odd:
        raise ModelMismatchError(
            "E-M33",
            f"{len(names):,} labels ({len(set(names)):,} different) for {n_outputs:,} outputs",
            where=where,
            examples=odd,
            why="calls would carry wrong names",
            fix="pass one name for every output; the unlabelled category is none of them",
        )
    if names != sorted(names):
        warn(
            Problem(
                "E-M35",
                "labels are not in alphabetical order",
                where=where,
                why="the codes of the published models follow the alphabet, and calls carry wrong "
                "names if this list is not in the order of the outputs",
                fix="take the list from the store that the model was trained on",
            )
        )
    return Labels(tuple(names), _terms(table.drop(columns=column)), unlabeled)


def read_table(source: Table, file: str) -> tuple[pd.DataFrame, str]:
    """Return a list or table from wherever it is, and how messages name it.

    A folder is taken as the store and ``file`` is read in it.

    Raises
    ------
    InputFileError
        There is no such file (E-F07), or it is no table (E-F22).
    """
    if isinstance(source, pd.DataFrame):
        return source, "the table"
    if not isinstance(source, str | Path):
        return pd.DataFrame({"": list(source)}), "the list"
    path = Path(source)
    path = path / file if path.is_dir() else path
    if not path.is_file():
        raise InputFileError("E-F07", "there is no such file", where=str(path))
    try:
        return _read_file(path), str(path)
    except (ValueError, OSError) as error:
        raise InputFileError(
            "E-F22",
            "the file is no table",
            where=str(path),
            why=str(error)[:200],
            fix="pass .parquet, .csv, .tsv or a .txt with one name a line",
        ) from error


def _read_file(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix not in {".csv", ".tsv"}:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        return pd.DataFrame({"": names[1:] if names[:1] and names[0] in _HEADERS else names})
    read = {"sep": "\t" if path.suffix == ".tsv" else ",", "dtype": str, "encoding": "utf-8-sig"}
    table = pd.read_csv(path, keep_default_na=False, **read)
    if len(table.columns) == 1 and table.columns[0] not in _HEADERS:
        table = pd.read_csv(path, keep_default_na=False, header=None, **read)
    return table


def _gene_ids(table: pd.DataFrame, where: str) -> tuple[pd.Index, pd.DataFrame]:
    """Return the identifiers of the genes, and the columns beside them."""
    named = not pd.api.types.is_numeric_dtype(table.index)
    column = _column(table, GENE_IDS if named else (*GENE_IDS, *GENE_NAMES))
    if named and column not in GENE_IDS:
        return table.index, table
    if column is None:
        raise _no_column(table, where, "genes", (*GENE_IDS, *GENE_NAMES))
    return pd.Index(table[column].astype(object)), table.drop(columns=column)


def _column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the first known column, else the only one there is."""
    known = [c for c in names if c in table.columns]
    return (known or (list(table.columns) if len(table.columns) == 1 else [None]))[0]


def _terms(table: pd.DataFrame) -> tuple[str, ...]:
    """Ontology identifiers from whichever column holds them; empty where there is none."""
    for column in table.columns:
        values = table[column].astype(object).where(table[column].notna(), "").astype(str)
        if len(values) and values.map(lambda v: bool(_TERM.fullmatch(v))).any():
            return tuple(v if _TERM.fullmatch(v) else "" for v in values)
    return ("",) * len(table)


def _no_column(table: pd.DataFrame, where: str, what: str, names: Sequence[str]) -> UsageError:
    return UsageError(
        "E-U55",
        f"there is no column of {what}",
        where=where,
        why=f"the columns are {list(map(str, table.columns))[:12]}",
        fix=f"name the column {names[0]!r}",
    )
