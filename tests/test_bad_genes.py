"""Bad genes, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so, a warning names its count. What other tests show in depth is shown here once.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from _bad_cells import (
    ALIASES,
    ENSEMBL,
    SYMBOLS,
    cells,
    dense,
    ensembl_model,
    logged,
    model,
    named,
    query,
    refused,
    refused_twice,
    said,
    same,
    same_model,
    set_up,
    trained,
    warned,
    wide_model,
    with_x,
)
from _catalogue import Catalogue, marked
from scipy import sparse

from episome.data import inspect
from episome.errors import (
    GeneMatchError,
    InputDataError,
)
from episome.models import LogisticRegression

CATALOGUE = Catalogue("test_bad_genes")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {}

#: Rows, or parts of rows, that do not hold yet, and why. Their number may only go down.
OPEN: dict[str, str] = {}


@row("G01", "genes in another order", "aligned by name; the same bits")
def order_of_genes(folder):
    order = np.random.default_rng(0).permutation(40)
    asked = query()[:, order].copy()
    np.testing.assert_array_equal(model().predict_proba(asked), model().predict_proba(query()))


@row("G02", "none of the model's genes", "refused; shows both kinds of names")
def foreign(folder):
    asked = named(query(), [f"ENSMUSG{i:011d}" for i in range(40)])
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G02",
        error=GeneMatchError,
        match=r"0 of 40.*ACTB, B2M, GAPDH.*ENSMUSG.*symbols against Ensembl",
    )


@row("G03", "one gene in common", "refused below `min_gene_overlap`")
def one_gene(folder):
    asked = named(query(), ["ACTB", *(f"NOGENE{c}A" for c in range(39))])
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G03",
        error=GeneMatchError,
        match=r"1 of 40.*min_gene_overlap \(--min-gene-overlap, now 0.5\)",
    )


@row("G03b", "few of the genes that matter to the model", "refused by their share of its weight")
def little_weight(folder):
    adata = cells()
    LogisticRegression.setup_anndata(adata, "cell_type")
    linear = LogisticRegression(adata)
    linear.train()
    wanted, order = linear.predict_proba(query()), np.argsort(-linear.gene_weights_.mean(0))
    # 30 of 40 genes are there either way: those that matter, or those that do not
    light, heavy = (query()[:, np.sort(part)].copy() for part in (order[10:], order[:30]))
    refused(
        lambda: linear.predict(light),
        light,
        code="E-G03",
        error=GeneMatchError,
        match=r"on which the model's calls rest.*10 of 40.*carry \d\d% of the model's weight.*"
        r"type \d.*min_gene_overlap \(--min-gene-overlap, now 0.5\)",
    )
    warned(lambda: linear.predict(light, min_gene_overlap=0.1), "E-G04", "of its weight")
    warned(lambda: linear.predict(heavy), "E-G04", "10 of 40.*75%.*9\\d% of its weight")
    assert linear.predict_proba(query()).equals(wanted)


@row("G04", "a quarter of the genes is missing", "they count as zero; a warning")
def some_missing(folder):
    asked = query()[:, 10:].copy()
    x = dense(query())
    x[:, :10] = 0
    warned(lambda: model().predict(asked), "E-G04", r"10 of 40, first: ACTB.*75%")
    # What the model says is the same; how sure it is of that is lowered.
    raw = [model().predict_proba(q, calibrated=False) for q in (asked, with_x(query(), x))]
    np.testing.assert_allclose(*raw, atol=1e-6)
    said(model(), asked, "30 of the model's 40 genes.*75.0%.*10 missing ones count as zero")


@row("G05", "more genes than the model's", "left out and counted; the size factor by its rule")
def extra(folder):
    more = anndata.concat(
        [query(), named(query(), [f"{s}X" for s in SYMBOLS])], axis=1, merge="first"
    )
    same(model(), more)
    said(model(), more, "40 genes unknown to the model are left out")
    every = trained(cells(), size_factor="all_genes")
    half = with_x(query(), dense(query()))
    np.testing.assert_allclose(every.predict_proba(half), model().predict_proba(half), atol=1e-6)
    # all genes make up the size, so every value is half of what it is without the others
    halved = every.prepare(more).loader()
    sizes = np.concatenate([np.asarray(batch["size_factor"]).ravel() for batch in halved])
    np.testing.assert_allclose(sizes, 2 * dense(query()).sum(1))


@row("G06", "Ensembl identifiers with a version", "the version is taken off where that is unique")
def versions(folder):
    asked = named(query(), [f"{e}.{i}" for i, e in enumerate(ENSEMBL)])
    np.testing.assert_array_equal(
        ensembl_model().predict_proba(asked),
        ensembl_model().predict_proba(named(query(), ENSEMBL)),
    )
    got = trained(named(cells(), list(asked.var_names)))
    assert got.features.ids == tuple(ENSEMBL)


@row("G07", "symbols for Ensembl identifiers, or the reverse", "by a column or a table; refused")
def other_kind(folder):
    wanted = model().predict_proba(query())
    np.testing.assert_array_equal(wide_model().predict_proba(query()), wanted)
    beside = named(query(), ENSEMBL, gene_symbols=SYMBOLS)
    np.testing.assert_array_equal(model().predict_proba(beside), wanted)
    said(model(), beside, "matched by var.'gene_symbols'")
    asked = named(query(), ENSEMBL)
    same(model(), asked, gene_map=dict(zip(ENSEMBL, SYMBOLS, strict=True)))
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G02",
        error=GeneMatchError,
        match="feature_name.*gene_map=",
    )


@row("G08", "symbols in another case", 'refused; `gene_case="upper"` reads them')
def case(folder):
    asked = named(query(), [s.capitalize() for s in SYMBOLS])
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G08",
        error=GeneMatchError,
        match='mouse genes.*gene_case="upper"',
    )
    same(model(), asked, gene_case="upper")
    said(model(), asked, "names were read in capitals", gene_case="upper")


@row("G09", "aliases and former symbols", "by a table of the user, counted; else unknown")
def aliases(folder):
    asked = named(query(), [f"old{i}" if i < 6 else s for i, s in enumerate(SYMBOLS)])
    same(model(), asked, gene_map=ALIASES)
    said(model(), asked, "6 names were translated by the table", gene_map=ALIASES)
    said(model(), asked, "34 of the model's 40.*6 genes unknown")


@row("G10", "genes that a spreadsheet turned into dates", "the known ones are read; a warning")
def dates(folder):
    names = ["1-Mar" if s == "MARCHF1" else "2023-09-09" if s == "SEPTIN9" else s for s in SYMBOLS]
    same(model(), named(query(), names))
    said(model(), named(query(), names), "2 names were read as genes, not dates")
    names[0] = "3-Dec"
    warned(lambda: model().predict(named(query(), names)), "E-G10", "1 of 40, first: 3-Dec")


@row("G11", "two genes of one name", 'refused; `duplicates="sum"` or `"first"`')
def duplicates(folder):
    def make(adata):
        x = dense(adata)
        half = np.floor(x[:, :1] / 2)
        x = np.hstack([half, x])
        x[:, 1:2] -= half
        var = pd.DataFrame(index=["ACTB", *SYMBOLS])
        return anndata.AnnData(sparse.csr_matrix(x), obs=adata.obs.copy(), var=var)

    refused_twice(make, "E-G11", r'1 of 41, first: ACTB.*duplicates="sum"')
    same(model(), make(query()), duplicates="sum")
    said(model(), make(query()), "1 duplicated genes were summed", duplicates="sum")
    same_model(make(cells()), duplicates="sum")
    first = with_x(query(), np.hstack([dense(make(query()))[:, :1], dense(query())[:, 1:]]))
    same(model(), make(query()), first, duplicates="first")


@row("G11b", "a column of names that repeats some", "refused, the column named; or another column")
def duplicates_in_a_column(folder):
    asked = named(query(), ENSEMBL, feature_name=["B2M", *SYMBOLS[1:]])
    assert SYMBOLS[1] == "B2M"
    refused(
        lambda: model().predict(asked),
        asked,
        code="E-G11",
        error=InputDataError,
        match=r"adata.X, var\['feature_name'\]: 1 of 40, first: B2M.*--duplicates sum",
    )
    asked.var["symbol"] = [*SYMBOLS[1:], "other"]
    other = named(query(), ENSEMBL, symbol=list(asked.var["symbol"]))
    same(model(), asked, other)
    said(model(), asked, "matched by var.'symbol'")


@row("G12", "names that were numbered to tell them apart", "one is read; a warning")
def numbered(folder):
    more = anndata.concat([query(), named(query(), [f"{s}-1" for s in SYMBOLS])], axis=1)
    warned(lambda: model().predict(more), "E-G12", r"40 of 80, first: ACTB-1")
    same(model(), more)


@row("G13", "no names of genes, or row numbers", "refused")
def unnamed(folder):
    numbers = list(map(str, range(40)))
    refused_twice(
        lambda a: named(a, numbers), "E-G13", "row numbers", (InputDataError, GeneMatchError)
    )
    asked = named(cells(), ["", *SYMBOLS[1:]])
    refused(
        lambda: set_up(asked), asked, code="E-G13", error=InputDataError, match="without.*1 of 40"
    )
    missing = named(cells(), [np.nan, np.nan, *SYMBOLS[2:]])
    refused(lambda: set_up(missing), code="E-G13", error=InputDataError, match="2 of 40")


@row("G14", "blanks and marks around names", "taken off, counted")
def blanks(folder):
    ends = [" {}", "{}\r", "\ufeff{}", "\u00a0{}", "{}"]
    names = [ends[i % 5].format(s) for i, s in enumerate(SYMBOLS)]
    same(model(), named(query(), names))
    said(model(), named(query(), names), "32 names were freed of blanks")
    same_model(named(cells(), names))


@row("G15", "a prefix or suffix that nearly all names have", "taken off, and said")
def affixes(folder):
    for form in ("GRCh38_{}", "hg19-{}"):
        asked = named(query(), [form.format(s) for s in SYMBOLS])
        same(model(), asked)
        said(model(), asked, "40 names were freed of the prefix")
    asked = named(query(), [f"{s}_{e}" for s, e in zip(SYMBOLS, ENSEMBL, strict=True)])
    same(model(), asked)
    said(model(), asked, "split into symbol and Ensembl identifier")


@row("G16", "genes of two species in one file", "refused; counts of each")
def two_species(folder):
    mouse = [f"ENSMUSG{i:011d}" for i in range(40)]
    forms = (
        (ENSEMBL, mouse),
        ([f"GRCh38_{s}" for s in SYMBOLS], [f"mm10___{s.title()}" for s in SYMBOLS]),
    )
    for ours, theirs in forms:

        def make(adata, ours=ours, theirs=theirs):
            parts = [named(adata, ours), named(adata, theirs)]
            return anndata.concat(parts, axis=1, merge="first")

        refused_twice(make, "E-G16", r"genes of 2 species \(human 40, mouse 40\)")
        assert "E-G16" in {f.problem.code for f in inspect(make(query())).findings}


@row(
    "G16b", "cells of another organism than the model's", "a warning; quiet with a table of names"
)
def another_organism(folder):
    human, asked = cells(), query()
    human.obs["organism_ontology_term_id"] = "NCBITaxon:9606"
    asked.obs["organism_ontology_term_id"] = "NCBITaxon:10090"
    of_human, n = trained(human), asked.n_obs
    warned(
        lambda: of_human.predict(asked),
        "E-G26",
        rf"{n} of {n}, first: NCBITaxon:10090 \(mouse\).*trained on NCBITaxon:9606.*--gene-map",
    )
    same(of_human, asked, gene_map=ALIASES)
    same(model(), asked)


@row("G17", "the names stand in a column", "found by overlap; the column is named")
def in_a_column(folder):
    for column in ("feature_name", "gene_ids", "gene_symbol"):
        asked = named(query(), [f"row{c}" for c in SYMBOLS], **{column: SYMBOLS})
        same(model(), asked)
        said(model(), asked, f"matched by var.'{column}'")


@row(
    "G18", "antibodies, peaks or guides beside genes", "refused with the line that takes them out"
)
def other_features(folder):
    for kind in ("Antibody Capture", "Peaks", "CRISPR Guide Capture"):

        def make(adata, kind=kind):
            genes = named(adata, SYMBOLS, feature_types="Gene Expression")
            others = named(adata[:, :4].copy(), ["TAG1A", "CD4-AB", "TAGB", "TAGC"])
            others.var["feature_types"] = kind
            both = anndata.concat([genes, others], axis=1, merge="first")
            both.var["feature_types"] = both.var["feature_types"].astype("category")
            return both

        fix = r'adata\[:, adata.var\["feature_types"\] == "Gene Expression"\].copy\(\)'
        refused_twice(make, "E-G18", rf"{kind} 4\).*4 of 44, first: TAG1A.*{fix}")
        assert "E-G18" in {f.problem.code for f in inspect(make(query())).findings}
        both = make(query())
        same(model(), both[:, both.var["feature_types"] == "Gene Expression"].copy())
    only = named(cells(), SYMBOLS, feature_types="Gene Expression")
    set_up(only)


@row("G19", "a panel of a few of the model's genes", "a warning, or refused, as G03 and G04")
def panel(folder):
    asked = query()[:, :12].copy()
    refused(
        lambda: model().predict(asked), asked, code="E-G03", error=GeneMatchError, match="12 of 40"
    )
    warned(lambda: model().predict(asked, min_gene_overlap=0.2), "E-G04", "28 of 40.*30%")


@row("G20", "variable genes in X, all in raw", "as D30")
def variable_in_x(folder):
    asked = logged(query())[:, :12].copy()
    asked.raw = query()
    same(model(), asked, use_raw="auto")
    refused(lambda: model().predict(asked), asked, code="E-G03", error=GeneMatchError)


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", marked(CATALOGUE, OPEN))
def test_bad_genes(name, tmp_path, toy):
    CATALOGUE[name].shows(tmp_path)
