"""Bad objects of several modalities, row by row of the catalogue of bad inputs.

Every row is one test whose id is the row's, from the side of the user: a refusal names its code
and leaves the caller's object as it was, a repair gives the result of the clean input and says
so. What other tests show in depth is shown here once.
"""

from __future__ import annotations

import json

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from _bad_cells import logged_lines, model, query, set_up
from _catalogue import Catalogue
from scipy import sparse

from episome import get_model
from episome.data import as_mudata, inspect, match_features, pair_modalities, protein_names
from episome.errors import (
    EpisomeError,
    EpisomeWarning,
    GeneMatchError,
    InputDataError,
    UsageError,
)
from episome.jobs import CheckRequest, check
from episome.testing import fingerprint

CATALOGUE = Catalogue("test_bad_modalities")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: none.
LATER: dict[str, str] = {}

PANEL = ["CD3D", "CD19", "CD14", "IgG1"]


# -- cells ---------------------------------------------------------------------------------------


def proteins(names):
    """Counts of a panel, which depend on the name of the cell and not on its place."""
    table = np.random.default_rng(7).poisson(5.0, (200, len(PANEL))).astype(np.float32)
    rows = [int(n.removeprefix("cell")) for n in names]
    return anndata.AnnData(
        sparse.csr_matrix(table[rows]),
        obs=pd.DataFrame(index=list(names)),
        var=pd.DataFrame(index=PANEL),
    )


def parts(n: int = 60):
    """Both modalities of the cells of a query, in one order."""
    rna = query(n)
    return {"rna": rna, "prot": proteins(rna.obs_names)}


# -- what is claimed -----------------------------------------------------------------------------


def state(mdata) -> tuple[object, ...]:
    """Everything that a call may not change, in the modalities and in MuData's own tables."""
    held = getattr(mdata, "mod", mdata)
    inside = {m: (fingerprint(p), list(p.obs_names), list(p.var_names)) for m, p in held.items()}
    if not hasattr(mdata, "mod"):
        return (inside,)
    places = {m: np.asarray(mdata.obsmap[m]).tolist() for m in mdata.obsmap}
    return (inside, mdata.obs.to_csv(), mdata.var.to_csv(), list(mdata.obsm), places)


def values(paired) -> dict[str, np.ndarray]:
    return {m: s.read(slice(0, s.n_obs)).toarray() for m, s in paired.sources.items()}


def same(mdata, clean, **how):
    """Pairing gives exactly the cells of the clean input, for a model too; the line says why."""
    before = state(mdata)
    found = []
    lines = logged_lines(lambda: found.append(pair_modalities(mdata, **how)))
    (got,), wanted = found, pair_modalities(clean, **how)
    assert list(got.obs_names) == list(wanted.obs_names)
    for m, table in values(got).items():
        np.testing.assert_array_equal(table, values(wanted)[m])
    np.testing.assert_array_equal(
        model().predict_proba(got.sources["rna"]), model().predict_proba(wanted.sources["rna"])
    )
    assert state(mdata) == before
    assert set(got.notes) <= set(lines)
    return got


def noted(mdata, text: str) -> None:
    """The line is in the report of the pairing and in that of the inspection."""
    before = state(mdata)
    assert any(text in note for note in pair_modalities(mdata).notes), text
    assert text in inspect(mdata).text
    assert state(mdata) == before


def refused(call, mdata, *, code: str, error: type[EpisomeError], match: str) -> str:
    """The call raises in the one form of messages, and the object is as before."""
    before = state(mdata)
    with pytest.raises(error, match=rf"(?s){match}.*\[{code}\]") as caught:
        call()
    assert state(mdata) == before
    assert all(len(str(p).splitlines()) <= 6 for p in caught.value.problems)
    return str(caught.value)


# -- rows ----------------------------------------------------------------------------------------


@row(
    "U01",
    "AnnData where MuData is needed, or the reverse",
    "refused; the message holds the line that makes one of the other",
)
def one_for_several(folder):
    adata = query()
    adata.obsm["protein_counts"] = np.ones((60, 2), dtype=np.float32)
    before = fingerprint(adata)
    with pytest.raises(UsageError, match=r"mudata\.MuData\(.*\[E-U07\]") as caught:
        pair_modalities(adata)
    assert fingerprint(adata) == before
    made = eval(caught.value.fix, {"mudata": mudata, "anndata": anndata, "adata": adata})
    assert list(pair_modalities(made).sources) == ["rna", "prot"]
    mdata = mudata.MuData(parts())
    line = r"prot.*mdata\.mod\['rna'\]"
    for call in (lambda: model().predict(mdata), lambda: set_up(mdata)):
        refused(call, mdata, code="E-U07", error=UsageError, match=line)


