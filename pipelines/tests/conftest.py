"""A small model, and folders as Cell Ranger and STARsolo leave them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from scipy.io import mmwrite

from episome.data import simulate_cells
from episome.models import LogisticRegression


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a model, two samples, and one whose values are no counts."""
    place = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(500, 120, n_types=3, seed=0)
    cells.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    reference = cells[:400].copy()
    LogisticRegression.setup_anndata(reference, labels_key="cell_type", donor_key="donor_id")
    model = LogisticRegression(reference)
    model.train()
    model.save(place / "model")
    _folder(cells[400:450], place / "cell ranger" / "filtered_feature_bc_matrix", packed=True)
    _folder(cells[450:], place / "Solo.out" / "Gene" / "filtered", packed=False)
    bad = cells[400:420].copy()
    bad.X = -bad.X.astype("float32")
    bad.write_h5ad(place / "bad.h5ad")
    return place


def _folder(cells, place: Path, *, packed: bool) -> None:
    place.mkdir(parents=True)
    features = "".join(
        f"{i}\t{n}\tGene Expression\n"
        for i, n in zip(cells.var["gene_ids"], cells.var_names, strict=True)
    )
    barcodes = "".join(f"{name}\n" for name in cells.obs_names)
    mmwrite(place / "matrix.mtx", cells.X.T.astype(int))
    (place / "features.tsv").write_text(features)
    (place / "barcodes.tsv").write_text(barcodes)
    if packed:
        for file in list(place.iterdir()):
            with gzip.open(f"{file}.gz", "wb") as out:
                out.write(file.read_bytes())
            file.unlink()
