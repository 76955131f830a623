"""Whether an explanation is faithful: how far the call falls without its genes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from episome import settings
from episome.data import clean_labels, definite_donors, existing_columns, require_choice
from episome.errors import UsageError
from episome.inference import as_csr
from episome.metrics import Interval, bootstrap_mean
from episome.models._arguments import as_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import Alignment, CellSource, Labels, Query
    from episome.inference import Attribution, Predictor
    from episome.models._capabilities import SupportsExplanation

__all__ = ["DeletionTest", "deletion_test"]

#: Probabilities closer to 0 or 1 are taken as so far from it: their log-odds are beyond float32.
NEAREST = 1e-6
#: Parts of the expressed genes of a cell, by value, within which genes are matched.
N_PARTS = 10
BATCH_SIZE = 512


@dataclass(frozen=True, slots=True, eq=False)
class DeletionTest:
    """What :func:`deletion_test` found.

    Parameters
    ----------
    cells
        One row per cell that took part, indexed by its name: ``row`` (in the query), ``donor``
        (missing where it is not known), ``class`` (that was called), ``n_removed`` (genes),
        ``before``, ``after_explained``, ``after_random`` (calibrated probability of the class;
        mean over draws), ``fall_explained``, ``fall_random``, ``difference`` (of the falls), the
        same of the log-odds (``log_odds_fall_explained``, ``log_odds_fall_random``,
        ``log_odds_difference``), ``value_explained``, ``value_random`` (mean normalised log1p
        value of what was removed).
    probability, log_odds
        Mean of the differences, with its interval. Above zero: the call falls by more without the
        explained genes than without random ones.
    units
        What was drawn for the intervals, ``"donors"`` or ``"cells"``.
    kind
        Of the attributions, ``"native"`` or ``"gradient"``.
    k, n_random, control
        Genes that were removed at most, random draws, and what was drawn from.
    left_out
        Cells that took no part, by reason.
    """

    cells: pd.DataFrame
    probability: Interval
    log_odds: Interval
    units: Literal["donors", "cells"]
    kind: str
    k: int
    n_random: int
    control: Literal["expressed", "matched"]
    left_out: dict[str, int]

    @property
    def verdict(self) -> Literal["faithful", "not shown", "contrary"]:
        """``"faithful"`` where the interval of the probability lies above 0, else what it is."""
        if self.probability.low > 0:
            return "faithful"
        return "contrary" if self.probability.high < 0 else "not shown"

    @property
    def by_class(self) -> pd.DataFrame:
        """Means over the cells of every class, with their number ``n_cells``; index ``class``."""
        columns = ["before", "fall_explained", "fall_random", "difference", "log_odds_difference"]
        grouped = self.cells.groupby("class", sort=True)
        means = grouped[columns].mean()
        means.insert(0, "n_cells", grouped.size())
        return means

    def __str__(self) -> str:
        p, genes = self.cells, self.control
        return (
            f"{self.verdict}: without up to {self.k} explained genes the probability falls by "
            f"{p['fall_explained'].mean():.3f}, without as many random {genes} ones by "
            f"{p['fall_random'].mean():.3f}; difference {self.probability} over "
            f"{self.probability.n_units} {self.units}, log-odds {self.log_odds}; "
            f"{len(p)} cells, {sum(self.left_out.values())} left out ({self.kind})"
        )


def deletion_test(
    model: SupportsExplanation,
    adata: AnnData | str | Path | CellSource | None = None,
    *,
    k: int = 20,
    n_random: int = 5,
    control: Literal["expressed", "matched"] = "expressed",
    method: Literal["auto", "native", "gradient"] = "auto",
    against: str | None = None,
    labels_key: str | None = None,
    donor_key: str | Sequence[str] | None = None,
    library: Literal["kept", "rest"] = "kept",
    indices: Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int | None = None,
    **query: Any,
) -> DeletionTest:
    """Test whether the genes that explain calls carry them.

    The `k` genes that count most for the call of a cell get no counts, and as a control as many
    genes that are drawn from all that the cell expresses. The explanation is faithful where the
    calibrated probability of the call falls by more without the explained genes.

    Parameters
    ----------
    model
        A trained annotator, or an ensemble, that explains its calls.
    adata
        Query, as for ``predict``; ``None`` takes the training cells. Not modified.
    k
        Genes to remove from every cell. Genes that a cell does not express, or that speak against
        its call, are never removed, so fewer may be; the control always loses as many.
    n_random
        Draws of the control.
    control
        ``"expressed"``: any expressed genes of the cell, explained ones too. ``"matched"``: genes
        of about the same value, each from the tenth of the expressed genes that the removed one
        is in, and explained ones only where that has no others. Genes of higher values are
        easier to miss, and this takes it into account.
    method, against
        Of ``explain``.
    labels_key
        Column of ``obs`` with the true types. Then only cells that are called rightly take part:
        the explanation of another call is of another class.
    donor_key
        Column or columns of ``obs`` that name the donor, over whom the intervals are then made.
        Default the column that the model was set up with, where the query has it and it names two
        donors at least; else the intervals are over cells, and too narrow for other donors.
    library
        ``"kept"``: the size of a cell, by which counts are normalised, stays, so that nothing
        changes but the removed genes. ``"rest"``: it is that of the counts that are left, as if
        the genes had never been counted. Values after log1p have no size, and stay in both.
    indices, batch_size
        Rows, and cells at a time. Every cell is read once.
    n_draws, level
        Of the bootstrap intervals.
    seed
        Of the random genes and the intervals; default ``episome.settings.seed``. Results do not
        depend on ``batch_size``.
    **query
        ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

    Raises
    ------
    UsageError
        ``k``, ``n_random`` or ``n_draws`` below one (E-U22), a word that is none (E-U30), no such
        column (E-U04), no attributions (E-U12, E-U13), classes that are none (E-U86, E-U87), fewer
        than two cells to test (E-U89), or two donors of a given column (E-U43).
    """
    for name, value in (("k", k), ("n_random", n_random), ("n_draws", n_draws)):
        if value < 1:
            raise UsageError("E-U22", f"{name}={value}", fix=f"pass {name} of at least 1")
    require_choice("control", control, ("expressed", "matched"))
    require_choice("library", library, ("kept", "rest"))
    how, asked = _attribution_of(model, method, against), cast("Any", model)
    prepared: Query = asked.prepare(adata, **query)
    labels: Labels = asked.labels
    rows = as_rows(indices)
    rows = np.arange(prepared.source.n_obs) if rows is None else rows
    truth = _truth(prepared, labels_key, rows, labels)
    donors = _donors(model, prepared, donor_key, rows)
    rngs = _generators(n_random, seed)
    removal = _Removal(asked.predictor(), how, k, control, library, rngs)
    parts, start, left_out = [], 0, dict.fromkeys(_REASONS, 0)
    for batch in prepared.loader(rows, batch_size=batch_size):
        n = batch["X"].shape[0]
        found = removal.of(batch, prepared.alignment)
        found["place"] = np.arange(start, start + n)
        _count_out(found, None if truth is None else truth[start : start + n], left_out)
        parts.append(found[found["why"] == ""].drop(columns="why"))
        start += n
    cells = _finished(parts, rows, donors, prepared, labels)
    if len(cells) < 2:
        raise UsageError(
            "E-U89",
            f"{len(cells)} of {len(rows)} cells can be tested",
            why=", ".join(f"{n} {why}" for why, n in left_out.items() if n) or "there is no cell",
            fix="more cells, another method, or a model that was trained longer",
        )
    groups = cells["donor"].to_numpy(dtype=object) if _over_donors(cells, donor_key) else None
    intervals = [
        bootstrap_mean(cells[c], groups=groups, n_draws=n_draws, level=level, seed=seed)
        for c in ("difference", "log_odds_difference")
    ]
    units: Literal["donors", "cells"] = "cells" if groups is None else "donors"
    facts = (units, how.kind, k, n_random, control, left_out)
    return DeletionTest(cells, intervals[0], intervals[1], *facts)


_REASONS = (
    "with none of the model's genes",
    "not called rightly, or without a label",
    "in which no gene speaks for the call",
)


def _attribution_of(model: object, method: str, against: str | None) -> Attribution:
    explaining: Any = getattr(model, "_attribution", None)
    if explaining is None:
        raise UsageError(
            "E-U12",
            f"{type(model).__name__} gives no attributions",
            where="deletion_test()",
            fix="use an annotator with the capability explanation",
        )
    if getattr(model, "labels", None) is None:
        raise UsageError(
            "E-U13",
            f"{type(model).__name__} does not annotate cells",
            where="deletion_test()",
            fix="use an annotator",
        )
    found: Attribution = explaining(method, None, against)
    return found


def _generators(n: int, seed: int | None) -> list[np.random.Generator]:
    """Return a generator for every draw: what a cell loses depends on no batch."""
    children = np.random.SeedSequence(settings.stream_seed("deletion", seed)).spawn(n)
    return [np.random.default_rng(s) for s in children]


@dataclass(frozen=True, slots=True)
class _Block:
    """A batch that was read already, as the ``Predictor`` reads batches."""

    batch: dict[str, Any]
    alignment: Alignment

    def loader(
        self, rows: NDArray[np.int64] | None, /, *, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Give it once more."""
        return iter([dict(self.batch)])


