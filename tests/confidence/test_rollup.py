"""Roll-up: terms are sums of classes, and calls for two wanted confidences never disagree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.confidence import RollUp, classes_within, restricted
from episome.errors import UsageError
from episome.ontology import ROOT, cell_ontology

ONTOLOGY = cell_ontology()
#: Types of blood, one of them above others.
BLOOD = {
    "CD4 T": "CL:0000624",
    "CD8 T": "CL:0000625",
    "T": "CL:0000084",
    "B": "CL:0000236",
    "NK": "CL:0000623",
    "monocyte": "CL:0000576",
    "own type": "",
}
TERMS = sorted(t for t in ONTOLOGY if t.startswith("CL:") and not ONTOLOGY.is_obsolete(t))
RNG = np.random.default_rng(0)
SOME = [TERMS[i] for i in RNG.choice(len(TERMS), 400, replace=False)]


def blood() -> RollUp:
    return RollUp.of(list(BLOOD), list(BLOOD.values()), ONTOLOGY)


def shares(n: int, k: int, seed: int, sharpness: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, 1 / sharpness), n)
    return p / p.sum(axis=1, keepdims=True)


def test_a_call_that_is_sure_stays_and_one_that_is_not_climbs():
    p = np.array(
        [
            [0.95, 0.05, 0, 0, 0, 0, 0],
            [0.5, 0.45, 0, 0.05, 0, 0, 0],
            [0.3, 0.1, 0.3, 0.25, 0.05, 0, 0],
            [0.3, 0.0, 0.0, 0.0, 0.0, 0.3, 0.4],
        ]
    )
    roll = blood()

    node, probability, level = roll.climb(p, 0.9)

    called = [roll.names[i] if i >= 0 else None for i in node]
    # The deepest of the terms above both, not the class that is above both.
    assert called[:2] == ["CD4 T", "mature alpha-beta T cell"]
    assert "lymphocyte" in called[2]
    assert called[3] is None
    assert level[0] == 0
    assert level[1] >= 1
    assert probability[:2] == pytest.approx([0.95, 0.95])


def test_a_class_above_others_counts_with_them():
    roll = blood()
    p = np.array([[0.4, 0.1, 0.45, 0.05, 0, 0, 0]])

    node, probability, level = roll.climb(p, 0.9)

    assert roll.names[node[0]] == "T"
    assert (probability[0], level[0]) == (pytest.approx(0.95), 0)


def test_classes_above_others_are_named():
    (found,) = blood().classes_above()

    assert found[0] == "T"
    assert {"CD4 T", "CD8 T"} <= set(found[1])
    assert RollUp.of(["B", "NK"], [BLOOD["B"], BLOOD["NK"]], ONTOLOGY).classes_above() == []


def test_nodes_are_the_terms_above_some_classes_but_not_all():
    roll = blood()

    assert ROOT not in roll.term_ids
    assert not roll.covers[roll.n_classes :].all(axis=1).any()
    own = roll.names.index("own type")
    assert not roll.above[own].any()
    assert len(set(roll.names)) == len(roll)
    for i, term in enumerate(roll.term_ids):
        for c, own in enumerate(BLOOD.values()):
            kind = bool(own) and term in ONTOLOGY.ancestors(own, include_self=True)
            assert roll.covers[i, c] == (kind or i == c)


@settings(max_examples=60)
@given(
    terms=st.lists(st.sampled_from(SOME), min_size=2, max_size=25, unique=True),
    seed=st.integers(0, 9999),
    sharpness=st.sampled_from([0.5, 2.0, 20.0]),
)
def test_calls_never_contradict_each_other(terms, seed, sharpness):
    names = [f"class {i}" for i in range(len(terms))]
    roll = RollUp.of(names, terms, ONTOLOGY)
    p = shares(40, len(terms), seed, sharpness)
    of_nodes = roll.probabilities(p)

    # A term is as probable as all below it, and never less than one of them.
    for a, b in zip(*np.nonzero(roll.above), strict=True):
        assert (of_nodes[:, b] >= of_nodes[:, a] - 1e-12).all()
        assert roll.term_ids[b] in ONTOLOGY.ancestors(roll.term_ids[a])
    before = p.argmax(axis=1)
    last = np.zeros(len(p), dtype=np.int64)
    for wanted in (0.01, 0.3, 0.5, 0.7, 0.9, 0.99):
        node, probability, level = roll.climb(p, wanted)
        called = node >= 0
        assert (probability[called] >= wanted - 1e-6).all()
        assert (probability[~called] < wanted).all()
        assert (level >= last).all()
        for cell in np.flatnonzero(called):
            here, there = roll.term_ids[node[cell]], roll.term_ids[before[cell]]
            assert here == there or here in ONTOLOGY.ancestors(there)
            # What was called is a kind of what is called now, and so is the most probable class.
            assert roll.covers[node[cell], p[cell].argmax()]
        before, last = np.where(called, node, before), level
    # A cell that was called nothing is called nothing for more.
    calls = [roll.climb(p, w)[0] >= 0 for w in (0.5, 0.9)]
    assert not (calls[1] & ~calls[0]).any()


def test_a_set_has_to_be_covered_besides():
    roll = blood()
    p = np.array([[0.95, 0.01, 0.0, 0.04, 0, 0, 0]])
    sets = np.zeros_like(p, dtype=bool)
    sets[0, [0, 1]] = True

    assert roll.names[roll.climb(p, 0.9)[0][0]] == "CD4 T"
    node = roll.climb(p, 0.9, sets=sets)[0][0]
    assert roll.covers[node, [0, 1]].all()
    assert roll.term_ids[node] in ONTOLOGY.ancestors(BLOOD["CD4 T"])


def test_terms_of_the_user_are_rolled_up_too():
    mine = ONTOLOGY.with_terms(
        {
            "LAB:1": {"label": "stressed T", "parents": ["CL:0000084"]},
            "LAB:2": {"label": "calm T", "parents": ["CL:0000084"]},
        }
    )
    roll = RollUp.of(["stressed T", "calm T", "B"], ["LAB:1", "LAB:2", "CL:0000236"], mine)

    node, _, _ = roll.climb(np.array([[0.5, 0.45, 0.05]]), 0.9)

    assert roll.covers[node[0]].tolist() == [True, True, False]
    assert roll.term_ids[node[0]] == "CL:0000084"


def test_classes_with_one_term_are_one_type():
    roll = RollUp.of(["a", "b", "B"], ["CL:0000084", "CL:0000084", "CL:0000236"], ONTOLOGY)

    node, probability, _ = roll.climb(np.array([[0.5, 0.45, 0.05]]), 0.9)

    assert roll.names[node[0]] == "a"
    assert probability[0] == pytest.approx(0.95)


def test_without_terms_there_is_nothing_to_roll_up():
    with pytest.raises(UsageError, match="E-L42"):
        RollUp.of(["a", "b"], ["", "LAB:1"], ONTOLOGY)


@pytest.mark.parametrize("wanted", ["CL:0000084", "T cell", "T"])
def test_classes_of_a_type_are_found_by_term_and_by_name(wanted):
    found = classes_within(list(BLOOD), list(BLOOD.values()), [wanted], ONTOLOGY)

    kinds = {n for n, kind in zip(BLOOD, found, strict=True) if kind}
    assert kinds == {"CD4 T", "CD8 T", "T"}


def test_several_types_and_classes_without_a_term():
    found = classes_within(list(BLOOD), list(BLOOD.values()), ["own type", "CL:0000236"], ONTOLOGY)

    assert [n for n, kind in zip(BLOOD, found, strict=True) if kind] == ["B", "own type"]


@pytest.mark.parametrize("wanted", ["CL:0000540", "nonsense"])
def test_a_type_of_no_class_is_refused(wanted):
    with pytest.raises(UsageError, match="E-L43"):
        classes_within(list(BLOOD), list(BLOOD.values()), [wanted], ONTOLOGY)


@given(seed=st.integers(0, 999), sharpness=st.sampled_from([0.5, 20.0]))
def test_restricted_probabilities_keep_their_proportions(seed, sharpness):
    p = shares(10, 5, seed, sharpness).astype(np.float32)
    mask = np.array([True, False, True, True, False])

    found = restricted(p, mask)

    assert found.dtype == p.dtype
    assert not found[:, ~mask].any()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    inside = p[:, mask].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, mask] * inside, p[:, mask], atol=1e-6)


def test_a_cell_with_nothing_inside_could_be_any_of_them():
    found = restricted(np.array([[0.0, 1.0, 0.0]]), np.array([True, False, True]))

    assert found.tolist() == [[0.5, 0.0, 0.5]]
