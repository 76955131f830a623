"""From names to terms, and what the report says."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome.errors import UsageError
from episome.ontology import cell_ontology


@pytest.mark.parametrize(
    ("label", "term", "how"),
    [
        ("both", "CL:3", "label"),
        ("  BOTH ", "CL:3", "label"),
        ("twin", "CL:4", "label"),
        ("Twin", "CL:5", "label"),
        ("TWIN", "", "ambiguous"),
        ("Sinister", "CL:1", "synonym"),
        ("DC1", "CL:1", "synonym"),
        ("dc1", "CL:2", "synonym"),
        ("Dc1", "", "ambiguous"),
        ("shared", "", "ambiguous"),
        ("CL:3", "CL:3", "id"),
        ("cl_3", "CL:3", "id"),
        ("http://purl.obolibrary.org/obo/CL_3", "CL:3", "id"),
        ("sinistral", "CL:1", "former"),
        ("moved", "CL:3", "replaced"),
        ("first", "CL:3", "replaced"),
        ("obsolete first", "CL:3", "replaced"),
        ("CL:10", "CL:3", "replaced"),
        ("old leaf", "", "unresolved"),
        ("dead end", "", "unresolved"),
        ("flies", "CL:3", "plural"),
        ("lefts", "CL:1", "plural"),
        ("LEFTS", "CL:1", "plural"),
        ("shareds", "", "ambiguous"),
        ("lef", "", "unresolved"),
        ("CL:99", "", "unresolved"),
        ("unknown", "", "unlabeled"),
        ("NA", "", "unlabeled"),
        ("", "", "unlabeled"),
    ],
)
def test_label_is_resolved_by_the_first_rule_that_fits(small, label, term, how):
    got = small.resolve([label])

    assert (got.term_ids, got.how) == ((term,), (how,))
    assert got.labels == (label,)


def test_notes_say_what_is_worth_knowing(small):
    labels = ["TWIN", "sinistral", "first", "dead end", "lefts", "rights hand", "riight"]

    notes = small.resolve(labels).notes

    assert notes[:5] == (
        "one of CL:4 (twin), CL:5 (Twin)",
        "now 'left'",
        "CL:10 (first) -> CL:3 (both)",
        "CL:15 (dead end) is obsolete; consider CL:1 (left)",
        "plural of 'left'",
    )
    assert notes[5:] == ("near: 'right'", "")


@pytest.mark.parametrize(
    ("given", "term", "how", "note"),
    [
        ("CL:2", "CL:2", "given", ""),
        ("CL_2", "CL:2", "given", ""),
        ("CL:10", "CL:3", "replaced", "CL:10 (first) -> CL:3 (both)"),
        ("CL:99", "", "unresolved", "CL:99 is no term of test"),
        ("CL:16", "", "unresolved", "CL:16 is obsolete"),
        ("FBbt:00000001", "FBbt:00000001", "given", "not a term of the Cell Ontology"),
        ("", "CL:1", "label", ""),
        ("unknown", "CL:1", "label", ""),
        (float("nan"), "CL:1", "label", ""),
    ],
)
def test_given_identifier_wins_over_the_name(small, given, term, how, note):
    got = small.resolve(["left"], term_ids=[given])

    assert (got.term_ids, got.how, got.notes) == ((term,), (how,), (note,))


def test_given_own_term_is_taken(small):
    grown = small.with_terms({"MY_LAB:T1": {"label": "mine", "parents": ["CL:1"]}})

    assert grown.resolve(["x"], term_ids=["MY_LAB:T1"]).term_labels == ("mine",)


def test_one_identifier_per_label_is_asked_for(small):
    with pytest.raises(UsageError, match="1 term identifiers for 2 labels") as caught:
        small.resolve(["left", "right"], term_ids=["CL:1"])

    assert caught.value.code == "E-U41"


def test_report_counts_and_names_what_is_missing(small):
    got = small.resolve(
        ["left", "sinister", "lefts", "first", "shared", "dead end", "r-ight", "?", "!", "unknown"]
    )

    assert got.unresolved == ("shared", "dead end", "r-ight", "?", "!")
    assert got.text == (
        "4 of 9 classes have a Cell Ontology term (1 by name, 1 by synonym, 1 by their singular, "
        "1 obsolete replaced: CL:10 (first) -> CL:3 (both)).\n"
        "Of one term: 'left', 'sinister', 'lefts' (CL:1).\n"
        "Of several terms: 'shared' (one of CL:1 (left), CL:2 (right)).\n"
        "Without a term: 'dead end' (CL:15 (dead end) is obsolete; consider CL:1 (left)); "
        "'r-ight' (near: 'right'); '?' and 1 more."
    )


def test_labels_of_one_term_are_named(ontology):
    got = ontology.resolve(
        ["NK cell", "B cell", "nK CELL", "T cell", "B cells", "B cell", "?", "!", "unknown"]
    )

    assert got.shared == {
        "CL:0000623": ("NK cell", "nK CELL"),
        "CL:0000236": ("B cell", "B cells"),
    }
    assert (
        "Of one term: 'NK cell', 'nK CELL' (CL:0000623); 'B cell', 'B cells' (CL:0000236)."
    ) in got.text
    assert ontology.resolve(["B cell", "T cell", "B cell"]).shared == {}
    many = ontology.resolve(["B cell", "B cells", "b cell", "B-cell", "B lymphocyte"]).text
    assert "Of one term: 'B cell', 'B cells', 'b cell' and 2 more (CL:0000236)." in many


def test_one_label_is_a_list_of_one(small):
    assert small.resolve("left").term_ids == ("CL:1",)
    assert small.resolve("x", term_ids="CL:2").term_ids == ("CL:2",)


@pytest.mark.parametrize(
    ("label", "near"),
    [
        ("beta cell", ("pancreatic beta cell",)),
        ("Tcell", ("T-cell", "T cell")),
        ("T regs", ("Treg",)),
        ("epithelial cel", ("epithelial cell",)),
        ("Memory B", ("memory B cell",)),
        ("neutrophill", ()),
        ("unheard-of cells", ()),
    ],
)
def test_only_names_of_similar_words_are_suggested(ontology, label, near):
    got = ontology.resolve([label])

    assert got.how == ("unresolved",)
    assert set(near) <= set(ontology._finder.near(label))
    assert (got.notes[0] == "") == (near == ())
    assert "Betz" not in got.notes[0]


def test_report_of_nothing_is_short(small):
    assert small.resolve([]).text == "0 of 0 classes have a Cell Ontology term."


def test_frame_has_one_row_per_label(small):
    frame = small.resolve(["left", "?"]).frame

    wanted = [["left", "CL:1", "left", "label", ""], ["?", "", "", "unresolved", ""]]
    assert list(frame) == ["label", "term_id", "term_label", "how", "note"]
    assert frame.to_numpy().tolist() == wanted
    assert len(small.resolve([]).frame) == 0


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("B cell", "CL:0000236"),
        ("B cells", "CL:0000236"),
        ("b  Cells", "CL:0000236"),
        ("Monocytes", "CL:0000576"),
        ("NK cells", "CL:0000623"),
        ("pDC", "CL:0000784"),
        ("CL_0000236", "CL:0000236"),
        ("native cell", "CL:0000000"),
        ("type II pneumocyte", "CL:0002063"),
        ("B sell", ""),
    ],
)
def test_common_labels_are_resolved(ontology, label, term):
    assert ontology.resolve([label]).term_ids == (term,)


@pytest.mark.parametrize("term", ["CL:0000255", "CL:0000257", "CL:0000548"])
def test_term_that_cellxgene_refuses_is_noted(ontology, term):
    by_name = ontology.resolve([ontology.label(term)])
    given = ontology.resolve(["x"], term_ids=[term])

    for got in (by_name, given):
        assert got.term_ids == (ontology.current(term) or "",)
        assert f"{term} is not allowed in CELLxGENE data" in got.notes[0]


def test_former_name_of_another_release_is_found(ontology):
    older = cell_ontology("2025-07-30")
    term = "CL:4023018"
    assert older.label(term) != ontology.label(term)

    got = ontology.resolve([older.label(term)])

    assert (got.term_ids, got.how) == ((term,), ("former",))


def test_every_official_name_resolves_to_its_term(ontology):
    terms = [t for t in ontology if not ontology.is_obsolete(t)]

    got = ontology.resolve([ontology.label(t) for t in terms])

    assert got.term_ids == tuple(terms)
    assert set(got.how) == {"label"}


@given(st.text(max_size=20))
def test_any_text_gives_one_entry_and_only_whole_names_a_term(text):
    got = cell_ontology().resolve([text])

    assert len(got) == len(got.how) == 1
    assert (got.term_ids[0] == "") == (got.how[0] in {"ambiguous", "unresolved", "unlabeled"})


def test_cell_types_of_the_sctab_study_resolve_as_published(ontology, resource):
    table = pd.read_csv(resource("sctab_cell_types.tsv"), sep="\t", keep_default_na=False)
    assert len(table) == 164

    got = ontology.resolve(list(table["label"]))

    wanted = [ontology.current(t) if t else "" for t in table["ontology_id"]]
    found = pd.DataFrame({"wanted": wanted, "got": got.term_ids, "how": got.how})
    listed = found[found["wanted"] != ""]
    # the table lists 157; 6 more are known by the name they had in release 2025-07-30
    assert (listed["wanted"] == listed["got"]).all()
    assert found["how"].value_counts().to_dict() == {
        "label": 146,
        "synonym": 10,
        "former": 6,
        "replaced": 1,
        "unresolved": 1,
    }
    assert got.unresolved == (
        "L2/3-6 intratelencephalic projecting glutamatergic cortical neuron",
    )


def test_coarse_groups_of_the_sctab_study(ontology, resource):
    table = pd.read_csv(resource("sctab_cell_types.tsv"), sep="\t", keep_default_na=False)
    terms = [t for t in ontology.resolve(list(table["label"])).term_ids if t]

    groups = {m: len(set(ontology.coarse_terms(terms, max_information=m))) for m in (60, 40)}

    # the study has 31 from Ubergraph's scores, which count more than is-a relations
    assert groups == {60: 67, 40: 29}
