"""Rows of tables as plain data."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from episome.io import records


def test_what_is_not_known_is_none_and_named_indices_are_columns():
    table = pd.DataFrame(
        {"n": [1, 2], "x": [0.5, np.nan], "t": ["a", None]},
        index=pd.Index(["p", "q"], name="mix"),
    )

    found = records(table)

    assert found == [
        {"mix": "p", "n": 1, "x": 0.5, "t": "a"},
        {"mix": "q", "n": 2, "x": None, "t": None},
    ]
    assert json.loads(json.dumps(found)) == found
    assert records(table.reset_index(drop=True))[0] == {"n": 1, "x": 0.5, "t": "a"}
    assert records(table.iloc[:0]) == []
