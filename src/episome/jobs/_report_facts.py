"""What a report tells of calls, a model and its query, as plain data, and the maps beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.confidence import reliability
from episome.errors import UsageError
from episome.inference import shift_report
from episome.io import provenance, version_of
from episome.metrics import expected_calibration_error, risk_coverage
from episome.resources import peak_memory

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from episome.data import Query
    from episome.inference import Predictor
    from episome.report import CallSummary, Figure

#: Cells that shift and genes are told by, in runs that lie evenly over all.
LOOKED_AT, RUN = 2_000, 250
#: Genes of a class, columns of samples that are drawn, and values that such a column may have.
TOP, COLUMNS, VALUES = 10, 3, 40
#: Points of a curve, and bytes of an input above which no digest is taken for the report alone.
POINTS, DIGESTED = 101, 1 << 30
#: Columns that name samples, and are drawn before others.
_SAMPLES = re.compile(
    "donor|sample|patient|individual|subject|batch|condition|tissue|stim|treat|disease|sex|assay",
    re.IGNORECASE,
)


def spread_rows(n: int) -> NDArray[np.int64]:
    """Return at most 2,000 of ``n`` rows, in runs that are read at once, evenly over all."""
    if n <= LOOKED_AT:
        return np.arange(n)
    starts = np.linspace(0, n - RUN, LOOKED_AT // RUN).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(RUN)).ravel())


def model_facts(manifest: Mapping[str, Any], predictor: Predictor) -> dict[str, Any]:
    """Return what the model keeps of its calibration, and the genes behind its classes."""
    found: dict[str, Any] = {"calibration": None, "genes": None}
    confidence = manifest.get("confidence") or {}
    if confidence.get("calibrated") and "after" in confidence:
        kept = ("n_cells", "n_donors", "source", "after", "before", "coverage")
        found["calibration"] = {k: confidence[k] for k in kept if k in confidence}
    if predictor.importance is not None:
        ids = list(predictor.features.ids)
        table = predictor.importance.top(ids, TOP)
        symbols = dict(zip(ids, predictor.features.symbols, strict=True))
        found["genes"] = table.assign(gene_name=table["gene"].map(symbols)).to_dict("records")
    return found


def shift_facts(
    predictor: Predictor, query: Query, batch_size: int | None = None
) -> dict[str, Any] | None:
    """Return how a query differs from the training cells, by at most 2,000 of its cells.

    ``None`` where the model keeps nothing to compare with; ``why`` where nothing can be told.
    """
    confidence = predictor.confidence
    if confidence.scores is None or "after" not in confidence.facts:
        return None
    rows = spread_rows(query.source.n_obs)
    try:
        found = shift_report(predictor, query, rows=rows, batch_size=batch_size)
    except UsageError as error:
        return {"why": f"Not told: {error.problems[0].what}."}
    return {**found.to_json(), "text": found.text, "n_obs": query.source.n_obs}


def input_facts(
    name: str, n_obs: int, n_vars: int | None, query: Query | None = None
) -> dict[str, Any]:
    """Return what was found in an input."""
    found: dict[str, Any] = {"name": name, "n_obs": int(n_obs), "n_vars": n_vars}
    if query is not None:
        found |= {"values": query.values.form, "notes": list(query.notes)}
    return found


def made_facts(
    own: Mapping[str, Any],
    predictor: Predictor | None = None,
    *,
    seconds: float | None = None,
    inputs: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Return with what something was made: versions, digests, seed, device, time, memory.

    Parameters
    ----------
    own
        What is known already.
    predictor
        That ran.
    seconds
        It took.
    inputs
        Name of the fact -> file, of which a digest is taken where it is small.
    """
    from episome.jobs._annotate import file_digest

    found = {**provenance(), **own}
    versions = dict(found["versions"])
    for distribution in own.get("distributions", ()):
        versions[distribution] = version_of(distribution)
    found["versions"] = versions
    found.pop("distributions", None)
    for key, path in (inputs or {}).items():
        if path.is_file() and path.stat().st_size <= DIGESTED:
            found[key] = file_digest(path)
    if predictor is not None:
        found["device"] = str(predictor.core.device)
    if seconds is not None:
        found |= {"seconds": round(seconds, 2), "peak_memory": peak_memory()}
    return found


