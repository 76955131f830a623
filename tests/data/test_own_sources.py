"""Addresses and endings that a plugin reads, wherever a path is taken."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from episome import models
from episome.cli import _app
from episome.data import (
    CellSource,
    CorpusSource,
    ManyCells,
    check_inputs,
    has_own_source,
    open_source,
    simulate_cells,
)
from episome.errors import InputFileError, PluginError, UsageError

PLUGIN = """
from episome.plugins import SourceSpec, hookimpl

EPISOME_API = (1, 0)

@hookimpl
def episome_register_sources():
    return (SourceSpec("NAME", "fake_store_SUFFIX:TARGET", schemes=("lab:",), suffixes=(".lab",)),)
"""
STORE = """
import numpy as np
from episome.data import AnnDataSource, simulate_cells

class Store(AnnDataSource):
    in_memory = False

    def __init__(self, address):
        n_obs = address.removesuffix(".lab").rpartition(":")[2].rpartition("/")[2]
        super().__init__(simulate_cells(int(n_obs), 40, n_types=3), name=address)
        self.notes = (f"read from {address}",)

def nothing(address):
    return {"cells": address}
"""


@pytest.fixture
def store(install):
    """A plugin whose source makes as many cells as its address says."""

    def add(name: str = "store", target: str = "Store") -> None:
        suffix = name.replace("-", "_")
        site = install(
            name,
            PLUGIN.replace("NAME", f"{name}-cells")
            .replace("SUFFIX", suffix)
            .replace("TARGET", target),
            module=f"fake_plugin_{suffix}",
        )
        (site / f"fake_store_{suffix}.py").write_text(STORE, encoding="utf-8")

    return add


def test_an_address_is_opened_by_its_plugin(store):
    store()

    source = open_source("lab:60")

    assert isinstance(source, CellSource)
    assert type(source).__name__ == "Store"
    assert source.n_obs == 60
    assert has_own_source("lab:60")
    assert check_inputs("lab:60")


def test_an_ending_is_read_by_its_plugin(store, tmp_path):
    store()
    (tmp_path / "70.lab").write_text("of a kind that the host does not know")

    assert open_source(tmp_path / "70.lab").n_obs == 70


def test_without_the_plugin_nothing_changes(fresh_manager, tmp_path):
    assert not has_own_source("lab:60")
    with pytest.raises(InputFileError, match=r"there is no such file.*E-F07"):
        check_inputs(tmp_path / "lab:60")


def test_what_the_host_reads_stays_its_own(store, tmp_path):
    store()
    simulate_cells(10, 5).write_h5ad(tmp_path / "10.h5ad")

    assert not has_own_source(tmp_path / "10.h5ad")
    assert not has_own_source(tmp_path)


def test_an_address_joins_files(store, tmp_path):
    store()
    simulate_cells(20, 40, seed=3).write_h5ad(tmp_path / "more.h5ad")

    many = ManyCells(["lab:30", tmp_path / "more.h5ad"])

    assert many.n_obs == 50
    assert np.array_equal(
        many.read(slice(0, 30)).toarray(), open_source("lab:30").read(slice(0, 30)).toarray()
    )


def test_a_model_is_made_of_an_address(store):
    store()
    model = models.LogisticRegression("lab:80")

    model.train()

    assert model.predict("lab:20").shape == (20,)


def test_train_and_corpus_take_what_a_plugin_reads(store, tmp_path):
    store()
    (tmp_path / "90.lab").write_text("90 cells")
    runner = CliRunner()

    trained = runner.invoke(
        _app.app,
        ["train", "centroid", "lab:80", "--labels-key", "cell_type", "--json"]
        + ["-o", str(tmp_path / "model")],
    )
    built = runner.invoke(
        _app.app, ["corpus", "build", str(tmp_path / "90.lab"), "-o", str(tmp_path / "corpus")]
    )

    assert trained.exit_code == 0, trained.output
    answer = json.loads(trained.stdout)
    assert answer["n_cells"] == 80
    assert answer["notes"] == ["read from lab:80"]
    assert built.exit_code == 0, built.output
    assert CorpusSource(tmp_path / "corpus").n_obs == 90


def test_annotate_takes_what_a_plugin_reads(store, tmp_path):
    store()
    (tmp_path / "70.lab").write_text("70 cells")
    runner, model = CliRunner(), str(tmp_path / "model")
    train = ["train", "centroid", "lab:80", "--labels-key", "cell_type", "-o", model]
    assert runner.invoke(_app.app, train).exit_code == 0

    by_address = runner.invoke(
        _app.app, ["annotate", "lab:60", "-m", model, "-o", str(tmp_path / "a.csv"), "--json"]
    )
    by_ending = runner.invoke(
        _app.app,
        ["annotate", str(tmp_path / "70.lab"), "-m", model, "-o", str(tmp_path / "b.parquet")],
    )
    as_copy = runner.invoke(
        _app.app, ["annotate", "lab:60", "-m", model, "-o", str(tmp_path / "c.h5ad")]
    )

    assert by_address.exit_code == 0, by_address.output
    assert json.loads(by_address.stdout)["inputs"] == [{"path": "lab:60"}]
    calls = pd.read_csv(tmp_path / "a.csv", index_col=0)
    assert list(calls.index) == list(open_source("lab:60").obs_names)
    assert by_ending.exit_code == 0, by_ending.output
    assert len(pd.read_parquet(tmp_path / "b.parquet")) == 70
    assert (as_copy.exit_code, "those of an address in lab:60" in as_copy.stderr) == (2, True)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "no/such/folder"])
def test_what_cannot_be_a_path_is_told_by_the_reader(fresh_manager, name):
    assert not has_own_source(name)
    with pytest.raises(InputFileError, match=r"E-F07"):
        open_source(name)


# -- refusals ------------------------------------------------------------------------------------


def test_two_plugins_for_one_address_are_refused(store):
    store()
    store("other-store")

    with pytest.raises(PluginError, match=r"more than one plugin.*store:store-cells.*E-P03"):
        open_source("lab:60")


def test_what_is_no_source_is_refused(store):
    store(target="nothing")

    with pytest.raises(PluginError, match=r"returned a dict, and no CellSource.*E-P06"):
        open_source("lab:60")


def test_a_source_that_fails_is_named_with_its_plugin(store):
    store()

    with pytest.raises(PluginError, match=r"plugin store.*ValueError.*E-P02"):
        open_source("lab:sixty")


def test_a_place_of_values_is_refused(store):
    store()

    with pytest.raises(UsageError, match=r"`layer` is given for what store reads.*E-U27"):
        open_source("lab:60", layer="counts")
