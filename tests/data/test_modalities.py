"""Cells of several modalities: pairing by name, kinds of features, names of proteins."""

from __future__ import annotations

import logging

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.data import (
    AnnDataSource,
    CellSource,
    modality_kind,
    pair_modalities,
    protein_names,
)
from episome.errors import InputDataError, UsageError
from episome.testing import fingerprint

GENES = ["CD4", "CD8A", "MS4A1", "LYZ", "B2M", "ACTB"]
PROTEINS = ["CD4", "CD19", "CD14"]


def part(names, features, seed=0, **obs):
    """Counts of some cells, which depend on the name of the cell and not on its place."""
    rng = np.random.default_rng(seed)
    table = rng.poisson(2.0, (100, len(features))).astype(np.float32)
    rows = [int(n.removeprefix("c")) for n in names]
    return anndata.AnnData(
        sparse.csr_matrix(table[rows]),
        obs=pd.DataFrame({"number": rows, **obs}, index=list(names)),
        var=pd.DataFrame(index=list(features)),
    )


def named(numbers):
    return [f"c{i}" for i in numbers]


def both(rna=range(10), prot=range(10)):
    return {"rna": part(named(rna), GENES), "prot": part(named(prot), PROTEINS, seed=1)}


def read(paired):
    every = slice(0, paired.n_obs)
    return {m: s.read(every).toarray() for m, s in paired.sources.items()}


# -- pairing -------------------------------------------------------------------------------------


def test_cells_in_one_order_are_read_from_the_matrix_itself():
    parts = both()

    paired = pair_modalities(mudata.MuData(parts))

    assert list(paired.obs_names) == named(range(10))
    assert paired.notes == ("mdata: 1 names of features are in several modalities; they are told "
                            "apart as rna:CD4, prot:CD4",)  # fmt: skip
    assert all(isinstance(s, AnnDataSource) for s in paired.sources.values())
    assert paired.sources["rna"]._matrix is parts["rna"].X
    assert paired.features == {"rna": tuple(GENES), "prot": tuple(PROTEINS)}


@pytest.mark.parametrize("form", ["MuData", "mapping"])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_another_order_gives_the_same_as_the_ordered_cells(form, kind, caplog):
    order = np.random.default_rng(0).permutation(10)
    parts = both(prot=order)
    if kind == "csc":
        parts["prot"].X = sparse.csc_matrix(parts["prot"].X)
    if kind == "dense":
        parts["prot"].X = parts["prot"].X.toarray()
    data = mudata.MuData(parts) if form == "MuData" else parts

    with caplog.at_level(logging.INFO, logger="episome"):
        paired = pair_modalities(data)

    wanted = read(pair_modalities(both()))
    for m, values in read(paired).items():
        np.testing.assert_array_equal(values, wanted[m])
    assert (
        "the cells of prot are in another order than those of rna; they are paired by name"
        in caplog.text
    )


