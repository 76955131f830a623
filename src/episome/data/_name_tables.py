"""Lists of genes and labels that go with foreign weights, from wherever they are."""

from __future__ import annotations

import csv
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pandas as pd

from episome.data._features import FeatureSpace
from episome.data._keys import GENE_ID_COLUMNS, SYMBOL_COLUMNS, UNLABELED
from episome.data._labels import Labels
from episome.errors import InputFileError, ModelMismatchError, Problem, UsageError, warn

#: A list of names: itself, a table, a file of either, or a folder that holds such a file.
NameTable: TypeAlias = str | Path | pd.DataFrame | Sequence[str]

_ID_COLUMNS = tuple(c for c in GENE_ID_COLUMNS if c not in SYMBOL_COLUMNS)
_GENE_COLUMNS = (*_ID_COLUMNS, "gene", *SYMBOL_COLUMNS)
_LABEL_COLUMNS = ("label", "cell_type", "labels")
_HEADERS = {*_GENE_COLUMNS, *_LABEL_COLUMNS, "genes"}
_TERM = re.compile(r"[A-Za-z]+:\d+")


def read_gene_list(
    genes: NameTable | None,
    n_inputs: int,
    *,
    place: str,
    why: str,
    fix: str,
    misfit_fix: str,
    repeats_fix: str | None = None,
    file: str | None = None,
    known_lists: Mapping[int, str] | None = None,
) -> FeatureSpace:
    """Return the genes of the inputs of foreign weights in their order.

    Parameters
    ----------
    genes
        Identifiers, a table whose rows are genes, a ``.parquet``, ``.csv`` or ``.tsv`` of it, a
        text file of one name a line, or a folder that holds ``file``. Other names in columns that
        the host knows are kept.
    n_inputs
        Number of inputs.
    place
        Where names of the inputs could have been, for the message where there are none.
    why, fix
        Where the order comes from and what to pass, for the same message.
    misfit_fix
        What to do about a list of another length.
    repeats_fix
        What to do about genes that stand twice; without it they and the length are one message.
    file
        Where the list is in a folder; without it folders are refused.
    known_lists
        What a list of such a length is known to be, where it is not that of the inputs.

    Raises
    ------
    UsageError
        None are given (E-U53), or the table has no column of genes (E-U55).
    ModelMismatchError
        There are more or fewer than inputs, or some twice (E-M32).
    InputFileError
        There is no such file (E-F07), or it is no table (E-F22).
    InputDataError
        Names are empty or no text (E-G13), or of several species or kinds (E-G16, E-G18).
    """
    if genes is None:
        raise _unknown("E-U53", f"{n_inputs:,} inputs", place, why, fix)
    table, where = _read_table(genes, "genes", file)
    why_not = (known_lists or {}).get(len(table), "values would enter as other genes")
    misfit = _GeneMisfit(n_inputs, where, why_not, misfit_fix)
    if repeats_fix is not None and len(table) != n_inputs:
        raise misfit.of_length(len(table))
    ids, left = _gene_ids(table, where)
    repeated = list(ids[ids.duplicated()].unique())
    if repeats_fix is not None and repeated:
        raise misfit.of_repeats(repeated, repeats_fix)
    if len(ids) != n_inputs or repeated:
        raise misfit.of_length(len(ids), f" ({ids.nunique():,} different)", repeated)
    return FeatureSpace.from_var(left.set_axis(ids, axis=0), where=where)


def read_label_list(
    labels: NameTable | None,
    n_outputs: int,
    *,
    place: str,
    why: str,
    fix: str,
    unlabeled_category: str = UNLABELED,
    file: str | None = None,
    index_is_code: bool = False,
    order_fix: str | None = None,
) -> Labels:
    """Return the classes of the outputs of foreign weights in their order.

    Parameters
    ----------
    labels
        Names, or a table or file of them, as for :func:`read_gene_list`. A column of ontology
        identifiers is kept.
    n_outputs
        Number of outputs.
    place, why, fix
        For the message where there are none, as for :func:`read_gene_list`.
    unlabeled_category
        Name for cells without a label; it is no class.
    file
        Where the list is in a folder; without it folders are refused.
    index_is_code
        Rows go by an index that counts them, in whatever order they stand.
    order_fix
        What to do about a list that is not in alphabetical order, where the published outputs
        are: one that is not is warned of (E-M35). Without it any order is right.

    Raises
    ------
    UsageError
        None are given (E-U54), or the table has no column of labels (E-U55).
    ModelMismatchError
        There are more or fewer than outputs, some twice, or one is the unlabelled category
        (E-M33).
    InputFileError
        There is no such file (E-F07), or it is no table (E-F22).
    """
    if labels is None:
        raise _unknown("E-U54", f"{n_outputs:,} outputs", place, why, fix)
    table, where = _read_table(labels, "labels", file)
    if index_is_code and set(table.index) == set(range(len(table))):
        table = table.sort_index()
    column = _column(table, _LABEL_COLUMNS)
    if column is None:
        raise _no_column(table, where, "labels", _LABEL_COLUMNS)
    names = [str(name) for name in table[column]]
    _require_labels(names, n_outputs, unlabeled_category, where)
    if order_fix is not None and names != sorted(names):
        warn(
            Problem(
                "E-M35",
                "labels are not in alphabetical order",
                where=where,
                why="the codes of the published models follow the alphabet, and calls carry wrong "
                "names if this list is not in the order of the outputs",
                fix=order_fix,
            )
        )
    return Labels(tuple(names), _terms(table.drop(columns=column)), unlabeled_category)


