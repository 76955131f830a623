"""Selection of variable genes, on training cells only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

# Least important first, as `lexsort` wants it.
_RANKED = ("dispersions", "dispersions_norm")


def variable_genes(values: sparse.csr_matrix, n_top_genes: int | None) -> NDArray[np.int64]:
    """Return the columns of the most variable genes.

    Parameters
    ----------
    values
        Normalised log1p values of the training cells, shape (n_cells, n_genes); not modified.
    n_top_genes
        How many; ``None`` or a number at or above ``n_genes`` keeps all.

    Returns
    -------
    Sorted column numbers, int64; exactly ``n_top_genes``.

    Raises
    ------
    UsageError
        No gene is wanted (E-U22).

    Notes
    -----
    scanpy's ``highly_variable_genes`` with the binned dispersions of Seurat. Genes alone in their
    bin tie there, and scanpy takes all of them or none: here the larger dispersion comes first.
    """
    n_genes = values.shape[1]
    if n_top_genes is not None and n_top_genes < 1:
        raise UsageError(
            "E-U22", f"n_top_genes={n_top_genes!r}", fix="pass a number such as 2000, or None"
        )
    if n_top_genes is None or n_top_genes >= n_genes:
        return np.arange(n_genes, dtype=np.int64)
    import anndata
    import scanpy as sc

    adata = anndata.AnnData(values)
    adata.uns["log1p"] = {"base": None}
    table = sc.pp.highly_variable_genes(adata, flavor="seurat", inplace=False)
    ranks = [-np.nan_to_num(table[c].to_numpy(), nan=-np.inf) for c in _RANKED]
    return np.sort(np.lexsort(ranks)[:n_top_genes]).astype(np.int64)
