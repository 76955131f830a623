"""How much the calls of a trained model rest on every gene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from episome.data import GeneImportance
from episome.inference._attribution import attribution, gives_attributions
from episome.inference._outputs import as_csr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.inference._cores import BatchSource
    from episome.inference._predictor import Predictor

#: Cells that the table is made from, evenly from all classes.
N_CELLS = 2000
BATCH_SIZE = 256


def gene_importance(
    predictor: Predictor,
    cells: BatchSource,
    codes: NDArray[np.int64],
    rows: NDArray[np.int64],
    *,
    seed: int,
) -> GeneImportance | None:
    """Return the share of the weight of every class that every gene carries.

    The weight of a gene for a class is its mean absolute attribution over training cells of the
    class; attributions that do not hold the value of the gene, as masks, are multiplied by it.

    Parameters
    ----------
    predictor
        Of the trained model.
    cells
        Training cells.
    codes
        Class of every cell, -1 for none, int64 (n_cells,).
    rows
        Cells that the model was trained on.
    seed
        Of the choice of at most 2,000 of them.

    Returns
    -------
    The table; ``None`` for a core that attributes its calls to no gene.
    """
    if not gives_attributions(predictor.core):
        return None
    labels, how = predictor.require_labels(), attribution(predictor.core)
    rows = _evenly(codes, rows[codes[rows] >= 0], len(labels), seed)
    totals = np.zeros((len(labels), len(predictor.features)))
    start = 0
    for batch in predictor.batches(cells, rows=rows, batch_size=BATCH_SIZE):
        block = abs(how.run(batch))
        if not how.holds_values:
            block = block.multiply(as_csr(batch["X"], totals.shape[1]))
        members = codes[rows[start : start + block.shape[0]]]
        start += block.shape[0]
        ones = np.ones(len(members))
        of_class = sparse.csr_matrix(
            (ones, (members, np.arange(len(members)))), shape=(len(labels), len(members))
        )
        sums = sparse.coo_matrix(of_class @ block)
        totals[sums.row, sums.col] += sums.data
    return GeneImportance.of(totals, labels.names)


def mean_importance(tables: Sequence[GeneImportance | None]) -> GeneImportance | None:
    """Return the table of an ensemble; ``None`` where a member has none."""
    known = [t for t in tables if t is not None]
    if not known or len(known) < len(tables):
        return None
    if len(known) == 1:
        return known[0]
    total = np.stack([t.weights for t in known]).sum(axis=0, dtype=np.float64)
    return GeneImportance.of(total, known[0].classes)


def _evenly(
    codes: NDArray[np.int64], rows: NDArray[np.int64], n_classes: int, seed: int
) -> NDArray[np.int64]:
    """Choose at most :data:`N_CELLS` rows, as many of every class as there are; sorted."""
    each = max(N_CELLS // n_classes, 1)
    shuffled = np.random.default_rng(seed).permutation(rows)
    order = np.argsort(codes[shuffled], kind="stable")
    chosen, of_class = shuffled[order], codes[shuffled][order]
    first = np.searchsorted(of_class, of_class, side="left")
    return np.sort(chosen[np.arange(len(chosen)) - first < each])