@dataclass(slots=True)
class _Removal:
    predictor: Predictor
    how: Attribution
    k: int
    control: Literal["expressed", "matched"]
    library: Literal["kept", "rest"]
    rngs: list[np.random.Generator]

    def of(self, batch: dict[str, Any], alignment: Alignment) -> pd.DataFrame:
        """Return what every cell of a batch loses; ``why`` says which take no part."""
        block = _Block(batch, alignment)
        width = len(self.predictor.features)
        (ready,) = self.predictor.batches(block)
        with torch.no_grad():
            scores = as_csr(self.how.run(ready), width)
        # A dense batch is overwritten by the next one.
        values = as_csr(ready["X"], width).copy()
        values.sum_duplicates()
        if not self.how.holds_values:
            scores = sparse.csr_matrix(scores.multiply(values))
        # Only genes that the cell expresses can be taken from it.
        scores = sparse.csr_matrix(scores.multiply(values.astype(bool)))
        scores.data[scores.data < 0] = 0
        scores.eliminate_zeros()
        row = _rows_of(scores)
        explained = _best(scores, row, scores.data, np.full(scores.shape[0], self.k))
        n_removed = np.diff(explained.indptr)
        part, n_drawn, least = self._drawn_from(values, explained)
        (out,) = self.predictor.stream(block)
        # The call that is explained is the core's own, which calibration may turn over.
        called = out["raw_probabilities"].argmax(axis=1)
        at = (np.arange(len(called)), called)
        before = out["probabilities"][at].astype(np.float64)
        after = self._after(block, explained)[at].astype(np.float64)
        random, drawn = np.zeros((2, len(called))), np.zeros(len(called))
        for rng in self.rngs:
            chosen = _best(values, part, rng.random(values.nnz) - least, n_drawn)
            left = self._after(block, chosen)[at].astype(np.float64)
            random += np.stack([left, log_odds(left)]) / len(self.rngs)
            drawn += _row_means(values, chosen) / len(self.rngs)
        empty = np.asarray(out["empty"], dtype=bool)
        return pd.DataFrame(
            {
                "why": np.where(empty, _REASONS[0], np.where(n_removed == 0, _REASONS[2], "")),
                "code": called,
                "n_removed": n_removed,
                "before": before,
                "after_explained": after,
                "after_random": random[0],
                "fall_explained": before - after,
                "fall_random": before - random[0],
                "difference": random[0] - after,
                "log_odds_fall_explained": log_odds(before) - log_odds(after),
                "log_odds_fall_random": log_odds(before) - random[1],
                "log_odds_difference": random[1] - log_odds(after),
                "value_explained": _row_means(values, explained),
                "value_random": drawn,
            }
        )

    def _drawn_from(
        self, values: sparse.csr_matrix, explained: sparse.csr_matrix
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the part of every entry, genes to draw from every part, and 1 for the last."""
        row = _rows_of(values)
        if self.control == "expressed":
            return row, np.diff(explained.indptr), np.zeros(values.nnz, dtype=np.int64)
        held = sparse.csr_matrix(values.astype(bool).astype(np.int64) + explained)
        removed = held.data - 1
        place = _place_in(row, np.lexsort((values.data, row)))
        part = row * N_PARTS + place * N_PARTS // np.diff(values.indptr)[row]
        n_parts = values.shape[0] * N_PARTS
        return part, np.bincount(part[removed > 0], minlength=n_parts), removed

    def _after(self, block: _Block, removed: sparse.csr_matrix) -> NDArray[np.floating]:
        """Return the probabilities of cells without some of their genes."""
        batch = block.batch
        if self.library == "rest" and "size_factor" in batch:
            lost = np.asarray(batch["X"].multiply(removed).sum(axis=1), dtype=np.float64).ravel()
            batch = {**batch, "size_factor": batch["size_factor"] - lost}
        (out,) = self.predictor.stream(_Block(batch, block.alignment), hidden=removed)
        found: NDArray[np.floating] = out["probabilities"]
        return found


def log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)), at most that of :data:`NEAREST`."""
    p = np.clip(probability, NEAREST, 1 - NEAREST)
    found: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return found


def _rows_of(table: sparse.csr_matrix) -> NDArray[np.int64]:
    """Return the row of every entry."""
    return np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))


