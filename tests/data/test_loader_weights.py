"""Cells that are drawn by weights, and buffers that are read ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from episome.data import AnnDataSource, CellLoader, FeatureSpace, InputRule, simulate_cells
from episome.data._rule import QueryKind
from episome.errors import InputDataError, UsageError
from episome.models import SCTab


class OnDisk(AnnDataSource):
    """A source that is read in blocks, and says from where."""

    in_memory = False

    def __init__(self, adata):
        super().__init__(adata)
        self.threads: list[str] = []

    def read(self, rows):
        self.threads.append(threading.current_thread().name)
        return super().read(rows)


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(400, 12, n_types=3, seed=0)


def loader(source, **kwargs):
    alignment = FeatureSpace.from_var(source.var).align(source.var)
    return CellLoader(
        source,
        alignment,
        rule=InputRule("counts"),
        kind=QueryKind(unlog=False, normalise=True, note=""),
        batch_size=32,
        **{"shuffle": True, **kwargs},
    )


def drawn(found, n_epochs=1):
    rows = []
    for epoch in range(n_epochs):
        found.set_epoch(epoch)
        rows += [b["ind_x"] for b in found]
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", [AnnDataSource, OnDisk])
def test_cells_are_drawn_as_often_as_their_weights_say(cells, kind):
    weights = np.repeat([0.0, 1.0, 3.0, 0.0], 100)

    rows = drawn(loader(kind(cells), weights=weights), n_epochs=20)

    counts = np.bincount(rows, minlength=400).reshape(4, 100).sum(axis=1)
    assert len(rows) == 8000
    assert counts[0] == counts[3] == 0
    # Three quarters of 8,000 draws: 6,000, standard deviation 39.
    assert abs(counts[2] - 6000) < 200


def test_draws_are_the_same_in_memory_and_on_disk_and_follow_the_seed(cells):
    weights = np.arange(400) + 1.0
    one = drawn(loader(AnnDataSource(cells), weights=weights, seed=3))

    np.testing.assert_array_equal(one, drawn(loader(OnDisk(cells), weights=weights, seed=3)))
    assert (one != drawn(loader(AnnDataSource(cells), weights=weights, seed=4))).any()


def test_weights_are_of_the_rows_that_are_visited(cells):
    rows = np.array([7, 9, 300])

    found = drawn(loader(AnnDataSource(cells), rows=rows, weights=np.array([0, 1, 0])))

    assert set(found) == {9}


@pytest.mark.parametrize("weights", [[1.0], [-1.0] * 400, [np.nan] * 400, [0.0] * 400])
def test_weights_that_are_no_chances_are_refused(cells, weights):
    with pytest.raises(UsageError, match="E-U98"):
        loader(AnnDataSource(cells), weights=np.array(weights))


def test_an_epoch_of_draws_goes_on_where_it_was_left(cells):
    weights = np.arange(400) + 1.0
    whole = [b["ind_x"] for b in loader(OnDisk(cells), weights=weights, buffer_bytes=4000)]
    again = loader(OnDisk(cells), weights=weights, buffer_bytes=4000)

    again.load_state_dict({"epoch": 0, "batches": 5})

    for a, b in zip(again, whole[5:], strict=True):
        np.testing.assert_array_equal(a["ind_x"], b)


def test_the_next_buffer_is_read_in_a_thread_of_its_own(cells):
    source = OnDisk(cells)
    found = loader(source, buffer_bytes=4000)

    rows = drawn(found)

    assert sorted(rows) == list(range(400))
    buffers = [t for t in source.threads if t.startswith("episome-read")]
    assert len(buffers) > 3
    assert not [t for t in threading.enumerate() if t.name.startswith("episome-read")]


def test_an_error_of_the_reading_thread_reaches_the_caller(cells, monkeypatch):
    source = OnDisk(cells)
    found = loader(source, buffer_bytes=4000)
    batches = iter(found)
    next(batches)

    def broken(self, rows):
        raise InputDataError("E-D23", "the file is cut")

    monkeypatch.setattr(OnDisk, "read", broken)

    with pytest.raises(InputDataError, match="E-D23"):
        list(batches)


def test_training_draws_classes_alike_and_then_does_not_weigh_them(cells, monkeypatch):
    adata = cells[(cells.obs["cell_type"] != "type 0") | (np.arange(400) % 8 == 0)].copy()
    SCTab.setup_anndata(adata, labels_key="cell_type")
    model = SCTab(adata)
    seen, make = [], SCTab._make_plan

    def watched(self, data, *args, **kwargs):
        plan, facts = make(self, data, *args, **kwargs)
        seen.append((plan, data))
        return plan, facts

    monkeypatch.setattr(SCTab, "_make_plan", watched)

    model.train(max_epochs=1, datasplitter_kwargs={"sampling": "balanced"}, refit=False)

    plan, data = seen[0]
    assert plan.class_weights is None
    shares = np.bincount(data.labels[data.split.train], data.weights[data.split.train])
    np.testing.assert_allclose(shares, 1.0)


def test_sampling_by_a_column_changes_the_model_and_a_wrong_one_is_refused(cells):
    adata = cells.copy()
    adata.obs["often"] = np.where(adata.obs["cell_type"] == "type 1", 5.0, 1.0)
    SCTab.setup_anndata(adata, labels_key="cell_type")
    found = []
    for sampling in (None, "often"):
        model = SCTab(adata)
        kwargs = {} if sampling is None else {"sampling": sampling}
        model.train(max_epochs=2, datasplitter_kwargs=kwargs, refit=False)
        found.append(model.predict_proba(cells, calibrated=False)["type 1"].mean())

    assert found[1] > found[0]
    with pytest.raises(UsageError, match="E-U98"):
        SCTab(adata).train(max_epochs=1, datasplitter_kwargs={"sampling": "cell_type"})
    with pytest.raises(UsageError, match="E-U04"):
        SCTab(adata).train(max_epochs=1, datasplitter_kwargs={"sampling": "nothing"})
