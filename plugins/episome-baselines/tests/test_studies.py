"""The study of all annotators: its smallest scale is run, its sets are read where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from episome import plugins
from episome.benchmark import Study, find_leaks, load_data, parts_of, report, run_study
from episome.benchmark import require_no_leaks as require
from episome.errors import UsageError


def study(scale: str) -> Study:
    spec = plugins.studies()["annotators"]
    return plugins.load_object(spec.target, plugin=spec.plugin)(scale)


def test_the_smallest_scale_runs_all_installed_annotators(tmp_path: Path) -> None:
    fast = study("tiny").only(models=["centroid", "majority", "logreg"])

    found = run_study(fast, tmp_path)

    # Nearest neighbours come as a model that is always there.
    assert found.counts == {"ok": 4}
    table = found.store.table().query("metric == 'f1_macro'").set_index("model")["value"]
    assert table["logreg"] > table["majority"]
    assert "No donor, cell name or cell is in both parts" in report(found.store).markdown()


def test_there_is_no_other_scale() -> None:
    with pytest.raises(UsageError, match="E-B07"):
        study("full")


@pytest.fixture
def real_data() -> Path:
    """Folder of the public sets."""
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA names no folder with real data")
    return Path(folder) / "data"


def test_the_public_sets_hold_no_leak_but_the_one_that_is_meant(real_data: Path) -> None:
    small = study("small")
    assert len(small.data) == 7

    for entry in small.data:
        data = load_data(entry, real_data)
        for split in entry.splits:
            for _, train, test in parts_of(data, split, 0):
                other = data.cells if data.query is None else data.query
                leaks = find_leaks(data.cells[train], other[test], donor_key=data.donor_key)
                require(leaks, split.allow, where=entry.name)
                assert {leak.kind for leak in leaks} == set(split.allow)
