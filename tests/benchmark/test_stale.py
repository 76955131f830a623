"""What a study asks for now is what its report is of; what decides a run is in its name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from _studies import entry, result, study

from episome.benchmark import (
    ModelEntry,
    ResultStore,
    SplitEntry,
    compare,
    perform,
    plan,
    ranks,
    report,
    run_study,
    summary,
    task_named,
)
from episome.data import simulate_cells
from episome.errors import InputFileError


class Here:
    """Does runs in this process."""

    def run(self, runs, store, report=None) -> None:
        for run in runs:
            store.add(perform(run))


def few(n: int) -> ModelEntry:
    return ModelEntry("logreg", "few genes", init={"n_top_genes": n})


def test_results_of_earlier_settings_are_not_of_the_study(folder, tmp_path):
    for n in (20, 3):
        run_study(study(models=(few(n),)), tmp_path, base=folder, executor=Here())
    store = ResultStore(tmp_path)

    assert len(store.table()) == 2 * len(store.current())
    (row,) = summary(store).query("metric == 'f1_macro'").itertuples()
    assert row.n_runs == 1
    assert "1 runs of earlier settings" in report(store).markdown()
    # Those of the first settings are there, and come back with them.
    again = run_study(study(models=(few(20),)), tmp_path, base=folder, executor=None)
    assert again.counts == {"ok": 1}
    (other,) = summary(store).query("metric == 'f1_macro'").itertuples()
    assert other.value != row.value


def test_a_part_of_a_study_leaves_the_rest_in_the_report(folder, tmp_path):
    whole = study(models=("centroid", few(20)))
    run_study(whole, tmp_path, base=folder, executor=Here(), command="run it")
    part = study(models=(few(5),))

    run_study(part, tmp_path, base=folder, executor=Here(), command="", partial=True)

    store = ResultStore(tmp_path)
    assert sorted(set(store.current()["model"])) == ["centroid", "few genes"]
    assert store.current()["run"].nunique() == 2
    assert "Again: run it" in report(store).markdown()


def test_joined_results_are_of_both_studies(folder, tmp_path):
    for place, model in (("a", "centroid"), ("b", "majority")):
        run_study(study(models=(model,)), tmp_path / place, base=folder, executor=Here())
    store = ResultStore(tmp_path / "a")

    store.merge([ResultStore(tmp_path / "b")])

    assert set(store.current()["model"]) == {"centroid", "majority"}


@pytest.fixture
def changed(tmp_path):
    """Writes cells with another donor, batch or embedding, and names the runs on them."""
    cells = simulate_cells(200, 40, n_types=3, n_donors=6, seed=0)
    cells.obs["batch"] = cells.obs["donor_id"].astype(str)
    cells.obsm["X_emb"] = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)

    def digests(change=None, *, models=("centroid",), **kwargs) -> set[str]:
        other = cells.copy()
        if change is not None:
            change(other)
        other.write_h5ad(tmp_path / "cells.h5ad")
        asked = study(models=models, data=(entry(batch_key="batch"),), **kwargs)
        return {r.digest for r in plan(asked, task_named("annotation"), tmp_path).runs}

    return digests


def shuffled(column: str):
    def change(cells) -> None:
        values = cells.obs[column].to_numpy(copy=True)
        cells.obs[column] = np.random.default_rng(1).permutation(values)

    return change


@pytest.mark.parametrize("column", ["donor_id", "batch"])
def test_cells_of_another_donor_or_batch_are_other_runs(changed, column):
    assert changed(shuffled(column)) != changed()


def test_columns_that_split_decide_runs_and_others_do_not(changed):
    where = {"splits": (SplitEntry("where", where=("side=left",)),)}

    def sided(cells, first: str = "left") -> None:
        cells.obs["side"] = np.where(np.arange(200) % 2, first, "right")

    before = changed(sided, **where)
    assert changed(lambda c: (sided(c), shuffled("side")(c)), **where) != before
    assert changed(lambda c: c.obs.insert(0, "note", "new")) == changed()


def test_another_embedding_is_another_run_of_its_model_alone(changed):
    def change(cells) -> None:
        cells.obsm["X_emb"] = cells.obsm["X_emb"][::-1].copy()

    models = (ModelEntry("embedding:X_emb"), "centroid")
    assert len(changed(change, models=models) & changed(models=models)) == 1


def test_splits_of_other_sizes_are_not_compared_with_each_other(folder, tmp_path):
    splits = tuple(SplitEntry("group", test_size=s) for s in (0.3, 0.5))
    run_study(
        study(models=("centroid", "majority"), splits=splits, seeds=(0, 1)),
        tmp_path,
        base=folder,
        executor=Here(),
    )

    found = compare(ResultStore(tmp_path), "centroid", "majority", metric="nll")

    assert [c.n_units for c in found] == [2, 2]


def test_a_damaged_result_is_run_again(folder, tmp_path, caplog):
    asked = study(models=("centroid",))
    run_study(asked, tmp_path, base=folder, executor=Here())
    (file,) = (tmp_path / "runs").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:50])

    again = run_study(asked, tmp_path, base=folder, executor=Here())

    assert again.counts == {"ok": 1}
    assert "is damaged: its run is repeated" in caplog.text
    (tmp_path / "studies" / "small.json").write_text("{")
    with pytest.raises(InputFileError, match="E-B02"):
        report(ResultStore(tmp_path))


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(folder, tmp_path):
    place = tmp_path / "file"
    place.write_text("")

    with pytest.raises(InputFileError, match="E-F27"):
        run_study(study(), place, base=folder / "gone")


def test_test_cells_of_unseen_types_are_counted(folder, tmp_path):
    data = (
        entry(
            keep=("cell_type!=type 1",),
            query="cells.h5ad",
            donor_key=None,
        ),
    )
    splits = (SplitEntry("query", allow=("barcode", "cell")),)
    run_study(
        study(models=("centroid",), data=data, splits=splits),
        tmp_path,
        base=folder,
        executor=Here(),
    )

    store = ResultStore(tmp_path)
    (n,) = set(store.table()["n_unseen"])
    cells = pd.read_parquet(next((tmp_path / "predictions").glob("*.parquet")))
    assert n > 0
    assert n + len(cells) == 300
    assert f"| cells | other file | {300 - n} | {300 - n} | {n} |" in report(store).markdown()


def test_cells_without_a_donor_are_no_clean_bill(tmp_path):
    cells = simulate_cells(200, 40, n_types=3, n_donors=6, seed=0)
    donors = cells.obs["donor_id"].astype(object)
    donors.iloc[:30] = None
    cells.obs["donor_id"] = pd.Categorical(donors)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run_study(study(models=("centroid",)), tmp_path / "o", base=tmp_path, executor=Here())

    text = report(ResultStore(tmp_path / "o")).markdown()

    assert "30 cells of cells have no donor: their donors may be in both parts." in text
    assert "No cell name or cell is in both parts" in text


def test_ranks_are_over_data_sets_not_over_their_conditions(tmp_path):
    store = ResultStore(tmp_path)
    for model in ("a", "b", "c"):
        for i in range(6):
            found = result(f"{model}{i}", model=model, condition=f"depth {i}", value=0.5)
            store.add(found)

    assert ranks(summary(store)) is None


def test_the_table_says_what_an_interval_is_over(folder, tmp_path):
    run_study(study(models=("centroid",)), tmp_path, base=folder, executor=Here())

    assert "(cells)" in report(ResultStore(tmp_path)).markdown()


def test_the_study_keeps_what_its_runs_are_of(folder, tmp_path):
    run_study(study(models=("centroid",)), tmp_path, base=folder, executor=Here())

    (runs,) = [s["runs"] for s in ResultStore(tmp_path).studies().values()]
    assert [json.loads(k)[0] for k in runs.values()] == ["small"]
