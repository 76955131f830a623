"""Values of genes in the cells of the map: written by the process of a job, read by the page.

One gene of all drawn cells is a compressed row of a database, one byte a cell, so the page reads a
few kilobytes whatever the file holds.
"""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

__all__ = ["Expression", "write_expression"]

#: Names that are offered for a part of one, and bytes that a cell takes of 0 to 100.
OFFERED, MOST = 20, 100


def write_expression(
    path: Path, values: sparse.csr_matrix, names: list[str], symbols: list[str] | None = None
) -> None:
    """Write a database of the genes that any of the cells has.

    Parameters
    ----------
    path
        Of the database.
    values
        Of the drawn cells, at least 0, (n_cells, n_genes).
    names
        Of the genes, as identifiers.
    symbols
        Names that people know them by; default the identifiers.
    """
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE genes (name TEXT, symbol TEXT, most REAL, cells BLOB)")
        db.executemany(
            "INSERT INTO genes VALUES (?, ?, ?, ?)", _rows(values, names, symbols or names)
        )
        db.execute("CREATE INDEX by_symbol ON genes (symbol COLLATE NOCASE)")
        db.execute("CREATE INDEX by_name ON genes (name COLLATE NOCASE)")
    db.close()


def _rows(
    values: sparse.csr_matrix, names: list[str], symbols: list[str]
) -> Iterator[tuple[str, str, float, bytes]]:
    import numpy as np

    columns, n = values.tocsc(), values.shape[0]
    for i, (name, symbol) in enumerate(zip(names, symbols, strict=True)):
        here = slice(columns.indptr[i], columns.indptr[i + 1])
        found = columns.data[here]
        most = float(found.max()) if len(found) else 0.0
        if most <= 0:
            continue
        shown = np.zeros(n, dtype=np.uint8)
        shown[columns.indices[here]] = np.rint(found / most * MOST).astype(np.uint8)
        yield str(name), str(symbol), most, zlib.compress(shown.tobytes(), 1)


@dataclass(frozen=True, slots=True)
class Expression:
    """The database of :func:`write_expression`.

    Parameters
    ----------
    path
        Of the database.
    """

    path: Path

    def names(self, search: str = "") -> list[str]:
        """Return genes whose symbol or identifier begins with a text, the first twenty."""
        text = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = (
            "SELECT DISTINCT symbol FROM genes WHERE symbol LIKE ? ESCAPE '\\' "
            "OR name LIKE ? ESCAPE '\\' ORDER BY length(symbol), symbol LIMIT ?"
        )
        return [str(row[0]) for row in self._ask(query, (f"{text}%", f"{text}%", OFFERED))]

    def gene(self, name: str) -> dict[str, Any] | None:
        """Return a gene, its largest value, and percents of that for every drawn cell."""
        query = (
            "SELECT symbol, name, most, cells FROM genes WHERE symbol = ? COLLATE NOCASE "
            "OR name = ? COLLATE NOCASE LIMIT 1"
        )
        for symbol, id_, most, cells in self._ask(query, (name, name)):
            return {"gene": symbol, "id": id_, "most": most, "cells": list(zlib.decompress(cells))}
        return None

    def _ask(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            return db.execute(query, values).fetchall()
        finally:
            db.close()