@row("U02", "a modality is missing or has another name", "refused; the message lists those there")
def missing_modality(folder):
    mdata = mudata.MuData({"rna": query(), "adt": proteins(query().obs_names)})
    refused(
        lambda: pair_modalities(mdata, ["rna", "prot"]),
        mdata,
        code="E-U60",
        error=UsageError,
        match=r"'prot' is missing in mdata\.mod.*rna, adt.*modalities=\['rna', 'adt'\]",
    )
    assert pair_modalities(mdata, ["rna", "adt"]).n_obs == 60


@row(
    "U03",
    "modalities of other cells",
    "the cells of all are paired, and the others counted; refused where there are none",
)
def other_cells(folder):
    held = parts()
    some = {"rna": held["rna"][:50].copy(), "prot": held["prot"][20:].copy()}
    clean = {m: p[20:50].copy() for m, p in held.items()}
    mdata = mudata.MuData(some)
    same(mdata, clean)
    noted(mdata, "30 cells are in all modalities (rna 50, prot 40); the others are left out")
    held["prot"].obs_names = [f"AAAC{i}-1" for i in range(60)]
    refused(
        lambda: pair_modalities(held),
        held,
        code="E-D45",
        error=InputDataError,
        match=r"no cell is in all modalities.*0 of 60.*cell120, cell121, cell122.*AAAC0-1, AAAC1",
    )
    assert "E-D45" in {f.problem.code for f in inspect(held).findings}


@row("U05", "isotype controls among the proteins, names with the suffix of a kit",
     "the suffix is taken off, and the controls are listed")  # fmt: skip
def suffixes(folder):
    given = ["CD3_TotalSeqB", " CD19_TotalSeqB", "IgG1_control_TotalSeqB", "Mouse-IgG2a", "IgD"]
    found = protein_names(given)
    assert found.names == ("CD3", "CD19", "IgG1_control", "Mouse-IgG2a", "IgD")
    assert found.controls == ("IgG1_control", "Mouse-IgG2a")
    held = parts()
    held["prot"].var_names = [f"{n}_TotalSeqB" for n in PANEL]
    mudata.MuData(held).write(folder / "cite.h5mu")
    report = check(CheckRequest(folder / "cite.h5mu")).inspection
    assert report.modalities["prot"].proteins.names == tuple(PANEL)
    assert "4 names lose the suffix of a kit; 1 isotype or negative controls: IgG1" in report.text
    assert json.loads(json.dumps(report.to_json(), default=str))["ok"] is True


@row(
    "U04",
    "proteins that are CLR values, negative; or sparse",
    "learned as they are, sparse and dense alike; negative values among counts are refused",
)
def scaled_proteins(folder):
    held = parts()
    counts = held["prot"].X.toarray()
    clr = np.log1p(counts) - np.log1p(counts).mean(axis=1, keepdims=True)
    ridge, found = get_model("ridge"), []
    for values in (clr, sparse.csr_matrix(clr)):
        mdata = as_mudata({"rna": query(60), "prot": proteins(held["prot"].obs_names)})
        mdata.mod["prot"].X = values.astype(np.float32)
        ridge.setup_mudata(mdata)
        model = ridge(mdata)
        model.train()
        found.append(model.predict_modality(query(60)))
    assert found[0].uns["scale"] == "none"
    np.testing.assert_array_equal(found[0].X, found[1].X)
    assert (found[0].X < 0).any()
    counts[3, 1] = -4
    mdata = as_mudata({"rna": query(60), "prot": proteins(held["prot"].obs_names)})
    mdata.mod["prot"].X = counts
    with pytest.raises(InputDataError, match=r"1 of .*\[E-D04\]"):
        ridge.setup_mudata(mdata)


