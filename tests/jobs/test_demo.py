"""The demo: real cells, no network."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from episome import plugins, settings
from episome.cli import main
from episome.errors import InputFileError, PluginError
from episome.jobs import _demo, demo
from episome.plugins import ModelSpec


@pytest.fixture(scope="module", autouse=True)
def little():
    """A third of the cells and 100 genes, and the linear model alone; not for the slow test."""
    patch = pytest.MonkeyPatch()
    whole, spec, everything = _demo.load_demo_cells(), plugins.get_spec("logreg"), plugins.models
    patch.setattr(_demo, "load_demo_cells", lambda: whole[::3, :100].copy())
    patch.setattr(plugins, "models", lambda: {"logreg": spec})
    yield SimpleNamespace(whole=whole, models=everything, patch=patch)
    patch.undo()


@pytest.fixture(scope="module")
def made(little, tmp_path_factory):
    """One run, and what it reported."""
    seen = []
    folder = tmp_path_factory.mktemp("demo") / "demo"
    result = demo(folder, progress=lambda *args: seen.append(args[:3]))
    return SimpleNamespace(result=result, seen=seen, folder=folder)


def test_the_cells_are_log1p_and_come_with_scanpy(little):
    adata = little.whole

    assert adata.shape == (700, 765)
    assert adata.obs["bulk_labels"].nunique() == 10
    assert 0 <= adata.X.min() <= adata.X.max() < 15
    assert not adata.uns


def test_demo_writes_models_calls_and_pictures(made):
    folder = made.folder / "logreg"
    calls = pd.read_csv(folder / "calls.csv", index_col=0)
    (score,) = made.result.scores

    assert {p.name for p in folder.iterdir()} == {"model", "calls.csv", "confusion.png"}
    assert (calls["label"] == calls["true_label"]).mean() == pytest.approx(score.accuracy.value)
    assert score.accuracy.low < score.accuracy.value < score.accuracy.high
    assert made.result.n_train + made.result.n_test == 234
    assert len(calls) == made.result.n_test
    assert made.seen == [("LogisticRegression", 0, 1), ("LogisticRegression", 1, 1)]
    facts = json.loads((made.folder / "demo.json").read_text())
    assert facts["seed"] == settings.seed
    assert facts["scores"]["LogisticRegression"]["accuracy"][0] == score.accuracy.value


def test_the_files_hold_the_two_parts_and_the_query_no_labels(made):
    reference = anndata.read_h5ad(made.folder / "reference.h5ad")
    query = anndata.read_h5ad(made.folder / "query.h5ad")

    assert (reference.n_obs, query.n_obs) == (made.result.n_train, made.result.n_test)
    assert not set(reference.obs_names) & set(query.obs_names)
    assert list(query.obs) == []
    assert set(reference.obs["bulk_labels"]) >= set(
        pd.read_csv(made.folder / "logreg" / "calls.csv")["true_label"]
    )


def test_the_printed_commands_run(made):
    for command in made.result.commands:
        program, *arguments = shlex.split(command)
        assert program == "episome"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0

    assert (made.folder / "my-calls.csv").is_file()


def test_demo_replaces_its_own_folder_and_gives_the_same(made):
    again = demo(made.folder)

    assert again.scores[0].accuracy == made.result.scores[0].accuracy


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "a.txt").write_text("words")

    with pytest.raises(InputFileError, match=r"no demo made it.*-o.*E-F26"):
        demo(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "words"


def test_the_seed_chooses_the_cells(made, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "seed", 1)

    other = demo(tmp_path / "other")

    names = [anndata.read_h5ad(f / "query.h5ad").obs_names for f in (made.folder, other.output)]
    assert set(names[0]) != set(names[1])
    assert other.seed == 1


def test_without_a_model_that_takes_part_it_says_what_to_install(tmp_path, monkeypatch):
    other = ModelSpec(name="x", target="x:X", core="x:C", summary="x")
    monkeypatch.setattr(plugins, "models", lambda: {"x": other})

    with pytest.raises(PluginError, match=r"pip install episome-sctab.*E-P14"):
        demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_real_demo_beats_the_majority(tmp_path, monkeypatch, little):
    monkeypatch.setattr(plugins, "models", little.models)
    monkeypatch.setattr(_demo, "load_demo_cells", lambda: little.whole)

    result = demo(tmp_path / "demo")

    assert {s.model for s in result.scores} >= {"SCTab", "LogisticRegression"}
    assert (result.n_train, result.n_test, result.n_genes, result.n_classes) == (490, 210, 765, 10)
    by_model = {s.model: s for s in result.scores}
    assert by_model["LogisticRegression"].accuracy.value > 0.75
    assert by_model["SCTab"].accuracy.value > 0.6
    for score in result.scores:
        assert np.isfinite(score.macro_f1.low)
        assert (score.folder / "confusion.png").stat().st_size > 10_000
