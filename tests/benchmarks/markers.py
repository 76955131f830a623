"""How right the calls by a public table of markers are, by score; the table in the documentation.

``python tests/benchmarks/markers.py DATA``: a folder with ``pbmc3k.h5ad``, ``kang_pbmc_ifnb.h5ad``
and ``resources/panglaodb_markers_2020-03-27.tsv.gz``. No label is used but to count.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from episome.errors import EpisomeWarning
from episome_baselines import MarkerScore
from episome_baselines.marker_table import read_markers
from episome_baselines.marker_weights import gene_places, known_markers

TABLE = "panglaodb_markers_2020-03-27.tsv.gz"
FEW = ["B cells", "NK cells", "Monocytes", "T cells", "Dendritic cells", "Platelets"]
MORE = [
    *("B cells memory", "B cells naive", "T helper cells", "T cytotoxic cells", "T memory cells"),
    *("Megakaryocytes", "Plasmacytoid dendritic cells", "Macrophages", "Neutrophils"),
    *("Plasma cells", "Basophils", "Mast cells", "Hematopoietic stem cells"),
    "Erythroid-like and erythroid precursor cells",
]
#: Words of a label, in small letters, that tell its lineage; the first that fits counts.
LINEAGES = (
    *(("plasmacytoid", "DC"), ("dend", "DC"), ("dc", "DC"), ("nk", "NK"), ("mono", "monocyte")),
    *(("plate", "platelet"), ("megak", "platelet"), ("cd4", "T"), ("cd8", "T"), ("t ", "T")),
    *(("b cells", "B"), ("b", "B")),
)


def lineage(label: str) -> str:
    """Lineage of a label of the data or of the table; others are their own."""
    text = label.lower()
    if text == "basophils":
        return text
    starts = (name for word, name in LINEAGES if text.startswith(word))
    inside = (name for word, name in LINEAGES[:9] if word in text)
    return next(inside, next(starts, text))


def others(cells: anndata.AnnData, table: dict[str, dict[str, float]], model: MarkerScore):
    """Calls of three plain scores."""
    counts = cells.X.toarray().astype(np.float64)
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    spread = values.std(axis=0)
    scaled = np.clip((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1), -3, 3)
    ranks = rankdata(values, axis=1)
    known = known_markers(table, model.features)
    place = gene_places(known, model.features)
    sets = [[place[g] for g in genes] for genes in known.values()]
    names = np.array(list(known))
    width = values.shape[1]
    for what, matrix in (("mean", values), ("z scores", scaled)):
        yield what, names[np.stack([matrix[:, s].mean(axis=1) for s in sets], 1).argmax(axis=1)]
    area = [(ranks[:, s].mean(axis=1) - (len(s) + 1) / 2) / (width - len(s)) for s in sets]
    yield "rank sum", names[np.stack(area, axis=1).argmax(axis=1)]


def main() -> None:
    """Print the share of cells whose lineage is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    warnings.simplefilter("ignore", EpisomeWarning)
    table = pd.read_csv(data / "resources" / TABLE, sep="\t", dtype=object, keep_default_na=False)
    table = table[table["species"].str.contains("Hs")]
    for name in ("pbmc3k", "kang_pbmc_ifnb"):
        cells = anndata.read_h5ad(data / f"{name}.h5ad")
        truth = cells.obs["cell_type_label"].astype(str).map(lineage).to_numpy()
        for types in (FEW, [*FEW, *MORE]):
            part = read_markers(table[table["cell type"].isin(types)])
            MarkerScore.setup_anndata(cells)
            model = MarkerScore(cells, markers=part)
            model.train()
            for what, calls in (("markers", model.predict(cells)), *others(cells, part, model)):
                called = np.array([lineage(str(c)) for c in calls])
                print(f"{name:16} {len(types):3} types  {what:10} {(called == truth).mean():.3f}")


if __name__ == "__main__":
    main()
