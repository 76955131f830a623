"""Results: whole files, joined and continued."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from _studies import result

from episome.benchmark import ResultStore
from episome.errors import InputFileError, UsageError
from episome.io._atomic import _temporary


def test_a_run_has_a_row_per_metric_and_a_failed_one_has_one(tmp_path):
    store = ResultStore(tmp_path)
    store.add(result("x"))
    store.add(result("y", "failed", seed=1))

    table = store.table()

    assert table[["seed", "metric", "value", "status"]].values.tolist()[:2] == [
        [0, "accuracy", 0.7, "ok"],
        [0, "f1_macro", 0.5, "ok"],
    ]
    assert table["status"].tolist() == ["ok", "ok", "failed"]
    assert np.isnan(table["value"].iloc[2])
    assert table["reason"].iloc[2] == "why"
    assert store.predictions("x")["call"].tolist() == ["b"]
    assert store.runs() == ["x", "y"]
    assert (store.has("x"), store.has("z")) == (True, False)


def test_what_was_being_written_is_no_result(tmp_path):
    store = ResultStore(tmp_path)
    store.add(result("x"))
    store._write(tmp_path / "runs" / "y.parquet", store.table())
    half = _temporary(tmp_path / "runs" / "y.parquet")
    (tmp_path / "runs" / "y.parquet").rename(half)

    assert half.suffix == ".parquet"
    assert store.runs() == ["x"]
    assert len(store.table()) == 2


def test_an_empty_store_has_an_empty_table(tmp_path):
    assert ResultStore(tmp_path / "none").table().empty
    assert ResultStore(tmp_path / "none").predictions("x") is None


def test_stores_are_joined_and_what_failed_is_replaced(tmp_path):
    one, two = ResultStore(tmp_path / "one"), ResultStore(tmp_path / "two")
    one.add(result("a", value=0.1))
    one.add(result("b", "failed", seed=1))
    two.add(result("a", value=0.9))
    two.add(result("b", seed=1))
    two.add(result("c", "timeout", seed=2))
    two.remember_study("s", {"name": "s"})

    assert one.merge([two]) == 2

    table = one.table().query("metric != 'accuracy'")
    assert table["value"].tolist()[:2] == [0.1, 0.5]
    assert table["status"].tolist() == ["ok", "ok", "timeout"]
    assert one.studies() == {"s": {"name": "s"}}
    assert one.predictions("b") is not None
    assert one.merge([two]) == 0


def test_a_folder_without_results_cannot_be_joined(tmp_path):
    with pytest.raises(UsageError, match="E-B01"):
        ResultStore(tmp_path / "one").merge([ResultStore(tmp_path / "two")])


def test_a_damaged_result_is_named(tmp_path):
    store = ResultStore(tmp_path)
    store.add(result("x"))
    (tmp_path / "runs" / "x.parquet").write_bytes(b"half a file")

    with pytest.raises(InputFileError, match=r"x\.parquet.*E-B02"):
        store.table()


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_the_table_is_one_file(tmp_path, end):
    store = ResultStore(tmp_path / "s")
    store.add(result("x"))
    path = tmp_path / f"all.{end}"

    store.export(path)

    read = pd.read_csv(path) if end == "csv" else pd.read_parquet(path)
    assert read["value"].tolist() == [0.7, 0.5]
    with pytest.raises(InputFileError, match="E-F26"):
        store.export(path)
    store.export(path, overwrite=True)
