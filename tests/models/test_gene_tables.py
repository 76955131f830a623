"""Agreement of lists of genes, and the gene sets that they are enriched in."""

from __future__ import annotations

import builtins
import gzip
import importlib.util

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, hypergeom

from episome import models
from episome.data import simulate_cells
from episome.errors import (
    EpisomeWarning,
    GeneMatchError,
    InputFileError,
    MissingDependencyError,
    UsageError,
)
from episome.models import agreement, enrichment

needs_gseapy = pytest.mark.skipif(
    importlib.util.find_spec("gseapy") is None, reason="GSEApy is not installed (enrichment)"
)


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(200, 100, n_types=3, fold_change=3.0, seed=4)


@pytest.fixture(scope="module")
def model(cells):
    cls = models.LogisticRegression
    cls.setup_anndata(reference := cells.copy(), labels_key="cell_type")
    model = cls(reference)
    model.train()
    return model


@pytest.fixture(scope="module")
def raised(cells):
    """The genes that every type raises, as the simulation has it."""
    x = cells.X.toarray() / cells.X.toarray().sum(axis=1, keepdims=True)
    types = cells.obs["cell_type"].astype(str).to_numpy()
    means = pd.DataFrame(x).groupby(types).mean().set_axis(cells.var_names, axis=1)
    return {t: list(means.columns[means.loc[t] > 1.5 * means.drop(t).max()]) for t in means.index}


def table(**groups):
    rows = [(g, i + 1, gene) for g, genes in groups.items() for i, gene in enumerate(genes)]
    return pd.DataFrame(rows, columns=["group", "rank", "gene"])


# -- agreement ------------------------------------------------------------------------------------


def test_agreement_is_the_jaccard_index_of_every_group_and_pair():
    a = table(x=["g1", "g2", "g3"], y=["g4", "g5"])
    b = table(y=["g5", "g6"], x=["g2", "g3", "g9"], z=["g1"])
    c = table(x=["g1", "g2", "g3"])

    found = agreement({"a": a, "b": b, "c": c}, k=2)

    assert list(found["first"]) == ["a", "a", "a", "b"]
    assert list(found["second"]) == ["b", "b", "c", "c"]
    assert list(found["group"]) == ["x", "y", "x", "x"]
    assert list(found["n_shared"]) == [1, 1, 2, 1]
    np.testing.assert_allclose(found["jaccard"], [1 / 3, 1 / 3, 1, 1 / 3])
    np.testing.assert_allclose(found["mean_jaccard"], [1 / 3, 1 / 3, 1, 1 / 3])
    assert list(agreement([a, c])["first"].unique()) == ["table 0"]


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1),
    st.integers(1, 9),
)
def test_agreement_is_symmetric_and_one_with_itself(one, other, k):
    a, b = table(x=[*one, "shared"]), table(x=[*other, "shared"])

    ab, ba, aa = (agreement(pair, k)["jaccard"].iloc[0] for pair in ((a, b), (b, a), (a, a)))

    assert ab == ba
    assert aa == 1
    assert 0 <= ab <= 1


def test_agreement_of_models_means_and_differential_expression(model, cells, raised):
    ranked = cells.copy()
    sc.pp.normalize_total(ranked)
    sc.pp.log1p(ranked)
    sc.tl.rank_genes_groups(ranked, "cell_type", key_added="mine")
    top = model.top_genes(cells, "cell_type", 30)
    means = model.explain(cells, groupby="cell_type")
    frame = sc.get.rank_genes_groups_df(ranked, None, key="mine")

    found = agreement({"top": top, "means": means, "de": ranked, "frame": frame}, 10, key="mine")

    pairs = found.set_index(["first", "second"])["jaccard"].sort_index()
    assert (pairs["top", "means"] == 1).all()
    assert (pairs["de", "frame"] == 1).all()
    assert (pairs["top", "de"] > 0.3).all()
    wanted = {t: set(genes) for t, genes in raised.items()}
    for group, part in top.groupby("group"):
        assert len(set(part["gene"].head(5)) & wanted[group]) >= 3


def test_agreement_takes_what_explains_errors(model, cells):
    noisy = cells.copy()
    noisy.obs["wrong"] = np.roll(noisy.obs["cell_type"].to_numpy(dtype=object), 1)
    errors = model.explain_errors(noisy, "wrong", k=5)

    found = agreement([errors, errors])

    assert set(found["group"]) == {
        f"{t} called {c}" for t, c in zip(errors["type"], errors["called"], strict=True)
    }
    assert (found["jaccard"] == 1).all()


