"""Small studies for tests."""

from __future__ import annotations

import pandas as pd

from episome.benchmark import DataEntry, ModelEntry, RunResult, SplitEntry, Study


def entry(**kwargs) -> DataEntry:
    given = {"labels_key": "cell_type", "donor_key": "donor_id", **kwargs}
    return DataEntry("cells", "cells.h5ad", **given)


def study(task: str = "annotation", models=("centroid", "majority"), **kwargs) -> Study:
    """A study of fast models on unseen donors."""
    given = {
        "data": (entry(),),
        "splits": (SplitEntry("group"),),
        "seeds": (0,),
        "floor": False,
        **kwargs,
    }
    entries = tuple(m if isinstance(m, ModelEntry) else ModelEntry(m) for m in models)
    return Study("small", task, models=entries, **given)


KEY = {
    "study": "s",
    "task": "annotation",
    "data": "d",
    "split": "random cells",
    "fold": 0,
    "condition": "",
    "model": "m",
    "seed": 0,
}


def result(run: str, status: str = "ok", value: float = 0.5, **key) -> RunResult:
    scores = {("", "f1_macro"): value, ("", "accuracy"): 0.7} if status == "ok" else {}
    return RunResult(
        run,
        {**KEY, **key},
        status,
        "" if status == "ok" else "why",
        scores,
        {"seconds": 1.5, "n_train": 10},
        pd.DataFrame({"truth": ["a"], "call": ["b"]}),
    )
