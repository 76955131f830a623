"""The study of the paper: its smallest scale runs, and every set of the others can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from episome import plugins
from episome.benchmark import Study, lineup, load_data, parts_of, task_named
from episome.errors import UsageError
from episome.jobs import BenchmarkRequest, benchmark_run
from episome_ssl.studies import CELL_TYPES, FACTORS, ssl

DATA = Path(os.environ.get("EPISOME_TEST_DATA", "")) / "data"
real = pytest.mark.skipif(not (DATA / "pbmc3k.h5ad").is_file(), reason="real data are not here")


def test_the_plugin_registers_it():
    spec = plugins.studies()["ssl"]

    assert plugins.load_object(spec.target) is ssl
    assert {s.task for s in ssl("small")} == {*spec.tasks, "annotation"}


@pytest.mark.parametrize(("scale", "n_parts"), [("tiny", 4), ("small", 7), ("full", 5)])
def test_parts_have_names_of_their_own_and_come_back_from_plain_data(scale, n_parts):
    parts = ssl(scale)

    assert len({p.name for p in parts}) == len(parts) == n_parts
    for part in parts:
        assert Study.from_dict(part.to_dict()).to_dict() == part.to_dict()
        task = task_named(part.task)
        task.options(dict(part.options))
        assert {n for c in part.contrasts for n in (c.first, c.second)} <= {
            e.shown for e in lineup(part, task.capability).entries
        }


def test_no_two_entries_of_a_part_are_the_same_model():
    for scale in ("tiny", "small", "full"):
        for part in ssl(scale):
            plain = [{k: v for k, v in m.items() if k != "name"} for m in part.to_dict()["models"]]
            assert all(plain.count(m) == 1 for m in plain), (scale, part.name)


def test_another_scale_is_refused():
    with pytest.raises(UsageError, match=r"no scale 'huge'.*E-B07"):
        ssl("huge")


@pytest.mark.slow
@real
def test_its_sets_and_gene_sets_are_there_and_can_be_split():
    assert (DATA / CELL_TYPES).is_file()
    assert (DATA / FACTORS).is_file()
    for part in ssl("small"):
        for entry in part.data:
            found = load_data(entry, DATA)
            for split in entry.splits:
                _, train, test = next(iter(parts_of(found, split, 0)))
                assert min(len(train), len(test)) > 30
        for model in part.models:
            for entry in model.pretrain.data if model.pretrain is not None else ():
                assert load_data(entry, DATA, labels=False).cells.n_obs > 1000


@pytest.mark.slow
def test_its_smallest_scale_ends_well(tmp_path):
    found = benchmark_run(BenchmarkRequest("ssl", tmp_path, scale="tiny"))

    assert set(found.counts) == {"ok"}
    assert found.missing == {}
    text = (tmp_path / "ssl.md").read_text()
    assert "random_mask: pretraining helps" in text
    assert "not tested" not in text
    assert "pretrain_seconds" in text
