"""Bad labels and cells, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so, a warning names its count. What other tests show in depth is shown here once.
"""

from __future__ import annotations

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
from _bad_cells import (
    SYMBOLS,
    cells,
    labelled,
    logged_lines,
    model,
    query,
    refused,
    same,
    set_up,
    trained,
    types_of,
    warned,
)
from _catalogue import Catalogue, marked
from scipy import sparse

from episome.benchmark import find_leaks, require_no_leaks
from episome.data import read_cells
from episome.errors import (
    InputDataError,
    LabelError,
    UsageError,
)
from episome.io import write_calls
from episome.metrics import class_table, macro_f1
from episome.models import MajorityClass, NearestCentroid, load

CATALOGUE = Catalogue("test_bad_labels")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {}

#: Rows, or parts of rows, that do not hold yet, and why. Their number may only go down.
OPEN: dict[str, str] = {
    "L13b": "issue B: calls are text: a column of numbers has no word for unknown",
    "L18": "issue B: the whole of obs is read, also from a backed file",
}


@row("L01", "cells without a label", 'refused with their number; `unlabeled="keep"` or `"drop"`')
def missing_labels(folder):
    values = types_of(cells())
    values[:7] = np.nan
    asked = labelled(values)
    refused(
        lambda: set_up(asked),
        asked,
        code="E-L01",
        error=LabelError,
        match=r'7 of 120, first: cell\d+.*unlabeled="keep"',
    )
    for choice in ("keep", "drop"):
        assert trained(labelled(values), unlabeled=choice).fit_["n_train"] == 113


@row("L02", "labels that look like none", "classes, with a warning; only one word means none")
def empty_labels(folder):
    values = types_of(cells())
    for i, word in enumerate(["", "nan", "NA", "-"]):
        values[4 * i : 4 * i + 4] = word
    warned(lambda: set_up(labelled(values)), "E-L02", "16 of 120, first: '', '-', 'NA'")
    values = types_of(cells())
    values[:5] = "unknown"
    got = warned(lambda: trained(labelled(values)), "E-L06", "'unknown'.*5 of 120")
    assert "unknown" not in got.labels.names


@row("L03", "one class", "refused at set-up")
def one_class(folder):
    asked = labelled("T cell")
    refused(lambda: set_up(asked), asked, code="E-L03", error=LabelError, match="one class")


@row("L04", "a class of one cell", "the cell is trained on; a warning")
def rare(folder):
    from _episome_toy import ToyModel

    values = types_of(cells())
    values[3] = "rare"
    adata = labelled(values)
    warned(lambda: ToyModel.setup_anndata(adata, "cell_type"), "E-L04", "1 of 4, first: rare")
    network = ToyModel(adata)
    network.train(max_epochs=1, accelerator="cpu")
    assert 3 in network.train_indices_
    assert "rare" in network.labels.names


@row("L05", "a class for nearly every cell; thousands of classes", "refused; run")
def many_classes(folder):
    asked = labelled([f"c{i}" for i in range(120)])
    refused(
        lambda: set_up(asked), asked, code="E-L05", error=LabelError, match=r"120 of 120.*names"
    )
    many = anndata.AnnData(
        sparse.csr_matrix(np.random.default_rng(0).poisson(3.0, (10_000, 6)).astype(np.float32)),
        obs=pd.DataFrame({"t": [f"t{i % 5000}" for i in range(10_000)]}),
        var=pd.DataFrame(index=SYMBOLS[:6]),
    )
    many.obs_names = [f"c{i}" for i in range(10_000)]
    MajorityClass.setup_anndata(many, "t")
    frequent = MajorityClass(many)
    frequent.train()
    assert len(frequent.labels) == 5000
    assert frequent.predict_proba(many[:3].copy()).shape == (3, 5000)


@row("L06", "classes that only the test cells have", "macro F1 counts them as missed")
def unseen(folder):
    truth, called = ["a", "a", "b", "c"], ["a", "a", "b", "b"]
    assert macro_f1(truth, called) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert class_table(truth, called).loc["c", "f1"] == 0


@row("L06b", "classes that only the test cells have", "marked as not in training")
def unseen_marked(folder):
    truth, called = ["a", "a", "b", "c"], ["a", "a", "b", "b"]
    plain, table = class_table(truth, called), class_table(truth, called, known=("a", "b"))
    assert dict(table["in_training"]) == {"a": True, "b": True, "c": False}
    assert table.drop(columns="in_training").equals(plain)
    # the macro F1 is over all of them; without the row of "c" it is that of what is known
    assert table["f1"].mean() == pytest.approx(macro_f1(truth, called))
    asked = labelled(np.where(types_of(query()) == "type 2", "new", types_of(query())), query())
    found = class_table(asked.obs["cell_type"], model().predict(asked), known=model().labels.names)
    assert not found.loc["new", "in_training"]
    assert found.loc["new", "f1"] == 0
    assert found["in_training"].sum() == 3


