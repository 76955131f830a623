"""Every picture: on one class and many, on names of any script, with values that are missing."""

from __future__ import annotations

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from episome import pl
from episome.data import simulate_cells
from episome.errors import InputFileError, UsageError

NAMES = ["B细胞", "T cell $x^{2", "NK → β", "m_{a}$", "<b>&amp;</b>", "é" * 60]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def labels(n_types: int, n: int = 400, *, gaps: bool = False):
    names = [NAMES[i] if i < len(NAMES) else f"type {i}" for i in range(n_types)]
    found = np.array(names, dtype=object)[np.random.default_rng(0).integers(0, n_types, n)]
    if gaps:
        found[::7] = np.nan
    return found


def points(n: int = 400):
    return np.random.default_rng(1).normal(size=(n, 2))


def bins(n: int):
    sure = np.linspace(0.3, 1.0, n)
    return {"confidence": list(sure), "accuracy": list(sure**2), "n_cells": [10] * n}


def shift_of(n_types: int):
    names = list(dict.fromkeys(labels(n_types, 5000)))
    shares = np.full(len(names), 1 / len(names))
    classes = [
        {"class": c, "reference": s, "query": s, "recall": None, "lost": 0.0}
        for c, s in zip(names, shares, strict=True)
    ]
    parts = [
        {"part": p, "found": "", "value": 0.1, "cost": c}
        for p, c in [("genes", 0.1), ("depth", np.nan), ("novelty", None)]
    ]
    return {"accuracy": 0.9, "expected": 0.8, "n_cells": 10, "parts": parts, "classes": classes}


def classes_of(n_types: int, *, gaps: bool = False):
    names = list(dict.fromkeys(labels(n_types, 5000)))
    f1 = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
    table = pd.DataFrame(
        {"n_true": np.arange(1, len(names) + 1), "f1": f1, "f1_low": f1 - 0.1, "f1_high": f1},
        index=pd.Index(names, name="class"),
    )
    if gaps:
        table.loc[table.index[0], ["f1", "f1_low"]] = np.nan
    return table.assign(in_training=[i % 3 > 0 or i == 0 for i in range(len(names))])


def genes_of(n_types: int):
    names = list(dict.fromkeys(labels(n_types, 5000)))
    rows = [
        {"group": c, "rank": r + 1, "gene": f"GENE{r}", "score": 1.0 - r}
        for c in names
        for r in range(4)
    ]
    return pd.DataFrame(rows)


def cells_of(n_types: int, *, gaps: bool):
    cells = simulate_cells(400, 30, n_types=3, n_donors=2, seed=0)
    cells.obs["called"] = pd.Series(labels(n_types, gaps=gaps), index=cells.obs_names)
    return cells


def audited(n_types: int, *, gaps: bool):
    suggested = labels(n_types, gaps=gaps)
    score = np.random.default_rng(0).random(400)
    score[::9] = np.nan
    wrong = np.random.default_rng(0).random(400) > 0.7
    return pd.DataFrame({"suggested": suggested, "wrong": wrong, "score": score})


def curves(n: int):
    return pd.DataFrame({"name": labels(n), "n_cells": 10, "value": 0.5})


