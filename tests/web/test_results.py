"""What the page shows of a result."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from _bad_cells import model, query

from episome.web import _present as present
from episome.web import _view
from episome.web._compare import compared, confusion
from episome.web._expression import Expression
from episome.web._work import Calls

TERMS = {"type 0": "CL:0000624", "type 1": "CL:0000625", "type 2": "CL:0000236"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The view of calls whose labels have terms, with its folder."""
    folder = tmp_path_factory.mktemp("view")
    calls = model().annotate(query())
    calls["label_ontology_term_id"] = [TERMS.get(x, "") for x in calls["label"].astype(str)]
    calls.to_parquet(folder / "calls.parquet")
    cells = query()
    cells.obs["share"] = np.linspace(0, 1, cells.n_obs)
    cells.obs["empty"] = np.full(cells.n_obs, np.nan)
    cells.write_h5ad(folder / "cells.h5ad")
    model().save(folder / "model")
    names = ("cells.h5ad", "model", "calls.parquet", "")
    _view.main([str(folder / name) for name in names])
    return folder, calls, json.loads((folder / "view.json").read_text())


def test_counts_and_status_are_those_of_the_calls(shown):
    _, calls, view = shown

    assert view["n_obs"] == sum(row["n"] for row in view["labels"]) == len(calls)
    assert {r["label"]: r["n"] for r in view["labels"]} == calls["label"].value_counts().to_dict()
    assert sum(view["status"].values()) == len(calls)
    assert sum(view["histograms"]["confidence"]) == calls["confidence"].notna().sum()


def test_levels_go_up_the_cell_ontology(shown):
    view = shown[2]
    counts = [present.counts_at(view, level) for level in range(len(view["levels"]) + 1)]

    assert len(view["levels"]) >= 1
    sizes = [len(c) for c in counts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    assert {sum(row["n"] for row in c) for c in counts} == {view["n_obs"]}


def test_composition_and_reliability_come_from_columns(shown):
    _, calls, view = shown
    cells = query()

    assert "share" not in view["composition"]
    assert list(view["composition"])[-1] == "cell_type"
    found = present.composition(view, "donor_id", 0)
    assert sum(row["n"] for row in found["rows"]) == len(calls)
    for row in found["rows"]:
        assert sum(row["shares"]) + row["rest"] == pytest.approx(1)
    agree = (calls["label"].astype(str) == cells.obs["cell_type"].astype(str)).mean()
    assert view["reliability"]["cell_type"]["accuracy"] == pytest.approx(agree)
    assert "donor_id" not in view["reliability"]


def test_the_map_is_what_obsm_holds_or_computed(shown, tmp_path):
    folder, calls, view = shown
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obsm["X_umap"] = np.arange(2 * cells.n_obs, dtype=float).reshape(-1, 2)
    colours = dict.fromkeys(set(calls["label"].astype(str)), "#000000")

    known = _view._scatter(cells, calls, colours, tmp_path)

    assert view["scatter"] == {"basis": "PCA", "n": 60, "layer": "", "genes": True}
    assert known == {"basis": "UMAP", "n": 60, "layer": "", "genes": True}
    points = json.loads((tmp_path / "scatter.json").read_text())
    assert points["x"][0] == 0
    assert points["x"][-1] == points["y"][-1] == 10_000
    assert (tmp_path / "scatter-novelty.png").stat().st_size > 1000
    assert _view._scatter(cells[:2].copy(), calls[:2], colours, tmp_path) is None


def test_the_table_is_searched_and_paged(shown):
    folder, calls, _ = shown
    table = Calls(folder / "calls.sqlite3")

    first, total = table.page(rows=7)
    last, _ = table.page(rows=7, number=9)
    some, n_some = table.page(search="cell12")

    assert table.columns()[:2] == ["cell", "label"]
    assert (len(first), total, len(last)) == (7, 60, 4)
    assert [row[:2] for row in first] == list(enumerate(calls.index[:7]))
    assert n_some == sum("cell12" in name for name in calls.index) == len(some)
    assert table.page(search="%")[1] == table.page(search="_")[1] == 0
    assert table.page(label="type 1")[1] == (calls["label"] == "type 1").sum()
    assert table.page(search="'; DROP TABLE calls; --")[1] == 0


def test_the_csv_is_the_table(shown, tmp_path):
    folder, calls, _ = shown
    path = tmp_path / "calls.csv"
    path.write_text("".join(Calls(folder / "calls.sqlite3").csv()))

    found = pd.read_csv(path, index_col="cell")

    assert list(found.columns) == list(calls.columns)
    assert list(found["label"]) == list(calls["label"])
    np.testing.assert_allclose(found["novelty"], calls["novelty"], atol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, ""), (5, "5 s"), (600, "10 min"), (86400, "24 hours")]
)
def test_durations_are_said_as_people_do(seconds, said):
    assert present.duration(seconds) == said


