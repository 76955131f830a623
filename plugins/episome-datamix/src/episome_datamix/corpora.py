"""What corpora hold, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from episome_datamix.mixing import gene_space
from episome_datamix.pools import NO_TYPE, Pool, pool_of
from episome_datamix.scale import mean_of_source

if TYPE_CHECKING:
    from episome_datamix.plan import Plan


def corpus_statistics(plan: Plan, base: str | Path = ".") -> pd.DataFrame:
    """Say what the corpora and evaluation sets of a plan hold, of the cells that may be drawn.

    Parameters
    ----------
    plan
        The plan.
    base
        Folder that paths are relative to.

    Returns
    -------
    A row per corpus, then per evaluation set: ``kind``, ``n_cells``; ``left_out`` (cells, by
    why); ``n_donors``, ``n_types`` (NaN where the plan names no column), ``type_entropy`` (bits: 0
    of one type, log2 of their number of types of one size); ``median_counts`` and
    ``median_genes`` of a cell; ``n_genes`` (of the source), ``n_expressed`` (with a mean above 1
    in 10,000 molecules of a cell, as in the paper), ``shared_genes`` (share of the plan's genes
    that the source has).

    Raises
    ------
    UsageError, InputDataError
        A corpus cannot be read; see :func:`episome_datamix.run`.

    References
    ----------
    Nadig et al. (2025), bioRxiv 2025.02.19.639127.
    """
    place = Path(base)
    genes = gene_space(plan, place)
    rows = []
    for kind, names in (("corpus", plan.corpora), ("evaluation", plan.evaluation)):
        for name in names:
            pool = pool_of(plan, name, place, evaluation=kind == "evaluation")
            known = genes.align(
                pool.source.var, min_gene_overlap=0.0, duplicates="sum", where=pool.source.where
            )
            rows.append(
                {
                    "name": name,
                    "kind": kind,
                    **_of_obs(pool),
                    **_of_counts(pool),
                    "shared_genes": known.report.overlap,
                }
            )
    return pd.DataFrame(rows).set_index("name")


def _of_obs(pool: Pool) -> dict[str, Any]:
    types = pd.Series(pool.types(pool.rows))
    sizes = types[types != NO_TYPE].value_counts()
    donors = pd.Series(pool.donors(pool.rows)).dropna()
    lost = ", ".join(f"{n:,} by {why}" for why, n in pool.lost.items() if n)
    return {
        "n_cells": len(pool.rows),
        "left_out": lost,
        "n_donors": donors.nunique() if len(donors) else np.nan,
        "n_types": len(sizes) if len(sizes) else np.nan,
        "type_entropy": float(stats.entropy(sizes, base=2)) if len(sizes) else np.nan,
    }


def _of_counts(pool: Pool) -> dict[str, Any]:
    totals, detected = [], []

    def read(start: int, stop: int) -> object:
        block = pool.source.read(pool.rows[start:stop])
        totals.append(np.asarray(block.sum(axis=1)).ravel())
        detected.append(np.diff(block.indptr))
        return block

    mean = mean_of_source(read, len(pool.rows))
    return {
        "median_counts": float(np.median(np.concatenate(totals))),
        "median_genes": float(np.median(np.concatenate(detected))),
        "n_genes": pool.source.n_vars,
        "n_expressed": int((mean > 1).sum()),
    }