def test_rows_of_a_modality_are_read_as_of_any_source():
    paired = pair_modalities(both(prot=range(9, -1, -1)))
    ordered = pair_modalities(both())

    got, wanted = paired.sources["prot"], ordered.sources["prot"]

    assert isinstance(got, CellSource)
    assert (got.n_obs, got.n_vars, got.dtype) == (10, 3, "float32")
    assert got.where == "mdata['prot'].X"
    assert got.obs_columns == ["number"]
    assert list(got.obs_names) == list(wanted.obs_names)
    pd.testing.assert_series_equal(got.obs_column("number"), wanted.obs_column("number"))
    for rows in (slice(2, 7), np.array([5, 1, 1, 9]), np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(got.read(rows).toarray(), wanted.read(rows).toarray())


def test_a_modality_on_disk_is_read_in_the_order_of_the_first(tmp_path):
    parts = both(prot=range(9, -1, -1))
    parts["prot"].write_h5ad(tmp_path / "prot.h5ad")
    parts["prot"] = anndata.read_h5ad(tmp_path / "prot.h5ad", backed="r")

    got = read(pair_modalities(parts))

    np.testing.assert_array_equal(got["prot"], read(pair_modalities(both()))["prot"])
    parts["prot"].file.close()


def test_cells_in_all_modalities_are_kept_and_the_rest_is_counted(caplog):
    mdata = mudata.MuData(both(rna=range(8), prot=range(3, 10)))

    with caplog.at_level(logging.INFO, logger="episome"):
        paired = pair_modalities(mdata, name="cite.h5mu")

    assert list(paired.obs_names) == named(range(3, 8))
    assert list(paired.sources["prot"].obs_column("number")) == list(range(3, 8))
    note = "cite.h5mu: 5 cells are in all modalities (rna 8, prot 7); the others are left out"
    assert note in paired.notes
    assert note in caplog.text


def test_the_first_named_modality_gives_the_order():
    paired = pair_modalities(both(prot=range(9, -1, -1)), ["prot", "rna"])

    assert list(paired.sources) == ["prot", "rna"]
    assert list(paired.obs_names) == named(range(9, -1, -1))


def test_no_common_cell_is_refused_with_names_of_each():
    parts = both(rna=range(5), prot=range(50, 55))

    with pytest.raises(InputDataError, match=r"0 of 5.*rna has c0, c1, c2; prot has c50.*E-D45"):
        pair_modalities(parts)


def test_no_cells_at_all_are_fine():
    paired = pair_modalities(both(rna=[], prot=[]))

    assert paired.n_obs == 0
    assert paired.sources["prot"].read(slice(0, 0)).shape == (0, 3)


def test_names_that_stand_twice_are_refused_in_every_modality_at_once():
    parts = both(rna=[0, 1, 1], prot=[0, 0, 1])

    with pytest.raises(InputDataError, match=r"(?s)2 problems.*mdata\['rna'\]: 1 of 3, first: c1"):
        pair_modalities(parts)
    with pytest.raises(InputDataError, match=r"(?s)paired by name.*E-L15"):
        pair_modalities(parts)
    assert pair_modalities(parts, ["rna"]).n_obs == 3  # nothing is paired


def test_features_are_named_with_their_modality():
    paired = pair_modalities(both())

    assert paired.feature_names[0] == "rna:CD4"
    assert paired.feature_names[6:] == ("prot:CD4", "prot:CD19", "prot:CD14")
    assert len(set(paired.feature_names)) == len(GENES) + len(PROTEINS)


@given(
    rna=st.lists(st.integers(0, 20), min_size=1, unique=True),
    prot=st.lists(st.integers(0, 20), min_size=1, unique=True),
    atac=st.lists(st.integers(0, 20), min_size=1, unique=True),
)
def test_pairing_is_that_of_sets_in_the_order_of_the_first(rna, prot, atac):
    parts = {**both(rna, prot), "atac": part(named(atac), ["chr1:1-2"])}
    wanted = [i for i in rna if i in prot and i in atac]

    if not wanted:
        with pytest.raises(InputDataError, match="E-D45"):
            pair_modalities(parts)
        return
    paired = pair_modalities(parts)

    assert list(paired.obs_names) == named(wanted)
    assert all(list(s.obs_column("number")) == wanted for s in paired.sources.values())
    assert all(list(s.obs_names) == named(wanted) for s in paired.sources.values())


# -- what MuData keeps of its modalities ---------------------------------------------------------


def test_positions_of_mudata_are_not_believed():
    mdata = mudata.MuData(both())
    mdata.mod["rna"] = part(named([7, 3, 5]), GENES)  # and no update()
    mdata.obsmap["prot"] = np.ones(10, dtype=int)
    before = {m: fingerprint(p) for m, p in mdata.mod.items()}
    places = {m: np.array(mdata.obsmap[m]) for m in mdata.mod}

    paired = pair_modalities(mdata)

    assert list(paired.obs_names) == named([7, 3, 5])
    np.testing.assert_array_equal(
        read(paired)["prot"], part(named([7, 3, 5]), PROTEINS, seed=1).X.toarray()
    )
    assert "mdata.obs is older than the modalities" in paired.notes[0]
    assert {m: fingerprint(p) for m, p in mdata.mod.items()} == before
    assert mdata.n_obs == 10
    assert all((np.array(mdata.obsmap[m]) == places[m]).all() for m in mdata.mod)


def test_cells_that_mudata_has_never_seen_are_counted():
    mdata = mudata.MuData(both())
    mdata.mod["rna"] = part(named(range(5, 15)), GENES)
    mdata.mod["prot"] = part(named(range(5, 15)), PROTEINS)

    (note, _) = pair_modalities(mdata).notes

    assert "5 of its cells are in no modality, 5 cells are not in it" in note
    assert "mdata.update() mends it" in note


@pytest.mark.parametrize("rna", [range(10), range(4), [3, 1, 2]])
def test_tables_that_are_up_to_date_are_not_mentioned(rna):
    mdata = mudata.MuData(both(rna=rna, prot=range(9, -1, -1)))

    for data in (mdata, mdata[mdata.obs_names[1:3]], mdata[mdata.obs_names[1:3]].copy()):
        assert not any("older" in note for note in pair_modalities(data).notes)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "fix"),
    [
        ("RNA", r"modalities=\['rna'\]"),
        ("protein", r"modalities=\['adt'\]"),
        ("pro", "pass modalities= with names that are there"),
        ("atak", r"modalities=\['atac'\]"),
    ],
)
def test_a_missing_modality_is_refused_with_a_near_one(asked, fix):
    parts = {
        "rna": part(named(range(3)), GENES),
        "adt": part(named(range(3)), PROTEINS),
        "atac": part(named(range(3)), ["chr1:1-2"]),
    }

    with pytest.raises(
        UsageError, match=rf"'{asked}' is missing in mdata.mod.*rna, adt, atac.*fix: {fix}.*E-U60"
    ):
        pair_modalities(mudata.MuData(parts), [asked])