@row("L07", "a query without labels", "called")
def no_labels(folder):
    asked = query()
    asked.obs = asked.obs[[]]
    same(model(), asked)


@row("L08", "a query with labels that the model does not know", "called")
def unknown_labels(folder):
    same(model(), labelled("new type", query()))


@row("L09", "a query of new donors and batches, or without the columns", "called without them")
def new_batch(folder):
    got = trained(cells(), donor_key="donor_id")
    wanted = got.predict(query())
    assert (got.predict(labelled("new", query(), "donor_id")) == wanted).all()
    asked = query()
    asked.obs = asked.obs.drop(columns=["donor_id", "batch"])
    assert (got.predict(asked) == wanted).all()


ODD = ["αβ T細胞 🧬", 'מאקרופאג, "x"\nline', "x" * 300]


@row("L10", "labels in any script, with line ends, very long", "kept exactly, everywhere")
def unicode_labels(folder):
    import matplotlib as mpl

    mpl.use("Agg")
    from episome.pl import confusion

    names = dict(zip(sorted(set(types_of(cells()))), ODD, strict=True))
    got = trained(labelled([names[t] for t in types_of(cells())]))
    wanted = np.array([names[t] for t in model().predict(query())], dtype=object)
    got.save(folder / "model")
    back = load(folder / "model")
    assert set(back.labels.names) == set(ODD)
    calls = back.annotate(query())
    assert (calls["label"].to_numpy() == wanted).all()
    for name in ("calls.csv", "calls.tsv", "calls.parquet"):
        write_calls(folder / name, calls)
    tables = [
        pd.read_csv(folder / "calls.csv"),
        pd.read_csv(folder / "calls.tsv", sep="\t"),
        pd.read_parquet(folder / "calls.parquet"),
    ]
    write_calls(folder / "calls.h5ad", calls, adata=query())
    labels = [t["label"] for t in tables]
    labels.append(read_cells(folder / "calls.h5ad").obs["episome_label"])
    assert all((column.astype(str).to_numpy() == wanted).all() for column in labels)
    assert (np.array(json.loads(json.dumps(calls["label"].tolist()))) == wanted).all()
    confusion(wanted, wanted).figure.canvas.draw()


@row("L11", "labels that differ by case or blanks", "stay apart; a warning lists the pairs")
def near(folder):
    values = types_of(cells())
    values[:5] = "Type 0 "
    warned(lambda: set_up(labelled(values)), "E-L11", r"first: 'Type 0 ' / 'type 0'|'type 0' / 'T")


@row("L12", "labels that are HTML or a formula", "kept exactly")
def markup(folder):
    odd = dict(
        zip(sorted(set(types_of(cells()))), ["<script>x</script>", "=1+1", "@a"], strict=True)
    )
    got = trained(labelled([odd[t] for t in types_of(cells())]))
    calls = got.annotate(query())
    assert set(calls["label"]) == set(odd.values())
    write_calls(folder / "calls.csv", calls)
    assert set(pd.read_csv(folder / "calls.csv")["label"]) == set(odd.values())


@row("L12b", "labels that are HTML, in the card of a model", "escaped")
def markup_in_the_card(folder):
    values = np.where(types_of(cells()) == "type 0", "<script>x</script>", "b")
    trained(labelled(values)).save(folder / "model")
    assert "<script>" not in (folder / "model" / "README.md").read_text()


@row("L13", "labels that are numbers, booleans or mixed", "become text, and that is said")
def numbers(folder):
    codes = np.array([int(t[-1]) for t in types_of(cells())])
    mixed = codes.astype(object)
    mixed[codes == 2] = "two"
    for values, wanted in (
        (codes, {"0", "1", "2"}),
        (codes.astype(float), {"0", "1", "2"}),
        (codes > 0, {"False", "True"}),
        (mixed, {"0", "1", "two"}),
    ):
        lines = logged_lines(lambda v=values: set_up(labelled(v)))
        assert any("labels that are no text become text" in line for line in lines)
        got = trained(labelled(values))
        assert set(got.labels.names) == wanted
        assert set(got.predict(query())) <= wanted


@row("L13b", "labels that are numbers", "calls are numbers again")
def numbers_back(folder):
    codes = np.array([int(t[-1]) for t in types_of(cells())])
    assert trained(labelled(codes)).annotate(query())["label"].dtype.kind == "i"


@row("L14", "categories that no cell has", "no classes")
def unused(folder):
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["nobody"])
    assert "nobody" not in trained(adata).labels.names


