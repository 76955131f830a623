"""A hash of what an object holds, to see whether it was changed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData


def fingerprint(adata: AnnData) -> str:
    """Hash of everything in an object but scvi-tools' documented bookkeeping."""
    h = hashlib.sha256()

    def add(value: object) -> None:
        h.update(repr(value).encode() if not isinstance(value, bytes) else value)

    def matrix(x: Any) -> None:
        add((type(x).__name__, getattr(x, "dtype", None), x.shape))
        if hasattr(x, "dask"):
            x = x.compute()
        parts = (x.data, x.indices, x.indptr) if sparse.issparse(x) else (np.asarray(x),)
        for part in parts:
            add(np.ascontiguousarray(part).tobytes())

    def frame(df: pd.DataFrame) -> None:
        kept = df[[c for c in df.columns if not str(c).startswith("_scvi")]]
        add((list(kept.columns), list(map(str, kept.dtypes))))
        add(pd.util.hash_pandas_object(kept, index=True).to_numpy().tobytes())

    matrix(adata.X)
    frame(adata.obs)
    frame(adata.var)
    for name, store in (("layers", adata.layers), ("obsm", adata.obsm), ("varm", adata.varm)):
        for key in sorted(k for k in store if k is not None):
            add((name, key))
            matrix(store[key])
    add(sorted((k, repr(v)) for k, v in adata.uns.items() if not str(k).startswith("_scvi")))
    if adata.raw is not None:
        matrix(adata.raw.X)
    return h.hexdigest()
