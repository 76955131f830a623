"""The page of the documentation runs as it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.slow
def test_page_on_mixes_as_written_runs(run_page: Callable[[str], dict]) -> None:
    names = run_page("datamix")

    assert names["score"].r2 > 0.3
    assert names["loadings"].shape == (200, 6)
    assert set(names["missed"]["cell_type"]) == {"type a", "type b"}
