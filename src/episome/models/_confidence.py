"""Where a model's calibration cells come from, and what is fitted on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from episome.confidence import (
    MAX_CELLS,
    CalibrationSource,
    Confidence,
    TypeSpace,
    as_logits,
    fit_confidence,
)
from episome.data import variable_genes
from episome.log import get_logger
from episome.models._shift import ShiftedCells, shift_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

logger = get_logger(__name__)

#: Fewer calibration cells say nothing.
MIN_CELLS = 20
#: Fewer leave an expected calibration error of some percent that no map can remove.
FEW_CELLS = 200
#: Cells from which on some are kept for calibration alone; fewer share those that validate.
MIN_OWN_PART = 200
OWN_SHARE = 0.1
#: Cells up to which every one is predicted by a fit without it; beyond, one part is.
MAX_FOLDED = 5000
N_GENES = 2000
#: Cells whose values are looked at together.
BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What a model says about cells that it was not trained on.

    Parameters
    ----------
    rows
        Row numbers, int64 (n,), in increasing order.
    logits
        Of the core, never calibrated, float32 (n, n_classes).
    source
        How they were held out.
    votes
        The core gives probabilities and no logits.
    distances
        To the nearest type in a space that was fitted without the cell, float32 (n,); ``None``
        where the cells are none of those that the model's own space is made of.
    shifted
        What it says about some of them with genes or counts taken away.
    """

    rows: NDArray[np.int64]
    logits: NDArray[np.floating]
    source: CalibrationSource
    votes: bool = False
    distances: NDArray[np.floating] | None = None
    shifted: tuple[ShiftedCells, ...] = ()


def default_share(n_labelled: int) -> float:
    """Share of the labelled cells that is kept for calibration alone."""
    return OWN_SHARE if n_labelled * OWN_SHARE >= MIN_OWN_PART else 0.0


def confidence_of(
    held: HeldOut | None,
    codes: NDArray[np.int64],
    donors: NDArray[np.object_] | None,
    *,
    space: TypeSpace | None,
    values: Callable[[NDArray[np.int64]], sparse.csr_matrix],
    seed: int,
    name: str,
    chose_epoch: bool = True,
) -> Confidence:
    """Fit the confidence of a model; without enough cells it has none, and says so.

    Parameters
    ----------
    held
        What the model says about held-out cells.
    codes, donors
        Of all cells.
    space
        Where the types lie.
    values
        Normalised values of rows.
    seed
        Of folds and draws.
    name
        How the log calls the model.
    chose_epoch
        Whether validation cells chose the epoch; a training may end before it has any to choose.
    """
    if held is None or len(held.rows) < MIN_CELLS:
        n = 0 if held is None else len(held.rows)
        logger.info(
            "%s is not calibrated: %d cells were held out, at least %d are needed; its "
            "confidence is what it says itself",
            name,
            n,
            MIN_CELLS,
        )
        return Confidence()
    found = fit_confidence(
        held.logits,
        codes[held.rows],
        source=held.source,
        space=space,
        distances=_distances(held, space, values),
        donors=None if donors is None else donors[held.rows],
        votes=held.votes,
        seed=seed,
    )
    found = replace(found, shift=shift_grid(held.shifted, found.map, codes))
    shared = "; they also chose the epoch" if held.source == "validation" and chose_epoch else ""
    after, before = found.facts["after"], found.facts["before"]
    logger.info(
        # The map is chosen by the second; of few cells the first is rough.
        "%s is calibrated on %d cells (%s%s): expected calibration error %.3f, before %.3f; "
        "log loss %.3f, before %.3f",
        name,
        len(held.rows),
        held.source,
        shared,
        after["ece"],
        before["ece"],
        after["nll"],
        before["nll"],
    )
    if len(held.rows) < FEW_CELLS:
        logger.info(
            "%d calibration cells are few: confidence, label sets and novelty of %s are rough; "
            "%d and more labelled cells, or calibration_size=, make them firm",
            len(held.rows),
            name,
            int(MIN_OWN_PART / OWN_SHARE),
        )
    return found


def _distances(
    held: HeldOut,
    space: TypeSpace | None,
    values: Callable[[NDArray[np.int64]], sparse.csr_matrix],
) -> NDArray[np.floating] | None:
    if space is None or held.distances is not None:
        return None if space is None else held.distances
    # In blocks: a tenth of a large corpus does not fit into memory.
    starts = range(0, len(held.rows), BLOCK)
    return np.concatenate([space.distances(values(held.rows[i : i + BLOCK])) for i in starts])


def type_space(values: sparse.csr_matrix, codes: NDArray[np.int64], *, seed: int) -> TypeSpace:
    """Fit where the types lie, on the variable genes of at most 20,000 training cells.

    Parameters
    ----------
    values, codes
        Of training cells, CSR (n_cells, n_genes) and int64 (n_cells,).
    seed
        Of the decomposition.
    """
    if len(codes) > MAX_CELLS:
        rows = np.random.default_rng(seed).choice(len(codes), MAX_CELLS, replace=False)
        values, codes = values[np.sort(rows)], codes[np.sort(rows)]
    return TypeSpace.fit(values, codes, variable_genes(values, N_GENES), seed=seed)


def mean_held_out(parts: list[HeldOut | None]) -> HeldOut | None:
    """Return what an ensemble says about the cells that all members held out."""
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    rows = known[0].rows
    for part in known[1:]:
        rows = np.intersect1d(rows, part.rows)
    shares = [softmax(p.logits[np.isin(p.rows, rows)], axis=1) for p in known]
    first = known[0]
    far = None if first.distances is None else first.distances[np.isin(first.rows, rows)]
    return HeldOut(rows, as_logits(np.mean(shares, axis=0)), first.source, distances=far)
