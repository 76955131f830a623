"""How well cells are reconstructed, cell by cell and gene by gene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data import log_counts, variable_genes
from episome.errors import UsageError
from episome.metrics import cell_scores
from episome.models import normalized_rows
from episome_datamix.scale import SIZE

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, Query
    from episome.models import EpisomeModel

_BLOCK = 1024
#: Spread, by the size of the values, below which they are all one value.
_SAME = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """How well a model reconstructs cells.

    Parameters
    ----------
    cells
        A row per cell: ``r2`` and ``r`` (Pearson), ``rank_r`` (of ranks), NaN where the cell or
        its reconstruction does not vary over the genes.
    genes
        Identifiers of the genes that were compared: those that the model gives a value for.
    n_missing
        Genes of the model that the cells lack, which count as zero.
    seed
        Of the draws; ``None`` where nothing was drawn.
    """

    cells: pd.DataFrame
    genes: tuple[str, ...]
    n_missing: int
    seed: int | None = None

    @property
    def r2(self) -> float:
        """Mean over the cells that have one."""
        return mean_of(self.cells["r2"])

    @property
    def r(self) -> float:
        """Mean Pearson correlation."""
        return mean_of(self.cells["r"])

    @property
    def rank_r(self) -> float:
        """Mean correlation of ranks."""
        return mean_of(self.cells["rank_r"])

    @property
    def n_constant(self) -> int:
        """Cells without a score, as they or their reconstruction do not vary."""
        return int(self.cells["r2"].isna().sum())


def mean_of(values: pd.Series) -> float:
    """Return the mean of what is there; NaN of nothing.

    Parameters
    ----------
    values
        Numbers and NaN.
    """
    kept = values.dropna()
    return float(kept.mean()) if len(kept) else float("nan")


def cell_correlations(
    expected: NDArray[np.floating], measured: NDArray[np.floating]
) -> pd.DataFrame:
    """Return how every cell's reconstruction goes with the cell, over genes.

    Parameters
    ----------
    expected, measured
        (n_cells, n_genes).

    Returns
    -------
    A row per cell: ``r2`` and ``r`` (Pearson), ``rank_r``: that of ranks, on which models of ranks
    can be scored (Spearman; equal values share theirs). NaN where one side does not vary.

    Examples
    --------
    >>> cell_correlations(np.array([[1.0, 2.0, 4.0]]), np.array([[3.0, 5.0, 9.0]]))["r"].item()
    1.0
    """
    found = cell_scores(expected, measured)
    # The host's score of a constant prediction is 0: it says nothing. Here it is counted apart.
    said = np.asarray(expected, dtype=np.float64)
    low, high = said.min(axis=1, initial=np.inf), said.max(axis=1, initial=-np.inf)
    constant = ~(high - low > _SAME * np.maximum(np.abs(low), np.abs(high)))
    r, rank_r = (found[name].mask(constant) for name in ("pearson", "spearman"))
    return pd.DataFrame({"r2": r**2, "r": r, "rank_r": rank_r})


def reconstruction_r2(
    model: EpisomeModel | Any,
    adata: AnnData | str | Path | CellSource,
    *,
    n_top_genes: int | None = 1000,
    genes: tuple[str, ...] | None = None,
    n_samples: int = 0,
    seed: int | None = None,
    **query: Any,
) -> Reconstruction:
    """Score the reconstruction of cells by any model with that capability.

    Cells are aligned to the model's genes; those that they lack are zero. Both sides are on log1p
    of 10,000 molecules a cell over the model's genes, and compared on the genes that vary most in
    these cells. ``r2`` is the squared correlation, as in the study: whatever scale and offset a
    cell's reconstruction has does not matter, and a negative correlation counts as a positive one,
    which is why ``r`` stands beside it.

    Parameters
    ----------
    model
        A trained model that reconstructs.
    adata
        Counts of cells, or log1p values where the model reads those.
    n_top_genes
        How many variable genes, by scanpy's default on these cells; ``None``: all genes of the
        model.
    genes
        Identifiers of the genes to compare on, instead.
    n_samples, seed
        Draws of the posterior and their seed, of models that have them; 0 draws nothing.
    **query
        ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

    Returns
    -------
    A :class:`Reconstruction`.

    Raises
    ------
    UsageError
        The model reconstructs nothing (E-U12), there are fewer than two genes to compare (E-U22),
        or genes are unknown (E-U61).
    """
    require_reconstruction(model)
    if n_top_genes is not None and (isinstance(n_top_genes, bool) or n_top_genes < 2):
        raise UsageError("E-U22", f"n_top_genes={n_top_genes!r}", fix="pass 2 or more, or None")
    prepared = model.prepare(adata, **query)
    at = chosen_genes(model, prepared, n_top_genes, genes)
    draws = {"n_samples": n_samples, "seed": seed} if n_samples else {}
    parts, told = [], None
    for rows in blocks_of(prepared):
        measured = measured_logs(model, prepared, rows)[:, at].toarray()
        expected = np.log1p(expected_values(model, adata, rows, at, **draws, **query))
        if told is None:
            # A model gives a value for a gene in all cells, or in none.
            told = np.isfinite(expected).all(axis=0)
        measured, expected = measured[:, told], expected[:, told]
        found = cell_correlations(expected, measured)
        parts.append(found.set_index(prepared.source.obs_names[rows]))
    nothing = pd.DataFrame({"r2": [], "r": [], "rank_r": []}, dtype=float)
    at = at if told is None else at[told]
    return Reconstruction(
        pd.concat(parts) if parts else nothing,
        tuple(np.array(model.features.ids, dtype=object)[at]),
        len(model.features) - int(prepared.alignment.report.n_matched),
        seed if n_samples else None,
    )


def residuals(
    model: EpisomeModel | Any,
    adata: AnnData | str | Path | CellSource,
    *,
    by: str | None = None,
    **query: Any,
) -> pd.DataFrame:
    """Return what a model misses of every gene, on 10,000 molecules a cell.

    Parameters
    ----------
    model
        A trained model that reconstructs.
    adata
        Counts of cells.
    by
        Column of ``obs`` whose groups are told apart.
    **query
        ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

    Returns
    -------
    A row per gene (and group): ``measured`` and ``expected`` (means over cells), ``residual``
    (their difference) and ``relative`` (over what was measured; NaN where that is nothing), the
    largest ``relative`` of genes with at least one molecule in 10,000 first.

    Raises
    ------
    UsageError
        The model reconstructs nothing (E-U12), or there is no such column (E-U04).
    """
    require_reconstruction(model)
    prepared = model.prepare(adata, **query)
    groups = np.full(prepared.source.n_obs, "")
    if by is not None:
        groups = prepared.source.obs_column(by).astype(str).to_numpy()
    names = sorted(set(groups.tolist()))
    codes = np.searchsorted(names, groups)
    sums = np.zeros((2, len(names), len(model.features)))
    genes = np.arange(len(model.features))
    for rows in blocks_of(prepared):
        measured = measured_logs(model, prepared, rows)
        measured.data = np.expm1(measured.data)
        expected = expected_values(model, adata, rows, genes, **query)
        of_group = sparse.csr_matrix(
            (np.ones(len(rows)), (codes[rows], np.arange(len(rows)))),
            shape=(len(names), len(rows)),
        )
        sums[0] += (of_group @ measured).toarray()
        sums[1] += of_group @ expected
    counts = np.bincount(codes, minlength=len(names))
    frames = []
    for i, name in enumerate(names):
        true, said = sums[:, i] / max(counts[i], 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(true > 0, (true - said) / true, np.nan)
        frame = pd.DataFrame(
            {"measured": true, "expected": said, "residual": true - said, "relative": relative},
            index=pd.Index(list(model.features.ids), name="gene"),
        )
        order = np.lexsort((-np.nan_to_num(relative, nan=-np.inf), true < 1))
        frames.append(frame.iloc[order].assign(**({} if by is None else {by: name})))
    return pd.concat(frames)


def require_reconstruction(model: Any) -> None:
    """Refuse a model that says nothing about expression.

    Raises
    ------
    UsageError
        E-U12.
    """
    if not hasattr(model, "get_normalized_expression"):
        raise UsageError(
            "E-U12",
            f"{type(model).__name__} reconstructs no expression",
            fix="use a model with the capability reconstruction",
        )


def blocks_of(query: Query) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of a query, some at a time.

    Parameters
    ----------
    query
        Of ``model.prepare``.
    """
    for start in range(0, query.source.n_obs, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, query.source.n_obs))


