"""The study of the paper: its smallest scale runs, and every set of the others can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from episome import plugins
from episome.benchmark import Study, lineup, load_data, parts_of, task_named
from episome.errors import UsageError
from episome.jobs import BenchmarkRequest, benchmark_run
from episome_sims.studies import sims

DATA = Path(os.environ.get("EPISOME_TEST_DATA", "")) / "data"
real = pytest.mark.skipif(not (DATA / "pbmc3k.h5ad").is_file(), reason="real data are not here")


def test_the_plugin_registers_it():
    spec = plugins.studies()["sims"]

    assert plugins.load_object(spec.target) is sims
    assert {s.task for s in sims("small")} == set(spec.tasks)


@pytest.mark.parametrize(("scale", "n_parts"), [("tiny", 4), ("small", 6), ("full", 5)])
def test_parts_have_names_of_their_own_and_come_back_from_plain_data(scale, n_parts):
    parts = sims(scale)

    assert len({p.name for p in parts}) == len(parts) == n_parts
    for part in parts:
        assert Study.from_dict(part.to_dict()).to_dict() == part.to_dict()
        task = task_named(part.task)
        task.options(dict(part.options))
        assert {n for c in part.contrasts for n in (c.first, c.second)} <= {
            e.shown for e in lineup(part, task.capability).entries
        }


def test_another_scale_is_refused():
    with pytest.raises(UsageError, match=r"no scale 'huge'.*E-B07"):
        sims("huge")


@real
def test_its_sets_are_there_and_can_be_split():
    for part in sims("small"):
        for entry in part.data:
            found = load_data(entry, DATA)
            for split in entry.splits:
                _, train, test = next(iter(parts_of(found, split, 0)))
                assert min(len(train), len(test)) > 30


@real
def test_seven_per_cent_are_of_the_papers_training_part():
    (part,) = [p for p in sims("small") if p.name == "sims-ablation"]
    found = load_data(part.data[0], DATA)

    _, train, _ = next(iter(parts_of(found, part.data[0].splits[0], 0)))

    assert len(train) == pytest.approx(0.64 * found.cells.n_obs, rel=0.02)


@pytest.mark.slow
def test_its_smallest_scale_ends_well(tmp_path):
    found = benchmark_run(BenchmarkRequest("sims", tmp_path, scale="tiny"))

    assert set(found.counts) == {"ok"}
    assert found.missing == {}
    text = (tmp_path / "sims.md").read_text()
    assert "SIMS is better than logreg" in text
    assert "not tested" not in text
    assert "Thresholds of novelty" in text
