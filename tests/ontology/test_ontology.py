"""The graph, obsolete terms, own terms, information content and coarse terms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome.errors import LabelError
from episome.ontology import CellOntology, OwnTerm, Term, cell_ontology


def test_relatives_are_sorted_and_leave_out_the_term(small):
    assert small.parents("CL:3") == ("CL:1", "CL:2")
    assert small.children("CL:3") == ("CL:4", "CL:5")
    assert small.ancestors("CL:4") == ("CL:0000000", "CL:1", "CL:2", "CL:3")
    assert small.descendants("CL:1") == ("CL:3", "CL:4", "CL:5")
    assert small.descendants("CL:4") == ()


@pytest.mark.parametrize("of", ["parents", "children", "ancestors", "descendants"])
def test_relatives_with_the_term_have_one_more(small, of):
    alone = getattr(small, of)("CL:3")

    assert getattr(small, of)("CL:3", include_self=True) == tuple(sorted({*alone, "CL:3"}))


@pytest.mark.parametrize(
    "of", ["label", "synonyms", "parents", "children", "ancestors", "descendants", "current"]
)
def test_unknown_term_is_refused_with_one_that_is_near(small, of):
    with pytest.raises(LabelError, match=r"no term 'CL:33'.*such as CL:3 \(both\)") as caught:
        getattr(small, of)("CL:33")

    assert caught.value.code == "E-L25"


def test_name_in_place_of_an_identifier_is_refused_with_its_identifier(ontology):
    with pytest.raises(LabelError, match=r"no term 'B cell'.*CL:0000236 \(B cell\)"):
        ontology.parents("B cell")


def test_unknown_term_like_no_other_is_refused_with_the_form_of_identifiers(small):
    with pytest.raises(LabelError, match="use one such as CL:0000236"):
        small.label("§§§")


def test_members_are_all_terms_and_count_obsolete_ones(small):
    assert "CL:16" in small
    assert "CL:17" not in small
    assert len(small) == len(list(small)) == 13
    assert small.is_obsolete("CL:16")
    assert not small.is_obsolete("CL:1")
    assert repr(small) == "CellOntology(test: 6 terms, 7 obsolete, 0 own)"


@pytest.mark.parametrize("name", ["release", "own_terms"])
def test_ontology_cannot_be_changed(small, name):
    with pytest.raises(AttributeError):
        setattr(small, name, "other")
    with pytest.raises(TypeError):
        small.own_terms["MY:1"] = OwnTerm("mine", ("CL:1",))


@pytest.mark.parametrize(
    ("term", "now"),
    [
        ("CL:3", "CL:3"),
        ("CL:10", "CL:3"),
        ("CL:12", None),
        ("CL:14", None),
        ("CL:15", None),
        ("CL:16", None),
    ],
)
def test_current_follows_chains_and_stops_in_cycles(small, term, now):
    assert small.current(term) == now


def test_current_of_all_bundled_terms_is_current(ontology):
    now = [ontology.current(t) for t in ontology]

    assert not any(ontology.is_obsolete(t) for t in now if t is not None)
    assert all(n == t for t, n in zip(ontology, now, strict=True) if not ontology.is_obsolete(t))


# -- the child matrix ----------------------------------------------------------------------------


def test_child_matrix_has_descendants_and_the_term_itself(small):
    got = small.child_matrix(["CL:4", "CL:1", "CL:3", "CL:2"])

    assert got.dtype == np.bool_
    assert got.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 1]]


def test_child_matrix_of_empty_and_foreign_terms_is_the_identity(small):
    foreign = ["FBbt:1", "FBbt:1", "http://purl.obolibrary.org/obo/FBbt_00000001"]
    got = small.child_matrix(["", "", *foreign, "unknown", None, "CL:15", "CL:15"])

    assert np.array_equal(got, np.eye(9))


@pytest.mark.parametrize("form", ["CL_4", "cl:4", "http://purl.obolibrary.org/obo/CL_4", " CL:4 "])
def test_child_matrix_takes_identifiers_in_other_forms(small, form):
    assert small.child_matrix(["CL:1", form])[0, 1]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (["lymphocyte", "B cell"], r"no term 'lymphocyte'.*CL:0000542 \(lymphocyte\)"),
        (["CL:0000542", "B cells"], r"no term 'B cells'.*CL:0000236 \(B cell\)"),
        (["CL:00005421"], r"no term 'CL:00005421'.*such as CL:0000542 \(lymphocyte\)"),
        (["CL_9999999"], "no term 'CL_9999999'"),
        (["B_cell"], "no term 'B_cell'"),
        (["T cell: naive"], "no term 'T cell: naive'"),
        ([236], "no term '236'"),
    ],
)
def test_child_matrix_of_what_is_no_term_is_refused(ontology, terms, message):
    with pytest.raises(LabelError, match=message) as caught:
        ontology.child_matrix(terms)

    assert caught.value.code == "E-L25"


def test_one_identifier_is_a_list_of_one(small):
    assert small.child_matrix("CL:3").tolist() == [[True]]
    assert small.coarse_terms("CL:4", max_information=50) == ("CL:3",)
    assert small.information_content("CL:4").tolist() == [100]


def test_child_matrix_of_one_term_twice_makes_the_classes_kinds_of_each_other(small):
    got = small.child_matrix(["CL:3", "CL:1", "CL:3"])

    assert got.astype(int).tolist() == [[1, 0, 1], [1, 1, 1], [1, 0, 1]]


def test_child_matrix_takes_an_obsolete_term_for_its_successor(small):
    assert small.child_matrix(["CL:1", "CL:10"])[0, 1]


def test_child_matrix_of_nothing_is_empty(small):
    assert small.child_matrix([]).shape == (0, 0)


@given(st.data())
def test_child_matrix_is_reflexive_transitive_and_follows_the_order(data):
    ontology = cell_ontology()
    wanted = st.lists(st.sampled_from(sorted(ontology)), min_size=1, max_size=30)
    terms = data.draw(wanted)
    order = data.draw(st.permutations(range(len(terms))))

    got = ontology.child_matrix(terms)

    steps = got.astype(int)
    assert got.diagonal().all()
    assert np.array_equal(steps @ steps > 0, got)
    shuffled = ontology.child_matrix([terms[i] for i in order])
    assert np.array_equal(shuffled, got[np.ix_(order, order)])


# -- own terms -----------------------------------------------------------------------------------


def test_own_terms_join_the_graph_and_leave_the_first_ontology_as_it_was(ontology):
    grown = ontology.with_terms(
        {
            "LAB:T2": {"label": "odd kind", "parents": ["LAB:T1"], "synonyms": ["oddity"]},
            "LAB:T1": OwnTerm("odd T cell", ("CL:0000084",)),
        }
    )

    assert "LAB:T1" in grown
    assert "LAB:T1" not in ontology
    assert "CL:0000542" in grown.ancestors("LAB:T2")
    assert grown.children("CL:0000084") == tuple(
        sorted([*ontology.children("CL:0000084"), "LAB:T1"])
    )
    assert grown.own_terms["LAB:T2"] == OwnTerm("odd kind", ("LAB:T1",), ("oddity",))
    assert grown.resolve(["Oddity", "odd T cells"]).term_ids == ("LAB:T2", "LAB:T1")
    assert grown.child_matrix(["CL:0000084", "LAB:T2"]).tolist() == [[True, True], [False, True]]
    assert grown.release == ontology.release
    assert dict(ontology.own_terms) == {}


def test_own_terms_come_on_top_of_own_terms(small):
    grown = small.with_terms({"A:1": OwnTerm("a", ("CL:1",))})

    twice = grown.with_terms({"B:1": OwnTerm("b", ("A:1",))})

    assert list(twice.own_terms) == ["A:1", "B:1"]
    assert twice.ancestors("B:1") == ("A:1", "CL:0000000", "CL:1")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"odd": OwnTerm("x", ("CL:1",))}, "'odd' is not of the form PREFIX:NAME"),
        ({"CL:77": OwnTerm("x", ("CL:1",))}, "'CL:77' is an identifier of the Cell Ontology"),
        ({"A:1": OwnTerm(" ", ("CL:1",))}, "'A:1' has no label"),
        ({"A:1": {"parents": ["CL:1"]}}, "'A:1' has no label"),
        ({"A:1": {"label": "x"}}, "'A:1' has no parent"),
        ({"A:1": {"label": "x", "parents": 3}}, "'A:1' has 3 where a list of texts belongs"),
        ({"A:1": {"label": "x", "parent": "CL:1"}}, r"keys that a term does not take \(parent\)"),
        ({"A:1": {"label": "x", "parents": "CL:10"}}, "obsolete parent CL:10, now CL:11"),
        (
            {"A:1": OwnTerm("x", ("A:2",)), "A:2": OwnTerm("y", ("A:1", "CL:1"))},
            "is its own ancestor",
        ),
        ({"A:1": OwnTerm("x", ("A:1",))}, "is its own ancestor"),
        ({"mine": "left"}, "'mine' is 'left' where a label and parents belong.*my cell"),
        ({"A:1": None}, "'A:1' is None where a label and parents belong"),
        ({1: {"label": "x", "parents": ["CL:1"]}}, "own term 1 is not of the form PREFIX:NAME"),
        ([("A:1", "x")], "own terms are a list where a mapping of identifiers belongs.*my cell"),
        (None, "own terms are a NoneType where a mapping"),
    ],
)
def test_own_term_that_cannot_stand_is_refused(small, terms, message):
    with pytest.raises(LabelError, match=message) as caught:
        small.with_terms(terms)

    assert caught.value.code == "E-L23"


def test_own_term_below_nothing_is_refused(small):
    with pytest.raises(LabelError, match="parent 'CL:99' of the own term 'A:1'") as caught:
        small.with_terms({"A:1": OwnTerm("x", ("CL:99",))})

    assert caught.value.code == "E-L25"


@pytest.mark.parametrize("parent", ["B cell", "B cells", "b lymphocyte", "CL_0000236"])
def test_own_term_below_a_name_is_refused_with_its_identifier(ontology, parent):
    own = {"A:1": {"label": "x", "parents": [parent]}}

    with pytest.raises(LabelError, match=f"does not exist.*{parent} is CL:0000236") as caught:
        ontology.with_terms(own)

    assert caught.value.code == "E-L25"


def test_own_terms_of_a_new_ontology_are_checked_alike():
    with pytest.raises(LabelError, match="'A:1' is 'x' where a label and parents belong"):
        CellOntology("x", {"CL:1": Term("a")}, own_terms={"A:1": "x"})


def test_own_term_twice_is_refused(small):
    grown = small.with_terms({"A:1": OwnTerm("a", ("CL:1",))})

    with pytest.raises(LabelError, match="'A:1' is .* taken"):
        grown.with_terms({"A:1": OwnTerm("b", ("CL:2",))})


# -- information content and coarse terms --------------------------------------------------------


def test_information_content_is_that_of_the_formula(small):
    got = small.information_content(["CL:0000000", "CL:1", "CL:3", "CL:4", "CL:10", "CL:15"])

    wanted = [100 * (1 - np.log(n) / np.log(6)) for n in (6, 4, 3, 1, 3)]
    np.testing.assert_allclose(got, [*wanted, np.nan], atol=1e-12)
    assert got.dtype == np.float64


def test_information_content_never_falls_on_the_way_down(ontology):
    terms = [t for t in ontology if not ontology.is_obsolete(t)]
    content = dict(zip(terms, ontology.information_content(terms), strict=True))

    assert min(content.values()) == content["CL:0000000"] == 0
    assert max(content.values()) == 100
    assert all(content[p] <= content[t] for t in terms for p in ontology.parents(t))


def test_information_content_of_an_unknown_term_is_refused(small):
    with pytest.raises(LabelError, match="no term 'CL:99'"):
        small.information_content(["CL:99"])


def test_coarse_term_is_the_most_informative_one_within_the_limit(small):
    # contents: left and right 22.6, both 38.7, twins 100; ties go to the smaller identifier
    assert small.coarse_terms(["CL:4", "CL:1"], max_information=50) == ("CL:3", "CL:1")
    assert small.coarse_terms(["CL:4", "CL:2"], max_information=30) == ("CL:1", "CL:2")
    assert small.coarse_terms(["CL:4", "CL:2"], max_information=5) == ("CL:4", "CL:2")


def test_coarse_term_is_below_the_root(small):
    assert small.coarse_terms(["CL:4", "CL:2"], max_information=90, root="CL:1") == (
        "CL:3",
        "CL:2",
    )


def test_coarse_term_of_what_has_no_term_is_itself(small):
    assert small.coarse_terms(["", "FBbt:1", "CL:10"]) == ("", "FBbt:1", "CL:3")


def test_coarse_term_with_an_unknown_root_is_refused(small):
    with pytest.raises(LabelError, match="no term 'CL:99'"):
        small.coarse_terms(["CL:1"], root="CL:99")


def test_terms_of_a_cyclic_file_are_refused():
    with pytest.raises(ValueError, match="cycle"):
        CellOntology("x", {"CL:1": Term("a", ("CL:2",)), "CL:2": Term("b", ("CL:1",))}).ancestors(
            "CL:1"
        )
