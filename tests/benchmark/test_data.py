"""Data sets of a study: columns, expressions, parts, digests."""

from __future__ import annotations

import numpy as np
import pytest
from _studies import entry
from scipy import sparse

from episome.benchmark import DataEntry, SplitEntry, TaskData, content_digest, load_data
from episome.benchmark._data import DONOR, LABEL, parts_of
from episome.errors import InputDataError, UsageError


def test_labels_come_under_one_name_and_cells_without_one_take_no_part(folder):
    names = {"type 0": "first", "type 1": "second", "type 2": "second"}

    found = load_data(entry(names=names), folder)

    assert set(found.cells.obs[LABEL]) == {"first", "second"}
    assert found.donor_key == DONOR


def test_without_columns_the_doctor_proposes_them(folder):
    found = load_data(DataEntry("cells", "cells.h5ad"), folder)

    assert (found.cells.obs[LABEL] == found.cells.obs["cell_type"].astype(str)).all()


def test_an_expression_chooses_cells(folder, cells):
    found = load_data(entry(keep=("site=1|2", "cell_type!=type 0")), folder)

    wanted = cells.obs["site"].isin(["1", "2"]) & (cells.obs["cell_type"] != "type 0")
    assert found.cells.n_obs == wanted.sum()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels_key": "cell_typ"}, "did you mean `cell_type`.*E-U04"),
        ({"donor_key": "gone"}, "'gone' is missing.*E-U04"),
        ({"batch_key": "gone"}, "'gone' is missing.*E-U04"),
        ({"keep": ("gone=1",)}, "'gone' is missing.*E-U04"),
        ({"keep": ("site",)}, "E-U90"),
        ({"keep": ("@print(1)",)}, "E-U90"),
    ],
)
def test_columns_and_expressions_that_are_none_are_refused(folder, change, match):
    with pytest.raises(UsageError, match=match):
        load_data(entry(**change), folder)


def test_the_values_of_the_slot_that_is_named_are_in_x(cells, tmp_path):
    other = cells.copy()
    other.layers["counts"] = other.X.copy()
    other.raw = other
    other.X = np.log1p(other.X)
    other.write_h5ad(tmp_path / "cells.h5ad")

    for slot in ({"layer": "counts"}, {"use_raw": True}):
        found = load_data(entry(**slot), tmp_path).cells
        assert (found.X != cells.X).nnz == 0
        assert list(found.var_names) == list(cells.var_names)


def test_a_data_set_without_cells_is_refused(folder):
    with pytest.raises(InputDataError, match="E-B06"):
        load_data(entry(names={"other": "x"}), folder)


@pytest.mark.parametrize("seed", [0, 1])
def test_whole_groups_are_held_out(folder, seed):
    data = load_data(entry(), folder)

    ((_, train, test),) = parts_of(data, SplitEntry("group", test_size=0.3), seed)

    donors = data.cells.obs[DONOR].to_numpy(dtype=str)
    assert not set(donors[train]) & set(donors[test])
    assert 0.1 < len(test) / data.cells.n_obs < 0.5
    again = list(parts_of(data, SplitEntry("group", test_size=0.3), seed))
    assert (again[0][2] == test).all()


def test_another_seed_holds_out_others(folder):
    data = load_data(entry(), folder)
    split = SplitEntry("random")

    first, second = (next(parts_of(data, split, seed))[2] for seed in (0, 1))

    assert set(first) != set(second)
    labels = data.cells.obs[LABEL].to_numpy(dtype=str)
    for name in np.unique(labels):
        assert np.isin(np.flatnonzero(labels == name), first).mean() == pytest.approx(
            0.3, abs=0.02
        )


def test_folds_hold_every_cell_out_once(folder):
    data = load_data(entry(), folder)

    found = list(parts_of(data, SplitEntry("kfold", n_folds=3), 0))

    assert sorted(np.concatenate([test for _, _, test in found])) == list(range(data.cells.n_obs))
    donors = data.cells.obs[DONOR].to_numpy(dtype=str)
    assert all(not set(donors[a]) & set(donors[b]) for _, a, b in found)


def test_an_expression_and_another_column_hold_out(folder):
    data = load_data(entry(), folder)

    ((_, train, test),) = parts_of(data, SplitEntry("where", where=("site=1",)), 0)
    assert set(data.cells.obs["site"].iloc[test]) == {"1"}
    assert "1" not in set(data.cells.obs["site"].iloc[train])

    ((_, _, by_site),) = parts_of(data, SplitEntry("group", column="site", test_size=0.2), 0)
    assert 1 <= data.cells.obs["site"].iloc[by_site].nunique() <= 2
    with pytest.raises(UsageError, match="E-B05"):
        next(parts_of(data, SplitEntry("group", column="gone"), 0))


def test_another_file_is_the_test_part(folder, cells, tmp_path):
    other = cells[:80, ::-1].copy()
    other.obs["kind"] = other.obs.pop("cell_type").astype(str).replace("type 3", "new")
    other.write_h5ad(folder / "other.h5ad")
    two = entry(query="other.h5ad", query_labels_key="kind", keep=("site!=1",))

    data = load_data(two, folder)
    ((_, train, test),) = parts_of(data, SplitEntry("query"), 0)

    assert data.query is not None
    assert list(data.query.var_names) == list(data.cells.var_names)
    assert "new" not in set(data.query.obs[LABEL])
    assert len(test) == data.query.n_obs
    assert len(train) == data.cells.n_obs
    with pytest.raises(UsageError, match="E-B04"):
        next(parts_of(load_data(entry(), folder), SplitEntry("query"), 0))


def test_the_digest_is_of_the_values_not_of_their_form(folder):
    data = load_data(entry(), folder)
    same = content_digest(data)

    for form in (sparse.csc_matrix, lambda x: x.toarray(), sparse.csr_array):
        cells = data.cells.copy()
        cells.X = form(cells.X)
        assert content_digest(TaskData(data.entry, cells)) == same
    changed = data.cells.copy()
    changed.X[0, 0] += 1
    assert content_digest(TaskData(data.entry, changed)) != same
    relabelled = data.cells.copy()
    relabelled.obs[LABEL] = relabelled.obs[LABEL].to_numpy()[::-1]
    assert content_digest(TaskData(data.entry, relabelled)) != same
