"""Tables and pictures of a result, made in a process of their own.

The page itself never opens a file of cells.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data import AnnDataSource, log_counts, read_cells, variable_genes
from episome.inference import Predictor
from episome.jobs import agreement, composition
from episome.pl import colours as colours_of
from episome.report import CallSummary
from episome.web._expression import write_expression

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["main"]

#: Cells that are drawn, cells and genes that axes are computed from where the file has none.
DRAWN, SAMPLED, GENES = 20_000, 4_000, 1_000
#: Cells that are read at once, and values of all drawn cells that are kept: 800 MB.
BLOCK, MOST_VALUES = 500, 100_000_000
#: Values that a column of samples may have, columns that are taken, genes of a class.
VALUES, COLUMNS, TOP = 60, 12, 12
#: Arrays of obsm that may be drawn, the best first.
BASES = ("X_umap", "X_tsne", "X_draw_graph_fa", "X_pca")


def main(argv: list[str] | None = None) -> None:
    """Write what the page shows of a table of calls: file, model, table, folder and layer."""
    words = sys.argv[1:] if argv is None else argv
    file, model, table, folder = map(Path, words[:4])
    layer = words[4] if len(words) > 4 else ""
    calls = pd.read_parquet(table)
    _write_table(calls, folder / "calls.sqlite3")
    summary = CallSummary.of(calls)
    colours = colours_of(sorted(summary.terms), terms=summary.terms)
    predictor = Predictor.from_folder(model, device="cpu")
    facts = summary.facts()
    view: dict[str, Any] = {
        **facts,
        "labels": [{**row, "colour": colours[row["label"]]} for row in facts["labels"]],
        "reference": _reference(predictor, len(calls)),
        "genes": _genes(predictor),
    }
    cells = read_cells(file, backed=True)
    try:
        view |= _from_columns(cells.obs, calls)
        view["scatter"] = _scatter(cells, calls, colours, folder, layer)
    finally:
        if cells.isbacked:
            cells.file.close()
    (folder / "view.json").write_text(json.dumps(view), encoding="utf-8")


def _write_table(calls: pd.DataFrame, path: Path) -> None:
    """Write the calls where the page can look for rows without reading all."""
    path.unlink(missing_ok=True)
    named = calls.rename_axis("cell").reset_index()
    for name in named.columns:
        if isinstance(named[name].dtype, pd.CategoricalDtype):
            named[name] = named[name].astype(object)
    with sqlite3.connect(path) as db:
        named.to_sql("calls", db, index_label="row", chunksize=10_000)
        db.execute("CREATE INDEX by_label ON calls (label)")
    db.close()


def _reference(predictor: Predictor, n: int) -> dict[str, list[float]]:
    """Return the histogram of novelty of the model's calibration cells, scaled to as many cells.

    Empty where the folder holds none.
    """
    novelty = predictor.confidence.novelty
    if novelty is None:
        return {}
    counts = np.histogram(novelty.scores.clip(0.0, 1.0), 20, (0.0, 1.0))[0]
    return {"novelty": [round(float(c) / len(novelty.scores) * n, 2) for c in counts]}


def _genes(predictor: Predictor) -> dict[str, list[dict[str, Any]]]:
    """Return the genes that carry most of the weight of every class, where the model says."""
    if predictor.importance is None:
        return {}
    table = predictor.importance.top(list(predictor.features.ids), TOP)
    return {
        str(name): [{"gene": g, "share": w} for g, w in zip(of["gene"], of["share"], strict=True)]
        for name, of in table.groupby("group", sort=False)
    }


# -- columns of the file ---------------------------------------------------------------------


def _from_columns(obs: pd.DataFrame, calls: pd.DataFrame) -> dict[str, Any]:
    """Return the composition by column, and reliability where a column holds labels."""
    called = calls["label"].astype(str).to_numpy(dtype=object)
    samples: dict[str, Any] = {}
    reliability: dict[str, Any] = {}
    for name in obs.columns:
        values = obs[name]
        if pd.api.types.is_float_dtype(values.dtype) or values.nunique() > VALUES:
            continue
        text = values.astype(object).where(values.notna(), None)
        found = agreement(text.to_numpy(), called, calls["confidence"].to_numpy(float))
        if found is not None:
            kept = found["reliability"]
            numbers = zip(kept["confidence"], kept["accuracy"], kept["n_cells"], strict=True)
            bins = [{"confidence": c, "accuracy": a, "n": n} for c, a, n in numbers]
            whole = ("n", "n_right", "accuracy", "ece")
            reliability[str(name)] = {**{k: found[k] for k in whole}, "bins": bins}
        if (found or len(samples) < COLUMNS) and values.nunique() > 1:
            samples[str(name)] = composition(text, pd.Categorical(called))
    # Columns of labels say least about samples: they come last.
    order = sorted(samples, key=lambda name: name in reliability)
    return {"composition": {n: samples[n] for n in order}, "reliability": reliability}


# -- the map ---------------------------------------------------------------------------------


def _scatter(
    cells: AnnData, calls: pd.DataFrame, colours: dict[str, str], folder: Path, layer: str = ""
) -> dict[str, Any] | None:
    """Write the points of the map, for the browser and as pictures, and the genes beside them."""
    found = _coordinates(cells, layer)
    if found is None:
        return None
    rows, points, basis = found
    values = _normalised(cells, rows, layer)
    if values is not None:
        write_expression(
            folder / "expression.sqlite3", values, list(map(str, cells.var_names)), _symbols(cells)
        )
    chosen = calls.iloc[rows]
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    names = list(dict.fromkeys([*sorted(set(chosen["label"].astype(str)))]))
    codes = pd.Categorical(chosen["label"].astype(str), categories=names).codes
    facts = {
        "x": [int(v) for v in np.rint(scaled[:, 0] * 10_000)],
        "y": [int(v) for v in np.rint(scaled[:, 1] * 10_000)],
        "row": [int(r) for r in rows],
        "label": [int(c) for c in codes],
        "labels": names,
        "colours": [colours[n] for n in names],
        **{c: _percent(chosen[c]) for c in ("confidence", "novelty")},
    }
    (folder / "scatter.json").write_text(json.dumps(facts), encoding="utf-8")
    _draw(scaled, chosen, [colours[n] for n in chosen["label"].astype(str)], basis, folder)
    return {"basis": basis, "n": len(rows), "layer": layer, "genes": values is not None}


def _percent(values: pd.Series) -> list[int]:
    """Return values from 0 to 1 as whole percents; -1 for none."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    return [-1 if not np.isfinite(v) else round(min(max(v, 0.0), 1.0) * 100) for v in numbers]


