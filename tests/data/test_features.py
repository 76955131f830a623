"""`FeatureSpace`: genes of a query, found by name whatever their order, kind and number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.data import FeatureSpace
from episome.errors import GeneMatchError, InputDataError, UsageError

POOL = [f"GENE{i}" for i in range(12)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(6)]


def table(names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(list(names), dtype=object))


def block(names, seed=0, n_cells=5) -> sparse.csr_matrix:
    counts = np.random.default_rng(seed).poisson(0.7, (n_cells, len(names)))
    return sparse.csr_matrix(counts.astype(np.float32))


def textbook(mine, theirs, counts) -> np.ndarray:
    """Column by column, with a dictionary."""
    out = np.zeros((counts.shape[0], len(mine)), dtype=np.float32)
    for j, name in enumerate(theirs):
        if name in mine:
            out[:, list(mine).index(name)] += counts[:, j]
    return out


@given(
    mine=st.lists(st.sampled_from(POOL), min_size=1, unique=True),
    theirs=st.lists(st.sampled_from(POOL), min_size=1),
    seed=st.integers(0, 100),
)
def test_align_equals_looking_up_every_gene(mine, theirs, seed):
    values = block(theirs, seed)

    found = FeatureSpace(tuple(mine)).align(table(theirs), min_gene_overlap=0, duplicates="sum")
    got = found.apply(values)

    assert got.has_canonical_format
    assert got.dtype == np.float32
    assert np.array_equal(got.toarray(), textbook(mine, theirs, values.toarray()))
    assert found.report.n_matched == len(set(mine) & set(theirs))
    assert found.report.n_extra == sum(name not in mine for name in theirs)


@given(order=st.permutations(range(len(POOL))))
def test_align_of_permuted_genes_gives_the_same_bits(order):
    space, values = FeatureSpace(tuple(POOL)), block(POOL)
    wanted = space.align(table(POOL)).apply(values)

    got = space.align(table([POOL[i] for i in order])).apply(values[:, list(order)])

    for part in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(got, part), getattr(wanted, part))


def test_align_leaves_the_block_alone():
    values = block(POOL)
    before = values.copy()

    FeatureSpace(tuple(POOL[::-1])).align(table(POOL)).apply(values)

    assert (values != before).nnz == 0
    assert np.array_equal(values.indices, before.indices)


def test_align_in_the_same_order_shares_the_block():
    values = block(POOL)
    alignment = FeatureSpace(tuple(POOL)).align(table(POOL))

    assert alignment.is_identity
    assert alignment.apply(values) is values


def test_report_says_what_is_missing_and_what_is_extra():
    report = FeatureSpace(("A", "B", "C")).align(table(["C", "X", "A"])).report

    assert report.missing == ("B",)
    assert report.text.startswith("2 of the model's 3 genes are in adata.var (66.7%")
    assert "1 missing ones count as zero" in report.text
    assert "1 genes unknown to the model are left out" in report.text


# -- Ensembl versions ----------------------------------------------------------------------------


def test_versions_of_a_query_are_stripped():
    query = [f"{name}.{i + 1}" for i, name in enumerate(ENSEMBL)]

    report = FeatureSpace(tuple(ENSEMBL)).align(table(query)).report

    assert report.overlap == 1
    assert report.versions_stripped == len(ENSEMBL)


def test_versions_of_the_training_genes_are_stripped():
    space = FeatureSpace.from_var(table([f"{name}.7" for name in ENSEMBL]))

    assert space.ids == tuple(ENSEMBL)


def test_versions_stay_where_two_genes_would_become_one():
    names = ["ENSG00000000001.1", "ENSG00000000001.2", "ENSG00000000002.1"]

    space = FeatureSpace.from_var(table(names))
    shared = space.align(table([names[2], names[0]]), min_gene_overlap=0)

    assert space.ids == (names[0], names[1], "ENSG00000000002")
    assert shared.columns.tolist() == [2, 0]


def test_two_versions_of_one_gene_in_a_query_count_as_duplicates():
    space = FeatureSpace(("ENSG00000000001", "ENSG00000000002"))
    query = table(["ENSG00000000001.1", "ENSG00000000001.2", "ENSG00000000002.5"])

    with pytest.raises(InputDataError, match=r"duplicated gene names.*E-G11"):
        space.align(query)
    assert space.align(query, duplicates="sum").columns.tolist() == [0, 0, 1]


def test_symbols_with_a_dot_keep_it():
    assert FeatureSpace.from_var(table(["RP11-34P13.7", "AC0001.1"])).ids == (
        "RP11-34P13.7",
        "AC0001.1",
    )


# -- other names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["feature_name", "gene_ids", "gene_symbols"])
def test_names_in_another_column_are_found_and_said(column):
    query = table([f"row{i}" for i in range(3)], **{column: ["C", "A", "B"]})

    found = FeatureSpace(("A", "B", "C")).align(query)

    assert found.columns.tolist() == [2, 0, 1]
    assert found.report.id_column == f"var[{column!r}]"


def test_of_columns_that_find_as_many_genes_the_one_without_duplicates_is_taken():
    columns = {"feature_name": ["A", "B", "C", "A"], "symbol": ["A", "B", "C", "D"]}
    query = table(ENSEMBL[:4], **columns)
    space = FeatureSpace(("A", "B", "C"))

    found, summed = space.align(query), space.align(query, duplicates="sum")

    assert found.columns.tolist() == [0, 1, 2, -1]
    assert found.report.id_column == "var['symbol']"
    assert summed.columns.tolist() == [0, 1, 2, 0]
    assert summed.report.id_column == "var['feature_name']"


def test_duplicates_are_refused_with_their_column_and_both_ways_to_add_them_up():
    query = table(ENSEMBL[:4], feature_name=["SNURF", "B", "C", "SNURF"])

    with pytest.raises(
        InputDataError,
        match=r"duplicated gene names in q\.h5ad\.X, var\['feature_name'\]: 1 of 4, first: SNURF\."
        r'.*duplicates="sum".*--duplicates sum.*E-G11',
    ):
        FeatureSpace(("B", "C", "SNURF")).align(query, where="q.h5ad.X")


def test_symbols_of_a_query_meet_the_symbols_of_the_training_genes():
    training = table(ENSEMBL[:3], feature_name=["A", "B", "C"])

    found = FeatureSpace.from_var(training).align(table(["B", "A", "C"]))

    assert found.columns.tolist() == [1, 0, 2]


def test_a_symbol_that_stands_twice_is_never_guessed():
    space = FeatureSpace(("E1", "E2", "E3"), {"feature_name": ("A", "A", "B")})

    found = space.align(table(["A", "B"]), min_gene_overlap=0)

    assert found.columns.tolist() == [-1, 2]


def test_blanks_and_marks_around_names_do_not_matter():
    found = FeatureSpace(("A", "B")).align(table(["\ufeffA ", "B\u00a0\r"]))

    assert found.columns.tolist() == [0, 1]


# -- refusals ------------------------------------------------------------------------------------


def test_foreign_genes_are_refused_with_both_kinds_named():
    with pytest.raises(GeneMatchError) as caught:
        FeatureSpace(tuple(ENSEMBL)).align(table(POOL), where="query.h5ad")

    text = str(caught.value)
    assert caught.value.code == "E-G02"
    assert "query.h5ad: 0 of 6" in text
    assert "Ensembl identifiers against symbols" in text
    assert ENSEMBL[0] in text
    assert "GENE0" in text


@pytest.mark.parametrize(("limit", "refused"), [(0.5, False), (0.51, True), (0.0, False)])
def test_overlap_limit_is_a_share_of_the_models_genes(limit, refused):
    space, query = FeatureSpace(tuple("ABCD")), table(["A", "B", *(f"X{i}" for i in range(9))])

    if refused:
        with pytest.raises(
            GeneMatchError,
            match=r"2 of 4.*min_gene_overlap \(--min-gene-overlap, now 0.51\).*E-G03",
        ):
            space.align(query, min_gene_overlap=limit)
    else:
        assert space.align(query, min_gene_overlap=limit).report.n_matched == 2


def test_duplicated_names_of_unknown_genes_do_not_matter():
    found = FeatureSpace(("A", "B")).align(table(["A", "X", "X", "B"]))

    assert found.columns.tolist() == [0, -1, -1, 1]


def test_duplicated_training_genes_are_refused_or_summed():
    var = table(["A", "B", "A"])

    with pytest.raises(InputDataError, match=r'1 of 3, first: A.*duplicates="sum".*E-G11'):
        FeatureSpace.from_var(var)
    assert FeatureSpace.from_var(var, duplicates="sum").ids == ("A", "B")


@pytest.mark.parametrize("names", [range(5), ["0", "1", "2"], ["A", "", "B"], ["A", None, "B"]])
def test_genes_without_names_are_refused(names):
    with pytest.raises(InputDataError, match="E-G13"):
        FeatureSpace.from_var(pd.DataFrame(index=pd.Index(names)))


def test_no_genes_are_refused():
    with pytest.raises(InputDataError, match="E-D33"):
        FeatureSpace.from_var(table([]))


# -- digest --------------------------------------------------------------------------------------


def test_digest_depends_on_names_and_order_only():
    digest = FeatureSpace(("A", "B")).digest

    assert digest == FeatureSpace(("A", "B"), {"feature_name": ("x", "y")}).digest
    assert digest != FeatureSpace(("B", "A")).digest
    assert len(digest) == 64


def test_symbols_fall_back_to_the_identifier():
    space = FeatureSpace(("E1", "E2"), {"gene_ids": ("x", "y"), "feature_name": ("CD4", "")})

    assert space.symbols == ("CD4", "E2")
    assert FeatureSpace(("E1",), {}).symbols == ("E1",)


# -- genes by name -------------------------------------------------------------------------------

KNOWN = FeatureSpace(
    ("ENSG00000010610", "ENSG00000153563", "ENSG00000000003"),
    {"feature_name": ("CD4", "CD8A", ""), "gene_symbol": ("T4", "CD8A", "ENSG00000010610")},
)


def test_places_are_found_by_identifier_and_symbol_in_the_order_asked_for():
    asked = ["CD8A", "ENSG00000000003", "T4", "ENSG00000010610.7", " CD4 "]

    assert KNOWN.places(asked).tolist() == [1, 2, 0, 0, 0]
    assert KNOWN.places([]).tolist() == []


def test_an_identifier_goes_before_the_other_name_of_another_gene():
    assert KNOWN.places(["ENSG00000010610"]).tolist() == [0]


def test_names_without_a_gene_are_counted_with_what_is_near():
    with pytest.raises(
        UsageError,
        match=r"does not know in mine: 2 of 3, first: CD8, .*did you mean `CD8A`.*E-U61",
    ):
        KNOWN.places(["CD8", "CD4", ""], where="mine")


def test_names_of_several_genes_are_refused_beside_unknown_ones():
    space = FeatureSpace(("a", "b", "c"), {"feature_name": ("X", "X", "a")})

    with pytest.raises(UsageError, match=r"(?s)2 problems.*first: Y.*several genes.*first: X"):
        space.places(["X", "Y"])
    assert space.places(["a"]).tolist() == [0]
