"""Claims of a study, curves by threshold, types by size: from results made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from _studies import result, study

from episome.benchmark import (
    Contrast,
    ResultStore,
    RunResult,
    Study,
    class_differences,
    class_scores,
    compare,
    report,
    summary,
    threshold_curve,
)
from episome.errors import UsageError
from episome.metrics import class_table

SMALL, LARGE = "10 % of the training cells", "100 % of the training cells"


def said(condition: str, right: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth = rng.choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1])
    call = np.where(rng.random(300) < right, truth, "a")
    donor = np.repeat([f"d{i}" for i in range(6)], 50)
    return pd.DataFrame({"truth": truth, "call": call, "donor": donor, "condition": condition})


@pytest.fixture
def store(tmp_path) -> ResultStore:
    """One model with few and with all training cells, six seeds."""
    found = ResultStore(tmp_path)
    for condition, right in ((SMALL, 0.6), (LARGE, 0.9)):
        for seed in range(6):
            table = said(condition, right, seed)
            accuracy = float((table["truth"] == table["call"]).mean())
            base = result("x", seed=seed, condition=condition, task="label-efficiency")
            scores = {(condition, m): accuracy for m in ("accuracy", "f1_macro", "nll")}
            name = f"{condition[:3].strip()}-{seed}"
            found.add(RunResult(name, base.key, "ok", "", scores, base.facts, table))
    return found


def test_a_model_is_compared_with_itself_in_another_condition(store):
    (found,) = compare(store, "m", "m", metric="accuracy", conditions=(LARGE, SMALL))
    (back,) = compare(store, "m", "m", metric="accuracy", conditions=(SMALL, LARGE))

    assert found.condition == f"{LARGE} against {SMALL}"
    assert (found.units, found.n_units) == ("donors", 6)
    assert found.difference == pytest.approx(-back.difference)
    assert found.low > 0
    by_hand = np.mean(
        [
            [
                (t["truth"] == t["call"]).groupby(t["donor"]).mean()
                for t in (said(c, r, seed) for c, r in ((LARGE, 0.9), (SMALL, 0.6)))
            ]
            for seed in range(6)
        ],
        axis=(0, 2),
    )
    assert found.difference == pytest.approx(by_hand[0] - by_hand[1])


def test_metrics_without_calls_are_compared_over_runs(store):
    (found,) = compare(store, "m", "m", metric="nll", conditions=(LARGE, SMALL))

    assert (found.units, found.n_units) == ("runs", 6)


def test_conditions_that_nobody_ran_are_refused(store):
    with pytest.raises(UsageError, match="E-B12"):
        compare(store, "m", "m", conditions=(LARGE, "nothing"))


def test_types_are_scored_beside_their_size(store):
    found = class_scores(store)

    assert set(found["class"]) == {"a", "b", "c"}
    sizes = found.groupby("class")["n_cells"].mean()
    assert sizes["a"] > sizes["b"] > sizes["c"]
    best = found[found["condition"] == LARGE].set_index("class")["f1"]
    worst = found[found["condition"] == SMALL].set_index("class")["f1"]
    assert (best > worst).all()


def test_contrasts_are_judged_in_the_report(store):
    contrasts = (
        Contrast("m", "m", "more is better", conditions=(LARGE, SMALL)),
        Contrast("m", "m", "less is better", conditions=(SMALL, LARGE)),
        Contrast("m", "m", "more is less likely", "nll", (LARGE, SMALL)),
        Contrast("m", "nobody", "m beats nobody"),
    )
    asked = study("label-efficiency", ("m",), contrasts=contrasts)
    store.remember_study("s", asked.to_dict())

    text = report(store).markdown()

    assert "more is better: shown better on 1 of 1 comparisons, worse on 0" in text
    assert "less is better: shown better on 0 of 1 comparisons, worse on 1" in text
    # A higher negative log likelihood is worse.
    assert "more is less likely: shown better on 0 of 1 comparisons, worse on 1" in text
    assert "m beats nobody: not tested" in text


def test_one_run_gives_no_interval_and_that_is_said(tmp_path):
    store = ResultStore(tmp_path)
    for model in ("a", "b"):
        store.add(result(model, model=model, value=0.9 if model == "a" else 0.5))
    store.remember_study("s", study(contrasts=(Contrast("a", "b"),)).to_dict())

    text = report(store).markdown()

    assert "a is better than b: shown better on 0 of 1" in text
    assert "1 had fewer than three donors or runs" in text
    assert "1 run |" in text


def test_a_contrast_has_two_conditions_or_none():
    with pytest.raises(UsageError, match=r"1 conditions.*E-B07"):
        Contrast("a", "b", conditions=("x",))


def test_cells_of_unseen_types_are_in_no_interval(tmp_path):
    table = said("1 member", 1.0, 0).assign(new=False)
    table.loc[:99, ["truth", "new"]] = ["unseen", True]
    base = result("x", task="ensemble", condition="")
    scores = {("1 member", "f1_macro"): 1.0, ("1 member", "accuracy"): 1.0}
    store = ResultStore(tmp_path)
    store.add(RunResult("x", base.key, "ok", "", scores, base.facts, table))

    found = summary(store).set_index("metric")

    assert found.loc["accuracy", ["low", "high"]].tolist() == [1.0, 1.0]
    assert set(class_scores(store)["class"]) == {"a", "b", "c"}


def test_every_condition_of_a_run_has_its_interval(tmp_path):
    tables = [said(c, right, 0) for c, right in (("one", 0.9), ("two", 0.6))]
    scores = {
        (t["condition"].iloc[0], "accuracy"): float((t["truth"] == t["call"]).mean())
        for t in tables
    }
    base = result("x", task="ensemble")
    store = ResultStore(tmp_path)
    store.add(RunResult("x", base.key, "ok", "", scores, base.facts, pd.concat(tables)))

    found = summary(store).set_index("condition")

    assert (found["low"] < found["value"]).all()
    assert (found["value"] < found["high"]).all()
    assert set(found["over"]) == {"donors"}


def test_contrasts_come_back_from_plain_data():
    asked = study(contrasts=(Contrast("a", "b", conditions=("x", "y")),))

    assert Study.from_dict(asked.to_dict()) == asked


def test_cells_above_a_threshold_are_counted(tmp_path):
    store = ResultStore(tmp_path)
    table = pd.DataFrame(
        {
            "truth": ["new", "new", "old", "old"],
            "call": ["old"] * 4,
            "confidence": [0.2, 0.6, 0.9, np.nan],
            "novelty": [0.9, 0.4, 0.1, 0.5],
            "donor": "",
            "condition": "without new",
        }
    )
    base = result("x", task="novelty", condition="without new")
    store.add(
        RunResult("x", base.key, "ok", "", {("without new", "auroc"): 0.9}, base.facts, table)
    )

    by_novelty = threshold_curve(store, n=11).set_index(threshold_curve(store, n=11)["threshold"])
    sure = threshold_curve(store, score="confidence", n=11)

    assert by_novelty.loc[0.0, ["found", "lost"]].tolist() == [1.0, 1.0]
    assert by_novelty.iloc[5][["found", "lost"]].tolist() == [0.5, 0.5]
    assert by_novelty.iloc[9][["found", "lost"]].tolist() == [0.5, 0.0]
    # A cell without confidence is as doubtful as can be.
    assert sure.iloc[-1][["found", "lost"]].tolist() == [0.0, 0.5]
    text = report(store).markdown()
    assert "Thresholds of novelty\n\nPicture, on the HTML page: Cells of the type" in text
    assert threshold_curve(store, study="other").empty


def test_classes_are_compared_condition_by_condition(tmp_path):
    store = ResultStore(tmp_path)
    for model, right in (("good", 1.0), ("bad", 0.5)):
        tables = [said("one", right, 0), said("two", 0.5, 1)]
        scores = {(c, "f1_macro"): 0.5 for c in ("one", "two")}
        base = result("x", model=model)
        store.add(RunResult(model, base.key, "ok", "", scores, base.facts, pd.concat(tables)))

    found = class_differences(store, "good", "bad").set_index("class")

    # In one of the two conditions they are the same.
    (one,) = [class_table(t["truth"], t["call"])["f1"] for t in [said("one", 0.5, 0)]]
    assert found.loc["b", "difference"] == pytest.approx((1 - one["b"]) / 2)
    assert found.loc["a", "n_cells"] < 300
