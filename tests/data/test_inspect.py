"""`inspect`: everything about an object of cells at once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import FeatureSpace, GeneImportance, InputRule, MuInspection, inspect
from episome.data._gene_names import describe_gene_names, look_like_barcodes, species_named
from episome.errors import InputDataError
from episome.jobs import CheckRequest, check
from episome.testing import fingerprint

HUMAN = ["CD4", "CD8A", "MS4A1", "LYZ", "C1orf112", "NKG7", "HLA-A", "MT-CO1", "B2M", "ACTB"]
MOUSE = ["Cd4", "Cd8a", "Ms4a1", "Lyz2", "4933402J10Rik", "Nkg7", "Gm1234", "mt-Co1", "B2m"]


def cells(genes=tuple(HUMAN), n_cells=30, seed=0, **obs):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (n_cells, len(genes))).astype(np.float32)
    counts[:, 0] += 1
    frame = pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_cells)])
    return anndata.AnnData(
        sparse.csr_matrix(counts), obs=frame, var=pd.DataFrame(index=list(genes))
    )


def codes(found, severity):
    return [f.problem.code for f in found.findings if f.severity == severity]


# -- names of genes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind", "species"),
    [
        (HUMAN, "symbols", "human"),
        (MOUSE, "symbols", "mouse"),
        (["cd4", "sox10", "mbpa", "actb1"], "symbols", "zebrafish"),
        (["ENSG00000139618", "ENSG00000141510"], "Ensembl", "human"),
        (["ENSMUSG00000059552.14", "ENSMUSG00000041147.3"], "Ensembl with version", "mouse"),
        (["FBgn0000008", "FBgn0000014"], "Ensembl", "fruit fly"),
        ([*HUMAN, "ENSG00000139618", "ENSG00000141510"], "mixed", "human"),
        (["gene_1", "gene_2", "gene_3"], "numbered", ""),
        (["1", "2", "3"], "numbered", ""),
        (["CD4", "Cd8a", "cd3e", "Ms4a1"], "symbols", ""),
        ([], "unknown", ""),
    ],
)
def test_kind_and_species_are_read_off_the_names(names, kind, species):
    found = describe_gene_names(names)

    assert (found.kind, found.species) == (kind, species)


def test_names_are_looked_at_over_the_whole_list():
    names = [f"ENSG{i:011d}" for i in range(30_000)] + [f"ENSMUSG{i:011d}" for i in range(30_000)]

    counts = describe_gene_names(names).species_counts

    assert counts["human"] == pytest.approx(counts["mouse"], rel=0.01)


@pytest.mark.parametrize(
    ("text", "species"),
    [
        ("NCBITaxon:9606", "human"),
        ("Mus musculus", "mouse"),
        ("mouse", "mouse"),
        ("homo_sapiens", "human"),
        ("NCBITaxon:1", ""),
        ("", ""),
    ],
)
def test_species_are_known_by_taxon_and_name(text, species):
    assert species_named(text) == species


def test_names_that_do_not_tell_genes_apart_are_said_of_their_column():
    adata = cells([f"ENSG{i:011d}" for i in range(6)])
    adata.var["feature_name"] = ["SNURF", "NAA60", "CD4", "SNURF", "NAA60", "SNURF"]
    adata.var["symbol"] = HUMAN[:6]

    found = inspect(adata)

    assert found.ok
    assert found.name_columns["feature_name"].n_repeated == 2
    assert found.name_columns["symbol"].n_repeated == 0
    assert "feature_name: symbols (2 repeated: SNURF, NAA60), symbol: symbols\n" in found.text


def test_barcodes_are_told_from_genes():
    assert look_like_barcodes(["AAACCTGAGAAACCAT-1", "s1_AAACCTGAGAAACCAT"])
    assert not look_like_barcodes(HUMAN)


# -- values --------------------------------------------------------------------------------------


def test_counts_are_found_where_they_are():
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))

    found = inspect(adata)

    assert found.slot == "layers['counts']"
    assert found.values["X"].form in {"log1p", "log1p twice"}
    assert found.arguments == {"layer": "counts"}
    assert found.ok


def test_counts_of_raw_are_found_with_their_genes():
    whole = cells()
    adata = whole[:, :4].copy()
    adata.raw = whole
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))

    found = inspect(adata)

    assert (found.slot, found.n_vars) == ("raw.X", 10)
    assert found.arguments == {"use_raw": True}


def test_a_named_slot_is_the_only_one_looked_at():
    adata = cells()
    adata.layers["scaled"] = adata.X.toarray() - 1.0

    found = inspect(adata, layer="scaled")

    assert list(found.values) == ["layers['scaled']"]
    assert codes(found, "must mend") == ["E-D04"]


def test_all_problems_come_at_once():
    adata = cells(genes=["CD4", "CD4", *HUMAN[1:]])
    adata.X = adata.X.toarray()
    adata.X[0, 0] = np.nan
    adata.X[1, 1] = np.inf
    adata.X[2, 2] = -1
    adata.obs_names = ["twice", "twice", *adata.obs_names[2:]]

    found = inspect(adata)

    assert codes(found, "must mend") == ["E-D01", "E-D03", "E-D04", "E-G11"]
    assert codes(found, "doubtful") == ["E-L15"]
    assert not found.ok


def test_genes_as_rows_are_recognised():
    adata = cells(genes=[f"AAACCTGAGAAACC{i:02d}-1" for i in range(12)], n_cells=30)
    adata.obs_names = [*HUMAN, "GAPDH", "MALAT1", "CD74", *(f"G{i}" for i in range(17))]

    assert "E-D35" in codes(inspect(adata), "must mend")


def test_two_species_in_one_file_are_refused():
    genes = [f"ENSG{i:011d}" for i in range(20)] + [f"ENSMUSG{i:011d}" for i in range(20)]

    found = inspect(cells(genes=genes))

    assert codes(found, "must mend") == ["E-G16"]


def test_a_species_that_contradicts_the_genes_is_doubted():
    found = inspect(cells(organism_ontology_term_id="NCBITaxon:10090"))

    assert codes(found, "doubtful") == ["E-G21"]
    assert found.species == "human"


def test_the_species_of_an_object_without_names_is_what_it_says():
    adata = cells(genes=[f"gene_{i}" for i in range(12)])
    adata.uns["organism_ontology_term_id"] = "NCBITaxon:6239"

    assert inspect(adata).species == "worm"


def test_no_cells_are_a_problem_in_the_report():
    found = inspect(cells()[:0].copy())

    assert "E-D31" in codes(found, "must mend")


# -- columns -------------------------------------------------------------------------------------


def test_labels_are_found_by_name_and_by_what_they_say():
    adata = cells(
        cell_type=["B cell", "T cell"] * 15,
        leiden=["0", "1", "2"] * 10,
        strange=["monocyte", "erythrocyte"] * 15,
        n_counts=np.arange(30) + 0.5,
        sex=["male", "female"] * 15,
        donor_id=["d1", "d2", "d3"] * 10,
        barcode=[f"b{i}" for i in range(30)],
    )

    found = inspect(adata)

    assert [g.name for g in found.labels] == ["cell_type", "strange", "leiden"]
    assert [g.name for g in found.donors] == ["donor_id"]
    assert found.arguments == {"labels_key": "cell_type", "donor_key": "donor_id"}


@pytest.mark.parametrize("key", ["bulk_labels", "cell_label", "annotation", "labels"])
def test_a_column_called_labels_comes_before_clusters(key):
    found = inspect(cells(louvain=["0", "1", "2"] * 10, **{key: ["type a", "type b"] * 15}))

    assert [g.name for g in found.labels] == [key, "louvain"]


def test_donors_come_before_batches_and_one_value_is_no_argument():
    adata = cells(batch=["a", "b"] * 15, donor_id="only", sample=["unknown", "s1", "s2"] * 10)

    found = inspect(adata)

    assert [(g.name, g.n_values, g.n_missing) for g in found.donors] == [
        ("sample", 2, 10),
        ("batch", 2, 0),
        ("donor_id", 1, 0),
    ]
    assert found.arguments == {"donor_key": "sample"}


# -- a model -------------------------------------------------------------------------------------


def test_a_model_s_genes_and_scale_are_compared(toy):
    model = toy.trained(max_epochs=1)
    query = toy.query()[:, :30].copy()

    good = inspect(query, features=model.features, rule=model.input_rule)
    query.var_names = [f"OTHER{i}" for i in range(30)]
    bad = inspect(query, features=model.features, rule=model.input_rule)

    assert any("30 of the model's 40 genes" in text for text in good.repairs)
    assert good.ok
    assert "E-G02" in codes(bad, "must mend")


def test_cells_of_another_organism_than_the_model_s_are_doubted(toy):
    model = toy.trained(max_epochs=1)
    rule = replace(model.input_rule, organisms=("NCBITaxon:9606",))
    query = toy.query()
    query.obs["organism"] = ["Mus musculus"] * 10 + ["Homo sapiens"] * (query.n_obs - 10)

    found = inspect(query, features=model.features, rule=rule)
    mapped = inspect(query, features=model.features, rule=rule, gene_map={"a": "b"})

    assert "E-G26" in codes(found, "doubtful")
    assert f"obs['organism']: 10 of {query.n_obs}, first: Mus musculus (mouse)" in found.text
    assert "E-G26" not in codes(mapped, "doubtful")


def weighed(**rows):
    """Weights of a few of the human genes by class."""
    totals = np.zeros((len(rows), len(HUMAN)))
    for row, genes in enumerate(rows.values()):
        totals[row, [HUMAN.index(g) for g in genes]] = list(genes.values())
    return GeneImportance.of(totals, tuple(rows))


def looked_at(query, importance, **how):
    """Inspect a query for a model of the human genes that weigh as said."""
    features = FeatureSpace(tuple(HUMAN))
    rule = InputRule("counts", "model_genes", 1e4)
    return inspect(query, features=features, rule=rule, importance=importance, **how)


def test_what_missing_genes_weigh_is_said_by_cell_type():
    heavy = weighed(
        **{"T cell": {"CD4": 6, "B2M": 4}, "B cell": {"MS4A1": 1}, "NK": {"NKG7": 2, "CD4": 1}}
    )

    found = looked_at(cells(HUMAN[1:]), heavy)

    assert found.ok
    assert found.lost == pytest.approx({"T cell": 0.6, "NK": 1 / 3, "B cell": 0})
    assert found.weight == pytest.approx(1 - (0.6 + 1 / 3) / 3)
    assert "31.1% of the model's weight (most: T cell 60%, NK 33%)" in found.repairs[0]
    assert (
        "  weight   68.9% of the model's weight is left\n"
        "  weight   most is lost for\n"
        "  weight     T cell  60%\n"
        "  weight     NK      33%\n"
    ) in found.text
    plain = json.loads(json.dumps(found.to_json(), default=str))
    assert plain["lost"] == pytest.approx(found.lost)
    assert plain["weight"] == pytest.approx(found.weight)


def test_what_is_lost_is_said_where_the_cells_are_refused():
    heavy = weighed(T={"CD4": 9, "B2M": 1}, B={"CD4": 6, "MS4A1": 4})

    refused = looked_at(cells(HUMAN[1:]), heavy)
    few = looked_at(cells(HUMAN[8:]), heavy)

    assert "E-G03" in codes(refused, "must mend")
    assert refused.lost == pytest.approx({"T": 0.9, "B": 0.6})
    assert "  weight   25.0% of the model's weight is left\n" in refused.text
    assert "E-G03" in codes(few, "must mend")
    assert few.lost == pytest.approx({"B": 1.0, "T": 0.9})


def test_ten_cell_types_are_named_and_the_others_counted():
    many = weighed(**{f"type{i}": {"CD4": 1, "B2M": 12 - i} for i in range(12)})

    found = looked_at(cells(HUMAN[1:]), many)

    rows = [line for line in found.text.splitlines() if "  weight     " in line]
    assert len(found.lost) == 12
    assert rows[0] == "  weight     type11  50%"
    assert len(rows) == 11
    assert rows[-1] == "  weight     and 2 more"


def test_genes_that_weigh_nothing_are_not_spoken_of():
    heavy = weighed(T={"CD4": 1}, B={"MS4A1": 1})

    found = looked_at(cells(HUMAN[:-1]), heavy)
    without = looked_at(cells(HUMAN[:-1]), None)

    assert found.weight == 1
    assert set(found.lost.values()) == {0.0}
    assert without.lost is None
    assert without.weight is None
    assert "  weight   " not in found.text + without.text


def test_what_is_lost_of_the_genes_is_said_of_several_modalities():
    heavy = weighed(T={"CD4": 1, "B2M": 3}, B={"MS4A1": 1})

    found = looked_at({"prot": cells(PANEL), "rna": cells(HUMAN[1:])}, heavy)

    assert found.lost == found.modalities["rna"].lost == pytest.approx({"T": 0.25, "B": 0})
    assert found.modalities["prot"].lost is None
    assert found.to_json()["lost"] == found.lost
    assert "  weight     T  25%" in found.text


def test_the_object_is_not_changed():
    adata = cells(cell_type=["B cell", "T cell"] * 15)
    before = adata.copy()

    inspect(adata)

    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0
    assert adata.uns == before.uns


def test_the_report_is_text_and_json():
    adata = cells(cell_type=["B cell", "T cell"] * 15)

    found = inspect(adata, name="mine.h5ad")

    assert found.text.startswith("mine.h5ad: 30 cells, 10 genes\n  values   X: counts")
    assert "nothing must be mended" in found.text
    plain = json.loads(json.dumps(found.to_json(), default=str))
    assert plain["ok"] is True
    assert plain["values"]["X"]["form"] == "counts"


# -- several modalities --------------------------------------------------------------------------

PANEL = ["CD4_TotalSeqB", "CD19_TotalSeqB", "IgG1_control_TotalSeqB", "HTO1_TotalSeqB"]
PEAKS = ["chr1:100-200", "chr1:300-400", "chrX:5-9"]


def three(**obs):
    parts = {"rna": cells(**obs), "prot": cells(PANEL, seed=1), "atac": cells(PEAKS, seed=2)}
    parts["atac"].X.data[:] = 1
    return parts


def test_every_modality_is_looked_at_on_its_own():
    mdata = mudata.MuData(
        three(cell_type=["B cell", "T cell"] * 15, donor_id=["a", "b", "c"] * 10)
    )

    found = inspect(mdata, name="cite.h5mu")

    assert isinstance(found, MuInspection)
    assert found.ok
    assert found.findings == ()
    assert found.notes == ()
    assert {m: p.kind for m, p in found.modalities.items()} == {
        "rna": "rna",
        "prot": "protein",
        "atac": "atac",
    }
    assert (found.n_obs, found.n_vars, found.used) == (30, 17, "rna")
    assert found.arguments == {"labels_key": "cell_type", "donor_key": "donor_id"}
    assert found.modalities["rna"].genes.kind == "symbols"
    assert found.modalities["prot"].proteins.names == ("CD4", "CD19", "IgG1_control", "HTO1")
    assert found.modalities["prot"].proteins.controls == ("IgG1_control",)
    assert found.modalities["prot"].proteins.hashtags == ("HTO1",)
    assert found.modalities["atac"].values["X"].form == "binary"


def test_the_report_of_several_modalities_is_text_and_json():
    mdata = mudata.MuData({**three(), "prot": cells(PANEL, n_cells=20, seed=1)[::-1].copy()})

    found = inspect(mdata, name="cite.h5mu")

    lines = found.text.splitlines()
    assert lines[0] == (
        "cite.h5mu: 20 cells in all modalities: rna (10 genes), prot (4 proteins), atac (3 peaks)"
    )
    assert "  paired   cite.h5mu: 20 cells are in all modalities (rna 30, prot 20" in found.text
    assert "the cells of prot are in another order than those of rna" in found.text
    assert "cite.h5mu['prot']: 20 cells, 4 proteins" in lines
    assert "  proteins CD4, CD19, IgG1_control, ...; 4 names lose" in found.text
    assert "1 isotype or negative controls: IgG1_control" in found.text
    assert "100% of the names are places in a genome" in found.text
    plain = json.loads(json.dumps(found.to_json(), default=str))
    assert plain["ok"] is True
    assert plain["used"] == "rna"
    assert plain["notes"] == list(found.notes)
    assert plain["modalities"]["prot"]["kind"] == "protein"
    assert plain["modalities"]["prot"]["proteins"]["hashtags"] == ["HTO1"]
    assert plain["modalities"]["rna"]["values"]["X"]["form"] == "counts"


@pytest.mark.parametrize(("modality", "noun"), [("prot", "proteins"), ("atac", "peaks")])
def test_negative_values_are_refused_of_genes_only(modality, noun):
    parts = three()
    for m in ("rna", modality):
        parts[m].X = parts[m].X.toarray()
        parts[m].X[:3, 0] = -0.5

    found = inspect(parts)

    assert codes(found, "must mend") == ["E-D04"]
    (said,) = [f.problem for f in found.modalities[modality].findings]
    assert said.code == "E-D46"
    assert f"values of {noun} that are negative" in said.text
    assert "some negative (" in found.modalities[modality].text


def test_proteins_and_peaks_have_none_of_the_doubts_of_genes():
    parts = {"prot": cells(["gene_1", "gene_2", "gene_3"]), "atac": cells(PEAKS)}
    parts["prot"].X.data[:] = 1
    parts["atac"].X = sparse.csr_matrix(np.log1p(np.log1p(parts["atac"].X.toarray())))

    found = inspect(parts)

    assert codes(found, "doubtful") == ["E-D46"]
    assert "of peaks that are no integers" in found.findings[0].problem.text
    assert found.modalities["prot"].species == ""
    assert "species" not in found.modalities["prot"].text


def test_what_no_model_can_use_is_refused_in_every_modality():
    parts = three()
    for m in ("prot", "atac"):
        parts[m].X = parts[m].X.toarray()
    parts["prot"].X[0, 0], parts["prot"].X[0, 1] = np.nan, -1
    parts["prot"].X[5] = 0
    parts["atac"].X[:] = 0

    found = inspect(parts)

    assert codes(found.modalities["prot"], "must mend") == ["E-D01"]
    assert codes(found.modalities["prot"], "doubtful") == ["E-D46", "E-D12"]
    assert codes(found.modalities["atac"], "must mend") == ["E-D13"]
    assert "type" not in found.modalities["prot"].findings[-1].problem.text
    assert not found.ok


def test_names_of_proteins_must_tell_them_apart():
    parts = three()
    parts["prot"].var_names = ["CD4", "CD19", "CD4", "CD8"]
    parts["atac"].var_names = ["0", "1", "2"]

    found = inspect(parts)

    assert codes(found, "must mend") == ["E-G11", "E-G13"]
    assert "duplicated names of proteins in mdata['prot'].X: 1 of 4, first: CD4" in found.text
    assert "names of peaks that are row numbers" in found.text


def test_cells_that_cannot_be_paired_must_be_mended():
    parts = three()
    parts["prot"].obs_names = [f"other{i}" for i in range(30)]
    apart = inspect(parts)
    parts["prot"].obs_names = ["cell0", *parts["rna"].obs_names[:-1]]
    twice = inspect(parts)

    assert codes(apart, "must mend") == ["E-D45"]
    assert apart.n_obs == 0
    assert codes(twice, "must mend") == ["E-L15"]


def test_a_modality_without_a_matrix_is_said_and_left_out():
    parts = {**three(), "airr": anndata.AnnData(obs=cells().obs)}

    found = inspect(parts)

    assert list(found.modalities) == ["rna", "prot", "atac"]
    assert found.ok
    assert [(f.severity, f.problem.code) for f in found.pairing] == [("doubtful", "E-D27")]
    assert "mdata['airr']" in found.pairing[0].problem.text


def test_a_layer_is_of_the_genes():
    parts = three()
    parts["rna"].layers["mine"] = parts["rna"].X.copy()

    found = inspect(parts, layer="mine")

    assert found.modalities["rna"].slot == "layers['mine']"
    assert found.modalities["prot"].slot == "X"
    assert found.arguments["layer"] == "mine"
    with pytest.raises(InputDataError, match=r"'other' is missing in mdata\['rna'\]"):
        inspect(parts, layer="other")


def test_genes_of_another_name_are_known_but_not_used():
    parts = three()
    parts["transcripts"] = cells([*HUMAN, "GAPDH", "MALAT1", "CD74"])
    del parts["rna"]

    found = inspect(parts)

    assert found.modalities["transcripts"].kind == "rna"
    assert found.used == ""
    assert found.arguments == {}
    alone = inspect({"transcripts": parts["transcripts"]})
    assert alone.used == "transcripts"


def test_a_model_of_genes_is_compared_with_the_genes(toy):
    model = toy.trained(max_epochs=1)
    meant = {"features": model.features, "rule": model.input_rule}
    parts = {"prot": cells(PANEL, n_cells=50), "rna": toy.query()[:, :30].copy()}
    parts["prot"].obs_names = parts["rna"].obs_names[:50]

    good = inspect(parts, **meant)
    without = inspect({"prot": parts["prot"], "atac": cells(PEAKS)}, **meant)

    assert good.ok
    assert any("30 of the model's 40 genes" in text for text in good.modalities["rna"].repairs)
    assert good.modalities["prot"].repairs == ()
    assert good.repairs == tuple(f"rna: {text}" for text in good.modalities["rna"].repairs)
    assert "E-U60" in codes(without, "must mend")


def test_the_modalities_are_not_changed():
    mdata = mudata.MuData(three())
    mdata.mod["rna"] = mdata.mod["rna"][5:9].copy()
    before = {m: fingerprint(p) for m, p in mdata.mod.items()}

    found = inspect(mdata)

    assert "mdata.obs is older than the modalities" in found.notes[0]
    assert {m: fingerprint(p) for m, p in mdata.mod.items()} == before
    assert mdata.n_obs == 30


def test_a_backed_object_is_named_by_its_file(tmp_path):
    cells().write_h5ad(tmp_path / "two.dots.h5ad")
    adata = anndata.read_h5ad(tmp_path / "two.dots.h5ad", backed="r")

    assert inspect(adata).name == "two.dots.h5ad"
    adata.file.close()


# -- real data -----------------------------------------------------------------------------------

#: File -> species, identifiers in var_names, labels (the best guess first), donors.
EXPECTED = {
    "baron_human_mouse_small": ("human", "symbols", ["cell_type_label"], "donor_id"),
    "citeseq_bm_triana": ("human", "symbols", ["cell_type_label", "cell_type_fine"], "batch"),
    "citeseq_pbmc10k": ("human", "symbols", [], None),
    "glioblastoma_panobinostat": ("human", "Ensembl", [], "donor_id"),
    "kang_pbmc_2donors": ("human", "symbols", ["cell_type_label"], "donor_id"),
    "kang_pbmc_ifnb": ("human", "symbols", ["cell_type_label"], "donor_id"),
    "mixology_3cl": ("human", "Ensembl", ["cell_type_label"], "batch"),
    "mouse_bladder": ("mouse", "numbered", ["cell_type_label"], None),
    "mouse_endocrinogenesis": (
        "mouse",
        "symbols",
        ["cell_type_coarse", "cell_type_label"],
        None,
    ),
    "multiome_mop_snare": ("mouse", "symbols", ["cluster (remapped)", "Ident"], "Batch"),
    "onek1k_blood": ("human", "Ensembl", ["cell_type_label"], "donor_id"),
    "paul15_small": ("mouse", "symbols", ["cell_type_label"], None),
    "pbmc3k": ("human", "symbols", ["cell_type_label"], None),
    "pbmc_facs_zheng": (
        "human",
        "Ensembl",
        ["cell_type_label", "celltype", "subpop", "facs_label"],
        None,
    ),
    "pbmc_unlabelled_2chem": ("human", "symbols", [], "donor_id"),
    "pbmc_unlabelled_frozenA": ("human", "symbols", [], None),
    "worm_neuron": ("worm", "numbered", ["cell_type_label"], None),
    "zeisel_cortex_small": ("mouse", "symbols", ["cell_type_label", "cell_type_fine"], None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_files_are_named_correctly(name):
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the real files are elsewhere")
    species, ids, labels, donors = EXPECTED[name]
    adata = anndata.read_h5ad(Path(folder) / "data" / f"{name}.h5ad", backed="r")

    found = inspect(adata)

    assert found.values["X"].form == "counts"
    assert (found.species, found.genes.kind) == (species, ids)
    assert [g.name for g in found.labels] == labels
    assert found.arguments.get("donor_key") == donors
    assert found.ok


#: File -> name and key of its second modality, its kind, the form of its values, features.
SECOND = {
    "citeseq_pbmc10k": ("prot", "protein_counts", "protein", "counts", 14),
    "citeseq_bm_triana": ("adt", "protein_lognorm", "protein", "log1p", 197),
    "multiome_mop_snare": ("atac", "atac", "atac", "counts", 25_734),
}


@pytest.mark.parametrize("name", SECOND)
def test_real_modalities_are_named_correctly(name, tmp_path):
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the real files are elsewhere")
    second, key, kind, form, n = SECOND[name]
    rna = anndata.read_h5ad(Path(folder) / "data" / f"{name}.h5ad")
    names = rna.uns["atac_names" if kind == "atac" else "protein_names"]
    part = anndata.AnnData(rna.obsm[key], obs=rna.obs[[]], var=pd.DataFrame(index=list(names)))
    mudata.MuData({"rna": rna, second: part[::-1].copy()}).write(tmp_path / "cells.h5mu")

    found = check(CheckRequest(tmp_path / "cells.h5mu")).inspection

    assert found.name == "cells.h5mu"
    assert found.ok
    assert found.n_obs == rna.n_obs
    assert list(found.modalities) == ["rna", second]
    assert "another order" in found.notes[0]
    species, ids, labels, _ = EXPECTED[name]
    genes, other = found.modalities.values()
    assert (genes.kind, genes.species, genes.genes.kind) == ("rna", species, ids)
    assert [g.name for g in genes.labels] == labels
    assert (other.kind, other.values["X"].form, other.n_vars) == (kind, form, n)
    assert codes(found, "doubtful") == ([] if form == "counts" else ["E-D46"])
    if kind == "protein":
        assert not any(text.endswith("TotalSeqB") for text in other.proteins.names)
        assert other.proteins.controls == ()
        assert "CD19" in {text.removesuffix("-AB") for text in other.proteins.names}
