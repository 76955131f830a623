"""Lists of genes and labels that go with foreign weights."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest

from episome.data import read_gene_list, read_label_list
from episome.errors import (
    EpisomeWarning,
    InputDataError,
    InputFileError,
    ModelMismatchError,
    UsageError,
)

IDS = [f"ENSG{i:011d}" for i in range(7)]
SYMBOLS = [f"SYM{i}A" for i in range(7)]
LABELS = ["B cell", "CD4-positive, alpha-beta T cell", "NK cell", "T cell", "monocyte"]
TERMS = ["CL:0000236", "CL:0000624", "CL:0000623", "", "CL:0000576"]

GENE_TEXTS = {"place": "the file", "why": "they are elsewhere", "fix": "pass genes=",
              "misfit_fix": "pass the right list"}  # fmt: skip
LABEL_TEXTS = {"place": "the file", "why": "they are elsewhere", "fix": "pass labels="}
genes_of = partial(read_gene_list, n_inputs=7, **GENE_TEXTS)
labels_of = partial(read_label_list, n_outputs=5, **LABEL_TEXTS)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({"feature_length": 1000, "feature_id": IDS, "feature_name": SYMBOLS})


@pytest.fixture
def label_table() -> pd.DataFrame:
    return pd.DataFrame({"label": LABELS, "cell_type_ontology_term_id": TERMS})


# --- forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["table", "index", "parquet", "indexed parquet", "csv", "tsv", "string", "bom"]
)
def test_genes_with_symbols_in_any_form_are_the_same(table, tmp_path, form):
    path = tmp_path / f"genes.{form.split()[-1] if 'parquet' in form else form}"
    if form == "table":
        given = table
    elif form == "index":
        given = table.set_index("feature_id")
    elif "parquet" in form:
        (table.set_index("feature_id") if "indexed" in form else table).to_parquet(path)
        given = path
    elif form == "tsv":
        table.to_csv(path, sep="\t")
        given = path
    else:
        path = tmp_path / "genes.csv"
        table.to_csv(path, index=False, encoding="utf-8-sig" if form == "bom" else "utf-8")
        given = str(path) if form == "string" else path
    before = table.copy(deep=True)

    features = genes_of(given)

    assert features.ids == tuple(IDS)
    assert features.other == {"feature_name": tuple(SYMBOLS)}
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("head", [[], ["gene"], ["feature_id"], ["genes"]])
@pytest.mark.parametrize("file", ["a.txt", "a.csv", "a.tsv", "a"])
def test_genes_one_a_line_are_the_same(tmp_path, file, head):
    (tmp_path / file).write_text("\n".join([*head, *IDS[:3], "", *IDS[3:], ""]))

    assert genes_of(tmp_path / file).ids == tuple(IDS)


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Index, pd.Series])
def test_names_in_any_sequence_are_the_same(make):
    assert genes_of(make(IDS)).ids == tuple(IDS)
    assert labels_of(make(LABELS)).names == tuple(LABELS)


@pytest.mark.parametrize(
    ("columns", "index", "ids"),
    [
        ({"gene": IDS, "symbol": SYMBOLS}, None, IDS),
        ({"symbol": SYMBOLS, "gene_ids": IDS}, None, IDS),
        ({"symbol": SYMBOLS, "n": range(7)}, None, SYMBOLS),
        ({"whatever": IDS}, None, IDS),
        ({"symbol": SYMBOLS}, IDS, IDS),
        ({"gene_ids": IDS}, SYMBOLS, IDS),
        ({}, IDS, IDS),
        ({"gene": IDS, "n": range(7)}, list("0123456"), IDS),
    ],
)
def test_genes_of_a_table_are_its_identifiers_then_its_index_then_symbols(columns, index, ids):
    assert genes_of(pd.DataFrame(columns, index=index)).ids == tuple(ids)


def test_list_in_a_folder_is_found_where_it_is_said_to_be(table, label_table, tmp_path):
    (tmp_path / "sub").mkdir()
    table.to_parquet(tmp_path / "var.parquet")
    label_table.to_parquet(tmp_path / "sub" / "types.parquet")

    assert genes_of(tmp_path, file="var.parquet").ids == tuple(IDS)
    assert labels_of(tmp_path, file="sub/types.parquet").term_ids == tuple(TERMS)
    with pytest.raises(InputFileError, match=r"no such file.*other.parquet.*E-F07"):
        genes_of(tmp_path, file="other.parquet")
    with pytest.raises(InputFileError, match=r"no such file.*E-F07"):
        labels_of(tmp_path)


@pytest.mark.parametrize("column", ["label", "labels", "cell_type"])
@pytest.mark.parametrize("form", ["table", "csv", "tsv", "parquet"])
def test_labels_keep_their_ontology_terms(label_table, tmp_path, form, column):
    given = label_table.rename(columns={"label": column})[label_table.columns[::-1].map(
        lambda c: column if c == "label" else c)]  # fmt: skip
    if form != "table":
        path = tmp_path / f"labels.{form}"
        if form == "parquet":
            given.to_parquet(path)
        else:
            given.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
        given = path

    labels = labels_of(given, unlabeled_category="none")

    assert labels.names == tuple(LABELS)
    assert labels.term_ids == tuple(TERMS)
    assert labels.unlabeled == "none"


@pytest.mark.parametrize("missing", [None, np.nan, "unknown"])
def test_terms_that_are_none_are_empty(label_table, missing):
    label_table["cell_type_ontology_term_id"] = [*TERMS[:3], missing, TERMS[4]]

    assert labels_of(label_table).term_ids == tuple(TERMS)
    assert labels_of(label_table[["label"]]).term_ids == ("",) * 5


@pytest.mark.parametrize("quote", ['"', ""])
def test_labels_with_commas_one_a_line_are_whole(tmp_path, quote):
    lines = [f"{quote}{name}{quote}" for name in LABELS]
    (tmp_path / "a.csv").write_text("\n".join(lines))

    assert labels_of(tmp_path / "a.csv").names == tuple(LABELS)


def test_rows_go_by_their_code_only_where_the_index_is_one(label_table):
    shuffled = label_table.sample(frac=1, random_state=0)
    by_row = tuple(shuffled["label"])

    assert by_row != tuple(LABELS)
    assert labels_of(shuffled, index_is_code=True).names == tuple(LABELS)
    assert labels_of(shuffled, index_is_code=True).term_ids == tuple(TERMS)
    assert labels_of(shuffled).names == by_row
    assert labels_of(shuffled.set_index(shuffled.index + 1), index_is_code=True).names == by_row


def test_labels_out_of_order_warn_where_the_alphabet_is_the_order():
    with pytest.warns(EpisomeWarning, match=r"not in alphabetical.*take the store's.*E-M35"):
        labels = labels_of(LABELS[::-1], order_fix="take the store's")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels_of(LABELS[::-1])
        labels_of(LABELS, order_fix="take the store's")

    assert labels.names == tuple(LABELS[::-1])


# --- what does not fit ----------------------------------------------------------------------


def test_no_list_says_where_names_are_not_and_what_to_pass():
    with pytest.raises(UsageError, match=r"7 inputs are not in the file. they are.*genes=.*E-U53"):
        genes_of(None)
    with pytest.raises(UsageError, match=r"5 outputs are not in the file.*labels=.*E-U54"):
        labels_of(None)


def refused(call, given, match, error=ModelMismatchError):
    with pytest.raises(error, match=match):
        call(given)


def test_genes_that_do_not_fit_are_refused_in_one_message(table):
    refused(
        genes_of,
        IDS[1:],
        r"6 genes \(6 different\) for 7 inputs in the list of genes. "
        r"values would enter as other genes. To fix: pass the right list. \[E-M32\]",
    )
    refused(genes_of, [*IDS[1:], IDS[2]], r"7 genes \(6 different\) for.*ENSG00000000002.*E-M32")
    refused(genes_of, table[["feature_length"]].assign(b=1),
            r"no column of genes in the table of genes.*\['feature_length', 'b'\].*"
            r"'feature_id'.*E-U55", UsageError)  # fmt: skip
    refused(genes_of, [*IDS[1:], None], r"without a name.*list of genes.*E-G13", InputDataError)
    refused(genes_of, list(range(7)), r"row numbers.*list of genes.*E-G13", InputDataError)


def test_genes_that_do_not_fit_are_refused_one_by_one_where_repeats_have_their_own_advice():
    call = partial(genes_of, repeats_fix="drop one", known_lists={3: "this is another list"})

    refused(call, IDS[1:], r"^6 genes for 7 inputs.*as other genes.*right list. \[E-M32\]")
    refused(call, IDS[:3], r"^3 genes for 7 inputs.*this is another list.*E-M32")
    refused(call, pd.DataFrame({"a": [1], "b": 1}), r"^1 genes for 7 inputs.*E-M32")
    refused(call, [*IDS[1:], IDS[2]], r"stand twice.*1 of 7.*ENSG00000000002.*drop one.*E-M32")


def test_labels_that_do_not_fit_are_refused(label_table):
    refused(
        labels_of, LABELS[1:], r"4 labels \(4 different\) for 5 outputs.*list of labels.*E-M33"
    )
    refused(labels_of, [*LABELS[1:], "T cell"], r"5 labels \(4 different\).*first: T cell.*E-M33")
    refused(labels_of, [*LABELS[1:], "unknown"], r"unknown.*unlabelled category.*E-M33")
    refused(labels_of, label_table.set_axis(["x", "y"], axis=1),
            r"no column of labels.*\['x', 'y'\].*'label'.*E-U55", UsageError)  # fmt: skip


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.parquet", b"no parquet"), ("a.csv", b""), ("a.csv", b"x,y\n1,2,3\n4\n1,2,3,4\n"),
     ("a.txt", b"\xff\xfe\xff"), ("a.csv", b"\xff\xfe\xff"), ("a.csv", b"x\n" + b"y" * 200_000)],
)  # fmt: skip
def test_files_that_are_no_table_are_refused(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)

    refused(genes_of, tmp_path / file, r"(?s)is no table.*one name a line.*E-F22", InputFileError)
    refused(labels_of, tmp_path / "none.csv", r"no such file.*none.csv.*E-F07", InputFileError)


def test_lists_are_read_without_torch(run_python):
    done = run_python(
        "from episome.data import read_gene_list\n"
        "import sys\n"
        "read_gene_list(['ENSG00000000001', 'ENSG00000000002'], 2, place='', why='', fix='', "
        "misfit_fix='')\n"
        "print(sorted({'torch', 'scvi', 'lightning'} & set(sys.modules)))"
    )

    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
