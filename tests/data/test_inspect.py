"""`inspect`: everything about an object of cells at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import inspect
from episome.data._gene_names import describe_gene_names, look_like_barcodes, species_named

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
        ("NCBITaxon:1", ""),
        ("", ""),
    ],
)
def test_species_are_known_by_taxon_and_name(text, species):
    assert species_named(text) == species


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