def test_every_missing_modality_is_named():
    with pytest.raises(UsageError, match=r"(?s)2 problems.*'x'.*'y'"):
        pair_modalities(both(), ["x", "rna", "y"])
    with pytest.raises(UsageError, match="no modality is named.*E-U60"):
        pair_modalities(both(), [])


def test_one_object_gets_the_line_that_makes_several_of_it():
    adata = part(named(range(4)), [*GENES, *PROTEINS[1:], "chr1:1-2"])
    adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Antibody Capture"] * 2 + ["Peaks"]

    with pytest.raises(UsageError, match=r"read from a AnnData.*mudata\.MuData.*E-U07") as caught:
        pair_modalities(adata)
    made = eval(caught.value.fix, {"mudata": mudata, "adata": adata})

    assert list(made.mod) == ["rna", "prot", "atac"]
    assert list(made.mod["prot"].var_names) == PROTEINS[1:]
    assert pair_modalities(made).n_obs == 4


@pytest.mark.parametrize("form", ["array", "frame", "sparse"])
def test_proteins_in_obsm_get_the_line_that_takes_them_out(form):
    adata = part(named(range(4)), GENES)
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    adata.obsm["X_pca"] = table
    adata.obsm["protein_counts"] = {
        "array": table,
        "frame": pd.DataFrame(table, index=adata.obs_names, columns=PROTEINS[:2]),
        "sparse": sparse.csr_matrix(table),
    }[form]

    with pytest.raises(UsageError, match="protein_counts") as caught:
        pair_modalities(adata)
    made = eval(caught.value.fix, {"mudata": mudata, "anndata": anndata, "adata": adata})

    paired = pair_modalities(made)
    np.testing.assert_array_equal(read(paired)["prot"], table)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("cells.h5mu", r"read from a str.*read_any\(path\)"),
        (np.eye(3), "read from a ndarray"),
        (pd.DataFrame({"a": [1]}), "read from a DataFrame"),
        ({"rna": np.eye(3)}, "no objects of cells in mdata: 1 of 1, first: rna is a ndarray"),
        ({}, "there are no modalities"),
        (part(["c1"], GENES), r"MuData\(\{.rna.: adata, .prot.: proteins\}\)"),
    ],
)
def test_what_holds_no_modalities_is_refused(data, match):
    with pytest.raises(UsageError, match=rf"{match}.*E-U07"):
        pair_modalities(data)


def test_a_modality_without_a_matrix_is_refused():
    parts = {**both(), "airr": anndata.AnnData(obs=pd.DataFrame(index=named(range(10))))}

    with pytest.raises(InputDataError, match=r"X is None in mdata\['airr'\].*E-D27"):
        pair_modalities(parts)
    assert pair_modalities(parts, ["rna", "prot"]).n_obs == 10


