"""Names of genes that are put right, and those that are only said to be wrong."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome.data import FeatureSpace
from episome.data._gene_repairs import made_unique, read_gene_map
from episome.errors import (
    EpisomeWarning,
    GeneMatchError,
    InputDataError,
    InputFileError,
    UsageError,
)

SYMBOLS = (
    "CD4",
    "CD8A",
    "MS4A1",
    "LYZ",
    "MARCHF1",
    "SEPTIN2",
    "C1orf112",
    "TBCE",
    "NKX2-1",
    "B2M",
)
ENSEMBL = tuple(f"ENSG{i:011d}" for i in range(10))
SPACE = FeatureSpace(SYMBOLS)
BOTH = FeatureSpace(ENSEMBL, {"feature_name": SYMBOLS})


def table(names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(list(names), dtype=object))


def positions(space, names, **kwargs):
    return space.align(table(names), min_gene_overlap=0, **kwargs).columns.tolist()


def test_identifiers_of_two_kinds_in_one_column_are_both_found():
    names = [*ENSEMBL[:5], *SYMBOLS[5:]]

    found = BOTH.align(table(names))

    assert found.columns.tolist() == list(range(10))
    assert "5 more were found by var_names" in found.report.text


def test_genes_that_one_column_lacks_are_found_in_another():
    var = table([*SYMBOLS[:8], "x1", "x2"], gene_ids=[*["none"] * 8, *ENSEMBL[8:]])

    found = BOTH.align(var)

    assert found.columns.tolist() == list(range(10))
    assert "2 more were found by var['gene_ids']" in found.report.text


def test_a_gene_of_the_model_is_never_found_twice_by_another_name():
    var = table([*SYMBOLS[:9], "other"], gene_ids=[*["none"] * 9, ENSEMBL[0]])

    assert BOTH.align(var).columns.tolist() == [*range(9), -1]


@pytest.mark.parametrize("prefix", ["GRCh38_", "hg19-", "GRCh38______"])
def test_the_prefix_of_an_assembly_is_taken_off(prefix):
    found = SPACE.align(table([prefix + n for n in SYMBOLS]))

    assert found.columns.tolist() == list(range(10))
    assert f"10 names were freed of the prefix {prefix!r}" in found.report.text


def test_a_prefix_that_few_share_is_left_alone():
    names = ["GRCh38_CD4", *SYMBOLS[1:]]

    assert positions(SPACE, names) == [-1, *range(1, 10)]


@pytest.mark.parametrize("space", [SPACE, BOTH], ids=["symbols", "Ensembl"])
@pytest.mark.parametrize(
    "join", [lambda s, e: f"{s}_{e}", lambda s, e: f"{e}.3_{s}"], ids=["after", "before"]
)
def test_symbol_and_identifier_in_one_name_are_split(space, join):
    names = [join(s, e) for s, e in zip(SYMBOLS, ENSEMBL, strict=True)]

    assert positions(space, names) == list(range(10))


@pytest.mark.parametrize(
    ("date", "gene"),
    [("1-Mar", "MARCHF1"), ("Mar-1", "MARCHF1"), ("2-Sep", "SEPTIN2"), ("2023-09-02", "SEPTIN2")],
)
def test_dates_of_a_spreadsheet_are_read_as_genes(date, gene):
    names = [date if n == gene else n for n in SYMBOLS]

    found = SPACE.align(table(names))

    assert found.columns.tolist() == list(range(10))
    assert "1 names were read as genes, not dates" in found.report.text


def test_dates_find_the_older_symbol_where_the_model_has_that():
    assert positions(FeatureSpace(("MARCH1", "CD4")), ["1-Mar", "CD4"]) == [0, 1]


def test_dates_that_are_no_gene_of_the_model_are_said():
    with pytest.warns(EpisomeWarning, match=r"turned into dates.*9-Dec.*E-G10"):
        SPACE.align(table([*SYMBOLS[:9], "9-Dec"]))


def test_numbered_duplicates_are_said_and_added_on_request():
    names = [*SYMBOLS, "TBCE-1", "TBCE-2"]

    with pytest.warns(EpisomeWarning, match=r"numbered to tell duplicates apart.*2 of 12.*E-G12"):
        left = positions(SPACE, names)
    added = positions(SPACE, names, duplicates="sum")

    assert left == [*range(10), -1, -1]
    assert added == [*range(10), 7, 7]


def test_names_with_a_number_of_their_own_are_no_duplicates():
    assert made_unique(np.array(["NKX2-1", "MT-ND4", "CD4"], dtype=object)).tolist() == [""] * 3


def test_the_first_of_duplicates_can_be_taken():
    names = ["CD4", "LYZ", "CD4"]

    with pytest.raises(InputDataError, match=r'duplicates="sum" or "first".*E-G11'):
        positions(SPACE, names)
    assert positions(SPACE, names, duplicates="first") == [0, 3, -1]


def test_another_case_is_refused_with_both_ways_out():
    mouse = [n.capitalize() for n in SYMBOLS]

    with pytest.raises(GeneMatchError, match=r'by their case.*gene_case="upper".*gene_map.*E-G08'):
        SPACE.align(table(mouse))


def test_another_case_is_read_where_it_is_asked_for():
    found = SPACE.align(table([n.lower() for n in SYMBOLS]), gene_case="upper")

    assert found.columns.tolist() == list(range(10))
    assert "10 names were read in capitals" in found.report.text


def test_a_name_that_stands_twice_is_said_with_the_case():
    small = [n.lower() for n in SYMBOLS]

    with pytest.raises(GeneMatchError) as error:
        SPACE.align(table([*small, small[0]]))

    assert [p.code for p in error.value.problems] == ["E-G08", "E-G11"]
    assert error.value.problems[0].count == 10


def test_copies_of_a_name_are_copies_of_the_gene_that_it_is_read_as():
    small = [n.lower() for n in SYMBOLS]
    twice = table([*small, small[0]])

    with pytest.raises(InputDataError, match=r"duplicated gene names.*E-G11"):
        SPACE.align(twice, gene_case="upper")
    summed = SPACE.align(twice, gene_case="upper", duplicates="sum")
    first = SPACE.align(twice, gene_case="upper", duplicates="first")

    assert summed.columns.tolist() == [*range(10), 0]
    assert summed.report.n_summed == 1
    assert first.columns.tolist() == [*range(10), -1]


def test_different_names_that_are_read_as_one_gene_are_left_out():
    found = SPACE.align(
        table([*(n.lower() for n in SYMBOLS), SYMBOLS[0].title()]), gene_case="upper"
    )

    assert found.columns.tolist() == [-1, *range(1, 10), -1]


def test_one_date_may_have_been_two_genes():
    others = [n for n in SYMBOLS if n != "MARCHF1"]

    with pytest.warns(EpisomeWarning, match="E-G10"):
        found = SPACE.align(table(["1-Mar", "1-Mar", *others]))

    assert found.columns.tolist() == [-1, -1, *(SYMBOLS.index(n) for n in others)]


# -- a table of the user --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mapping", "frame", "csv", "tsv"])
def test_names_are_translated_by_a_table(form, tmp_path):
    pairs = {f"old{i}": n for i, n in enumerate(SYMBOLS)}
    frame = pd.DataFrame({"from": list(pairs), "to": list(pairs.values())})
    given = {"mapping": pairs, "frame": frame}.get(form, tmp_path / f"map.{form}")
    if form in {"csv", "tsv"}:
        frame.to_csv(given, index=False, sep="," if form == "csv" else "\t")

    found = SPACE.align(table(list(pairs)), gene_map=given)

    assert found.columns.tolist() == list(range(10))
    assert "10 names were translated by the table" in found.report.text


def test_orthologues_that_are_not_one_to_one_are_left_out(caplog):
    given = pd.DataFrame(
        {"mouse": ["Cd4", "Lyz1", "Lyz2", "Ms4a1"], "human": ["CD4", "LYZ", "LYZ", "MS4A1"]}
    )

    with caplog.at_level(logging.INFO, logger="episome"):
        found = read_gene_map(given)

    assert found == {"Cd4": "CD4", "Ms4a1": "MS4A1"}
    assert "2 of 4 pairs are one to one and used" in caplog.text


def test_a_name_that_is_found_already_needs_no_table():
    assert positions(SPACE, ["CD4", "LYZ"], gene_map={"CD4": "B2M"}) == [0, 3]


def test_a_table_of_one_column_is_refused(tmp_path):
    with pytest.raises(UsageError, match="1 column.*E-U38"):
        read_gene_map(pd.DataFrame({"a": ["x"]}))
    with pytest.raises(InputFileError, match="no such file"):
        read_gene_map(tmp_path / "nothing.csv")


@given(st.permutations(list(SYMBOLS)), st.integers(0, 3))
def test_repairs_never_move_a_gene_that_is_found(order, n_odd):
    odd = ["1-Mar", "Cd4", "GRCh38_LYZ"][:n_odd]

    found = SPACE.align(table([*order, *odd]), duplicates="sum", gene_case="upper")

    assert found.columns.tolist()[:10] == [SYMBOLS.index(n) for n in order]
    assert found.columns.tolist()[10:] == [-1] * n_odd