def measured_logs(model: Any, query: Query, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return log1p of 10,000 molecules a cell over the model's genes.

    Parameters
    ----------
    model
        Whose genes they are.
    query
        Of ``model.prepare``.
    rows
        Of the query.
    """
    # Whatever the model's input is scaled to, shares of the cell are the same.
    return log_counts(normalized_rows(query, rows).expm1()).astype(np.float64)


def expected_values(
    model: Any, adata: Any, rows: NDArray[np.int64], genes: NDArray[np.int64], **more: Any
) -> NDArray[np.float64]:
    """Return what a model expects, of 10,000 molecules a cell, float64 (n_rows, n_genes).

    Parameters
    ----------
    model
        That reconstructs.
    adata
        The cells.
    rows, genes
        Which of them.
    **more
        Of ``get_normalized_expression``.
    """
    found = model.get_normalized_expression(
        adata, indices=rows, library_size=SIZE, return_numpy=True, **more
    )
    return np.asarray(found, dtype=np.float64)[:, genes]


def chosen_genes(
    model: Any, query: Query, n_top_genes: int | None, genes: tuple[str, ...] | None
) -> NDArray[np.int64]:
    """Return the positions of the genes that are compared, int64, ascending.

    Parameters
    ----------
    model
        Whose genes they are.
    query
        The cells in which they vary.
    n_top_genes, genes
        Of :func:`reconstruction_r2`.
    """
    if genes is not None:
        return np.sort(model.features.places(list(genes), where="genes"))
    if n_top_genes is None or n_top_genes >= len(model.features):
        return np.arange(len(model.features))
    logs = sparse.vstack([measured_logs(model, query, rows) for rows in blocks_of(query)])
    return variable_genes(logs.astype(np.float32).tocsr(), n_top_genes)
