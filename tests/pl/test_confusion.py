"""The confusion picture, by what is drawn."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from episome.pl import confusion

TRUTH = ["a"] * 6 + ["b"] * 3 + ["c"]
CALLED = ["a"] * 3 + ["b"] * 3 + ["b"] * 3 + ["d"]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def shares(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def test_rows_are_shares_of_the_true_class_by_size():
    ax = confusion(TRUTH, CALLED)

    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c", "d"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a (6)", "b (3)", "c (1)", "d (0)"]
    np.testing.assert_allclose(
        shares(ax), [[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    )


def test_given_axes_are_used_and_returned():
    figure, mine = plt.subplots()

    ax = confusion(TRUTH, CALLED, ax=mine, title="Mine")

    assert ax is mine
    assert ax.get_title() == "Mine"
    assert plt.get_fignums() == [figure.number]


def test_order_of_classes_can_be_given():
    ax = confusion(["a", "b"], ["a", "a"], labels=["b", "a"])

    np.testing.assert_allclose(shares(ax), [[0, 1], [0, 1]])


def test_shares_are_written_where_there_is_room():
    few = confusion(TRUTH, CALLED)
    many = confusion([f"t{i}" for i in range(60)], [f"t{i}" for i in range(60)])

    assert sorted(t.get_text() for t in few.texts) == ["100", "100", "50", "50"]
    assert len(many.texts) == 0
    assert many.figure.get_size_inches().max() <= 25


def test_long_names_are_shortened():
    ax = confusion(["x" * 100, "b"], ["b", "b"])

    assert max(len(t.get_text()) for t in ax.get_xticklabels()) == 32