PICTURES = {
    "audit_map": lambda n, gaps, ax: pl.audit_map(points(), audited(n, gaps=gaps), ax=ax),
    "composition": lambda n, gaps, ax: pl.composition(
        labels(5, gaps=gaps), labels(n, gaps=gaps), ax=ax
    ),
    "confusion": lambda n, gaps, ax: pl.confusion(
        labels(n, gaps=gaps), labels(n, gaps=gaps)[::-1], ax=ax
    ),
    "dotplot": lambda n, gaps, ax: pl.dotplot(
        cells_of(n, gaps=gaps), ["GENE1", "GENE2"], groupby="called", ax=ax
    ),
    "embedding": lambda n, gaps, ax: pl.embedding(points(), color=labels(n, gaps=gaps), ax=ax),
    "embedding, binned": lambda n, gaps, ax: pl.embedding(
        points(), color=labels(n, gaps=gaps), many=100, bins=20, ax=ax
    ),
    "f1_abundance": lambda n, gaps, ax: pl.f1_abundance(classes_of(n, gaps=gaps), ax=ax),
    "gene_importance": lambda n, gaps, ax: pl.gene_importance(genes_of(n), ax=ax),
    "reliability": lambda n, gaps, ax: pl.reliability(bins(n), before=bins(n), ax=ax),
    "risk_coverage": lambda n, gaps, ax: pl.risk_coverage(
        np.linspace(0, 1, n), np.arange(n) % 2 == 0, threshold=0.5, ax=ax
    ),
    "sankey": lambda n, gaps, ax: pl.sankey(
        labels(n, gaps=gaps), labels(n, gaps=gaps)[::-1], ax=ax
    ),
    "scaling_curves": lambda n, gaps, ax: pl.scaling_curves(curves(min(n, 20)), ax=ax),
    "shift": lambda n, gaps, ax: pl.shift(shift_of(n), ax=ax),
    "training_curves": lambda n, gaps, ax: pl.training_curves(
        {"train_loss": [np.nan] * (n - 1) + [1.0], "validation_f1_macro": [0.1] * n}, ax=ax
    ),
    "predicted_true": lambda n, gaps, ax: pl.predicted_true(
        np.arange(n), np.where(np.arange(n) % 2, np.nan, 1.0), ax=ax
    ),
    "histogram": lambda n, gaps, ax: pl.histogram([np.nan, *np.linspace(0, 1, n)], ax=ax),
    "heatmap": lambda n, gaps, ax: pl.heatmap(
        pd.DataFrame({NAMES[1]: [np.nan] * n}, index=[f"{NAMES[3]} {i}" for i in range(n)]), ax=ax
    ),
}


def test_every_picture_is_tried():
    drawn = {name.partition(",")[0] for name in PICTURES}

    assert drawn == set(pl.__all__) - {"COLOURS", "colours", "map_of"}


@pytest.mark.parametrize(
    ("n_types", "gaps"), [(1, False), (6, True), (200, True)], ids=["one", "odd names", "many"]
)
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
@pytest.mark.parametrize("name", sorted(PICTURES))
def test_pictures_are_drawn_on_given_axes(name, n_types, gaps):
    figure, mine = plt.subplots()

    ax = PICTURES[name](n_types, gaps, mine)

    assert ax is mine
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()  # names are no formulas, and everything has its place


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_pictures_make_axes_of_their_own(name):
    ax = PICTURES[name](6, False, None)

    assert ax.figure.number in plt.get_fignums()
    assert max(ax.figure.get_size_inches()) <= 26


# -- what is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_pictures_are_kept_once(tmp_path, ending):
    path = tmp_path / f"a.{ending}"

    pl.histogram([0.5], save=path)

    start = b"<?xml" if ending == "svg" else b"\x89PNG"
    assert path.read_bytes().startswith(start)
    before = path.read_bytes()
    with pytest.raises(InputFileError, match=r"E-F26"):
        pl.histogram([0.1], save=path)
    assert path.read_bytes() == before


def test_pictures_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"pictures cannot be written as \.bmp.*E-U08"):
        pl.histogram([0.5], save=tmp_path / "a.bmp")


# -- maps ------------------------------------------------------------------------------------


def test_bins_have_the_commonest_type_of_their_cells():
    at = np.array([[0.0, 0.0]] * 3 + [[1.0, 1.0]] * 2)
    palette = {"a": "#ff0000", "b": "#0000ff"}

    ax = pl.embedding(at, color=["a", "b", "b", "a", "a"], palette=palette, many=1, bins=2)

    image = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(image[0, 0, :3], [0, 0, 1])
    np.testing.assert_allclose(image[1, 1, :3], [1, 0, 0])
    assert image[0, 1, 3] == 0
    assert image[0, 0, 3] > image[1, 1, 3]


def test_bins_have_the_mean_of_their_values_and_grey_without():
    at = np.array([[0.0, 0.0]] * 2 + [[1.0, 1.0]])

    ax = pl.embedding(at, color=[0.2, 0.4, np.nan], many=1, bins=2)

    image = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(image[0, 0, :3], mpl.colormaps["viridis"](0.3)[:3], atol=0.01)
    np.testing.assert_allclose(image[1, 1, :3], mpl.colors.to_rgb("#bbbbbb"))


