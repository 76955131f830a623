"""What results say: intervals, paired tests, ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from _studies import result
from scipy import stats

from episome.benchmark import (
    ResultStore,
    RunResult,
    class_differences,
    compare,
    ranks,
    sign_flip_test,
    summary,
)
from episome.errors import UsageError


def test_few_differences_are_tested_by_all_signs():
    given = np.array([0.3, 0.1, -0.05, 0.2])
    flips = [abs(np.dot(s, given)) for s in itertools.product([1, -1], repeat=4)]

    assert sign_flip_test(given) == np.mean(np.array(flips) >= given.sum() - 1e-12)
    assert sign_flip_test(np.array([0.1])) == 1.0
    assert np.isnan(sign_flip_test(np.array([])))


def test_many_differences_give_about_the_p_value_of_students_test():
    given = np.random.default_rng(0).normal(0.3, 1.0, 60)

    assert sign_flip_test(given, seed=0) == pytest.approx(
        stats.ttest_1samp(given, 0).pvalue, abs=0.01
    )


def said(n_donors: int, right: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 40 * n_donors
    truth = rng.choice(["a", "b", "c"], n)
    call = np.where(rng.random(n) < right, truth, "a")
    donor = np.repeat([f"d{i}" for i in range(n_donors)], 40)
    return pd.DataFrame({"truth": truth, "call": call, "donor": donor, "condition": ""})


def store_of(tmp_path, n_donors: int, seeds=(0, 1, 2)) -> ResultStore:
    """Two models, of which `good` is right more often."""
    store = ResultStore(tmp_path)
    for model, right in (("good", 0.9), ("bad", 0.6)):
        for seed in seeds:
            table = said(n_donors, right, seed)
            accuracy = float((table["truth"] == table["call"]).mean())
            base = result("x", model=model, seed=seed)
            scores = {("", "accuracy"): accuracy, ("", "f1_macro"): accuracy, ("", "ece"): 0.1}
            store.add(RunResult(f"{model}{seed}", base.key, "ok", "", scores, base.facts, table))
    return store


def test_intervals_are_of_donors_where_there_are_five(tmp_path):
    many = summary(store_of(tmp_path / "a", 8)).set_index(["model", "metric"])
    few = summary(store_of(tmp_path / "b", 3)).set_index(["model", "metric"])

    for table, over in ((many, "donors"), (few, "cells")):
        row = table.loc[("good", "accuracy")]
        assert row["over"] == over
        assert row["low"] < row["value"] < row["high"]
        assert row["n_runs"] == 3
    assert np.isnan(many.loc[("good", "ece"), "low"])


def test_models_are_compared_over_donors_and_never_over_cells(tmp_path):
    (found,) = compare(store_of(tmp_path / "a", 8), "good", "bad", metric="accuracy")
    assert (found.units, found.n_units) == ("donors", 8)
    assert found.difference > 0.1
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / 2**8)

    (few,) = compare(store_of(tmp_path / "b", 3), "good", "bad", metric="accuracy")
    assert (few.units, few.n_units) == ("runs", 3)
    assert few.p_value == pytest.approx(2 / 2**3)

    (other,) = compare(store_of(tmp_path / "c", 8), "good", "bad", metric="ece")
    assert (other.units, other.difference) == ("runs", 0.0)


def test_models_that_share_no_run_cannot_be_compared(tmp_path):
    store = store_of(tmp_path, 3)

    with pytest.raises(UsageError, match="bad, good.*E-B12"):
        compare(store, "good", "nobody")
    with pytest.raises(UsageError, match="E-B12"):
        class_differences(store, "good", "nobody")


def test_classes_are_compared_beside_their_size(tmp_path):
    found = class_differences(store_of(tmp_path, 4), "good", "bad").set_index("class")

    assert set(found.index) == {"a", "b", "c"}
    assert (found.loc[["b", "c"], "difference"] > 0).all()
    assert (found["low"] <= found["difference"]).all()
    assert found["n_cells"].sum() == pytest.approx(160)


def scores(values: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {
            "task": "t",
            "data": f"d{i}",
            "split": "s",
            "condition": "",
            "model": model,
            "metric": "f1_macro",
            "value": value,
        }
        for model, of in values.items()
        for i, value in enumerate(of)
    ]
    return pd.DataFrame(rows)


def test_ranks_follow_nemenyi():
    """Table 6 of Demšar (2006) has the critical value 2.569 for four models."""
    rng = np.random.default_rng(0)
    values = {m: list(rng.random(14) + 0.2 * i) for i, m in enumerate("abcd")}

    found = ranks(scores(values))

    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert found.table["rank"].mean() == pytest.approx(2.5)
    assert found.table["model"].iloc[0] == "d"
    upside = ranks(scores(values), higher_is_better=False)
    assert upside.table["model"].iloc[-1] == "d"


def test_too_few_data_sets_have_no_ranks():
    assert ranks(scores({m: [0.1, 0.2] for m in "abc"})) is None
    assert ranks(scores({m: [0.1, 0.2, 0.3] for m in "ab"})) is None
