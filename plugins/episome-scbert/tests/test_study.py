"""The study of the paper: its smallest scale runs, and every set of the others can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from episome import plugins
from episome.benchmark import Study, lineup, load_data, parts_of, task_named
from episome.errors import InputDataError, UsageError
from episome.jobs import BenchmarkRequest, benchmark_run
from episome_scbert.studies import MARKERS, scbert

DATA = Path(os.environ.get("EPISOME_TEST_DATA", "")) / "data"
real = pytest.mark.skipif(not (DATA / "pbmc3k.h5ad").is_file(), reason="real data are not here")


def test_the_plugin_registers_it():
    spec = plugins.studies()["scbert"]

    assert plugins.load_object(spec.target) is scbert
    assert {s.task for s in scbert("small")} == set(spec.tasks)


@pytest.mark.parametrize(("scale", "n_parts"), [("tiny", 8), ("small", 9), ("full", 9)])
def test_parts_have_names_of_their_own_and_come_back_from_plain_data(scale, n_parts):
    parts = scbert(scale)

    assert len({p.name for p in parts}) == len(parts) == n_parts
    for part in parts:
        assert Study.from_dict(part.to_dict()).to_dict() == part.to_dict()
        task = task_named(part.task)
        task.options(dict(part.options))
        assert {n for c in part.contrasts for n in (c.first, c.second)} <= {
            e.shown for e in lineup(part, task.capability).entries
        }


def test_linear_models_of_both_penalties_stand_beside_it_in_every_comparison():
    for part in scbert("small"):
        shown = {e.shown for e in part.models}
        assert {"logreg L2", "logreg L1"} <= shown or part.name == "scbert-sensitivity"


def test_the_sensitivity_covers_bins_width_heads_and_layers():
    part = next(p for p in scbert("small") if p.name == "scbert-sensitivity")
    varied = {k for e in part.models for k in e.init}

    assert {"n_bins", "binning", "dim", "heads", "depth"} <= varied
    assert any(e.init.get("dim") == 50 for e in part.models)


def test_another_scale_is_refused():
    with pytest.raises(UsageError, match=r"no scale 'huge'.*E-B07"):
        scbert("huge")


@real
def test_its_sets_are_there_and_can_be_split():
    assert (DATA / MARKERS).is_file()
    for part in scbert("small"):
        for entry in part.data:
            found = load_data(entry, DATA)
            for split in entry.splits:
                _, train, test = next(iter(parts_of(found, split, 0)))
                assert min(len(train), len(test)) > 30


@pytest.mark.slow
def test_its_smallest_scale_ends_well(tmp_path):
    found = benchmark_run(BenchmarkRequest("scbert", tmp_path, scale="tiny"))

    assert set(found.counts) == {"ok"}
    assert found.missing == {}
    text = (tmp_path / "scbert.md").read_text()
    assert "pretraining on the same cells helps" in text
    assert "without 100 % of the markers" in text or "without 100% of the markers" in text


def test_cells_that_are_tested_on_are_refused_in_pretraining():
    from episome.benchmark import Pretraining, find_leaks, require_no_leaks
    from episome.testing import synthetic_adata

    assert Pretraining("scbert").allow == ()
    cells = synthetic_adata(40, 30)
    with pytest.raises(InputDataError, match="E-L20"):
        require_no_leaks(find_leaks(cells, cells[:10].copy()), (), where="pretraining")