def test_cells_are_coloured_by_columns_genes_and_symbols():
    cells = simulate_cells(60, 20, n_types=3, n_donors=2, seed=0)
    cells.obsm["X_umap"] = points(60)
    cells.var["feature_name"] = [f"symbol {i}" for i in range(20)]

    by_type = pl.embedding(cells, color="cell_type")
    by_gene = pl.embedding(cells, color=str(cells.var_names[3]), basis="umap")
    by_symbol = pl.embedding(cells, color="symbol 3")
    counted = pl.embedding(cells, color=None)

    assert len(by_type.get_legend().get_texts()) == 3
    assert by_type.get_xlabel() == "UMAP 1"
    values = cells.X[:, 3].toarray().ravel()
    for ax in (by_gene, by_symbol):
        drawn = np.concatenate(
            [c.get_array() for c in ax.collections if c.get_array() is not None]
        )
        np.testing.assert_allclose(np.sort(drawn), np.sort(values))
    assert counted.images


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"basis": "tsne"}, r"no map 'tsne'.*E-U130"),
        ({"color": "cell_typ"}, r"no column and no gene 'cell_typ'[\s\S]*cell_type[\s\S]*E-U131"),
        ({"color": [1, 2]}, r"values are given for 60 cells[\s\S]*E-U131"),
    ],
)
def test_what_a_map_cannot_show_is_said(how, said):
    cells = simulate_cells(60, 20, n_types=3, n_donors=2, seed=0)
    cells.obsm["X_umap"] = points(60)

    with pytest.raises(UsageError, match=r"[\s\S]*" + said):
        pl.embedding(cells, **{"color": "cell_type", **how})


def test_cells_without_a_map_are_refused():
    with pytest.raises(UsageError, match=r"no map of the cells[\s\S]*E-U130"):
        pl.embedding(simulate_cells(20, 10, n_types=2, n_donors=2, seed=0))
    with pytest.raises(UsageError, match=r"no map[\s\S]*E-U130"):
        pl.embedding(np.zeros((5, 1)), color=None)


# -- numbers ---------------------------------------------------------------------------------


def test_a_threshold_is_marked_where_it_cuts_the_curve():
    ax = pl.risk_coverage([0.9, 0.8, 0.4, 0.3], [True, False, True, True], threshold=0.5)

    (mark,) = [line for line in ax.get_lines() if line.get_marker() == "D"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (0.5, 0.5)


def test_bands_are_as_wide_as_their_cells():
    ax = pl.sankey(["a", "a", "b", "b"], ["a", "b", "b", "b"], weights=[1, 1, 1, 5])

    texts = [t.get_text() for t in ax.texts]
    assert {"b (6)", "a (2)", "b (7)", "a (1)"} <= set(texts)
    heights = sorted(round(b.get_height(), 3) for b in ax.patches if hasattr(b, "get_height"))
    assert heights == [0.125, 0.25, 0.75, 0.875]


def test_rare_types_are_drawn_together():
    ax = pl.composition(["s"] * 10, [f"t{i}" for i in range(10)], most=4)
    flows = pl.sankey([f"t{i}" for i in range(10)], ["x"] * 10, most=4)

    assert ax.get_legend().get_texts()[-1].get_text() == "7 others"
    assert "7 others (7)" in [t.get_text() for t in flows.texts]


def test_counts_are_scaled_for_dots_and_other_values_are_not():
    cells = simulate_cells(50, 20, n_types=2, n_donors=2, seed=0)
    gene = str(cells.var_names[0])
    dense = cells.X.toarray()
    scaled = np.log1p(1e4 * dense[:, 0] / dense.sum(axis=1))

    ax = pl.dotplot(cells, {"x": [gene, "none"]}, groupby=["all"] * 50)
    plain = pl.dotplot(cells, [gene], groupby=["all"] * 50, log=False)

    assert ax.collections[0].get_array()[0] == pytest.approx(scaled.mean(), rel=1e-5)
    assert plain.collections[0].get_array()[0] == pytest.approx(dense[:, 0].mean(), rel=1e-5)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["all (50)"]
    with pytest.raises(UsageError, match=r"no gene is in the data[\s\S]*E-U131"):
        pl.dotplot(cells, ["none"], groupby="cell_type")
    with pytest.raises(UsageError, match=r"no column 'none'[\s\S]*E-U131"):
        pl.dotplot(cells, [gene], groupby="none")


def test_genes_that_speak_against_a_class_point_to_the_left():
    table = pd.DataFrame(
        {"group": "a", "gene": ["x", "y", "z"], "score": [0.5, -2.0, 0.1], "sd": [0.1, 0.2, 0.3]}
    )

    (panel,) = pl.gene_importance(table, top=2).child_axes

    bars = [b.get_width() for b in panel.patches]
    assert bars == [-2.0, 0.5]
    assert panel.patches[0].get_facecolor() != panel.patches[1].get_facecolor()


def test_the_best_epoch_and_resumed_ones_are_marked():
    history = {
        "train_loss": [3.0, 2.0, 1.0],
        "validation_f1_macro": [0.1, 0.9, 0.5],
        "lr": [0.1, 0.01, 0.001],
    }

    ax = pl.training_curves(history, resumed=[1])

    assert len(ax.child_axes) == 3
    for panel in ax.child_axes:
        at = [line.get_xdata()[0] for line in panel.get_lines() if line.get_linestyle() != "-"]
        assert at == [1, 1]
    assert "best, 1" in ax.child_axes[-1].get_xlabel()
    assert ax.child_axes[-1].get_yscale() == "log"
    with pytest.raises(UsageError, match=r"history is empty[\s\S]*E-U131"):
        pl.training_curves({})


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_few_genes_of_one_type_are_no_colour(n):
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(n)]
    cells = anndata.AnnData(
        rng.poisson(3.0, (30, n)).astype(np.float32),
        obs=pd.DataFrame({"label": ["B cell"] * 30}, index=[f"c{i}" for i in range(30)]),
        var=pd.DataFrame(index=genes),
    )

    ax = pl.dotplot(cells, genes, groupby="label")

    (dots, *_) = ax.collections
    assert len(dots.get_offsets()) == n
    assert dots.get_array().shape == (n,)


