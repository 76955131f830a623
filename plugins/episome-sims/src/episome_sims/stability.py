"""Whether repeated trainings name the same genes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome_sims.model import SIMS


class ExplanationStability(NamedTuple):
    """How far trainings that differ by their seed agree about genes.

    Parameters
    ----------
    genes
        One row per gene, by identifier, best mean rank first: ``gene_name``, ``mean`` of the
        weight (every training divided by its largest), ``dispersion`` (variance of it over its
        mean; NaN where the mean is zero), ``mean_rank`` (from 1, ties shared), ``top_share``: in
        how many of the trainings it is among the ``k`` at the top.
    jaccard
        Overlap over union of the ``k`` genes at the top, for every two trainings, float
        (n_seeds, n_seeds).
    k
        Genes at the top.
    """

    genes: pd.DataFrame
    jaccard: pd.DataFrame
    k: int

    @property
    def mean_jaccard(self) -> float:
        """Mean over all pairs of different trainings."""
        values = self.jaccard.to_numpy()
        return float(values[np.triu_indices(len(values), 1)].mean())


def explanation_stability(
    model: SIMS,
    adata: Any,
    *,
    seeds: int,
    k: int,
    method: str,
    train_kwargs: Mapping[str, Any] | None,
    **query: Any,
) -> ExplanationStability:
    """See ``SIMS.explanation_stability``."""
    if seeds < 2 or k < 1:
        raise UsageError(
            "E-U22",
            f"seeds={seeds}, k={k}",
            why="stability is that of several trainings",
            fix="pass seeds of at least 2 and k of at least 1",
        )
    model.training_source()
    arguments = dict(model.init_params_["non_kwargs"])
    ensemble = type(model).ensemble(model.adata, n_models=seeds, **arguments)
    ensemble.train(**(train_kwargs or {}))
    weights = np.stack([_weights(m, adata, method, query) for m in ensemble.members])
    return compared(weights, model.features.ids, model.features.symbols, k)


def _weights(
    model: SIMS, adata: Any, method: str, query: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Mean size of the attribution of every gene over cells, (n_genes,)."""
    n_cells = model.prepare(adata, **query).source.n_obs
    means = model.explain(adata, groupby=["all"] * n_cells, method=method, **query)
    return np.abs(means.to_numpy(dtype=np.float64)).ravel()


def compared(
    weights: NDArray[np.float64], ids: tuple[str, ...], names: tuple[str, ...], k: int
) -> ExplanationStability:
    """Compare the weights of genes in several trainings.

    Parameters
    ----------
    weights
        Not negative, (n_seeds, n_genes).
    ids, names
        Identifier and symbol of every gene.
    k
        Genes at the top; at most those there are.
    """
    k = min(k, weights.shape[1])
    most = weights.max(axis=1, keepdims=True)
    shares = np.divide(weights, most, out=np.zeros_like(weights), where=most > 0)
    ranks = pd.DataFrame(-shares).rank(axis=1, method="average").to_numpy()
    top = [frozenset(np.argsort(-row, kind="stable")[:k].tolist()) for row in shares]
    mean = shares.mean(axis=0)
    spread = np.divide(shares.var(axis=0), mean, out=np.full_like(mean, np.nan), where=mean > 0)
    table = pd.DataFrame(
        {
            "gene_name": list(names),
            "mean": mean,
            "dispersion": spread,
            "mean_rank": ranks.mean(axis=0),
            "top_share": np.mean([[g in t for g in range(len(ids))] for t in top], axis=0),
        },
        index=pd.Index(list(ids), name="gene"),
    )
    jaccard = np.eye(len(top))
    for i, j in combinations(range(len(top)), 2):
        jaccard[i, j] = jaccard[j, i] = len(top[i] & top[j]) / len(top[i] | top[j])
    return ExplanationStability(
        table.sort_values("mean_rank", kind="stable"), pd.DataFrame(jaccard), k
    )
