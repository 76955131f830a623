"""Heat maps and curves, by what is drawn."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from episome.pl import heatmap, scaling_curves


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_numbers_are_drawn_in_their_order_and_gaps_stay_empty():
    table = pd.DataFrame([[0.1, np.nan], [0.9, 0.5]], index=["β", "a"], columns=["x", "y"])

    ax = heatmap(table, label="r2", title="Mixes")

    assert [t.get_text() for t in ax.get_yticklabels()] == ["β", "a"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y"]
    assert sorted(t.get_text() for t in ax.texts) == ["0.10", "0.50", "0.90"]
    assert ax.images[0].get_clim() == (0.1, 0.9)
    assert ax.get_title() == "Mixes"


@pytest.mark.parametrize("shape", [(1, 1), (200, 2)])
def test_one_number_and_many_rows(shape):
    ax = heatmap(pd.DataFrame(np.zeros(shape)), center=0.0)

    assert len(ax.texts) == (1 if shape == (1, 1) else 0)
    low, high = ax.images[0].get_clim()
    assert low < 0 < high
    assert len(heatmap(pd.DataFrame([[np.nan]])).texts) == 0


def test_a_centre_is_in_the_middle_of_the_colours_and_given_axes_are_used():
    mine = plt.subplots()[1]

    ax = heatmap(pd.DataFrame([[-1.0, 3.0]]), center=0.0, ax=mine)

    assert ax is mine
    assert ax.images[0].get_clim() == (-3.0, 3.0)


def test_curves_have_points_means_and_fits():
    table = pd.DataFrame(
        {
            "name": ["a"] * 4 + ["b"] * 2,
            "n_cells": [10, 10, 100, 100, 10, 100],
            "value": [0.1, 0.3, 0.4, 0.6, 0.2, 0.2],
        }
    )

    ax = scaling_curves(table, fits={"a": lambda n: 0.1 * np.log10(n)}, label="r2", title="T")

    means = [line for line in ax.get_lines() if line.get_label() in ("a", "b")]
    np.testing.assert_allclose(means[0].get_ydata(), [0.2, 0.5])
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("training cells", "r2", "T")
    fitted = next(line for line in ax.get_lines() if len(line.get_xdata()) == 60)
    assert fitted.get_xdata().max() == pytest.approx(125)
    assert len({line.get_color() for line in means}) == 2
    mine = plt.subplots()[1]
    assert scaling_curves(table, ax=mine) is mine
