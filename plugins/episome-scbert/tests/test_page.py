"""The page of the documentation runs as it stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest


@pytest.mark.slow
def test_page_on_the_transformer_as_written_runs(run_page: Callable[[str], dict]) -> None:
    names = run_page("scbert")

    right = names["calls"]["label"].to_numpy() == names["truth"].to_numpy()
    assert right.mean() > 0.8
    assert names["started"].fit_["trainable"] == "last"
    assert names["vectors"].shape == (100, 5, 32)
    assert np.isfinite(names["imputed"].to_numpy()).all()
    assert len(pd.read_csv("calls.csv")) == 100