class _GeneMisfit(NamedTuple):
    """How messages say that a list of genes is not that of the inputs."""

    n_inputs: int
    where: str
    why: str
    fix: str

    def of_length(
        self, n_genes: int, different: str = "", repeated: Sequence[str] = ()
    ) -> ModelMismatchError:
        return ModelMismatchError(
            "E-M32",
            f"{n_genes:,} genes{different} for {self.n_inputs:,} inputs",
            where=self.where,
            examples=sorted(map(str, repeated)),
            why=self.why,
            fix=self.fix,
        )

    def of_repeats(self, repeated: Sequence[str], fix: str) -> ModelMismatchError:
        return ModelMismatchError(
            "E-M32",
            "genes stand twice",
            where=self.where,
            count=len(repeated),
            total=self.n_inputs,
            examples=repeated,
            why="every input is one gene",
            fix=fix,
        )


def _require_labels(names: Sequence[str], n_outputs: int, unlabeled: str, where: str) -> None:
    """Refuse labels that are not one for every output."""
    different = set(names)
    twice = pd.Index(names, dtype=object).duplicated()
    odd = {n for n, again in zip(names, twice, strict=True) if again} | (different & {unlabeled})
    if len(names) != n_outputs or odd:
        raise ModelMismatchError(
            "E-M33",
            f"{len(names):,} labels ({len(different):,} different) for {n_outputs:,} outputs",
            where=where,
            examples=sorted(odd),
            why="calls would carry wrong names",
            fix="pass one name for every output; the unlabelled category is none of them",
        )


def _read_table(source: NameTable, what: str, file: str | None) -> tuple[pd.DataFrame, str]:
    """Return a list or table from wherever it is, and how messages name it."""
    if isinstance(source, pd.DataFrame):
        return source, f"the table of {what}"
    if not isinstance(source, str | Path):
        return pd.DataFrame({"": list(source)}), f"the list of {what}"
    path = Path(source)
    if file is not None and path.is_dir():
        path = path / file
    if not path.is_file():
        raise InputFileError("E-F07", "there is no such file", where=str(path))
    try:
        return _read_file(path), str(path)
    except (ValueError, OSError, csv.Error) as error:
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
    separator = "\t" if path.suffix == ".tsv" else ","
    table = pd.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )
    if len(table.columns) == 1 and table.columns[0] not in _HEADERS:
        return _names_without_header(path, separator)
    return table


def _names_without_header(path: Path, separator: str) -> pd.DataFrame:
    """Return one name a row; separators in it are its own, in quotes or not."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = [separator.join(row).strip() for row in csv.reader(handle, delimiter=separator)]
    return pd.DataFrame({"": [row for row in rows if row]})


def _gene_ids(table: pd.DataFrame, where: str) -> tuple[pd.Index, pd.DataFrame]:
    """Return the identifiers of the genes, and the columns beside them.

    A column of identifiers comes first, then an index of names, then any other known column.
    """
    rows = [str(i) for i in range(len(table))]  # AnnData numbers rows in text
    named = not pd.api.types.is_numeric_dtype(table.index) and list(table.index) != rows
    column = _column(table, _ID_COLUMNS if named else _GENE_COLUMNS)
    if named and column not in _ID_COLUMNS:
        return table.index, table
    if column is None:
        raise _no_column(table, where, "genes", _GENE_COLUMNS)
    return pd.Index(table[column].astype(object)), table.drop(columns=column)


def _column(table: pd.DataFrame, names: Sequence[str]) -> Hashable | None:
    """Return the first known column, else the only one there is."""
    known: list[Hashable] = [c for c in names if c in table.columns]
    if not known and len(table.columns) == 1:
        known = list(table.columns)
    return known[0] if known else None


def _terms(table: pd.DataFrame) -> tuple[str, ...]:
    """Ontology identifiers from whichever column holds them; empty where there is none."""
    for column in table.columns:
        values = table[column].astype(object).where(table[column].notna(), "").astype(str)
        if len(values) and values.map(lambda v: bool(_TERM.fullmatch(v))).any():
            return tuple(v if _TERM.fullmatch(v) else "" for v in values)
    return ("",) * len(table)


def _unknown(code: str, what: str, place: str, why: str, fix: str) -> UsageError:
    return UsageError(code, f"the names of the {what} are not in {place}", why=why, fix=fix)


def _no_column(table: pd.DataFrame, where: str, what: str, names: Sequence[str]) -> UsageError:
    return UsageError(
        "E-U55",
        f"there is no column of {what}",
        where=where,
        why=f"the columns are {list(map(str, table.columns))[:12]}",
        fix=f"name the column {names[0]!r}",
    )