@row(
    "U06",
    "peaks of another build of the genome, or of another study",
    "mapped by overlap; refused where too few overlap, with a guess of both builds",
)
def other_peaks(folder):
    human = [f"chr1:{i * 1000}-{i * 1000 + 400}" for i in range(1, 41)] + ["chr22:7-9"]
    moved = [f"1_{i * 1000 + 100}_{i * 1000 + 500}" for i in range(1, 41)]
    found = match_features("atac", human, moved)
    assert found.missing == ("chr22:7-9",)
    assert "40 of the model's 41 peaks" in found.report
    mouse = ["chr19:61400000-61400400", "chr16:98100000-98100400"]
    with pytest.raises(GeneMatchError, match=r"hg19 or hg38, and these of mm10.*\[E-G31\]"):
        match_features("atac", human, mouse)
    with pytest.raises(InputDataError, match=r"1 of 1, first: CD3.*\[E-G32\]"):
        match_features("atac", human, ["CD3"])


@row("U07", "features of one name in two modalities", "told apart by the name of the modality")
def shared_names(folder):
    mdata = mudata.MuData(parts())
    both = {"rna:CD3D", "prot:CD3D"}
    assert both <= set(pair_modalities(mdata).feature_names)
    noted(mdata, "2 names of features are in several modalities; they are told apart as rna:CD3D")
    renamed = parts()
    renamed["prot"].var_names = ["x", *PANEL[1:]]
    same(mdata, renamed)


@row(
    "U09",
    "another panel of proteins than in training",
    "matched by name; missing ones are NaN and counted, with a warning; refused where all are",
)
def other_panel(folder):
    part = parts()["prot"]
    asked = ["CD3D", "CD56", "cd14_TotalSeqB"]
    with pytest.warns(EpisomeWarning, match=r"1 of 3, first: CD56.*\[E-G33\]"):
        match = match_features("protein", asked, list(part.var_names))
    table = match.apply(part.X).toarray()
    np.testing.assert_array_equal(table[:, [0, 2]], part.X.toarray()[:, [0, 2]])
    assert np.isnan(table[:, 1]).all()
    with pytest.raises(GeneMatchError, match=r"0 of 1.*\[E-G31\]"):
        match_features("protein", ["CD56"], list(part.var_names))


@row("U08", "`obs` and `obsmap` of MuData are older than its modalities", "not read, and said")
def stale(folder):
    held = parts()
    mdata = mudata.MuData({m: p.copy() for m, p in held.items()})
    order = np.random.default_rng(0).permutation(60)[:40]
    mdata.mod["rna"] = held["rna"][order].copy()  # and no mdata.update()
    same(mdata, {m: p[order].copy() for m, p in held.items()})
    noted(mdata, "mdata.obs is older than the modalities")
    assert mdata.n_obs == 60  # the caller's object is not brought up to date
    mdata.mod["rna"], mdata.mod["prot"] = (p[:10].copy() for p in held.values())
    noted(mdata, "50 of its cells are in no modality, 0 cells are not in it")


@row(
    "U10",
    "modalities whose cells are in another order",
    "paired by name: the same as in one order; refused where a name stands twice",
)
def other_order(folder):
    held = parts()
    order = np.random.default_rng(1).permutation(60)
    mdata = mudata.MuData({"rna": held["rna"], "prot": held["prot"][order].copy()})
    same(mdata, held)
    noted(
        mdata, "the cells of prot are in another order than those of rna; they are paired by name"
    )
    turned = pair_modalities(mdata, ["prot", "rna"])
    calls = model().predict_proba(turned.sources["rna"])
    wanted = model().predict_proba(held["rna"])
    pd.testing.assert_frame_equal(calls, wanted.loc[turned.obs_names])
    held["prot"].obs_names = ["cell120", *held["prot"].obs_names[:-1]]
    refused(
        lambda: pair_modalities(held),
        held,
        code="E-L15",
        error=InputDataError,
        match=r"in mdata\['prot'\]: 1 of 60, first: cell120.*paired by name",
    )


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_bad_modalities(name, tmp_path, toy):
    CATALOGUE[name].shows(tmp_path)


def test_one_cell_s_genes_never_meet_another_s_proteins(toy):
    """The values themselves name the cell: a wrong pair would show in any row."""
    held = parts()
    for part in held.values():
        part.X = np.tile(np.arange(60, dtype=np.float32)[:, None], (1, part.n_vars))
    held["prot"] = held["prot"][::-1].copy()

    got = values(pair_modalities(mudata.MuData(held)))

    np.testing.assert_array_equal(got["rna"][:, 0], got["prot"][:, 0])
