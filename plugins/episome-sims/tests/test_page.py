"""The page of the documentation runs as it stands."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest


@pytest.mark.slow
def test_page_on_sims_as_written_runs(run_page: Callable[[str], dict]) -> None:
    names = run_page("sims")

    assert len(pd.read_csv("calls.csv")) == 150
    assert names["warm"].fit_["pretraining"]["init"]["n_known"] == 300
