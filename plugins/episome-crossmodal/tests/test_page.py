"""The page of the documentation runs as it stands."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest


@pytest.mark.slow
def test_page_on_another_modality_as_written_runs(run_page: Callable[[str], dict]) -> None:
    names = run_page("crossmodal")

    report = names["report"]
    assert (report["pearson"] > 0.5).mean() > 0.7
    assert report["coverage"].mean() > 0.8
    found = ad.read_h5ad("proteins.h5ad")
    assert found.shape == (300, 8)
    assert {"lower", "upper"} <= set(found.layers)
    assert np.isfinite(names["on_disk"].predict_modality(names["unseen"].mod["rna"]).X).all()
