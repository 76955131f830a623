"""The report: one file that says what was found, what leaked and what failed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from _studies import entry, result, study

from episome.benchmark import (
    ModelEntry,
    ResultStore,
    SplitEntry,
    perform,
    plan,
    report,
    task_named,
)
from episome.errors import UsageError
from episome.report import Page, Table, Text


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    """Three data sets of three models, one of which fails, with an allowed leak."""
    found = ResultStore(tmp_path_factory.mktemp("results"))
    sets = tuple(
        type(entry())(f"set {i}", "cells.h5ad", labels_key="cell_type", donor_key="donor_id")
        for i in range(3)
    )
    broken = ModelEntry("centroid", "broken", train={"max_epochs": 1})
    asked = study(
        models=("centroid", "majority", "logreg", broken, "nobody"),
        data=sets,
        splits=(SplitEntry("random", allow=("donor",)),),
        summary="Which one <b>wins</b>?",
        published=({"model": "theirs", "f1_macro": 0.99},),
    )
    planned = plan(asked, task_named("annotation"), folder)
    found.remember_study(asked.name, {**asked.to_dict(), "missing": dict(planned.missing)})
    for run in planned.runs:
        found.add(perform(run))
    return found


def test_the_report_says_everything(store):
    text = report(store).markdown()

    assert "| logreg |" in text
    assert re.search(r"Allowed by the study \(set 0, random cells\): donor: \d+ of", text)
    assert "nobody took no part: no installed plugin has it" in text
    assert "max_epochs" in text
    assert "Mean rank by f1_macro" in text
    assert text.index("| theirs |") > text.index("are not comparable")
    assert "E-L20" not in text
    assert "episome " in text
    best = text.index("| logreg |")
    assert best < text.index("| majority |")


def test_the_page_needs_nothing_else_and_hides_no_markup(store, tmp_path):
    path = report(store).write(tmp_path / "r.html")

    html = path.read_text()
    assert len(html) < 3_000_000
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)", html)
    assert "Which one &lt;b&gt;wins&lt;/b&gt;?" in html
    assert html.count("<svg") == 1
    assert re.search(r'aria-label="f1_macro of 3 models on 3 splits; \w+ is best', html)
    held = re.search(r'id="episome-data">(.*?)</script>', html, re.S).group(1)
    assert json.loads(held)["studies"]["small"]["task"] == "annotation"


def test_a_leak_that_was_refused_is_on_top(folder, tmp_path):
    store = ResultStore(tmp_path)
    for run in plan(
        study(models=("centroid",), splits=(SplitEntry("random"),)),
        task_named("annotation"),
        folder,
    ).runs:
        store.add(perform(run))

    text = report(store).markdown()

    assert "Refused: training and test share: donor" in text
    assert "No donor, cell name or cell is in both parts" not in text


def test_donors_that_nobody_names_are_not_said_to_be_apart(folder, tmp_path):
    store = ResultStore(tmp_path)
    asked = study(
        models=("centroid",), data=(entry(donor_key=None),), splits=(SplitEntry("random"),)
    )
    for run in plan(asked, task_named("annotation"), folder).runs:
        store.add(perform(run))

    text = report(store).markdown()

    assert "No cell name or cell is in both parts" in text
    assert "No donors are named for cells" in text


def test_no_results_are_no_report(tmp_path, store):
    with pytest.raises(UsageError, match="E-B13"):
        report(ResultStore(tmp_path))
    with pytest.raises(UsageError, match="small.*E-B13"):
        report(store, "other")


def test_conditions_are_in_the_order_of_their_numbers(tmp_path):
    store = ResultStore(tmp_path)
    for share in (100, 50, 9):
        name = f"without {share} % of the genes"
        store.add(replace(result(f"r{share}"), scores={(name, "accuracy"): 0.5}))

    text = report(store).markdown()

    places = [text.index(f"without {share} %") for share in (9, 50, 100)]
    assert places == sorted(places)


def test_results_of_a_task_that_is_gone_are_still_shown(tmp_path):
    store = ResultStore(tmp_path)
    store.add(result("x", task="of a plugin"))

    assert "of a plugin" in report(store).markdown()


def test_tables_show_few_digits_and_sort_by_all_of_them():
    frame = pd.DataFrame({"name": ["a|b", None], "value": [0.12345, float("nan")], "n": [1200, 3]})
    page = Page("t", "lead")
    page.add("One", Text("words", badge="good"), Table(frame, "said"))

    assert "| a\\|b | 0.123 | 1,200 |" in page.markdown()
    html = page.html()
    assert 'data-by="0.12345">0.123<' in html
    assert '<p class="good">words</p>' in html
    assert "<caption>said</caption>" in html


def test_data_cannot_end_the_script():
    page = Page("t", data={"x": "</script><script>alert(1)</script>"})

    assert "</script><script>alert" not in page.html()


def test_a_task_adds_sections_of_its_own(store, monkeypatch):
    cls = type(task_named("annotation"))
    asked = []

    def sections(self, given, study):
        asked.append((given, study))
        return {"Own words": [Text("what the task says")]}

    monkeypatch.setattr(cls, "sections", sections)

    page = report(store)

    # Heat maps hold pictures; nothing else is loaded, from nowhere.
    assert "default-src 'none'; img-src data:;" in page.html()
    assert page.sections["Own words"][0].text == "what the task says"
    assert [(s is store, name) for s, name in asked] == [(True, store.table()["study"].iloc[0])]
