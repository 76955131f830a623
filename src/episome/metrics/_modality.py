"""Scores of a predicted modality against the measured one, on one scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from episome.errors import UsageError
from episome.metrics._correlation import PairSums, correlated, ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

Matrix: TypeAlias = "NDArray[np.floating] | sparse.spmatrix | sparse.sparray"

#: A feature is predictable where its correlation is at least this with 95 % confidence.
PREDICTABLE = 0.3
#: With fewer measured cells nothing is said about a feature.
FEW_CELLS = 10
#: A feature (or cell) on which no model reaches this correlation is difficult.
DIFFICULT = 0.9
#: Entries that are dense at a time.
ENTRIES = 1 << 20
#: Entries up to which all are ranked together; of more, about as many are drawn.
RANKED = 1 << 24
#: Half of a 95 % interval, in standard errors.
WIDTH = 1.959963984540054


class ModalityScores:
    """Scores that need one look at every cell, added up over blocks of cells.

    Memory does not grow with the cells. Ranks of a feature over cells need all of them at once, so
    that Spearman by feature, and of all entries, is of :func:`modality_scores` alone.

    Parameters
    ----------
    n_features
        Number of features.

    Examples
    --------
    >>> scores = ModalityScores(2)
    >>> scores.add(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]]))
    >>> scores.add(np.array([[1.0, 3.0]]), np.array([[2.0, 2.0]]))
    >>> round(scores.scores["mse_features"], 2)
    0.5
    """

    def __init__(self, n_features: int) -> None:
        self.features = PairSums((n_features,))
        self.nonzero = np.zeros(n_features)
        self._all = PairSums(())
        self._cells: dict[str, list[float]] = {k: [0.0, 0] for k in _OF_CELLS}
        self._n = dict.fromkeys(("n_cells", *_COUNTED), 0)
        self._counts = True

    def add(self, predicted: Matrix, measured: Matrix) -> None:
        """Add cells.

        Parameters
        ----------
        predicted, measured
            (n_cells, n_features), dense or sparse, on one scale. NaN in what was measured stands
            for "not measured", and an entry without a finite prediction has none.

        Raises
        ------
        UsageError
            The shapes are not those (E-U41), or something infinite was measured (E-U44).
        """
        _require_shapes(predicted, measured, self.features.shape[0])
        for rows in _parts(predicted.shape[0], predicted.shape[1]):
            self._add(_dense(predicted, rows), _dense(measured, rows))

    def _add(self, said: NDArray[np.float64], true: NDArray[np.float64]) -> None:
        where = _scored(said, true)
        self._n["n_cells"] += len(said)
        self._n["n_not_measured"] += int(np.isnan(true).sum())
        self._n["n_not_predicted"] += int((~np.isfinite(said)).sum())
        said, true = np.where(where, said, 0.0), np.where(where, true, 0.0)
        self._counts = self._counts and not (true < 0).any()
        self.nonzero += (true != 0).sum(axis=0)
        self.features.add(said, true, where)
        self._all.add(said.ravel(), true.ravel(), where.ravel())
        found, constant = _of_cells(said, true, where)
        self._n["n_constant_cells"] += int(constant.sum())
        for name, values in found.items():
            self._cells[name][0] += float(np.nansum(values))
            self._cells[name][1] += int(np.isfinite(values).sum())

    @property
    def holds_counts(self) -> bool:
        """Whether nothing negative was measured, so that zero means "not there"."""
        return self._counts

    @property
    def scores(self) -> dict[str, float]:
        """The scores.

        ``pearson_features``, ``mse_features``: mean over features of what is computed over cells;
        ``pearson_cells``, ``spearman_cells``, ``mse_cells``: mean over cells of what is computed
        over features; ``pearson_flat``, ``mse_flat``: of all entries at once. ``n_cells`` and
        ``n_features`` say how many there are, ``n_constant_cells`` and ``n_constant_features`` in
        how many of them what was measured never varies. Their correlation is undefined, and the
        means are over the others; where only the prediction never varies the correlation is 0.
        ``n_not_measured`` and ``n_not_predicted`` entries are left out of everything.
        """
        constant = self.features.constant
        return {
            "pearson_features": _mean(self.features.pearson),
            "mse_features": _mean(self.features.mse),
            **{k: s / n if n else float("nan") for k, (s, n) in self._cells.items()},
            "pearson_flat": float(self._all.pearson),
            "mse_flat": float(self._all.mse),
            "n_features": float(len(constant)),
            "n_constant_features": float(constant.sum()),
            **{k: float(v) for k, v in self._n.items()},
        }


def modality_scores(predicted: Matrix, measured: Matrix) -> dict[str, float]:
    """Score a predicted modality, by cell, by feature and over all entries.

    The three ways answer three questions and may order models differently. Over the features of a
    cell, and over all entries, the differences between the means of features count, so that the
    mean of every feature alone scores high; over the cells of a feature it scores 0.

    Parameters
    ----------
    predicted, measured
        (n_cells, n_features), dense or sparse, on one scale. NaN in what was measured stands for
        "not measured", and an entry without a finite prediction has none; both are left out.

    Returns
    -------
    ``pearson_*``, ``spearman_*`` and ``mse_*``, each with ``features``, ``cells`` and ``flat``,
    and the counts of :attr:`ModalityScores.scores`; ``auroc``: how well the prediction tells the
    cells where a feature is there at all, mean over the features that are zero in some cells (NaN
    where something negative was measured). ``spearman_flat`` of more than 16.8 million entries is
    that of about as many drawn ones, always the same.

    Raises
    ------
    UsageError
        The shapes differ (E-U41), there is nothing to score (E-U43), or something infinite was
        measured (E-U44).

    Examples
    --------
    >>> measured = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 5.0]])
    >>> scores = modality_scores(measured * 2, measured)
    >>> round(scores["pearson_features"], 3), round(scores["spearman_flat"], 3)
    (1.0, 1.0)
    """
    found, by_feature = _scores(predicted, measured)
    of_ranks = {
        "spearman_features": _mean(by_feature["spearman"]),
        "spearman_flat": _flat_ranks(predicted, measured),
        "auroc": _mean(by_feature["auroc"]),
    }
    return {**found.scores, **of_ranks}


def feature_scores(
    predicted: Matrix, measured: Matrix, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Score every feature over the cells.

    Parameters
    ----------
    predicted, measured
        As of :func:`modality_scores`.
    names
        Of the features; default their numbers.

    Returns
    -------
    A row per feature: ``n_cells`` (measured and predicted), ``mean``, ``sd`` (of n - 1) and
    ``share_nonzero`` of what was measured; ``pearson`` with its 95 % interval by Fisher's z,
    ``pearson_low`` and ``pearson_high``; ``spearman``, ``r2`` (around the mean of these cells),
    ``mse``, ``auroc``; and ``status``:

    - ``"too few cells"``: fewer than 10;
    - ``"constant"``: what was measured never varies, and correlations are NaN;
    - ``"predictable"``: ``pearson_low`` is 0.3 or more;
    - ``"weak"``: it is above 0;
    - ``"not predictable"``: the interval reaches 0 or below. So it is where the prediction is one
      value for all cells, which counts as a correlation of 0.

    Raises
    ------
    UsageError
        As of :func:`modality_scores`; names that are not as many as features (E-U41).
    """
    found, by_feature = _scores(predicted, measured)
    sums = found.features
    if names is not None and len(names) != len(sums.n):
        raise UsageError(
            "E-U41", f"{len(names):,} names for {len(sums.n):,} features", fix="pass one of each"
        )
    r, n = sums.pearson, sums.n
    low, high = fisher_interval(r, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        table = pd.DataFrame(
            {
                "n_cells": n.astype(np.int64),
                "mean": np.where(n > 0, sums.mean[1], np.nan),
                "sd": np.where(n > 1, np.sqrt(sums.square[1] / (n - 1)), np.nan),
                "share_nonzero": found.nonzero / n,
                "pearson": r,
                "pearson_low": low,
                "pearson_high": high,
                "spearman": by_feature["spearman"],
                "r2": np.where(sums.constant, np.nan, 1 - sums.error / sums.square[1]),
                "mse": sums.mse,
                "auroc": by_feature["auroc"],
            },
            index=None if names is None else pd.Index(names, dtype=object),
        )
    kinds = [n < FEW_CELLS, sums.constant, low >= PREDICTABLE, low > 0]
    words = ["too few cells", "constant", "predictable", "weak"]
    table["status"] = np.select(kinds, words, "not predictable")
    return table


def cell_scores(predicted: Matrix, measured: Matrix) -> pd.DataFrame:
    """Score every cell over the features.

    Parameters
    ----------
    predicted, measured
        As of :func:`modality_scores`.

    Returns
    -------
    A row per cell: ``n_features`` (measured and predicted), ``pearson``, ``spearman``, ``mse``.
    Correlations are NaN in cells where what was measured never varies, and 0 where only the
    prediction does not.

    Raises
    ------
    UsageError
        As of :func:`modality_scores`.
    """
    _require_shapes(predicted, measured)
    parts = []
    for rows in _parts(*predicted.shape):
        said, true = _dense(predicted, rows), _dense(measured, rows)
        where = _scored(said, true)
        said, true = np.where(where, said, 0.0), np.where(where, true, 0.0)
        found, _ = _of_cells(said, true, where)
        named = {k.removesuffix("_cells"): v for k, v in found.items()}
        parts.append(pd.DataFrame({"n_features": where.sum(axis=1), **named}))
    return pd.concat(parts, ignore_index=True)


def difficult_features(
    tables: Mapping[str, pd.DataFrame] | Sequence[pd.DataFrame], *, below: float = DIFFICULT
) -> pd.Index:
    """Return the features, or cells, on which every model of a comparison does badly.

    Those that all models predict well say little about which is better.

    Parameters
    ----------
    tables
        Of :func:`feature_scores` or :func:`cell_scores`, one per model, of the same features or
        cells.
    below
        Correlation that no model reaches.

    Returns
    -------
    Their names, in the order of the first table; those without a correlation are not among them.

    Raises
    ------
    UsageError
        There is no table (E-U43), or the rows are not the same (E-U45).
    """
    listed = list(tables.values()) if isinstance(tables, Mapping) else list(tables)
    if not listed:
        raise UsageError(
            "E-U43", "there are no tables", fix="pass one of feature_scores per model"
        )
    first = listed[0].index
    for table in listed[1:]:
        if len(table) != len(first) or not first.isin(table.index).all():
            raise UsageError(
                "E-U45",
                f"tables of {len(first):,} and {len(table):,} rows, which are not the same",
                fix="score every model on the same features, and name them",
            )
    r = np.stack([t["pearson"].reindex(first).to_numpy(dtype=np.float64) for t in listed])
    with np.errstate(invalid="ignore"):
        return first[(r < below).all(axis=0)]


def fisher_interval(
    r: NDArray[np.float64], n: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95 % interval of correlations by Fisher's z; -1 to 1 of three pairs or fewer.

    Parameters
    ----------
    r, n
        Correlations, and the pairs they are of.
    """
    few = n <= 3
    half = WIDTH / np.sqrt(np.where(few, 1.0, n - 3))
    with np.errstate(divide="ignore"):
        z = np.arctanh(r)
    low, high = np.where(few, -1.0, np.tanh(z - half)), np.where(few, 1.0, np.tanh(z + half))
    return np.where(np.isnan(r), np.nan, low), np.where(np.isnan(r), np.nan, high)


# --- parts ------------------------------------------------------------------------------------

_OF_CELLS = ("pearson_cells", "spearman_cells", "mse_cells")
_COUNTED = ("n_constant_cells", "n_not_measured", "n_not_predicted")


def _of_cells(
    said: NDArray[np.float64], true: NDArray[np.float64], where: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Scores of every cell, and whether what was measured in it never varies."""
    plain = correlated(said, true, where)
    ordered = correlated(ranks(said, where), ranks(true, where), where)
    return dict(zip(_OF_CELLS, (plain.pearson, ordered.pearson, plain.mse), strict=True)), (
        plain.constant
    )


def _scores(
    predicted: Matrix, measured: Matrix
) -> tuple[ModalityScores, dict[str, NDArray[np.float64]]]:
    """Return what one look at the cells says, and ranks by feature."""
    _require_shapes(predicted, measured)
    found = ModalityScores(predicted.shape[1])
    found.add(_by_row(predicted), _by_row(measured))
    parts: dict[str, list[NDArray[np.float64]]] = {"spearman": [], "auroc": []}
    said_by, true_by = _by_column(predicted), _by_column(measured)
    for columns in _parts(predicted.shape[1], predicted.shape[0]):
        said, true = _dense(said_by, columns, axis=1), _dense(true_by, columns, axis=1)
        where = _scored(said, true).T
        said, true = np.where(where, said.T, 0.0), np.where(where, true.T, 0.0)
        of_said = ranks(said, where)
        parts["spearman"].append(correlated(of_said, ranks(true, where), where).pearson)
        there = _areas(of_said, true > 0, where)
        parts["auroc"].append(there if found.holds_counts else np.full(len(there), np.nan))
    return found, {k: np.concatenate(v) if v else np.empty(0) for k, v in parts.items()}


def _areas(
    order: NDArray[np.float64], there: NDArray[np.bool_], where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Area under the ROC curve of every row, from ranks; NaN where all entries are of one kind."""
    n = where.sum(axis=1).astype(np.float64)
    positive = (there & where).sum(axis=1).astype(np.float64)
    above = np.where(there & where, order, 0.0).sum(axis=1) - positive * (positive + 1) / 2
    of = positive * (n - positive)
    found: NDArray[np.float64] = np.full(len(of), np.nan)
    np.divide(above, of, out=found, where=of > 0)
    return found


def _flat_ranks(predicted: Matrix, measured: Matrix) -> float:
    """Spearman of all entries, or of many drawn ones."""
    n, width = predicted.shape
    total = n * width
    chosen = None
    if total > RANKED:
        chosen = np.unique(np.random.default_rng(0).integers(total, size=RANKED))
    said_by, true_by = _by_row(predicted), _by_row(measured)
    parts = []
    for rows in _parts(n, width):
        pair = np.stack([_dense(said_by, rows).ravel(), _dense(true_by, rows).ravel()])
        if chosen is not None:
            first, last = np.searchsorted(chosen, (rows.start * width, rows.stop * width))
            pair = pair[:, chosen[first:last] - rows.start * width]
        parts.append(pair[:, _scored(pair[0], pair[1])])
    of_said, of_true = (ranks(v, np.True_) for v in np.concatenate(parts, axis=1))
    sums = PairSums(())
    for some in _parts(len(of_said), 1):
        sums.add(of_said[some], of_true[some], np.ones(some.stop - some.start, dtype=bool))
    return float(sums.pearson)


def _scored(said: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Entries that were measured and predicted."""
    if np.isinf(true).any():
        raise UsageError(
            "E-U44",
            "infinite values were measured",
            fix="leave them out, or pass NaN for what was not measured",
        )
    found: NDArray[np.bool_] = np.isfinite(said) & ~np.isnan(true)
    return found


def _require_shapes(predicted: Matrix, measured: Matrix, width: int | None = None) -> None:
    """Refuse matrices of other shapes, and nothing at all."""
    shapes = tuple(predicted.shape), tuple(measured.shape)
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or width not in (None, shapes[0][1]):
        expected = "" if width is None else f", and {width:,} features are expected"
        raise UsageError(
            "E-U41",
            f"predicted is {shapes[0]} and measured {shapes[1]}{expected}",
            fix="pass the same cells and the same features of both",
        )
    if width is None and 0 in shapes[0]:
        raise UsageError("E-U43", "there is nothing to score", fix="pass a cell and a feature")


def _parts(n: int, width: int) -> Iterator[slice]:
    """Slices of rows that are dense at a time."""
    step = max(1, ENTRIES // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _dense(values: Matrix, part: slice, axis: int = 0) -> NDArray[np.float64]:
    found: Any = values[part] if axis == 0 else values[:, part]
    dense = found.toarray() if sparse.issparse(found) else found
    return np.asarray(dense, dtype=np.float64)


def _by_row(values: Any) -> Matrix:
    return values.tocsr() if sparse.issparse(values) else values


def _by_column(values: Any) -> Matrix:
    return values.tocsc() if sparse.issparse(values) else values


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
