"""What a model says about held-out cells once genes or counts are taken from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from episome.confidence import (
    DEPTHS,
    REMOVED,
    CalibrationMap,
    ShiftGrid,
    logits_of,
    shift_point,
)
from episome.data import SIZE_FACTOR_KEY, ReducedCells

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from episome.data import GeneImportance, Query
    from episome.inference import Predictor
    from episome.train import CellDataModule

#: Cells that are looked at for every share of the genes, and draws of genes, in all folds.
#: Accuracy differs by 0.2 and more between draws, so there are many draws of two cells.
N_CELLS, N_DRAWS = 960, 480
#: Every how many draws the cells are also looked at with fewer counts.
THINNED_DRAWS = 4


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedCells:
    """Raw outputs for held-out cells that lack something.

    ``removed`` is the share of the weight of the genes that they lack, ``level`` the one that was
    aimed at, ``depth`` the share of the counts that they kept, ``library`` the median of their
    counts at full depth.
    """

    level: float
    removed: float
    depth: float
    rows: NDArray[np.int64]
    logits: NDArray[np.floating]
    library: float | None = None


def shifted_cells(
    predictor: Predictor,
    cells: Query | CellDataModule,
    rows: NDArray[np.int64],
    importance: GeneImportance | None,
    *,
    n_cells: int,
    n_draws: int,
    seed: int,
) -> Iterator[ShiftedCells]:
    """Yield what a model says about cells with less and less in them.

    Genes are drawn at random until they carry the wanted share of the weight, or are that share of
    the genes where nobody knows their weight. Counts are thinned; values that are no counts are
    not.

    Parameters
    ----------
    predictor
        Of a model that did not see the cells, without its calibration.
    cells
        What the rows are rows of.
    rows
        Held-out cells.
    importance
        Weight of every gene for the calls of this model.
    n_cells, n_draws
        Cells that are looked at for every share of the genes, and draws of genes among them.
    seed
        Of genes, cells and counts.
    """
    rng = np.random.default_rng(seed)
    weight = _weight_of_genes(importance, len(predictor.features))
    counted = cells.rule.input_kind == "counts" and cells.kind.normalise and not cells.kind.unlog
    base = ReducedCells(cells.source, cells.alignment, cells.rule, cells.kind)
    for level in REMOVED:
        # Which genes are missing matters more than which cells: some draws cost far more.
        times = n_draws if level > 0 else 1
        each = min(max(n_cells // times, 1), len(rows))
        lost = np.stack([_drawn(weight, level, rng) for _ in range(times)])
        chosen = np.concatenate([rng.choice(rows, each, replace=False) for _ in range(times)])
        draws = np.repeat(np.arange(times), each)
        found = base.sampled(chosen, draws, lost)
        for depth in DEPTHS if counted else DEPTHS[:1]:
            every = 1 if depth == 1.0 else THINNED_DRAWS
            some = np.flatnonzero(draws % every == 0)
            reduced = found if depth == 1.0 else found.thinned(depth, seed=seed)
            logits = np.concatenate([logits_of(o) for o in predictor.stream(reduced, rows=some)])
            removed = float((lost @ weight)[draws[some]].mean())
            library = _library(found) if depth == 1.0 else None
            yield ShiftedCells(level, removed, depth, chosen[some], logits, library)


def _library(cells: ReducedCells) -> float | None:
    """Median counts of cells in the genes that are left; ``None`` of values that are no counts."""
    sizes = [b[SIZE_FACTOR_KEY] for b in cells.loader() if SIZE_FACTOR_KEY in b]
    return float(np.median(np.concatenate(sizes))) if sizes else None


def _weight_of_genes(importance: GeneImportance | None, n_genes: int) -> NDArray[np.floating]:
    """Share of the weight of every gene, mean over classes; all alike where nobody knows."""
    if importance is None or not importance.weights.any():
        return np.full(n_genes, 1.0 / n_genes)
    known = importance.weights[importance.weights.any(axis=1)]
    shares: NDArray[np.floating] = known.mean(axis=0, dtype=np.float64)
    return shares


def _drawn(
    weight: NDArray[np.floating], level: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Genes that carry a share of the weight, bool (n_genes,)."""
    order = rng.permutation(len(weight))
    gone = np.zeros(len(weight), dtype=bool)
    gone[order[np.cumsum(weight[order]) <= level]] = level > 0
    return gone


def shift_grid(
    found: Iterable[ShiftedCells], map_: CalibrationMap, codes: NDArray[np.int64]
) -> ShiftGrid | None:
    """Put what all folds said together; ``None`` where nothing was measured."""
    points: dict[tuple[float, float], list[ShiftedCells]] = {}
    for part in found:
        points.setdefault((part.level, part.depth), []).append(part)
    if not points:
        return None
    grid = []
    for (_, depth), parts in points.items():
        rows = np.concatenate([p.rows for p in parts])
        logits = np.concatenate([p.logits for p in parts])
        sizes = [len(p.rows) for p in parts]
        removed = float(np.average([p.removed for p in parts], weights=sizes))
        shares = map_.probabilities(logits)
        counted = [p.library for p in parts if p.library is not None]
        library = float(np.average(counted, weights=sizes)) if len(counted) == len(parts) else None
        point = shift_point(shares, codes[rows], removed=removed, depth=depth, library=library)
        grid.append(point)
    return ShiftGrid(tuple(grid))