def test_agreement_compares_symbols_where_asked(cells):
    named = cells.copy()
    named.var["feature_name"] = [f"SYMBOL{i}" for i in range(named.n_vars)]
    named.var_names = [f"ENSG{i:011d}" for i in range(named.n_vars)]
    cls = models.LogisticRegression
    cls.setup_anndata(named, labels_key="cell_type")
    model = cls(named)
    model.train()
    top = model.top_genes(named, "cell_type", 5)
    other = top.drop(columns="gene").rename(columns={"gene_name": "gene"})
    other["gene_name"] = other["gene"]

    with pytest.warns(EpisomeWarning, match=r"no gene in common.*E-U95"):
        none = agreement([top, other])
    same = agreement([top, other], names="gene_name")

    assert (none["jaccard"] == 0).all()
    assert (same["jaccard"] == 1).all()


def test_agreement_refuses_what_is_no_table(cells):
    one = table(x=["a"])
    with pytest.raises(UsageError, match=r"1 tables cannot agree.*E-U79"):
        agreement([one])
    with pytest.raises(UsageError, match=r"no group in common.*E-U79"):
        agreement([one, table(y=["a"])])
    with pytest.raises(UsageError, match=r"no table of genes.*E-U79") as error:
        agreement({"one": one, "cells": cells})
    assert "tables['cells']" in str(error.value)
    assert "rank_genes_groups" in str(error.value)
    with pytest.raises(UsageError, match=r"it is a list.*E-U79"):
        agreement([one, ["a"]])
    with pytest.raises(UsageError, match=r"of one group alone.*E-U79"):
        agreement([one, pd.DataFrame({"names": ["a"], "scores": [1.0]})])
    with pytest.raises(UsageError, match=r"its columns are a.*E-U79"):
        agreement([one, pd.DataFrame({"a": ["b"]})])
    with pytest.raises(UsageError, match=r"k=0.*E-U22"):
        agreement([one, one], 0)
    with pytest.raises(UsageError, match=r"names='id'.*E-U30"):
        agreement([one, one], names="id")


# -- enrichment -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(raised, cells):
    """The genes of every type, and sets that have nothing to do with them."""
    rng = np.random.default_rng(0)
    other = {f"random {i}": list(rng.choice(cells.var_names, 12, replace=False)) for i in range(6)}
    return {**{f"of {t}": [*genes, "ELSEWHERE"] for t, genes in raised.items()}, **other}


def as_file(path, sets):
    lines = ["\t".join([name, "no description", *genes]) for name, genes in sets.items()]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@needs_gseapy
@pytest.mark.parametrize("name", ["sets.gmt", "sets.gmt.gz"])
def test_lists_are_tested_by_the_hypergeometric_distribution(model, cells, sets, name, tmp_path):
    top = model.top_genes(cells, "cell_type", 8)

    found = enrichment(top, as_file(tmp_path / name, sets), model=model, min_size=3)

    known = set(model.features.ids)
    for group, part in found.groupby("group"):
        chosen = set(top[top["group"] == group]["gene"])
        assert part["set"].iloc[0] == f"of {group}"
        assert sorted(part["set"]) == sorted(
            n for n, g in sets.items() if len(known & set(g)) >= 3
        )
        for row in part.itertuples():
            inside = known & set(sets[row.set])
            assert row.n_set == len(inside)
            assert row.n_list == len(chosen)
            assert row.n_found == len(chosen & inside)
            assert row.genes == ";".join(sorted(chosen & inside))
            wanted = hypergeom.sf(row.n_found - 1, len(known), len(inside), len(chosen))
            assert row.p_value == pytest.approx(wanted)
        np.testing.assert_allclose(part["q_value"], false_discovery_control(part["p_value"]))


@needs_gseapy
def test_rankings_find_the_genes_of_their_type_and_follow_the_seed(model, cells, sets):
    means = model.explain(cells, groupby="cell_type")
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - that it is left alone

    found = enrichment(means, sets, min_size=3, n_permutations=200)

    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    for group, part in found.groupby("group"):
        own = part.set_index("set").loc[f"of {group}"]
        assert own["score"] == part["score"].max()
        assert own["score"] > 0
        assert set(own["genes"].split(";")) <= set(sets[f"of {group}"])
        assert own["n_list"] == (means.loc[group] != 0).sum()
    assert found["p_value"].min() >= 1 / 201
    pd.testing.assert_frame_equal(found, enrichment(means, sets, min_size=3, n_permutations=200))
    other = enrichment(means, sets, min_size=3, n_permutations=200, seed=5)
    assert (found["p_value"] != other["p_value"]).any()


@needs_gseapy
def test_means_are_lists_too_and_a_background_can_be_given(model, cells, sets):
    means = model.explain(cells, groupby="cell_type")
    top = model.top_genes(cells, "cell_type", 8)

    listed = enrichment(means, sets, method="list", k=8, min_size=3)
    given = enrichment(top, sets, background=list(cells.var_names), min_size=3)

    wanted = enrichment(top, sets, model=model, min_size=3)
    pd.testing.assert_frame_equal(listed, wanted)
    pd.testing.assert_frame_equal(given, wanted)


