"""The client of the page of the documentation, as it stands there, against the real program."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from _bad_cells import model, query
from _page import TOKEN, Server

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "page.md"


@pytest.mark.slow
def test_client_as_written_gives_the_calls_of_python(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    names: dict = {}
    exec(compile(code, "page.md", "exec"), names)
    model().save(tmp_path / "models" / "types")
    query().write_h5ad(tmp_path / "query.h5ad")
    monkeypatch.chdir(tmp_path)
    server = Server(tmp_path, real=True, models=[str(tmp_path / "models")])
    try:
        text = names["calls"](f"{server.base}/?token={TOKEN}", "query.h5ad", "types")
    finally:
        server.stop()

    found = pd.read_csv(io.StringIO(text), index_col="cell")
    wanted = model().annotate(query())
    assert list(found.index) == list(wanted.index)
    assert list(found["label"]) == list(wanted["label"])
