"""Broader types, and the order of the tree."""

from __future__ import annotations

from episome.ontology import ROOT, broader_names, cell_ontology, level_names, tree_order

T, CD4, CD8, B = (
    "T cell",
    "CD4-positive, alpha-beta T cell",
    "CD8-positive, alpha-beta T cell",
    "B",
)
TERMS = {CD8: "CL:0000625", "mine": "", B: "CL:0000236", T: "CL:0000084", CD4: "CL:0000624"}


def test_kinds_stand_behind_what_they_are_kinds_of():
    order = tree_order(TERMS)

    assert order.index(T) + 1 == order.index(CD4)
    assert order.index(CD4) + 1 == order.index(CD8)
    assert order[-1] == "mine"
    assert tree_order(dict(reversed(TERMS.items()))) == order


def test_levels_put_ever_more_types_together():
    levels = level_names(TERMS)

    sizes = [len({names[n] for n, t in TERMS.items() if t}) for names in levels]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes) > 0
    assert sizes[0] < 4
    assert all(names["mine"] == "mine" for names in levels)
    assert level_names({"mine": "", "yours": ""}) == []


def test_types_without_a_broader_one_stay_as_they_are():
    assert broader_names(TERMS, max_information=100)[B] == B
    assert broader_names({}) == {}


def test_broader_types_divide_the_cells():
    terms = {
        "B cell": "CL:0000236",
        "CD4-positive, alpha-beta T cell": "CL:0000624",
        "CD8-positive, alpha-beta T cell": "CL:0000625",
        "natural killer cell": "CL:0000623",
        "classical monocyte": "CL:0000860",
        "dendritic cell": "CL:0000451",
    }
    ontology = cell_ontology()
    by_name = {ontology.label(t): t for t in ontology.descendants(ROOT)}

    for names in level_names(terms):
        plain = {by_name[n] for n in names.values() if n in by_name}
        assert not [a for a in plain for b in plain if a in ontology.ancestors(b)], names