@row("L15", "cells of one name", "called by position, with a warning; joined by name: refused")
def repeated_cells(folder):
    from episome.jobs import TrainRequest, train

    asked = query()
    asked.obs_names = ["a", "a", *asked.obs_names[2:]]
    calls = warned(lambda: model().annotate(asked), "E-L15", "1 of 60, first: a")
    assert list(calls.index) == list(asked.obs_names)
    assert (calls["label"].to_numpy() == model().predict(query())).all()
    asked.write_h5ad(folder / "q.h5ad")
    (folder / "labels.csv").write_text("cell,type\na,x\n")
    request = TrainRequest(
        "centroid",
        folder / "q.h5ad",
        folder / "m",
        {"labels_key": "type"},
        labels_file=folder / "labels.csv",
    )
    refused(lambda: train(request), code="E-L15", error=UsageError, match="wrong cell")
    assert not (folder / "m").exists()


@row("L16", "the columns of the answer exist", "refused, unless `overwrite` or another prefix")
def column_exists(folder):
    asked, calls = query(), model().annotate(query())
    asked.obs["episome_label"] = "mine"
    refused(
        lambda: write_calls(folder / "out.h5ad", calls, adata=asked),
        asked,
        code="E-L16",
        error=UsageError,
        match=r"first: episome_label.*overwrite=True",
    )
    assert not (folder / "out.h5ad").exists()
    write_calls(folder / "out.h5ad", calls, adata=asked, prefix="new_")
    kept = read_cells(folder / "out.h5ad").obs
    assert (kept["episome_label"] == "mine").all()
    assert (kept["new_label"].astype(str).to_numpy() == calls["label"].to_numpy()).all()
    assert (asked.obs["episome_label"] == "mine").all()


@row("L17", "a column whose name h5ad cannot hold", "written under another name, and said")
def slash(folder):
    asked = labelled(1, query(), "x/y")
    write_calls(folder / "out.h5ad", model().annotate(query()), adata=asked)
    assert "x/y" not in read_cells(folder / "out.h5ad").obs.columns


@row("L18", "very many columns of obs", "only those that are needed are read")
def wide_obs(folder):
    asked = query()
    extra = pd.DataFrame(1, asked.obs_names, [f"c{i}" for i in range(300)])
    asked.obs = asked.obs.join(extra)
    asked.write_h5ad(folder / "q.h5ad")
    backed = read_cells(folder / "q.h5ad", backed=True)
    try:
        assert not isinstance(backed.obs, pd.DataFrame)
    finally:
        backed.file.close()


@row("L19", "identifiers among names, obsolete terms", "looked up and replaced, listed")
def terms(folder):
    values = types_of(cells())
    names = {"type 0": "T cell", "type 1": "CL:0000236", "type 2": "monocyte"}
    adata = labelled([names[v] for v in values])
    lines = logged_lines(lambda: set_up(adata))
    got = trained(adata)
    assert dict(zip(got.labels.names, got.labels.term_ids, strict=True)) == {
        "T cell": "CL:0000084",
        "CL:0000236": "CL:0000236",
        "monocyte": "CL:0000576",
    }
    assert any("by identifier" in line for line in lines)
    obsolete, current = obsolete_term()
    adata = labelled([names[v] for v in values])
    adata.obs["term"] = [{"T cell": obsolete}.get(n, "") for n in adata.obs["cell_type"]]
    lines = logged_lines(lambda: set_up(adata, ontology_term_key="term"))
    assert current in NearestCentroid(adata).labels.term_ids
    assert any("1 obsolete replaced" in line and obsolete in line for line in lines)


@row("L20", "the same cells or donors in training and test", "a benchmark refuses, with numbers")
def shared_cells(folder):
    train, test = cells()[:80].copy(), cells()[70:].copy()
    for part in (train, test):
        part.obs["donor"] = "the only one"
    leaks = find_leaks(train, test, donor_key="donor")
    with pytest.raises(InputDataError) as error:
        require_no_leaks(leaks, (), where="here")
    text = str(error.value)
    assert text.count("E-L20") == 3
    for kind, n in (("donor", 50), ("barcode", 10), ("cell", 10)):
        assert re.search(rf"share: {kind} [^.]*{n} of 50", text)
    require_no_leaks(leaks, ("donor", "barcode", "cell"), where="here")


def obsolete_term() -> tuple[str, str]:
    """A term of the installed release that was replaced by another."""
    from episome.ontology import cell_ontology

    ontology = cell_ontology()
    for number in range(1, 3000):
        term = f"CL:{number:07d}"
        found = ontology.resolve(["x"], term_ids=[term])
        if found.term_ids[0] not in {"", term}:
            return term, found.term_ids[0]
    raise AssertionError


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", marked(CATALOGUE, OPEN))
def test_bad_labels(name, tmp_path, toy):
    CATALOGUE[name].shows(tmp_path)
