"""Tables of marker genes: read from objects and files, brought into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from episome.errors import InputFileError, UsageError

#: What a user may pass: a mapping of types to genes, a frame, or a file.
MarkersLike: TypeAlias = (
    Mapping[str, Sequence[str] | Mapping[str, float]] | pd.DataFrame | str | Path
)
#: Weight of every marker of every type; below zero: the type lacks the gene.
MarkerTable: TypeAlias = dict[str, dict[str, float]]

#: Names of the columns, the first as the documentation says them, in small letters.
TYPE_COLUMNS = ("cell_type", "celltype", "type", "label")
GENE_COLUMNS = ("gene", "symbol", "gene_symbol", "official_gene_symbol", "marker", "gene_id")
NEGATIVE = frozenset({"-", "-1", "-1.0", "negative", "neg", "down"})
POSITIVE = frozenset({"", "+", "1", "1.0", "positive", "pos", "up", "nan", "none", "<na>"})
SUFFIXES = (".csv", ".tsv", ".txt", ".gmt")


def read_markers(markers: MarkersLike) -> MarkerTable:
    """Bring markers into one form.

    Parameters
    ----------
    markers
        A mapping of types to genes, or to genes with weights; a frame with the columns
        ``cell_type`` and ``gene``, and maybe ``weight`` and ``direction``; or a file: ``.csv``,
        ``.tsv`` or ``.txt`` of such columns, ``.gmt``, each also compressed (``.gz``). A gene
        after a minus, a negative weight or the direction ``negative`` speaks against the type.

    Returns
    -------
    Types in the order of their first marker, genes in theirs.

    Raises
    ------
    UsageError
        No marker, columns that are missing, a gene for and against one type (E-U81).
    InputFileError
        The file does not exist (E-F07) or is no table (E-F22).
    """
    where = "markers"
    if isinstance(markers, str | Path):
        where = str(markers)
        markers = _read_file(Path(markers))
    rows = _frame_rows(markers, where) if isinstance(markers, pd.DataFrame) else _rows(markers)
    table: MarkerTable = {}
    for cell_type, gene, weight in rows:
        name, sign = str(cell_type).strip(), 1.0
        text = str(gene).strip()
        if text.startswith("-"):
            text, sign = text[1:].strip(), -1.0
        if not name or not text:
            continue
        _add(table.setdefault(name, {}), text, sign * weight, name, where)
    if not table:
        raise _malformed(where, "the table names no marker")
    return table


def _add(genes: dict[str, float], gene: str, weight: float, cell_type: str, where: str) -> None:
    """Add a marker; one that is named again keeps its larger weight."""
    if not np.isfinite(weight) or weight == 0:
        raise _malformed(where, f"weight {weight!r} of {gene} for {cell_type!r} is none")
    if gene in genes and genes[gene] * weight < 0:
        raise _malformed(where, f"{gene} speaks both for and against {cell_type!r}")
    genes[gene] = max(weight, genes.get(gene, weight), key=abs)


def _rows(markers: object) -> list[tuple[str, str, float]]:
    if not isinstance(markers, Mapping):
        raise _malformed("markers", f"markers are a {type(markers).__name__}")
    rows = []
    for cell_type, genes in markers.items():
        if isinstance(genes, str) or not isinstance(genes, Mapping | Sequence | np.ndarray | set):
            raise _malformed("markers", f"the markers of {cell_type!r} are {genes!r}")
        weights = genes if isinstance(genes, Mapping) else dict.fromkeys(genes, 1.0)
        rows += [(str(cell_type), str(g), _number(w, "markers")) for g, w in weights.items()]
    return rows


def _frame_rows(frame: pd.DataFrame, where: str) -> list[tuple[str, str, float]]:
    columns = {str(c).strip().lower().replace(" ", "_"): c for c in frame.columns}
    types = next((columns[c] for c in TYPE_COLUMNS if c in columns), None)
    genes = next((columns[c] for c in GENE_COLUMNS if c in columns), None)
    if types is None or genes is None:
        raise _malformed(where, f"columns are {', '.join(map(str, frame.columns))[:80]}")
    known = frame[frame[types].notna() & frame[genes].notna()]
    weights = (
        [_number(w, where) for w in known[columns["weight"]]]
        if "weight" in columns
        else [1.0] * len(known)
    )
    if "direction" in columns:
        signs = [_sign(d, where) for d in known[columns["direction"]].astype(object)]
        weights = [abs(w) * s for w, s in zip(weights, signs, strict=True)]
    return list(zip(known[types].astype(str), known[genes].astype(str), weights, strict=True))


def _number(value: object, where: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number is refused
    except (TypeError, ValueError) as error:
        raise _malformed(where, f"weight {value!r} is no number") from error


def _sign(value: object, where: str) -> float:
    text = str(value).strip().lower()
    if text in NEGATIVE:
        return -1.0
    if text in POSITIVE:
        return 1.0
    raise _malformed(where, f"direction {value!r} is neither positive nor negative")


def _malformed(where: str, what: str) -> UsageError:
    return UsageError(
        "E-U81",
        what,
        where=where,
        why="markers are a table of types and genes",
        fix="pass columns cell_type and gene, and maybe weight and direction, or a mapping such "
        'as {"B cell": ["CD79A", "MS4A1", "-CD3D"]}',
    )


def _read_file(path: Path) -> pd.DataFrame | dict[str, list[str]]:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            "E-U81",
            f"a table of markers is no {suffix or 'file without extension'}",
            where=str(path),
            fix=f"use one of {', '.join(SUFFIXES)}",
        )
    if not path.is_file():
        raise InputFileError("E-F07", "the file does not exist", where=str(path))
    try:
        if suffix == ".gmt":
            return _read_gmt(path)
        separator = "," if suffix == ".csv" else "\t"
        return pd.read_csv(path, sep=separator, dtype=object, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputFileError(
            "E-F22", "the markers cannot be read", where=str(path), why=str(error)[:200]
        ) from error


def _read_gmt(path: Path) -> dict[str, list[str]]:
    """Read gene sets: a line each, with the name, a description and the genes."""
    lines = pd.read_csv(path, sep="\x00", header=None, dtype=object, quoting=3)[0]
    fields = [str(line).rstrip("\r\n").split("\t") for line in lines]
    return {f[0]: [g for g in f[2:] if g.strip()] for f in fields if f[0].strip()}
