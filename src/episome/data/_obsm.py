"""Arrays of `obsm` as cells and features: vectors of another model, whoever made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._alignment import Alignment, AlignmentReport
from episome.data._source import AnnDataSource, obs_column
from episome.errors import GeneMatchError, InputDataError

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data._features import FeatureSpace
    from episome.data._matrix import Rows


class ObsmSource:
    """One array of ``obsm``; a :class:`CellSource` whose features are its dimensions.

    Parameters
    ----------
    adata
        The object; never written to. An ``AnnDataSource`` stands for the object that it reads.
    key
        Key of ``adata.obsm``: an array or a frame of shape (n_cells, n_dimensions), dense or
        sparse.
    name
        How messages name the object.

    Raises
    ------
    InputDataError
        There is no such key, or it is no matrix of numbers (E-D47).
    """

    def __init__(
        self, adata: AnnData | AnnDataSource, key: str, *, name: str | None = None
    ) -> None:
        if isinstance(adata, AnnDataSource):
            name, adata = name or adata.name, adata.adata
        self._adata, self._key, self._name = adata, key, name or "adata"
        if key not in adata.obsm:
            keys = [str(k) for k in adata.obsm]
            raise InputDataError(
                "E-D47",
                f"obsm has no {key!r}",
                where=self._name,
                why=f"it has {', '.join(keys[:10])}" if keys else "obsm is empty",
                fix="compute the embedding first, with the model that made it for the reference",
            )
        found = adata.obsm[key]
        self._values = found.to_numpy() if isinstance(found, pd.DataFrame) else found
        numbers = np.dtype(getattr(self._values, "dtype", object)).kind in "fiu"
        if getattr(self._values, "ndim", 0) != 2 or not numbers:
            raise InputDataError(
                "E-D47",
                f"obsm[{key!r}] is no matrix of numbers",
                where=self._name,
                fix="store an array of one row per cell",
            )

    @property
    def n_obs(self) -> int:
        return int(self._adata.n_obs)

    @property
    def n_vars(self) -> int:
        return int(self._values.shape[1])

    @property
    def obs_names(self) -> pd.Index:
        return self._adata.obs_names

    @property
    def var(self) -> pd.DataFrame:
        return pd.DataFrame(index=[f"{self._key}:{i}" for i in range(self.n_vars)])

    @property
    def where(self) -> str:
        return f"{self._name}.obsm[{self._key!r}]"

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of ``adata.obs``; E-U04 when it is missing."""
        return obs_column(self._adata, key, name=self._name)

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the vectors of ``rows`` as CSR float32, in the order asked for."""
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return sparse.csr_matrix(self._values[chosen], dtype=np.float32)


def align_dimensions(source: ObsmSource, features: FeatureSpace) -> Alignment:
    """Return the alignment of an embedding, whose dimensions have no names but their place.

    Raises
    ------
    GeneMatchError
        The number of dimensions is another one (E-G22).
    """
    if source.n_vars != len(features):
        raise GeneMatchError(
            "E-G22",
            f"the embedding has {source.n_vars:,} dimensions, the model was trained on "
            f"{len(features):,}",
            where=source.where,
            why="vectors of another model, or of another fit, mean something else",
            fix="embed these cells with the model that made the vectors of the reference",
        )
    report = AlignmentReport(
        source.where, len(features), source.n_vars, len(features), 0, 0, "place", 0, ()
    )
    return Alignment(np.arange(len(features), dtype=np.int64), len(features), report)