def test_the_best_epoch_is_that_which_training_went_by():
    from episome.pl._training import MONITORS
    from episome.train._plan import LOSS_MONITOR, MONITOR

    assert MONITORS == (MONITOR, LOSS_MONITOR)
    # an encoder's other numbers choose nothing
    history = {"validation_loss": [3.0, 2.0, 1.0], "validation_embedding_rank": [9.0, 1.0, 1.0]}
    assert "best, 2" in pl.training_curves(history).child_axes[-1].get_xlabel()
    del history["validation_loss"]
    assert "best" not in pl.training_curves(history).child_axes[-1].get_xlabel()


def test_values_of_other_shapes_are_refused():
    with pytest.raises(UsageError, match=r"of shape \(3,\)[\s\S]*E-U131"):
        pl.predicted_true([1, 2, 3], [1, 2])
    with pytest.raises(UsageError, match=r"2 labels and 1 calls[\s\S]*E-U131"):
        pl.sankey(["a", "b"], ["a"])
    with pytest.raises(UsageError, match=r"2 samples and 1 labels[\s\S]*E-U131"):
        pl.composition(["a", "b"], ["a"])


def test_many_pairs_are_bins_with_their_correlation():
    x = np.random.default_rng(0).normal(size=5000)

    ax = pl.predicted_true(x, 2 * x + 1, label="counts")

    assert ax.texts[0].get_text() == "r = 1.000, n = 5,000"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("true counts", "predicted counts")
    assert ax.collections[0].get_array() is not None


def test_doubted_cells_are_drawn_above_the_others():
    cells = simulate_cells(400, 10, n_types=2, n_donors=2, seed=0)
    cells.obsm["X_pca"] = points()
    table = audited(3, gaps=False)
    cells.obs[[f"audit_{c}" for c in table]] = table.to_numpy(dtype=object)
    cells.obs["audit_score"] = table["score"].to_numpy()

    ax = pl.audit_map(cells)
    scored = pl.audit_map(cells, color="score")

    n_wrong = int(table["wrong"].sum())
    assert sum(len(c.get_offsets()) for c in ax.collections[1:]) == n_wrong
    assert f"not doubted ({400 - n_wrong})" in [t.get_text() for t in ax.get_legend().get_texts()]
    assert scored.figure.axes[-1].get_ylabel() == "how likely the label is wrong"
    with pytest.raises(UsageError, match=r"no result of an audit[\s\S]*E-U131"):
        pl.audit_map(points())