# -- calls against columns of the file -------------------------------------------------------


def agreement(
    truth: NDArray[np.object_], called: NDArray[np.object_], confidence: NDArray[np.floating]
) -> dict[str, Any] | None:
    """Compare calls with labels, cell by cell.

    Parameters
    ----------
    truth
        Label of every cell, (n_cells,); what is no text is missing.
    called, confidence
        The calls, (n_cells,).

    Returns
    -------
    ``n``, ``n_right``, ``accuracy``, ``ece``, ``reliability`` (bins), ``risk_coverage`` (101
    points at most) and ``pairs``; ``None`` where fewer than half of the labels are called at all:
    the column names other things.
    """
    use = np.array([isinstance(t, str) for t in truth], dtype=bool) & np.isfinite(confidence)
    if not use.any():
        return None
    truth, called, sure = truth[use], called[use], np.asarray(confidence[use], float).clip(0, 1)
    shared = set(truth) & set(called)
    if np.isin(truth, list(shared)).mean() < 0.5:
        return None
    right = truth == called
    pairs = pd.DataFrame({"label": truth, "called": called}).value_counts(sort=True)
    return {
        "n": len(right),
        "n_right": int(right.sum()),
        "accuracy": float(right.mean()),
        "ece": expected_calibration_error(sure, right),
        "reliability": reliability(sure, right),
        "risk_coverage": curve_points(sure, right),
        "pairs": pairs.rename("n_cells").reset_index().to_dict("records"),
    }


def curve_points(
    confidence: NDArray[np.floating], right: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """Return at most 101 points of the curve of ``episome.metrics.risk_coverage``."""
    kept, wrong, at = risk_coverage(confidence, right)
    some = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), POINTS)).astype(int))
    names = ("kept", "wrong", "confidence")
    points = ([float(v) for v in values[some]] for values in (kept, wrong, at))
    return dict(zip(names, points, strict=True))


def sample_columns(obs: pd.DataFrame, called: set[str], most: int = VALUES) -> list[str]:
    """Return the columns that name samples: few values, none of them a call; samples first.

    Of columns that divide the cells alike, such as a name and its term, one is kept.
    """
    found: dict[bytes, str] = {}
    for name in sorted(obs.columns, key=lambda name: str(name).endswith("_ontology_term_id")):
        values = obs[name]
        if pd.api.types.is_float_dtype(values.dtype):
            continue
        groups, unique = pd.factorize(values)  # numbered as they come: alike where groups are
        texts = {str(v) for v in unique}
        if 1 < len(texts) <= most and len(texts & called) < len(texts) / 2:
            alike = hashlib.blake2b(groups, digest_size=16).digest()
            found.setdefault(alike, str(name))
    kept = set(found.values())
    own = [str(name) for name in obs.columns if str(name) in kept]
    return sorted(own, key=lambda name: not _SAMPLES.search(name))


def composition(samples: pd.Series, called: pd.Categorical) -> dict[str, dict[str, int]]:
    """Return how many cells of every sample have which call."""
    table = pd.crosstab(samples.astype(object).astype(str).to_numpy(), called)
    return {str(k): {str(c): int(n) for c, n in row.items() if n} for k, row in table.iterrows()}


def obs_facts(
    obs: pd.DataFrame, summary: CallSummary, labels_key: str | None = None
) -> dict[str, Any]:
    """Return what columns of the cells say of their calls: composition, and agreement.

    Parameters
    ----------
    obs
        Of the cells that were called, in their order.
    summary
        Of the calls, which keeps them.
    labels_key
        Column of labels; default the one whose values the calls agree with most often.
    """
    called, sure = summary.labels(), summary.values("confidence")
    names = set(map(str, called.categories))
    texts = np.asarray(called, dtype=object)
    columns = sample_columns(obs, names)[:COLUMNS]
    found: dict[str, Any] = {
        "composition": {name: composition(obs[name], called) for name in columns}
    }
    against = [labels_key] if labels_key is not None else _label_columns(obs, names)
    compared = []
    for name in against:
        values = obs[name].astype(object).where(obs[name].notna(), None).to_numpy()
        if (facts := agreement(values, texts, sure)) is not None:
            compared.append({"column": name, **facts})
    if compared:
        found["labels"] = max(compared, key=lambda facts: facts["accuracy"])
    return found


