"""The genes that count most for every cell, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from scipy import sparse

    from episome.data import FeatureSpace

COLUMNS = ("cell", "rank", "gene", "gene_name", "score", "expression")
_TEXT = ("cell", "gene", "gene_name")


def cell_table(
    names: pd.Index,
    scores: sparse.csr_matrix,
    values: sparse.csr_matrix,
    features: FeatureSpace,
    k: int,
) -> pd.DataFrame:
    """Return the best genes of some cells; see ``ExplanationMixin.cell_genes``.

    Parameters
    ----------
    names
        Of the cells.
    scores, values
        CSR (n_cells, n_genes): how much every gene counts, and its normalised log1p value.
    features
        Genes.
    k
        Genes of every cell at most.
    """
    cells, genes = [], []
    for row in range(scores.shape[0]):
        here = slice(scores.indptr[row], scores.indptr[row + 1])
        found, at = scores.data[here], scores.indices[here]
        best = np.lexsort((at, -found))[:k]
        best = best[found[best] > 0]
        cells.append(np.full(len(best), row))
        genes.append(at[best].astype(np.int64))
    if not cells:
        return no_cells()
    cell, gene = np.concatenate(cells), np.concatenate(genes)
    rank = np.concatenate([np.arange(1, len(g) + 1) for g in genes])
    table = {
        "cell": names.to_numpy(dtype=object)[cell],
        "rank": rank,
        "gene": np.array(features.ids, dtype=object)[gene],
        "gene_name": np.array(features.symbols, dtype=object)[gene],
        "score": np.asarray(scores[cell, gene], dtype=np.float32).ravel(),
        "expression": np.asarray(values[cell, gene], dtype=np.float32).ravel(),
    }
    return pd.DataFrame(table).astype(dict.fromkeys(_TEXT, "str"))


def no_cells() -> pd.DataFrame:
    """Return the table of no cells, with the types of :func:`cell_table`."""
    types = {"rank": np.int64, "score": np.float32, "expression": np.float32}
    return pd.DataFrame({c: pd.Series(dtype=types.get(c, "str")) for c in COLUMNS})