@pytest.mark.parametrize(("n", "said"), [(12, "12 bytes"), (2048, "2.0 KiB"), (1 << 30, "1 GiB")])
def test_sizes_are_said_as_people_do(n, said):
    assert present.size(n) == said


def test_a_model_tells_its_species_where_its_manifest_has_them(tmp_path):
    from episome.web._models import _facts

    (tmp_path / "labels.tsv").write_text("label\nB cell\n")
    (tmp_path / "genes.tsv").write_text("id\nENSG00000000003\n")

    facts = _facts({"organisms": ["NCBITaxon:9606"], "input": {}}, tmp_path)

    assert facts["organisms"] == ["NCBITaxon:9606"]
    assert (facts["classes"], facts["n_genes"]) == (["B cell"], 1)


def test_the_map_of_log_values_is_that_of_their_counts():
    import anndata
    import numpy as np
    from scipy import sparse

    from episome.data import simulate_cells
    from episome.web._view import _principal

    cells = simulate_cells(120, 60, n_types=3, seed=0)
    counts = sparse.csr_matrix(cells.X, dtype=np.float32)
    scale = sparse.diags(1e4 / np.asarray(counts.sum(axis=1)).ravel())
    logged = anndata.AnnData(scale.dot(counts).tocsr().log1p().astype(np.float32))

    of_counts = _principal(cells, np.arange(120))
    of_logs = _principal(logged, np.arange(120))

    np.testing.assert_allclose(np.abs(of_counts), np.abs(of_logs), rtol=1e-3, atol=1e-3)


def test_a_gene_is_shown_as_percents_of_its_largest_value(shown):
    folder, _, _ = shown
    cells = query()
    known = Expression(folder / "expression.sqlite3")
    rows = json.loads((folder / "scatter.json").read_text())["row"]
    name = str(cells.var_names[0])

    found = known.gene(name.lower())

    values = np.log1p(1e4 * cells.X.toarray() / cells.X.toarray().sum(axis=1, keepdims=True))
    column = values[rows, 0]
    assert found["gene"] == name
    assert found["most"] == pytest.approx(column.max(), rel=1e-5)
    np.testing.assert_allclose(found["cells"], np.rint(100 * column / column.max()), atol=1)
    assert known.gene("no such gene") is None
    assert known.names(name[:3])[0].startswith(name[:3])
    assert known.names("%") == []
    picture = present.gene_svg(json.loads((folder / "scatter.json").read_text()), found)
    assert picture.count("<circle") == len(rows)


def test_values_of_a_layer_are_those_of_the_map(tmp_path):
    cells = query()
    cells.layers["other"] = cells.X.copy()
    cells.X = cells.X * 0

    found = _view._normalised(cells, np.arange(5), "other")

    assert found.count_nonzero()
    assert not _view._normalised(cells, np.arange(5)).count_nonzero()


def test_too_many_values_are_not_kept(monkeypatch):
    monkeypatch.setattr(_view, "MOST_VALUES", 10)

    assert _view._normalised(query(), np.arange(5)) is None


def test_the_reference_of_novelty_is_that_of_the_folder(shown):
    view = shown[2]

    assert sum(view["reference"]["novelty"]) == pytest.approx(view["n_obs"], rel=0.01)


def test_two_annotations_are_counted_side_by_side(shown, tmp_path):
    folder, calls, _ = shown
    other = calls.copy()
    other["label"] = other["label"].astype(str)
    other.iloc[:7, other.columns.get_loc("label")] = "new"
    _view._write_table(other, tmp_path / "other.sqlite3")

    found = compared(folder / "calls.sqlite3", tmp_path / "other.sqlite3")

    assert found["n"] == len(calls)
    assert found["n_agree"] == len(calls) - 7
    assert sum(p["n"] for p in found["pairs"] if p["second"] == "new") == 7


def test_a_confusion_has_the_same_types_on_its_diagonal_and_sums_up_the_rest():
    pairs = [("a", "a", 5), ("b", "c", 3), ("c", "c", 2), ("d", "e", 1)]

    table = confusion(pairs)
    short = confusion(pairs, most=2)

    assert [r["label"] for r in table["rows"]] == ["a", "b", "c", "d"]
    assert table["columns"] == ["a", "c", "e"]
    assert sum(n for r in table["rows"] for n in r["cells"]) == 11
    assert sum(n for r in short["rows"] for n in r["cells"]) == 11
    assert short["columns"][-1] == short["rows"][-1]["label"] == "others"
