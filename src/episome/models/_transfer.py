"""Labels read off an embedding that was learned without them: nearest cells, or a linear probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from episome.data import clean_labels, require_choice
from episome.errors import LabelError, UsageError
from episome.metrics import knn_probabilities

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource
    from episome.models._embedding import EmbeddingMixin

#: Votes of the nearest cells, and a logistic regression on standardised dimensions.
METHODS = ("neighbors", "probe")


class LabelTransfer:
    """Labels of reference cells, handed on to cells near them in an embedding.

    The embedding stays as it is. The same for every model that embeds, so that embeddings can be
    compared; nothing is learned of the query.

    Parameters
    ----------
    space
        Embedding of the reference, (n, d).
    labels
        Label of every reference cell, (n,), none missing.
    method
        ``"neighbors"``: votes of the ``k`` nearest reference cells; ``"probe"``: logistic
        regression on dimensions that are standardised by the reference.
    k
        Votes per cell. As reference and query are different cells, none is left out.
    weights
        ``"uniform"`` votes, ties by distance; or ``"distance"``: votes count by their inverse
        distance.
    metric
        Distance between cells.

    Raises
    ------
    UsageError
        Another word (E-U30), or ``k`` below one or above n (E-U22).
    LabelError
        A probe of one label (E-L03).
    """

    def __init__(
        self,
        space: NDArray[np.floating],
        labels: NDArray[np.str_],
        *,
        method: Literal["neighbors", "probe"] = "neighbors",
        k: int = 5,
        weights: Literal["uniform", "distance"] = "uniform",
        metric: Literal["euclidean", "cosine"] = "euclidean",
    ) -> None:
        require_choice("method", method, METHODS)
        require_choice("weights", weights, ("uniform", "distance"))
        require_choice("metric", metric, ("euclidean", "cosine"))
        if not 1 <= k <= len(labels):
            raise UsageError(
                "E-U22",
                f"k={k} of {len(labels):,} reference cells",
                fix="pass k of at least 1, and no more than there are cells",
            )
        names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        self.classes: tuple[str, ...] = tuple(names.tolist())
        reference = np.asarray(space, dtype=np.float32)
        self._shares: Callable[[NDArray[np.float32]], NDArray[np.floating]]
        if method == "neighbors":

            def votes(query: NDArray[np.float32]) -> NDArray[np.floating]:
                return knn_probabilities(
                    reference,
                    codes,
                    query,
                    n_classes=len(names),
                    n_neighbors=k,
                    weights=weights,
                    metric=metric,
                    ties="distance" if weights == "uniform" else "code",
                )

            self._shares = votes
        else:
            self._shares = _probe(reference, codes)

    def shares(self, space: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the share of every class for embedded cells, (n, n_classes)."""
        return self._shares(np.asarray(space, dtype=np.float32))

    def calls(self, space: NDArray[np.floating], names: pd.Index) -> pd.DataFrame:
        """Return ``label`` and ``confidence``, its share, of embedded cells.

        Parameters
        ----------
        space
            Embedding, (n, d).
        names
            Of the cells.
        """
        found = self.shares(space)
        best = found.argmax(axis=1)
        classes = np.array(self.classes, dtype=object)
        sure = found[np.arange(len(found)), best].astype(np.float32)
        return pd.DataFrame({"label": classes[best], "confidence": sure}, index=names)


def _probe(
    reference: NDArray[np.float32], codes: NDArray[np.int64]
) -> Callable[[NDArray[np.float32]], NDArray[np.floating]]:
    from sklearn.linear_model import LogisticRegression as LinearProbe
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(codes)) < 2:
        raise LabelError(
            "E-L03",
            "the reference has one label only",
            where="reference",
            why="there is nothing to tell apart",
            fix="pass cells of two types at least",
        )
    scaler = StandardScaler().fit(reference)
    model = LinearProbe(max_iter=1000).fit(scaler.transform(reference), codes)

    def shares(query: NDArray[np.float32]) -> NDArray[np.floating]:
        if not len(query):
            return np.empty((0, len(model.classes_)))
        found: NDArray[np.floating] = model.predict_proba(scaler.transform(query))
        return found

    return shares


def label_transfer(
    model: EmbeddingMixin,
    reference: AnnData | str | Path | CellSource,
    labels_key: str,
    *,
    unlabeled_category: str = "unknown",
    query_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> LabelTransfer:
    """Embed labelled cells and return what hands their labels on.

    Parameters
    ----------
    model
        Any model that embeds.
    reference
        Labelled cells; those without a label take no part.
    labels_key
        Column of their labels.
    unlabeled_category
        Label of cells without one.
    query_kwargs
        How the values of the reference are read: ``layer``, ``use_raw``, ``input_kind`` ...
    **options
        Of :class:`LabelTransfer`.

    Raises
    ------
    UsageError
        There is no such column (E-U04).
    LabelError
        No cell has a label (E-L03).
    """
    cells = model.prepare(reference, **(query_kwargs or {}))
    column = cells.source.obs_column(labels_key)
    values = clean_labels(column, unlabeled_category=unlabeled_category, unlabeled="keep")
    names = np.array(values, dtype=np.str_)
    known = np.flatnonzero(names != unlabeled_category)
    if not len(known):
        raise LabelError(
            "E-L03",
            "no cell of the reference has a label",
            where=f"{cells.source.where}, column {labels_key!r}",
            total=len(names),
            fix="name another column with labels_key=",
        )
    space = model.predictor().collect(cells, ["latent"], rows=known)["latent"]
    return LabelTransfer(space, names[known], **options)