@needs_gseapy
def test_sets_of_symbols_are_matched_by_symbol(cells, raised):
    named = cells.copy()
    named.var["feature_name"] = [f"SYMBOL{i}" for i in range(named.n_vars)]
    named.var_names = [f"ENSG{i:011d}" for i in range(named.n_vars)]
    cls = models.LogisticRegression
    cls.setup_anndata(named, labels_key="cell_type")
    model = cls(named)
    model.train()
    top = model.top_genes(named, "cell_type", 8)
    symbols = {"mine": [g.replace("GENE", "SYMBOL") for g in raised["type 0"]]}

    found = enrichment(top, symbols, model=model, min_size=3)

    best = found[found["group"] == "type 0"].iloc[0]
    assert best["n_found"] >= 3
    assert set(best["genes"].split(";")) <= set(symbols["mine"])


@needs_gseapy
def test_a_list_without_genes_of_any_set_has_p_values_of_one(cells):
    found = enrichment(
        table(x=["GENE1", "GENE2"]),
        {"far": ["GENE50", "GENE51", "GENE52"]},
        background=list(cells.var_names),
        min_size=3,
    )

    assert found[["n_found", "score", "p_value", "q_value"]].to_numpy().tolist() == [[0, 0, 1, 1]]


@needs_gseapy
def test_gene_names_that_do_not_match_are_refused(model, cells, sets):
    top = model.top_genes(cells, "cell_type", 8)

    with pytest.raises(GeneMatchError, match=r"none of the model's 100 genes.*E-U95") as error:
        enrichment(top, {"a": ["ENSG1", "ENSG2"]}, model=model)
    assert "identifiers and symbols" in str(error.value)
    with pytest.raises(GeneMatchError, match=r"3 are but for upper and lower case"):
        enrichment(top, {"a": ["Gene1", "Gene2", "Gene3"]}, model=model)
    with pytest.raises(GeneMatchError, match=r"no gene set has 90 to 500.*the largest has.*E-U95"):
        enrichment(top, sets, model=model, min_size=90)


@needs_gseapy
def test_tables_and_files_that_are_none_are_refused(model, cells, sets, tmp_path):
    top = model.top_genes(cells, "cell_type", 8)

    with pytest.raises(UsageError, match=r"could have been listed are not known.*E-U78"):
        enrichment(top, sets)
    with pytest.raises(UsageError, match=r"a list of genes is no ranking.*E-U79"):
        enrichment(top, sets, model=model, method="ranking")
    with pytest.raises(UsageError, match=r"no table of genes.*E-U79"):
        enrichment(pd.DataFrame({"a": [1]}), sets, model=model)
    with pytest.raises(UsageError, match=r"method='ora'.*E-U30"):
        enrichment(top, sets, model=model, method="ora")
    for wrong in ({"k": 0}, {"min_size": 0}, {"n_permutations": 0}):
        with pytest.raises(UsageError, match=r"=0.*E-U22"):
            enrichment(top, sets, model=model, **wrong)
    with pytest.raises(InputFileError, match=r"does not exist.*E-F07"):
        enrichment(top, tmp_path / "nope.gmt", model=model)
    (tmp_path / "short.gmt").write_text("A\tdescription\tGENE1\nB\n")
    with pytest.raises(InputFileError, match=r"cannot be read.*1 of 2.*fewer than three.*E-F22"):
        enrichment(top, tmp_path / "short.gmt", model=model)
    (tmp_path / "empty.gmt").write_text("")
    with pytest.raises(InputFileError, match=r"it holds no set.*E-F22"):
        enrichment(top, tmp_path / "empty.gmt", model=model)
    whole = as_file(tmp_path / "whole.gmt.gz", sets).read_bytes()
    for torn in (whole[:40], b"no gzip", whole[:20] + b"?" * 60, gzip.compress(b"\xff\t\xfe\ta")):
        (tmp_path / "torn.gmt.gz").write_bytes(torn)
        with pytest.raises(InputFileError, match=r"cannot be read.*E-F22"):
            enrichment(top, tmp_path / "torn.gmt.gz", model=model)


def test_without_gseapy_the_extra_is_named(model, cells, monkeypatch):
    top, real = model.top_genes(cells, "cell_type", 8), builtins.__import__

    def without(name, *args, **kwargs):
        if name == "gseapy":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(MissingDependencyError, match=r"episome\[enrichment\].*E-P02"):
        enrichment(top, {"a": ["GENE1"]}, model=model)
