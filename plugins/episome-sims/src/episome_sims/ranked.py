"""The best labels of every cell, with the probabilities of the full softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.models import as_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from episome.data import Query
    from episome.inference import Predictor


def ranked_labels(
    predictor: Predictor,
    query: Query,
    k: int,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """See ``SIMS.ranked``."""
    labels, rows = predictor.require_labels(), as_rows(indices)
    best, shares = [np.empty((0, k), dtype=np.int64)], [np.empty((0, k), dtype=np.float32)]
    empty = [np.empty(0, dtype=bool)]
    for out in predictor.stream(query, rows=rows, batch_size=batch_size):
        # Only the wanted columns of a batch stay: a million cells of many types are no memory.
        order = np.argsort(-out["probabilities"], axis=1, kind="stable")[:, :k]
        best.append(order)
        shares.append(np.take_along_axis(out["probabilities"], order, axis=1))
        empty.append(out["empty"])
    places, probabilities = np.concatenate(best), np.concatenate(shares).astype(np.float32)
    names = np.array(labels.names, dtype=object)[places]
    blank = np.concatenate(empty)
    names[blank], probabilities[blank] = labels.unlabeled, np.nan
    columns: dict[str, object] = {}
    for i in range(k):
        columns[f"label_{i + 1}"] = names[:, i]
        columns[f"probability_{i + 1}"] = probabilities[:, i]
    cells = query.source.obs_names
    return pd.DataFrame(columns, index=cells if rows is None else cells[rows])
