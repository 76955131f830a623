"""The page of the documentation runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "methods" / "baselines.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.slow
def test_page_on_baselines_as_written_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside the plugin")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        exec(compile(text, str(PAGE), "exec"), names)

    assert len(names["calls"]) == 150
    assert names["latent"].shape == (150, 128)
    assert names["components"].shape == (150, 20)
    assert names["expected"].shape == (150, 300)
    assert names["neighbours"].fit_["index"] == "exact"
    scores = names["by_model"]
    assert scores["feature-mean"]["pearson_features"] == 0.0
    assert scores["ridge"]["pearson_features"] > 0.8
    assert scores["knn-translation"]["pearson_features"] > 0.8
