"""What a latent space explains of another, and what loadings say of genes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LinearRegression

from episome import settings
from episome.errors import UsageError
from episome.models import load
from episome_datamix.scores import blocks_of, cell_correlations, measured_logs

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from episome.data import CellSource

#: Share of the cells that regressions are fitted on.
TRAIN_SHARE = 0.7
#: Share of a factor that another space explains, below which it is new to it.
NEW_BELOW = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class LatentComparison:
    """How much of each factor of a target model the factors of a reference explain.

    Parameters
    ----------
    factors
        A row per factor of the target: ``explained``, the squared correlation of a linear
        regression on all factors of the reference, in cells that it was not fitted on.
    n_train, n_test
        Cells of both kinds.
    """

    factors: pd.DataFrame
    n_train: int
    n_test: int

    @property
    def explained(self) -> float:
        """Mean over factors."""
        return float(self.factors["explained"].mean())


def compare_latents(
    reference: Any,
    target: Any,
    adata: AnnData | str | Path | CellSource,
    *,
    seed: int | None = None,
    **query: Any,
) -> LatentComparison:
    """Say how much of a target model's latent space a reference model's explains.

    Parameters
    ----------
    reference, target
        Trained models that embed, or their folders; or embeddings of the cells, (n_cells, k).
    adata
        Cells that both embed.
    seed
        Of the split of the cells into 70 % and 30 %; default ``settings.seed``.
    **query
        ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

    Returns
    -------
    A :class:`LatentComparison`; 1 for a model and itself, or its latent space turned.

    Raises
    ------
    UsageError
        There are fewer cells than a regression needs (E-U19), or embeddings of other cells
        (E-U45).
    """
    x, y = (_latent(m, adata, query) for m in (reference, target))
    if len(x) != len(y):
        raise UsageError(
            "E-U45",
            f"embeddings of {len(x):,} and of {len(y):,} cells",
            fix="pass embeddings of the same cells, in the same order",
        )
    rng = np.random.default_rng(settings.stream_seed("latents", seed))
    order = rng.permutation(len(x))
    n_train = int(TRAIN_SHARE * len(x))
    train, test = order[:n_train], order[n_train:]
    if n_train < 2 * (x.shape[1] + 1) or len(test) < 3:
        raise UsageError(
            "E-U19",
            f"{len(x):,} cells are too few to regress on {x.shape[1]} factors",
            count=len(x),
            total=3 * (x.shape[1] + 1),
            fix="pass more cells",
        )
    said = LinearRegression().fit(x[train], y[train]).predict(x[test])
    r = cell_correlations(said.T, y[test].T)["r"].to_numpy()
    # A factor that says nothing of any cell is told by whatever: nothing is new in it.
    explained = np.where(np.isnan(r), 0.0, r) ** 2
    dead = np.ptp(y[test], axis=0) <= 1e-6 * np.abs(y[test]).max(initial=1e-12)
    frame = pd.DataFrame(
        {"explained": np.where(dead, np.nan, explained), "spread": y[test].std(axis=0)},
        index=[f"Z_{i}" for i in range(y.shape[1])],
    )
    return LatentComparison(frame, len(train), len(test))


def _latent(model: Any, adata: Any, query: dict[str, Any]) -> NDArray[np.float64]:
    if isinstance(model, np.ndarray):
        return np.asarray(model, dtype=np.float64)
    found = loaded(model).get_latent_representation(adata, **query)
    return np.asarray(found, dtype=np.float64)


def loaded(model: Any) -> Any:
    """Return a model, from its folder where one is given.

    Parameters
    ----------
    model
        A model, or the path of its folder.
    """
    return load(model) if isinstance(model, str | Path) else model


def compare_loadings(reference: Any, target: Any) -> pd.DataFrame:
    """Match the factors of two models by their loadings on the genes that both have.

    Parameters
    ----------
    reference, target
        Models with ``get_loadings()``, or their folders.

    Returns
    -------
    A row per factor of the target: ``matched`` (factor of the reference, each at most once, so
    that the sum of absolute correlations is largest), ``r`` (Pearson, of the loadings), and
    ``best_r``: the largest absolute correlation with any factor.

    Raises
    ------
    UsageError
        A model has no loadings (E-U12), or they share fewer than three genes (E-U45).
    """
    first, second = (loadings_of(m) for m in (reference, target))
    shared = first.index.intersection(second.index)
    if len(shared) < 3:
        raise UsageError(
            "E-U45", f"the models share {len(shared)} genes", fix="pass models of the same genes"
        )
    x, y = first.loc[shared].to_numpy(float), second.loc[shared].to_numpy(float)
    n = x.shape[1]
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(x.T, y.T)[:n, n:])
    rows, columns = linear_sum_assignment(-np.abs(r))
    matched = dict(zip(columns, rows, strict=True))
    return pd.DataFrame(
        {
            "matched": [
                first.columns[matched[j]] if j in matched else "" for j in range(y.shape[1])
            ],
            "r": [r[matched[j], j] if j in matched else np.nan for j in range(y.shape[1])],
            "best_r": np.abs(r).max(axis=0),
        },
        index=second.columns,
    )


def loadings_of(model: Any) -> pd.DataFrame:
    """Return the loadings of a model, genes x factors.

    Raises
    ------
    UsageError
        It has none (E-U12).
    """
    found = loaded(model)
    if not hasattr(found, "get_loadings"):
        raise UsageError(
            "E-U12", f"{type(found).__name__} has no loadings", fix="use a model such as LDVAE"
        )
    frame: pd.DataFrame = found.get_loadings()
    return frame


def top_loadings(model: Any, k: int = 50) -> pd.DataFrame:
    """List the genes of the largest loadings of every factor, of both signs apart.

    Parameters
    ----------
    model
        A model with loadings, or its folder.
    k
        Genes of every list.

    Returns
    -------
    A row per list and gene, best first: ``group`` (``"Z_0 up"``, ``"Z_0 down"``), ``rank`` (from
    1), ``gene``, ``gene_name`` (symbol where the model knows one), ``score`` (the loading without
    its sign). What ``episome.models.enrichment`` takes, with a GMT file of gene sets.

    Raises
    ------
    UsageError
        The model has no loadings (E-U12), or ``k`` is below one (E-U22).
    """
    if k < 1:
        raise UsageError("E-U22", f"k={k}", fix="pass k of at least 1")
    found = loaded(model)
    loadings = loadings_of(found)
    names = np.array(found.features.symbols, dtype=object)
    parts = []
    for factor in loadings:
        values = loadings[factor].to_numpy(float)
        for sign, word in ((1, "up"), (-1, "down")):
            order = np.argsort(-sign * values, kind="stable")[:k]
            order = order[sign * values[order] > 0]
            parts.append(
                pd.DataFrame(
                    {
                        "group": f"{factor} {word}",
                        "rank": np.arange(1, len(order) + 1),
                        "gene": loadings.index[order],
                        "gene_name": names[order],
                        "score": np.abs(values[order]),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def factor_table(
    reference: Any,
    target: Any,
    adata: AnnData | str | Path | CellSource,
    *,
    seed: int | None = None,
    **query: Any,
) -> pd.DataFrame:
    """Say which factors of a target model are new, and which are of the cells at hand.

    Parameters
    ----------
    reference
        The baseline model, or its folder.
    target
        A model with loadings, or its folder.
    adata
        Cells of the population that is asked about.
    seed
        Of the split of the cells.
    **query
        Of a query.

    Returns
    -------
    A row per factor: ``explained`` by the baseline (:func:`compare_latents`), ``expression_r``:
    correlation of its loadings with the mean log expression of these cells, and ``new``: less than
    half of it is explained, and the correlation differs from zero (p below 0.05 over genes, by
    Fisher's z, corrected for the number of factors).
    """
    found, cells = loaded(target), loaded(reference)
    table = compare_latents(cells, found, adata, seed=seed, **query).factors
    loadings = loadings_of(found)
    prepared = found.prepare(adata, **query)
    total = np.zeros(len(found.features))
    for rows in blocks_of(prepared):
        total += np.asarray(measured_logs(found, prepared, rows).sum(axis=0)).ravel()
    mean = total / max(prepared.source.n_obs, 1)
    r = cell_correlations(
        loadings.to_numpy(float).T, np.broadcast_to(mean, (loadings.shape[1], len(mean)))
    )["r"].to_numpy()
    limit = _smallest_r(len(mean), 0.05 / loadings.shape[1])
    # A factor that says nothing of any cell is not a new axis.
    new = (table["explained"] < NEW_BELOW).to_numpy() & (np.abs(r) > limit)
    return table.assign(expression_r=r, new=new)


def factor_plot(table: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the factors of a target: explained by the baseline against what the cells express.

    Parameters
    ----------
    table
        Of :func:`factor_table`.
    ax
        Where to draw; a new figure otherwise.
    title
        Text above.

    Returns
    -------
    The axes; new factors are filled triangles with their name.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        ax = plt.subplots(figsize=(4.8, 4.2), layout="constrained")[1]
    known, new = table[~table["new"]], table[table["new"]]
    ax.scatter(known["explained"], known["expression_r"], color="#0072b2", label="known")
    ax.scatter(new["explained"], new["expression_r"], color="#d55e00", marker="^", label="new")
    for name, row in new.iterrows():
        ax.annotate(f" {name}", (row["explained"], row["expression_r"]), fontsize=8)
    ax.axvline(NEW_BELOW, color="0.6", linewidth=0.8)
    ax.axhline(0.0, color="0.6", linewidth=0.8)
    ax.set_xlim(-0.05, 1.05)
    ax.set_xlabel("share that the baseline explains")
    ax.set_ylabel("correlation of loadings with mean expression")
    ax.legend(fontsize="small")
    if title:
        ax.set_title(title)
    return ax


def _smallest_r(n: int, alpha: float) -> float:
    """Smallest correlation of n genes that differs from zero, by Fisher's z."""
    if n <= 3:
        return 1.0
    return float(np.tanh(stats.norm.ppf(1 - alpha / 2) / np.sqrt(n - 3)))
