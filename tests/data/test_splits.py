"""Splits of training cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome import settings
from episome.data import given_split, split_cells, stratified_halves
from episome.errors import UsageError


def cells(seed, n=200, n_classes=5, n_donors=8, unknown=0.1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, n_classes, n)
    donors = np.array([f"d{i}" for i in rng.integers(0, n_donors, n)], dtype=object)
    donors[rng.random(n) < unknown] = None
    return labels, donors


@given(
    seed=st.integers(0, 500),
    train=st.sampled_from([0.5, 0.7, 0.8, 0.9]),
    n_donors=st.integers(1, 9),
)
def test_split_covers_every_labelled_cell_once_and_keeps_every_class_in_training(
    seed, train, n_donors
):
    labels, donors = cells(seed, n_donors=n_donors)

    split = split_cells(
        labels, donors=donors, train_size=train, validation_size=(1 - train) / 2, seed=seed
    )

    rows = np.concatenate([split.train, split.validation, split.test])
    assert sorted(rows) == np.flatnonzero(labels >= 0).tolist()
    assert set(labels[split.train]) == set(labels[labels >= 0])


@given(seed=st.integers(0, 500))
def test_donors_never_stand_on_two_sides(seed):
    labels, donors = cells(seed)

    split = split_cells(labels, donors=donors, train_size=0.6, validation_size=0.2, seed=seed)

    parts = [set(donors[p]) - {None} for p in (split.train, split.validation, split.test)]
    assert split.by == "donor"
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


@given(seed=st.integers(0, 500))
def test_cells_without_a_definite_donor_stay_in_training(seed):
    labels, donors = cells(seed, unknown=0.4)

    split = split_cells(labels, donors=donors, train_size=0.6, validation_size=0.2, seed=seed)

    assert None not in set(donors[split.validation]) | set(donors[split.test])


def test_few_donors_are_split_by_cell():
    labels, donors = cells(0, n_donors=3)

    assert split_cells(labels, donors=donors).by == "cell"
    assert split_cells(labels, donors=donors, min_donors=3).by == "donor"
    assert split_cells(labels).by == "cell"


def test_cells_are_drawn_within_each_class():
    labels = np.repeat([0, 1, 2], [100, 40, 10])

    split = split_cells(labels, train_size=0.8, validation_size=0.2)

    assert np.bincount(labels[split.validation]).tolist() == [20, 8, 2]


@pytest.mark.parametrize(
    "donors", [None, np.array(["a", "b", "c", "d"] * 10 + ["a"], dtype=object)]
)
def test_a_class_of_one_cell_is_a_training_cell(donors):
    labels = np.array([0] * 20 + [1] * 20 + [2])

    for seed in range(10):
        split = split_cells(labels, donors=donors, train_size=0.5, seed=seed)
        assert 40 in split.train


def test_sizes_have_the_defaults_of_scvi_tools():
    labels = np.zeros(100, dtype=int)

    assert len(split_cells(labels).validation) == 10
    assert len(split_cells(labels, train_size=0.7).validation) == 30
    assert len(split_cells(labels, validation_size=0.2).train) == 80
    assert len(split_cells(labels, train_size=0.7, validation_size=0.1).test) == 20
    assert len(split_cells(labels, train_size=1.0).validation) == 0


@pytest.mark.parametrize("sizes", [(0.0, None), (1.1, 0.0), (0.9, 0.2), (0.5, 1.0), (0.5, -0.1)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match=r"To fix: train_size=0.9, validation_size=0.1.*E-U10"):
        split_cells(np.zeros(10, dtype=int), train_size=sizes[0], validation_size=sizes[1])


def test_the_same_seed_gives_the_same_split(monkeypatch):
    labels, donors = cells(1)
    digests = [split_cells(labels, donors=donors, seed=s).digest for s in (0, 0, 1)]
    monkeypatch.setattr(settings, "seed", 1)

    assert digests[0] == digests[1] != digests[2]
    assert split_cells(labels, donors=donors).digest == digests[2]


def test_a_given_split_is_checked():
    split = given_split([[3, 1], np.array([2])], 5, seed=4)

    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == (
        [1, 3],
        [2],
        [],
    )
    assert (split.by, split.seed) == ("given", 4)
    for parts in ([[0, 1], [1]], [[0, 5]], [[-1, 0]]):
        with pytest.raises(UsageError, match=r"overlap or are out of range.*E-U11"):
            given_split([np.array(p) for p in parts], 5, seed=0)


def test_stratified_halves_hold_out_a_share_of_every_class():
    labels = np.repeat([0, 1], [30, 10])

    train, test = stratified_halves(labels, test_size=0.3)

    assert np.bincount(labels[test]).tolist() == [9, 3]
    assert not set(train) & set(test)


def test_cells_without_a_donor_only_train_where_few_donors_are_known():
    labels = np.arange(100) % 2
    donors = np.array(["a", "b", None, None] * 25, dtype=object)

    split = split_cells(labels, donors=donors, train_size=0.6, validation_size=0.2)

    assert split.by == "cell"
    held_out = np.concatenate([split.validation, split.test])
    assert len(held_out) == 40
    assert all(donors[held_out] != np.array(None))