def _coordinates(
    cells: AnnData, layer: str = ""
) -> tuple[NDArray[np.int64], NDArray[np.float64], str] | None:
    """Return rows, two coordinates of each, and what they are."""
    n = cells.n_obs
    if n < 3:
        return None
    for key in BASES:
        if key in cells.obsm and np.ndim(cells.obsm[key]) == 2:
            rows = _sample(n, DRAWN)
            points = np.asarray(cells.obsm[key])[rows, :2].astype(float)
            if points.shape[1] == 2 and np.isfinite(points).all():
                return rows, points, key.removeprefix("X_").replace("_", " ").upper()
    rows = _sample(n, SAMPLED)
    points = _principal(cells, rows, layer)
    return None if points is None else (rows, points, "PCA")


def _sample(n: int, most: int) -> NDArray[np.int64]:
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def _principal(
    cells: AnnData, rows: NDArray[np.int64], layer: str = ""
) -> NDArray[np.float64] | None:
    """Return the first two principal components of some cells."""
    from sklearn.decomposition import PCA

    matrix = _normalised(cells, rows, layer)
    if matrix is None or min(matrix.shape) < 3:
        return None
    dense = matrix[:, variable_genes(matrix, GENES)].toarray()
    return PCA(2, random_state=0).fit_transform(dense).astype(float)


def _symbols(cells: AnnData) -> list[str] | None:
    """Return the names of genes that people know, where a column holds them."""
    for name in ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "symbol"):
        if name in cells.var:
            return list(map(str, cells.var[name]))
    return None


def _normalised(
    cells: AnnData, rows: NDArray[np.int64], layer: str = ""
) -> sparse.csr_matrix | None:
    """Return the values of some cells: log1p of counts, or what is no counts as it is."""
    named = layer if layer and layer in cells.layers else None
    if named is None and cells.X is None:
        return None
    source, blocks, n_values = AnnDataSource(cells, layer=named), [], 0
    for start in range(0, len(rows), BLOCK):
        blocks.append(source.read(rows[start : start + BLOCK]).astype(np.float32))
        n_values += blocks[-1].nnz
        if n_values > MOST_VALUES:
            return None
    matrix = sparse.vstack(blocks, format="csr")
    matrix.data = np.nan_to_num(matrix.data)
    # Values that are no counts are on a scale of their own already.
    if np.array_equal(matrix.data, np.abs(np.rint(matrix.data))):
        return log_counts(matrix)
    return matrix


def _draw(
    points: NDArray[np.float64],
    calls: pd.DataFrame,
    colours: list[str],
    basis: str,
    folder: Path,
) -> None:
    """Write the map as pictures, for browsers that run no script."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = float(np.clip(20_000 / len(points), 2, 20))
    for column in ("label", "confidence", "novelty"):
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        if column == "label":
            ax.scatter(points[:, 0], points[:, 1], c=colours, s=size, linewidths=0)
        else:
            values = pd.to_numeric(calls[column], errors="coerce").to_numpy(dtype=float)
            drawn = ax.scatter(
                points[:, 0], points[:, 1], c=values, s=size, linewidths=0, cmap="viridis",
                vmin=0, vmax=1,
            )  # fmt: skip
            figure.colorbar(drawn, ax=ax, label=column)
        ax.set(xlabel=f"{basis} 1", ylabel=f"{basis} 2", xticks=[], yticks=[])
        figure.savefig(folder / f"scatter-{column}.png", dpi=110)


if __name__ == "__main__":
    main()
