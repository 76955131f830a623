"""The bundled releases, against independent copies of the Cell Ontology."""

from __future__ import annotations

import doctest
import gzip
import re
import warnings

import pandas as pd
import pytest

from episome.errors import UsageError
from episome.ontology import _bundle, _hierarchy, _ontology, cell_ontology, releases


def test_newest_release_is_the_default_and_read_once():
    assert cell_ontology() is cell_ontology(releases()[0]) is cell_ontology("v" + releases()[0])
    assert list(releases()) == sorted(releases(), reverse=True)


def test_older_releases_come_without_a_warning():
    _bundle._load.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [cell_ontology(r).release for r in releases()]

    assert tuple(found) == releases()


@pytest.mark.parametrize("release", ["1999-01-01", "newest", ""])
def test_unknown_release_is_refused_with_those_that_are_there(release):
    with pytest.raises(UsageError, match=f"no release '{release}'.*{releases()[0]}") as caught:
        cell_ontology(release)

    assert caught.value.code == "E-U40"


def test_bundled_ancestors_are_the_closure_of_the_direct_parents(ontology):
    from cellxgene_ontology_guide.supported_versions import CXGSchema

    records = CXGSchema().ontology("CL")
    if len(records) != len(ontology):
        pytest.skip("the newest bundled release is another one")

    differing = {t for t in ontology if set(ontology.ancestors(t)) != set(records[t]["ancestors"])}
    # cytoplasms and nuclei, which are below "cell" by way of terms of the Gene Ontology only
    assert all(t.startswith("CL:00175") and not ontology.parents(t) for t in differing)
    assert len(differing) == 8


def test_every_current_term_but_parts_of_cells_is_a_cell(ontology):
    below = set(ontology.descendants("CL:0000000", include_self=True))

    others = {t for t in ontology if not ontology.is_obsolete(t)} - below
    assert len(others) == 8
    assert all(t.startswith("CL:00175") for t in others)
    assert ontology.parents("CL:0000236") == ("CL:0000945",)
    assert ontology.synonyms("CL:0000236") == ("B lymphocyte", "B-cell", "B-lymphocyte")


def test_import_of_the_room_and_its_use_stay_light(run_python):
    code = (
        "import sys, episome\n"
        "from episome.ontology import cell_ontology\n"
        "cell_ontology().child_matrix(['CL:0000236'])\n"
        "assert not {'torch', 'scvi', 'lightning', 'sklearn', 'anndata'} & set(sys.modules)"
    )

    result = run_python(code)

    assert result.returncode == 0, result.stderr


def test_terms_and_relations_equal_the_published_release(ontology, resource):
    terms = pd.read_csv(
        resource("cell_ontology_v2026-03-26_terms.tsv.gz"), sep="\t", keep_default_na=False
    ).set_index("id")
    edges = pd.read_csv(resource("cell_ontology_v2026-03-26_edges.tsv.gz"), sep="\t")

    assert set(terms.index) == set(ontology)
    assert terms["label"].to_dict() == {t: ontology.label(t) for t in ontology}
    assert {t for t in ontology if ontology.is_obsolete(t)} == set(
        terms.index[terms["deprecated"] == 1]
    )
    synonyms = {t: set(s.split("|")) - {""} for t, s in terms["synonyms"].items()}
    assert synonyms == {t: set(ontology.synonyms(t)) for t in ontology}
    assert set(zip(edges["child"], edges["parent"], strict=True)) == {
        (t, p) for t in ontology for p in ontology.parents(t)
    }


def test_closure_equals_a_walk_along_the_published_relations(ontology, resource):
    edges = pd.read_csv(resource("cell_ontology_v2026-03-26_edges.tsv.gz"), sep="\t")
    above = edges.groupby("child")["parent"].agg(set).to_dict()

    def walk(term):
        seen, to_do = set(), [term]
        while to_do:
            for parent in above.get(to_do.pop(), set()) - seen:
                seen.add(parent)
                to_do.append(parent)
        return seen

    assert all(set(ontology.ancestors(t)) == walk(t) for t in ontology)


def test_terms_of_2022_are_all_known_and_most_are_current(ontology, resource):
    text = gzip.decompress(resource("cl-basic_2022.obo.gz").read_bytes()).decode()
    stanzas = text.split("\n[Term]\n")[1:]
    found = [
        (
            re.match(r"id: (\S+)", s)[1],
            re.search(r"^name: (.*)", s, re.M),
            "is_obsolete: true" in s,
        )
        for s in stanzas
        if s.startswith("id: CL:")
    ]
    current_then = [(t, name[1]) for t, name, obsolete in found if not obsolete]

    now = {t: ontology.current(t) if t in ontology else "gone" for t, _ in current_then}
    assert all(t in ontology for t, _, _ in found)
    drift = {
        "current in 2022": len(current_then),
        "gone": sum(n == "gone" for n in now.values()),
        "replaced": sum(n not in (t, None, "gone") for t, n in now.items()),
        "without successor": sum(n is None for n in now.values()),
        "renamed": sum(
            n == t and ontology.label(t) != name
            for (t, name), n in zip(current_then, now.values(), strict=True)
        ),
    }

    # of the 148 that were obsolete in 2022 none is lost either
    assert len(found) - len(current_then) == 148
    assert drift == {
        "current in 2022": 2526,
        "gone": 0,
        "replaced": 30,
        "without successor": 17,
        "renamed": 113,
    }


@pytest.mark.parametrize("module", [_bundle, _hierarchy, _ontology])
def test_examples_run(module):
    found = doctest.testmod(module)

    assert found.attempted
    assert not found.failed
