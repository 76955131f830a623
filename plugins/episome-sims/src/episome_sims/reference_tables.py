"""Lists of genes and classes that go with foreign weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from episome.data import FeatureSpace, Labels
from episome.errors import InputFileError, ModelMismatchError, UsageError

Table: TypeAlias = "str | Path | pd.DataFrame | Sequence[str]"

GENE_COLUMNS = ("feature_id", "ensembl_id", "gene_id", "gene_ids", "gene", "gene_name", "symbol")
LABEL_COLUMNS = ("label", "cell_type", "labels")


def read_genes(genes: Table | None, n_inputs: int) -> FeatureSpace:
    """Return the genes of the inputs in their order.

    Raises
    ------
    UsageError
        None are known (E-U53), or the table has no column of genes (E-U55).
    ModelMismatchError
        There are more or fewer than inputs, or some twice (E-M32).
    """
    if genes is None:
        raise UsageError(
            "E-U53",
            f"the names of the {n_inputs:,} inputs are not in the file",
            why="their order is that of the training data",
            fix="pass genes= with the list, or the var_names of that data",
        )
    names, where = read_names(genes, GENE_COLUMNS, "genes")
    repeated = sorted({n for n, twice in zip(names, _repeats(names), strict=True) if twice})
    if len(names) != n_inputs or repeated:
        raise ModelMismatchError(
            "E-M32",
            f"{len(names):,} genes ({len(set(names)):,} different) for {n_inputs:,} inputs",
            where=where,
            examples=repeated,
            why="values would enter as other genes",
            fix="pass one unique name for every input",
        )
    return FeatureSpace.from_var(pd.DataFrame(index=names), where=where)


def read_labels(labels: Table | None, n_outputs: int, unlabeled: str = "unknown") -> Labels:
    """Return the classes of the outputs in their order.

    Raises
    ------
    UsageError
        None are known (E-U54), or the table has no column of labels (E-U55).
    ModelMismatchError
        There are more or fewer than outputs, some twice, or one is the unlabelled category
        (E-M33).
    """
    if labels is None:
        raise UsageError(
            "E-U54",
            f"the names of the {n_outputs:,} outputs are not in the file",
            why="they are the cell types of the training data, in alphabetical order",
            fix="pass labels= with a list of names",
        )
    names, where = read_names(labels, LABEL_COLUMNS, "labels")
    odd = {n for n, twice in zip(names, _repeats(names), strict=True) if twice}
    odd |= {n for n in names if n == unlabeled}
    if len(names) != n_outputs or odd:
        raise ModelMismatchError(
            "E-M33",
            f"{len(names):,} labels ({len(set(names)):,} different) for {n_outputs:,} outputs",
            where=where,
            examples=sorted(odd),
            why="calls would carry wrong names",
            fix="pass one name for every output; the unlabelled category is none of them",
        )
    return Labels(tuple(names), ("",) * len(names), unlabeled)


def _repeats(names: Sequence[str]) -> list[bool]:
    return pd.Index(names, dtype=object).duplicated().tolist()


def read_names(source: Table, columns: Sequence[str], what: str) -> tuple[list[str], str]:
    """Return a list of names from wherever it is, and how messages name it.

    Raises
    ------
    InputFileError
        There is no such file (E-F07), or it is no table (E-F22).
    UsageError
        A table has several columns, and none of a known name (E-U55).
    """
    if not isinstance(source, str | Path | pd.DataFrame):
        return [str(v) for v in source], f"the list of {what}"
    if isinstance(source, pd.DataFrame):
        table, where = source, f"the table of {what}"
    else:
        table, where = _read_file(Path(source), {*columns, *GENE_COLUMNS}), str(source)
    known = [c for c in columns if c in table.columns]
    if not known and len(table.columns) == 1:
        known = [table.columns[0]]
    if not known:
        raise UsageError(
            "E-U55",
            f"there is no column of {what}",
            where=where,
            why=f"the columns are {list(map(str, table.columns))[:12]}",
            fix=f"name the column {columns[0]!r}",
        )
    return [str(v) for v in table[known[0]]], where


def _read_file(path: Path, headers: set[str]) -> pd.DataFrame:
    if not path.is_file():
        raise InputFileError("E-F07", "there is no such file", where=str(path))
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in {".csv", ".tsv"}:
            separator = "\t" if path.suffix == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
            if len(table.columns) > 1 or table.columns[0] in headers:
                return table
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (ValueError, OSError) as error:
        raise InputFileError(
            "E-F22",
            "the file is no table",
            where=str(path),
            why=str(error)[:200],
            fix="pass .parquet, .csv, .tsv or a .txt with one name a line",
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    return pd.DataFrame({"": names[1:] if names[:1] and names[0] in headers else names})