def _place_in(part: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of entries within their part, given an order that sorts by parts."""
    sorted_parts = part[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(sorted_parts, sorted_parts)
    return place


def _best(
    table: sparse.csr_matrix,
    part: NDArray[np.int64],
    keys: NDArray[np.floating],
    n: NDArray[np.int64],
) -> sparse.csr_matrix:
    """Return which entries have the largest keys of their part, ``n`` of each, boolean CSR."""
    kept = np.flatnonzero(_place_in(part, np.lexsort((-keys, part))) < n[part])
    ones = np.ones(len(kept), dtype=bool)
    where = (_rows_of(table)[kept], table.indices[kept])
    return sparse.csr_matrix((ones, where), shape=table.shape)


def _row_means(values: sparse.csr_matrix, chosen: sparse.csr_matrix) -> NDArray[np.float64]:
    sums = np.asarray(values.multiply(chosen).sum(axis=1), dtype=np.float64).ravel()
    means: NDArray[np.float64] = sums / np.maximum(np.diff(chosen.indptr), 1)
    return means


def _truth(
    prepared: Query, labels_key: str | None, rows: NDArray[np.int64], labels: Labels
) -> NDArray[np.int64] | None:
    """Return the code of the true type of every cell, -1 for none of the classes."""
    if labels_key is None:
        return None
    column = prepared.source.obs_column(labels_key).iloc[rows]
    codes = labels.codes(clean_labels(column, unlabeled="keep"))
    return np.where(codes == len(labels), -1, codes)


def _count_out(
    found: pd.DataFrame, truth: NDArray[np.int64] | None, left_out: dict[str, int]
) -> None:
    """Say why cells take no part, and count them; the first reason counts."""
    if truth is not None:
        wrong = (found["why"] != _REASONS[0]) & (found["code"].to_numpy() != truth)
        found.loc[wrong, "why"] = _REASONS[1]
    for why in _REASONS:
        left_out[why] += int((found["why"] == why).sum())


def _donors(
    model: Any,
    prepared: Query,
    donor_key: str | Sequence[str] | None,
    rows: NDArray[np.int64],
) -> NDArray[np.object_]:
    """Return the donor of every cell, ``None`` where it is not known."""
    keys = donor_key
    if keys is None:
        first = getattr(model, "members", (model,))[0]
        keys = first.setup_args.get("donor_key") or []
    keys = [keys] if isinstance(keys, str) else list(keys)
    if donor_key is None and len(existing_columns(prepared.source, keys)) < len(keys):
        keys = []
    found = np.full(len(rows), None, dtype=object)
    for i, key in enumerate(keys):
        part = definite_donors(prepared.source.obs_column(key).iloc[rows])
        found = part if i == 0 else _joined(found, part)
    return found


def _joined(first: NDArray[np.object_], second: NDArray[np.object_]) -> NDArray[np.object_]:
    both = [
        None if a is None or b is None else f"{a}_{b}" for a, b in zip(first, second, strict=True)
    ]
    return np.array(both, dtype=object)


def _over_donors(cells: pd.DataFrame, donor_key: str | Sequence[str] | None) -> bool:
    return donor_key is not None or cells["donor"].nunique() > 1


def _finished(
    parts: list[pd.DataFrame],
    rows: NDArray[np.int64],
    donors: NDArray[np.object_],
    prepared: Query,
    labels: Labels,
) -> pd.DataFrame:
    """Name the cells of all batches, their rows, donors and classes."""
    if not parts:
        return pd.DataFrame()
    cells = pd.concat(parts, ignore_index=True)
    place = cells.pop("place").to_numpy()
    names = np.array(labels.names, dtype=object)
    cells.insert(0, "row", rows[place])
    cells.insert(1, "donor", donors[place])
    cells.insert(2, "class", names[cells.pop("code").to_numpy()])
    return cells.set_axis(pd.Index(prepared.source.obs_names[rows[place]]), axis=0)
