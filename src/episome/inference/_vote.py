"""What the clusters of a user say together: the label that most of their cells have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.data import clean_labels
from episome.errors import Problem, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOTE_COLUMNS = ("cluster_label", "cluster_agreement", "cluster_low", "cluster_high")
#: Fewer cells may well be a cluster each.
FEW_CELLS = 20
#: Of a normal distribution, for an interval that holds 95 %.
Z95 = 1.959963984540054


def cluster_votes(
    labels: Sequence[str] | NDArray[Any],
    clusters: pd.Series,
    *,
    classes: Sequence[str],
    unlabeled: str = "unknown",
) -> pd.DataFrame:
    """Return, for every cell, what most cells of its cluster are called.

    Parameters
    ----------
    labels
        Call of every cell, (n_cells,); what is none of ``classes`` is no call.
    clusters
        Cluster of every cell, by position; numbers become text, missing or empty is no cluster.
    classes
        Classes in the model's order, which decides where two have as many cells.
    unlabeled
        The label of a cluster none of whose cells has a call.

    Returns
    -------
    One row per cell, indexed as ``clusters``: ``cluster_label``; ``cluster_agreement``, the share
    of all cells of the cluster that have this label; ``cluster_low`` and ``cluster_high``, the
    ends of its 95 % interval by Wilson's score. Cells without a cluster have an empty label and
    NaN. The interval takes cells for independent, which those of one donor are not.
    """
    codes, n_clusters = _cluster_codes(clusters)
    calls = pd.Index(list(classes)).get_indexer(pd.Index(np.asarray(labels, dtype=object)))
    best, n_best = _winners(codes, calls.astype(np.int64), n_clusters, len(classes))
    n_cells = np.bincount(codes[codes >= 0], minlength=n_clusters)
    low, high = wilson_interval(n_best, n_cells)
    names = np.array([*classes, unlabeled, ""], dtype=object)
    # The last entry is that of cells without a cluster.
    label = names[np.append(np.where(best < 0, len(classes), best), len(classes) + 1)]
    table = {
        "cluster_label": label[codes],
        "cluster_agreement": np.append(n_best / np.maximum(n_cells, 1), np.nan)[codes],
        "cluster_low": np.append(low, np.nan)[codes],
        "cluster_high": np.append(high, np.nan)[codes],
    }
    types = {"cluster_label": "str", **dict.fromkeys(VOTE_COLUMNS[1:], np.float32)}
    return pd.DataFrame(table, index=clusters.index).astype(types)


def warn_unless_clusters(clusters: pd.Series) -> None:
    """Warn of a column that has about as many values as cells: it is no clustering.

    Parameters
    ----------
    clusters
        Cluster of every cell.

    Warns
    -----
    EpisomeWarning
        More than half as many values as cells (E-L39).
    """
    n_values = clusters.nunique()
    if len(clusters) < FEW_CELLS or n_values <= len(clusters) / 2:
        return
    warn(
        Problem(
            "E-L39",
            f"column {clusters.name!r} has about as many values as cells: it is no clustering",
            count=n_values,
            total=len(clusters),
            examples=list(clusters.dropna().unique()[:3]),
            why="the vote of a cluster of one cell is the call of that cell",
            fix="pass the column of clusters as cluster_key (--cluster-key)",
        )
    )


def wilson_interval(
    hits: NDArray[np.int64], total: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % interval of a share, by Wilson's score.

    Parameters
    ----------
    hits, total
        How many of how many, (n,); ``total`` at least 1 where the ends are to mean anything.
    """
    n = np.maximum(total, 1).astype(np.float64)
    share = hits / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def _cluster_codes(clusters: pd.Series) -> tuple[NDArray[np.int64], int]:
    """Return the number of every cell's cluster, -1 for none, and how many there are."""
    # Twenty million cells have few clusters: each text is made once.
    coded, levels = pd.factorize(clusters)
    text = clean_labels(pd.Series(levels, name=clusters.name), unlabeled_category="")
    names, of_level = np.unique(text.astype(str), return_inverse=True)
    numbers = np.where(names == "", -1, np.arange(len(names)) - int("" in names))
    # Missing values have the code -1, which is the last entry.
    found: NDArray[np.int64] = np.append(numbers[of_level.ravel()], -1)[coded]
    return found, int((names != "").sum())


def _winners(
    codes: NDArray[np.int64], calls: NDArray[np.int64], n_clusters: int, n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the commonest call of every cluster, -1 where there is none, and its cells."""
    voting = (codes >= 0) & (calls >= 0)
    pairs, n_cells = np.unique(codes[voting] * n_classes + calls[voting], return_counts=True)
    cluster, call = pairs // n_classes, pairs % n_classes
    order = np.lexsort((call, -n_cells, cluster))
    first = order[np.unique(cluster[order], return_index=True)[1]]
    best = np.full(n_clusters, -1, dtype=np.int64)
    n_best = np.zeros(n_clusters, dtype=np.int64)
    best[cluster[first]], n_best[cluster[first]] = call[first], n_cells[first]
    return best, n_best
