"""Loadings: which genes a factor has, which factors are new, and what they are enriched in."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from episome.errors import UsageError
from episome.models import enrichment
from episome_datamix import (
    LDVAE,
    compare_loadings,
    factor_plot,
    factor_table,
    simulated,
    top_loadings,
)


@pytest.fixture(scope="module")
def cells():
    return simulated.pool({"a": 0.5, "b": 0.5}, 240, seed=1)


@pytest.fixture(scope="module")
def model(cells):
    LDVAE.setup_anndata(cells)
    found = LDVAE(cells, n_hidden=16, n_latent=4)
    found.train(max_epochs=30, accelerator="cpu", plan_kwargs={"lr": 0.02})
    return found


def test_lists_hold_the_largest_loadings_of_each_sign(model):
    loadings = model.get_loadings()

    table = top_loadings(model, 10)

    assert set(table["group"]) == {f"{z} {w}" for z in loadings for w in ("up", "down")}
    first = table[(table["group"] == "Z_1 down") & (table["rank"] == 1)].iloc[0]
    assert loadings["Z_1"].idxmin() == first["gene"]
    assert first["score"] == pytest.approx(-loadings["Z_1"].min())
    assert table.groupby("group")["score"].is_monotonic_decreasing.all()
    assert table.groupby("group").size().max() == 10
    with pytest.raises(UsageError, match=r"k=0.*E-U22"):
        top_loadings(model, 0)
    with pytest.raises(UsageError, match=r"has no loadings.*E-U12"):
        top_loadings(object())


def test_gene_sets_are_found_in_loadings(model):
    pytest.importorskip("gseapy")
    lists = top_loadings(model, 20)
    own = lists[lists["group"] == "Z_0 up"]["gene"].tolist()
    others = [g for g in model.features.ids if g not in set(own)][:20]

    found = enrichment(lists, {"own": own, "others": others}, model=model)

    best = found[found["group"] == "Z_0 up"].iloc[0]
    assert (best["set"], best["n_found"]) == ("own", len(own))
    assert best["q_value"] < 1e-6


def test_a_model_and_itself_have_the_same_factors(model):
    table = compare_loadings(model, model)

    assert table["matched"].tolist() == table.index.tolist()
    np.testing.assert_allclose(table["r"], 1.0)


def test_factors_that_the_baseline_explains_are_not_new(model, cells):
    table = factor_table(model, model, cells)

    np.testing.assert_allclose(table["explained"], 1.0, atol=1e-6)
    assert not table["new"].any()
    assert table["expression_r"].between(-1, 1).all()


def test_the_picture_marks_new_factors():
    table = pd.DataFrame(
        {"explained": [0.9, 0.1], "expression_r": [0.1, -0.6], "new": [False, True]},
        index=["Z_0", "Z_1"],
    )
    mine = plt.subplots()[1]

    ax = factor_plot(table, ax=mine, title="Factors")

    assert ax is mine
    assert [t.get_text() for t in ax.texts] == [" Z_1"]
    assert len(ax.collections) == 2
    assert factor_plot(table.iloc[:0]).get_xlabel() == "share that the baseline explains"
    plt.close("all")