def _label_columns(obs: pd.DataFrame, called: set[str]) -> list[str]:
    """Return the columns that may hold labels: half of their values are calls at least."""
    found = []
    for name in obs.columns:
        if pd.api.types.is_numeric_dtype(obs[name].dtype):
            continue
        texts = {str(v) for v in obs[name].unique() if not pd.isna(v)}
        if (
            texts
            and len(texts) <= 2_000
            and len(texts & called) >= min(len(texts), len(called)) / 2
        ):
            found.append(str(name))
    return found


# -- pictures --------------------------------------------------------------------------------


def call_maps(
    adata: AnnData, rows: NDArray[np.int64] | None, summary: CallSummary
) -> dict[str, list[Figure]]:
    """Draw the calls on a map that the cells have; nothing where they have none.

    Parameters
    ----------
    adata
        The cells.
    rows
        Those that were called, in the order of the calls; ``None``: all.
    summary
        Of the calls, which keeps them.
    """
    from episome import pl
    from episome.report import figure

    try:
        points, basis = pl.map_of(adata)
    except UsageError:  # without a map there is none to draw
        return {}
    points = points if rows is None else points[rows]
    palette = pl.colours(summary.terms, terms=summary.terms)
    drawn: dict[str, list[Figure]] = {}
    for heading, color in (
        ("Calls", pd.Series(summary.labels(), name="label")),
        ("Confidence", pd.Series(summary.values("confidence"), name="confidence")),
        ("Novelty", pd.Series(summary.values("novelty"), name="novelty")),
    ):
        if heading != "Calls" and not np.isfinite(color).any():
            continue
        what = "type" if heading == "Calls" else heading.lower()

        def draw(ax: Axes, color: pd.Series = color) -> None:
            pl.embedding(points, color=color, basis=basis, palette=palette, ax=ax)

        picture = figure(
            draw,
            f"{len(points):,} cells by {basis}, coloured by {what}; the table of types holds the "
            "numbers",
            width=7.6,
            height=4.8,
        )
        drawn[heading] = [picture]
    return drawn


def gene_dots(
    adata: AnnData, rows: NDArray[np.int64] | None, predictor: Predictor, query: Query,
    summary: CallSummary, genes: list[dict[str, Any]], layer: str | None,
) -> list[Figure]:  # fmt: skip
    """Draw how the called cells express the genes behind their classes, by 2,000 of them."""
    from episome import pl
    from episome.report import figure

    called = summary.labels()
    if not len(called):
        return []
    common = [row["label"] for row in summary.table()[:12]]
    ids = [g["gene"] for c in common for g in genes if g["group"] == c and g["rank"] <= 3]
    place = {gene: i for i, gene in enumerate(predictor.features.ids)}
    columns = query.alignment.columns
    there = [
        int(at[0]) for g in dict.fromkeys(ids) if len(at := np.flatnonzero(columns == place[g]))
    ]
    if not there:
        return []
    some = spread_rows(len(called))
    block = adata[some if rows is None else rows[some]].to_memory()
    return [
        figure(
            lambda ax: pl.dotplot(
                block, [str(adata.var_names[i]) for i in there], groupby=pd.Series(called[some]),
                layer=layer, ax=ax,
            ),
            f"How many of {len(some):,} cells express the first genes of the commonest classes, "
            "and how much, by call",
            width=float(np.clip(0.24 * len(there) + 3.5, 4.5, 11.0)),
            height=float(np.clip(0.28 * len(set(called[some])) + 2.2, 3.0, 9.0)),
        )
    ]  # fmt: skip