# -- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "features", "kind"),
    [
        ("rna", GENES, "rna"),
        ("GEX", ["gene_1"], "rna"),
        ("prot", PROTEINS, "protein"),
        ("ADT_dsb", PROTEINS, "protein"),
        ("x", ["CD3_TotalSeqB", "CD4_TotalSeqB"], "protein"),
        ("ATAC", ["a", "b"], "atac"),
        ("x", ["chr1:100-200", "chrX_5_10", "GL000194.1-3-9"], "atac"),
        ("rna", ["chr1:100-200", "chr1:300-400"], "atac"),
        ("hto", ["HTO1", "HTO2"], "other"),
        ("airr", [], "other"),
        ("x", ["ENSG00000139618"], "rna"),
        ("x", ["a", "b"], "other"),
        ("program", ["a", "b"], "other"),
    ],
)
def test_the_kind_of_a_modality_is_read_off_its_names(name, features, kind):
    assert modality_kind(name, pd.DataFrame(index=features)) == kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Gene Expression", "rna"),
        ("Antibody Capture", "protein"),
        ("Peaks", "atac"),
        ("CRISPR Guide Capture", "other"),
        ("unheard of", "rna"),
    ],
)
def test_what_the_table_says_of_features_counts_first(said, kind):
    assert modality_kind("rna", pd.DataFrame({"feature_types": [said] * 2}, ["a", "b"])) == kind


# -- proteins ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_name", "wanted"),
    [
        ("CD3_TotalSeqB", "CD3"),
        ("CD3-TotalSeqC", "CD3"),
        ("CD3.TotalSeqA", "CD3"),
        ("CD3_TSB", "CD3"),
        ("CD3_TotalA", "CD3"),
        ("CD3 TotalSeq-D", "CD3"),
        ("  CD3_totalseqb ", "CD3"),
        ("PD-1_TotalSeqB", "PD-1"),
        ("CD3", "CD3"),
        ("CTSB", "CTSB"),
        ("_TotalSeqB", "_TotalSeqB"),
        ("TotalSeqB_CD3", "TotalSeqB_CD3"),
    ],
)
def test_the_suffix_of_a_kit_is_taken_off(given_name, wanted):
    assert protein_names([given_name]).names == (wanted,)


def test_a_suffix_is_kept_where_two_names_would_become_one():
    found = protein_names(["CD3_TotalSeqA", "CD3_TotalSeqB", "CD4_TotalSeqB", "CD8", " CD8"])

    assert found.names == ("CD3_TotalSeqA", "CD3_TotalSeqB", "CD4", "CD8", " CD8")
    assert found.notes == (
        "1 names lose the suffix of a kit",
        "2 keep their suffix: without it two would be one",
    )


@given(
    st.lists(
        st.builds(
            "".join,
            st.lists(
                st.sampled_from(["CD3", "_TotalSeqB", "-TotalSeqA", "_TSB", " "]), max_size=4
            ),
        ),
        unique=True,
    )
)
def test_names_that_differ_stay_different(names):
    found = protein_names(names)

    assert len(found.names) == len(names)
    assert len(set(found.names)) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "IgG1",
        "IgG2a_control",
        "IgG2b_control_TotalSeqB",
        "Mouse-IgG1",
        "mouse_IgG2a",
        "mIgG1",
        "isotype_ctrl",
        "Isotype_MOPC.21",
        "rat IgG2b",
        "Rat IgG",
        "Armenian Hamster IgG",
        "Mouse IgG1, κ isotype Ctrl",
        "Rat IgM kappa",
        "IgG1k",
        "negative_control",
        "neg ctrl 2",
        "Control",
    ],
)
def test_controls_are_recognised(name):
    found = protein_names(["CD3", name])

    assert found.controls == (found.names[1],)
    assert "1 isotype or negative controls" in found.notes[-1]


@pytest.mark.parametrize(
    "name",
    ["CD4", "IgD", "IgM", "IgG", "IgG-AB", "IgG Fc", "IgA", "Ig light chain kappa", "HLA-DR"]
    + ["CD45RA", "TIGIT", "B7-H4", "integrin b7", "CTRL1B", "Fc epsilon", "PD-1", "CMKLR1"],
)
def test_targets_are_no_controls_and_no_tags(name):
    found = protein_names([name])

    assert (found.controls, found.hashtags) == ((), ())


@pytest.mark.parametrize(
    "name",
    ["HTO1", "HTO_A", "Hashtag 1", "anti-human Hashtag1", "hash-tag-3", "SampleTag01_hs", "CMO301"]
    + ["B0251_Hashtag1_TotalSeqC", "hashtag control"],
)
def test_hashing_tags_are_listed_on_their_own(name):
    found = protein_names(["CD3", name])

    assert found.hashtags == (found.names[1],)
    assert found.controls == ()
