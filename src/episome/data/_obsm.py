"""Arrays of `obsm` as cells and features: vectors of another model, whoever made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._alignment import Alignment, AlignmentReport
from episome.data._source import AnnDataSource, CellSource, cells_name, obs_column
from episome.errors import GeneMatchError, InputDataError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data._features import FeatureSpace
    from episome.data._matrix import Rows


#: Rows that are looked at at a time.
BLOCK = 16_384


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
        self._adata, self._key, self._name = adata, key, name or cells_name(adata)
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
        frame = isinstance(found, pd.DataFrame)
        self._values = found.to_numpy() if frame else found
        self._names = [str(c) for c in found.columns] if frame else None
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
        names = range(self.n_vars) if self._names is None else self._names
        return pd.DataFrame(index=[f"{self._key}:{i}" for i in names])

    @property
    def is_named(self) -> bool:
        """Whether its dimensions have names: it is a frame."""
        return self._names is not None

    @property
    def key(self) -> str:
        """Key of ``adata.obsm``."""
        return self._key

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
    """Return the alignment of an embedding: by the names of a frame's columns, else by place.

    Raises
    ------
    GeneMatchError
        The number of dimensions or their names are others (E-G22).
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
    columns, how = np.arange(len(features), dtype=np.int64), "place"
    if source.is_named and not _by_place(features):
        columns, how = _by_name(source, features), "name"
    report = AlignmentReport(
        source.where, len(features), source.n_vars, len(features), 0, 0, how, 0, ()
    )
    return Alignment(columns, len(features), report)


def _by_place(features: FeatureSpace) -> bool:
    """Whether the model was trained on an array, whose dimensions have no names."""
    return [name.rpartition(":")[2] for name in features.ids] == [
        str(i) for i in range(len(features))
    ]


def _by_name(source: ObsmSource, features: FeatureSpace) -> NDArray[np.int64]:
    theirs = [name.removeprefix(f"{source.key}:") for name in source.var.index]
    ours = {name.removeprefix(f"{source.key}:"): i for i, name in enumerate(features.ids)}
    columns = np.array([ours.get(name, -1) for name in theirs], dtype=np.int64)
    if (columns < 0).any() or len(set(theirs)) < len(theirs):
        unknown = [n for n, c in zip(theirs, columns, strict=True) if c < 0]
        raise GeneMatchError(
            "E-G22",
            "the dimensions of the embedding have other names than those of the model",
            where=source.where,
            count=len(unknown) or len(theirs) - len(set(theirs)),
            total=len(theirs),
            examples=unknown[:3] or theirs[:3],
            why="vectors of another model, or of another fit, mean something else",
            fix="embed these cells with the model that made the vectors of the reference",
        )
    return columns


def require_finite(source: CellSource) -> None:
    """Refuse vectors with NaN or infinite values.

    Raises
    ------
    InputDataError
        E-D01 or E-D03, with the cells that have them.
    """
    bad: list[int] = []
    n_nan = n_infinite = 0
    for start in range(0, source.n_obs, BLOCK):
        block = source.read(slice(start, min(start + BLOCK, source.n_obs))).tocoo()
        wrong = ~np.isfinite(block.data)
        n_nan += int(np.isnan(block.data).sum())
        n_infinite += int(np.isinf(block.data).sum())
        bad += sorted(set((block.row[wrong] + start).tolist()))
    if bad:
        raise InputDataError(
            "E-D01" if n_nan else "E-D03",
            "vectors with NaN or infinite values",
            where=source.where,
            count=len(bad),
            total=source.n_obs,
            examples=[str(source.obs_names[i]) for i in bad[:3]],
            why=f"{n_nan:,} values are NaN and {n_infinite:,} infinite, and a model would train "
            "or predict on them without a word",
            fix="drop these cells, or embed them again",
        )
